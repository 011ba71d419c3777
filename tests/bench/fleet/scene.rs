//! What every series starts from: a fresh CA that really looks, an embedded store, and the programs.

use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::{
    ca_proxy::CaProxy,
    deadline::until_true,
    pebble::{Pebble, PebbleOptions},
    ports::LoopbackNet,
    signpost::{Daemon, Signpost, Started},
    stored::Stored,
};
use shared::{domain::DnsName, store::Store};

const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The parts end in the order of their declaration.
pub(crate) struct Scene {
    _validation_server: Daemon,
    pub(crate) signpost: Signpost,
    pub(crate) proxy: CaProxy,
    _pebble: Pebble,
}

impl Scene {
    pub(crate) async fn set(slots: usize, retry_seconds: f64) -> Result<Self> {
        let net = LoopbackNet::pick()?;
        let host = net.host(2);
        let options = PebbleOptions {
            http_port: Some(net.free_port(&[2])?),
            default_address: host,
            ..PebbleOptions::default()
        };
        let pebble = Pebble::start(options).await?;
        let proxy = CaProxy::start(&pebble).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_ca(&pebble, &proxy)?;
        signpost.listen_challenge(host, pebble.http_port())?;
        signpost.set("issuer.slots", i64::try_from(slots)?)?;
        let retry: Vec<toml::Value> = vec![retry_seconds.into()];
        signpost.set("issuer.retry_seconds", retry)?;
        signpost.issuer(&["account", "create"]).await?.success()?;
        let validation_server = signpost.start_challenge().await?;
        Ok(Self { _validation_server: validation_server, signpost, proxy, _pebble: pebble })
    }

    /// `issuer run`, once it works.
    pub(crate) async fn start_daemon(&self) -> Result<Started> {
        let daemon = self.signpost.start_run("issuer", &["run"])?;
        until_true("issuer run is up", LIMIT, || async {
            daemon.stderr().is_ok_and(|log| log.contains("working on what is due"))
        })
        .await?;
        Ok(daemon)
    }

    pub(crate) async fn store(&self) -> Result<Store> {
        Ok(Stored::open(self.signpost.config_path()).await?.store)
    }

    /// `issuer apply` of a file with these names, a site each.
    pub(crate) async fn apply(&self, names: &[String]) -> Result<()> {
        let text: String = names.iter().map(|name| format!("{{\"names\":[\"{name}\"]}}\n")).collect();
        let path = self.signpost.write("sites.ndjson", text)?;
        let path = path.to_str().context("a temporary path is text")?;
        self.signpost.issuer(&["apply", path]).await?.success()?;
        Ok(())
    }
}

/// Which of these names lead to a certificate.
pub(crate) async fn served(store: &Store, names: &[DnsName]) -> Result<Vec<bool>> {
    let pointers = store.load_pointers(names).await?;
    Ok(pointers.iter().map(|pointer| pointer.serving.is_some()).collect())
}

pub(crate) async fn pause() {
    tokio::time::sleep(LOOK_EVERY).await;
}
