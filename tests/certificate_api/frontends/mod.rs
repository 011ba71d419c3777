//! Every make of frontend serves a certificate of ours, and its renewal; and goes on when the centre is gone. What it serves is
//! what `openssl s_client` is shown.

mod agentless;
mod apache;
mod caddy;
mod centre_gone;
mod envoy;
mod files_and_hook;
mod haproxy;
mod https;
mod nginx;
mod nginx_lua;
mod publications;
mod refused;
mod restored;
mod served;
mod traefik;

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{START_LIMIT, until_true},
    ports,
    process::{Ending, Process},
    signpost::{Daemon, Signpost, Started},
};
use openssl::x509::X509;
use serde_json::Value;
use shared::domain::{KeyType, SiteId};

use crate::fleet::{Fleet, Identity, KEYS};

/// For a change to be served; most of it is for a machine that is compiling.
const SERVED: Duration = Duration::from_secs(60);
pub(crate) const SECRET: &str = "a-secret-of-the-test";
const ECDSA: &[KeyType] = &[KeyType::EcdsaP256];
const SHOP: &str = "shop.example.com";

/// A store with the role in front of it, a frontend's agent, and where its web server listens.
pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    identity: Identity,
    certificates: Option<Daemon>,
    pub(crate) agent: Option<Started>,
    pub(crate) address: SocketAddr,
}

impl Scene {
    /// One site, and an agent for these servers that is ready to start.
    pub(crate) async fn new(servers: &[&str]) -> Result<Self> {
        Self::with(servers, |_, _| Ok(())).await
    }

    /// With settings of the centre, which may know where the web server will listen.
    pub(crate) async fn with(
        servers: &[&str],
        settings: impl FnOnce(&mut Signpost, SocketAddr) -> Result<()>,
    ) -> Result<Self> {
        let mut fleet = Fleet::new().await?;
        let address = ports::free_address()?;
        settings(&mut fleet.signpost, address)?;
        fleet.add_site(&[SHOP], &[], ECDSA).await?;
        let identity = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
        let certificates = fleet.start().await?;
        let ca = fleet.signpost.write("agent-ca.pem", fleet.internal_ca.certificate().to_pem()?)?;
        let token = fleet.signpost.write("agent-token", "edge-token-0123456789")?;
        let secret = fleet.signpost.write("agent-secret", SECRET)?;
        let directory = fleet.signpost.directory().join("agent");
        let server = format!("https://127.0.0.1:{}", certificates.address.port());
        for (key, value) in [
            ("server", server),
            ("ca_file", ca.display().to_string()),
            ("token_file", token.display().to_string()),
            ("directory", directory.display().to_string()),
            ("local.secret_file", secret.display().to_string()),
            ("local.listen", ports::free_address()?.to_string()),
        ] {
            fleet.signpost.set(&format!("agent.{key}"), value)?;
        }
        let servers: Vec<toml::Value> = servers.iter().map(|name| (*name).into()).collect();
        fleet.signpost.set("agent.servers", servers)?;
        fleet.signpost.set("agent.poll_seconds", 1)?;
        Ok(Self { fleet, identity, certificates: Some(certificates), agent: None, address })
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<toml::Value>) -> Result<()> {
        self.fleet.signpost.set(&format!("agent.{key}"), value)
    }

    pub(crate) fn set_command(&mut self, key: &str, words: &[String]) -> Result<()> {
        let words: Vec<toml::Value> = words.iter().map(|word| word.as_str().into()).collect();
        self.set(key, words)
    }

    /// A path below the agent's directory.
    pub(crate) fn of_agent(&self, path: &str) -> PathBuf {
        self.fleet.signpost.directory().join("agent").join(path)
    }

    /// A path of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.fleet.signpost.directory().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        self.fleet.signpost.write(name, content)
    }

    /// The agent's first sync: whatever its server says, the files are there after it.
    pub(crate) async fn sync(&self) -> Result<()> {
        self.fleet.signpost.agent(&["sync"]).await?;
        ensure!(self.of_agent("live").read_dir()?.next().is_some(), "nothing is live");
        Ok(())
    }

    pub(crate) fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(self.fleet.signpost.start_run("frontend-agent", &["run"])?);
        Ok(())
    }

    /// A web server that listens at [`Scene::address`] once this returns.
    pub(crate) async fn start_server(&self, command: Command, package: &str) -> Result<Process> {
        // Most of them have workers, which only they end.
        let process =
            Process::spawn(command, package, &self.path("server.log"))?.ending(Ending::TerminateFirst);
        let address = self.address;
        process
            .ready(START_LIMIT, || async move { tokio::net::TcpStream::connect(address).await.is_ok() })
            .await?;
        Ok(process)
    }

    /// The SHA-256 of the certificate that the centre has for a name.
    pub(crate) fn wanted(&self, name: &str, slot: &str) -> Result<String> {
        let daemon = self.certificates.as_ref().context("the centre is gone")?;
        let answer = self.fleet.get(daemon.address, &self.identity, &format!("/v1/certificates/{name}"))?;
        let document: Value = serde_json::from_slice(&answer.body)?;
        let print = document["lineages"][slot]["fingerprint_sha256"].as_str();
        Ok(print.with_context(|| format!("{document:#}"))?.to_owned())
    }

    /// Waits until the server shows what the centre has for a name.
    pub(crate) async fn until_served(&self, name: &str) -> Result<String> {
        let wanted = self.wanted(name, "ecdsa")?;
        let what = format!("{name} is served as the centre has it");
        let served = until_true(&what, SERVED, || {
            std::future::ready(self.served(name, &[]).is_some_and(|served| served == wanted))
        });
        let served = served.await;
        served
            .with_context(|| self.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default())?;
        Ok(wanted)
    }

    /// The SHA-256 of the certificate that a client is shown who asks for a name; none where it is shown none.
    pub(crate) fn served(&self, name: &str, more: &[&str]) -> Option<String> {
        let output = Command::new("timeout")
            .args(["10", "openssl", "s_client", "-connect", &self.address.to_string(), "-servername", name])
            .args(more)
            .stdin(std::process::Stdio::null())
            .output()
            .ok()?;
        let leaf = X509::from_pem(&output.stdout).ok()?;
        let digest = leaf.digest(openssl::hash::MessageDigest::sha256()).ok()?;
        Some(crate::fleet::hex(&digest))
    }

    /// What each make has to show: a certificate, its renewal; one for a new name; all of it without a centre.
    pub(crate) async fn tell_the_story(&mut self, takes_new_names: bool) -> Result<()> {
        let renewed = self.tell_the_story_without_agent(takes_new_names).await?;
        // Not even the agent needs it.
        if let Some(mut agent) = self.agent.take() {
            agent.process.kill9().await?;
        }
        self.start_agent()?;
        until_true("an agent without a centre serves what it has", SERVED, || {
            std::future::ready(self.served(SHOP, &[]) == Some(renewed.clone()))
        })
        .await
    }

    /// The same for one that asks the centre itself.
    pub(crate) async fn tell_the_story_without_agent(&mut self, takes_new_names: bool) -> Result<String> {
        let first = self.until_served(SHOP).await?;
        self.fleet.add_site(&[SHOP], &[], ECDSA).await?;
        let renewed = self.until_served(SHOP).await?;
        ensure!(first != renewed, "a renewal is another certificate");
        if takes_new_names {
            self.fleet.add_site(&["new.example.com", "www.new.example.com"], &[], ECDSA).await?;
            self.until_served("new.example.com").await?;
            self.until_served("www.new.example.com").await?;
            // A name that only the star covers.
            self.fleet.add_site(&["*.wild.example.com"], &[], ECDSA).await?;
            self.until_served("any.wild.example.com").await?;
        }
        self.lose_the_centre().await?;
        // A server that has just been reloaded may answer with what it had, for a moment.
        until_true("without a centre", Duration::from_secs(5), || {
            std::future::ready(self.served(SHOP, &[]) == Some(renewed.clone()))
        })
        .await?;
        Ok(renewed)
    }

    /// Where the centre listens.
    pub(crate) fn centre(&self) -> Result<SocketAddr> {
        Ok(self.certificates.as_ref().context("the centre is gone")?.address)
    }

    /// Both the role and the store end.
    pub(crate) async fn lose_the_centre(&mut self) -> Result<()> {
        let mut certificates = self.certificates.take().context("the centre is gone already")?;
        certificates.process.kill9().await?;
        self.fleet.redis.kill9().await?;
        Ok(())
    }

    /// The site of the scene, to be changed.
    pub(crate) async fn renew(&self, names: &[&str], key_types: &[KeyType]) -> Result<SiteId> {
        self.fleet.add_site(names, &[], key_types).await
    }
}
