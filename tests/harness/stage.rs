//! The scene that most stories of issuing play on: Pebble behind its proxy, a real Redis behind its own, an installation
//! with a keyring, and, where the CA really looks, the validation host with two frontends before it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    ca_proxy::{CaProxy, Manners},
    nginx::Nginx,
    pebble::{Pebble, PebbleOptions},
    ports::LoopbackNet,
    process::Killer,
    redis::{Redis, RedisOptions},
    redis_proxy::RedisProxy,
    signpost::{Daemon, Run, Signpost},
};

/// The name that the frontends redirect to, as the shipped rule has it.
pub const VALIDATION_HOST: &str = "acme.hoster.example";

const FRONTENDS: [u8; 2] = [1, 2];
const VALIDATION: u8 = 3;

/// What a scene is made of. The default CA is content without looking.
#[derive(Debug, Clone, Default)]
pub struct StageOptions {
    pub pebble: PebbleOptions,
    pub manners: Manners,
    pub redis: RedisOptions,
    /// A store of the test's own in the place of the scene's Redis.
    pub store_url: Option<String>,
}

/// The scene. Its parts end in the order of their declaration.
pub struct Stage {
    pub fleet: Option<Fleet>,
    pub signpost: Signpost,
    pub redis_proxy: RedisProxy,
    pub proxy: CaProxy,
    pub redis: Redis,
    pub pebble: Pebble,
}

/// The validation host, and frontends that redirect to it: every name leads to one of them.
pub struct Fleet {
    pub challenge: Daemon,
    pub nginx: Nginx,
    pub net: LoopbackNet,
    pub http_port: u16,
}

impl Stage {
    /// Every challenge succeeds without a request: for what has nothing to do with validation.
    pub async fn trusting() -> Result<Self> {
        Self::trusting_with(StageOptions::default()).await
    }

    /// [`Stage::trusting`] with a CA, a Redis or a proxy of one's choice.
    pub async fn trusting_with(mut options: StageOptions) -> Result<Self> {
        options.pebble.always_valid = true;
        Self::set_up(options).await
    }

    /// The CA looks, at frontends that are the test's own affair.
    pub async fn watching_with(options: StageOptions) -> Result<Self> {
        Self::set_up(options).await
    }

    /// The CA asks the frontends, they redirect, the validation host answers from Redis.
    pub async fn looking() -> Result<Self> {
        Self::looking_with(StageOptions::default()).await
    }

    /// [`Stage::looking`] with a CA, a Redis or a proxy of one's choice.
    pub async fn looking_with(mut options: StageOptions) -> Result<Self> {
        let net = LoopbackNet::pick()?;
        let http_port = net.free_port(&[FRONTENDS[0], FRONTENDS[1], VALIDATION])?;
        options.pebble.http_port = Some(http_port);
        options.pebble.default_address = net.host(FRONTENDS[0]);
        let mut stage = Self::set_up(options).await?;
        stage.signpost.listen_challenge(net.host(VALIDATION), http_port)?;
        stage.pebble.dns().set_a(VALIDATION_HOST, &[net.host(VALIDATION)]).await?;
        let challenge = stage.signpost.start_challenge().await?;
        let addresses = FRONTENDS.map(|number| SocketAddr::from((net.host(number), http_port)));
        let nginx = Nginx::start(&frontends(&addresses, http_port)?, &addresses, &[]).await?;
        stage.fleet = Some(Fleet { challenge, nginx, net, http_port });
        Ok(stage)
    }

    async fn set_up(options: StageOptions) -> Result<Self> {
        let redis = Redis::start(options.redis).await?;
        let redis_proxy = RedisProxy::start(redis.address()).await?;
        let pebble = Pebble::start(options.pebble).await?;
        let proxy = CaProxy::start_with(&pebble, options.manners).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_ca(&pebble, &proxy)?;
        signpost.use_store(&options.store_url.unwrap_or_else(|| redis_proxy.url()))?;
        let ring = signpost.key_encryption_key_file();
        let ring = ring.to_str().context("a temporary path is text")?;
        signpost.issuer(&["key", "generate", ring]).await?.success()?;
        Ok(Self { fleet: None, signpost, redis_proxy, proxy, redis, pebble })
    }

    /// `issuer --json issue` with these arguments, expected to end with 0.
    pub async fn issue(&self, arguments: &[&str]) -> Result<Value> {
        self.issue_ending(0, arguments).await
    }

    /// `issuer --json issue` with these arguments, expected to end with this exit code.
    pub async fn issue_ending(&self, code: i32, arguments: &[&str]) -> Result<Value> {
        self.run_issue(arguments).await?.with_code(code)?.json()
    }

    /// `issuer --json issue` with these arguments, however it ends.
    pub async fn run_issue(&self, arguments: &[&str]) -> Result<Run> {
        let mut line = vec!["--json", "issue"];
        line.extend(arguments);
        self.signpost.issuer(&line).await
    }
}

impl Fleet {
    /// The frontends' rule redirects to another host from now on: one that doesn't answer.
    pub async fn break_redirects(&self) -> Result<()> {
        self.redirect_to(&format!("elsewhere.hoster.example:{}", self.http_port)).await
    }

    /// The shipped rule again.
    pub async fn repair_redirects(&self) -> Result<()> {
        self.redirect_to(&format!("{VALIDATION_HOST}:{}", self.http_port)).await
    }

    async fn redirect_to(&self, host: &str) -> Result<()> {
        let addresses = FRONTENDS.map(|number| SocketAddr::from((self.net.host(number), self.http_port)));
        let http = frontends(&addresses, self.http_port)?;
        let shipped = format!("{VALIDATION_HOST}:{}", self.http_port);
        self.nginx.set_http(&http.replace(&shipped, host))?;
        self.nginx.reload().await
    }
}

/// Two servers with the shipped rule. A test's CA asks on a port of its own, so the redirect names it.
pub fn frontends(addresses: &[SocketAddr], http_port: u16) -> Result<String> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/frontends/nginx");
    let fleet = std::fs::read_to_string(shipped.join("signpost.conf")).context("the shipped rule")?;
    ensure!(fleet.contains(VALIDATION_HOST), "signpost.conf names another validation host");
    let mut http = fleet.replace(VALIDATION_HOST, &format!("{VALIDATION_HOST}:{http_port}"));
    for address in addresses {
        let rule = shipped.join("signpost-challenge.conf");
        http.push_str(&format!(
            "server {{ listen {address} default_server; include {}; location / {{ return 404; }} }}\n",
            rule.display()
        ));
    }
    Ok(http)
}

/// Kills a child that is started after the trigger which is to kill it was set.
#[derive(Clone, Default)]
pub struct Fuse(Arc<OnceLock<Killer>>);

impl Fuse {
    /// Names the child; triggers that went off before wait for this.
    pub fn attach(&self, killer: Killer) {
        // A second child on one fuse would be a mistake of the test: the first stays.
        let _ = self.0.set(killer);
    }

    /// `kill -9`, from a proxy's thread. The child is attached within a moment of its start.
    pub fn kill9(&self) {
        self.killer().kill9();
    }

    /// SIGSTOP, from a proxy's thread.
    pub fn pause(&self) {
        self.killer().pause();
    }

    fn killer(&self) -> Killer {
        loop {
            if let Some(killer) = self.0.get() {
                return *killer;
            }
            std::thread::yield_now();
        }
    }
}
