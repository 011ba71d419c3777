//! The agent's own client certificate, to a key that never leaves this machine: in exchange for a token, once; renewed by itself
//! when two thirds of its life are over. A token that it has not enrolled with yet is taken at once.
//!
//! The key is on disk before anybody is told of it, and it is that key that is certified when the answer is lost.

use crate::{
    client::{Client, ClientError, FetchError},
    config::{AgentConfig, Credentials},
    disk::Directory,
};
use jiff::{SignedDuration, Timestamp};
use openssl::{
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{X509, X509Req},
};
use shared::{digest::sha256_hex, domain::Leaf, error::chain};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};
use zeroize::Zeroizing;

/// Until one that was just got is renewed all the same, where that is less than a third of its life.
const RENEW_AGAIN: Duration = Duration::from_secs(600);

/// There is no client certificate to go to the centre with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolmentError {
    #[error(
        "this frontend has not enrolled, and {0} is not there: `issuer frontend add NAME ... --enrol` gives a token"
    )]
    NoToken(PathBuf),
    #[error("{0} can't be read")]
    Token(PathBuf, #[source] io::Error),
    #[error(
        "this frontend's client certificate ended {0}: `issuer frontend add NAME ... --enrol --replace` gives a token, which belongs into {1}"
    )]
    Ended(Timestamp, PathBuf),
    #[error("the centre doesn't take the token: it was used, replaced or revoked, or has ended")]
    Refused,
    #[error("the centre gave a certificate that is not for this frontend's key")]
    Foreign,
    #[error("the agent's identity can't be kept")]
    Disk(#[from] io::Error),
    #[error("the agent's key can't be used")]
    OpenSsl(#[from] ErrorStack),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// The files of an identity.
pub(crate) struct OwnIdentity<'a> {
    directory: &'a Directory,
    token_file: &'a Path,
}

/// The certificate that is there, from when to when.
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Validity {
    /// That of the certificate in an agent's directory; `None` where there is none.
    ///
    /// # Errors
    /// One that can't be read.
    pub(crate) fn of(directory: &Path) -> Result<Option<Self>, io::Error> {
        let pem = match fs::read(file(directory)) {
            Ok(pem) => Zeroizing::new(pem),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let leaf = Leaf::of(&*X509::from_pem(&pem)?).map_err(io::Error::other)?;
        Ok(Some(Self { not_before: leaf.not_before, not_after: leaf.not_after }))
    }

    /// Whether two thirds of what it was made for are over, or its time has not come yet. `now`: by the centre's clock, which is
    /// what counts. `written`: by this machine's, how long ago. One that was just made is as good as the centre can make it,
    /// whatever the clocks say.
    fn is_outdated(&self, now: Timestamp, written: Option<Duration>) -> bool {
        let third =
            self.not_after.duration_since(shared::tls::renewal_moment(self.not_before, self.not_after));
        let pause = RENEW_AGAIN.min(third.unsigned_abs());
        written.is_none_or(|ago| ago >= pause)
            && shared::tls::is_outdated(self.not_before, self.not_after, now)
    }
}

/// The certificate, its chain, and its key, in one file, so that they are always of one kind.
pub(crate) fn file(directory: &Path) -> PathBuf {
    directory.join("identity/client.pem")
}

impl<'a> OwnIdentity<'a> {
    pub(crate) const fn new(directory: &'a Directory, token_file: &'a Path) -> Self {
        Self { directory, token_file }
    }

    /// Gets a client certificate where there is none, or a new token, or the one that is there is to be renewed. Answers
    /// whether it has another one now. A renewal that fails is tried again, for as long as the present one is good.
    ///
    /// `ahead_seconds`: how far this machine's clock is ahead of the centre's.
    ///
    /// # Errors
    /// [`EnrolmentError`]: there is none that is good.
    pub(crate) async fn keep(
        &self,
        config: &AgentConfig,
        ahead_seconds: i64,
    ) -> Result<bool, EnrolmentError> {
        let token = self.token()?;
        let present = Validity::of(self.directory.root())?;
        let now = Timestamp::now();
        let now = now.checked_sub(SignedDuration::from_secs(ahead_seconds)).unwrap_or(now);
        let is_good = present.as_ref().is_some_and(|validity| now < validity.not_after);
        let result = match (token.filter(|token| !self.has_enrolled_with(token)), &present) {
            (Some(token), _) => self.enrol(config, &token).await,
            (None, None) => Err(EnrolmentError::NoToken(self.token_file.to_owned())),
            (None, Some(validity)) if !is_good => {
                Err(EnrolmentError::Ended(validity.not_after, self.token_file.to_owned()))
            }
            (None, Some(validity)) if !validity.is_outdated(now, self.written()) => return Ok(false),
            (None, Some(_)) => self.renew(config).await,
        };
        match result {
            Ok(()) => {
                tracing::info!("this frontend has a new client certificate");
                Ok(true)
            }
            Err(error) if is_good => {
                tracing::warn!(error = chain(&error), "no new client certificate, the present one stays");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn enrol(&self, config: &AgentConfig, token: &str) -> Result<(), EnrolmentError> {
        let client = Client::new(config, &Credentials::Token(self.token_file.to_owned()))?;
        match self.ask(&client).await {
            Err(EnrolmentError::Fetch(FetchError::Refused(_))) => Err(EnrolmentError::Refused),
            other => other,
        }?;
        self.directory.write_whole(&self.enrolled_with(), sha256_hex(token.as_bytes()).as_bytes(), 0o600)?;
        self.forget_next_key()?;
        Ok(())
    }

    async fn renew(&self, config: &AgentConfig) -> Result<(), EnrolmentError> {
        self.ask(&Client::new(config, &config.credentials)?).await?;
        Ok(self.forget_next_key()?)
    }

    /// Has the next key certified, as whoever the client is.
    async fn ask(&self, client: &Client) -> Result<(), EnrolmentError> {
        let key = self.next_key()?;
        let certificate = client.certificate_for(signing_request(&key)?).await?;
        let leaf = X509::from_pem(certificate.as_bytes()).map_err(|_| EnrolmentError::Foreign)?;
        if !leaf.public_key()?.public_eq(&key) {
            return Err(EnrolmentError::Foreign);
        }
        let mut pem = Zeroizing::new(certificate.into_bytes());
        pem.extend_from_slice(&Zeroizing::new(key.private_key_to_pem_pkcs8()?));
        self.directory.write_whole(&self.certificate(), &pem, 0o600)?;
        Ok(())
    }

    /// The key that waits for a certificate; made where there is none, and where it has got one.
    fn next_key(&self) -> Result<PKey<Private>, EnrolmentError> {
        let is_in_use = |key: &PKey<Private>| {
            let present = fs::read(self.certificate()).ok().map(Zeroizing::new);
            let present = present.and_then(|pem| PKey::private_key_from_pem(&pem).ok());
            present.is_some_and(|present| present.public_eq(key))
        };
        // That of an enrolment is kept until it is written down what it has enrolled with.
        let is_enrolling = self.token()?.is_some_and(|token| !self.has_enrolled_with(&token));
        let waiting = fs::read(self.waiting_key()).ok().map(Zeroizing::new);
        if let Some(key) = waiting.and_then(|pem| PKey::private_key_from_pem(&pem).ok())
            && (is_enrolling || !is_in_use(&key))
        {
            return Ok(key);
        }
        let key = PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)?;
        let path = self.waiting_key();
        let parent = path.parent().unwrap_or(Path::new("/"));
        match fs::DirBuilder::new().mode(0o700).create(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        self.directory.write_whole(&path, &Zeroizing::new(key.private_key_to_pem_pkcs8()?), 0o600)?;
        Ok(key)
    }

    fn forget_next_key(&self) -> io::Result<()> {
        fs::remove_file(self.waiting_key())
    }

    /// Taken away after the enrolment it is missed by nobody.
    fn token(&self) -> Result<Option<Zeroizing<String>>, EnrolmentError> {
        match fs::read_to_string(self.token_file) {
            Ok(text) => Ok(Some(Zeroizing::new(Zeroizing::new(text).trim().to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EnrolmentError::Token(self.token_file.to_owned(), error)),
        }
    }

    fn has_enrolled_with(&self, token: &str) -> bool {
        let before = fs::read_to_string(self.enrolled_with());
        before.is_ok_and(|before| before.trim() == sha256_hex(token.as_bytes()))
    }

    /// How long ago the certificate was written; nothing where that is not known, and where the clock was put back since.
    fn written(&self) -> Option<Duration> {
        fs::metadata(self.certificate()).and_then(|file| file.modified()).ok()?.elapsed().ok()
    }

    fn certificate(&self) -> PathBuf {
        file(self.directory.root())
    }

    fn waiting_key(&self) -> PathBuf {
        self.directory.root().join("identity/next-key.pem")
    }

    fn enrolled_with(&self) -> PathBuf {
        self.directory.root().join("identity/enrolled-with")
    }
}

fn signing_request(key: &PKey<Private>) -> Result<Vec<u8>, ErrorStack> {
    let mut builder = X509Req::builder()?;
    builder.set_pubkey(key)?;
    builder.sign(key, MessageDigest::sha256())?;
    builder.build().to_pem()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_was_just_made_is_not_renewed_whatever_the_clocks_say() {
        let at = |second| Timestamp::from_second(second).unwrap();
        // Made at 10,000 by the centre's clock, for a day.
        let validity = Validity { not_before: at(6_400), not_after: at(10_000 + 86_400) };
        let ago = |seconds| Some(Duration::from_secs(seconds));
        for (now, written, outdated) in [
            // This machine is two hours behind, and doesn't know it yet.
            (2_800, ago(0), false),
            (3_399, ago(599), false),
            // It was made by a clock that was wrong.
            (2_800, ago(3_600), true),
            (2_800, None, true),
            (10_000, ago(3_600), false),
            (10_000 + 57_599, ago(57_599), false),
            (10_000 + 57_601, ago(57_601), true),
        ] {
            assert_eq!(validity.is_outdated(at(now), written), outdated, "{now} {written:?}");
        }
    }
}
