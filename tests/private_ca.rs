//! A private CA on a private network, as shipped: Caddy's ACME server, port 80, private addresses and `.internal` names. It has
//! no terms, no profiles, no renewal information, and leaves a challenge with an error `pending`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    caddy_ca::CaddyCa,
    daemon::seconds,
    deadline::until,
    mock_dns::MockDns,
    namespace,
    nginx::Nginx,
    signpost::{Daemon, Signpost},
    stage::{VALIDATION_HOST, frontends},
};
use serde_json::Value;
use tempfile::TempDir;

const FRONTEND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const VALIDATION: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// An address of the machine where nobody listens.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const ADDRESSES: [&str; 3] = ["10.77.0.1/24", "10.77.0.2/24", "10.77.0.3/24"];
const SITES: usize = 60;
const DEAD: usize = 10;
const LIMIT: Duration = Duration::from_secs(120);

/// The CA, its network's DNS, a frontend with the shipped rule, and the validation host.
struct Scene {
    // Before the installation, which ends its store: this would start it again.
    _challenge: Daemon,
    signpost: Signpost,
    ca: CaddyCa,
    dns: MockDns,
    _nginx: Nginx,
    _folder: TempDir,
}

impl Scene {
    async fn open() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let dns = MockDns::start_at((Ipv4Addr::LOCALHOST, 53).into(), folder.path(), FRONTEND).await?;
        dns.set_a(VALIDATION_HOST, &[VALIDATION]).await?;
        let ca = CaddyCa::start().await?;
        let mut signpost = Signpost::new()?;
        let roots = ca.trusted_roots_file();
        signpost.set("ca.private.directory", ca.directory_url())?;
        signpost.set("ca.private.trusted_roots_file", roots.to_str().context("a path is text")?)?;
        signpost.set("ca.private.default", true)?;
        signpost.unset("issuer.self_check")?;
        // An account's orders that come at once break its list of them, and it answers 500 from then on.
        signpost.set("ca.private.orders_at_once", 1)?;
        signpost.set("issuer.retry_seconds", seconds(&[2.0, 5.0]))?;
        signpost.listen_challenge(VALIDATION, 80)?;
        signpost.issuer(&["account", "create"]).await?.success()?;
        let challenge = signpost.start_challenge().await?;
        let frontend = SocketAddr::from((FRONTEND, 80));
        let nginx = Nginx::start(&frontends(&[frontend], 80)?, &[frontend], &[]).await?;
        Ok(Self { signpost, ca, dns, _challenge: challenge, _nginx: nginx, _folder: folder })
    }

    /// `issuer issue`, and what the store has of the first name then.
    async fn issue(&self, arguments: &[&str]) -> Result<Value> {
        let line = [&["issue"], arguments].concat();
        self.signpost.issuer(&line).await?.success().with_context(|| self.ca.log())?;
        self.certificates(arguments[0]).await
    }

    async fn certificates(&self, name: &str) -> Result<Value> {
        let shown = self.signpost.issuer_json(&["status", name]).await?;
        Ok(shown["sites"][0]["certificates"].clone())
    }
}

#[test]
fn a_private_ca_on_a_private_network_works_as_shipped() -> Result<()> {
    if !namespace::inside("private_ca::a_private_ca_on_a_private_network_works_as_shipped", &ADDRESSES)? {
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let scene = Scene::open().await?;
        by_hand(&scene).await?;
        a_daemon(&scene).await
    })
}

/// An account, one name, two key types, fifty names, a single label, an address; a renewal, a revocation; a name that fails.
async fn by_hand(scene: &Scene) -> Result<()> {
    let shown = scene.signpost.issuer_json(&["account", "show"]).await?;
    ensure!(shown["status"] == "valid" || shown["accounts"][0]["status"] == "valid", "{shown:#}");

    let first = scene.issue(&["shop.hoster.internal"]).await?;
    ensure!(first[0]["ca"] == "private", "{first:#}");
    let both = scene.issue(&["both.hoster.lan", "--dual"]).await?;
    ensure!(both.as_array().map(Vec::len) == Some(2), "{both:#}");
    let fifty: Vec<String> = (0..50).map(|number| format!("name{number}.many.internal")).collect();
    let mut line: Vec<&str> = fifty.iter().map(String::as_str).collect();
    line.push("--san");
    let many = scene.issue(&line).await?;
    ensure!(many[0]["names"].as_array().map(Vec::len) == Some(50), "{many:#}");
    scene.issue(&["intranet"]).await?;
    scene.issue(&["10.77.0.1"]).await?;

    scene.signpost.issuer(&["renew", "shop.hoster.internal", "--force"]).await?.success()?;
    let renewed = scene.certificates("shop.hoster.internal").await?;
    ensure!(renewed[0]["serial"] != first[0]["serial"], "renewed: {renewed:#}");
    scene.signpost.issuer(&["revoke", "both.hoster.lan", "--reason", "superseded"]).await?.success()?;

    scene.dns.set_a("dead.hoster.internal", &[NOBODY]).await?;
    let failed = scene.signpost.issuer(&["--json", "issue", "dead.hoster.internal"]).await?.with_code(1)?;
    ensure!(failed.elapsed < Duration::from_secs(30), "an error in a pending challenge is an answer");
    ensure!(failed.stdout.contains("customer"), "{}", failed.stdout);
    Ok(())
}

/// Sites that a daemon orders; the dead among them are the customers' affair, and hold nobody up.
async fn a_daemon(scene: &Scene) -> Result<()> {
    let names: Vec<String> = (0..SITES).map(|number| format!("site{number}.fleet.internal")).collect();
    for name in &names[..DEAD] {
        scene.dns.set_a(name, &[NOBODY]).await?;
    }
    let mut line = vec!["site", "add"];
    line.extend(names.iter().map(String::as_str));
    scene.signpost.issuer(&line).await?.success()?;
    let daemon = scene.signpost.start_issuer().await?;
    let status = until("all healthy sites have certificates", LIMIT, || async {
        let status = scene.signpost.issuer_json(&["status", "--limit", "1000"]).await.ok()?;
        let sites = status["sites"].as_array()?;
        let state = |name: &str| {
            let site = sites.iter().find(|site| site["names"][0] == *name)?;
            Some((site["state"].as_str()?.to_owned(), site["failure"]["fault"].as_str().map(str::to_owned)))
        };
        let healthy = names[DEAD..].iter().all(|name| state(name).is_some_and(|(state, _)| state == "valid"));
        let blamed = |name: &String| {
            state(name)
                .is_some_and(|(state, fault)| state == "failing" && fault.as_deref() == Some("customer"))
        };
        (healthy && names[..DEAD].iter().all(blamed)).then_some(status)
    })
    .await;
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let seen = scene.signpost.issuer(&["status", "--limit", "1000"]).await?;
            return Err(error.context(format!("{}\n{}", seen.stdout, daemon.process.log_tail())));
        }
    };
    ensure!(
        status["fleet"]["troubles"].as_array().is_none_or(Vec::is_empty),
        "the CA is in no trouble: {status:#}"
    );
    Ok(())
}
