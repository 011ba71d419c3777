//! Faults: which request, and what happens to it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use super::Endpoint;

/// A request as a rule sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub endpoint: Endpoint,
    pub path: String,
    /// The names of the order that the request belongs to; empty when it belongs to none.
    pub names: Vec<String>,
}

/// What happens to a request that a rule has picked.
#[derive(Clone)]
pub enum Action {
    /// 400 `badNonce` with a fresh nonce; the CA sees nothing.
    RefuseNonce,
    /// This answer; the CA sees nothing.
    Answer(Answer),
    /// TCP reset; the CA sees nothing.
    Reset,
    /// Waits before the CA is asked.
    Delay(Duration),
    /// The CA acts, the client sees a TCP reset.
    DropAnswer,
    /// The CA acts, the client gets half of the body (with a fitting Content-Length).
    MalformedBody,
    /// The CA acts, the client gets this body with the CA's status and headers.
    ReplaceBody(String),
    /// Pebble's answer, with one text in the place of another wherever it stands.
    Rewrite(String, String),
    /// Pebble's answer, its body changed.
    Change(Changer),
    /// Pebble's answer without this header.
    WithoutHeader(String),
    /// Runs before the CA is asked.
    CallBefore(Callback),
    /// Runs when the CA has answered and the client doesn't know yet.
    CallAfter(Callback),
}

/// Runs on the proxy's thread: must be short.
pub type Callback = Arc<dyn Fn(&Seen) + Send + Sync>;

/// Makes another body of the CA's.
pub type Changer = Arc<dyn Fn(&str) -> String + Send + Sync>;

impl Action {
    /// A problem document (RFC 8555 section 6.7) with a fresh nonce, such as `problem(429, "rateLimited", "...")`.
    pub fn problem(status: u16, kind: &str, detail: &str) -> Self {
        Self::Answer(Answer::problem(status, kind, detail))
    }

    pub fn change(change: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::Change(Arc::new(change))
    }

    /// [`Action::Change`] of a JSON object; what is none stays as it is.
    pub fn change_object(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::change(move |body| match serde_json::from_str::<Value>(body) {
            Ok(mut object) => {
                change(&mut object);
                object.to_string()
            }
            Err(_) => body.to_owned(),
        })
    }

    pub fn call_before(callback: impl Fn(&Seen) + Send + Sync + 'static) -> Self {
        Self::CallBefore(Arc::new(callback))
    }

    pub fn call_after(callback: impl Fn(&Seen) + Send + Sync + 'static) -> Self {
        Self::CallAfter(Arc::new(callback))
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RefuseNonce => "RefuseNonce",
            Self::Answer(_) => "Answer",
            Self::Reset => "Reset",
            Self::Delay(_) => "Delay",
            Self::DropAnswer => "DropAnswer",
            Self::MalformedBody => "MalformedBody",
            Self::ReplaceBody(_) => "ReplaceBody",
            Self::Rewrite(..) => "Rewrite",
            Self::Change(_) => "Change",
            Self::WithoutHeader(_) => "WithoutHeader",
            Self::CallBefore(_) => "CallBefore",
            Self::CallAfter(_) => "CallAfter",
        })
    }
}

/// An answer that the CA never gave.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Adds a Replay-Nonce that the CA will accept; a load balancer's errors carry none.
    pub with_nonce: bool,
}

impl Answer {
    /// A bare page as a load balancer gives it: no nonce, no problem document.
    pub fn page(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.to_owned(), with_nonce: false }
    }

    pub fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let body = serde_json::json!({
            "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": status,
        });
        Self { with_nonce: true, ..Self::page(status, "application/problem+json", &body.to_string()) }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Which of the matching requests a rule picks, counted from 1 since the rule was added.
#[derive(Debug, Clone, Copy)]
enum Occurrence {
    All,
    Nth(u64),
    EveryNth(u64),
    First(u64),
}

/// One fault: `Rule::on(Endpoint::NewOrder).nth(1).does(Action::DropAnswer)`.
#[derive(Debug)]
pub struct Rule {
    endpoint: Option<Endpoint>,
    name: Option<String>,
    zone: Option<String>,
    path: Option<String>,
    occurrence: Occurrence,
    action: Action,
    matched: u64,
    hits: Hits,
}

/// How often a rule has struck.
#[derive(Debug, Clone, Default)]
pub struct Hits(Arc<AtomicU64>);

impl Hits {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A [`Rule`] that lacks its action.
#[derive(Debug, Clone)]
pub struct When {
    endpoint: Option<Endpoint>,
    name: Option<String>,
    zone: Option<String>,
    path: Option<String>,
    occurrence: Occurrence,
}

impl Rule {
    pub fn on(endpoint: Endpoint) -> When {
        When { endpoint: Some(endpoint), name: None, zone: None, path: None, occurrence: Occurrence::All }
    }

    pub fn on_any() -> When {
        When { endpoint: None, name: None, zone: None, path: None, occurrence: Occurrence::All }
    }

    pub(super) fn hits(&self) -> Hits {
        self.hits.clone()
    }

    /// The action for this request, when the rule picks it.
    pub(super) fn strike(&mut self, seen: &Seen) -> Option<Action> {
        if self.endpoint.is_some_and(|endpoint| endpoint != seen.endpoint)
            || self.name.as_ref().is_some_and(|name| !seen.names.contains(name))
            || self.path.as_ref().is_some_and(|path| *path != seen.path)
            || self.zone.as_ref().is_some_and(|zone| !seen.names.iter().any(|name| name.ends_with(zone)))
        {
            return None;
        }
        self.matched += 1;
        let picked = match self.occurrence {
            Occurrence::All => true,
            Occurrence::Nth(n) => self.matched == n,
            Occurrence::EveryNth(n) => self.matched.is_multiple_of(n.max(1)),
            Occurrence::First(n) => self.matched <= n,
        };
        picked.then(|| {
            self.hits.0.fetch_add(1, Ordering::SeqCst);
            self.action.clone()
        })
    }
}

impl When {
    /// Only requests of an order that contains this name.
    #[must_use]
    pub fn for_name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Only requests of an order that contains a name below this one.
    #[must_use]
    pub fn below(mut self, zone: &str) -> Self {
        self.zone = Some(format!(".{zone}"));
        self
    }

    /// Only requests of this path.
    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Only the `n`th matching request, from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.occurrence = Occurrence::Nth(n);
        self
    }

    /// Every `n`th matching request.
    #[must_use]
    pub fn every_nth(mut self, n: u64) -> Self {
        self.occurrence = Occurrence::EveryNth(n);
        self
    }

    /// The first `n` matching requests.
    #[must_use]
    pub fn first(mut self, n: u64) -> Self {
        self.occurrence = Occurrence::First(n);
        self
    }

    pub fn does(self, action: Action) -> Rule {
        let Self { endpoint, name, zone, path, occurrence } = self;
        Rule { endpoint, name, zone, path, occurrence, action, matched: 0, hits: Hits::default() }
    }
}
