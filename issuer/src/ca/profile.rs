//! The files that describe CAs: those that are shipped with the program, and an operator's `limits_file`.

use serde::{Deserialize, Serialize};
use shared::domain::{Limit, Rate};
use std::collections::BTreeMap;

/// A shipped file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) title: String,
    pub(super) directory: String,
    pub(super) public: bool,
    pub(super) names_per_certificate: usize,
    #[serde(default)]
    pub(super) name_bytes: Option<usize>,
    pub(super) first_poll_ms: u64,
    /// What a CAA record must name for this CA, where its directory doesn't say.
    #[serde(default)]
    pub(super) caa_identities: Vec<String>,
    #[serde(default)]
    pub(super) quirks: Quirks,
    #[serde(default)]
    pub(super) same_set_days: f64,
    #[serde(default)]
    pub(super) profiles: BTreeMap<String, CertificateProfile>,
    #[serde(default)]
    pub(super) limits: BTreeMap<String, Limit>,
    #[serde(default)]
    pub(super) requests: BTreeMap<String, RequestRate>,
}

/// What is known of a CA that its directory doesn't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quirks {
    /// It issues nothing to an account without an e-mail address, and says so only at the end.
    pub contact_required: bool,
    /// It can't give an account another key, whatever its directory says.
    pub no_key_rollover: bool,
}

/// A certificate profile (draft-ietf-acme-profiles), as far as the directory doesn't describe it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateProfile {
    /// Names that one certificate takes.
    pub names: usize,
    /// Bytes that all of them have together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_bytes: Option<usize>,
    /// For forecasts: what is issued says its lifetime itself.
    pub lifetime_hours: f64,
    /// Kinds of identifiers: `dns`, `ip`.
    #[serde(default = "dns")]
    pub identifiers: Vec<String>,
}

/// How many requests an endpoint takes from one address.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRate {
    pub per_second: f64,
    /// So many may come at once beside that.
    pub burst: u32,
}

/// A `limits_file`. Each table that it has replaces the shipped one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsFile {
    pub(super) names_per_certificate: Option<usize>,
    pub(super) name_bytes: Option<usize>,
    pub(super) same_set_days: Option<f64>,
    pub(super) caa_identities: Option<Vec<String>>,
    pub(super) profiles: Option<BTreeMap<String, CertificateProfile>>,
    pub(super) limits: Option<BTreeMap<String, Limit>>,
    pub(super) requests: Option<BTreeMap<String, RequestRate>>,
    /// What the CA has granted to an account, by its name: other rates for limits.
    pub(super) accounts: BTreeMap<String, BTreeMap<String, Rate>>,
    /// What it has granted to a registered domain.
    pub(super) domains: BTreeMap<String, BTreeMap<String, Rate>>,
}

impl RequestRate {
    /// As a bucket: one request goes through besides what may come at once.
    pub fn rate(&self) -> Rate {
        let count = (self.per_second * 1000.0).round().clamp(1.0, f64::from(u32::MAX)) as u32;
        Rate { burst: self.burst.saturating_add(1), count, period_seconds: 1000.0 }
    }
}

fn dns() -> Vec<String> {
    vec!["dns".to_owned()]
}
