//! Whether a name's DNS still leads to our frontends. A name that has gone elsewhere costs an order and a failed
//! validation each time; it can be told for two questions to a resolver.
//!
//! A name behind a proxy of the customer's (a CDN) leads elsewhere too, though its challenges may reach us. Only the
//! self-check ([`super::reach`]) tells the two apart.

use crate::dns::{ResolveFailure, Resolver};
use shared::{config::Frontends, domain::DnsName};
use std::{collections::HashSet, net::IpAddr, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// How long the addresses of the CNAME targets are believed.
const TARGETS_KEPT: Duration = Duration::from_secs(60);
/// An explanation names no more addresses than this.
const MOST_NAMED: usize = 4;

/// Where a name's DNS leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// To our frontends: a CNAME to one of their targets, or no address but theirs.
    Here,
    /// To our frontends, and to others: not departed, but some visitors and perhaps the CA end up elsewhere.
    Partly { foreign: Vec<IpAddr> },
    /// None of its addresses is ours.
    Elsewhere {
        found: Vec<IpAddr>,
        /// What the name's own CNAME record says.
        cname: Option<String>,
    },
    /// No such name, or no address.
    Gone,
    /// The DNS did not tell, for this reason: nothing may be concluded.
    Unknown(String),
}

/// Looks where names lead. How many looks run at once is the caller's choice.
#[derive(Debug)]
pub struct Departure {
    resolver: Resolver,
    ours: Frontends,
    behind_targets: Mutex<Option<BehindTargets>>,
}

/// The addresses of the CNAME targets.
#[derive(Clone, Debug)]
struct BehindTargets {
    addresses: HashSet<IpAddr>,
    /// Why there may be more.
    gap: Option<ResolveFailure>,
    asked: Instant,
}

impl Departure {
    /// `None` where neither addresses nor CNAME targets are configured: then nobody can tell what is elsewhere.
    pub fn of(config: &Frontends, resolver: Resolver) -> Option<Self> {
        let known = !config.addresses.is_empty() || !config.cname_targets.is_empty();
        known.then(|| Self { resolver, ours: config.clone(), behind_targets: Mutex::default() })
    }

    /// Whether anybody answers who could tell.
    pub async fn can_look(&self) -> bool {
        self.resolver.answers().await
    }

    /// Asks for A and AAAA of `name`. Where that is not enough it asks for the addresses of the CNAME targets, once a
    /// minute for all names, or for the links of a broken chain of aliases. Answers within three seconds.
    pub async fn look(&self, name: &DnsName) -> Whereabouts {
        tokio::time::timeout(LOOK_LIMIT, self.look_patiently(name)).await.unwrap_or_else(|_| {
            Whereabouts::Unknown(ResolveFailure::Timeout(name.as_str().to_owned()).to_string())
        })
    }

    async fn look_patiently(&self, name: &DnsName) -> Whereabouts {
        let trail = self.resolver.trail(name).await;
        // What is behind our own target is our affair, whether its addresses are listed or not, or even gone.
        if trail.aliases.iter().any(|alias| leads_to_target(alias, &self.ours)) {
            return Whereabouts::Here;
        }
        let mut gap = trail.gap;
        let mut foreign = trail.addresses.clone();
        foreign.retain(|address| !self.ours.addresses.contains(address));
        if !foreign.is_empty() && !self.ours.cname_targets.is_empty() {
            // The apex of a zone can have no CNAME: providers put the target's addresses in its place.
            let behind = self.behind_targets().await;
            foreign.retain(|address| !behind.addresses.contains(address));
            if !foreign.is_empty() {
                gap = gap.or(behind.gap);
            }
        }
        let any_ours = foreign.len() < trail.addresses.len();
        match (any_ours, foreign.is_empty(), gap) {
            (true, true, _) => Whereabouts::Here,
            (_, _, Some(gap)) => Whereabouts::Unknown(gap.to_string()),
            (true, false, None) => Whereabouts::Partly { foreign },
            (false, false, None) => {
                Whereabouts::Elsewhere { found: foreign, cname: trail.aliases.into_iter().next() }
            }
            (false, true, None) => Whereabouts::Gone,
        }
    }

    async fn behind_targets(&self) -> BehindTargets {
        let mut kept = self.behind_targets.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.asked.elapsed() < TARGETS_KEPT) {
            return kept.clone();
        }
        let mut found = BehindTargets { addresses: HashSet::new(), gap: None, asked: Instant::now() };
        for target in &self.ours.cname_targets {
            let trail = self.resolver.trail(target).await;
            found.addresses.extend(trail.addresses);
            found.gap = found.gap.or(trail.gap);
        }
        // An incomplete answer is not kept: the next look asks again.
        *kept = Some(found.clone()).filter(|found| found.gap.is_none());
        found
    }
}

impl Whereabouts {
    /// Whether no address of the name is ours. Never where the DNS did not tell.
    pub fn is_departed(&self) -> bool {
        matches!(self, Self::Elsewhere { .. } | Self::Gone)
    }

    /// What was found and what the records should be, in plain words. `ours` is what the look was made with.
    pub fn explain(&self, name: &DnsName, ours: &Frontends) -> String {
        let is_address = name.address().is_some();
        let wanted = || wanted_records(name, ours);
        let name = &name.to_unicode();
        match self {
            // An address has no records: it leads to itself.
            Self::Elsewhere { .. } if is_address => format!(
                "{name} is no address of your frontends. It can only be proved at itself: one of them must answer there, and frontends.addresses name it."
            ),
            Self::Here => format!("{name} leads to your frontends."),
            Self::Partly { foreign } => format!(
                "{name} leads to your frontends, but also to {}, where another server answers: visitors and the CA may end up there. Remove: {name} {}.",
                name_some(foreign, ", "),
                records_for(foreign, ", "),
            ),
            Self::Elsewhere { found, cname } => {
                let way =
                    cname.as_ref().map(|cname| format!(", by its CNAME to {cname}")).unwrap_or_default();
                format!(
                    "{name} leads to {}{way}, and not to your frontends. {}",
                    name_some(found, ", "),
                    wanted()
                )
            }
            Self::Gone => format!("{name} does not exist in the DNS, or has no address. {}", wanted()),
            Self::Unknown(reason) => format!(
                "Where {name} leads can't be told ({reason}), so nothing is concluded. Check the name's nameservers, and the resolvers that the issuer asks."
            ),
        }
    }
}

/// Whether `alias` is one of our targets or below one.
fn leads_to_target(alias: &str, ours: &Frontends) -> bool {
    ours.cname_targets.iter().any(|target| {
        alias.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

fn wanted_records(name: &DnsName, ours: &Frontends) -> String {
    let cname = ours.cname_targets.first().map(|target| format!("CNAME {target}"));
    let records = (!ours.addresses.is_empty()).then(|| records_for(&ours.addresses, " or "));
    let choices: Vec<String> = cname.into_iter().chain(records).collect();
    let name = name.to_unicode();
    format!("Where it should: {name} {}.", choices.join(&format!(", or: {name} ")))
}

/// As in `A 192.0.2.10 and AAAA 2001:db8::10`.
fn records_for(addresses: &[IpAddr], between: &str) -> String {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
    let records: Vec<String> = [("A", v4), ("AAAA", v6)]
        .into_iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .map(|(kind, addresses)| format!("{kind} {}", name_some(&addresses, between)))
        .collect();
    records.join(" and ")
}

fn name_some(addresses: &[IpAddr], between: &str) -> String {
    let named: Vec<String> = addresses.iter().take(MOST_NAMED).map(IpAddr::to_string).collect();
    let more = addresses.len() - named.len();
    let named = named.join(between);
    if more == 0 { named } else { format!("{named}{between}{more} more") }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::serve_dns, *};

    type Zone = super::super::tests::Zone;

    const ZONE: Zone = &[
        ("here.test", &["192.0.2.10", "2001:db8::10"]),
        ("empty.test", &[]),
        ("broken.test", &["fail"]),
        ("referred.test", &["refer"]),
        ("dangling.test", &["Middle.Test"]),
        ("middle.test", &["shop.EDGE.test"]),
        ("lost.test", &["nowhere.test"]),
        ("lame.test", &["broken.test"]),
        ("loop.test", &["pool.test"]),
        ("pool.test", &["loop.test"]),
    ];

    fn name(text: &str) -> DnsName {
        DnsName::parse(text).unwrap()
    }

    fn frontends(addresses: &[&str], cname_targets: &[&str]) -> Frontends {
        Frontends {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            cname_targets: cname_targets.iter().map(|target| name(target)).collect(),
            ..Frontends::default()
        }
    }

    async fn look(ours: &Frontends, host: &str) -> Whereabouts {
        let resolver = Resolver::with_servers(&[serve_dns(ZONE).await]).unwrap();
        Departure::of(ours, resolver).unwrap().look(&name(host)).await
    }

    #[tokio::test]
    async fn only_a_sure_answer_parks_a_name() {
        let ours = frontends(&["192.0.2.10", "2001:db8::10"], &["edge.test"]);
        for (host, expected) in [
            ("here.test", Whereabouts::Here),
            ("missing.test", Whereabouts::Gone),
            ("empty.test", Whereabouts::Gone),
            ("lost.test", Whereabouts::Gone),
            ("loop.test", Whereabouts::Gone),
        ] {
            let found = look(&ours, host).await;
            assert_eq!(found, expected, "{host}");
            assert_eq!(found.is_departed(), expected == Whereabouts::Gone);
        }
        for host in ["broken.test", "referred.test", "lame.test"] {
            let found = look(&ours, host).await;
            assert!(matches!(found, Whereabouts::Unknown(_)), "{host}: {found:?}");
            assert!(!found.is_departed());
        }
        assert!(look(&ours, "referred.test").await.explain(&name("referred.test"), &ours).contains("refers"));
    }

    #[tokio::test]
    async fn an_alias_of_our_target_stays_when_the_target_has_lost_its_addresses() {
        assert_eq!(look(&frontends(&[], &["edge.test"]), "dangling.test").await, Whereabouts::Here);
        for other in ["dge.test", "shop.edge.example"] {
            assert_eq!(look(&frontends(&[], &[other]), "dangling.test").await, Whereabouts::Gone, "{other}");
        }
    }

    #[tokio::test]
    async fn a_target_that_can_not_be_resolved_makes_nothing_foreign() {
        let found = look(&frontends(&["192.0.2.99"], &["broken.test"]), "here.test").await;
        assert!(matches!(found, Whereabouts::Unknown(_)), "{found:?}");
        // But what is listed is ours, whatever becomes of the target.
        let all = frontends(&["192.0.2.10", "2001:db8::10"], &["broken.test"]);
        assert_eq!(look(&all, "here.test").await, Whereabouts::Here);
    }

    #[tokio::test]
    async fn without_frontends_nothing_is_elsewhere() {
        let resolver = Resolver::with_servers(&[([127, 0, 0, 1], 53).into()]).unwrap();
        assert!(Departure::of(&Frontends::default(), resolver).is_none());
    }

    #[test]
    fn explanations_name_the_record_to_change() {
        let ours = frontends(
            &["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "2001:db8::10"],
            &["edge.test"],
        );
        let shop = name("shop.test");
        let elsewhere = Whereabouts::Elsewhere {
            found: vec!["203.0.113.7".parse().unwrap()],
            cname: Some("cdn.example".into()),
        };
        assert_eq!(
            elsewhere.explain(&shop, &ours),
            "shop.test leads to 203.0.113.7, by its CNAME to cdn.example, and not to your frontends. Where it should: shop.test CNAME edge.test, or: shop.test A 192.0.2.1 or 192.0.2.2 or 192.0.2.3 or 192.0.2.4 or 1 more and AAAA 2001:db8::10."
        );
        let partly = Whereabouts::Partly { foreign: vec!["2001:db8::99".parse().unwrap()] };
        assert!(partly.explain(&shop, &ours).ends_with("Remove: shop.test AAAA 2001:db8::99."));
        assert!(
            Whereabouts::Gone
                .explain(&shop, &frontends(&["192.0.2.1"], &[]))
                .ends_with("shop.test A 192.0.2.1.")
        );
    }
}
