//! A client certificate for a key of the frontend's own: in exchange for its token, once; or for the client certificate that it
//! has, before that ends.

use super::{Certificates, audit::Asker, identity::Identity, refusal::Refusal, signing_request::key_of};
use jiff::Timestamp;
use serde::Serialize;
use shared::{
    digest::sha256_hex,
    domain::{Frontend, FrontendName, NotItself},
};
use std::time::Duration;

/// The largest request for a certificate, bytes.
pub(crate) const BODY_BYTES: usize = 16 * 1024;

/// What a frontend that enrols, or renews its client certificate, is given.
#[derive(Debug, Serialize)]
pub(crate) struct Issued {
    name: String,
    /// With the internal CA's.
    certificate_pem: String,
}

impl Certificates {
    /// Certifies the key of a signing request (PKCS #10, PEM) for who asks.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`]: to somebody whose token was exchanged already, by another key, as to a stranger.
    pub(crate) async fn certify(
        &self,
        identity: &Identity,
        name: &FrontendName,
        from: &str,
        request: &[u8],
    ) -> Result<Issued, Refusal> {
        let authority = self.internal_ca.get().ok_or(Refusal::Starting)?;
        let key = key_of(request)?;
        let spki = sha256_hex(&key.public_key_to_der().map_err(|e| Refusal::Damaged(e.into()))?);
        // Before the token is spent. A key is one frontend's, also where that was revoked.
        if self.store.frontend_of(&spki).await?.is_some_and(|owner| owner.name != *name) {
            return Err(Refusal::Mistaken("this key is another frontend's: make a new one".to_owned()));
        }
        let now = Timestamp::now();
        let take = |frontend: &mut Frontend| -> Result<(), NotItself> {
            match identity {
                Identity::Token(token) => frontend.enrol(token, &spki, now),
                Identity::Key(old) => frontend.renew(old, &spki),
            }
        };
        // Whoever may have none spends nothing of what the frontend may have.
        let present = self.store.load_frontend(name).await?;
        if present.is_none_or(|mut frontend| take(&mut frontend).is_err()) {
            return Err(Refusal::Unauthorized);
        }
        if !self.audit.may_enrol(name.as_str()) {
            return Err(Refusal::TooMany);
        }
        let changed = self.store.change_frontend(name, |frontend| take(frontend).is_ok()).await?;
        let frontend = changed.ok_or(Refusal::Unauthorized)?;
        let life = Duration::from_secs(self.client_certificate_seconds);
        let certificate_pem =
            authority.certify_client(name, &key, life).map_err(|e| Refusal::Damaged(e.into()))?;
        let asker =
            Asker { name: frontend.name.to_string(), identity: identity.clone(), from: from.to_owned() };
        self.audit.enrolled(&asker, &spki).await?;
        Ok(Issued { name: name.to_string(), certificate_pem })
    }
}
