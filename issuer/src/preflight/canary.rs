//! A challenge of our own, which no CA knows: whoever answers it is our validation host.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{KeyAuthorization, Token},
    store::{Store, StoreError},
};

/// How long it is answered.
const LIFE: SignedDuration = SignedDuration::from_secs(120);

/// A token and the answer to it.
#[derive(Clone, Debug)]
pub struct Canary {
    pub token: Token,
    pub expected: KeyAuthorization,
}

impl Canary {
    /// Publishes a new one, for two minutes. One is enough for many names.
    ///
    /// # Errors
    /// [`StoreError`]: nothing can be asked for.
    pub async fn publish(store: &Store) -> Result<Self, StoreError> {
        let mut random = [0; 32];
        openssl::rand::rand_bytes(&mut random)
            .expect("the system's random generator works, or no key could be made");
        let token = URL_SAFE_NO_PAD.encode(random);
        let digest = URL_SAFE_NO_PAD.encode(openssl::sha::sha256(&random));
        let canary = Self {
            expected: KeyAuthorization::from_stored(format!("{token}.{digest}")),
            token: Token::parse(&token).expect("43 characters of base64url are a token"),
        };
        let until = Timestamp::now().saturating_add(LIFE).unwrap_or(Timestamp::MAX);
        store.publish_tokens(&[(canary.token.clone(), canary.expected.clone())], until).await?;
        Ok(canary)
    }

    pub(super) fn path(&self) -> String {
        format!("/.well-known/acme-challenge/{}", self.token)
    }
}
