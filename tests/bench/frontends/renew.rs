//! Renewals, written as an issuer writes them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use harness::stored::Stored;
use jiff::Timestamp;
use shared::{
    domain::{Certificate, KeyType, Order, Planned, SiteId, Slot, Stored as StoredState},
    store::{LeaseAnswer, Owner, lineage_of},
    vault::{Binding, SealedKind},
};
use tokio::task::JoinSet;

use crate::{
    fleet::{self, Fleet},
    leaf::Mint,
};

/// Sites that are worked on at once.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(120);

/// Renews the certificates of the first `count` sites. Answers how many seconds it took.
pub(crate) async fn renew(fleet: &Fleet, mint: &Mint, count: usize) -> Result<f64> {
    let stored = std::sync::Arc::new(Stored::open(fleet.signpost.config_path()).await?);
    let mut certificates = Vec::with_capacity(count);
    for number in 0..count {
        certificates.push((fleet::id(number)?, certificate(number, mint, &stored)?));
    }
    let began = Instant::now();
    let mut under_way = JoinSet::new();
    for (id, certificate) in certificates {
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await.context("some are under way")???;
        }
        let stored = std::sync::Arc::clone(&stored);
        under_way.spawn(async move { publish(&stored, &id, certificate).await });
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(began.elapsed().as_secs_f64())
}

fn certificate(number: usize, mint: &Mint, stored: &Stored) -> Result<Certificate> {
    let (leaf_der, key) = mint.leaf(number, &fleet::name(number))?;
    let owner = lineage_of(&fleet::id(number)?, Slot::Ecdsa);
    let binding = Binding { kind: SealedKind::CertificateKey, owner: &owner, spki_sha256: &key.spki_sha256 };
    Ok(Certificate {
        leaf_der,
        chain_pem: mint.chain_pem.clone(),
        sealed_key: stored.vault.seal(&key.pkcs8, &binding)?,
        key_type: KeyType::EcdsaP256,
        ca: "pebble".to_owned(),
        account: "default".to_owned(),
        issued: Timestamp::now(),
        known: None,
    })
}

async fn publish(stored: &Stored, id: &SiteId, certificate: Certificate) -> Result<()> {
    let store = &stored.store;
    let site = store.load_site(id).await?.context("no such site")?;
    let owner = Owner::this_process();
    let length = Duration::from_secs(60);
    let began = Instant::now();
    let lease = loop {
        match store.acquire_lease(id, &site.site, &owner, &owner.attempt(), length).await? {
            LeaseAnswer::Acquired(lease) => break lease,
            // The daemon that ran before has looked at it.
            LeaseAnswer::Held { remaining, .. } if began.elapsed() < PATIENCE => {
                tokio::time::sleep(remaining.min(Duration::from_millis(100))).await;
            }
            LeaseAnswer::Held { owner, remaining } => bail!("{owner} works on {id} for {remaining:?} more"),
        }
    };
    // As it is under the lease: a daemon that held it until now may have published, or have left an order open.
    let site = store.load_site(id).await?.context("no such site")?;
    if store.load_order(id, Slot::Ecdsa).await?.is_some() {
        store.end_order(&lease, Slot::Ecdsa, None).await?;
    }
    let order = Order {
        v: Order::VERSION,
        names: site.site.names.clone(),
        key_type: KeyType::EcdsaP256,
        ca: "pebble".into(),
        account: "default".into(),
        account_url: None,
        profile: None,
        created: Timestamp::now(),
        stuck: None,
        state: Planned {}.into(),
    };
    let order = store.begin_order(&lease, order).await?;
    let state = StoredState { certificate: certificate.id() };
    store.store_certificate(&lease, &order, &certificate, state).await?;
    let new = [(Slot::Ecdsa, certificate.id())].into_iter().collect();
    store.publish(&lease, &site.serving.with(&new, &[]), &[], &[]).await?;
    Ok(store.release_lease(&lease).await?)
}
