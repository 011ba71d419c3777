//! The audit of this process: a chain of lines, one after the other. What can't be written down doesn't happen.

use super::{
    budget::{Budgets, Counted, Spent},
    identity::Identity,
    refusal::Refusal,
};
use jiff::Timestamp;
use shared::{
    digest::{hex, sha256_hex},
    domain::{AuditAction, AuditChain, AuditEntry, AuditedKey},
    error,
    store::{Store, StoreError},
};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// Lines in the store past which no key is given out: nobody takes them to a disk, and the store must not be filled.
const MOST_WAITING: u64 = 100_000;
/// What is only counted is written after this long.
const COUNTED_FOR: Duration = Duration::from_secs(60);

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
    budgets: Budgets,
    /// By frontend: of whom something was only counted, and is to be written.
    counting: Arc<std::sync::Mutex<HashMap<String, Asker>>>,
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
        Self {
            store,
            chain: Arc::default(),
            last_time: Arc::default(),
            budgets: Budgets::default(),
            counting: Arc::default(),
        }
    }

    /// Before keys leave.
    ///
    /// # Errors
    /// [`Refusal`]: the keys must not leave.
    pub(crate) async fn read_keys(&self, asker: &Asker, keys: Vec<AuditedKey>) -> Result<(), Refusal> {
        if self.is_counted(asker, self.budgets.keys(asker, &keys, Instant::now())) {
            return Ok(());
        }
        self.write(asker.entry(AuditAction::ReadKey, keys.clone(), None)).await?;
        self.budgets.written(asker, &keys);
        Ok(())
    }

    /// Before keys leave for somebody who asks for all of them again and again: where these are the ones of the last time, it
    /// says which line has them.
    ///
    /// # Errors
    /// As [`Audit::read_keys`].
    pub(crate) async fn read_keys_again(&self, asker: &Asker, keys: Vec<AuditedKey>) -> Result<(), Refusal> {
        if self.is_counted(asker, self.budgets.keys(asker, &keys, Instant::now())) {
            return Ok(());
        }
        let text = serde_json::to_string(&(&asker.from, asker.identity.to_string(), &keys))
            .map_err(|e| AuditError::Line(e.into()))?;
        let digest = sha256_hex(text.as_bytes());
        let before = self.last_time.lock().await.get(&asker.name).cloned();
        if let Some((_, place)) = before.filter(|(known, _)| *known == digest) {
            let what = format!("the {} keys of {place} again", keys.len());
            self.write(asker.entry(AuditAction::ReadKey, Vec::new(), Some(what))).await?;
        } else {
            let place = self.write(asker.entry(AuditAction::ReadKey, keys.clone(), None)).await?;
            self.budgets.written(asker, &keys);
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

    /// Whether a frontend may have another client certificate now.
    pub(crate) fn may_enrol(&self, frontend: &str) -> bool {
        self.budgets.enrolment(frontend, Instant::now())
    }

    /// # Errors
    /// [`AuditError`]: nobody knows of the denial but the log.
    pub(crate) async fn denied(&self, asker: &Asker, path: String) -> Result<(), AuditError> {
        if self.is_counted(asker, self.budgets.denial(&asker.name, &path, Instant::now())) {
            return Ok(());
        }
        self.write(asker.entry(AuditAction::Denied, Vec::new(), Some(path))).await.map(drop)
    }

    /// Whether an answer was only counted. The counts are written after a while.
    fn is_counted(&self, asker: &Asker, spent: Spent) -> bool {
        let Spent::Counted { is_first } = spent else { return false };
        if is_first {
            let (audit, asker) = (self.clone(), asker.clone());
            audit.counting().insert(asker.name.clone(), asker.clone());
            tokio::spawn(async move {
                tokio::time::sleep(COUNTED_FOR).await;
                audit.counting().remove(&asker.name);
                audit.write_what_was_counted(&asker).await;
            });
        }
        true
    }

    /// Writes what was only counted so far, before the role ends.
    pub(crate) async fn finish(&self) {
        let all = std::mem::take(&mut *self.counting());
        for asker in all.into_values() {
            self.write_what_was_counted(&asker).await;
        }
    }

    fn counting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Asker>> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_what_was_counted(&self, asker: &Asker) {
        let counted = self.budgets.take_counted(&asker.name);
        if let Err(error) = self.write_counted(asker, counted).await {
            tracing::warn!(
                error = error::chain(&error),
                frontend = asker.name,
                ?counted,
                "answers that were counted are not in the audit"
            );
        }
    }

    async fn write_counted(&self, asker: &Asker, counted: Counted) -> Result<(), AuditError> {
        let Counted { answers, keys, denials } = counted;
        if answers > 0 {
            let what = format!("{answers} more answers, with {keys} keys that are in earlier lines");
            self.write(asker.entry(AuditAction::ReadKey, Vec::new(), Some(what))).await?;
        }
        if denials > 0 {
            let what = format!("{denials} more requests");
            self.write(asker.entry(AuditAction::Denied, Vec::new(), Some(what))).await?;
        }
        Ok(())
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
