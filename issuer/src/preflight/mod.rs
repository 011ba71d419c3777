//! What the CA will see, asked before the CA is.
//!
//! A failed validation costs one of the few that the CA allows per name and hour; a failed self-check costs nothing.
//! So the issuer fetches the challenge's real path first, with the rules of a strict validator: AAAA before A, one
//! fallback to IPv4 and only for a failed connection, few redirect codes, ports 80 and 443, public names and addresses,
//! a short body. What goes wrong is told in words that name the record or the rule to change.
//!
//! - [`redirect`]: the rules for one `Location`, as a function of values;
//! - [`fetch`]: one request on one connection; [`response`]: what came back, parsed;
//! - [`validator`]: the hops of one validation; [`finding`]: what was met on the way;
//! - [`look`]: a name before it is ordered, with a [`canary`]; [`judge`]: what the CA will make of it;
//! - [`reach`]: the self-check of an order; [`departure`]: whether a name still leads to the frontends at all;
//! - [`words`]: how all of it is said, in English and Korean.

pub mod canary;
pub mod departure;
pub mod fetch;
pub mod finding;
pub mod judge;
pub mod look;
pub mod reach;
pub mod redirect;
pub mod response;
pub mod validator;
pub mod words;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use canary::Canary;
pub use departure::{Departure, Whereabouts};
pub use finding::{Class, Failure, Finding, Hop, Outcome};
pub use judge::{Readiness, Remark, Report};
pub use look::{Depth, Preflight, Proof};
pub use reach::{Reach, SelfCheck};
pub use validator::{Timeouts, Validator};
pub use words::{Cause, Language};

/// What the validator allows. [`Rules::for_port`] makes the CA's own.
#[derive(Clone)]
pub struct Rules {
    /// The port of the first request and of `http` redirects that name none.
    pub http_port: u16,
    /// The port of `https` redirects that name none.
    pub https_port: u16,
    /// Whether loopback, private and other special-purpose addresses may be asked. Tests only.
    pub allow_special_purpose_addresses: bool,
    /// Whether the host of a redirect must end in a public top-level domain. Where it need not, names of the
    /// special-use domains (`.test`, `.example`, `.localhost`, ...) are accepted besides.
    pub require_public_suffix: bool,
    /// Whether a redirect may lead to any host: single labels, `.lan` and what else a network of one's own has.
    pub allow_any_host: bool,
    ends_in_public_tld: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Rules {
    /// The rules of a CA that validates on `http_port`. 80 gives the rules of Let's Encrypt. Any other port is for
    /// tests: it is allowed in redirects besides 80 and 443, loopback addresses may be asked, and special-use names
    /// count as public ones.
    ///
    /// `ends_in_public_tld` answers whether a lower-case host name ends in a top-level domain that ICANN delegates.
    pub fn for_port(
        http_port: u16,
        ends_in_public_tld: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let for_tests = http_port != 80;
        Self {
            http_port,
            https_port: 443,
            allow_special_purpose_addresses: for_tests,
            require_public_suffix: !for_tests,
            allow_any_host: false,
            ends_in_public_tld: Arc::new(ends_in_public_tld),
        }
    }

    /// The rules of a CA of one's own, on one's own network: private addresses may be asked, and names need not be public.
    #[must_use]
    pub fn of_private_ca(self) -> Self {
        Self {
            allow_special_purpose_addresses: true,
            require_public_suffix: false,
            allow_any_host: true,
            ..self
        }
    }

    /// Whether a redirect may name `port`.
    pub fn allows_port(&self, port: u16) -> bool {
        port == 80 || port == 443 || port == self.http_port || port == self.https_port
    }

    fn allows_host(&self, name: &str) -> bool {
        let special_use = ["test", "example", "invalid", "localhost", "local", "internal"];
        let last = name.rsplit('.').next().unwrap_or(name);
        self.allow_any_host
            || (self.ends_in_public_tld)(name)
            || (!self.require_public_suffix && special_use.contains(&last))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("http_port", &self.http_port)
            .field("https_port", &self.https_port)
            .field("allow_special_purpose_addresses", &self.allow_special_purpose_addresses)
            .field("require_public_suffix", &self.require_public_suffix)
            .field("allow_any_host", &self.allow_any_host)
            .finish_non_exhaustive()
    }
}
