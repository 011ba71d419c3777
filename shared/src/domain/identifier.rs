//! Hostnames as a CA accepts them, and IP addresses. Every rule that a CA would refuse an order for is checked here, before it
//! costs a request.

use super::{NameError, PublicSuffixes, name_error::mistaken_for};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, net::IpAddr};

/// Longest name, in bytes without a trailing dot (RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 253;
/// Most labels that Let's Encrypt's policy accepts in one name.
pub const MAX_LABELS: usize = 10;
/// Labels that a wildcard DNS zone repeats without end (`www.www.…`): refused by the CA from four labels on.
const REPEATED_LABELS: [&str; 2] = ["www", "mail"];

/// A hostname in A-labels, lower case, without a trailing dot: the form that goes into an order. Or, where it was let in by
/// [`DnsName::parse_identifier`], an IP address in its canonical text (RFC 5952), or a wildcard: `*.` and a hostname.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    /// A hostname as a person writes it, in Unicode or A-labels, in any case.
    ///
    /// # Errors
    /// The first rule that it breaks. [`PublicSuffixes::check_issuable`] has the rules that need the list.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let named = || text.to_owned();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(mistaken) = mistaken_for(text) {
            return Err(mistaken);
        }
        if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
            return Err(NameError::IpAddress(named()));
        }
        if text.ends_with('.') {
            return Err(NameError::TrailingDot(named()));
        }
        if let Some(rest) = text.strip_prefix("*.") {
            return Err(if rest.contains('*') {
                NameError::WildcardPosition(named())
            } else {
                NameError::WildcardNeedsDns(named())
            });
        }
        if text.contains('*') {
            return Err(NameError::WildcardPosition(named()));
        }
        let ascii = to_a_labels(text)?;
        check_labels(&ascii, text)?;
        Ok(Self(ascii))
    }

    /// A hostname as [`DnsName::parse`] takes it, an IP address, or a wildcard. Whether one is issued for is the affair of the
    /// profile and of the challenge.
    ///
    /// # Errors
    /// The first rule that a hostname breaks.
    pub fn parse_identifier(text: &str) -> Result<Self, NameError> {
        if let Some(rest) = text.strip_prefix("*.").filter(|rest| !rest.contains('*')) {
            let below = Self::parse(rest)?;
            return if below.0.len() + 2 > MAX_NAME_BYTES {
                Err(NameError::TooLong(text.to_owned()))
            } else {
                Ok(Self(format!("*.{below}")))
            };
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match bare.parse::<IpAddr>() {
            Ok(address) => Ok(Self(address.to_string())),
            Err(_) => Self::parse(text),
        }
    }

    /// The address, where it is one and no hostname.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }

    /// Whether it stands for every name with one label more.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The wildcard that covers it; `None` for what none does: a wildcard, an address, a name right below the top.
    pub fn covering_wildcard(&self) -> Option<Self> {
        let (_, parent) =
            self.0.split_once('.').filter(|_| !self.is_wildcard() && self.address().is_none())?;
        parent.contains('.').then(|| Self(format!("*.{parent}")))
    }

    /// The name in A-labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as people read it; the A-labels where there is no other form.
    pub fn to_unicode(&self) -> String {
        let below = self.0.strip_prefix("*.").unwrap_or(&self.0);
        match idna::domain_to_unicode(below) {
            (unicode, Ok(())) if self.is_wildcard() => format!("*.{unicode}"),
            (unicode, Ok(())) => unicode,
            _ => self.0.clone(),
        }
    }

    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

fn to_a_labels(text: &str) -> Result<String, NameError> {
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore)
        .map_err(|_| NameError::MalformedIdn(text.to_owned()))?;
    // A mapped character can become a dot (U+3002) at the end, or an address in other digits.
    if ascii.ends_with('.') {
        return Err(NameError::TrailingDot(text.to_owned()));
    }
    if ascii.parse::<IpAddr>().is_ok() {
        return Err(NameError::IpAddress(text.to_owned()));
    }
    Ok(ascii.into_owned())
}

fn check_labels(ascii: &str, text: &str) -> Result<(), NameError> {
    let named = || text.to_owned();
    let mut labels = 0;
    for label in ascii.split('.') {
        labels += 1;
        if label.is_empty() {
            return Err(NameError::EmptyLabel(named()));
        }
        if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err(NameError::InvalidCharacter(named()));
        }
        if label.len() > 63 {
            return Err(NameError::LabelTooLong(named()));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(NameError::HyphenAtEdge(named()));
        }
        if label.get(2..4) == Some("--") && !label.starts_with("xn--") {
            return Err(NameError::ReservedHyphens(named()));
        }
    }
    // https://url.spec.whatwg.org/#ends-in-a-number-checker
    let last = ascii.rsplit('.').next().unwrap_or_default();
    let is_hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    if last.bytes().all(|b| b.is_ascii_digit()) || last.strip_prefix("0x").is_some_and(is_hex) {
        return Err(NameError::EndsInNumber(named()));
    }
    if ascii.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(named()));
    }
    if labels > MAX_LABELS {
        return Err(NameError::TooManyLabels(named()));
    }
    let strict =
        Uts46::new().to_ascii(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Verify);
    if strict.ok().as_deref() != Some(ascii) {
        return Err(NameError::MalformedIdn(named()));
    }
    if labels >= 4 && repeats_labels(ascii) {
        return Err(NameError::RepeatedLabels(named()));
    }
    Ok(())
}

fn repeats_labels(ascii: &str) -> bool {
    let labels: Vec<&str> = ascii.split('.').collect();
    let blocked = |label: &str| REPEATED_LABELS.contains(&label);
    labels.windows(2).any(|pair| pair[0] == pair[1] && blocked(pair[0]))
        || labels.windows(3).any(|three| three.iter().all(|label| blocked(label)))
}

impl TryFrom<String> for DnsName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse_identifier(&text)
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Names as they are stored or sent, in the form for people; what is none stays as it is.
pub fn for_people<T: AsRef<str>>(names: &[T]) -> String {
    let one = |name: &T| {
        DnsName::parse_identifier(name.as_ref())
            .map_or_else(|_| name.as_ref().to_owned(), |name| name.to_unicode())
    };
    names.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The names of one certificate: sorted, each once, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<DnsName>", into = "Vec<DnsName>")]
pub struct NameSet(Vec<DnsName>);

impl NameSet {
    /// # Errors
    /// [`NameError::Empty`] when there is no name.
    pub fn new(names: impl IntoIterator<Item = DnsName>) -> Result<Self, NameError> {
        let sorted: BTreeSet<DnsName> = names.into_iter().collect();
        if sorted.is_empty() { Err(NameError::Empty) } else { Ok(Self(sorted.into_iter().collect())) }
    }

    pub fn one(name: DnsName) -> Self {
        Self(vec![name])
    }

    pub fn as_slice(&self) -> &[DnsName] {
        &self.0
    }

    pub fn iter(&self) -> std::slice::Iter<'_, DnsName> {
        self.0.iter()
    }

    pub fn contains(&self, name: &DnsName) -> bool {
        self.0.binary_search(name).is_ok()
    }

    /// A name that a wildcard among them covers, and that wildcard: CAs refuse both in one order.
    pub fn covered_by_own_wildcard(&self) -> Option<(&DnsName, &DnsName)> {
        self.iter().find_map(|name| {
            let covering = name.covering_wildcard()?;
            let wildcard = self.0.binary_search(&covering).ok()?;
            Some((name, &self.0[wildcard]))
        })
    }

    /// # Errors
    /// The first rule of the public suffix list that one of the names breaks.
    pub fn check_issuable(&self, suffixes: &PublicSuffixes, test_names: bool) -> Result<(), NameError> {
        self.iter().try_for_each(|name| suffixes.check_issuable(name, test_names))
    }
}

impl TryFrom<Vec<DnsName>> for NameSet {
    type Error = NameError;
    fn try_from(names: Vec<DnsName>) -> Result<Self, NameError> {
        Self::new(names)
    }
}

impl From<NameSet> for Vec<DnsName> {
    fn from(names: NameSet) -> Self {
        names.0
    }
}

impl NameSet {
    /// For people.
    pub fn to_unicode(&self) -> String {
        self.0.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ")
    }

    /// A sentence about them, which names them once: much of what is said of a name begins with it.
    pub fn of_them(&self, what: &str) -> String {
        let begins = |name: &str| {
            what.strip_prefix(name).is_some_and(|rest| rest.starts_with([':', ' ', ',']) || rest.is_empty())
        };
        if self.0.iter().any(|name| begins(&name.to_unicode()) || begins(name.as_str())) {
            return what.to_owned();
        }
        format!("{}: {what}", self.to_unicode())
    }
}

impl fmt::Display for NameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, name) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_a_name_once_and_as_people_write_it() {
        let names =
            NameSet::new(["xn--n3h.example", "a.example"].map(|name| DnsName::parse(name).unwrap())).unwrap();
        assert_eq!(names.to_unicode(), "a.example, ☃.example");
        assert_eq!(names.of_them("it burns"), "a.example, ☃.example: it burns");
        for what in ["a.example: it burns", "☃.example leads elsewhere", "xn--n3h.example: no"] {
            assert_eq!(names.of_them(what), what);
        }
        assert_eq!(names.of_them("a.example.com: no"), "a.example, ☃.example: a.example.com: no");
        assert_eq!(for_people(&["xn--n3h.example", "-", "id/1"]), "☃.example - id/1");
    }
    use proptest::prelude::*;

    #[test]
    fn names_are_normalised() {
        for (written, ascii, unicode) in [
            ("Example.COM", "example.com", "example.com"),
            ("상점.example.kr", "xn--hg4bs7k.example.kr", "상점.example.kr"),
            ("XN--HG4BS7K.example.kr", "xn--hg4bs7k.example.kr", "상점.example.kr"),
            ("bücher.example.com", "xn--bcher-kva.example.com", "bücher.example.com"),
            ("상점。example。kr", "xn--hg4bs7k.example.kr", "상점.example.kr"),
        ] {
            let name = DnsName::parse(written).unwrap();
            assert_eq!((name.as_str(), name.to_unicode().as_str()), (ascii, unicode));
        }
    }

    #[test]
    fn addresses_are_let_in_where_they_are_expected() {
        for (written, canonical) in [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            let name = DnsName::parse_identifier(written).unwrap();
            assert_eq!((name.as_str(), name.address()), (canonical, Some(canonical.parse().unwrap())));
        }
        assert_eq!(DnsName::parse_identifier("a.example").unwrap().address(), None);
        assert_eq!(DnsName::parse_identifier("[a.example]").unwrap_err().rule(), "ip-address");
    }

    #[test]
    fn every_rule_is_named() {
        let long_label = format!("{}.example.com", "a".repeat(64));
        let long_name = vec!["a".repeat(60); 5].join(".");
        for (written, rule) in [
            ("", "empty"),
            ("example.com.", "trailing-dot"),
            ("a..example.com", "empty-label"),
            (".example.com", "empty-label"),
            ("foo_bar.example.com", "invalid-character"),
            ("ex ample.com", "invalid-character"),
            ("a/b.example.com", "url"),
            ("1.2.3", "ends-in-number"),
            ("01.02.03.04", "ends-in-number"),
            ("0x7f.1", "ends-in-number"),
            ("a.0xff", "ends-in-number"),
            ("2130706433", "ends-in-number"),
            (&long_label, "label-length"),
            (&long_name, "name-length"),
            ("a.b.c.d.e.f.g.h.i.example.com", "label-count"),
            ("-a.example.com", "hyphen-at-edge"),
            ("a-.example.com", "hyphen-at-edge"),
            ("ab--c.example.com", "reserved-hyphens"),
            ("xn--\u{0}.example.com", "malformed-idn"),
            ("xn--a.example.com", "malformed-idn"),
            ("https://shop.example.com/cart", "url"),
            ("shop.example.com:443", "port"),
            ("me@example.com", "email-address"),
            ("a.example.com,b.example.com", "several-names"),
            ("192.0.2.1", "ip-address"),
            ("2001:db8::1", "ip-address"),
            ("*.example.com", "wildcard-needs-dns-01"),
            ("a.*.example.com", "wildcard-position"),
            ("*.*.example.com", "wildcard-position"),
            ("www.www.example.com", "repeated-labels"),
        ] {
            let refused = DnsName::parse(written).expect_err(written);
            assert_eq!(refused.rule(), rule, "{written:?}: {refused}");
        }
        assert!(DnsName::parse("a.b.c.d.e.f.g.h.example.com").is_ok());
        assert!(DnsName::parse("www.mail.example.com").is_ok());
    }

    #[test]
    fn a_wildcard_is_an_identifier_and_covers_one_label() {
        let star = DnsName::parse_identifier("*.Bücher.example").unwrap();
        assert_eq!(
            (star.as_str(), star.to_unicode().as_str()),
            ("*.xn--bcher-kva.example", "*.bücher.example")
        );
        assert!(star.is_wildcard() && star.covering_wildcard().is_none() && star.address().is_none());
        let covering = |text: &str| DnsName::parse_identifier(text).unwrap().covering_wildcard();
        assert_eq!(covering("any.bücher.example"), Some(star.clone()));
        assert_eq!(covering("a.any.example.com").unwrap().as_str(), "*.any.example.com");
        assert_eq!((covering("example.com"), covering("192.0.2.1")), (None, None));
        for text in ["*", "*.", "*.*.example.com", "a*.example.com", "*..example.com", "*.a_b.example.com"] {
            assert!(DnsName::parse_identifier(text).is_err(), "{text}");
        }
        let long = format!("a{}", ["a".repeat(62).as_str(); 4].join("."));
        assert!(DnsName::parse(&long).is_ok() && DnsName::parse_identifier(&format!("*.{long}")).is_err());
        assert_eq!(serde_json::to_string(&star).unwrap(), r#""*.xn--bcher-kva.example""#);
    }

    #[test]
    fn a_name_set_is_sorted_and_has_each_name_once() {
        let names = ["b.example.com", "a.example.com", "B.example.com"].map(|n| DnsName::parse(n).unwrap());
        assert_eq!(NameSet::new(names).unwrap().to_string(), "a.example.com, b.example.com");
        assert_eq!(NameSet::new([]), Err(NameError::Empty));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_idempotent(text in "\\PC{0,80}") {
            if let Ok(name) = DnsName::parse(&text) {
                prop_assert_eq!(DnsName::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.as_str().len() <= MAX_NAME_BYTES);
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
                prop_assert_eq!(DnsName::parse(&name.to_unicode()), Ok(name));
            }
        }
    }
}
