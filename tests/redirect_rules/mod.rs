//! The shipped redirect rules on the real servers: what they redirect, what they must not, and that a CA's validator follows them.
//!
//! - `nginx`: also what is peculiar to it, and the example of a whole frontend.
//! - `makes`: Apache, HAProxy, Caddy, Traefik, Envoy, lighttpd.
//! - `variants`: those that fetch the answer themselves, and those that serve a local file first.

mod makes;
mod nginx;
mod variants;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    mock_dns::MockDns,
    nginx::{Nginx, PREFIX},
    ports::{LoopbackNet, free_port_on},
};
use issuer::{
    dns::Resolver,
    preflight::{Reach, Rules, SelfCheck, Validator},
};
use shared::domain::{KeyAuthorization, Thumbprint, Token};

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
const PATH: &str = "/.well-known/acme-challenge/";
/// As the shipped files have it.
const VALIDATION_HOST: &str = "acme.hoster.example";

/// What a request at the frontend must give.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// 302 to the validation host, with exactly this token.
    Validation,
    /// 4xx, without a `Location`.
    Nothing,
    /// Not the rule's business: the site's own redirect to its own HTTPS.
    Site,
    /// Servers differ in what they make of such a path. Any of these, or no answer; never a redirect to somewhere else.
    Harmless,
}
use Expected::{Harmless, Nothing, Site, Validation};

/// Requests that every rule answers alike.
fn targets() -> Vec<(String, Expected)> {
    let long = |characters: usize| format!("{PATH}{}", "a".repeat(characters));
    let at = |rest: &str| format!("{PATH}{TOKEN}{rest}");
    vec![
        (at(""), Validation),
        (at("?a=b&c"), Validation),
        (long(16), Validation),
        (long(128), Validation),
        (at("/"), Nothing),
        (at("/x"), Nothing),
        (PATH.to_owned(), Nothing),
        (at("%00"), Nothing),
        (at("@evil.example"), Nothing),
        (at(".evil.example"), Nothing),
        (at("%0d%0aX-Injected:%20yes"), Nothing),
        (format!("http://shop.example{}", at("")), Harmless),
        (format!("/{}", at("")), Harmless),
        (format!("{PATH}/evil.example"), Harmless),
        (format!("{PATH}%2f%2fevil.example"), Harmless),
        (at("/../../../etc/passwd"), Harmless),
        (at("%2f..%2f..%2f..%2fetc"), Harmless),
        (at("/%2e%2e/%2e%2e/x"), Harmless),
        ("/../../etc/passwd".to_owned(), Harmless),
        (format!("//evil.example{}", at("")), Harmless),
        (format!("/\\evil.example{}", at("")), Harmless),
        (PATH.trim_end_matches('/').to_owned(), Harmless),
        ("/.well-known/security.txt".to_owned(), Site),
        ("/".to_owned(), Site),
    ]
}

/// Where a frontend is tried: one port of both families for it, the validation host on the same port of another address, and a DNS
/// that knows both.
struct Surroundings {
    net: LoopbackNet,
    port: u16,
    dns: MockDns,
    _validation: Nginx,
    directory: tempfile::TempDir,
}

impl Surroundings {
    async fn make() -> Result<Self> {
        let net = LoopbackNet::pick()?;
        let hosts = [IpAddr::V4(net.host(2)), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let validation_host = IpAddr::V4(net.host(3));
        let port = free_port_on(&[hosts[0], hosts[1], validation_host])?;
        let at = SocketAddr::new(validation_host, port);
        let challenge = format!("challenges{PATH}{TOKEN}");
        let answer = key_authorization()?.as_str().to_owned();
        let server = format!("server {{ listen {at}; root {PREFIX}/challenges; }}");
        let validation = Nginx::start(&server, &[at], &[(&challenge, answer.as_bytes())]).await?;
        let directory = tempfile::tempdir()?;
        let dns = MockDns::start(directory.path(), net.host(9)).await?;
        dns.set_addresses("shop.example", &hosts).await?;
        dns.set_a(VALIDATION_HOST, &[net.host(3)]).await?;
        Ok(Self { net, port, dns, _validation: validation, directory })
    }

    /// Where the frontend listens.
    fn addresses(&self) -> [SocketAddr; 2] {
        [IpAddr::V4(self.net.host(2)), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            .map(|host| SocketAddr::new(host, self.port))
    }

    async fn self_check(&self) -> Result<SelfCheck> {
        let resolver = Resolver::with_servers(&[self.dns.address()])?;
        let reach = Reach::new(Validator::new(Rules::for_port(self.port, |_| false), resolver));
        Ok(reach.check("shop.example", &Token::parse(TOKEN)?, &key_authorization()?).await)
    }

    /// What a strict validator makes of the frontend: it comes over IPv6 first, and over IPv4 besides.
    async fn check_as_a_ca_does(&self) -> Result<()> {
        let check = self.self_check().await?;
        ensure!(check.passes() && check.class().is_none(), "{}", check.explain());
        let hops: Vec<_> = check.as_the_ca.hops.iter().map(|hop| (hop.address, hop.status)).collect();
        let validation_host = Some(IpAddr::V4(self.net.host(3)));
        ensure!(
            hops == [(Some(Ipv6Addr::LOCALHOST.into()), Some(302)), (validation_host, Some(200))],
            "{hops:?}"
        );
        let ipv4 = check.ipv4.context("IPv4 was asked too")?;
        ensure!(ipv4.hops[0].address == Some(self.net.host(2).into()), "{ipv4:?}");
        Ok(())
    }
}

/// The shipped files of a make.
fn shipped(make: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/frontends").join(make)
}

fn key_authorization() -> Result<KeyAuthorization> {
    Ok(KeyAuthorization::new(&Token::parse(TOKEN)?, &Thumbprint::from_digest(&[5; 32])))
}

/// The answer over HTTPS, whatever certificate is shown.
fn ask_over_tls(address: SocketAddr, host: &str, target: &str) -> Result<String> {
    let output = std::process::Command::new("curl")
        .args(["-ski", "--http1.1", "--max-time", "10", "--connect-to", &format!("{host}:443:{address}")])
        .arg(format!("https://{host}{target}"))
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends the bytes as they are: an HTTP client would tidy up the path.
fn ask(address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // A server may end the connection in its own way after the answer.
    let read = stream.read_to_end(&mut answer);
    ensure!(read.is_ok() || !answer.is_empty(), "no answer: {read:?}");
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn check(answer: &str, target: &str, expected: Expected) -> Result<()> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let status = head.lines().next().and_then(|line| line.split(' ').nth(1)).context("a status line")?;
    let header = |name: &str| {
        let found = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned()).collect::<Vec<_>>()
    };
    ensure!(header("x-injected").is_empty(), "a header was injected: {head}");
    let location = header("location");
    let nothing = status.starts_with('4') && location.is_empty();
    let site = status == "301" && location.len() == 1 && location[0].starts_with("https://shop.example/");
    let validation = || -> Result<()> {
        let token = target.rsplit('/').next().and_then(|rest| rest.split('?').next()).unwrap_or_default();
        ensure!(status == "302" && location.len() == 1, "{head}");
        ensure!(location[0] == format!("http://{VALIDATION_HOST}{PATH}{token}"), "{head}");
        ensure!(header("cache-control") == ["no-store"], "{head}");
        Ok(())
    };
    match expected {
        Validation => validation(),
        Nothing => {
            ensure!(nothing, "{head}");
            Ok(())
        }
        Site => {
            ensure!(site, "{head}");
            Ok(())
        }
        Harmless => {
            ensure!(nothing || site || validation().is_ok(), "{head}");
            Ok(())
        }
    }
}
