//! Which buckets of the CA's limits an order touches, and how.

use crate::ca::CaLimits;
use shared::{
    digest::sha256_hex,
    domain::{Counted, DnsName, LimitScope, NameSet, OrderClass, PublicSuffixes, Rate},
    store::{BucketUse, BucketWish},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

/// We count a little slower than the CA does: clocks drift, by up to five ten-thousandths.
const SLOWER: f64 = 1.001;

/// A bucket of one limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) limit: String,
    pub(super) counts: Counted,
    /// The names of the order that it is about; empty: all of them.
    pub(super) names: Vec<DnsName>,
    /// Absent: it is not asked for this class of order, and spent from all the same.
    pub(super) usage: Option<BucketUse>,
    /// Whether the certificate of this order is counted.
    pub(super) counts_certificate: bool,
    pub(super) wish: BucketWish,
}

/// What the buckets are of.
pub(super) struct Subject<'a> {
    pub(super) account: &'a str,
    pub(super) names: &'a NameSet,
    pub(super) class: OrderClass,
    /// Exactly these names have had a certificate lately, whatever class the order is of.
    pub(super) same_set: bool,
}

/// All buckets of an order. `reserve` is the share of a bucket that it leaves to others, where it must.
pub(super) fn buckets_of(
    limits: &CaLimits,
    suffixes: &PublicSuffixes,
    subject: &Subject<'_>,
    reserve: f64,
) -> Vec<Bucket> {
    let mut domains: BTreeMap<String, Vec<DnsName>> = BTreeMap::new();
    for name in subject.names.iter() {
        domains.entry(registered(suffixes, name.as_str(), name)).or_default().push(name.clone());
    }
    let account = subject.account;
    let mut buckets = Vec::new();
    for (limit_name, limit) in &limits.limits {
        let is_exempt = limit.exempt.contains(&subject.class);
        let mut add = |of: &str, rate: Rate, names: Vec<DnsName>, always: bool| {
            let (usage, cost) = match limit.counts {
                Counted::Orders => (BucketUse::Spend, 1),
                Counted::Certificates => (BucketUse::Hold, 1),
                Counted::FailedValidations => (BucketUse::Look, 1),
                // One is never spent: the CA would pause the name, and only a person could lift that.
                Counted::ConsecutiveFailures => (BucketUse::Look, 2),
                Counted::Accounts => return,
            };
            let rate = Rate { period_seconds: rate.period_seconds * SLOWER, ..rate };
            buckets.push(Bucket {
                limit: limit_name.clone(),
                counts: limit.counts,
                names,
                usage: (!is_exempt && !always).then_some(usage),
                counts_certificate: limit.counts == Counted::Certificates
                    && !(subject.same_set && limit.exempt.contains(&OrderClass::SameSet)),
                wish: BucketWish {
                    bucket: format!("{limit_name}:{of}"),
                    rate,
                    usage,
                    cost,
                    left: (reserve * f64::from(rate.burst)).floor() as u32,
                },
            });
        };
        match limit.scope {
            LimitScope::Account => {
                add(account, limits.rate_of_account(limit_name, limit, account), Vec::new(), false);
            }
            LimitScope::RegisteredDomain => {
                let granted = limits.granted_to_account(limit_name, account);
                for (domain, names) in &domains {
                    let of_domain =
                        limits.granted_to_domain(limit_name, domain).unwrap_or_else(|| limit.rate());
                    // What is granted to the account is what counts; the domain's own bucket is drawn from all the same.
                    if let Some(rate) = granted {
                        add(&format!("{account}:{domain}"), rate, names.clone(), false);
                    }
                    add(domain, of_domain, names.clone(), granted.is_some());
                }
            }
            LimitScope::IdentifierSet => add(&digest_of(subject.names), limit.rate(), Vec::new(), false),
            LimitScope::AccountAndIdentifier => {
                let rate = limits.rate_of_account(limit_name, limit, account);
                for name in subject.names.iter() {
                    add(&format!("{account}:{name}"), rate, vec![name.clone()], false);
                }
            }
            LimitScope::Address | LimitScope::Ipv6Range => {}
        }
    }
    buckets
}

/// Addresses count by themselves, those of IPv6 by their /64.
fn registered(suffixes: &PublicSuffixes, text: &str, name: &DnsName) -> String {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.to_string(),
        Ok(IpAddr::V6(address)) => {
            format!("{}/64", Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        Err(_) => suffixes.registered_domain(name),
    }
}

/// Short, and the same for the same names.
fn digest_of(names: &NameSet) -> String {
    let text = names.iter().map(DnsName::as_str).collect::<Vec<_>>().join(",");
    sha256_hex(text.as_bytes())[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Ca;
    use shared::config::Config;
    use std::path::Path;

    fn names(list: &[&str]) -> NameSet {
        NameSet::new(list.iter().map(|name| DnsName::parse(name).unwrap())).unwrap()
    }

    fn asked(list: &[&str], class: OrderClass, same_set: bool) -> Vec<(String, Option<BucketUse>, bool)> {
        let config = Config::parse("[ca.letsencrypt]\n", Path::new("x"), &[]).unwrap();
        let limits = Ca::of(&config, None).unwrap().limits;
        let names = names(list);
        let subject = Subject { account: "default", names: &names, class, same_set };
        buckets_of(&limits, &PublicSuffixes::shipped(), &subject, 0.05)
            .into_iter()
            .filter(|bucket| !bucket.limit.contains("per-name"))
            .map(|bucket| (bucket.wish.bucket, bucket.usage, bucket.counts_certificate))
            .collect()
    }

    #[test]
    fn a_new_order_touches_its_account_its_domains_and_its_set() {
        let found = asked(&["www.a.co.uk", "a.co.uk", "me.github.io"], OrderClass::New, false);
        let set = &found[0].0;
        assert!(set.starts_with("certificates-per-exact-set:"), "{set}");
        assert_eq!(
            found,
            [
                (set.clone(), Some(BucketUse::Hold), true),
                ("certificates-per-registered-domain:a.co.uk".to_owned(), Some(BucketUse::Hold), true),
                ("certificates-per-registered-domain:me.github.io".to_owned(), Some(BucketUse::Hold), true),
                ("new-orders-per-account:default".to_owned(), Some(BucketUse::Spend), false),
            ]
        );
    }

    #[test]
    fn renewals_are_exempt_as_the_ca_exempts_them() {
        let of = |class, same| {
            asked(&["a.com"], class, same)
                .into_iter()
                .map(|(_, usage, counts)| (usage, counts))
                .collect::<Vec<_>>()
        };
        // Set, domain, account: the set is spent from by every certificate.
        assert_eq!(
            of(OrderClass::SameSet, true),
            [(Some(BucketUse::Hold), true), (None, false), (None, false)]
        );
        assert_eq!(of(OrderClass::Ari, true), [(None, true), (None, false), (None, false)]);
        // Another set of names within the window: its domains are spent from, without being asked.
        assert_eq!(of(OrderClass::Ari, false), [(None, true), (None, true), (None, false)]);
    }

    #[test]
    fn addresses_count_by_themselves() {
        let suffixes = PublicSuffixes::shipped();
        let any = DnsName::parse("x.example").unwrap();
        assert_eq!(registered(&suffixes, "192.0.2.7", &any), "192.0.2.7");
        assert_eq!(registered(&suffixes, "2001:db8:1:2:3::4", &any), "2001:db8:1:2::/64");
    }
}
