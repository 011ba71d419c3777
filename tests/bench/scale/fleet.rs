//! The store that is filled, and the installation that uses it.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::CaProxy,
    pebble::{Pebble, PebbleOptions},
    redis::{Listen, Redis, RedisOptions},
    signpost::Signpost,
    stored::Stored,
};
use jiff::{Timestamp, ToSpan as _};
use shared::{
    domain::{
        Certificate, ChallengeType, Class, DnsName, KeyType, NameSet, Origin, Place, SanPolicy, Site, SiteId,
        Slot, renewal_moment, urgent_from,
    },
    store::{SettledGroup, lineage_of},
    vault::{Binding, SealedKind, Vault},
};

use crate::leaf::Mint;

/// Groups that are written at once.
const AT_ONCE: usize = 500;
const LIFE_DAYS: i64 = 90;

/// Everything that runs. Its parts end in the order of their declaration.
pub(crate) struct Fleet {
    pub(crate) signpost: Signpost,
    _proxy: CaProxy,
    pub(crate) redis: Redis,
    _pebble: Pebble,
}

/// The name of a site: all are of one length, that of many domains.
pub(crate) fn name(number: usize) -> String {
    format!("www.s{number:07}.shop.example")
}

pub(crate) fn id(number: usize) -> Result<SiteId> {
    Ok(SiteId::of(&NameSet::one(DnsName::parse(&name(number))?)))
}

impl Fleet {
    /// As the embedded store is configured, but that filling it does not wait for the disk.
    pub(crate) async fn set_up() -> Result<Self> {
        let redis = Redis::start(RedisOptions {
            listen: Listen::Unix,
            append_fsync: "everysec",
            extra: shared::store::Embedded::MEMORY_SETTINGS.to_owned(),
            ..RedisOptions::default()
        })
        .await?;
        let pebble = Pebble::start(PebbleOptions { always_valid: true, ..PebbleOptions::default() }).await?;
        let proxy = CaProxy::start(&pebble).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_ca(&pebble, &proxy)?;
        signpost.use_store(&redis.url())?;
        let ring = signpost.key_encryption_key_file();
        signpost.issuer(&["key", "generate", ring.to_str().context("a path is text")?]).await?.success()?;
        signpost.issuer(&["account", "create"]).await?.success()?;
        Ok(Self { signpost, _proxy: proxy, redis, _pebble: pebble })
    }

    /// Answers how many seconds it took.
    pub(crate) async fn fill(&self, sites: usize, mint: &Mint) -> Result<f64> {
        let began = Instant::now();
        let Stored { store, vault } = Stored::open(self.signpost.config_path()).await?;
        let now = Timestamp::now();
        for first in (0..sites).step_by(AT_ONCE) {
            let numbers = first..(first + AT_ONCE).min(sites);
            let groups: Vec<SettledGroup> =
                numbers.map(|number| group(number, mint, &vault, now)).collect::<Result<_>>()?;
            store.fill(&groups).await?;
        }
        // What was written is what the programs read: a certificate with its key.
        let stored = Stored { store, vault };
        let served = stored.served(&name(sites / 2)).await?;
        ensure!(served.len() == 1 && served[0].leaf.public_key()?.public_eq(&served[0].key));
        Ok(began.elapsed().as_secs_f64())
    }
}

fn group(number: usize, mint: &Mint, vault: &Vault, now: Timestamp) -> Result<SettledGroup> {
    let name = name(number);
    let names = NameSet::one(DnsName::parse(&name)?);
    let id = SiteId::of(&names);
    let (leaf_der, key) = mint.leaf(number, &name)?;
    let lineage = lineage_of(&id, Slot::Ecdsa);
    let binding =
        Binding { kind: SealedKind::CertificateKey, owner: &lineage, spki_sha256: &key.spki_sha256 };
    let certificate = Certificate {
        leaf_der,
        chain_pem: mint.chain_pem.clone(),
        sealed_key: vault.seal(&key.pkcs8, &binding)?,
        key_type: KeyType::EcdsaP256,
        ca: "pebble".to_owned(),
        account: "default".to_owned(),
        issued: now,
        known: None,
    };
    let not_after = now.checked_add((LIFE_DAYS * 24).hours())?;
    let renewal = renewal_moment(now, not_after, certificate.id().draw());
    let place = Place {
        class: Class::Renewal,
        moment: renewal,
        deadline: not_after,
        urgent_from: Some(urgent_from(now, not_after)),
        renewal: Some(renewal),
    };
    // As `issuer apply` makes it of a line with the name alone.
    let site = Site {
        v: Site::VERSION,
        names,
        key_types: vec![KeyType::EcdsaP256],
        san: SanPolicy::Single,
        ca: "pebble".to_owned(),
        account: "default".to_owned(),
        profile: None,
        challenge: ChallengeType::Http01,
        tags: Vec::new(),
        tenant: None,
        redirect: Some(true),
        hsts: None,
        paused: None,
        origin: Origin::File,
        source: None,
        created: now,
    };
    Ok(SettledGroup { id, site, certificates: vec![certificate], place })
}
