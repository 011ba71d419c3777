//! What many certificates have in common: their chain, and a leaf of it that the others are packed against.
//!
//! Two leaves of one CA differ in little more than serial, key, names and signatures. In each partition the first one of a chain
//! is kept, for ever; every later one is stored as what it is different in. The first is written with the certificates that need
//! it and in the same place: whoever loses one of the two in a failover has lost the other as well.

use super::{Store, StoreError, keys};
use crate::digest::{hex, unhex};
use crate::domain::Partition;
use openssl::sha::sha256;
use redis::cmd;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A fleet uses a handful of chains at a time; beyond this all are forgotten and asked for again.
const KEPT: usize = 64;
const KEPT_TEMPLATES: usize = KEPT * 64;

/// A chain's place in the store: the first 16 bytes of the SHA-256 of its PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChainId(pub(super) [u8; 16]);

type Templates = HashMap<(Partition, ChainId), Arc<[u8]>>;

/// What was read: a chain's id says what it is, and a first leaf is never replaced.
#[derive(Debug, Default)]
pub(super) struct KnownChains {
    chains: Mutex<HashMap<ChainId, Arc<str>>>,
    templates: Mutex<Templates>,
}

impl ChainId {
    pub(super) fn of(chain_pem: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&sha256(chain_pem.as_bytes())[..16]);
        Self(id)
    }

    /// As records of version 1 have it.
    pub(super) fn parse(hex: &str) -> Option<Self> {
        Some(Self(unhex(hex)?.try_into().ok()?))
    }

    pub(super) fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl Store {
    /// Stores a chain, whether it is stored yet or not: only what is written now can be confirmed now.
    pub(super) async fn store_chain(&self, chain_pem: &str) -> Result<(), StoreError> {
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::chain(&ChainId::of(chain_pem).to_hex())).arg(chain_pem);
        self.confirmed.write(set).await.map(drop)
    }

    /// A chain, PEM; `None` where it isn't stored.
    pub(super) async fn load_chain(&self, id: ChainId) -> Result<Option<Arc<str>>, StoreError> {
        if let Some(known) = held(&self.chains.chains).get(&id) {
            return Ok(Some(Arc::clone(known)));
        }
        let pem: Option<String> = self.link.query(cmd("GET").arg(keys::chain(&id.to_hex()))).await?;
        let pem: Option<Arc<str>> = pem.map(Into::into);
        keep(&self.chains.chains, KEPT, id, pem.as_ref());
        Ok(pem)
    }

    /// The leaf that those of a chain are packed against; `None` where none is stored yet.
    pub(super) async fn load_template(
        &self,
        partition: Partition,
        id: ChainId,
    ) -> Result<Option<Arc<[u8]>>, StoreError> {
        if let Some(known) = held(&self.chains.templates).get(&(partition, id)) {
            return Ok(Some(Arc::clone(known)));
        }
        let key = keys::template(partition, &id.to_hex());
        let leaf: Option<Vec<u8>> = self.link.query(cmd("GET").arg(key)).await?;
        let leaf: Option<Arc<[u8]>> = leaf.map(Into::into);
        keep(&self.chains.templates, KEPT_TEMPLATES, (partition, id), leaf.as_ref());
        Ok(leaf)
    }

    /// Reads it again the next time.
    pub(super) fn forget_template(&self, partition: Partition, id: ChainId) {
        held(&self.chains.templates).remove(&(partition, id));
    }
}

fn held<K, V>(known: &Mutex<HashMap<K, V>>) -> MutexGuard<'_, HashMap<K, V>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep<K: std::hash::Hash + Eq, V: Clone>(
    known: &Mutex<HashMap<K, V>>,
    most: usize,
    key: K,
    value: Option<&V>,
) {
    let Some(value) = value else { return };
    let mut known = held(known);
    if known.len() >= most {
        known.clear();
    }
    known.insert(key, value.clone());
}
