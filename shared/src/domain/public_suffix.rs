//! The Public Suffix List: what a registered domain is, and which names nobody can have a certificate for.

use super::{DnsName, NameError};
use publicsuffix::{List, Psl, Type};

/// Top-level names that no public CA knows, kept for tests and documentation (RFC 6761 section 6, RFC 2606).
const TEST_TOP_LEVELS: [&str; 2] = ["test", "example"];
const SHIPPED: &str = include_str!("../../data/public_suffix_list.dat");

/// A parsed list, ICANN and private section.
pub struct PublicSuffixes {
    list: List,
    version: String,
}

/// The text is no public suffix list.
#[derive(Debug, thiserror::Error)]
#[error("not a public suffix list (it needs its ===BEGIN ICANN DOMAINS=== markers): {0}")]
pub struct SuffixListError(String);

impl PublicSuffixes {
    /// The list that this program was built with.
    pub fn shipped() -> Self {
        Self::parse(SHIPPED).expect("the shipped list parses: a unit test reads it")
    }

    /// # Errors
    /// [`SuffixListError`] when the section markers are missing or a rule can't be read.
    pub fn parse(text: &str) -> Result<Self, SuffixListError> {
        let version =
            text.lines().find_map(|line| line.strip_prefix("// VERSION: ")).unwrap_or("unknown").to_owned();
        let list =
            in_a_labels(text).parse().map_err(|e: publicsuffix::Error| SuffixListError(e.to_string()))?;
        Ok(Self { list, version })
    }

    /// The list's own version line: the moment it was published.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The name that one registrant holds: a public suffix with one label in front. A name that is a public suffix
    /// itself stands for itself, as the CA's limits count it.
    pub fn registered_domain(&self, name: &DnsName) -> String {
        self.list
            .domain(name.as_str().as_bytes())
            .and_then(|domain| std::str::from_utf8(domain.as_bytes()).ok().map(str::to_owned))
            .unwrap_or_else(|| name.as_str().to_owned())
    }

    /// Whether `host` ends in a top-level domain of the root zone. A CA follows redirects to no other host.
    pub fn ends_in_known_top_level(&self, host: &str) -> bool {
        self.list.suffix(host.as_bytes()).is_some_and(|suffix| suffix.is_known())
    }

    /// The rules of a public CA that need this list. `own_names` lets pass what only a network of one's own has (`.internal`, `.lan`,
    /// `.test`), for CAs that are not public.
    ///
    /// # Errors
    /// [`NameError::UnknownTopLevelDomain`] or [`NameError::PublicSuffix`]; an address is [`NameError::IpAddress`].
    pub fn check_issuable(&self, name: &DnsName, own_names: bool) -> Result<(), NameError> {
        if name.address().is_some() {
            return Err(NameError::IpAddress(name.to_string()));
        }
        // A wildcard stands for what lies below.
        if let Some(below) = name.as_str().strip_prefix("*.") {
            let below = DnsName::parse(below)?;
            return self.check_issuable(&below, own_names);
        }
        if !own_names && !name.as_str().contains('.') {
            return Err(NameError::NeedsDot(name.to_string()));
        }
        if own_names && Self::is_for_tests(name) {
            return Ok(());
        }
        let Some(suffix) = self.list.suffix(name.as_str().as_bytes()).filter(|suffix| suffix.is_known())
        else {
            if own_names {
                return Ok(());
            }
            return Err(NameError::UnknownTopLevelDomain(name.to_string()));
        };
        if suffix.typ() == Some(Type::Icann) && suffix.as_bytes() == name.as_str().as_bytes() {
            return Err(NameError::PublicSuffix(name.to_string()));
        }
        Ok(())
    }
}

impl PublicSuffixes {
    /// Whether a name is one that nobody can register (RFC 2606): only CAs that are not public know it.
    pub fn is_for_tests(name: &DnsName) -> bool {
        let top_level = name.labels().next_back().unwrap_or_default();
        TEST_TOP_LEVELS.contains(&top_level)
    }
}

impl std::fmt::Debug for PublicSuffixes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicSuffixes").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The list is written in Unicode; names come as A-labels.
fn in_a_labels(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if line.is_ascii() || line.starts_with("//") {
            out.push_str(line);
        } else {
            let (mark, rule) = line.split_at(line.len() - line.trim_start_matches(['!', '*', '.']).len());
            out.push_str(mark);
            out.push_str(&idna::domain_to_ascii(rule.trim()).unwrap_or_default());
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DnsName {
        DnsName::parse(text).unwrap()
    }

    #[test]
    fn the_registered_domain_follows_both_sections() {
        let list = PublicSuffixes::shipped();
        for (host, registered) in [
            ("a.b.example.com", "example.com"),
            ("www.example.co.uk", "example.co.uk"),
            ("customer.github.io", "customer.github.io"),
            ("github.io", "github.io"),
            ("상점.example.kr", "example.kr"),
            ("www.食狮.公司.cn", "xn--85x722f.xn--55qx5d.cn"),
        ] {
            assert_eq!(list.registered_domain(&name(host)), registered);
        }
        assert!(list.version().starts_with("20"));
    }

    #[test]
    fn names_nobody_can_have_are_refused() {
        let list = PublicSuffixes::shipped();
        assert!(list.check_issuable(&name("shop.example.com"), false).is_ok());
        assert!(list.check_issuable(&name("github.io"), false).is_ok());
        for (host, rule) in [
            ("co.uk", "public-suffix"),
            ("foo.ck", "public-suffix"),
            ("host.internal", "unknown-top-level-domain"),
            ("shop.test", "unknown-top-level-domain"),
            ("*.co.uk", "public-suffix"),
            ("printer", "needs-dot"),
        ] {
            let name = |text| DnsName::parse_identifier(text).unwrap();
            assert_eq!(list.check_issuable(&name(host), false).unwrap_err().rule(), rule, "{host}");
        }
        assert!(list.check_issuable(&name("shop.test"), true).is_ok());
        for own in ["host.internal", "nas.lan", "*.wiki.lan", "printer"] {
            assert!(list.check_issuable(&DnsName::parse_identifier(own).unwrap(), true).is_ok(), "{own}");
        }
    }
}
