//! Dynamic updates (RFC 2136) to the primary nameserver, signed.

use super::{
    provider::{Action, ProviderError, SetupError, read, unusable},
    tsig::Key,
};
use crate::dns::exchange::send_over_tcp;
use base64::{Engine, engine::general_purpose::STANDARD};
use hickory_resolver::proto::{
    op::{Message, ResponseCode, update_message},
    rr::{Name, RData, Record, RecordSet, rdata::TXT},
};
use jiff::Timestamp;
use shared::{config::Dns, domain::Txt};
use std::net::SocketAddr;

#[derive(Debug)]
pub(super) struct Rfc2136 {
    server: SocketAddr,
    key: Key,
}

impl Rfc2136 {
    pub(super) fn of(name: &str, config: &Dns) -> Result<Self, SetupError> {
        let server = config.server.ok_or_else(|| unusable(name, "server is missing"))?;
        let key_name = config.tsig_name.as_deref().unwrap_or_default();
        let key_name = Name::from_ascii(format!("{}.", key_name.trim_end_matches('.')))
            .map_err(|e| unusable(name, format!("tsig_name: {e}")))?;
        let text = read(name, config.tsig_secret_file.as_deref())?;
        let secret = STANDARD.decode(text.trim()).map(zeroize::Zeroizing::new);
        let secret = secret.map_err(|_| unusable(name, "tsig_secret_file: expected base64"))?;
        let key = Key::new(&key_name, config.tsig_algorithm.unwrap_or_default(), &secret)
            .map_err(|e| unusable(name, e.to_string()))?;
        Ok(Self { server, key })
    }

    pub(super) async fn act(
        &self,
        action: Action,
        txt: &Txt,
        zone: &Name,
        ttl_seconds: u32,
    ) -> Result<(), ProviderError> {
        let refused = |what: String| ProviderError::Refused(what);
        let name = Name::from_ascii(format!("{}.", txt.record)).map_err(|e| refused(e.to_string()))?;
        let data = RData::TXT(TXT::new(vec![txt.value.clone()]));
        let record = RecordSet::from(Record::from_rdata(name, ttl_seconds, data));
        let message = match action {
            Action::Add => update_message::append(record, zone.clone(), false, false),
            Action::Remove => update_message::delete_by_rdata(record, zone.clone(), false),
        };
        let bytes = message.to_vec().map_err(|e| refused(e.to_string()))?;
        let now = || u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let (signed, mac) = self.key.sign(&bytes, now()).map_err(|e| refused(e.to_string()))?;
        let answer = send_over_tcp(self.server, &signed)
            .await
            .map_err(|error| ProviderError::Unreachable(error.to_string()))?;
        let code = Message::from_vec(&answer).map(|message| message.metadata.response_code);
        let zone = zone.to_ascii();
        match code {
            Err(_) => Err(refused(format!("{} answers with what is no DNS message", self.server))),
            // Refused before it looked at the signature, or because of it.
            Ok(code @ (ResponseCode::NotAuth | ResponseCode::Refused)) => Err(refused(format!(
                "{} does not let this key change {zone} ({code}): look at the key's name, secret and algorithm, at allow-update or \
                 update-policy (BIND) or acl (Knot), and at both clocks",
                self.server
            ))),
            Ok(code @ ResponseCode::NotZone) => {
                Err(refused(format!("{} has no authority for {zone} ({code})", self.server)))
            }
            Ok(code) => {
                self.key
                    .verify(&answer, &mac, now())
                    .map_err(|e| refused(format!("{}: {e}", self.server)))?;
                if code == ResponseCode::NoError {
                    Ok(())
                } else {
                    Err(refused(format!("{} refuses to change {zone}: {code}", self.server)))
                }
            }
        }
    }
}
