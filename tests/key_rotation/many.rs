//! Thousands of sites: page by page, gone on with in the middle, in little memory.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    pki::Authority,
    redis::{Redis, RedisOptions},
    signpost::Signpost,
};
use openssl::{sha::sha256, x509::X509};
use shared::{
    domain::{CertificateId, DnsName, KeyType, Leaf, NameSet, Site, SiteId, Slot},
    store::lineage_of,
    vault::{Binding, Keyring, SealedKind, Vault},
};

use crate::scene::{LIMIT, add_key};

/// `ROTATION_SITES=100000` measures more.
const SITES: usize = 3_000;
/// Of the program: a page of records and its own code, whatever the store holds.
const MOST_MEMORY_KIB: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_sites_are_sealed_anew_page_by_page() -> Result<()> {
    let sites = std::env::var("ROTATION_SITES").map_or(Ok(SITES), |text| text.parse())?;
    let redis = Redis::start(RedisOptions::default()).await?;
    let mut signpost = Signpost::new()?;
    signpost.use_store(&redis.url())?;
    let old = Keyring::generate(&signpost.key_encryption_key_file())?.ids()[0].to_owned();
    signpost.issuer(&["key", "status"]).await?.success()?;
    fill(&redis, &Vault::of_file(&signpost.key_encryption_key_file())?, sites).await?;
    let counted = signpost.issuer_json(&["key", "status", "--count"]).await?;
    ensure!(counted["sealed"]["sealed_with"][&old] == sites, "{counted:#}");

    let new = add_key(&signpost).await?;
    let mut first = signpost.start_run("issuer", &["key", "rotate"])?;
    until_true("it has come some way", LIMIT, || async {
        redis.text_of("sp:vault:rotation").await.is_ok_and(|text| text.contains("\"cursor\":"))
    })
    .await?;
    first.process.kill9().await?;
    let second = signpost.start_run("issuer", &["--json", "key", "rotate"])?;
    let mut memory_kib = 0;
    until_true("the second pass", Duration::from_secs(240), || {
        memory_kib = memory_kib.max(resident_kib(second.process.pid()).unwrap_or(0));
        let ended = !second.process.is_running();
        async move { ended }
    })
    .await?;
    let run = second.wait(LIMIT).await?.success()?;
    let rotated = run.json()?;
    // Pages that the first run sealed anew without being able to say so are not counted.
    let rewrapped = rotated["rewrapped"].as_u64().context("a number")?;
    ensure!(rewrapped <= sites as u64 && rewrapped + 128 >= sites as u64, "{rotated:#}");
    ensure!(rotated["verified"] == sites, "{rotated:#}");
    ensure!(memory_kib > 0 && memory_kib < MOST_MEMORY_KIB, "{memory_kib} KiB");
    println!("{sites} sites, {memory_kib} KiB: {rotated:#}");

    let counted = signpost.issuer_json(&["key", "status", "--count"]).await?;
    ensure!(counted["sealed"]["sealed_with"][&new] == sites, "{counted:#}");
    ensure!(counted["sealed"]["sealed_with"].get(&old).is_none(), "{counted:#}");
    Ok(())
}

/// Sites with a certificate each, as an issuer leaves them. One key for all: each is sealed for its own site.
async fn fill(redis: &Redis, vault: &Vault, sites: usize) -> Result<()> {
    let pair = Authority::new("Public CA of the test")?.issue_server(&["many.example"])?;
    let x509 = X509::from_pem(&pair.certificate_pem)?;
    let (leaf_der, spki_sha256) = (x509.to_der()?, Leaf::of(&x509)?.spki_sha256);
    let key = openssl::pkey::PKey::private_key_from_pem(&pair.key_pem)?.private_key_to_pkcs8()?;
    let certificate = CertificateId::of(&leaf_der);
    let spec = serde_json::to_string(&Site::new(
        NameSet::one(DnsName::parse("many.example")?),
        &[KeyType::EcdsaP256],
        "test",
        "default",
        jiff::Timestamp::now(),
    ))?;
    let meta =
        br#"{"c":"00112233445566778899aabbccddeeff","k":"ecdsa-p256","ca":"test","a":"default","t":0}"#;
    let mut head = vec![1];
    for part in [&meta[..], &leaf_der] {
        head.extend_from_slice(&u16::try_from(part.len())?.to_be_bytes());
        head.extend_from_slice(part);
    }
    let mut connection = redis.connection().await?;
    let numbers: Vec<usize> = (0..sites).collect();
    for numbers in numbers.chunks(500) {
        let mut pipeline = redis::Pipeline::new();
        for number in numbers {
            let digest: String =
                sha256(&number.to_be_bytes())[..10].iter().map(|byte| format!("{byte:02x}")).collect();
            let id = SiteId::parse(&digest).context("an id")?;
            let lineage = lineage_of(&id, Slot::Ecdsa);
            let binding =
                Binding { kind: SealedKind::CertificateKey, owner: &lineage, spki_sha256: &spki_sha256 };
            let record = [&head[..], &vault.seal(&key, &binding)?].concat();
            let partition = id.partition();
            let site = format!("sp:{{{partition}}}:site:{id}");
            pipeline.cmd("HSET").arg(site).arg("spec").arg(&spec);
            pipeline.arg("cert:ecdsa").arg(certificate.as_str()).ignore();
            pipeline.cmd("ZADD").arg(format!("sp:{{{partition}}}:sites")).arg(0).arg(id.as_str()).ignore();
            let key = format!("sp:{{{partition}}}:cert:{id}:{certificate}");
            pipeline.cmd("SET").arg(key).arg(record).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await?;
    }
    Ok(())
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}
