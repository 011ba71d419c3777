//! A CA that makes it hard: strict, half of all nonces refused, authorizations reused or not, several roots and long
//! chains, an external account binding, validations that take their time. Certificates of one name and of fifty,
//! each of them judged by `openssl verify`.

use anyhow::{Context as _, Result, ensure};
use harness::{
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use openssl::{nid::Nid, x509::X509};

const EAB_KID: &str = "hoster-1";
const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
const CHAIN_LENGTH: u32 = 3;
const NAMES_OF_A_LARGE_ONE: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn authorizations_are_never_reused() -> Result<()> {
    Scene::of_reuse(0, 1).await?.issue(10, &["ecdsa-p256"], 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_authorizations_are_reused() -> Result<()> {
    Scene::of_reuse(50, 2).await?.issue(5, &["ecdsa-p384", "rsa-2048"], 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_authorization_is_reused() -> Result<()> {
    Scene::of_reuse(100, 0).await?.issue(5, &["ecdsa-p256", "rsa-2048"], 1).await
}

/// A hundred certificates of one name and ten of fifty.
mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn authorizations_are_never_reused() -> Result<()> {
        Scene::of_reuse(0, 1).await?.issue(34, &["ecdsa-p256"], 4).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn half_of_the_authorizations_are_reused() -> Result<()> {
        Scene::of_reuse(50, 2).await?.issue(16, &["ecdsa-p384", "rsa-2048"], 3).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_authorization_is_reused() -> Result<()> {
        Scene::of_reuse(100, 0).await?.issue(17, &["ecdsa-p256", "rsa-2048"], 3).await
    }
}

struct Scene {
    stage: Stage,
    /// The root that every chain must end at.
    root_pem: String,
}

impl Scene {
    /// With a wish for the chain that ends at the root of this number.
    async fn of_reuse(authz_reuse_percent: u8, preferred_root: usize) -> Result<Self> {
        let pebble = PebbleOptions {
            strict: true,
            nonce_reject_percent: 50,
            authz_reuse_percent,
            alternate_roots: 2,
            chain_length: CHAIN_LENGTH,
            eab: Some((EAB_KID.to_owned(), EAB_KEY.to_owned())),
            sleep: true,
            ..PebbleOptions::default()
        };
        let mut stage = Stage::looking_with(StageOptions { pebble, ..StageOptions::default() }).await?;
        let root_pem = stage.pebble.roots().await?.swap_remove(preferred_root).root_pem;
        stage.signpost.set("ca.pebble.preferred_chain", common_name(&root_pem)?)?;
        Ok(Self { stage, root_pem })
    }

    /// So many names with a certificate of each key type, and so many certificates of fifty names with the first.
    async fn issue(self, singles: usize, key_types: &[&str], large: usize) -> Result<()> {
        let singles: Vec<String> = (0..singles).map(|number| format!("s{number}.example")).collect();
        let sets: Vec<Vec<String>> = (0..large)
            .map(|set| (0..NAMES_OF_A_LARGE_ONE).map(|n| format!("n{n}.set{set}.example")).collect())
            .collect();
        let sets: Vec<Vec<&str>> = sets.iter().map(|set| set.iter().map(String::as_str).collect()).collect();

        let mut line: Vec<&str> = singles.iter().map(String::as_str).collect();
        line.extend(key_types.iter().flat_map(|kind| ["--key-type", kind]));
        self.stage.issue(&line).await?;
        for set in &sets {
            let mut line = vec!["--san", "--key-type", key_types[0]];
            line.extend(set);
            self.stage.issue(&line).await?;
        }

        let stored = Stored::open(self.stage.signpost.config_path()).await?;
        for name in &singles {
            self.judge(&stored, &[name], key_types).await.with_context(|| name.clone())?;
        }
        for set in &sets {
            self.judge(&stored, set, &key_types[..1]).await.with_context(|| set[0].to_owned())?;
        }
        let issued: u64 = self.stage.proxy.orders().iter().map(|order| order.finalized).sum();
        let wanted = singles.len() * key_types.len() + sets.len();
        ensure!(issued == wanted as u64, "the CA issued {issued}, {wanted} were asked for");
        Ok(())
    }

    /// What the store serves for these names, key and chain, against what was asked for.
    async fn judge(&self, stored: &Stored, names: &[&str], key_types: &[&str]) -> Result<()> {
        let served = stored.served(names[0]).await?;
        let found: Vec<String> = served.iter().map(|one| one.key_type.to_string()).collect();
        ensure!(found == key_types, "{found:?}");
        for certificate in served {
            certificate.verify(&self.root_pem, names)?;
            ensure!(certificate.chain_length()? == CHAIN_LENGTH as usize, "{:?}", certificate.chain_pem);
        }
        Ok(())
    }
}

fn common_name(pem: &str) -> Result<String> {
    let root = X509::from_pem(pem.as_bytes())?;
    let entry = root.subject_name().entries_by_nid(Nid::COMMONNAME).next().context("a root has a name")?;
    Ok(entry.data().to_string()?)
}
