//! Why a group has no certificate yet although nothing of it has failed.

use crate::issuance::paused;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use shared::{
    config::Config,
    domain::{Brake, BrakeScope, Braked, Site, brake_of},
    error::Fault,
    store::{Store, StoreError},
};
use std::collections::BTreeMap;

/// Nobody works on what is due.
pub(crate) const NO_DAEMON: &str =
    "no `issuer run` has reported to the store: nothing is ordered until one runs";
/// Failures that are looked at to say which CA is in trouble.
const FAILURES_READ: usize = 200;

/// What may be in the way of everything, or of a CA's sites.
#[derive(Debug, Default)]
pub(crate) struct Obstacles {
    brakes: Vec<Brake>,
    /// By CA: until when it wants no requests.
    pauses: BTreeMap<String, Timestamp>,
    /// By CA: what it answers to others.
    troubles: BTreeMap<String, String>,
    has_daemon: bool,
}

impl Obstacles {
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn load(store: &Store, config: &Config) -> Result<Self, StoreError> {
        // At once: where the store is far away, one after the other would take as many times as long.
        let pauses = try_join_all(config.ca.keys().map(async |ca| {
            let until = store.list_pauses(ca).await?.found.into_iter().map(|pause| pause.until).max();
            Ok::<_, StoreError>(until.map(|until| (ca.clone(), until)))
        }));
        let failing = async {
            let failing = store.list_troubled(false, FAILURES_READ).await?;
            Ok(store.load_sites(&failing).await?.sites)
        };
        let (pauses, failing, nodes, brakes) =
            tokio::try_join!(pauses, failing, store.list_nodes(), store.list_brakes())?;
        let mut troubles = BTreeMap::new();
        for stored in failing {
            if let Some(failure) = stored.failure.filter(|failure| failure.fault == Fault::Ca) {
                troubles.insert(stored.site.ca, failure.what);
            }
        }
        let nodes = nodes.found;
        Ok(Self {
            brakes: brakes.found,
            pauses: pauses.into_iter().flatten().collect(),
            troubles,
            has_daemon: nodes.iter().any(|node| node.report.role == "issuer"),
        })
    }

    /// What keeps everything from being ordered, if something does.
    pub(crate) fn of_all(&self) -> Option<String> {
        let stops = |brake: &&Brake| brake.what == Braked::Issuance && brake.scope == BrakeScope::All;
        let brake = self.brakes.iter().find(stops).map(ToString::to_string);
        brake.or_else(|| (!self.has_daemon).then(|| NO_DAEMON.to_owned()))
    }

    /// What keeps a site's certificates from being ordered, beside its turn.
    pub(crate) fn stops(&self, site: &Site, now: Timestamp) -> Option<String> {
        if let Some(since) = site.paused {
            return Some(paused(&site.names, since));
        }
        if let Some(brake) = brake_of(&self.brakes, Braked::Issuance, site) {
            return Some(brake.to_string());
        }
        if let Some(until) = self.pauses.get(&site.ca).filter(|until| **until > now) {
            let until = until.strftime("%F %H:%M UTC");
            return Some(format!("{} wants no requests until {until}: see `issuer limits`", site.ca));
        }
        (!self.has_daemon).then(|| NO_DAEMON.to_owned())
    }

    pub(crate) fn has_daemon(&self) -> bool {
        self.has_daemon
    }

    /// What a group of this site waits for. `order` is how far an open order has come, `next` when it is looked at.
    pub(crate) fn in_the_way_of(
        &self,
        site: &Site,
        order: Option<&str>,
        next: Option<Timestamp>,
        now: Timestamp,
    ) -> String {
        if let Some(stop) = self.stops(site, now) {
            return stop;
        }
        if let Some(what) = self.troubles.get(&site.ca) {
            return format!("{} is in trouble: {what}", site.ca);
        }
        if let Some(state) = order {
            return format!("its order is open ({state}): it is gone on with");
        }
        match next.filter(|next| *next > now) {
            Some(next) => format!("its turn comes at {}", next.strftime("%F %H:%M:%S UTC")),
            None => "it is due: the daemon orders it when its turn comes".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::domain::{DnsName, KeyType, NameSet};

    #[test]
    fn what_stops_everything_names_what_ends_it() {
        let mut obstacles = Obstacles::default();
        assert_eq!(obstacles.of_all().as_deref(), Some(NO_DAEMON));
        obstacles.has_daemon = true;
        assert_eq!(obstacles.of_all(), None);
        let of = |scope| Brake {
            what: Braked::Issuance,
            scope,
            since: Timestamp::UNIX_EPOCH,
            reason: String::new(),
        };
        obstacles.brakes.push(of(BrakeScope::Tag("eu".into())));
        assert_eq!(obstacles.of_all(), None, "others go on");
        obstacles.brakes.push(of(BrakeScope::All));
        assert!(obstacles.of_all().is_some_and(|why| why.contains("`issuer resume issuance`")));
    }

    #[test]
    fn what_waits_has_a_reason() {
        let names = NameSet::one(DnsName::parse("a.example").unwrap());
        let now = Timestamp::UNIX_EPOCH;
        let site = Site::new(names, &[KeyType::EcdsaP256], "ca", "default", now);
        let later = now + jiff::SignedDuration::from_hours(1);
        let mut obstacles = Obstacles::default();
        let why = |obstacles: &Obstacles, order| obstacles.in_the_way_of(&site, order, Some(later), now);
        assert!(why(&obstacles, None).contains("issuer run"));
        obstacles.has_daemon = true;
        assert!(why(&obstacles, None).contains("1970-01-01 01:00:00 UTC"));
        assert!(why(&obstacles, Some("ready")).contains("ready"));
        obstacles.troubles.insert("ca".into(), "it burns".into());
        assert!(why(&obstacles, Some("ready")).contains("it burns"));
        obstacles.pauses.insert("ca".into(), later);
        assert!(why(&obstacles, None).contains("until 1970-01-01 01:00 UTC"));
        obstacles.pauses.insert("ca".into(), now);
        assert!(why(&obstacles, None).contains("it burns"), "a pause that is over");
    }
}
