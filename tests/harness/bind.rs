//! Debian's BIND: the root and every zone below it on loopback addresses, and a resolver that starts at that root. So a test
//! has a whole DNS of its own, with delegations, secondaries and signatures.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    deadline::START_LIMIT,
    process::{Ending, Process},
};

/// Where nameservers listen.
pub const DNS_PORT: u16 = 53;
/// Stands for the server's directory in a configuration text.
pub const DIRECTORY: &str = "@DIRECTORY@";

/// A running `named`.
pub struct Bind {
    process: Process,
    address: SocketAddr,
    directory: TempDir,
    // Last: the server leaves before its address does.
    _own: OwnAddress,
}

/// A loopback address as one of the machine's own: BIND listens on no other.
struct OwnAddress(Ipv4Addr);

impl OwnAddress {
    fn add(address: Ipv4Addr) -> Result<Self> {
        let output = ip("add", address)?;
        ensure!(
            output.status.success(),
            "ip addr add {address}: {} (it takes root)",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self(address))
    }
}

impl Drop for OwnAddress {
    fn drop(&mut self) {
        if let Err(error) = ip("del", self.0) {
            eprintln!("ip addr del {}: {error}", self.0);
        }
    }
}

fn ip(verb: &str, address: Ipv4Addr) -> Result<std::process::Output> {
    let own = format!("{address}/32");
    Command::new("/usr/sbin/ip")
        .args(["addr", verb, &own, "dev", "lo"])
        .output()
        .context("ip (apt-get install iproute2)")
}

impl Bind {
    /// A server with authority: `zones` are the `zone` statements and whatever else stands at the top ([`DIRECTORY`] is replaced);
    /// `files` are written into its directory first.
    pub async fn authority(address: Ipv4Addr, zones: &str, files: &[(&str, &str)]) -> Result<Self> {
        let options = "recursion no; minimal-responses no; notify explicit; ";
        Self::start(SocketAddr::from((address, DNS_PORT)), options, zones, files).await
    }

    /// A resolver that begins at this root, and checks the signatures of zones that `trust` anchors.
    pub async fn resolver(address: SocketAddr, root: Ipv4Addr, trust: &str) -> Result<Self> {
        let hints = format!(". 3600000 NS ns1.\nns1. 3600000 A {root}\n");
        let zones = format!("zone \".\" {{ type hint; file \"hints\"; }};\n{trust}");
        // Nothing is kept: a test changes what the authorities say.
        let options = "recursion yes; allow-recursion { any; }; allow-query { any; }; dnssec-validation yes; \
                       max-cache-ttl 0; max-ncache-ttl 0; servfail-ttl 0; lame-ttl 0; qname-minimization off; \
                       empty-zones-enable no; resolver-query-timeout 10000; ";
        Self::start(address, options, &zones, &[("hints", &hints)]).await
    }

    async fn start(address: SocketAddr, options: &str, zones: &str, files: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bind-").tempdir()?;
        let place = directory.path();
        for (name, content) in files {
            std::fs::write(place.join(name), content).with_context(|| format!("write {name}"))?;
        }
        let IpAddr::V4(own) = address.ip() else { bail!("{address} is no IPv4 address") };
        let own = OwnAddress::add(own)?;
        let (ip, port) = (address.ip(), address.port());
        let config = format!(
            "options {{ directory \"{DIRECTORY}\"; pid-file none; session-keyfile none; listen-on port {port} {{ {ip}; }}; \
             listen-on-v6 {{ none; }}; notify-source {ip}; transfer-source {ip}; query-source address {ip}; {options} }};\n\
             controls {{ }};\n{zones}\n"
        )
        .replace(DIRECTORY, &place.display().to_string());
        let path = place.join("named.conf");
        std::fs::write(&path, config)?;
        let mut command = Command::new("/usr/sbin/named");
        command.args(["-g", "-n", "1", "-c"]).arg(&path);
        let process =
            Process::spawn(command, "bind9", &place.join("named.log"))?.ending(Ending::TerminateFirst);
        process
            .ready(START_LIMIT, || async {
                let up = tokio::net::TcpStream::connect(address).await.is_ok();
                up && process.log().contains("running")
            })
            .await?;
        Ok(Self { process, address, directory, _own: own })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its directory: configuration, zones, log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its child, for signals.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// A zone file: a record of authority, one nameserver per address, and `records`.
pub fn zone_file(apex: &str, servers: &[Ipv4Addr], records: &str) -> String {
    let mut text = format!("$TTL 1\n$ORIGIN {apex}\n@ SOA ns1 hostmaster 1 60 60 3600 1\n");
    for (number, address) in servers.iter().enumerate() {
        let number = number + 1;
        text.push_str(&format!("@ NS ns{number}\nns{number} A {address}\n"));
    }
    text.push_str(records);
    text.push('\n');
    text
}

/// What `dig` prints when it asks a server.
pub async fn dig(server: SocketAddr, question: &[&str]) -> Result<String> {
    let output = tokio::process::Command::new("dig")
        .args(["+tries=2", "+time=2", "-p", &server.port().to_string(), &format!("@{}", server.ip())])
        .args(question)
        .output()
        .await
        .context("dig (apt-get install bind9-dnsutils)")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every TXT value of a name that a server has.
pub async fn texts(server: SocketAddr, name: &str) -> Result<Vec<String>> {
    let text = dig(server, &["+short", "TXT", name]).await?;
    Ok(text.lines().map(|line| line.trim_matches('"').to_owned()).collect())
}
