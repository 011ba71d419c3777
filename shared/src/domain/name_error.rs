//! What is wrong with a name, and what was pasted in the place of one.

use super::DnsName;
use std::net::IpAddr;

/// The rule that a name breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty")]
    Empty,
    #[error("{0:?} is longer than 253 bytes")]
    TooLong(String),
    #[error("{0:?} has an empty label: two dots in a row, or a dot in front")]
    EmptyLabel(String),
    #[error("{0:?} has a label longer than 63 bytes")]
    LabelTooLong(String),
    #[error("{0:?} has more than 10 labels, and the CA refuses that")]
    TooManyLabels(String),
    #[error("{0:?} ends in a dot: leave the dot out")]
    TrailingDot(String),
    #[error("{0:?} needs at least one dot: a CA issues nothing for a bare top-level name")]
    NeedsDot(String),
    #[error(
        "{0:?} contains an invalid character: only letters, digits and hyphens are allowed (no underscore, no space, no comma)"
    )]
    InvalidCharacter(String),
    #[error("{0:?} has a label that begins or ends with a hyphen")]
    HyphenAtEdge(String),
    #[error("{0:?} has hyphens in the third and fourth place of a label that is no punycode (xn--)")]
    ReservedHyphens(String),
    #[error("{0:?} ends in a number: programs take that for an IP address, and no CA for a hostname")]
    EndsInNumber(String),
    #[error("{0:?} is no well-formed internationalised name (IDNA, punycode)")]
    MalformedIdn(String),
    #[error("{0:?} is a URL: give the hostname alone{hint}", hint = give(.1))]
    Url(String, Option<String>),
    #[error("{0:?} is an e-mail address: give the hostname alone{hint}", hint = give(.1))]
    EmailAddress(String, Option<String>),
    #[error(
        "{0:?} has a port: give the hostname alone{hint}, a certificate is for every port",
        hint = give(.1)
    )]
    Port(String, Option<String>),
    #[error("{0:?} is a range of addresses: a certificate is for single ones")]
    AddressRange(String),
    #[error("{0:?} is several names: give each by itself")]
    SeveralNames(String),
    #[error(
        "{0:?} is an IP address: addresses need a profile that allows them, and are not ordered as hostnames"
    )]
    IpAddress(String),
    #[error(
        "{0} is an address of special purpose (private, loopback, reserved): a public CA issues nothing for it"
    )]
    SpecialPurpose(String),
    #[error(
        "{0:?}: a wildcard needs the dns-01 challenge, http-01 can't prove it: configure a [dns.NAME] section, and say --challenge dns-01"
    )]
    WildcardNeedsDns(String),
    #[error(
        "{0:?}: only a record can prove it so, and no [dns.NAME] section is configured that could write one"
    )]
    NoDnsSection(String),
    #[error("{0:?}: a wildcard is allowed as the whole leftmost label only")]
    WildcardPosition(String),
    #[error("{0:?} does not end in a top-level domain of the IANA root zone")]
    UnknownTopLevelDomain(String),
    #[error("{0:?} is a public suffix itself: a CA issues nothing for it")]
    PublicSuffix(String),
    #[error(
        "{0:?} repeats the same label in a row (www.www., mail.mail.): the CA refuses names that only a wildcard DNS zone makes"
    )]
    RepeatedLabels(String),
}

impl NameError {
    /// A stable word for the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong(_) => "name-length",
            Self::EmptyLabel(_) => "empty-label",
            Self::LabelTooLong(_) => "label-length",
            Self::TooManyLabels(_) => "label-count",
            Self::TrailingDot(_) => "trailing-dot",
            Self::NeedsDot(_) => "needs-dot",
            Self::InvalidCharacter(_) => "invalid-character",
            Self::HyphenAtEdge(_) => "hyphen-at-edge",
            Self::EndsInNumber(_) => "ends-in-number",
            Self::ReservedHyphens(_) => "reserved-hyphens",
            Self::MalformedIdn(_) => "malformed-idn",
            Self::Url(..) => "url",
            Self::EmailAddress(..) => "email-address",
            Self::Port(..) => "port",
            Self::AddressRange(_) => "address-range",
            Self::SeveralNames(_) => "several-names",
            Self::IpAddress(_) => "ip-address",
            Self::SpecialPurpose(_) => "special-purpose-address",
            Self::WildcardNeedsDns(_) => "wildcard-needs-dns-01",
            Self::NoDnsSection(_) => "no-dns-section",
            Self::WildcardPosition(_) => "wildcard-position",
            Self::UnknownTopLevelDomain(_) => "unknown-top-level-domain",
            Self::PublicSuffix(_) => "public-suffix",
            Self::RepeatedLabels(_) => "repeated-labels",
        }
    }
}

fn give(host: &Option<String>) -> String {
    host.as_ref().map(|host| format!(", {host}")).unwrap_or_default()
}

/// What a text is that was meant to be a name and holds one: a URL, an e-mail address, a name with a port, a range of
/// addresses, several names.
pub(super) fn mistaken_for(text: &str) -> Option<NameError> {
    let named = || text.to_owned();
    let parts =
        || text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';')).filter(|p| !p.is_empty());
    if parts().count() > 1 && parts().all(|part| part.contains('.') && !part.contains("://")) {
        return Some(NameError::SeveralNames(named()));
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Some(NameError::Url(named(), host_of(rest)));
    }
    if let Some((_, rest)) = text.split_once('@') {
        return Some(NameError::EmailAddress(named(), host_of(rest)));
    }
    if let Some((address, bits)) = text.split_once('/')
        && bits.bytes().all(|b| b.is_ascii_digit())
        && !bits.is_empty()
        && address.parse::<IpAddr>().is_ok()
    {
        return Some(NameError::AddressRange(named()));
    }
    if let Some((before, _)) = text.split_once(['/', '?', '#'])
        && let Some(host) = host_of(before)
    {
        return Some(NameError::Url(named(), Some(host)));
    }
    // An address of version 6 has several colons, in brackets where a port follows.
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
    let (host, port) = bracketed.or_else(|| text.split_once(':').filter(|(_, port)| !port.contains(':')))?;
    (!port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        .then(|| NameError::Port(named(), host_of(host)))
}

/// The name that a pasted text is about, where it is one.
fn host_of(text: &str) -> Option<String> {
    let host = text.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => {
            host.rsplit_once(':').filter(|(before, _)| !before.contains(':')).map_or(host, |(host, _)| host)
        }
    };
    DnsName::parse_identifier(bare.trim_end_matches('.')).ok().map(|name| name.to_unicode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pasted_is_named_with_the_name_in_it() {
        for (text, rule, host) in [
            ("https://Shop.example.com/cart?x=1", "url", ", shop.example.com"),
            ("http://user:secret@shop.example.com:8080/", "url", ", shop.example.com"),
            ("https://[2001:db8::1]:443/", "url", ", 2001:db8::1"),
            ("https://", "url", "alone"),
            ("shop.example.com/", "url", ", shop.example.com"),
            ("shop.example.com/cart", "url", ", shop.example.com"),
            ("postmaster@example.com", "email-address", ", example.com"),
            ("mailto:postmaster@example.com", "email-address", ", example.com"),
            ("shop.example.com:443", "port", ", shop.example.com"),
            ("상점.example.kr:8443", "port", ", 상점.example.kr"),
            ("*.example.com:443", "port", ", example.com"),
            ("192.0.2.7:443", "port", ", 192.0.2.7"),
            ("[2001:db8::1]:443", "port", ", 2001:db8::1"),
            ("192.0.2.0/24", "address-range", "single"),
            ("2001:db8::/32", "address-range", "single"),
            ("a.example.com,b.example.com", "several-names", "each"),
            ("a.example.com; b.example.com", "several-names", "each"),
            ("a.example.com\tb.example.com", "several-names", "each"),
        ] {
            let error = DnsName::parse_identifier(text).expect_err(text);
            assert_eq!(error.rule(), rule, "{text:?}: {error}");
            assert!(error.to_string().contains(host), "{text:?}: {error}");
        }
        for text in ["2001:db8::1", "[2001:db8::1]", "shop.example.com", "*.example.com"] {
            assert!(DnsName::parse_identifier(text).is_ok(), "{text}");
        }
        for text in ["ex ample.com", "a$b.example.com"] {
            assert_eq!(DnsName::parse(text).unwrap_err().rule(), "invalid-character", "{text}");
        }
    }
}
