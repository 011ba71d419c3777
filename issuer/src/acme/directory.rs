//! The directory (RFC 8555 section 7.1.1): where a CA does what.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The URLs of one CA. Entries that are not known (Let's Encrypt adds a random one) are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    pub new_nonce: String,
    pub new_account: String,
    pub new_order: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_authz: Option<String>,
    /// Required by the RFC, missing at some private CAs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_cert: Option<String>,
    /// Required by the RFC, missing at some private CAs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_change: Option<String>,
    /// RFC 9773. Absent where the CA has no renewal information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_info: Option<String>,
    #[serde(default)]
    pub meta: Meta,
}

/// What the CA says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_of_service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
    /// What a CAA record must name to allow this CA (RFC 8659).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caa_identities: Vec<String>,
    pub external_account_required: bool,
    /// What the CA calls itself in records that stay, and what it puts before the hash of an account there
    /// (draft-ietf-acme-dns-persist-02).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuer_domain_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_hash_prefix: Option<String>,
    /// Name and description of each profile that an order may ask for (draft-ietf-acme-profiles).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8555 section 7.1.1, with the additions that Let's Encrypt makes.
    const EXAMPLE: &str = r#"{
        "newNonce": "https://example.com/acme/new-nonce",
        "newAccount": "https://example.com/acme/new-account",
        "newOrder": "https://example.com/acme/new-order",
        "newAuthz": "https://example.com/acme/new-authz",
        "revokeCert": "https://example.com/acme/revoke-cert",
        "keyChange": "https://example.com/acme/key-change",
        "renewalInfo": "https://example.com/acme/renewal-info",
        "AbCdEfGhIjK": "https://community.example.org/t/adding-random-entries-to-the-directory/33417",
        "meta": {
            "termsOfService": "https://example.com/acme/terms/2017-5-30",
            "website": "https://www.example.com/",
            "caaIdentities": ["example.com"],
            "externalAccountRequired": false,
            "profiles": {"classic": "The one you know", "shortlived": "Six days"},
            "somethingNew": [1, 2]
        }
    }"#;

    #[test]
    fn the_example_is_read_and_survives_storage() {
        let directory: Directory = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(directory.new_order, "https://example.com/acme/new-order");
        assert_eq!(directory.renewal_info.as_deref(), Some("https://example.com/acme/renewal-info"));
        assert_eq!(directory.meta.caa_identities, ["example.com"]);
        assert_eq!(directory.meta.profiles["shortlived"], "Six days");
        let stored = serde_json::to_string(&directory).unwrap();
        assert_eq!(serde_json::from_str::<Directory>(&stored).unwrap(), directory);
    }

    #[test]
    fn a_directory_needs_no_meta_but_needs_its_urls() {
        let bare = r#"{"newNonce":"https://a/n","newAccount":"https://a/a","newOrder":"https://a/o"}"#;
        let directory: Directory = serde_json::from_str(bare).unwrap();
        assert_eq!((directory.renewal_info, directory.meta), (None, Meta::default()));
        assert!(serde_json::from_str::<Directory>(r#"{"newNonce":"https://a/n"}"#).is_err());
    }
}
