//! What a frontend may see of a site and of its certificates.

use shared::domain::{DnsName, Frontend, Leaf, Right, Site};
use std::time::Duration;
use tokio::time::Instant;

/// Refusals come at multiples of this time.
const STEP: Duration = Duration::from_millis(10);

/// Whether a site is in a frontend's scope at all.
pub(crate) fn sees_site(frontend: &Frontend, site: &Site) -> bool {
    let may_read = frontend.may(Right::ReadCert) || frontend.may(Right::ReadKey);
    may_read && frontend.scope.covers(site.names.as_slice(), &site.tags)
}

/// Whether a certificate of a site in scope is in scope itself. It may be older than the site's present names, and its
/// key serves every name in it.
pub(crate) fn sees_certificate(frontend: &Frontend, site: &Site, leaf: &Leaf) -> bool {
    if !sees_site(frontend, site) {
        return false;
    }
    // A wildcard is matched as one: a pattern for one of the names that it covers is no right to its key.
    let names: Option<Vec<DnsName>> =
        leaf.names.iter().map(|name| DnsName::parse_identifier(name).ok()).collect();
    // What can't be read as a name is covered by a tag only.
    frontend.scope.covers(&names.unwrap_or_default(), &site.tags)
}

/// Waits until the next [`STEP`] after `begun`: when a refusal comes says nothing of what was looked at before it.
pub(crate) async fn even_out(begun: Instant) {
    let steps = begun.elapsed().as_nanos() / STEP.as_nanos() + 1;
    tokio::time::sleep_until(begun + STEP * u32::try_from(steps).unwrap_or(u32::MAX)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use shared::domain::{NameSet, Scope};

    fn site(names: &[&str], tags: &[&str]) -> Site {
        let names = NameSet::new(names.iter().map(|name| DnsName::parse(name).unwrap())).unwrap();
        let tags = tags.iter().map(ToString::to_string).collect();
        Site { tags, ..Site::new(names, &[], "", "", Timestamp::UNIX_EPOCH) }
    }

    fn frontend(patterns: &[&str], tags: &[&str], rights: &[Right]) -> Frontend {
        let scope = Scope {
            names: patterns.iter().map(|text| text.parse().unwrap()).collect(),
            tags: tags.iter().map(ToString::to_string).collect(),
        };
        let rights = rights.iter().copied().collect();
        Frontend::new("edge-1".parse().unwrap(), scope, rights, Timestamp::UNIX_EPOCH)
    }

    fn leaf(names: &[&str]) -> Leaf {
        Leaf {
            serial: String::new(),
            fingerprint_sha256: String::new(),
            spki_sha256: String::new(),
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::UNIX_EPOCH,
            issuer: String::new(),
            names: names.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_certificate_with_a_name_out_of_scope_is_out_of_scope() {
        let frontend = frontend(&["*.a.example.com"], &["eu"], &[Right::ReadCert]);
        let inside = site(&["x.a.example.com"], &[]);
        assert!(sees_site(&frontend, &inside));
        assert!(sees_certificate(&frontend, &inside, &leaf(&["x.a.example.com"])));
        assert!(sees_certificate(&frontend, &inside, &leaf(&["*.a.example.com"])));
        for names in [&["x.a.example.com", "x.b.example.com"][..], &["*.example.com"], &["192.0.2.1"], &[]] {
            assert!(!sees_certificate(&frontend, &inside, &leaf(names)), "{names:?}");
        }
        let one = self::frontend(&["any.a.example.com", "x.a.example.com"], &[], &[Right::ReadCert]);
        assert!(sees_certificate(&one, &inside, &leaf(&["x.a.example.com"])));
        assert!(
            !sees_certificate(&one, &inside, &leaf(&["*.a.example.com"])),
            "its key serves every name below"
        );
        let all = self::frontend(&["*"], &[], &[Right::ReadCert]);
        assert!(sees_certificate(&all, &inside, &leaf(&["*.a.example.com", "192.0.2.1"])));
        assert!(!sees_certificate(&all, &inside, &leaf(&["no name"])));
        let tagged = site(&["x.b.example.com"], &["eu"]);
        assert!(sees_certificate(&frontend, &tagged, &leaf(&["192.0.2.1"])));
    }

    #[test]
    fn without_a_right_nothing_is_seen() {
        let site = site(&["x.a.example.com"], &[]);
        assert!(!sees_site(&frontend(&["*"], &[], &[]), &site));
        let mut revoked = frontend(&["*"], &[], &[Right::ReadCert, Right::ReadKey]);
        assert!(sees_site(&revoked, &site));
        revoked.revoked = Some(Timestamp::UNIX_EPOCH);
        assert!(!sees_site(&revoked, &site));
    }
}
