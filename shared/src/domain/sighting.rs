//! A name that a visitor came with and that no site has: whether it is worth asking about.
//!
//! Whoever scans certificate logs makes names up, and servers that order whatever they are asked for feed them new ones
//! (Let's Encrypt blocks such accounts). So a name is looked at by what costs least first, and what it is made of is free.

use super::{DnsName, PublicSuffixes};

/// Labels of a hosted name. More are hardly ever meant.
const LABELS: std::ops::RangeInclusive<usize> = 2..=6;

/// Why a name is not even asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSightable {
    #[error("it is no hostname")]
    NoHostname,
    #[error("it has one label, or more than six")]
    Labels,
    #[error("a label is repeated, as in names that scanners make up")]
    Repeated,
    #[error("it is a public suffix, or ends in none that is known")]
    PublicSuffix,
}

/// The name, where somebody may have meant it.
///
/// # Errors
/// [`NotSightable`].
pub fn sightable(text: &str, suffixes: &PublicSuffixes) -> Result<DnsName, NotSightable> {
    let name =
        DnsName::parse(text.strip_suffix('.').unwrap_or(text)).map_err(|_| NotSightable::NoHostname)?;
    let labels: Vec<&str> = name.labels().collect();
    if labels.len() < 2 || labels.contains(&"*") || name.address().is_some() {
        return Err(NotSightable::NoHostname);
    }
    if !LABELS.contains(&labels.len()) {
        return Err(NotSightable::Labels);
    }
    if labels.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(NotSightable::Repeated);
    }
    // Names of a network of one's own are nobody's guess: they are added by hand.
    let is_meant = suffixes.check_issuable(&name, false).is_ok() || PublicSuffixes::is_for_tests(&name);
    if is_meant { Ok(name) } else { Err(NotSightable::PublicSuffix) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_means_is_asked_of_nobody() {
        let suffixes = PublicSuffixes::shipped();
        for (text, kept) in
            [("Shop.example.com.", "shop.example.com"), ("a.b.c.example.co.uk", "a.b.c.example.co.uk")]
        {
            assert_eq!(sightable(text, &suffixes).unwrap().as_str(), kept);
        }
        for (text, why) in [
            ("", NotSightable::NoHostname),
            ("localhost", NotSightable::NoHostname),
            ("192.0.2.7", NotSightable::NoHostname),
            ("*.example.com", NotSightable::NoHostname),
            ("a_b.example.com", NotSightable::NoHostname),
            ("../x.example.com", NotSightable::NoHostname),
            ("a.b.c.d.e.example.com", NotSightable::Labels),
            ("update.update.example.com", NotSightable::Repeated),
            ("co.uk", NotSightable::PublicSuffix),
            ("host.internal", NotSightable::PublicSuffix),
        ] {
            assert_eq!(sightable(text, &suffixes), Err(why), "{text}");
        }
    }
}
