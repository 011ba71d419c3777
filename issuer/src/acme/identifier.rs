//! What a certificate is asked for (RFC 8555 section 7.1.4, RFC 8738).

use serde::{Deserialize, Serialize};
use shared::domain::DnsName;
use std::{fmt, net::IpAddr};

/// A name to be certified: `{"type": "dns", "value": "www.example.org"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identifier {
    /// `dns` or `ip`; others are kept as they came.
    #[serde(rename = "type")]
    pub kind: String,
    pub value: String,
}

impl Identifier {
    pub const DNS: &'static str = "dns";
    pub const IP: &'static str = "ip";

    /// A hostname in A-labels. It is put into lower case, which is how orders and certificates are compared.
    pub fn dns(name: &str) -> Self {
        Self { kind: Self::DNS.to_owned(), value: name.to_ascii_lowercase() }
    }

    /// An IP address in its canonical text (RFC 5952, RFC 8738 section 3).
    pub fn ip(address: IpAddr) -> Self {
        Self { kind: Self::IP.to_owned(), value: address.to_string() }
    }
}

impl From<&DnsName> for Identifier {
    fn from(name: &DnsName) -> Self {
        name.address().map_or_else(|| Self::dns(name.as_str()), Self::ip)
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)
    }
}
