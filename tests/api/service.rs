//! The API with the daemon's page for monitoring, on a real Redis behind a proxy; and a client that believes nothing.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    redis::{Redis, RedisOptions},
    redis_proxy::RedisProxy,
    signpost::Signpost,
};
use issuer::{api::Api, monitoring, sites::Registry};
use reqwest::{Client, Method};
use serde_json::Value;
use shared::{
    config::{Config, Program},
    store::{Role, Store, open_vault},
    vault::Keyring,
};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::document;

/// The API, and what it stands on. Its parts end in the order of their declaration.
pub(crate) struct Service {
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<std::io::Result<()>>,
    pub(crate) address: SocketAddr,
    pub(crate) telemetry: SocketAddr,
    pub(crate) signpost: Signpost,
    pub(crate) redis_proxy: RedisProxy,
    pub(crate) redis: Redis,
    client: Client,
    _end: DropGuard,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Service {
    pub(crate) async fn start() -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        let redis_proxy = RedisProxy::start(redis.address()).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_store(&redis_proxy.url())?;
        for ca in ["first", "second"] {
            signpost.set(&format!("ca.{ca}.directory"), format!("https://{ca}.example/directory"))?;
            signpost.set(&format!("ca.{ca}.agree_to_terms"), true)?;
        }
        signpost.set("ca.first.default", true)?;
        Self::over(signpost, redis, redis_proxy).await
    }

    /// On an installation that is there.
    pub(crate) async fn over(signpost: Signpost, redis: Redis, redis_proxy: RedisProxy) -> Result<Self> {
        let config = Arc::new(Config::load(Some(signpost.config_path()))?);
        let store = Store::open(&config.store, Role::Issuer).await?;
        store.check(0).await?;
        // The records of tokens are signed with it.
        let ring = signpost.key_encryption_key_file();
        if !ring.exists() {
            Keyring::generate(&ring)?;
        }
        open_vault(&store, &config.store).await?;
        let listener = TcpListener::bind(config.issuer.listen)?;
        let address = listener.local_addr()?;
        let page = TcpListener::bind(config.telemetry.address_of(Program::Issuer))?;
        let telemetry = page.local_addr()?;
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let mut api = Api::new(store.clone(), Arc::clone(&config), Registry::new(store.clone(), config))
            .with_troubles(|| vec!["first: it is closed today".to_owned()]);
        let mut registry = monitoring::new_registry();
        api.register(&mut registry);
        let monitored = monitoring::serve(page, registry, store.clone(), stop.clone(), end.clone());
        tokio::spawn(monitored);
        tokio::spawn({
            let (store, end) = (store.clone(), end.clone());
            async move { end.run_until_cancelled(store.watch()).await }
        });
        let served = tokio::spawn(issuer::api::serve(vec![listener], api, stop.clone()));
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(40)).build()?;
        let _end = end.drop_guard();
        Ok(Self { stop, served, address, telemetry, signpost, redis_proxy, redis, client, _end })
    }

    /// A token of this name and role, made on the command line.
    pub(crate) async fn token(&self, name: &str, role: &str) -> Result<String> {
        let made = self.signpost.issuer_json(&["token", "add", name, "--role", role]).await?;
        Ok(made["token"].as_str().context("a token is printed")?.to_owned())
    }

    /// Asks, and holds the answer against the document.
    pub(crate) async fn ask(&self, line: &str, token: &str, body: Option<&Value>) -> Result<Reply> {
        self.ask_with(line, token, body, &[]).await
    }

    /// [`Service::ask`] with further headers. `line` is `METHOD /path?query`, below `/api/v1`.
    pub(crate) async fn ask_with(
        &self,
        line: &str,
        token: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Reply> {
        let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
        let reply = self.send(line, token, body, headers).await?;
        let (method, path) = line.split_once(' ').context("METHOD /path")?;
        document::check(method, path, &reply).with_context(|| format!("{line}: {reply:#?}"))?;
        ensure!(!has_fractions(&reply.body), "{line}: a moment is not in whole seconds: {reply:#?}");
        Ok(reply)
    }

    /// Sends a file of sites, and holds the answer against the document.
    pub(crate) async fn send_file(
        &self,
        line: &str,
        token: &str,
        kind: &str,
        content: &str,
        headers: &[(&str, &str)],
    ) -> Result<Reply> {
        let reply = self.send(line, token, Some((kind, content.into())), headers).await?;
        let (method, path) = line.split_once(' ').context("METHOD /path")?;
        document::check(method, path, &reply).with_context(|| format!("{line}: {reply:#?}"))?;
        Ok(reply)
    }

    /// Anything at all.
    pub(crate) async fn send(
        &self,
        line: &str,
        token: &str,
        body: Option<(&str, Vec<u8>)>,
        headers: &[(&str, &str)],
    ) -> Result<Reply> {
        let (method, path) = line.split_once(' ').context("METHOD /path")?;
        let url = format!("http://{}/api/v1{path}", self.address);
        let mut request = self.client.request(Method::from_bytes(method.as_bytes())?, url);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some((kind, bytes)) = body {
            request = request.header("Content-Type", kind).body(bytes);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.with_context(|| line.to_owned())?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).with_context(|| format!("{line}: {status} {text:?}"))?;
        Ok(Reply { status, body, headers })
    }

    /// The status and text of a page for monitoring.
    pub(crate) async fn monitoring(&self, page: &str) -> Result<(u16, String)> {
        let response = self.client.get(format!("http://{}{page}", self.telemetry)).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }
}

fn has_fractions(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('.') && text.parse::<jiff::Timestamp>().is_ok(),
        Value::Array(members) => members.iter().any(has_fractions),
        Value::Object(members) => members.values().any(has_fractions),
        _ => false,
    }
}

impl Reply {
    /// Passes a reply with this status on.
    pub(crate) fn with(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "{} in the place of {status}: {:#}", self.status, self.body);
        Ok(self)
    }

    /// Passes a refusal with this status and code on.
    pub(crate) fn refused(self, status: u16, code: &str) -> Result<Self> {
        let reply = self.with(status)?;
        ensure!(reply.body["error"]["code"] == code, "{:#} in the place of {code}", reply.body);
        Ok(reply)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
