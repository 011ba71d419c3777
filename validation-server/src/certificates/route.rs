//! From a request line to what is wanted. Pure; whatever it doesn't know is [`Route::Nowhere`].

use serde::{Serialize, Serializer};
use shared::domain::{DnsName, FeedCursor, SiteId, Slot};
use std::{fmt, time::Duration};

/// Items on a page of the listing, unless asked for otherwise, and at most.
const PAGE_ITEMS: usize = 500;
const MOST_PAGE_ITEMS: usize = 1000;

/// Proxies give up on a silent server after a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(55);

const ROOT: &str = "/v1/certificates";
const HAPROXY: &str = "/v1/adapters/haproxy/";

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    List {
        after: Option<ItemId>,
        limit: usize,
    },
    One(Target),
    File(Target, Slot, FileKind),
    Changes {
        cursor: Option<Box<FeedCursor>>,
        limit: usize,
        wait: Duration,
    },
    Bundles,
    Status,
    Sightings,
    Traefik,
    Caddy,
    /// Envoy's secret discovery.
    Secrets,
    /// Certificate, chain and key in one file; of whichever kind there is.
    Haproxy(Target, Option<Slot>),
    /// Whether a frontend may order a certificate for a name itself; `None`: for nothing that is a name.
    Ask(Option<DnsName>),
    /// The frontend's own.
    Certificate,
    /// One of them with parameters that make no sense; in words.
    Mistaken(&'static str),
    Nowhere,
}

/// Certificates by the id of an item, as listings have it, or by a name that they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Item(ItemId),
    Name(DnsName),
}

/// Names an item of a listing: `GROUP` is what a group serves, `GROUP_kept` what it serves on, besides, to names that its
/// newer certificate lacks. In the order of listings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ItemId {
    pub(crate) group: SiteId,
    pub(crate) kept: bool,
}

const KEPT: &str = "_kept";

/// The files of one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// The leaf and its chain.
    Fullchain,
    Chain,
    /// The leaf.
    Cert,
    Privkey,
    /// The leaf, its chain and the private key: what HAProxy reads.
    Bundle,
}

impl Route {
    /// `path` as it came, nothing decoded; `query` without the question mark.
    pub(crate) fn parse(path: &str, query: &str) -> Self {
        match path {
            "/v1/changes" => return Self::parse_changes(query),
            "/v1/ask" => return Self::parse_ask(query),
            "/v1/bundles" => return Self::Bundles,
            "/v1/sightings" => return Self::Sightings,
            "/v1/frontends/self/status" => return Self::Status,
            "/v1/frontends/self/certificate" => return Self::Certificate,
            "/v1/adapters/traefik" => return Self::Traefik,
            "/v1/adapters/caddy" => return Self::Caddy,
            // Envoy asks at this path of a server of its own and can't be told of another.
            "/v1/adapters/envoy/v3/discovery:secrets" | "/v3/discovery:secrets" => return Self::Secrets,
            _ => {}
        }
        if let Some(file) = path.strip_prefix(HAPROXY) {
            return Self::parse_haproxy(file).unwrap_or(Self::Nowhere);
        }
        match path.strip_prefix(ROOT) {
            Some("") => Self::parse_list(query),
            Some(rest) => Self::parse_below(rest).unwrap_or(Self::Nowhere),
            None => Self::Nowhere,
        }
    }

    /// A word for metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::List { .. } | Self::Mistaken(_) => "list",
            Self::One(_) => "one",
            Self::File(_, _, kind) if kind.holds_key() => "key",
            Self::File(..) => "file",
            Self::Changes { .. } => "changes",
            Self::Bundles => "bundles",
            Self::Status => "status",
            Self::Sightings => "sightings",
            Self::Ask(_) => "ask",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Secrets => "envoy",
            Self::Haproxy(..) => "haproxy",
            Self::Certificate => "certificate",
            Self::Nowhere => "nowhere",
        }
    }

    fn parse_list(query: &str) -> Self {
        let (mut after, mut limit) = (None, PAGE_ITEMS);
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("after", id)) => match ItemId::parse(id) {
                    Some(id) => after = Some(id),
                    None => {
                        return Self::Mistaken("after: expected the id that the page before named as next");
                    }
                },
                Some(("limit", number)) => match number.parse() {
                    Ok(number) if number > 0 => limit = MOST_PAGE_ITEMS.min(number),
                    _ => return Self::Mistaken("limit: expected a number from 1 to 1000"),
                },
                _ => {}
            }
        }
        Self::List { after, limit }
    }

    fn parse_changes(query: &str) -> Self {
        let (mut cursor, mut limit, mut wait) = (None, PAGE_ITEMS, Duration::ZERO);
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("cursor", "")) => cursor = None,
                Some(("cursor", text)) => match text.parse() {
                    Ok(known) => cursor = Some(Box::new(known)),
                    Err(_) => {
                        return Self::Mistaken("cursor: expected the one that the answer before has named");
                    }
                },
                Some(("limit", number)) => match number.parse() {
                    Ok(number) if number > 0 => limit = MOST_PAGE_ITEMS.min(number),
                    _ => return Self::Mistaken("limit: expected a number from 1 to 1000"),
                },
                Some(("wait", seconds)) => match seconds.parse() {
                    Ok(seconds) => wait = LONGEST_WAIT.min(Duration::from_secs(seconds)),
                    Err(_) => return Self::Mistaken("wait: expected seconds, 0 to 55"),
                },
                _ => {}
            }
        }
        Self::Changes { cursor, limit, wait }
    }

    fn parse_ask(query: &str) -> Self {
        let domain = query.split('&').find_map(|pair| pair.strip_prefix("domain="));
        let name = domain.and_then(percent_decoded).and_then(|text| DnsName::parse(&text).ok());
        Self::Ask(name)
    }

    /// The methods that it is asked with.
    pub(crate) const fn methods(&self) -> &'static str {
        match self {
            Self::Bundles | Self::Status | Self::Sightings | Self::Certificate | Self::Secrets => "POST",
            _ => "GET, HEAD",
        }
    }

    /// `NAME.pem`, and what HAProxy reads beside it where there are two kinds: `NAME.pem.ecdsa`, `NAME.pem.rsa`.
    fn parse_haproxy(file: &str) -> Option<Self> {
        let (name, slot) = match file.strip_suffix(".pem") {
            Some(name) => (name, None),
            None => {
                let (name, slot) = file.rsplit_once(".pem.")?;
                (name, Some(slot.parse().ok()?))
            }
        };
        Some(Self::Haproxy(Target::parse(name)?, slot))
    }

    fn parse_below(rest: &str) -> Option<Self> {
        let mut segments = rest.strip_prefix('/')?.split('/');
        let target = Target::parse(segments.next()?)?;
        match (segments.next(), segments.next(), segments.next()) {
            (None, ..) => Some(Self::One(target)),
            (Some(slot), Some(file), None) => {
                Some(Self::File(target, slot.parse().ok()?, FileKind::parse(file)?))
            }
            _ => None,
        }
    }
}

impl Target {
    /// A site's id has no dot, and no name is without one.
    fn parse(segment: &str) -> Option<Self> {
        match ItemId::parse(segment) {
            Some(id) => Some(Self::Item(id)),
            None => DnsName::parse_identifier(&percent_decoded(segment)?).ok().map(Self::Name),
        }
    }
}

impl ItemId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (group, kept) = match text.strip_suffix(KEPT) {
            Some(group) => (group, true),
            None => (text, false),
        };
        Some(Self { group: SiteId::parse(group)?, kept })
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.group, if self.kept { KEPT } else { "" })
    }
}

impl Serialize for ItemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FileKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fullchain => "fullchain",
            Self::Chain => "chain",
            Self::Cert => "cert",
            Self::Privkey => "privkey",
            Self::Bundle => "bundle",
        }
    }

    pub(crate) const fn holds_key(self) -> bool {
        matches!(self, Self::Privkey | Self::Bundle)
    }

    /// `ocsp.der` is not among them as long as none is kept.
    fn parse(file: &str) -> Option<Self> {
        const ALL: [FileKind; 5] =
            [FileKind::Fullchain, FileKind::Chain, FileKind::Cert, FileKind::Privkey, FileKind::Bundle];
        let stem = file.strip_suffix(".pem")?;
        ALL.into_iter().find(|kind| kind.as_str() == stem)
    }
}

/// RFC 3986 section 2.1; `None` for what is malformed or no UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digit =
            |at: usize| char::from(digits[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        decoded.push(digit(0)? << 4 | digit(1)?);
        rest = tail;
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0123456789abcdef0123";

    fn name(text: &str) -> Target {
        Target::Name(DnsName::parse(text).unwrap())
    }

    #[test]
    fn paths_and_what_they_ask_for() {
        let item = |kept| Target::Item(ItemId { group: SiteId::parse(ID).unwrap(), kept });
        let site = || item(false);
        let table = [
            ("/v1/certificates/shop.example.com", Route::One(name("shop.example.com"))),
            ("/v1/certificates/intranet", Route::One(name("intranet"))),
            ("/v1/certificates/Shop.EXAMPLE.com", Route::One(name("shop.example.com"))),
            ("/v1/certificates/xn--hg4bs7k.example.kr", Route::One(name("상점.example.kr"))),
            ("/v1/certificates/%EC%83%81%EC%A0%90.example.kr", Route::One(name("상점.example.kr"))),
            (
                "/v1/certificates/*.example.com",
                Route::One(Target::Name(DnsName::parse_identifier("*.example.com").unwrap())),
            ),
            ("/v1/certificates/0123456789abcdef0123", Route::One(site())),
            ("/v1/certificates/0123456789abcdef0123_kept", Route::One(item(true))),
            (
                "/v1/certificates/0123456789abcdef0123/rsa/privkey.pem",
                Route::File(site(), Slot::Rsa, FileKind::Privkey),
            ),
            (
                "/v1/certificates/shop.example.com/ecdsa/bundle.pem",
                Route::File(name("shop.example.com"), Slot::Ecdsa, FileKind::Bundle),
            ),
        ];
        for (path, route) in table {
            assert_eq!(Route::parse(path, ""), route, "{path}");
        }
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v2/certificates",
            "/v1/certificatesx",
            "/v1/certificates/",
            "/v1/certificates//",
            "/v1/certificates/_kept",
            "/v1/certificates/0123456789abcdef0123_old",
            "/v1/certificates/shop.example.com/",
            "/v1/certificates/shop.example.com/ecdsa",
            "/v1/certificates/shop.example.com/ecdsa/",
            "/v1/certificates/shop.example.com/dsa/cert.pem",
            "/v1/certificates/shop.example.com/ecdsa/cert.der",
            "/v1/certificates/shop.example.com/ecdsa/ocsp.der",
            "/v1/certificates/shop.example.com/ecdsa/cert.pem/",
            "/v1/certificates/../certificates",
            "/v1/certificates/a%2Fb.example.com",
            "/v1/certificates/a%2.com",
            "/v1/certificates/%ff.example.com",
            "/v1/changes/",
            "/v1/bundles/x",
            "/v1/frontends/edge-1/status",
        ] {
            assert_eq!(Route::parse(path, ""), Route::Nowhere, "{path}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        let list = |query: &str| Route::parse(ROOT, query);
        let page = |after: Option<&str>, limit| Route::List { after: after.and_then(ItemId::parse), limit };
        assert_eq!(list(""), page(None, 500));
        assert_eq!(list("limit=7&x=1"), page(None, 7));
        assert_eq!(list("limit=100000"), page(None, 1000));
        assert_eq!(list(&format!("after={ID}")), page(Some(ID), 500));
        let kept = format!("{ID}_kept");
        assert_eq!(list(&format!("after={kept}")), page(Some(&kept), 500));
        for query in
            ["limit=0", "limit=-1", "limit=x", "limit=", "after=", "after=../x", "after=shop.example.com"]
        {
            assert!(matches!(list(query), Route::Mistaken(_)), "{query}");
        }
    }

    #[test]
    fn changes_are_asked_for_with_a_cursor_or_without() {
        let asked = |query: &str| Route::parse("/v1/changes", query);
        let changes = |cursor: Option<&str>, limit, seconds| Route::Changes {
            cursor: cursor.map(|text| Box::new(text.parse().unwrap())),
            limit,
            wait: Duration::from_secs(seconds),
        };
        assert_eq!(asked(""), changes(None, 500, 0));
        assert_eq!(asked("cursor=&wait=20"), changes(None, 500, 20));
        assert_eq!(asked("cursor=e.s.1_2&limit=3&wait=3600"), changes(Some("e.s.1_2"), 3, 55));
        for query in ["cursor=x", "limit=0", "wait=", "wait=-1", "wait=x"] {
            assert!(matches!(asked(query), Route::Mistaken(_)), "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in any::<String>(), query in any::<String>()) {
            let _ = Route::parse(&format!("{ROOT}{path}"), &query);
            let _ = Route::parse(&path, &query);
        }
    }
}
