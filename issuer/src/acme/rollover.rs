//! A new key for an account (RFC 8555 section 7.3.5).

use super::{
    account::Account,
    account_key::AccountKey,
    jwk::Jwk,
    jws::{self, Signatory},
    request_error::RequestError,
};
use serde::Serialize;

/// The inner payload.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyChange<'a> {
    account: &'a str,
    old_key: &'a Jwk,
}

impl Account {
    /// Gives the account another key and returns the handle that uses it. URL, authorizations and CAA records stay; the
    /// thumbprint changes, so no challenge may be in flight.
    ///
    /// **Store `new_key` durably before the call**, as a candidate beside the old one. Whatever the answer is, ask
    /// [`Client::find_account`](super::Client::find_account) with the new key: this account's URL means that it is done, `None` that the
    /// old key is still the account's. Only then drop either.
    ///
    /// # Errors
    /// [`RequestError`]; with status 409 the new key has an account already, and the refusal's `location` is its URL.
    pub async fn rollover(&self, new_key: &AccountKey) -> Result<Self, RequestError> {
        let directory = self.client().directory().await?;
        let url = directory.key_change.as_deref().ok_or(RequestError::NotOffered { entry: "keyChange" })?;
        self.post(url, &inner(self, new_key, url)?).await?.vouched_for()?;
        Ok(Self::new(self.client().clone(), new_key.clone(), self.url()))
    }
}

/// Signed by the new key, for the same URL, without a nonce.
fn inner(account: &Account, new_key: &AccountKey, url: &str) -> Result<jws::Jws, RequestError> {
    let old = account.identity();
    let change = KeyChange { account: &account.url(), old_key: old.key.jwk() };
    Ok(jws::sign(new_key, Signatory::Jwk, None, url, &jws::json(&change))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::{Client, ClientSettings};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::{Value, json};
    use shared::domain::KeyType;
    use std::time::Duration;

    #[test]
    fn the_inner_message_is_the_one_of_rfc_8555_section_7_3_5() {
        let [old, new] =
            [KeyType::EcdsaP256, KeyType::EcdsaP384].map(|kind| AccountKey::generate(kind).unwrap());
        let settings = ClientSettings {
            directory_url: "https://example.com/dir".to_owned(),
            trusted_roots: Vec::new(),
            timeout: Duration::from_secs(1),
            pacer: None,
        };
        let url = "https://example.com/acme/acct/evOfKhNU60wg";
        let account = Account::new(Client::new(settings).unwrap(), old.clone(), url);
        let change_url = "https://example.com/acme/key-change";
        let sent: Value =
            serde_json::from_slice(&inner(&account, &new, change_url).unwrap().to_json()).unwrap();
        let part = |name: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(sent[name].as_str().unwrap()).unwrap()).unwrap()
        };
        assert_eq!(part("protected"), json!({"alg": "ES384", "jwk": new.jwk(), "url": change_url}));
        assert_eq!(part("payload"), json!({"account": url, "oldKey": old.jwk()}));
    }
}
