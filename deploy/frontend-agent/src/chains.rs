//! What stands above leaves: the same few certificates above thousands of them, read and verified once.

use crate::verify::{CLOCK_TOLERANCE, VerifyError};
use jiff::Timestamp;
use openssl::{
    pkey::{PKey, Public},
    sha::sha256,
    x509::{X509, X509Ref, X509VerifyResult},
};
use shared::domain::Leaf;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Chains that are remembered. A CA has a handful.
const MOST: usize = 64;

/// Chains that were verified, by the SHA-256 of their PEM text.
#[derive(Debug, Default)]
pub(crate) struct Chains(Mutex<HashMap<[u8; 32], Arc<Above>>>);

/// What stands above a leaf.
#[derive(Debug)]
pub(crate) struct Above {
    /// The leaf's issuer with its key; absent where nothing stands there.
    issuer: Option<(X509, PKey<Public>)>,
    /// Who has issued each of them.
    issuers: Vec<String>,
    /// From when until when each of them is valid.
    dates: Vec<(usize, Timestamp, Timestamp)>,
}

impl Chains {
    /// # Errors
    /// [`VerifyError`]; what is bad is not remembered.
    pub(crate) fn above(&self, pem: &[u8]) -> Result<Arc<Above>, VerifyError> {
        let digest = sha256(pem);
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(above) = known().get(&digest) {
            return Ok(Arc::clone(above));
        }
        let above = Arc::new(Above::read(pem)?);
        let mut known = known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(digest, Arc::clone(&above));
        Ok(above)
    }
}

impl Above {
    fn read(pem: &[u8]) -> Result<Self, VerifyError> {
        let chain = X509::stack_from_pem(pem)?;
        for (number, pair) in chain.windows(2).enumerate() {
            let [certificate, issuer] = pair else { continue };
            let linked = is_issued(certificate, issuer) && certificate.verify(&*issuer.public_key()?)?;
            if !linked {
                return Err(VerifyError::Chain(number + 2));
            }
        }
        let issuers = chain.iter().map(|certificate| issuer_of(certificate)).collect();
        let mut dates = Vec::new();
        for (place, certificate) in chain.iter().enumerate() {
            let (from, until) = Leaf::dates_of(certificate)?;
            dates.push((place + 2, from, until));
        }
        let issuer = match chain.into_iter().next() {
            Some(first) => {
                let key = first.public_key()?;
                Some((first, key))
            }
            None => None,
        };
        Ok(Self { issuer, issuers, dates })
    }

    /// Whether a leaf belongs below it, all of it is valid now, and nobody in the whole chain is refused.
    ///
    /// # Errors
    /// [`VerifyError::Chain`], [`VerifyError::ChainDates`], [`VerifyError::Issuer`].
    pub(crate) fn check(
        &self,
        leaf: &X509Ref,
        refused: &[String],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let soon = now.saturating_add(CLOCK_TOLERANCE).unwrap_or(Timestamp::MAX);
        let is_out = |(_, from, until): &&(usize, Timestamp, Timestamp)| *until <= now || *from > soon;
        if let Some((place, from, until)) = self.dates.iter().find(is_out) {
            return Err(VerifyError::ChainDates { place: *place, from: *from, until: *until });
        }
        if let Some((issuer, key)) = &self.issuer
            && !(is_issued(leaf, issuer) && leaf.verify(key)?)
        {
            return Err(VerifyError::Chain(1));
        }
        for issuer in std::iter::once(&issuer_of(leaf)).chain(&self.issuers) {
            let is_in = |word: &&String| issuer.to_lowercase().contains(&word.to_lowercase());
            if let Some(word) = refused.iter().find(is_in) {
                return Err(VerifyError::Issuer(issuer.clone(), word.clone()));
            }
        }
        Ok(())
    }
}

fn is_issued(certificate: &X509Ref, issuer: &X509Ref) -> bool {
    issuer.issued(certificate) == X509VerifyResult::OK
}

fn issuer_of(certificate: &X509Ref) -> String {
    let entries = certificate.issuer_name().entries();
    let parts: Vec<String> =
        entries.filter_map(|entry| Some(entry.data().to_string().ok()?.to_owned())).collect();
    parts.join(", ")
}
