//! `pebble-challtestsrv` as a DNS server whose answers a test sets.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{deadline::START_LIMIT, ports, process::Process};

/// `pebble-challtestsrv` with the flags of its newest version, a script that runs Debian's.
pub const NEWER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/harness/newer_challtestsrv.sh");

/// A DNS server on loopback, UDP and TCP. Every name has the default address until a test says otherwise.
pub struct MockDns {
    process: Process,
    address: SocketAddr,
    management: SocketAddr,
    http: reqwest::Client,
}

impl MockDns {
    /// Starts it; `default_address` answers every A query, AAAA queries have no answer by default.
    pub async fn start(directory: &Path, default_address: Ipv4Addr) -> Result<Self> {
        Self::start_at(ports::free_address()?, directory, default_address).await
    }

    /// [`MockDns::start`] at an address of the caller's choice: port 53, where it is free.
    pub async fn start_at(address: SocketAddr, directory: &Path, default_address: Ipv4Addr) -> Result<Self> {
        Self::start_program("pebble-challtestsrv".as_ref(), address, directory, default_address).await
    }

    /// [`MockDns::start`] with a program of another version than the one in the `PATH`.
    pub async fn start_program(
        program: &Path,
        address: SocketAddr,
        directory: &Path,
        default_address: Ipv4Addr,
    ) -> Result<Self> {
        let management = ports::free_address()?;
        let help = help_of(program)?;
        let mut command = Command::new(program);
        command
            .arg(format!(
                "{}={address}",
                if names_flag(&help, "-dnsserver") { "-dnsserver" } else { "-dns01" }
            ))
            .arg(format!("-management={management}"))
            .arg(format!("-defaultIPv4={default_address}"))
            .args(["-defaultIPv6=", "-http01=", "-https01=", "-tlsalpn01="]);
        if names_flag(&help, "-doh") {
            // DNS over HTTPS, on a port of its own unless it is told not to.
            command.arg("-doh=");
        }
        let process = Process::spawn(command, "pebble", &directory.join("challtestsrv.log"))?;
        process
            .ready(START_LIMIT, || async {
                // Its DNS listens on TCP as well, started after UDP.
                TcpStream::connect(management).await.is_ok() && TcpStream::connect(address).await.is_ok()
            })
            .await?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        Ok(Self { process, address, management, http })
    }

    /// Where it answers DNS queries.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its answers are set.
    pub fn management(&self) -> SocketAddr {
        self.management
    }

    /// Fails when the server has ended.
    pub fn assert_alive(&self) -> Result<()> {
        self.process.assert_running()
    }

    /// Replaces the A records of a name; an empty list leaves it the default address.
    pub async fn set_a(&self, name: &str, addresses: &[Ipv4Addr]) -> Result<()> {
        self.clear_a(name).await?;
        self.add("add-a", name, addresses).await
    }

    /// Gives a name its default A record back.
    pub async fn clear_a(&self, name: &str) -> Result<()> {
        self.post("clear-a", &json!({"host": name})).await
    }

    /// Replaces the AAAA records of a name.
    pub async fn set_aaaa(&self, name: &str, addresses: &[std::net::Ipv6Addr]) -> Result<()> {
        self.post("clear-aaaa", &json!({"host": name})).await?;
        self.add("add-aaaa", name, addresses).await
    }

    /// The server refuses to add nothing.
    async fn add<T: ToString>(&self, what: &str, name: &str, addresses: &[T]) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        self.post(what, &json!({"host": name, "addresses": addresses})).await
    }

    /// Replaces the A and AAAA records of a name.
    pub async fn set_addresses(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let v4: Vec<_> = addresses
            .iter()
            .filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
            .collect();
        let v6: Vec<_> = addresses
            .iter()
            .filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None })
            .collect();
        self.set_a(name, &v4).await?;
        self.set_aaaa(name, &v6).await
    }

    /// Replaces the CAA records of a name by (tag, value) pairs, such as `("issue", "letsencrypt.org")`.
    pub async fn set_caa(&self, name: &str, policies: &[(&str, &str)]) -> Result<()> {
        self.post("clear-caa", &json!({"host": name})).await?;
        self.add_caa(name, policies).await
    }

    /// Adds CAA records to a name.
    pub async fn add_caa(&self, name: &str, policies: &[(&str, &str)]) -> Result<()> {
        let policies: Vec<Value> =
            policies.iter().map(|(tag, value)| json!({"tag": tag, "value": value})).collect();
        self.post("add-caa", &json!({"host": name, "policies": policies})).await
    }

    /// Makes a name an alias.
    pub async fn set_cname(&self, name: &str, target: &str) -> Result<()> {
        self.post("set-cname", &json!({"host": name, "target": target})).await
    }

    pub async fn clear_cname(&self, name: &str) -> Result<()> {
        self.post("clear-cname", &json!({"host": name})).await
    }

    /// Sets a TXT record: dns-01.
    pub async fn set_txt(&self, name: &str, value: &str) -> Result<()> {
        self.post("set-txt", &json!({"host": name, "value": value})).await
    }

    pub async fn clear_txt(&self, name: &str) -> Result<()> {
        self.post("clear-txt", &json!({"host": name})).await
    }

    /// Makes every query for this name fail with SERVFAIL.
    pub async fn set_servfail(&self, name: &str) -> Result<()> {
        self.post("set-servfail", &json!({"host": name})).await
    }

    pub async fn clear_servfail(&self, name: &str) -> Result<()> {
        self.post("clear-servfail", &json!({"host": name})).await
    }

    /// The address of every name that has none of its own; `None`: no answer.
    pub async fn set_default_a(&self, address: Option<Ipv4Addr>) -> Result<()> {
        let ip = address.map(|address| address.to_string()).unwrap_or_default();
        self.post("set-default-ipv4", &json!({"ip": ip})).await
    }

    /// How many queries for this name arrived.
    pub async fn queries(&self, name: &str) -> Result<usize> {
        let answer = self.request("dns-request-history", &json!({"host": name})).await?;
        let history: Value = serde_json::from_str(&answer).context("request history of challtestsrv")?;
        Ok(history.as_array().map_or(0, Vec::len))
    }

    async fn post(&self, what: &str, body: &Value) -> Result<()> {
        self.request(what, body).await.map(drop)
    }

    async fn request(&self, what: &str, body: &Value) -> Result<String> {
        let url = format!("http://{}/{what}", self.management);
        let answer = self
            .http
            .post(url)
            .body(body.to_string())
            .send()
            .await
            .with_context(|| format!("challtestsrv {what}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("challtestsrv {what} {body}: {status} {text}");
        }
        Ok(text)
    }
}

/// What the program says of its flags: newer versions name them differently.
fn help_of(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("-help")
        .output()
        .with_context(|| format!("{} can't be started: apt-get install pebble", program.display()))?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn names_flag(help: &str, flag: &str) -> bool {
    help.lines().any(|line| line.split_whitespace().next() == Some(flag))
}
