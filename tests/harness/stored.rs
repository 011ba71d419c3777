//! What the store really holds: certificates and keys, read through the store and opened through the vault, and judged by
//! the `openssl` program.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::{
    pkey::{PKey, Private},
    x509::X509,
};
use shared::{
    config::Config,
    domain::{DnsName, KeyType, Slot},
    store::{Role, Store, lineage_of, open_vault},
    vault::{Binding, SealedKind, Vault},
};

use crate::signpost::Daemon;

/// The store of an installation, opened as an issuer opens it.
pub struct Stored {
    pub store: Store,
    pub vault: Arc<Vault>,
}

/// A certificate that is served for a name.
pub struct Served {
    pub slot: Slot,
    pub key_type: KeyType,
    pub leaf: X509,
    pub chain_pem: String,
    pub key: PKey<Private>,
}

impl Stored {
    pub async fn open(config: &Path) -> Result<Self> {
        let config = Config::load(Some(config))?;
        let store = Store::open(&config.store, Role::Issuer).await?;
        let (vault, made) = open_vault(&store, &config.store).await?;
        ensure!(made.is_none(), "a test that looks into a store never makes its keyring");
        Ok(Self { store, vault })
    }

    /// The certificates that are served for a name, each with the key that opens for it; none where none is served.
    pub async fn served(&self, name: &str) -> Result<Vec<Served>> {
        let name = DnsName::parse_identifier(name)?;
        let Some(id) = self.store.site_of(&name).await? else { return Ok(Vec::new()) };
        let site = self.store.load_site(&id).await?.context("a name leads to a site that is there")?;
        let mut served = Vec::new();
        for (slot, certificate_id) in &site.serving.current {
            let certificate = self.store.load_certificate(&id, certificate_id).await?;
            let certificate = certificate.context("a site points to a certificate that is there")?;
            let lineage = lineage_of(&id, *slot);
            let spki_sha256 = certificate.leaf()?.spki_sha256;
            let binding =
                Binding { kind: SealedKind::CertificateKey, owner: &lineage, spki_sha256: &spki_sha256 };
            let key = self.vault.open(&certificate.sealed_key, &binding)?;
            served.push(Served {
                slot: *slot,
                key_type: certificate.key_type,
                leaf: X509::from_der(&certificate.leaf_der)?,
                chain_pem: certificate.chain_pem,
                key: PKey::private_key_from_pkcs8(&key)?,
            });
        }
        Ok(served)
    }

    /// The current key of an account.
    pub async fn account_key(&self, ca: &str, name: &str) -> Result<PKey<Private>> {
        let account = self.store.load_account(ca, name).await?.context("no such account")?.account;
        let owner = format!("{ca}:{name}");
        let binding =
            Binding { kind: SealedKind::AccountKey, owner: &owner, spki_sha256: &account.key_spki_sha256 };
        let key = self.vault.open(&STANDARD.decode(&account.sealed_key)?, &binding)?;
        Ok(PKey::private_key_from_pkcs8(&key)?)
    }
}

impl Served {
    /// The names of the certificate, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .leaf
            .subject_alt_names()
            .map(|names| names.iter().filter_map(|name| name.dnsname().map(str::to_owned)).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    /// How many certificates stand above the leaf.
    pub fn chain_length(&self) -> Result<usize> {
        Ok(X509::stack_from_pem(self.chain_pem.as_bytes())?.len())
    }

    /// Fails unless the key is the certificate's, the names are exactly these, and `openssl verify` finds a path to a root.
    pub fn verify(&self, root_pem: &str, names: &[&str]) -> Result<()> {
        ensure!(self.leaf.public_key()?.public_eq(&self.key), "the key is another certificate's");
        let mut wanted: Vec<&str> = names.to_vec();
        wanted.sort_unstable();
        ensure!(self.names() == wanted, "{:?} instead of {wanted:?}", self.names());
        ensure!(self.slot == self.key_type.slot(), "{} in the slot {}", self.key_type, self.slot);

        let directory = tempfile::tempdir()?;
        let write = |file: &str, content: &[u8]| -> Result<_> {
            let path = directory.path().join(file);
            std::fs::write(&path, content)?;
            Ok(path)
        };
        let mut command = Command::new("openssl");
        command.arg("verify").arg("-CAfile").arg(write("root.pem", root_pem.as_bytes())?);
        command.arg("-untrusted").arg(write("chain.pem", self.chain_pem.as_bytes())?);
        for name in names {
            command.args(["-verify_hostname", name]);
        }
        command.arg(write("leaf.pem", &self.leaf.to_pem()?)?);
        let output = command.output().context("openssl isn't there: apt-get install openssl")?;
        ensure!(
            output.status.success(),
            "openssl verify: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// The names that role `certificates` lists for whoever has this token, in their order.
pub async fn listed(role: &Daemon, ca_pem: &str, token: &str) -> Result<Vec<String>> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .tls_certs_only([reqwest::Certificate::from_pem(ca_pem.as_bytes())?])
        .build()?;
    let url = format!("https://127.0.0.1:{}/v1/certificates", role.address.port());
    let answer = client.get(url).bearer_auth(token).send().await?.error_for_status()?;
    let document: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
    let items = document["items"].as_array().with_context(|| document.to_string())?;
    let names = items.iter().flat_map(|item| item["names"].as_array().into_iter().flatten());
    let mut names: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}
