//! What failed of names while a site had them, kept for when a site is added for them again: removing it and adding it anew
//! is no way to have the CA asked sooner.

use super::{Lease, Store, StoreError, StoredSite, WantedSite, keys};
use crate::domain::{DnsName, Failure, FailureClass};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What is due again is remembered for so long, seconds: its pauses grow on.
const KEPT_SECONDS: i64 = 7 * 86_400;

/// Failures by the names that they are of.
pub type Failures = BTreeMap<DnsName, Failure>;

impl Store {
    /// What failed of these names of a site.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn failures_of(&self, wanted: &WantedSite, names: &[DnsName]) -> Result<Failures, StoreError> {
        let ids: Vec<_> = wanted.groups.keys().map(|number| wanted.id.group(*number)).collect();
        let groups = self.load_sites(&ids).await?.sites;
        Ok(names.iter().filter_map(|name| Some((name.clone(), failure_of(&groups, name)?))).collect())
    }

    /// Remembers what failed of `names`, and forgets what is remembered of those that nothing is said of.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remember_failures(&self, names: &[DnsName], failures: &Failures) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now().as_second();
        let mut pipeline = redis::Pipeline::new();
        for name in names {
            let key = keys::failure(name);
            match failures.get(name) {
                Some(failure) => {
                    let record = serde_json::to_string(failure).map_err(|e| StoreError::corrupt(&key, e))?;
                    let next = failure.next.map_or(now, Timestamp::as_second).max(now);
                    let seconds = next.saturating_sub(now).saturating_add(KEPT_SECONDS);
                    pipeline.cmd("SET").arg(key).arg(record).arg("EX").arg(seconds);
                }
                None => {
                    pipeline.cmd("DEL").arg(key);
                }
            }
        }
        self.link.pipe::<Vec<redis::Value>>(&pipeline).await.map(drop)
    }

    /// What is remembered of names. What can't be read is not: it costs an attempt that comes too soon.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remembered_failures(&self, names: &[DnsName]) -> Result<Failures, StoreError> {
        if names.is_empty() {
            return Ok(Failures::new());
        }
        let keys: Vec<String> = names.iter().map(keys::failure).collect();
        let records = self.read_texts(&keys).await?;
        let read = |record: Result<Option<String>, StoreError>| -> Option<Failure> {
            let failure: Failure = serde_json::from_str(&record.ok()??).ok()?;
            Some(Failure { remembered: true, ..failure })
        };
        Ok(names
            .iter()
            .zip(records)
            .filter_map(|(name, record)| Some((name.clone(), read(record)?)))
            .collect())
    }

    /// Has a group that was made under this lease go on with what is remembered of its names.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn restore_failures(&self, lease: &Lease, names: &[DnsName]) -> Result<(), StoreError> {
        let failures = self.remembered_failures(names).await?;
        let (field, record) = match of_group(names.iter(), &failures) {
            Restored::Nothing => return Ok(()),
            Restored::Group(failure) => ("failure", serde_json::to_vec(failure)),
            Restored::Names(cut) => ("cut", serde_json::to_vec(&cut)),
        };
        let record = record.map_err(|e| StoreError::corrupt(keys::site(&lease.site), e))?;
        self.write_field(lease, field, &record).await
    }
}

/// What a new group goes on with.
pub(super) enum Restored<'a> {
    Nothing,
    /// All of its names failed before.
    Group(&'a Failure),
    /// Some of them did, and are left out of its certificate.
    Names(BTreeMap<&'a DnsName, &'a Failure>),
}

pub(super) fn of_group<'a>(
    names: impl Iterator<Item = &'a DnsName> + Clone,
    failures: &'a Failures,
) -> Restored<'a> {
    let known: BTreeMap<&DnsName, &Failure> =
        names.clone().filter_map(|name| Some((name, failures.get(name)?))).collect();
    let worst = known.values().copied().max_by_key(|failure| (failure.count, failure.next));
    match worst {
        None => Restored::Nothing,
        Some(worst) if known.len() == names.count() => Restored::Group(worst),
        Some(_) => Restored::Names(known),
    }
}

/// What failed of a name, where it is about the name: what a limit or a fault of ours delays is not.
fn failure_of(groups: &[StoredSite], name: &DnsName) -> Option<Failure> {
    let group = groups.iter().find(|group| group.site.names.contains(name))?;
    let failure = group.cut.get(name).or(group.failure.as_ref())?;
    let is_of_names = !matches!(
        failure.class,
        FailureClass::Limit | FailureClass::Store | FailureClass::Bug | FailureClass::Account
    );
    is_of_names.then(|| failure.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    fn failure(count: u32) -> Failure {
        Failure {
            at: Timestamp::UNIX_EPOCH,
            count,
            fault: Fault::Customer,
            class: FailureClass::Dns,
            what: String::new(),
            remedy: String::new(),
            not_before: None,
            since: None,
            next: None,
            waits: false,
            remembered: true,
        }
    }

    #[test]
    fn a_group_goes_on_with_the_worst_where_all_of_it_failed() {
        let names = ["a.example", "b.example"].map(|name| DnsName::parse(name).unwrap());
        let [a, b] = names.clone();
        let both: Failures = [(a.clone(), failure(1)), (b, failure(3))].into();
        assert!(matches!(of_group(names.iter(), &both), Restored::Group(worst) if worst.count == 3));
        let one: Failures = [(a.clone(), failure(2))].into();
        assert!(matches!(of_group(names.iter(), &one), Restored::Names(cut) if cut.len() == 1));
        assert!(matches!(of_group(names.iter(), &Failures::new()), Restored::Nothing));
    }
}
