//! Accounts (RFC 8555 sections 7.1.2 and 7.3), and the handle that everything signed starts from.

use super::{
    account_key::AccountKey,
    answer::Answer,
    client::Client,
    directory::are_on_one_server,
    eab::ExternalAccountBinding,
    identity::{Identity, Keeper},
    jws::{self, Jws, Signatory},
    problem::ProblemKind,
    reading::{self, Wire},
    request_error::RequestError,
    transport::{Reply, RequestCounter},
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError, RwLock};

/// What a new account is asked for with.
#[derive(Clone, Debug, Default)]
pub struct NewAccount {
    /// `mailto:` URLs of the provider. Empty for none.
    pub contact: Vec<String>,
    /// The operator has agreed to what `meta.termsOfService` of the directory points at.
    pub terms_of_service_agreed: bool,
    /// Where the directory's `meta.externalAccountRequired` is true.
    pub external_account_binding: Option<ExternalAccountBinding>,
}

/// An account as the CA knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Names the account for ever, in CAA records too (RFC 8657). Store it with the key.
    pub url: String,
    pub status: AccountStatus,
    /// As the CA keeps it; many show none.
    pub contact: Vec<String>,
    /// Whether this call made it. `false` where the key had an account already.
    pub created: bool,
}

/// RFC 8555 section 7.1.6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountStatus {
    Valid,
    Deactivated,
    Revoked,
    #[default]
    #[serde(other)]
    Unknown,
}

/// A client, the account's key and its URL: what it takes to act for an account. Cheap to clone; clones have the same key, also
/// once it is another one.
#[derive(Clone, Debug)]
pub struct Account {
    client: Client,
    // A std RwLock: held to read or to replace, never across an await.
    identity: Arc<RwLock<Identity>>,
    /// The account that this handle acts for, and for no other; absent: the one of the moment.
    only_for: Option<Arc<str>>,
    keeper: Option<Arc<dyn Keeper>>,
}

/// RFC 8555 section 7.1.2.
#[derive(Deserialize)]
pub(super) struct AccountObject {
    #[serde(default, deserialize_with = "reading::or_default")]
    status: AccountStatus,
    #[serde(default, deserialize_with = "reading::short_list")]
    contact: Vec<String>,
}

impl Wire for AccountObject {
    const MEMBERS: &'static [&'static str] = &["status", "contact", "orders", "termsOfServiceAgreed"];
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewAccountPayload<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    contact: &'a [String],
    terms_of_service_agreed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_account_binding: Option<Jws>,
}

impl Client {
    /// Makes an account for a key, or finds the one that the key has (RFC 8555 section 7.3). Safe to repeat, so store
    /// the key first.
    ///
    /// # Errors
    /// [`RequestError`]; of kind `externalAccountRequired` or `userActionRequired` where the operator has to act.
    pub async fn create_account(
        &self,
        key: &AccountKey,
        wanted: &NewAccount,
    ) -> Result<AccountState, RequestError> {
        let directory = self.directory().await?;
        let binding = &wanted.external_account_binding;
        let payload = NewAccountPayload {
            contact: &wanted.contact,
            terms_of_service_agreed: wanted.terms_of_service_agreed,
            external_account_binding: match binding {
                Some(binding) => Some(binding.bind(key.jwk(), &directory.new_account)?),
                None => None,
            },
        };
        let reply = self.post(key, Signatory::Jwk, &directory.new_account, &payload).await?;
        account_state(&reply, reply.location()?.to_owned())
    }

    /// The account that a key has, if it has one (RFC 8555 section 7.3.1). Never makes one.
    ///
    /// # Errors
    /// [`RequestError`]; of kind `unauthorized` where the account was deactivated or revoked.
    pub async fn find_account(&self, key: &AccountKey) -> Result<Option<AccountState>, RequestError> {
        let directory = self.directory().await?;
        let lookup = serde_json::json!({"onlyReturnExisting": true});
        match self.post(key, Signatory::Jwk, &directory.new_account, &lookup).await {
            Ok(reply) => account_state(&reply, reply.location()?.to_owned()).map(Some),
            Err(error) if error.kind() == Some(ProblemKind::AccountDoesNotExist) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Account {
    /// Sends nothing.
    pub fn new(client: Client, key: AccountKey, url: impl Into<Arc<str>>) -> Self {
        let identity = Arc::new(RwLock::new(Identity { key, url: url.into() }));
        Self { client, identity, only_for: None, keeper: None }
    }

    /// The same account; where the CA refuses who signs, `keeper` is asked for who does by now, and the request is sent again.
    #[must_use]
    pub fn kept_by(self, keeper: Arc<dyn Keeper>) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The present key.
    pub fn key(&self) -> AccountKey {
        self.identity().key
    }

    pub fn url(&self) -> Arc<str> {
        self.only_for.clone().unwrap_or_else(|| self.identity().url)
    }

    pub fn identity(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is who signs, for all clones.
    pub fn use_identity(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// The account as it is now, and for no other that takes its place; its requests (nonces that had to be fetched for them
    /// included) are counted by `counter` too.
    #[must_use]
    pub fn counted(&self, counter: RequestCounter) -> Self {
        let only_for = Some(self.url());
        Self { client: self.client.counted(counter), only_for, ..self.clone() }
    }

    /// The same account, whose requests do not wait for the end of a pause that the CA has asked for.
    #[must_use]
    pub fn by_hand(self) -> Self {
        Self { client: self.client.by_hand(), ..self }
    }

    /// Whether a URL is on a server of the CA, as far as its directory and the account's own URL tell.
    pub fn names_the_server_of(&self, url: &str) -> bool {
        self.client.names_the_server_of(url) || are_on_one_server(&self.url(), url)
    }

    /// The account as the CA knows it now.
    ///
    /// # Errors
    /// [`RequestError`]; of kind `unauthorized` where the account was deactivated or revoked.
    pub async fn fetch(&self) -> Result<AccountState, RequestError> {
        let url = self.url();
        account_state(&self.post_as_get(&url, None).await?, url.to_string())
    }

    /// Replaces the contact (RFC 8555 section 7.3.2).
    ///
    /// # Errors
    /// [`RequestError`]; of kind `invalidContact` or `unsupportedContact` where the CA dislikes it.
    pub async fn update_contact(&self, contact: &[String]) -> Result<AccountState, RequestError> {
        let updated = self.change(&serde_json::json!({"contact": contact})).await;
        match updated {
            Err(error) if error.is_doubtful() => match self.fetch().await {
                Ok(state) if state.contact == contact => Ok(state),
                _ => Err(error),
            },
            answer => answer,
        }
    }

    /// Ends the account, for ever (RFC 8555 section 7.3.6).
    ///
    /// # Errors
    /// [`RequestError`] when the CA refuses.
    pub async fn deactivate(&self) -> Result<AccountState, RequestError> {
        let url = self.url().to_string();
        let ended =
            || AccountState { url, status: AccountStatus::Deactivated, contact: Vec::new(), created: false };
        match self.change(&serde_json::json!({"status": "deactivated"})).await {
            Ok(state) if state.status == AccountStatus::Deactivated => Ok(state),
            Err(error) if !error.is_doubtful() => Err(error),
            // What the account is by now counts.
            answer => match (self.fetch().await, answer) {
                (Ok(state), _) if state.status == AccountStatus::Deactivated => Ok(state),
                // Boulder's words about an account that has ended.
                (Err(error), _) if error.kind() == Some(ProblemKind::Unauthorized) => Ok(ended()),
                (_, Err(error)) => Err(error),
                (Ok(_), Ok(_)) => Err(RequestError::Malformed {
                    url: self.url().to_string(),
                    what: "a success, and the account goes on".to_owned(),
                }),
                (Err(error), Ok(_)) => Err(error),
            },
        }
    }

    async fn change(&self, payload: &serde_json::Value) -> Result<AccountState, RequestError> {
        let url = self.url();
        account_state(&self.post(&url, payload).await?, url.to_string())
    }

    /// A signed POST in the name of the account.
    pub(super) async fn post<T: Serialize>(&self, url: &str, payload: &T) -> Result<Reply, RequestError> {
        self.send(url, jws::json(payload), None).await
    }

    /// RFC 8555 section 6.3.
    pub(super) async fn post_as_get(
        &self,
        url: &str,
        accept: Option<&'static str>,
    ) -> Result<Reply, RequestError> {
        self.send(url, Vec::new(), accept).await
    }

    async fn send(
        &self,
        url: &str,
        payload: Vec<u8>,
        accept: Option<&'static str>,
    ) -> Result<Reply, RequestError> {
        let mut has_asked = false;
        loop {
            let signs = self.identity();
            if self.only_for.as_ref().is_some_and(|own| *own != signs.url) {
                return Err(RequestError::OtherAccount { url: url.to_owned() });
            }
            let signatory = Signatory::Account(&signs.url);
            let sent = self.client.post_bytes(&signs.key, signatory, url, payload.clone(), accept);
            let error = match sent.await {
                Err(error) if error.may_blame_the_signature() => error,
                answer => return answer,
            };
            // Refused as a whole, it has had no effect.
            let is_known_by_now = !self.identity().is(&signs);
            if has_asked || !is_known_by_now {
                let Some(keeper) = self.keeper.as_ref().filter(|_| !has_asked) else { return Err(error) };
                let Some(newer) = keeper.newer(&signs).await else { return Err(error) };
                self.use_identity(newer);
            }
            has_asked = true;
        }
    }

    pub(super) async fn fetch_object<T: Wire>(&self, url: &str) -> Result<Answer<T>, RequestError> {
        let reply = self.post_as_get(url, None).await?;
        Ok(Answer { value: reply.object()?, retry_after: reply.retry_after })
    }
}

fn account_state(reply: &Reply, url: String) -> Result<AccountState, RequestError> {
    let object: AccountObject = reply.object()?;
    Ok(AccountState { url, status: object.status, contact: object.contact, created: reply.status == 201 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_rfc_8555_section_7_1_2_is_read() {
        let example = r#"{
            "status": "valid",
            "contact": ["mailto:cert-admin@example.org", "mailto:admin@example.org"],
            "termsOfServiceAgreed": true,
            "orders": "https://example.com/acme/orders/rzGoeA"
        }"#;
        let object: AccountObject = serde_json::from_str(example).unwrap();
        assert_eq!(object.status, AccountStatus::Valid);
        assert_eq!(object.contact.len(), 2);
        let other: AccountObject = serde_json::from_str(r#"{"status":"paused","contact":null}"#).unwrap();
        assert_eq!(other.status, AccountStatus::Unknown);
    }

    #[test]
    fn a_new_account_says_no_more_than_it_must() {
        let payload =
            NewAccountPayload { contact: &[], terms_of_service_agreed: true, external_account_binding: None };
        assert_eq!(serde_json::to_string(&payload).unwrap(), r#"{"termsOfServiceAgreed":true}"#);
    }
}
