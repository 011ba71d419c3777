//! The shipped nginx rule on the real nginx: what it redirects, what it must not, and that a CA's validator follows it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    nginx::{Nginx, PREFIX},
    pki::{Authority, Pair},
    ports::free_port_on,
};
use issuer::preflight::Class;
use openssl::{
    ssl::{SslConnector, SslMethod},
    x509::X509,
};

use super::{
    Expected::{Nothing, Site, Validation},
    PATH, Surroundings, TOKEN, ask, ask_over_tls, check, shipped,
};

#[tokio::test]
async fn the_rule_redirects_tokens_and_nothing_else_on_both_address_families() -> Result<()> {
    let frontend = Frontend::start(&example()?).await?;
    let long = |characters: usize| format!("{PATH}{}", "a".repeat(characters));
    let at = |rest: &str| format!("{PATH}{TOKEN}{rest}");
    for (target, expected) in [
        (at(""), Validation),
        (at("?a=b&c"), Validation),
        (format!("http://shop.example{}", at("")), Validation),
        (format!("/{}", at("")), Validation),
        (long(16), Validation),
        (long(128), Validation),
        (long(15), Nothing),
        (long(129), Nothing),
        (long(300), Nothing),
        (at("/"), Nothing),
        (at("/x"), Nothing),
        (PATH.to_owned(), Nothing),
        (at("%0d%0aX-Injected:%20yes"), Nothing),
        (at("%00"), Nothing),
        (at("@evil.example"), Nothing),
        (at(".evil.example"), Nothing),
        (format!("{PATH}/evil.example"), Nothing),
        (format!("{PATH}%2f%2fevil.example"), Nothing),
        (at("/../../../etc/passwd"), Site),
        (at("%2f..%2f..%2f..%2fetc"), Site),
        (at("/%2e%2e/%2e%2e/x"), Site),
        ("/../../etc/passwd".to_owned(), Nothing),
        (PATH.trim_end_matches('/').to_owned(), Site),
        ("/.well-known/security.txt".to_owned(), Site),
        ("/".to_owned(), Site),
    ] {
        for address in frontend.addresses {
            for request in [
                format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"),
                format!("HEAD {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"),
            ] {
                check(&ask(address, &request)?, &target, expected)
                    .with_context(|| format!("{request:?} at {address}"))?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_host_is_redirected_also_an_unknown_one_and_none() -> Result<()> {
    let frontend = Frontend::start(&example()?).await?;
    let target = format!("{PATH}{TOKEN}");
    for address in frontend.addresses {
        for host in [
            "unknown.example",
            "SHOP.example",
            "shop.example:80",
            "192.0.2.1",
            "[2001:db8::1]",
            "evil.example@x",
        ] {
            let answer =
                ask(address, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))?;
            let refused = answer.starts_with("HTTP/1.1 400") && host.contains('@');
            if !refused {
                check(&answer, &target, Validation).with_context(|| host.to_owned())?;
            }
        }
        check(&ask(address, &format!("GET {target} HTTP/1.0\r\n\r\n"))?, &target, Validation)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_rule_stands_before_a_ban_on_hidden_files_and_a_password() -> Result<()> {
    let site = format!(
        r#"server {{
            listen 80 default_server; listen [::]:80 default_server;
            auth_basic "closed"; auth_basic_user_file /dev/null;
            include {}/signpost-challenge.conf;
            location ~ /\. {{ deny all; }}
            location / {{ return 301 https://$host$request_uri; }}
        }}"#,
        shipped("nginx").display()
    );
    let frontend = Frontend::start(&site).await?;
    let target = format!("{PATH}{TOKEN}");
    for address in frontend.addresses {
        let request = format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        check(&ask(address, &request)?, &target, Validation)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_strict_validator_follows_the_rule_to_the_key_authorization() -> Result<()> {
    Frontend::start(&example()?).await?.surroundings.check_as_a_ca_does().await
}

/// The mistake that the example warns of: a redirect outside of a location wins over the rule.
#[tokio::test]
async fn a_strict_validator_refuses_a_frontend_whose_https_redirect_comes_first() -> Result<()> {
    let site = format!(
        "server {{ listen 80 default_server; listen [::]:80 default_server; include {}/signpost-challenge.conf;
           return 301 https://$host$request_uri; }}",
        shipped("nginx").display()
    );
    let check = Frontend::start(&site).await?.surroundings.self_check().await?;
    ensure!(!check.passes(), "{}", check.explain());
    ensure!(check.class() == Some(Class::ValidationHost), "nobody listens on 443: {}", check.explain());
    Ok(())
}

#[tokio::test]
async fn the_example_serves_the_names_of_the_map_and_refuses_the_others() -> Result<()> {
    let frontend = Frontend::start(&example()?).await?;
    for address in frontend.https {
        for name in ["shop.example", "www.wild.example"] {
            let certificate = frontend.handshake(address, name)?;
            let names = certificate.subject_alt_names().context("a certificate has names")?;
            ensure!(names.iter().any(|san| san.dnsname() == Some("shop.example")), "{name}");
        }
        for name in ["unknown.example", "wild.example", "../shop.example", ""] {
            ensure!(frontend.handshake(address, name).is_err(), "{name:?} got a certificate");
        }
        // A CDN may come for the challenge by HTTPS.
        let target = format!("{PATH}{TOKEN}");
        check(&ask_over_tls(address, "shop.example", &target)?, &target, Validation)?;
    }
    Ok(())
}

/// The files go where the distribution's own say: what they set already is set once.
#[tokio::test]
async fn the_example_goes_with_the_distribution_s_own_configuration() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let own = directory.path();
    let pair = Authority::new("Test CA")?.issue_server(&["shop.example"])?;
    let policy: &[u8] = b"ssl_protocols TLSv1.2 TLSv1.3;\nssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;\n\
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;\nssl_ecdh_curve X25519;\nssl_prefer_server_ciphers off;\n";
    let mut files = agent_files(&pair);
    files.retain(|(name, _)| !name.ends_with("tls.conf"));
    files.push(("agent/nginx/tls.conf", policy));
    let at = |text: &str| {
        text.replace("/var/lib/signpost-agent", &own.join("agent").display().to_string())
            .replace("/etc/nginx/signpost", &shipped("nginx").display().to_string())
            .replace("/etc/nginx", &own.display().to_string())
            .replace("/var/log/nginx", &own.display().to_string())
            .replace("/run/nginx.pid", &own.join("pid").display().to_string())
    };
    let stock = at(&std::fs::read_to_string("/etc/nginx/nginx.conf").context("Debian's nginx.conf")?);
    let (fleet, site) = (std::fs::read_to_string(shipped("nginx").join("signpost.conf"))?, at(&example()?));
    let mime = std::fs::read("/etc/nginx/mime.types")?;
    files.extend([
        ("nginx.conf", stock.as_bytes()),
        ("mime.types", &mime[..]),
        ("conf.d/signpost.conf", fleet.as_bytes()),
        ("sites-enabled/signpost", site.as_bytes()),
    ]);
    for (name, content) in files {
        let path = own.join(name);
        std::fs::create_dir_all(path.parent().context("a file below it")?)?;
        std::fs::write(path, content)?;
    }
    let test = std::process::Command::new("nginx")
        .args(["-t", "-e", "stderr", "-c"])
        .arg(own.join("nginx.conf"))
        .output()?;
    let said = String::from_utf8_lossy(&test.stderr).into_owned();
    ensure!(test.status.success() && !said.contains("[warn]"), "{said}");
    Ok(())
}

/// nginx as a frontend.
struct Frontend {
    _nginx: Nginx,
    surroundings: Surroundings,
    authority: Authority,
    addresses: [SocketAddr; 2],
    https: [SocketAddr; 2],
}

impl Frontend {
    /// `site` as it would be on a frontend; its ports, and the agent's directory, are replaced by the test's own.
    async fn start(site: &str) -> Result<Self> {
        let surroundings = Surroundings::make().await?;
        let (addresses, http) = (surroundings.addresses(), surroundings.port);
        let v4 = surroundings.net.host(2);
        let https = free_port_on(&[IpAddr::V4(v4), IpAddr::V6(Ipv6Addr::LOCALHOST)])?;
        let site = site
            .replace("listen 80 ", &format!("listen {v4}:{http} "))
            .replace("listen [::]:80 ", &format!("listen [::1]:{http} "))
            .replace("listen 443 ", &format!("listen {v4}:{https} "))
            .replace("listen [::]:443 ", &format!("listen [::1]:{https} "))
            .replace("/var/lib/signpost-agent", &format!("{PREFIX}/agent"))
            .replace("/etc/nginx/signpost", &shipped("nginx").display().to_string());
        let config = format!("include {}/signpost.conf;\n{site}", shipped("nginx").display());
        let authority = Authority::new("Test CA")?;
        let pair = authority.issue_server(&["shop.example", "*.wild.example"])?;
        let nginx = Nginx::start(&config, &addresses, &agent_files(&pair)).await?;
        let https = addresses.map(|address| SocketAddr::new(address.ip(), https));
        Ok(Self { _nginx: nginx, surroundings, authority, addresses, https })
    }

    /// The certificate that a client of `name` gets, verified but for the name.
    fn handshake(&self, address: SocketAddr, name: &str) -> Result<X509> {
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        connector.cert_store_mut().add_cert(self.authority.certificate().clone())?;
        let mut configuration = connector.build().configure()?.verify_hostname(false);
        configuration.set_use_server_name_indication(!name.is_empty());
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let tls = configuration.connect(name, stream)?;
        tls.ssl().peer_certificate().context("a server shows a certificate")
    }
}

/// What `frontend-agent` would have written for one item without an RSA certificate.
fn agent_files(pair: &Pair) -> Vec<(&'static str, &[u8])> {
    let [certificate, key] = [pair.certificate_pem.as_slice(), pair.key_pem.as_slice()];
    vec![
        ("agent/nginx/map.conf", b"shop.example 01;\n*.wild.example 01;\n"),
        ("agent/nginx/names.conf", b"server_name shop.example;\nserver_name *.wild.example;\n"),
        ("agent/nginx/redirect.conf", b"shop.example 1;\n*.wild.example 1;\n"),
        ("agent/nginx/hsts.conf", b"shop.example \"max-age=3600\";\n"),
        ("agent/nginx/tls.conf", b"ssl_protocols TLSv1.2 TLSv1.3;\n"),
        ("agent/live/01/ecdsa-fullchain.pem", certificate),
        ("agent/live/01/ecdsa-privkey.pem", key),
        ("agent/live/01/rsa-fullchain.pem", certificate),
        ("agent/live/01/rsa-privkey.pem", key),
    ]
}

fn example() -> Result<String> {
    std::fs::read_to_string(shipped("nginx").join("signpost-site.conf.example"))
        .context("the shipped example")
}
