//! The audit of this process: a chain of lines, one after the other. What can't be written down doesn't happen.

use super::{identity::Identity, refusal::Refusal};
use jiff::Timestamp;
use shared::{
    digest::{hex, sha256_hex},
    domain::{AuditAction, AuditChain, AuditEntry, AuditedKey},
    store::{Store, StoreError},
};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Mutex;

/// Lines in the store past which no key is given out: nobody takes them to a disk, and the store must not be filled.
const MOST_WAITING: u64 = 100_000;

/// Who is written down as having asked.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) from: String,
}

/// Why something could not be written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{0} lines of the audit wait for an issuer to take them to its disk: no key is given out until `issuer run` does"
    )]
    Full(u64),
    #[error("a line of the audit could not be made")]
    Line(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Writes the chain.
#[derive(Clone)]
pub(crate) struct Audit {
    store: Store,
    chain: Arc<Mutex<Chain>>,
    /// By frontend: the digest of what was given to it, and the line that says so.
    last_time: Arc<Mutex<HashMap<String, (String, String)>>>,
}

#[derive(Default)]
struct Chain {
    /// None: the next line begins one.
    at: Option<AuditChain>,
    /// The digest of the last line that is known to be written.
    last: String,
    is_full: bool,
}

impl Audit {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, chain: Arc::default(), last_time: Arc::default() }
    }

    /// Before keys leave.
    ///
    /// # Errors
    /// [`Refusal`]: the keys must not leave.
    pub(crate) async fn read_keys(&self, asker: &Asker, keys: Vec<AuditedKey>) -> Result<(), Refusal> {
        self.write(asker.entry(AuditAction::ReadKey, keys, None)).await?;
        Ok(())
    }

    /// Before keys leave for somebody who asks for all of them again and again: where these are the ones of the last time, it
    /// says which line has them.
    ///
    /// # Errors
    /// As [`Audit::read_keys`].
    pub(crate) async fn read_keys_again(&self, asker: &Asker, keys: Vec<AuditedKey>) -> Result<(), Refusal> {
        let text = serde_json::to_string(&(&asker.from, asker.identity.to_string(), &keys))
            .map_err(|e| AuditError::Line(e.into()))?;
        let digest = sha256_hex(text.as_bytes());
        let before = self.last_time.lock().await.get(&asker.name).cloned();
        if let Some((_, place)) = before.filter(|(known, _)| *known == digest) {
            let what = format!("the {} keys of {place} again", keys.len());
            self.write(asker.entry(AuditAction::ReadKey, Vec::new(), Some(what))).await?;
        } else {
            let place = self.write(asker.entry(AuditAction::ReadKey, keys, None)).await?;
            self.last_time.lock().await.insert(asker.name.clone(), (digest, place));
        }
        Ok(())
    }

    /// Before a client certificate leaves.
    ///
    /// # Errors
    /// As [`Audit::read_keys`].
    pub(crate) async fn enrolled(&self, asker: &Asker, spki_sha256: &str) -> Result<(), Refusal> {
        let what = format!("key:{spki_sha256}");
        self.write(asker.entry(AuditAction::Enrol, Vec::new(), Some(what))).await?;
        Ok(())
    }

    /// # Errors
    /// [`AuditError`]: nobody knows of the denial but the log.
    pub(crate) async fn denied(&self, asker: &Asker, path: String) -> Result<(), AuditError> {
        self.write(asker.entry(AuditAction::Denied, Vec::new(), Some(path))).await.map(drop)
    }

    /// Written to its end also where whoever asked has gone away. Answers where it stands.
    async fn write(&self, entry: AuditEntry) -> Result<String, AuditError> {
        let audit = self.clone();
        let written = tokio::spawn(async move { audit.append(entry).await });
        written.await.map_err(|e| AuditError::Line(e.into()))?
    }

    async fn append(&self, entry: AuditEntry) -> Result<String, AuditError> {
        let mut chain = self.chain.lock().await;
        if chain.is_full {
            let waiting = self.store.audit_length().await?;
            if waiting >= MOST_WAITING {
                return Err(AuditError::Full(waiting));
            }
        }
        // After an error nobody knows whether the line was written: the chain ends, and another one begins.
        let at = match chain.at.take() {
            Some(at) => at,
            None => AuditChain::begin(draw()?, node(), chain.last.clone()),
        };
        let (line, next) = at.next(Timestamp::now(), entry).map_err(|e| AuditError::Line(e.into()))?;
        chain.is_full = self.store.append_audit(&line).await? >= MOST_WAITING;
        next.digest().clone_into(&mut chain.last);
        chain.at = Some(next);
        Ok(at.place())
    }
}

impl Asker {
    fn entry(&self, action: AuditAction, keys: Vec<AuditedKey>, what: Option<String>) -> AuditEntry {
        AuditEntry {
            who: self.name.clone(),
            by: self.identity.to_string(),
            from: self.from.clone(),
            action,
            keys,
            what,
        }
    }
}

fn draw() -> Result<String, AuditError> {
    let mut bytes = [0; 8];
    openssl::rand::rand_bytes(&mut bytes).map_err(|e| AuditError::Line(e.into()))?;
    Ok(hex(&bytes))
}

/// Host and process.
fn node() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}", host.trim(), std::process::id())
}
