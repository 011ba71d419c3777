//! Records that hold sealed keys, or a MAC, to be sealed and signed with another key-encryption key. Each is replaced only if it
//! is still, byte for byte, what was read.

use super::{
    Account, InternalCaRecord, Store, StoreError, certificate_record::CertificateRecord,
    certificates::lineage_of, keys, scripts,
};
use crate::{
    digest::sha256_hex,
    domain::{CertificateId, Leaf, Order, OrderState, SiteId},
    vault::{Binding, OpenError, SealError, SealedKind, Vault, kek_id, mac_kek_id},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use openssl::x509::{X509, X509Req};
use redis::cmd;
use std::collections::HashMap;

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct SealedRecord {
    pub(super) key: String,
    pub(super) raw: Vec<u8>,
    pub(super) form: Form,
}

#[derive(Clone, Debug)]
pub(super) enum Form {
    /// Of a site, with its leaf where that could be read, DER.
    Certificate(SiteId, Option<Vec<u8>>),
    /// An open order of a site.
    Order(SiteId),
    Account,
    InternalCa,
    /// Grants something, and holds no secret.
    Grant,
    /// A field of the hash of API tokens.
    Token(String),
}

/// The record stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    #[error(transparent)]
    Record(#[from] StoreError),
    #[error("it can't be opened")]
    Open(#[from] OpenError),
    #[error("it can't be sealed")]
    Seal(#[from] SealError),
    /// Written by an older program, in a state that doesn't say what key it is.
    #[error(
        "an older version has begun this order: finish it with this one (issuer issue, or the daemon), and run again"
    )]
    Unnamed,
}

/// Gives a sealed secret another form. What it is bound to is worked out only where it is needed.
type Change<'a> = &'a mut dyn FnMut(&[u8], &dyn Fn() -> Named) -> Result<Vec<u8>, RewrapError>;
/// What a secret is bound to: kind, owner, digest of the public key.
type Named = Result<(SealedKind, String, String), RewrapError>;

impl SealedRecord {
    /// The record's key in the store.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The ids of the key-encryption keys that its secrets are sealed with.
    ///
    /// # Errors
    /// A record that can't be read.
    pub fn kek_ids(&self) -> Result<Vec<String>, RewrapError> {
        if matches!(self.form, Form::Grant | Form::Token(_)) {
            // One without a MAC grants nothing, with whatever key.
            return Ok(self.text().and_then(mac_kek_id).map(str::to_owned).into_iter().collect());
        }
        let mut ids = Vec::new();
        self.changed(&mut |sealed, _| {
            ids.push(kek_id(sealed)?.to_owned());
            Ok(sealed.to_vec())
        })?;
        Ok(ids)
    }

    /// The record with every secret sealed by the key `to`; `None` where it is already.
    ///
    /// # Errors
    /// [`RewrapError`].
    pub fn rewrapped(&self, vault: &Vault, to: &str) -> Result<Option<Vec<u8>>, RewrapError> {
        if matches!(self.form, Form::Grant | Form::Token(_)) {
            return self.signed_anew(vault, to);
        }
        let mut is_changed = false;
        let record = self.changed(&mut |sealed, named| {
            if kek_id(sealed)? == to {
                return Ok(sealed.to_vec());
            }
            is_changed = true;
            let (kind, owner, spki_sha256) = named()?;
            let binding = Binding { kind, owner: &owner, spki_sha256: &spki_sha256 };
            Ok(vault.seal_with(to, &vault.open(sealed, &binding)?, &binding)?)
        })?;
        Ok(is_changed.then_some(record))
    }

    /// One that does not verify is left as it is: nobody can make a rotation fail by writing nonsense into the store.
    fn signed_anew(&self, vault: &Vault, to: &str) -> Result<Option<Vec<u8>>, RewrapError> {
        let Some(stored) = self.text().filter(|stored| mac_kek_id(stored) != Some(to)) else {
            return Ok(None);
        };
        match vault.verify(&self.key, stored) {
            Ok(text) => Ok(Some(vault.sign_with(to, &self.key, text)?.into_bytes())),
            Err(_) => Ok(None),
        }
    }

    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.raw).ok()
    }

    /// The record with each of its secrets changed.
    fn changed(&self, change: Change<'_>) -> Result<Vec<u8>, RewrapError> {
        match &self.form {
            Form::Certificate(site, leaf) => self.changed_certificate(site, leaf.as_deref(), change),
            Form::Order(site) => self.changed_order(site, change),
            Form::Account => {
                let mut account: Account = self.parse()?;
                newest(account.v, Account::VERSION)?;
                let owner = format!("{}:{}", account.ca, account.name);
                let named = |spki: &String| {
                    Ok::<_, RewrapError>((SealedKind::AccountKey, owner.clone(), spki.clone()))
                };
                let spki = account.key_spki_sha256.clone();
                self.change_text(&mut account.sealed_key, change, &|| named(&spki))?;
                for candidate in account.candidate.iter_mut().chain(&mut account.set_aside) {
                    let spki = candidate.key_spki_sha256.clone();
                    self.change_text(&mut candidate.sealed_key, change, &|| named(&spki))?;
                }
                self.text_of(&account)
            }
            Form::InternalCa => {
                let mut record: InternalCaRecord = self.parse()?;
                newest(record.v, InternalCaRecord::VERSION)?;
                let spki = record.key_spki_sha256.clone();
                let named = || Ok((SealedKind::InternalCa, "fleet".to_owned(), spki.clone()));
                self.change_text(&mut record.sealed_key, change, &named)?;
                self.text_of(&record)
            }
            Form::Grant | Form::Token(_) => Ok(self.raw.clone()),
        }
    }

    fn changed_certificate(
        &self,
        site: &SiteId,
        leaf: Option<&[u8]>,
        change: Change<'_>,
    ) -> Result<Vec<u8>, RewrapError> {
        let record = CertificateRecord::parse(&self.raw).map_err(|e| e.of(&self.key))?;
        let named = || {
            let leaf = leaf.ok_or_else(|| StoreError::corrupt(&self.key, "its leaf can't be read"))?;
            let leaf = X509::from_der(leaf).map_err(|e| self.damaged(e))?;
            let leaf = Leaf::of(&leaf).map_err(|e| self.damaged(e))?;
            let lineage = lineage_of(site, record.key_type.slot());
            Ok((SealedKind::CertificateKey, lineage, leaf.spki_sha256))
        };
        let sealed = change(&record.sealed_key, &named)?;
        // The sealed key is the record's end.
        let head = &self.raw[..self.raw.len() - record.sealed_key.len()];
        Ok([head, &sealed].concat())
    }

    fn changed_order(&self, site: &SiteId, change: Change<'_>) -> Result<Vec<u8>, RewrapError> {
        let mut order: Order = self.parse()?;
        newest(order.v, Order::VERSION)?;
        let lineage = lineage_of(site, order.slot());
        let (sealed_key, csr) = match &mut order.state {
            OrderState::Finalizing(state) => (&mut state.sealed_key, Some(state.csr.clone())),
            OrderState::Issued(state) => (&mut state.sealed_key, state.csr.clone()),
            // No key yet, or the certificate has it.
            _ => return Ok(self.raw.clone()),
        };
        let named = || {
            let csr =
                STANDARD.decode(csr.as_ref().ok_or(RewrapError::Unnamed)?).map_err(|e| self.damaged(e))?;
            let spki = X509Req::from_der(&csr)
                .and_then(|csr| csr.public_key()?.public_key_to_der())
                .map_err(|e| self.damaged(e))?;
            Ok((SealedKind::CertificateKey, lineage.clone(), sha256_hex(&spki)))
        };
        self.change_text(sealed_key, change, &named)?;
        self.text_of(&order)
    }

    fn change_text(
        &self,
        sealed: &mut String,
        change: Change<'_>,
        named: &dyn Fn() -> Named,
    ) -> Result<(), RewrapError> {
        let bytes = STANDARD.decode(&*sealed).map_err(|e| self.damaged(e))?;
        *sealed = STANDARD.encode(change(&bytes, named)?);
        Ok(())
    }

    fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_slice(&self.raw).map_err(|e| self.damaged(e))
    }

    fn text_of(&self, record: &impl serde::Serialize) -> Result<Vec<u8>, RewrapError> {
        Ok(serde_json::to_vec(record).map_err(|e| self.damaged(e))?)
    }

    fn damaged(&self, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
        StoreError::corrupt(&self.key, source)
    }
}

fn newest(found: u32, known: u32) -> Result<(), StoreError> {
    if found > known { Err(StoreError::NewerSchema { found, known }) } else { Ok(()) }
}

impl Store {
    /// The leaf of a certificate's record; `None` where it can't be read: the record says so when it is needed.
    pub(super) async fn leaf_of(
        &self,
        site: &SiteId,
        key: &str,
        raw: &[u8],
        id: &CertificateId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Ok(record) = CertificateRecord::parse(raw) else { return Ok(None) };
        match self.unpack_leaf(site.partition(), key, &record, id).await {
            Ok(leaf) => Ok(Some(leaf.leaf_der)),
            Err(StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What holds sealed keys, or a MAC, and belongs to no site: the accounts, the internal CA, and what grants something.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_sealed_of_fleet(&self) -> Result<Vec<SealedRecord>, StoreError> {
        let members: Vec<String> = self.link.query(cmd("SMEMBERS").arg(keys::ACCOUNTS)).await?;
        let accounts = members.iter().filter_map(|member| member.split_once(':'));
        let mut keyed: Vec<(String, Form)> =
            accounts.map(|(ca, name)| (keys::account(ca, name), Form::Account)).collect();
        keyed.push((keys::INTERNAL_CA.to_owned(), Form::InternalCa));
        keyed.push((keys::TLS_POLICY.to_owned(), Form::Grant));
        let frontends: Vec<String> =
            self.link.query(cmd("ZRANGE").arg(keys::FRONTENDS).arg(0).arg(-1)).await?;
        keyed.extend(frontends.iter().map(|name| (keys::frontend(name), Form::Grant)));
        let mut found = Vec::new();
        for (key, form) in keyed {
            let raw: Option<Vec<u8>> = match self.link.query(cmd("GET").arg(&key)).await {
                // One that can't be read is counted as that.
                Err(StoreError::Corrupt { .. }) => Some(Vec::new()),
                raw => raw?,
            };
            found.extend(raw.map(|raw| SealedRecord { key, raw, form }));
        }
        let tokens: HashMap<String, Vec<u8>> = self.link.query(cmd("HGETALL").arg(keys::API_TOKENS)).await?;
        found.extend(tokens.into_iter().map(|(sha256, raw)| SealedRecord {
            key: keys::api_token(&sha256),
            raw,
            form: Form::Token(sha256),
        }));
        Ok(found)
    }

    /// Puts records in the place of what was read, and says how many: one that has changed or gone meanwhile stays, and so
    /// does an order that somebody works on.
    ///
    /// # Errors
    /// [`StoreError`]: some may have been replaced. Safe to repeat.
    pub async fn replace_sealed(&self, changes: &[(SealedRecord, Vec<u8>)]) -> Result<u64, StoreError> {
        let mut replaced = 0;
        for (record, new) in changes {
            let arguments = [&record.raw[..], new];
            replaced += match &record.form {
                // At once, below.
                Form::Certificate(..) => 0,
                Form::Order(site) => {
                    let touched = [keys::site(site), record.key.clone()];
                    self.confirmed.script(&scripts::REWRAP_ORDER, &touched, &arguments).await?
                }
                Form::Token(sha256) => {
                    let touched = [keys::API_TOKENS.to_owned()];
                    let arguments = [sha256.as_bytes(), &record.raw[..], new];
                    self.confirmed.script(&scripts::REPLACE_FIELD, &touched, &arguments).await?
                }
                Form::Account | Form::InternalCa | Form::Grant => {
                    let touched = [record.key.clone()];
                    self.confirmed.script(&scripts::REWRAP_RECORDS, &touched, &arguments).await?
                }
            };
        }
        let certificates: Vec<_> = changes
            .iter()
            .filter_map(|(record, new)| match &record.form {
                Form::Certificate(site, _) => Some((site.partition(), record, new)),
                _ => None,
            })
            .collect();
        // In a cluster a script touches one partition.
        for batch in certificates.chunk_by(|one, two| one.0 == two.0) {
            let touched: Vec<String> = batch.iter().map(|(_, record, _)| record.key.clone()).collect();
            let arguments: Vec<&[u8]> =
                batch.iter().flat_map(|(_, record, new)| [&record.raw[..], new]).collect();
            replaced += self.confirmed.script::<u64>(&scripts::REWRAP_RECORDS, &touched, &arguments).await?;
        }
        Ok(replaced)
    }
}
