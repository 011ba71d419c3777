//! Two nodes that serve and one that issues all the time, while the key is replaced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    deadline::until_true,
    signpost::{Daemon, Signpost},
    stage::Stage,
    stored::Stored,
};
use openssl::pkey::PKey;
use reqwest::{Client, StatusCode};

use crate::scene::{
    LIMIT, NAMES, add_key, copy_ring, everything_opens, node_with_ring, ring, sealed_with, stage,
};

/// Pulls keys from both nodes until it is told to stop; counts them.
struct Frontend {
    http: Client,
    token: String,
    urls: Vec<String>,
}

impl Frontend {
    async fn add(stage: &Stage, nodes: [&Daemon; 2]) -> Result<Self> {
        let added = stage.signpost.issuer_json(&["frontend", "add", "f1", "--scope", "*"]).await?;
        let root = added["ca_certificate_pem"].as_str().context("the CA")?;
        let http = Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(root.as_bytes())?])
            .timeout(Duration::from_secs(10))
            .build()?;
        let token = added["token"].as_str().context("a token")?.to_owned();
        let paths =
            [format!("{}/ecdsa", NAMES[0]), format!("{}/rsa", NAMES[0]), format!("{}/ecdsa", NAMES[2])];
        let urls = nodes
            .iter()
            .flat_map(|node| {
                paths
                    .iter()
                    .map(|path| format!("https://{}/v1/certificates/{path}/privkey.pem", node.address))
            })
            .collect();
        Ok(Self { http, token, urls })
    }

    /// The key at each URL. Anything but a key is an error.
    async fn pull(&self) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        for url in &self.urls {
            let answer = self.http.get(url).bearer_auth(&self.token).send().await?;
            ensure!(answer.status() == StatusCode::OK, "{url}: {}", answer.status());
            let pem = answer.bytes().await?;
            keys.push(PKey::private_key_from_pem(&pem)?.public_key_to_der()?);
        }
        Ok(keys)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_gets_a_new_key_while_it_issues_and_serves() -> Result<()> {
    let mut stage = stage().await?;
    // Under load a lease must last.
    stage.signpost.set("issuer.lease_seconds", 30)?;
    let stage = Arc::new(stage);
    let old = ring(&stage.signpost)?.remove(0);
    let second = node_with_ring(&stage.signpost, |_| true)?;
    let nodes = [stage.signpost.start_certificates().await?, second.start_certificates().await?];
    let frontend = Frontend::add(&stage, [&nodes[0], &nodes[1]]).await?;
    let keys = frontend.pull().await?;

    let stop = Arc::new(AtomicBool::new(false));
    let pulled = Arc::new(AtomicU64::new(0));
    let puller = tokio::spawn(pull_all_the_time(frontend, keys, stop.clone(), pulled.clone()));
    let issued = Arc::new(AtomicU64::new(0));
    let issuer = tokio::spawn(issue_all_the_time(stage.clone(), stop.clone(), issued.clone()));

    let new = add_key(&stage.signpost).await?;
    let held = stage.signpost.issuer(&["--json", "key", "rotate"]).await?.with_code(3)?;
    let document = held.json()?;
    let lacking: Vec<&str> = document["nodes"]
        .as_array()
        .context("nodes")?
        .iter()
        .filter_map(|node| node["name"].as_str())
        .collect();
    let of_second = format!("/certificates/{}", nodes[1].process.pid());
    // The first node reads its file within seconds, and may not have done so yet.
    ensure!(lacking.iter().any(|name| name.ends_with(&of_second)), "{document:#}");
    ensure!(held.stderr.contains(&of_second) && held.stderr.contains("Copy"), "{}", held.stderr);
    ensure!(sealed_with(&stage, &new).await?.is_empty(), "nothing has been sealed with the new key");
    until_true("both nodes are known, and one has the key", LIMIT, || async {
        nodes_with(&stage, &new).await.is_ok_and(|count| count == (1, 2))
    })
    .await?;

    let before = issued.load(Ordering::SeqCst);
    until_true("certificates are issued", LIMIT, || async { issued.load(Ordering::SeqCst) > before + 2 })
        .await?;
    let waiting = stage.signpost.start_run("issuer", &["--json", "key", "rotate", "--wait"])?;
    until_true("it waits for the node", LIMIT, || async {
        waiting.stderr().is_ok_and(|text| text.contains(&of_second))
    })
    .await?;
    copy_ring(&stage.signpost.key_encryption_key_file(), &second.key_encryption_key_file())?;
    let rotated = waiting.wait(LIMIT).await?.success()?.json()?;
    ensure!(rotated["from"] == old.as_str() && rotated["to"] == new.as_str(), "{rotated:#}");
    ensure!(rotated["may_be_retired"][0] == old.as_str(), "{rotated:#}");
    let (before, served) = (issued.load(Ordering::SeqCst), pulled.load(Ordering::SeqCst));
    until_true("certificates are issued and pulled with the new key", LIMIT, || async {
        issued.load(Ordering::SeqCst) > before + 2 && pulled.load(Ordering::SeqCst) > served + 2
    })
    .await?;

    // The running nodes let go of the old key, too.
    for node in [&stage.signpost, &second] {
        retire(node, &old).await?;
    }
    until_true("no node holds the old key", LIMIT, || async {
        nodes_with(&stage, &old).await.is_ok_and(|count| count == (0, 2))
    })
    .await?;
    let served = pulled.load(Ordering::SeqCst);
    until_true("keys are pulled", LIMIT, || async { pulled.load(Ordering::SeqCst) > served + 2 }).await?;
    stop.store(true, Ordering::SeqCst);
    puller.await??;
    let names = issuer.await??;

    is_rotated_beside_what_was_issued(&stage, &old, &new).await?;
    everything_opens(&stage).await?;
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    for name in &names {
        for certificate in stored.served(name).await? {
            certificate.verify(&root, &[name])?;
        }
        ensure!(stage.proxy.orders_for(&[name]).len() == 1, "{name}: one order");
    }
    ensure!(names.len() > 5, "{names:?}");
    Ok(())
}

/// Each answer is a key, and the same one as before.
async fn pull_all_the_time(
    frontend: Frontend,
    keys: Vec<Vec<u8>>,
    stop: Arc<AtomicBool>,
    pulled: Arc<AtomicU64>,
) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        ensure!(frontend.pull().await? == keys, "another key is served");
        pulled.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// One command after the other, each for a name of its own.
async fn issue_all_the_time(
    stage: Arc<Stage>,
    stop: Arc<AtomicBool>,
    issued: Arc<AtomicU64>,
) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let name = format!("n{}.example", names.len());
        stage.issue(&[&name]).await.with_context(|| name.clone())?;
        issued.fetch_add(1, Ordering::SeqCst);
        names.push(name);
    }
    Ok(names)
}

/// How many live nodes hold a key, of how many.
async fn nodes_with(stage: &Stage, id: &str) -> Result<(usize, usize)> {
    let shown = stage.signpost.issuer_json(&["key", "status"]).await?;
    let nodes = shown["nodes"].as_array().context("nodes")?;
    let has = |node: &&serde_json::Value| {
        node["keys"].as_array().is_some_and(|keys| keys.iter().any(|key| key == id))
    };
    Ok((nodes.iter().filter(has).count(), nodes.len()))
}

async fn retire(node: &Signpost, id: &str) -> Result<()> {
    node.issuer(&["key", "retire", id]).await?.success()?;
    if ring(node)?.iter().any(|key| key == id) {
        bail!("{id} is still in the ring");
    }
    Ok(())
}

async fn is_rotated_beside_what_was_issued(stage: &Stage, old: &str, new: &str) -> Result<()> {
    let left = sealed_with(stage, old).await?;
    ensure!(left.is_empty(), "sealed with the old key: {left:#?}");
    ensure!(stage.redis.text_of("sp:vault:current").await? == new);
    ensure!(sealed_with(stage, new).await?.len() > 10);
    Ok(())
}
