//! What every call gives back beside its object: when the server wants to be asked again.

use std::time::Duration;

/// An object of the server, and the `Retry-After` that came with it (RFC 8555 sections 6.6 and 7.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub value: T,
    /// As far as it is believed. [`poll_delay`](super::poll_delay) makes a polling pause of it.
    pub retry_after: Option<Duration>,
}

impl<T> Answer<T> {
    /// The same answer with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { value: change(self.value), retry_after: self.retry_after }
    }
}
