//! dns-persist-01: a record that names the CA and the account, and stands there for good. Two drafts that don't understand each
//! other; which one a CA speaks is configured.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use shared::{
    config::DnsPersistDraft,
    domain::{DnsName, Standing},
};

/// Who asks, as a record names it.
#[derive(Clone, Debug)]
pub struct Holder {
    pub draft: DnsPersistDraft,
    pub account_url: String,
    /// Of the account key, base64url (RFC 7638).
    pub thumbprint: String,
    /// What the CA's directory puts before the hash of an account; from draft 02 on.
    pub hash_prefix: Option<String>,
}

impl Holder {
    /// The record that proves a name to the CA that calls itself `issuer`. `None` where the CA does not say what it takes.
    pub fn record_for(&self, name: &DnsName, issuer: &str) -> Option<Standing> {
        let bare = name.as_str().strip_prefix("*.").unwrap_or(name.as_str());
        let policy = if name.is_wildcard() { "; policy=wildcard" } else { "" };
        let account = self.account_uri(bare)?;
        Some(Standing {
            record: format!("_validation-persist.{bare}"),
            value: format!("{issuer}; accounturi={account}{policy}"),
        })
    }

    fn account_uri(&self, domain: &str) -> Option<String> {
        match self.draft {
            DnsPersistDraft::Draft01 => Some(self.account_url.clone()),
            DnsPersistDraft::Draft02 => {
                let mut digest = openssl::sha::Sha256::new();
                digest.update(&[u8::try_from(domain.len()).ok()?]);
                for part in [domain, &self.thumbprint, &self.account_url] {
                    digest.update(part.as_bytes());
                }
                Some(format!(
                    "{}sha-256/{}",
                    self.hash_prefix.as_ref()?,
                    URL_SAFE_NO_PAD.encode(digest.finish())
                ))
            }
        }
    }
}

/// Whether a value that was found says what is wanted: more may stand in it, and it may not have ended.
pub(super) fn says(found: &str, wanted: &Standing, unix_seconds: i64) -> bool {
    let parts = |text: &str| -> Vec<String> { text.split(';').map(|part| part.trim().to_owned()).collect() };
    let (found, wanted) = (parts(found), parts(&wanted.value));
    let same_issuer =
        found.first().zip(wanted.first()).is_some_and(|(one, other)| one.eq_ignore_ascii_case(other));
    let until = found.iter().find_map(|part| part.strip_prefix("persistUntil="));
    let lasts = until.is_none_or(|until| until.parse().is_ok_and(|until: i64| until > unix_seconds));
    // One with an empty part, as after a semicolon at the end, is refused.
    let well_formed = found.iter().all(|part| !part.is_empty());
    same_issuer && lasts && well_formed && wanted[1..].iter().all(|part| found[1..].contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(draft: DnsPersistDraft) -> Holder {
        Holder {
            draft,
            account_url: "https://ca.example/acct/1".into(),
            thumbprint: "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI".into(),
            hash_prefix: Some("https://ca.example/h/".into()),
        }
    }

    fn name(text: &str) -> DnsName {
        DnsName::parse_identifier(text).unwrap()
    }

    #[test]
    fn each_draft_has_its_record() {
        let old = holder(DnsPersistDraft::Draft01);
        let record = old.record_for(&name("*.shop.example"), "ca.example").unwrap();
        assert_eq!(record.record, "_validation-persist.shop.example");
        assert_eq!(record.value, "ca.example; accounturi=https://ca.example/acct/1; policy=wildcard");
        let new = holder(DnsPersistDraft::Draft02);
        let record = new.record_for(&name("shop.example"), "ca.example").unwrap();
        // printf '\014shop.example%s%s' THUMBPRINT URL | openssl dgst -sha256 -binary | basenc --base64url
        let hash = "MBeiYIa-ZqAqwJ6SrCAdZVZ4g3FUACgUkcNfVvKfCIA";
        assert_eq!(record.value, format!("ca.example; accounturi=https://ca.example/h/sha-256/{hash}"));
        assert!(Holder { hash_prefix: None, ..new }.record_for(&name("a.example"), "ca.example").is_none());
    }

    #[test]
    fn a_value_is_read_as_the_ca_reads_it() {
        let wanted =
            holder(DnsPersistDraft::Draft01).record_for(&name("shop.example"), "ca.example").unwrap();
        let own = "accounturi=https://ca.example/acct/1";
        for (found, is_right) in [
            (format!("ca.example; {own}"), true),
            (format!("CA.example;{own}; policy=wildcard"), true),
            (format!("ca.example; {own}; persistUntil=2000"), true),
            (format!("ca.example; {own}; persistUntil=1000"), false),
            (format!("ca.example; {own}; persistUntil=soon"), false),
            (format!("ca.example; {own};"), false),
            ("ca.example; accounturi=https://ca.example/acct/2".to_owned(), false),
            (format!("other.example; {own}"), false),
        ] {
            assert_eq!(says(&found, &wanted, 1_500), is_right, "{found}");
        }
        let wild =
            holder(DnsPersistDraft::Draft01).record_for(&name("*.shop.example"), "ca.example").unwrap();
        assert!(!says(&format!("ca.example; {own}"), &wild, 0), "a wildcard needs its policy");
    }
}
