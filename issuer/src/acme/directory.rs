//! The directory (RFC 8555 section 7.1.1): where a CA does what.

use super::reading::{self, Wire};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use shared::domain::bounded;
use std::collections::BTreeMap;

/// Profiles that are known of one CA.
const MOST_PROFILES: usize = 100;

/// The URLs of one CA. Entries that are not known (Let's Encrypt adds a random one) are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    pub new_nonce: String,
    pub new_account: String,
    pub new_order: String,
    #[serde(default, deserialize_with = "reading::url", skip_serializing_if = "Option::is_none")]
    pub new_authz: Option<String>,
    /// Required by the RFC, missing at some private CAs.
    #[serde(default, deserialize_with = "reading::url", skip_serializing_if = "Option::is_none")]
    pub revoke_cert: Option<String>,
    /// Required by the RFC, missing at some private CAs.
    #[serde(default, deserialize_with = "reading::url", skip_serializing_if = "Option::is_none")]
    pub key_change: Option<String>,
    /// RFC 9773. Absent where the CA has no renewal information.
    #[serde(default, deserialize_with = "reading::url", skip_serializing_if = "Option::is_none")]
    pub renewal_info: Option<String>,
    #[serde(default, deserialize_with = "reading::or_default")]
    pub meta: Meta,
}

impl Wire for Directory {
    const MEMBERS: &'static [&'static str] = &["newOrder", "newNonce", "newAccount"];
}

impl Directory {
    /// Whether a URL is on a server that the directory names.
    pub fn names_the_server_of(&self, url: &str) -> bool {
        let always = [&self.new_nonce, &self.new_account, &self.new_order].into_iter();
        let some =
            [&self.new_authz, &self.revoke_cert, &self.key_change, &self.renewal_info].into_iter().flatten();
        always.chain(some).any(|named| are_on_one_server(named, url))
    }
}

/// Whether two URLs have scheme, host and port in common.
pub(super) fn are_on_one_server(one: &str, other: &str) -> bool {
    let origin = |url: &str| reqwest::Url::parse(url).ok().map(|url| url.origin());
    origin(one).is_some_and(|one| origin(other).as_ref() == Some(&one))
}

/// What the CA says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    #[serde(deserialize_with = "reading::url", skip_serializing_if = "Option::is_none")]
    pub terms_of_service: Option<String>,
    #[serde(deserialize_with = "reading::text", skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
    /// What a CAA record must name to allow this CA (RFC 8659).
    #[serde(deserialize_with = "reading::short_list", skip_serializing_if = "Vec::is_empty")]
    pub caa_identities: Vec<String>,
    #[serde(deserialize_with = "reading::or_default")]
    pub external_account_required: bool,
    /// What the CA calls itself in records that stay, and what it puts before the hash of an account there
    /// (draft-ietf-acme-dns-persist-02).
    #[serde(deserialize_with = "reading::short_list", skip_serializing_if = "Vec::is_empty")]
    pub issuer_domain_names: Vec<String>,
    #[serde(deserialize_with = "reading::text", skip_serializing_if = "Option::is_none")]
    pub account_hash_prefix: Option<String>,
    /// Name and description of each profile that an order may ask for (draft-ietf-acme-profiles).
    #[serde(deserialize_with = "profiles", skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, String>,
}

/// A profile whose description is no text has none.
fn profiles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let Value::Object(profiles) = Value::deserialize(deserializer)? else { return Ok(BTreeMap::new()) };
    let described = profiles.into_iter().take(MOST_PROFILES).map(|(name, described)| {
        let words = described.as_str().unwrap_or_default();
        (name, bounded(words, reading::LONGEST_TEXT))
    });
    Ok(described.filter(|(name, _)| name.len() <= reading::LONGEST_TEXT).collect())
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

    #[test]
    fn a_server_is_known_by_scheme_host_and_port() {
        let own = "https://ca.example/dir";
        for (url, is_one) in [
            ("https://ca.example/authZ/1", true),
            ("https://CA.example:443/authZ/1", true),
            ("https://ca.example:1/authZ/1", false),
            ("http://ca.example/authZ/1", false),
            ("https://no-such-host.invalid/f", false),
            ("no URL", false),
        ] {
            assert_eq!(are_on_one_server(own, url), is_one, "{url}");
        }
    }

    #[test]
    fn one_odd_member_does_not_spoil_the_others() {
        let of = |meta: &str| -> Directory {
            let text = format!(
                r#"{{"newNonce":"https://a/n","newAccount":"https://a/a","newOrder":"https://a/o","newAuthz":null,
                "revokeCert":7,"keyChange":"https://a/k","renewalInfo":null,"meta":{meta}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let directory = of("null");
        assert_eq!((directory.revoke_cert, directory.renewal_info), (None, None));
        assert_eq!((directory.key_change.as_deref(), directory.meta), (Some("https://a/k"), Meta::default()));
        let meta = of(r#"{"termsOfService":null,"website":[],"caaIdentities":["ca.example",null],
            "externalAccountRequired":"yes","profiles":{"classic":"as ever","odd":null}}"#)
        .meta;
        assert_eq!((meta.terms_of_service, meta.website), (None, None));
        assert_eq!(
            (meta.caa_identities, meta.external_account_required),
            (vec!["ca.example".to_owned()], false)
        );
        assert_eq!(meta.profiles.keys().collect::<Vec<_>>(), ["classic", "odd"]);
    }
}
