//! Whether a record stands where a CA may ask for it: what each nameserver of its zone says.

use super::prover::{Dns01Error, Prover};
use crate::dns::{Answer, Zone};
use hickory_resolver::proto::{op::ResponseCode, rr::RecordType};
use shared::domain::Txt;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// Between two questions to the nameservers: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// So often a nameserver is asked in vain before the others alone are waited for.
const TRIES: u32 = 2;

/// What the nameservers of a record's zone say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// How many have it.
    having: usize,
    /// Those that speak for the zone and don't have it: a CA that asks one of them fails.
    pub lacking: Vec<String>,
    /// Those that don't answer, or not for this zone: resolvers pass over them, and so does the CA's.
    pub silent: Vec<String>,
}

impl Prover {
    /// Asks every nameserver of the record's zone but those of `passed_over`.
    pub(super) async fn propagation(
        &self,
        record: &str,
        kind: RecordType,
        is_right: &impl Fn(&Answer) -> bool,
        passed_over: &[String],
    ) -> Result<Propagation, Dns01Error> {
        let lost = |source| Dns01Error::Lost { record: record.to_owned(), source };
        let mut zone = Zone::of(&self.resolver, record).await.map_err(lost)?;
        if zone.servers.is_empty() {
            let lacking = vec![format!("the zone {}, which has no nameserver,", zone.name())];
            return Ok(Propagation { lacking, ..Propagation::default() });
        }
        zone.servers.retain(|server| !passed_over.contains(&server.name));
        let mut seen = Propagation { silent: passed_over.to_vec(), ..Propagation::default() };
        let mut out_of_reach = Vec::new();
        for (server, answer) in zone.ask_each(record, kind).await.map_err(lost)? {
            match answer {
                Ok(answer) if is_right(&answer) => seen.having += 1,
                Ok(answer) if answer.is_of_authority() => seen.lacking.push(server.name.clone()),
                // A node without IPv6 can't ask a server that has nothing else: that says nothing about it.
                Err(error) if error.is_out_of_reach() => out_of_reach.push(server.name.clone()),
                Ok(_) | Err(_) => seen.silent.push(server.name.clone()),
            }
        }
        if seen.having == 0 {
            seen.silent.append(&mut out_of_reach);
        }
        Ok(seen)
    }

    /// Whether a CA finds the record: all that answer have it, and where some don't answer, the resolvers see no others in its
    /// place. One that sees none may have heard so before the record was made.
    pub(super) async fn is_enough(
        &self,
        seen: &Propagation,
        record: &str,
        kind: RecordType,
        is_right: &impl Fn(&Answer) -> bool,
        all: bool,
    ) -> bool {
        if seen.having == 0 || !seen.lacking.is_empty() {
            return false;
        }
        if seen.silent.is_empty() {
            return true;
        }
        let view = self.resolver.records(record, kind).await.map(|records| Answer {
            code: ResponseCode::NoError,
            authoritative: false,
            records,
            zone: None,
            refers: false,
        });
        !all && view.map_or(true, |view| view.texts().is_empty() || is_right(&view))
    }

    /// Waits until the record is where a CA may ask for it. Answers which nameservers did not answer.
    pub(super) async fn await_record(
        &self,
        txt: &Txt,
        is_right: &impl Fn(&Answer) -> bool,
    ) -> Result<Vec<String>, Dns01Error> {
        let began = Instant::now();
        let (deadline, all) = self.patience_with(&txt.provider);
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        let mut passed_over = Vec::new();
        loop {
            let seen = self.propagation(&txt.record, RecordType::TXT, is_right, &passed_over).await?;
            if self.is_enough(&seen, &txt.record, RecordType::TXT, is_right, all).await {
                return Ok(seen.silent);
            }
            let waited = began.elapsed();
            if waited + pause > deadline {
                return Err(Dns01Error::NotEverywhere { record: txt.record.clone(), seen, waited });
            }
            tries += 1;
            if tries >= TRIES && !all && seen.having + seen.lacking.len() > 0 {
                passed_over = seen.silent;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.lacking.is_empty() {
            parts.push(format!("{} has not got it yet", self.lacking.join(", ")));
        }
        if !self.silent.is_empty() {
            parts.push(format!("{} does not answer for the zone", self.silent.join(", ")));
        }
        if parts.is_empty() {
            parts.push("the resolvers do not see it".to_owned());
        }
        f.write_str(&parts.join("; "))
    }
}

/// Whether an answer has a TXT record like that.
pub(super) fn has_text(is_right: impl Fn(&str) -> bool) -> impl Fn(&Answer) -> bool {
    move |answer| answer.texts().iter().any(|text| is_right(text))
}
