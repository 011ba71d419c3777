//! Revocation (RFC 8555 section 7.6), by the account or by the certificate's own key.

use super::{
    account::Account, account_key::AccountKey, client::Client, jws::Signatory, problem::ProblemKind,
    request_error::RequestError, transport::Reply,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::pkey::{PKeyRef, Private};
use serde::Serialize;
use std::{fmt, str::FromStr, time::Duration};

/// Pauses before it is asked for again, where nobody knows what an answer means.
const PAUSES_MS: [u64; 2] = [300, 1_000];

/// Why (RFC 5280 section 5.3.1): the codes that CAs take from subscribers. The others are for a CA alone to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationReason {
    /// 0: no reason given.
    Unspecified,
    /// 1: the private key is known to others. Blocks the key for ever.
    KeyCompromise,
    /// 3: the subject is named otherwise by now.
    AffiliationChanged,
    /// 4: replaced by another certificate.
    Superseded,
    /// 5: the name is no longer served here.
    CessationOfOperation,
    /// 9: what it was given for is not allowed any more.
    PrivilegeWithdrawn,
}

/// What it came to; the certificate is revoked either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    Done,
    AlreadyRevoked,
}

/// The text names no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown reason {0:?}: use unspecified, key-compromise, affiliation-changed, superseded, cessation-of-operation or \
     privilege-withdrawn, as here or as RFC 5280 writes them (keyCompromise)"
)]
pub struct UnknownRevocationReason(String);

#[derive(Serialize)]
struct RevokeCertificate {
    certificate: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<u8>,
}

impl RevocationReason {
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    pub const fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RevocationReason {
    type Err = UnknownRevocationReason;
    fn from_str(text: &str) -> Result<Self, UnknownRevocationReason> {
        let letters = |text: &str| text.replace(['-', '_', ' '], "").to_ascii_lowercase();
        let found = Self::ALL.into_iter().find(|reason| letters(reason.as_str()) == letters(text));
        found.ok_or_else(|| UnknownRevocationReason(text.to_owned()))
    }
}

impl Account {
    /// Revokes a certificate as the account that ordered it, or that is authorized for all of its names.
    ///
    /// # Errors
    /// [`RequestError`]; of kind `unauthorized` where the account may not, or the certificate has expired.
    pub async fn revoke(
        &self,
        certificate_der: &[u8],
        reason: Option<RevocationReason>,
    ) -> Result<Revocation, RequestError> {
        let directory = self.client().directory().await?;
        let url = revoke_url(directory.revoke_cert.as_deref())?;
        let request = request(certificate_der, reason);
        settled(|| self.post(url, &request)).await
    }
}

impl Client {
    /// Revokes a certificate as whoever has its key: needs no account.
    ///
    /// # Errors
    /// [`RequestError`]; of kind `unauthorized` where it is another key.
    pub async fn revoke_by_certificate_key(
        &self,
        key: &PKeyRef<Private>,
        certificate_der: &[u8],
        reason: Option<RevocationReason>,
    ) -> Result<Revocation, RequestError> {
        let key = AccountKey::from_private_key(key.to_owned())?;
        let directory = self.directory().await?;
        let url = revoke_url(directory.revoke_cert.as_deref())?;
        let request = request(certificate_der, reason);
        settled(|| self.post(&key, Signatory::Jwk, url, &request)).await
    }
}

fn revoke_url(url: Option<&str>) -> Result<&str, RequestError> {
    url.ok_or(RequestError::NotOffered { entry: "revokeCert" })
}

fn request(certificate_der: &[u8], reason: Option<RevocationReason>) -> RevokeCertificate {
    RevokeCertificate {
        certificate: URL_SAFE_NO_PAD.encode(certificate_der),
        reason: reason.map(RevocationReason::code),
    }
}

/// Asks until it is known what became of it: a CA that has revoked a certificate says so when it is asked again.
async fn settled<F>(ask: impl Fn() -> F) -> Result<Revocation, RequestError>
where
    F: Future<Output = Result<Reply, RequestError>>,
{
    let mut pauses = PAUSES_MS.into_iter();
    let mut outcome = Revocation::AlreadyRevoked;
    loop {
        let error = match ask().await.and_then(Reply::vouched_for) {
            Ok(_) => return Ok(Revocation::Done),
            Err(error) if error.kind() == Some(ProblemKind::AlreadyRevoked) => return Ok(outcome),
            Err(error) => error,
        };
        match pauses.next().filter(|_| error.is_doubtful()) {
            Some(pause) => tokio::time::sleep(Duration::from_millis(pause)).await,
            None => return Err(error),
        }
        // By us, a moment ago.
        outcome = Revocation::Done;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_form_of_rfc_8555_section_7_6() {
        let with =
            serde_json::to_string(&request(&[0xfb, 0xff], Some(RevocationReason::Superseded))).unwrap();
        assert_eq!(with, r#"{"certificate":"-_8","reason":4}"#);
        assert_eq!(serde_json::to_string(&request(&[0], None)).unwrap(), r#"{"certificate":"AA"}"#);
    }

    #[test]
    fn reasons_are_read_as_they_are_written() {
        for reason in RevocationReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
        assert_eq!(RevocationReason::ALL.map(RevocationReason::code), [0, 1, 3, 4, 5, 9]);
        for (text, code) in
            [("keyCompromise", 1), ("affiliationChanged", 3), ("SUPERSEDED", 4), ("cessationOfOperation", 5)]
        {
            assert_eq!(text.parse().map(RevocationReason::code), Ok(code), "{text}");
        }
        assert!("certificateHold".parse::<RevocationReason>().is_err());
    }
}
