//! Where a redirect may lead, as Let's Encrypt's validator decides it (boulder `va/http.go`; CA/B Forum Baseline
//! Requirements 3.2.2.4.19): a function of the answer, the hops so far and the rules.

use super::Rules;
use crate::dns::is_special_purpose;
use std::{fmt, net::IpAddr};
use url::Url;

/// The most redirects that are followed. The documentation says ten; the code lets an eleventh pass.
pub const MAX_REDIRECTS: usize = 11;
/// The longest path of a redirect target, in bytes.
pub const MAX_PATH_BYTES: usize = 2000;

/// `http` or `https`; a validator knows no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// Whom a hop asks: a name to be looked up, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    Name(String),
}

/// One hop: everything that a request needs, already judged by the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    /// Path and query, as they go into the request line.
    pub path_and_query: String,
}

/// Why a redirect is not followed. `Display` uses the CA's own words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectRefusal {
    #[error("received disallowed redirect status code {0}")]
    Status(u16),
    #[error("too many redirects")]
    TooMany,
    #[error("redirect loop detected at {0}")]
    Loop(String),
    #[error("the redirect target cannot be parsed as a URL")]
    Unparsable,
    #[error("invalid protocol scheme {0:?} in redirect target, only http and https are supported")]
    Scheme(String),
    #[error("invalid port in redirect target, only ports 80 and 443 are supported, not {0}")]
    Port(String),
    #[error("invalid empty host in redirect target")]
    EmptyHost,
    #[error("invalid host {0:?} in redirect target, a slash is missing before .well-known")]
    MissingSlash(String),
    #[error("invalid host {0:?} in redirect target, must end in IANA registered TLD")]
    NotPublic(String),
    #[error("invalid host {0} in redirect target, it is a special-purpose address")]
    SpecialPurpose(IpAddr),
    #[error("redirect target too long")]
    TooLong,
}

impl Target {
    /// The first request of a validation: always `http`, always the validation port.
    pub fn first(host: &str, path: &str, rules: &Rules) -> Self {
        let host = host.to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host);
        let host = bare.parse().map_or_else(|_| Host::Name(bare.to_owned()), Host::Address);
        Self { scheme: Scheme::Http, host, port: rules.http_port, path_and_query: path.to_owned() }
    }

    /// The `Host` header: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let implied = if self.scheme == Scheme::Http { 80 } else { 443 };
        if self.port == implied { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

/// The hop that follows an answer `status` with `location` at `from`, or why there is none.
/// `earlier` are all URLs asked so far, `from` among them.
///
/// # Errors
/// [`RedirectRefusal`], in the order in which the CA checks.
pub fn next_hop(
    from: &Target,
    status: u16,
    location: &str,
    earlier: &[String],
    rules: &Rules,
) -> Result<Target, RedirectRefusal> {
    if !matches!(status, 301 | 302 | 307 | 308) {
        return Err(RedirectRefusal::Status(status));
    }
    if earlier.len() > MAX_REDIRECTS {
        return Err(RedirectRefusal::TooMany);
    }
    let target = parse_absolute(&resolve_reference(from, location)?, rules)?;
    let url = target.to_string();
    if earlier.contains(&url) {
        return Err(RedirectRefusal::Loop(url));
    }
    Ok(target)
}

/// A relative reference joined with the URL it came from; an absolute one as it is, since normalising it (`..`, default
/// ports, `http:///host`) would let pass what a CA's parser refuses.
fn resolve_reference(from: &Target, location: &str) -> Result<String, RedirectRefusal> {
    let location = location.trim_matches([' ', '\t']);
    let unreadable = location.is_empty() || location.contains(|c: char| c.is_control() || c == '\\');
    if unreadable || !has_whole_escapes(location) {
        return Err(RedirectRefusal::Unparsable);
    }
    if location.starts_with("//") {
        return Ok(format!("{}:{location}", from.scheme));
    }
    let before_colon = location.split([':', '/', '?', '#']).next().unwrap_or_default();
    let has_scheme = location[before_colon.len()..].starts_with(':')
        && before_colon.starts_with(|c: char| c.is_ascii_alphabetic());
    if has_scheme {
        return Ok(location.to_owned());
    }
    let base = Url::parse(&from.to_string()).map_err(|_| RedirectRefusal::Unparsable)?;
    Ok(base.join(location).map_err(|_| RedirectRefusal::Unparsable)?.into())
}

/// Whether every `%` begins an escape, but for those of the query, which nobody decodes (Go's `net/url`).
fn has_whole_escapes(location: &str) -> bool {
    let (before, fragment) = location.split_once('#').unwrap_or((location, ""));
    let path = before.split('?').next().unwrap_or_default();
    [path, fragment].iter().all(|part| {
        part.split('%')
            .skip(1)
            .all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()))
    })
}

fn parse_absolute(text: &str, rules: &Rules) -> Result<Target, RedirectRefusal> {
    let (scheme, rest) = text.split_once(':').ok_or(RedirectRefusal::Unparsable)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => return Err(RedirectRefusal::Scheme(other.to_owned())),
    };
    let rest = rest.strip_prefix("//").ok_or(RedirectRefusal::EmptyHost)?;
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let (host, port) = split_port(authority.rsplit('@').next().unwrap_or_default())?;
    let port = match port {
        None if scheme == Scheme::Http => rules.http_port,
        None => rules.https_port,
        Some(text) => allowed_port(text, rules)?,
    };
    let host = judge_host(host, rules)?;
    let path = path.split('#').next().unwrap_or_default();
    if path.split('?').next().unwrap_or_default().len() > MAX_PATH_BYTES {
        return Err(RedirectRefusal::TooLong);
    }
    Ok(Target { scheme, host, port, path_and_query: as_request_target(path) })
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), RedirectRefusal> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(literal) => {
            let end = literal.find(']').ok_or(RedirectRefusal::Unparsable)? + 2;
            authority.split_at(end)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((host, None)),
        Some("") => Ok((host, None)),
        Some(port) => Ok((host, Some(port))),
        None => Err(RedirectRefusal::Unparsable),
    }
}

fn allowed_port(text: &str, rules: &Rules) -> Result<u16, RedirectRefusal> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|port| digits && rules.allows_port(*port))
        .ok_or_else(|| RedirectRefusal::Port(text.to_owned()))
}

fn judge_host(host: &str, rules: &Rules) -> Result<Host, RedirectRefusal> {
    if host.is_empty() {
        return Err(RedirectRefusal::EmptyHost);
    }
    let host = host.to_ascii_lowercase();
    let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if let Ok(address) = literal.unwrap_or(&host).parse::<IpAddr>() {
        if address.is_ipv6() != literal.is_some() {
            return Err(RedirectRefusal::Unparsable);
        }
        if is_special_purpose(address) && !rules.allow_special_purpose_addresses {
            return Err(RedirectRefusal::SpecialPurpose(address));
        }
        return Ok(Host::Address(address));
    }
    if host.ends_with(".well-known") {
        return Err(RedirectRefusal::MissingSlash(host));
    }
    let ldh = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let well_formed =
        host.len() <= 253 && host.bytes().all(ldh) && host.split('.').all(|label| !label.is_empty());
    if !well_formed || !rules.allows_host(&host) {
        return Err(RedirectRefusal::NotPublic(host));
    }
    Ok(Host::Name(host))
}

/// The path with a leading slash, and with what may not stand in a request line percent-encoded.
fn as_request_target(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        encoded.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Http { "http" } else { "https" })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path_and_query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn the_cas_rules() -> Rules {
        Rules::for_port(80, |name| name.ends_with(".net") || name.ends_with(".kr"))
    }

    fn follow(status: u16, location: &str) -> Result<Target, RedirectRefusal> {
        let rules = the_cas_rules();
        let from = Target::first("Shop.Customer.net", "/.well-known/acme-challenge/abc", &rules);
        next_hop(&from, status, location, &[from.to_string()], &rules)
    }

    #[test]
    fn the_recommended_redirect_is_followed() {
        let hop = follow(302, "http://acme.hoster.net/.well-known/acme-challenge/abc").unwrap();
        assert_eq!(hop.to_string(), "http://acme.hoster.net/.well-known/acme-challenge/abc");
        assert_eq!((hop.port, hop.authority().as_str()), (80, "acme.hoster.net"));
    }

    #[test]
    fn only_four_status_codes_are_redirects() {
        for status in [301, 302, 307, 308] {
            assert!(follow(status, "http://a.net/x").is_ok(), "{status}");
        }
        for status in [300, 303, 304, 305, 306] {
            assert_eq!(follow(status, "http://a.net/x"), Err(RedirectRefusal::Status(status)));
        }
    }

    #[test]
    fn accepted_targets() {
        for (location, url) in [
            ("https://a.net/x?q=1#frag", "https://a.net/x?q=1"),
            ("http://A.NET:443/x", "http://a.net:443/x"),
            ("https://a.net:80", "https://a.net:80/"),
            ("http://a.net:/x", "http://a.net/x"),
            ("//a.net/x", "http://a.net/x"),
            ("/y/../z?k", "http://shop.customer.net/z?k"),
            ("other", "http://shop.customer.net/.well-known/acme-challenge/other"),
            ("http://a.net/a/../b", "http://a.net/a/../b"),
            ("http://user@a.net/x", "http://a.net/x"),
            ("http://8.8.8.8/x", "http://8.8.8.8/x"),
            ("http://[2a00:1450::1]:443/x", "http://[2a00:1450::1]:443/x"),
            ("http://a.net/\u{c0c1}", "http://a.net/%EC%83%81"),
            ("http://a.net?x", "http://a.net/?x"),
            ("http://a.net/%41?%zz", "http://a.net/%41?%zz"),
        ] {
            assert_eq!(follow(302, location).map(|t| t.to_string()), Ok(url.to_owned()), "{location}");
        }
    }

    #[test]
    fn refused_targets() {
        use RedirectRefusal as No;
        for (location, refusal) in [
            ("http://a.net:8080/x", No::Port("8080".into())),
            ("http://a.net:0/x", No::Port("0".into())),
            ("http://a.net:65616/x", No::Port("65616".into())),
            ("http://a.net:+80/x", No::Port("+80".into())),
            ("ftp://a.net/x", No::Scheme("ftp".into())),
            ("javascript:alert(1)", No::Scheme("javascript".into())),
            ("http:a.net/x", No::EmptyHost),
            ("http:///a.net/x", No::EmptyHost),
            ("http://:80/x", No::EmptyHost),
            ("http://a.net.well-known/acme-challenge/x", No::MissingSlash("a.net.well-known".into())),
            ("http://a.internal/x", No::NotPublic("a.internal".into())),
            ("http://localhost/x", No::NotPublic("localhost".into())),
            ("http://a.net./x", No::NotPublic("a.net.".into())),
            ("http://\u{c0c1}.kr/x", No::NotPublic("\u{c0c1}.kr".into())),
            ("http://0x7f000001/x", No::NotPublic("0x7f000001".into())),
            ("http://127.0.0.1/x", No::SpecialPurpose("127.0.0.1".parse().unwrap())),
            ("http://[::1]/x", No::SpecialPurpose("::1".parse().unwrap())),
            ("http://[fe80::1%25eth0]/x", No::NotPublic("[fe80::1%25eth0]".into())),
            ("http://[::1/x", No::Unparsable),
            ("http://a.net\\@b.net/x", No::Unparsable),
            ("http://a.net/%zz", No::Unparsable),
            ("/x#%4", No::Unparsable),
            ("http://a.net/\r\nX: y", No::Unparsable),
            ("", No::Unparsable),
            (
                "http://shop.customer.net/.well-known/acme-challenge/abc",
                No::Loop("http://shop.customer.net/.well-known/acme-challenge/abc".into()),
            ),
        ] {
            assert_eq!(follow(302, location), Err(refusal), "{location}");
        }
        assert_eq!(follow(302, &format!("http://a.net/{}", "x".repeat(2000))), Err(No::TooLong));
        assert!(follow(302, &format!("http://a.net/{}?{}", "x".repeat(1999), "y".repeat(3000))).is_ok());
    }

    #[test]
    fn the_twelfth_redirect_is_one_too_many() {
        let rules = the_cas_rules();
        let mut at = Target::first("a.net", "/0", &rules);
        let mut earlier = vec![at.to_string()];
        for n in 1..=MAX_REDIRECTS {
            at = next_hop(&at, 302, &format!("/{n}"), &earlier, &rules).unwrap();
            earlier.push(at.to_string());
        }
        assert_eq!(next_hop(&at, 302, "/end", &earlier, &rules), Err(RedirectRefusal::TooMany));
    }

    #[test]
    fn a_test_port_opens_the_test_names_and_nothing_else() {
        let rules = Rules::for_port(5002, |_| false);
        let from = Target::first("shop.test", "/t", &rules);
        let at = |location: &str| next_hop(&from, 302, location, &[from.to_string()], &rules);
        assert_eq!(at("http://acme.test:5002/t").unwrap().port, 5002);
        assert_eq!(at("http://acme.test/u").unwrap().port, 5002);
        assert!(at("http://127.0.0.1:5002/t").is_ok());
        assert_eq!(at("http://acme.test:5003/t"), Err(RedirectRefusal::Port("5003".into())));
        assert_eq!(at("http://nowhere/t"), Err(RedirectRefusal::NotPublic("nowhere".into())));
    }

    proptest! {
        #[test]
        fn any_location_is_judged_without_a_panic(location in ".{0,200}", status in 300u16..310) {
            let _ = follow(status, &location);
        }

        #[test]
        fn no_accepted_hop_leaves_the_allowed_ports_or_the_public_names(
            location in r"(https?:)?//([a-z0-9.@-]{0,12}|\[[0-9a-f:]{0,9}\]|[0-9.]{7,15})(\.net|\.kr|)(:[0-9]{0,6})?[/?#][ -~]{0,20}"
        ) {
            if let Ok(hop) = follow(302, &location) {
                prop_assert!(hop.port == 80 || hop.port == 443);
                match &hop.host {
                    Host::Name(name) => prop_assert!(name.ends_with(".net") || name.ends_with(".kr")),
                    Host::Address(address) => prop_assert!(!is_special_purpose(*address)),
                }
                prop_assert!(hop.path_and_query.starts_with('/'));
                prop_assert!(hop.path_and_query.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
