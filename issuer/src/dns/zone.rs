//! The zone that a name lies in, and what each of its nameservers says by itself.

use super::{
    exchange::{Answer, AskError, Question, ask},
    resolve::{ResolveFailure, Resolver, absolute, as_text},
};
use futures_util::future::join_all;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use std::net::{IpAddr, SocketAddr};

/// Where nameservers are asked.
const DNS_PORT: u16 = 53;

/// A zone and who has authority for it.
#[derive(Clone, Debug)]
pub struct Zone {
    /// As it stands in an update message.
    pub apex: Name,
    pub servers: Vec<NameServer>,
}

/// One server of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    pub name: String,
    /// Empty where it has none.
    pub addresses: Vec<IpAddr>,
}

impl Zone {
    /// The zone of a name, by the delegation that the resolvers see.
    ///
    /// # Errors
    /// [`ResolveFailure`]: the DNS did not tell.
    pub async fn of(resolver: &Resolver, host: &str) -> Result<Self, ResolveFailure> {
        let apex = apex_of(resolver, host).await?;
        let text = as_text(&apex);
        let records = resolver.records(if text.is_empty() { "." } else { &text }, RecordType::NS).await?;
        let names = records.iter().filter_map(|record| match &record.data {
            RData::NS(ns) => Some(as_text(&ns.0)),
            _ => None,
        });
        let servers = join_all(names.map(|name| async {
            let addresses = resolver.addresses(&name, true).await.unwrap_or_default();
            NameServer { addresses: [addresses.v4, addresses.v6].concat(), name }
        }));
        let mut servers = servers.await;
        servers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { apex, servers })
    }

    /// Lower case, without the dot of the root.
    pub fn name(&self) -> String {
        as_text(&self.apex)
    }

    /// What every server says, each asked at all of its addresses at once until one answers.
    ///
    /// # Errors
    /// The name can't be asked for.
    pub async fn ask_each(
        &self,
        host: &str,
        kind: RecordType,
    ) -> Result<Vec<(&NameServer, Result<Answer, AskError>)>, ResolveFailure> {
        let question = Question::to_authority(absolute(host)?, kind);
        let asked = self.servers.iter().map(|server| {
            let question = &question;
            async move {
                let mut answer = Err(AskError::NoAddress);
                for address in &server.addresses {
                    answer = ask(SocketAddr::new(*address, DNS_PORT), question).await;
                    if answer.is_ok() {
                        break;
                    }
                }
                (server, answer)
            }
        });
        Ok(join_all(asked).await)
    }
}

/// The nearest name above `host`, or itself, that has a record of authority. A server that refuses to tell of it may still name
/// the nameservers there, which only a zone has; one that tells of anything else there does not end the climb.
async fn apex_of(resolver: &Resolver, host: &str) -> Result<Name, ResolveFailure> {
    let mut at = host.to_owned();
    loop {
        let name = absolute(&at)?;
        match resolver.zone_of(&at).await {
            Ok(Some(apex)) if apex.zone_of(&name) => return Ok(apex),
            Ok(_) => {}
            Err(failure) => match resolver.records(&at, RecordType::NS).await {
                Ok(found) if found.iter().any(|one| one.name == name && matches!(one.data, RData::NS(_))) => {
                    return Ok(name);
                }
                Ok(_) => {}
                Err(_) if resolver.records(&at, RecordType::A).await.is_ok() => {}
                Err(_) => return Err(failure),
            },
        }
        at = match at.split_once('.') {
            Some((_, above)) => above.to_owned(),
            None => return Err(ResolveFailure::NoSuchName(host.to_owned())),
        };
    }
}
