//! What frontends follow: the groups of each partition by the number of their last change. It is compacted: a group stands
//! in it once, so what comes after a number is all that changed since, however long ago that was, and what comes after zero is
//! everything.
//!
//! A number is given and becomes visible in the same script as what it stands for: nobody can read past one that is still
//! to come.

use super::{Serving, Store, StoreError, StoredSite, keys, scripts, sites};
use crate::{
    digest::sha256_hex,
    domain::{
        CertificateId, DnsName, FeedCursor, KeyType, Leaf, NameSet, Partition, Scope, Site, SiteId,
        TlsPolicies,
    },
};
use jiff::Timestamp;
use redis::cmd;
use std::collections::{BTreeMap, HashMap};

/// Groups that are adopted by one script, and that are looked at in one step.
const ADOPTED_AT_ONCE: usize = 200;

/// How far the store has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedHead {
    /// Another one after each failover, and for a store that was restored: numbers may be given twice then.
    pub epoch: String,
    /// By partition: the number of the last change.
    pub ends: Vec<u64>,
    /// By partition: the number of the last change that is forgotten, a deletion of long ago.
    pub floors: Vec<u64>,
    /// How often a frontend was added, changed or revoked.
    pub frontends: u64,
    /// What frontends speak; `None` for a policy that can't be read, which changes nothing.
    pub tls_policies: Option<TlsPolicies>,
    /// Partitions whose numbers can't be read; the watchdog tells of them.
    pub unreadable: Vec<Partition>,
}

/// A group as those that follow it see it.
#[derive(Clone, Debug)]
pub struct FollowedGroup {
    pub id: SiteId,
    /// The number of its last change.
    pub number: u64,
    /// What is wanted and served; absent once it is no longer wanted.
    pub wanted: Option<StoredSite>,
    /// Its scope in former times.
    pub former: Vec<FormerScope>,
    /// Whether a certificate is served on beside the present ones, and the change with which the last such one ended.
    pub keeps: bool,
    pub unkept: u64,
    /// Why the record of what is wanted can't be read. What is served then stands in `wanted` as far as the certificates tell:
    /// their names, and nothing else.
    pub damaged: Option<String>,
    /// Every certificate that somebody may be given.
    pub certificates: BTreeMap<CertificateId, FollowedCertificate>,
}

/// What a group was in the scope of, until the change of that number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerScope {
    pub until: u64,
    pub names: Vec<DnsName>,
    pub tags: Vec<String>,
}

/// What is known of a certificate without its key.
#[derive(Clone, Debug)]
pub enum FollowedCertificate {
    There {
        leaf: Leaf,
        key_type: KeyType,
        issued: Timestamp,
    },
    /// The record can't be read; why.
    Damaged(String),
}

impl FollowedGroup {
    /// One whose record can't be read.
    fn damaged(id: &SiteId, error: &StoreError) -> Self {
        Self {
            id: id.clone(),
            number: 0,
            wanted: None,
            former: Vec::new(),
            keeps: false,
            unkept: 0,
            damaged: Some(crate::error::chain(error)),
            certificates: BTreeMap::new(),
        }
    }

    /// Whether somebody who has followed as far as `number` may know it, being allowed to see `scope`.
    pub fn was_seen(&self, scope: &Scope, number: u64) -> bool {
        self.former.iter().any(|former| former.until > number && scope.covers(&former.names, &former.tags))
    }
}

impl Store {
    /// # Errors
    /// [`StoreError`].
    pub async fn load_feed_head(&self) -> Result<FeedHead, StoreError> {
        let question =
            |partition| cmd("HMGET").arg(keys::feed_state(partition)).arg("seq").arg("floor").clone();
        let questions: Vec<redis::Cmd> = Partition::all().map(question).collect();
        let mut unreadable = Vec::new();
        let mut states: Vec<(Option<u64>, Option<u64>)> = Vec::new();
        for (partition, state) in Partition::all().zip(self.read_each(&questions).await?) {
            states.push(state.unwrap_or_else(|_: StoreError| {
                unreadable.push(partition);
                (None, None)
            }));
        }
        let epoch: BTreeMap<String, String> = self.link.query(cmd("HGETALL").arg(keys::EPOCH)).await?;
        // One that can't be read is told by the watchdog; with each that differs the frontends are looked at anew.
        let frontends: Option<u64> = match self.link.query(cmd("GET").arg(keys::FRONTENDS_CHANGED)).await {
            Err(StoreError::Corrupt { .. }) => None,
            frontends => frontends?,
        };
        let epoch: String = epoch.iter().map(|(field, value)| format!("{field}={value}\n")).collect();
        Ok(FeedHead {
            epoch: sha256_hex(epoch.as_bytes())[..8].to_owned(),
            ends: states.iter().map(|(end, _)| end.unwrap_or(0)).collect(),
            floors: states.iter().map(|(_, floor)| floor.unwrap_or(0)).collect(),
            frontends: frontends.unwrap_or(0),
            tls_policies: self.load_policies_of_feed().await?,
            unreadable,
        })
    }

    async fn load_policies_of_feed(&self) -> Result<Option<TlsPolicies>, StoreError> {
        match self.load_tls_policies().await {
            Ok(policies) => Ok(Some(policies)),
            // It was told of once. Frontends keep the policy that they have.
            Err(StoreError::Corrupt { .. } | StoreError::Unverified { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Groups with what is known of their certificates, in the order of `ids`. One that there is no word of any more is left
    /// out.
    ///
    /// # Errors
    /// [`StoreError`]; a certificate that can't be read is none.
    pub async fn load_followed(&self, ids: &[SiteId]) -> Result<Vec<FollowedGroup>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut groups = Vec::with_capacity(ids.len());
        for (id, record) in ids.iter().zip(self.load_group_records(ids).await?) {
            let group = match record {
                Ok(record) => match parse(id, record.clone()) {
                    Ok(group) => group,
                    Err(error) => Some(self.followed_by_certificates(id, &record, &error).await?),
                },
                Err(error) => Some(FollowedGroup::damaged(id, &error)),
            };
            groups.extend(group);
        }
        let wanted: Vec<(SiteId, CertificateId)> =
            groups.iter().flat_map(|group| certificates_of(group).map(|id| (group.id.clone(), id))).collect();
        let mut read = self.load_certificates(&wanted).await?.into_iter();
        for group in &mut groups {
            for id in certificates_of(group).collect::<Vec<_>>() {
                let followed = match read.next() {
                    Some(Ok(certificate)) => match certificate.leaf() {
                        Ok(leaf) => FollowedCertificate::There {
                            leaf,
                            key_type: certificate.key_type,
                            issued: certificate.issued,
                        },
                        Err(error) => FollowedCertificate::Damaged(crate::error::chain(&error)),
                    },
                    Some(Err(error)) => FollowedCertificate::Damaged(crate::error::chain(&error)),
                    None => break,
                };
                group.certificates.insert(id, followed);
            }
        }
        Ok(groups)
    }

    /// A group whose wanted state can't be read: what it serves is there all the same.
    async fn followed_by_certificates(
        &self,
        id: &SiteId,
        record: &HashMap<String, String>,
        error: &StoreError,
    ) -> Result<FollowedGroup, StoreError> {
        let mut group = FollowedGroup::damaged(id, error);
        group.number = record.get("seq").and_then(|number| number.parse().ok()).unwrap_or(0);
        let serving = Serving::parse(record);
        let wanted: Vec<(SiteId, CertificateId)> =
            serving.current.values().map(|certificate| (id.clone(), certificate.clone())).collect();
        for certificate in self.load_certificates(&wanted).await?.into_iter().flatten() {
            let Ok(leaf) = certificate.leaf() else { continue };
            let names = leaf.names.iter().filter_map(|name| DnsName::parse_identifier(name).ok());
            let Ok(names) = NameSet::new(names) else { continue };
            let (ca, account) = (certificate.ca.as_str(), certificate.account.as_str());
            let site = Site::new(names, &[certificate.key_type], ca, account, certificate.issued);
            group.wanted = Some(StoredSite::of_served(
                id,
                site,
                Serving { current: serving.current, ..Serving::default() },
            ));
            break;
        }
        Ok(group)
    }

    /// Tells frontends of groups that were published without it.
    pub(super) async fn adopt_into_feed(&self, ids: &[SiteId]) -> Result<(), StoreError> {
        let mut of_partitions: BTreeMap<Partition, Vec<&SiteId>> = BTreeMap::new();
        for id in ids {
            of_partitions.entry(id.partition()).or_default().push(id);
        }
        for (partition, ids) in of_partitions {
            for some in ids.chunks(ADOPTED_AT_ONCE) {
                let arguments: Vec<&[u8]> = some.iter().map(|id| id.as_str().as_bytes()).collect();
                let groups = some.iter().map(|id| keys::site(id));
                let touched = std::iter::once(keys::feed(partition)).chain(groups).collect();
                self.confirmed_whole_script::<i64>(&scripts::ADOPT_INTO_FEED, touched, &arguments).await?;
            }
        }
        Ok(())
    }

    /// What a program that knew of no feed has left.
    pub(super) async fn adopt_all_into_feed(&self) -> Result<(), StoreError> {
        for partition in Partition::all() {
            let mut from = "-".to_owned();
            loop {
                let mut range = cmd("ZRANGEBYLEX");
                range
                    .arg(keys::sites(partition))
                    .arg(&from)
                    .arg("+")
                    .arg("LIMIT")
                    .arg(0)
                    .arg(ADOPTED_AT_ONCE);
                let ids: Vec<String> = self.link.query(&range).await?;
                let Some(last) = ids.last() else { break };
                from = format!("({last}");
                let ids: Vec<SiteId> = ids.iter().filter_map(|id| SiteId::parse(id)).collect();
                self.adopt_into_feed(&ids).await?;
            }
        }
        Ok(())
    }
}

impl FeedHead {
    /// Where somebody stands who has seen all of it.
    pub fn cursor(&self, scope: &str) -> FeedCursor {
        let mut cursor = FeedCursor::new(&self.epoch, scope);
        for (partition, end) in Partition::all().zip(&self.ends) {
            cursor.advance(partition, *end);
        }
        cursor
    }

    /// Stays where it was, where it can't be read.
    pub fn keep_unreadable(&mut self, before: &Self) {
        for partition in std::mem::take(&mut self.unreadable) {
            let place = partition.number();
            for (own, known) in [(&mut self.ends, &before.ends), (&mut self.floors, &before.floors)] {
                if let (Some(own), Some(known)) = (own.get_mut(place), known.get(place)) {
                    *own = *known;
                }
            }
        }
    }

    pub fn end(&self, partition: Partition) -> u64 {
        self.ends.get(partition.number()).copied().unwrap_or(0)
    }

    pub fn floor(&self, partition: Partition) -> u64 {
        self.floors.get(partition.number()).copied().unwrap_or(0)
    }
}

/// Whoever may be given them: what is served, what the canaries have, what is served on.
fn certificates_of(group: &FollowedGroup) -> impl Iterator<Item = CertificateId> + use<> {
    let serving = group.wanted.as_ref().map(|wanted| wanted.serving.clone()).unwrap_or_default();
    let staged = serving.staged.into_iter().flat_map(|staged| staged.pointers.into_values());
    let all: std::collections::BTreeSet<CertificateId> =
        serving.current.into_values().chain(staged).chain(serving.kept.into_values()).collect();
    all.into_iter()
}

fn parse(id: &SiteId, record: HashMap<String, String>) -> Result<Option<FollowedGroup>, StoreError> {
    if record.is_empty() {
        return Ok(None);
    }
    let number = |field: &str| record.get(field).and_then(|text| text.parse().ok()).unwrap_or(0);
    let (unkept, last) = (number("unkept"), number("seq"));
    let keeps = record.keys().any(|field| field.starts_with("kept:"));
    let mut former: Vec<FormerScope> = record
        .get("former")
        .into_iter()
        .flat_map(|lines| lines.lines())
        .filter_map(FormerScope::parse)
        .collect();
    // What is retired was seen until then.
    if let Some(spec) = record.get("retired").filter(|_| !record.contains_key("spec")) {
        let Site { names, tags, .. } = sites::parse_spec(id, spec)?;
        former.push(FormerScope { until: last, names: names.iter().cloned().collect(), tags });
    }
    Ok(Some(FollowedGroup {
        id: id.clone(),
        number: last,
        wanted: sites::parse(id, record)?,
        former,
        keeps,
        unkept,
        damaged: None,
        certificates: BTreeMap::new(),
    }))
}

impl FormerScope {
    /// `NUMBER NAME,... TAG,...`
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let until = words.next()?.parse().ok()?;
        let names =
            words.next()?.split(',').filter_map(|name| DnsName::parse_identifier(name).ok()).collect();
        let tags = words.next().unwrap_or_default().split(',').filter(|tag| !tag.is_empty());
        Some(Self { until, names, tags: tags.map(str::to_owned).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_scope_is_remembered_by_its_number() {
        let former = FormerScope::parse("17 a.example.com,b.example.com eu,web").unwrap();
        assert_eq!(
            (former.until, former.names.len(), former.tags.as_slice()),
            (17, 2, &["eu".to_owned(), "web".to_owned()][..])
        );
        assert_eq!(FormerScope::parse("3 a.example.com ").unwrap().tags, Vec::<String>::new());
        assert!(FormerScope::parse("x a.example.com").is_none());
        let group = FollowedGroup {
            id: SiteId::parse("0123456789abcdef0123").unwrap(),
            number: 20,
            wanted: None,
            former: vec![former],
            keeps: false,
            unkept: 0,
            damaged: None,
            certificates: BTreeMap::new(),
        };
        let scope = Scope { names: Vec::new(), tags: vec!["eu".to_owned()] };
        assert!(group.was_seen(&scope, 16));
        assert!(!group.was_seen(&scope, 17), "whoever has come as far as the change was told of it");
        assert!(!group.was_seen(&Scope::default(), 0));
    }
}
