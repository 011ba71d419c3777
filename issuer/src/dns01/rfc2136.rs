//! Dynamic updates (RFC 2136) to the primary nameserver, signed.

use super::{
    provider::{Action, PATIENCE, ProviderError, SetupError, read, unusable},
    tsig::Key,
};
use crate::dns::exchange::{Question, ask, send_over_tcp};
use base64::{Engine, engine::general_purpose::STANDARD};
use hickory_resolver::proto::{
    op::{Message, ResponseCode, update_message},
    rr::{Name, RData, Record, RecordSet, RecordType, rdata::TXT},
};
use jiff::Timestamp;
use shared::{config::Dns, domain::Txt};
use std::net::SocketAddr;

#[derive(Debug)]
pub(super) struct Rfc2136 {
    server: SocketAddr,
    key: Key,
}

/// `tsig-keygen` prints a whole clause.
const SECRET_EXPECTED: &str = "tsig_secret_file: expected nothing but the secret in base64: of what `tsig-keygen` prints, the text between the quotes after \
                               `secret`";

impl Rfc2136 {
    pub(super) fn of(name: &str, config: &Dns) -> Result<Self, SetupError> {
        let server = config.server.ok_or_else(|| unusable(name, "server is missing"))?;
        let key_name = config.tsig_name.as_deref().unwrap_or_default();
        let key_name = Name::from_ascii(format!("{}.", key_name.trim_end_matches('.')))
            .map_err(|e| unusable(name, format!("tsig_name: {e}")))?;
        let text = read(name, config.tsig_secret_file.as_deref())?;
        let secret = STANDARD.decode(text.trim()).map(zeroize::Zeroizing::new);
        let secret = secret.map_err(|_| unusable(name, SECRET_EXPECTED))?;
        let key = Key::new(&key_name, config.tsig_algorithm.unwrap_or_default(), &secret)
            .map_err(|e| unusable(name, e.to_string()))?;
        Ok(Self { server, key })
    }

    /// Whether the server speaks for a zone. One that says nothing of it, nor of any zone of the section, may be closed to questions.
    pub(super) async fn serves(&self, zone: &Name, own_zones: &[String]) -> bool {
        if self.speaks_for(zone.clone()).await != Some(false) {
            return true;
        }
        for own in own_zones {
            let Ok(own) = Name::from_ascii(format!("{}.", own.trim_matches('.'))) else { continue };
            if own != *zone && self.speaks_for(own).await == Some(true) {
                return false;
            }
        }
        true
    }

    /// `None` where it does not answer.
    async fn speaks_for(&self, zone: Name) -> Option<bool> {
        let question = Question::to_authority(zone.clone(), RecordType::SOA);
        let answer = ask(self.server, &question).await.ok()?;
        Some(answer.authoritative && answer.records.iter().any(|record| record.name == zone))
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
        let answer = send_over_tcp(self.server, &signed, PATIENCE)
            .await
            .map_err(|error| ProviderError::Unreachable(error.to_string()))?;
        let is_signed = |answer: &[u8]| self.key.verify(answer, &mac, now()).is_ok();
        let code = Message::from_vec(&answer).map(|message| message.metadata.response_code);
        let zone = zone.to_ascii();
        match code {
            Err(_) => Err(refused(format!("{} answers with what is no DNS message", self.server))),
            // A signed answer is from who knows the key, at a clock like ours: it is the zone that it does not serve, or the rights
            // in it. What is not signed was refused before the signature was looked at, or because of it (RFC 8945 section 5.2).
            Ok(code @ (ResponseCode::NotAuth | ResponseCode::NotZone)) if is_signed(&answer) => {
                Err(refused(format!(
                    "{} is not the primary of {zone} ({code}), which {} lies in as the resolvers see it: have _acme-challenge \
                     delegated into a zone of yours, or let that server serve {zone}",
                    self.server, txt.record
                )))
            }
            Ok(code @ ResponseCode::Refused) if is_signed(&answer) => Err(refused(format!(
                "{} knows the key and does not let it change {} in {zone} ({code}): look at allow-update or update-policy (BIND) or acl \
                 (Knot)",
                self.server, txt.record
            ))),
            Ok(code @ (ResponseCode::NotAuth | ResponseCode::Refused)) => Err(refused(format!(
                "{} does not let this key change {zone} ({code}): look at the key's name, secret and algorithm, at allow-update or \
                 update-policy (BIND) or acl (Knot), at both clocks, and whether that server is the primary of {zone}",
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
