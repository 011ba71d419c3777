//! `[sightings]`: names that visitors come with before anybody has said that they are hosted.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use url::Url;

/// Who says whether a name is hosted, and how many may come.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sightings {
    /// The hosting system: asked with `?domain=NAME`. Absent: names that nobody has added get nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_url: Option<Url>,
    /// PEM roots that its certificate is checked against, besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_roots_file: Option<PathBuf>,
    /// A file with a bearer token for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_token_file: Option<PathBuf>,
    /// New sites in an hour, of all tenants together, and of each.
    pub per_hour: u64,
    pub per_tenant_per_hour: u64,
}

impl Default for Sightings {
    fn default() -> Self {
        Self {
            allow_url: None,
            allow_roots_file: None,
            allow_token_file: None,
            per_hour: 300,
            per_tenant_per_hour: 30,
        }
    }
}
