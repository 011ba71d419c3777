//! Debian's `pebble`: the ACME server that stories are told against, on free loopback ports.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    deadline::START_LIMIT,
    mock_dns::MockDns,
    pki::{Authority, PairFiles},
    ports,
    process::Process,
};

const STARTS: u32 = 5;

/// How Pebble behaves. The defaults are strict and without randomness.
#[derive(Debug, Clone)]
pub struct PebbleOptions {
    /// `-strict`: upcoming API changes are on.
    pub strict: bool,
    /// Percentage of good nonces that are refused.
    pub nonce_reject_percent: u8,
    /// Percentage of valid authorizations that a new order of the same account reuses. Pebble draws one more than it is told: with 0 it
    /// reuses one in a hundred still.
    pub authz_reuse_percent: u8,
    /// Further roots, each with chains of its own as `Link: rel="alternate"`.
    pub alternate_roots: u32,
    /// Number of intermediates in a chain.
    pub chain_length: u32,
    /// External account binding required, with this (kid, base64url MAC key).
    pub eab: Option<(String, String)>,
    /// Random sleeps in the validator, up to some seconds.
    pub sleep: bool,
    /// Every challenge succeeds without a request.
    pub always_valid: bool,
    /// The port that http-01 is asked on; a free one unless given.
    pub http_port: Option<u16>,
    /// Lifetime of certificates; Pebble's own default (five years) unless given.
    pub validity_period_seconds: Option<u64>,
    /// The A record of every name: the frontend's address.
    pub default_address: Ipv4Addr,
    /// The resolver that it asks; its own imitation of a DNS unless given.
    pub resolver: Option<SocketAddr>,
}

impl Default for PebbleOptions {
    fn default() -> Self {
        Self {
            strict: true,
            nonce_reject_percent: 0,
            authz_reuse_percent: 0,
            alternate_roots: 0,
            chain_length: 1,
            eab: None,
            sleep: false,
            always_valid: false,
            http_port: None,
            validity_period_seconds: None,
            default_address: Ipv4Addr::LOCALHOST,
            resolver: None,
        }
    }
}

/// One root that Pebble issues under, with its intermediate; both PEM.
#[derive(Debug, Clone)]
pub struct Root {
    pub root_pem: String,
    pub intermediate_pem: String,
}

/// A running Pebble with a DNS server of its own.
pub struct Pebble {
    process: Process,
    dns: MockDns,
    listen: SocketAddr,
    management: SocketAddr,
    http_port: u16,
    options: PebbleOptions,
    authority: Authority,
    server: PairFiles,
    http: reqwest::Client,
    // Last: the children above write into it.
    directory: TempDir,
}

impl Pebble {
    pub async fn start(options: PebbleOptions) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("pebble-").tempdir()?;
        let authority = Authority::new("Test CA for HTTPS")?;
        std::fs::write(root_file(directory.path()), authority.pem()?)?;
        let server =
            authority.issue_server(&["127.0.0.1", "localhost"])?.write(directory.path(), "server")?;
        let dns = MockDns::start(directory.path(), options.default_address).await?;
        let root = reqwest::Certificate::from_pem(&authority.pem()?)?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([root])
            .http1_only()
            .timeout(Duration::from_secs(5))
            .build()?;

        for attempt in 1.. {
            let listen = ports::free_address()?;
            let management = ports::free_address()?;
            let http_port = options.http_port.map_or_else(ports::free_port, Ok)?;
            let config = write_config(&options, directory.path(), listen, management, http_port, &server)?;
            let process = Process::spawn(
                command(&options, &config, options.resolver.unwrap_or_else(|| dns.address())),
                "pebble",
                &directory.path().join(format!("pebble-{attempt}.log")),
            )?;
            let url = format!("https://{listen}/dir");
            let up = process
                .ready(START_LIMIT, || async {
                    http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
                })
                .await;
            match up {
                Ok(()) => {
                    return Ok(Self {
                        process,
                        dns,
                        listen,
                        management,
                        http_port,
                        options,
                        authority,
                        server,
                        http,
                        directory,
                    });
                }
                Err(_) if attempt < STARTS && process.log().contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop above returns")
    }

    /// Its own directory, without the proxy.
    pub fn directory_url(&self) -> String {
        format!("https://{}/dir", self.listen)
    }

    /// Where its ACME API listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The root of its own HTTPS, as a PEM file.
    pub fn trusted_roots_file(&self) -> PathBuf {
        root_file(self.directory.path())
    }

    /// The root of its own HTTPS: also signs what stands before it.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The certificate of its own HTTPS, for 127.0.0.1 and localhost: a proxy before it uses the same.
    pub fn server_files(&self) -> &PairFiles {
        &self.server
    }

    /// The port that its validator asks on.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    pub fn options(&self) -> &PebbleOptions {
        &self.options
    }

    /// The DNS that it asks; the issuer's self-check should ask the same.
    pub fn dns(&self) -> &MockDns {
        &self.dns
    }

    /// The resolver that it asks.
    pub fn dns_address(&self) -> SocketAddr {
        self.options.resolver.unwrap_or_else(|| self.dns.address())
    }

    /// Its child, for signals and CPU time.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The roots that it made for this run: the default one first, then the alternates.
    pub async fn roots(&self) -> Result<Vec<Root>> {
        let mut roots = Vec::new();
        for number in 0..=self.options.alternate_roots {
            roots.push(Root {
                root_pem: self.management(&format!("/roots/{number}")).await?,
                intermediate_pem: self.management(&format!("/intermediates/{number}")).await?,
            });
        }
        Ok(roots)
    }

    /// Writes the default root to a file, for `curl --cacert` and `openssl verify`.
    pub async fn root_file(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("issuing-root.pem");
        std::fs::write(&path, self.management("/roots/0").await?)?;
        Ok(path)
    }

    /// What Pebble knows about a serial number: `Valid` or `Revoked`.
    pub async fn certificate_status(&self, serial_hex: &str) -> Result<String> {
        let text = self.management(&format!("/cert-status-by-serial/{serial_hex}")).await?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        Ok(answer["Status"].as_str().context("no Status in Pebble's answer")?.to_owned())
    }

    /// Fails when Pebble has ended, or hangs: its deadlock under concurrent orders keeps the lock of its database, and
    /// this asks a question that needs that lock.
    pub async fn assert_alive(&self) -> Result<()> {
        self.process.assert_running()?;
        self.dns.assert_alive()?;
        let url = format!("https://{}/cert-status-by-serial/1", self.management);
        if let Err(error) = self.http.get(url).send().await {
            bail!(
                "Pebble hangs (its deadlock under concurrent orders? then it ran without the proxy): {error}"
            );
        }
        Ok(())
    }

    async fn management(&self, path: &str) -> Result<String> {
        let url = format!("https://{}{path}", self.management);
        let answer =
            self.http.get(url).send().await.with_context(|| format!("Pebble's management: {path}"))?;
        let status = answer.status();
        if !status.is_success() {
            bail!("Pebble's management: {path}: {status}");
        }
        Ok(answer.text().await?)
    }
}

fn root_file(directory: &Path) -> PathBuf {
    directory.join("https-root.pem")
}

fn write_config(
    options: &PebbleOptions,
    directory: &Path,
    listen: SocketAddr,
    management: SocketAddr,
    http_port: u16,
    server: &PairFiles,
) -> Result<PathBuf> {
    let mut config = json!({
        "listenAddress": listen.to_string(),
        "managementListenAddress": management.to_string(),
        "certificate": server.certificate,
        "privateKey": server.key,
        "httpPort": http_port,
        "tlsPort": ports::free_port()?,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": options.eab.is_some(),
    });
    if let Some((kid, key)) = &options.eab {
        config["externalAccountMACKeys"] = json!({ kid: key });
    }
    if let Some(seconds) = options.validity_period_seconds {
        config["certificateValidityPeriod"] = json!(seconds);
        // Newer versions have profiles instead, and take one of them at random for an order that names none.
        config["profiles"] = json!({"default": {"description": "the only one", "validityPeriod": seconds}});
    }
    let path = directory.join("pebble.json");
    std::fs::write(&path, json!({ "pebble": config }).to_string())?;
    Ok(path)
}

fn command(options: &PebbleOptions, config: &Path, dns: SocketAddr) -> Command {
    let mut command = Command::new("pebble");
    command.arg("-config").arg(config).arg("-dnsserver").arg(dns.to_string());
    if options.strict {
        command.arg("-strict");
    }
    command
        .env("PEBBLE_WFE_NONCEREJECT", options.nonce_reject_percent.to_string())
        .env("PEBBLE_AUTHZREUSE", options.authz_reuse_percent.to_string())
        .env("PEBBLE_ALTERNATE_ROOTS", options.alternate_roots.to_string())
        .env("PEBBLE_CHAIN_LENGTH", options.chain_length.to_string());
    if !options.sleep {
        command.env("PEBBLE_VA_NOSLEEP", "1");
    }
    if options.always_valid {
        command.env("PEBBLE_VA_ALWAYS_VALID", "1");
    }
    command
}
