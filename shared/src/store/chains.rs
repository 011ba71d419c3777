//! What many certificates have in common: their chain, and a leaf of it that the others are packed against.
//!
//! Two leaves of one CA differ in little more than serial, key, names and signatures. The first one of a chain is kept beside
//! it, for ever; every later one is stored as what it is different in.

use super::{Store, StoreError, keys};
use crate::digest::hex;
use openssl::sha::sha256;
use redis::{FromRedisValue, cmd};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A fleet uses a handful at a time; beyond this all are forgotten and asked for again.
const KEPT: usize = 256;

/// A chain's place in the store: the first 16 bytes of the SHA-256 of its PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChainId(pub(super) [u8; 16]);

/// A chain and the leaf beside it; empty where certificates of this chain were only stored by older programs.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) pem: String,
    pub(super) template: Vec<u8>,
}

/// Chains that were read. What a chain's id leads to never changes.
#[derive(Debug, Default)]
pub(super) struct KnownChains(Mutex<HashMap<ChainId, Arc<Chain>>>);

impl ChainId {
    pub(super) fn of(chain_pem: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&sha256(chain_pem.as_bytes())[..16]);
        Self(id)
    }

    pub(super) fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl Store {
    /// Stores a chain where it isn't stored yet, and answers the leaf that those of it are packed against: the first.
    pub(super) async fn store_chain(&self, chain_pem: &str, leaf: &[u8]) -> Result<Vec<u8>, StoreError> {
        let id = ChainId::of(chain_pem).to_hex();
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::chain(&id)).arg(chain_pem).arg("NX").ignore();
        // Asked for each time: what is packed against a leaf that a failover took away could never be read again.
        set.cmd("SET").arg(keys::template(&id)).arg(leaf).arg("NX").arg("GET");
        let value = self.confirmed.write(set).await?;
        let first: Option<Vec<u8>> =
            Option::from_redis_value(value).map_err(|e| StoreError::corrupt(keys::template(&id), e))?;
        Ok(first.unwrap_or_else(|| leaf.to_vec()))
    }

    /// `None` where it isn't stored.
    pub(super) async fn load_chain(&self, id: &str) -> Result<Option<Arc<Chain>>, StoreError> {
        let Some(key) = parse(id) else { return Ok(None) };
        if let Some(known) = self.chains.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        let pem: Option<String> = self.link.query(cmd("GET").arg(keys::chain(id))).await?;
        let template: Option<Vec<u8>> = self.link.query(cmd("GET").arg(keys::template(id))).await?;
        let Some(pem) = pem else { return Ok(None) };
        let chain = Arc::new(Chain { pem, template: template.unwrap_or_default() });
        // One that has no leaf yet may get one.
        if !chain.template.is_empty() {
            let mut known = self.chains.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= KEPT {
                known.clear();
            }
            known.insert(key, Arc::clone(&chain));
        }
        Ok(Some(chain))
    }

    /// Reads a chain again the next time.
    pub(super) fn forget_chain(&self, id: &str) {
        if let Some(key) = parse(id) {
            self.chains.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }
}

fn parse(id: &str) -> Option<ChainId> {
    let mut bytes = [0; 16];
    if id.len() != 2 * bytes.len() {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(id.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(ChainId(bytes))
}
