//! Whose fault a failure is, and whether trying again can help: the two questions every caller asks of an error.

use std::time::Duration;

/// Who has to act before the failed operation can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The certificate authority.
    Ca,
    /// The owner of the hostname: DNS, CAA, a firewall, another server.
    Customer,
    /// Whoever runs Signpost: configuration, credentials, the redirect rule.
    Operator,
    /// Redis, or the way to it.
    Store,
    /// This program.
    Bug,
}

/// Whether the same operation may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not until somebody changes something.
    Never,
    /// At the server's word, not earlier.
    After(Duration),
    /// With growing pauses.
    Backoff,
}

/// The whole chain of causes on one line, for the log and for people: `a: b: c`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let next = inner.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = inner.source();
    }
    text
}
