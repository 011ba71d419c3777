//! Which part of Pebble's API a path belongs to.

/// The resources of RFC 8555 section 7.1, by the paths that Pebble gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    Directory,
    NewNonce,
    NewAccount,
    Account,
    NewOrder,
    Authorization,
    Challenge,
    Order,
    Finalize,
    Certificate,
    Revoke,
    KeyChange,
    RenewalInfo,
    Other,
}

impl Endpoint {
    /// Every endpoint, in the order of their declaration.
    pub const ALL: [Self; 14] = [
        Self::Directory,
        Self::NewNonce,
        Self::NewAccount,
        Self::Account,
        Self::NewOrder,
        Self::Authorization,
        Self::Challenge,
        Self::Order,
        Self::Finalize,
        Self::Certificate,
        Self::Revoke,
        Self::KeyChange,
        Self::RenewalInfo,
        Self::Other,
    ];

    pub fn of_path(path: &str) -> Self {
        match path {
            "/dir" => Self::Directory,
            "/nonce-plz" => Self::NewNonce,
            "/sign-me-up" => Self::NewAccount,
            "/order-plz" => Self::NewOrder,
            "/revoke-cert" => Self::Revoke,
            "/rollover-account-key" => Self::KeyChange,
            _ => {
                const BY_FOLDER: [(&str, Endpoint); 7] = [
                    ("/my-account/", Endpoint::Account),
                    ("/authZ/", Endpoint::Authorization),
                    ("/chalZ/", Endpoint::Challenge),
                    ("/my-order/", Endpoint::Order),
                    ("/finalize-order/", Endpoint::Finalize),
                    ("/certZ/", Endpoint::Certificate),
                    (super::renewal::PATH, Endpoint::RenewalInfo),
                ];
                BY_FOLDER
                    .iter()
                    .find(|(folder, _)| path.starts_with(folder))
                    .map_or(Self::Other, |(_, endpoint)| *endpoint)
            }
        }
    }
}

/// Requests by endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts([u64; Endpoint::ALL.len()]);

impl Counts {
    pub fn of(&self, endpoint: Endpoint) -> u64 {
        self.0[endpoint as usize]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn add(&mut self, endpoint: Endpoint) {
        self.0[endpoint as usize] += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// Only what was asked at all: `newOrder 1, finalize 1`.
impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut first = true;
        for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| self.of(*endpoint) > 0) {
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            write!(f, "{endpoint:?} {}", self.of(endpoint))?;
        }
        Ok(())
    }
}
