//! Certificates whose names were proved by records that we wrote.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    bind::{DNS_PORT, dig, texts, zone_file},
    ca_proxy::{Action, Endpoint, Rule},
    daemon::seconds,
    deadline::{until, until_true},
    process::{Ending, Process},
    signpost::RUN_LIMIT,
    stage::Fuse,
};
use serde_json::{Value, json};

use super::zone::{ADMIN, CUSTOMER, Hosted, KEY, SECRET, ZONE};

const RECORD: &str = "_acme-challenge.hosted.example";
const WILDCARD: &str = "*.hosted.example";

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_and_its_apex_behind_a_secondary_that_lags() -> Result<()> {
    let hosted = Hosted::make(20).await?;
    let line = ["--san", "--challenge", "dns-01", WILDCARD, ZONE];
    let document = hosted.stage.issue(&line).await?;
    let result = &document["results"][0];
    ensure!(result["status"] == "issued", "{document:#}");
    let names = names_of(result);
    ensure!(names == [WILDCARD, ZONE], "{names:?}");
    let at = |step: &str| {
        let steps = result["steps"].as_array().into_iter().flatten();
        steps.filter(|one| one["step"] == step).filter_map(|one| one["at_ms"].as_u64()).next()
    };
    let (written, everywhere, answered) = (
        at("written").context("written")?,
        at("propagated").context("propagated")?,
        at("answered").context("answered")?,
    );
    ensure!(everywhere - written > 1_000, "the secondary lags: {result:#}");
    ensure!(everywhere <= answered, "the CA was told too early: {result:#}");
    hosted.ensure_clean(RECORD).await?;
    until_true("the secondary has removed it", Duration::from_secs(60), || async {
        texts(hosted.secondary, RECORD).await.is_ok_and(|texts| texts.is_empty())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_orders_for_the_same_record_at_once() -> Result<()> {
    // The secondary lags: both have written before either goes on.
    let hosted = Hosted::make(5).await?;
    let signpost = &hosted.stage.signpost;
    signpost.issuer(&["account", "create"]).await?.success()?;
    let wildcard = ["--json", "issue", "--challenge", "dns-01", WILDCARD];
    let apex = ["--json", "issue", "--challenge", "dns-01", ZONE];
    let both = until_true("both values stand beside each other", Duration::from_secs(60), || async {
        texts(hosted.primary, RECORD).await.is_ok_and(|found| found.len() == 2)
    });
    let (one, other, both) = tokio::join!(signpost.issuer(&wildcard), signpost.issuer(&apex), both);
    both?;
    for run in [one?, other?] {
        let document = run.success()?.json()?;
        ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    }
    hosted.ensure_clean(RECORD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_adding_and_removing_nothing_is_left_behind() -> Result<()> {
    let hosted = Hosted::make(0).await?;
    let stage = &hosted.stage;
    // The account, so that the kills fall into the order.
    stage.issue(&["shop.hosted.example"]).await?;
    let endpoints = [Endpoint::Challenge, Endpoint::Order, Endpoint::Finalize, Endpoint::Certificate];
    for (number, endpoint) in endpoints.into_iter().enumerate() {
        let name = format!("*.k{number}.hosted.example");
        let record = format!("_acme-challenge.k{number}.hosted.example");
        let fuse = Fuse::default();
        let kill = fuse.clone();
        stage.proxy.clear_rules();
        stage.proxy.add_rule(Rule::on(endpoint).nth(1).does(Action::call_after(move |_| kill.kill9())));
        let line = ["--json", "issue", "--challenge", "dns-01", &name];
        let started = stage.signpost.start_run("issuer", &line)?;
        fuse.attach(started.process.killer());
        let run = started.wait(RUN_LIMIT).await?;
        ensure!(run.exit.code().is_none(), "{endpoint:?}: it was not killed: {}", run.stderr);
        stage.proxy.clear_rules();
        if endpoint == Endpoint::Challenge {
            ensure!(!texts(hosted.primary, &record).await?.is_empty(), "it was killed before it had written");
        }
        let document = stage.issue(&["--challenge", "dns-01", &name]).await?;
        ensure!(document["results"][0]["status"] == "issued", "{endpoint:?}: {document:#}");
        hosted.ensure_clean(&record).await.with_context(|| format!("{endpoint:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_was_removed_in_between_leaves_nothing_to_the_daemon() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    hosted.stage.signpost.set("issuer.retry_seconds", seconds(&[1.0, 3600.0]))?;
    let stage = &hosted.stage;
    let entry = r#"{"provider":"own","record":"_acme-challenge.gone.hosted.example","value":"left","site":"00000000000000000000","slot":"ecdsa","token":"evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"}"#;
    let update = format!(
        "server {} {DNS_PORT}\nkey hmac-sha256:{ADMIN} {SECRET}\nzone {ZONE}\nupdate add _acme-challenge.gone.{ZONE} 60 TXT left\nsend\n",
        hosted.primary.ip()
    );
    nsupdate(&update)?;
    ensure!(texts(hosted.primary, "_acme-challenge.gone.hosted.example").await? == ["left"], "nsupdate");
    // Noted long ago by somebody who was killed.
    stage.redis.command(&["ZADD", "sp:txt-journal", "1000", entry]).await?;
    let _daemon = stage.start_daemon()?;
    until_true("it is removed", Duration::from_secs(60), || async {
        hosted.ensure_clean("_acme-challenge.gone.hosted.example").await.is_ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_removed_while_its_record_stands_leaves_no_record() -> Result<()> {
    let hosted = Hosted::make(0).await?;
    let stage = &hosted.stage;
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    let (name, record) = ("*.left.hosted.example", "_acme-challenge.left.hosted.example");
    let fuse = Fuse::default();
    let kill = fuse.clone();
    stage
        .proxy
        .add_rule(Rule::on(Endpoint::Challenge).nth(1).does(Action::call_after(move |_| kill.kill9())));
    stage.json(&["site", "add", name, "--challenge", "dns-01"]).await?;
    let started = stage.start_daemon()?;
    fuse.attach(started.process.killer());
    started.wait(RUN_LIMIT).await?;
    stage.proxy.clear_rules();
    ensure!(!texts(hosted.primary, record).await?.is_empty(), "it was killed before it had written");
    stage.signpost.issuer(&["site", "remove", name, "--yes"]).await?.success()?;
    // Noted long ago.
    let noted = stage.redis.command(&["ZRANGE", "sp:txt-journal", "0", "-1"]).await?;
    for entry in redis::from_redis_value::<Vec<String>>(noted)? {
        stage.redis.command(&["ZADD", "sp:txt-journal", "1000", &entry]).await?;
    }
    let _daemon = stage.start_daemon()?;
    until_true("it is removed", Duration::from_secs(60), || async {
        hosted.ensure_clean(record).await.is_ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_orders_what_is_added() -> Result<()> {
    let hosted = Hosted::make(0).await?;
    let _daemon = hosted.stage.start_daemon()?;
    let line = ["site", "add", WILDCARD, ZONE, "--san", "grouped", "--challenge", "dns-01"];
    hosted.stage.json(&line).await?;
    hosted.stage.until_valid(ZONE).await?;
    let site = hosted.stage.site(WILDCARD).await?;
    ensure!(site["state"] == "valid", "{site:#}");
    until_true("its records are gone", Duration::from_secs(30), || async {
        hosted.ensure_clean(RECORD).await.is_ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_delegates_keeps_the_zone() -> Result<()> {
    let hosted = Hosted::make(0).await?;
    let document = hosted.stage.issue(&["--challenge", "dns-01", CUSTOMER]).await?;
    ensure!(names_of(&document["results"][0]) == [CUSTOMER], "{document:#}");
    hosted.ensure_clean("customer.example.acme.hosted.example").await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_customer_gets_a_target_and_is_checked() -> Result<()> {
    // One nameserver is seconds behind the other.
    let mut hosted = Hosted::make(3).await?;
    let signpost = &mut hosted.stage.signpost;
    let none = signpost.issuer(&["delegation", "add", CUSTOMER]).await?.with_code(2)?;
    ensure!(none.stderr.contains("delegation_zone"), "{}", none.stderr);
    signpost.set("dns.own.delegation_zone", "acme.hosted.example")?;
    let added =
        signpost.issuer_json(&["delegation", "add", "shop.hosted.example", "*.wild.hosted.example"]).await?;
    let given = added["delegations"].as_array().context("delegations")?;
    let [one, other] = &given[..] else { anyhow::bail!("{added:#}") };
    ensure!(
        one["target"] != other["target"] && one["record"] == "_acme-challenge.shop.hosted.example",
        "{added:#}"
    );
    let again = signpost.issuer_json(&["delegation", "add", "shop.hosted.example"]).await?;
    ensure!(again["delegations"][0] == *one, "what a customer was told once stays: {again:#}");
    let list = signpost.issuer_json(&["delegation", "list"]).await?;
    ensure!(list["delegations"].as_array().map(Vec::len) == Some(2), "{list:#}");
    let check = signpost.issuer(&["--json", "delegation", "check"]).await?.with_code(1)?.json()?;
    ensure!(check["delegations"][0]["state"] == "missing", "{check:#}");

    // The customer creates it.
    let target = one["target"].as_str().context("target")?;
    let alias = |target: &str| {
        format!(
            "server {} {DNS_PORT}\nkey hmac-sha256:{ADMIN} {SECRET}\nzone {ZONE}\nupdate delete _acme-challenge.shop.{ZONE} CNAME\n\
             update add _acme-challenge.shop.{ZONE} 1 CNAME {target}.\nsend\n",
            hosted.primary.ip()
        )
    };
    let line = ["--json", "delegation", "check", "shop.hosted.example"];
    // An alias into the zone above is still asked for where it stands.
    for (target, state) in [("elsewhere.example", "elsewhere"), (target, "there")] {
        nsupdate(&alias(target))?;
        let found = until(state, Duration::from_secs(30), || async {
            let run = hosted.stage.signpost.issuer(&line).await.ok()?;
            let found = run.json().ok()?["delegations"][0].clone();
            (found["state"] == state).then_some(found)
        })
        .await?;
        let own = ["+short", "CNAME", "_acme-challenge.shop.hosted.example"];
        let said = dig(hosted.secondary, &own).await?;
        let has_it = said.trim_end() == format!("{target}.");
        ensure!(has_it || found["lacking"] == json!(["ns2.hosted.example"]), "{said:?}: {found}");
        ensure!(has_it || state != "there", "{said:?}");
    }
    let document = hosted.stage.issue(&["--challenge", "dns-01", "shop.hosted.example"]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    hosted.ensure_clean(target).await?;
    hosted.stage.signpost.issuer_json(&["delegation", "remove", "shop.hosted.example"]).await?;
    hosted.stage.signpost.issuer(&line).await?.with_code(4)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_http_where_it_leads_to_us_and_the_dns_where_it_does_not() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    hosted.stage.signpost.unset("issuer.self_check")?;
    let stage = &hosted.stage;
    let reached = stage.issue(&["--challenge", "auto", "shop.hosted.example"]).await?;
    ensure!(!has_step(&reached["results"][0], "written"), "it is reached over HTTP: {reached:#}");
    let unreached = stage.issue(&["--challenge", "auto", "unreachable.hosted.example"]).await?;
    ensure!(unreached["results"][0]["status"] == "issued", "{unreached:#}");
    ensure!(has_step(&unreached["results"][0], "written"), "{unreached:#}");
    ensure!(stage.proxy.orders().len() == 2, "each was ordered once: {:?}", stage.proxy.orders());
    hosted.ensure_clean("_acme-challenge.unreachable.hosted.example").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_write_is_not_ordered() -> Result<()> {
    let hosted = Hosted::make(0).await?;
    let stage = &hosted.stage;
    stage.issue(&["shop.hosted.example"]).await?;
    stage.proxy.reset();
    let document = stage.issue_ending(1, &["--challenge", "dns-01", "*.elsewhere.example"]).await?;
    let failure = &document["results"][0]["failure"];
    ensure!(failure["class"] == "dns" && failure["fault"] == "operator", "{failure:#}");
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == 0, "it was ordered");
    // Nor is a wildcard taken that nobody could prove.
    let refused = stage.signpost.issuer(&["site", "add", "*.shop.example"]).await?.with_code(2)?;
    ensure!(refused.stderr.contains("a wildcard needs the dns-01 challenge"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_and_the_order_waits() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    let wrong = hosted.stage.signpost.write("wrong", "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmc=")?;
    let right = hosted.stage.signpost.directory().join("tsig").display().to_string();
    hosted.stage.signpost.set("dns.own.tsig_secret_file", wrong.display().to_string())?;
    let document = hosted.stage.issue_ending(1, &["--challenge", "dns-01", WILDCARD]).await?;
    let what = document["results"][0]["failure"]["what"].as_str().unwrap_or_default();
    ensure!(what.contains("does not let this key change hosted.example"), "{what}");
    hosted.stage.signpost.set("dns.own.tsig_secret_file", right)?;
    let document = hosted.stage.issue(&["--challenge", "dns-01", WILDCARD]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    ensure!(hosted.stage.proxy.orders().len() == 1, "the same order goes on");
    hosted.ensure_clean(RECORD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_can_not_be_written_does_not_keep_the_others() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    hosted.stage.signpost.set("dns.broken.provider", "exec")?;
    hosted.stage.signpost.set("dns.broken.zones", vec!["broken.example"])?;
    hosted.stage.signpost.set("dns.broken.command", vec!["/bin/false"])?;
    let line = ["--san", "--challenge", "dns-01", ZONE, "shop.broken.example"];
    let document = hosted.stage.issue(&line).await?;
    ensure!(names_of(&document["results"][0]) == [ZONE], "{document:#}");
    ensure!(texts(hosted.primary, RECORD).await?.is_empty(), "the first order's record is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_without_anybody_who_writes_goes_on_over_http() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    hosted.stage.signpost.unset("issuer.self_check")?;
    hosted.stage.signpost.unset("dns.own.zones")?;
    hosted.stage.signpost.set("dns.own.zones", vec!["elsewhere.example"])?;
    let fleet = hosted.stage.fleet.as_ref().context("a fleet")?;
    fleet.break_redirects().await?;
    let line = ["--challenge", "auto", "shop.hosted.example"];
    let failed = hosted.stage.issue_ending(1, &line).await?;
    ensure!(failed["results"][0]["failure"]["class"] == "redirect-rule", "{failed:#}");
    // Put right, it is not held to the way that failed.
    fleet.repair_redirects().await?;
    let document = hosted.stage.issue(&line).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    ensure!(!has_step(&document["results"][0], "written"), "{document:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn knot_takes_the_updates_as_well() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    // Knot in the secondary's place would be another story: here it is a primary of its own, below our zone.
    let address = hosted.net.host(30);
    let place = tempfile::Builder::new().prefix("knot-").tempdir()?;
    let apex = format!("knot.{ZONE}");
    std::fs::write(place.path().join("zone"), zone_file(&format!("{apex}."), &[address], "@ A 127.0.0.1"))?;
    let at = place.path().display();
    let config = format!(
        "server:\n  listen: {address}@{DNS_PORT}\n  rundir: {at}\nlog:\n  - target: stderr\n    any: info\n\
         database:\n  storage: {at}\nkey:\n  - id: {KEY}\n    algorithm: hmac-sha512\n    secret: {SECRET}\n\
         acl:\n  - id: ours\n    key: {KEY}\n    action: update\n\
         zone:\n  - domain: {apex}\n    storage: {at}\n    file: zone\n    acl: ours\n    zonefile-sync: -1\n    journal-content: changes\n"
    );
    let path = place.path().join("knot.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new("/usr/sbin/knotd");
    command.arg("-c").arg(&path);
    let knot = Process::spawn(command, "knot", &place.path().join("log"))?.ending(Ending::TerminateFirst);
    let server = SocketAddr::new(IpAddr::V4(address), DNS_PORT);
    knot.ready(Duration::from_secs(20), || async { tokio::net::TcpStream::connect(server).await.is_ok() })
        .await?;
    let delegation = format!(
        "server {} {DNS_PORT}\nkey hmac-sha256:{ADMIN} {SECRET}\nzone {ZONE}\nupdate add {apex} 60 NS ns1.{apex}.\n\
         update add ns1.{apex} 60 A {address}\nsend\n",
        hosted.primary.ip()
    );
    nsupdate(&delegation)?;
    until_true("both nameservers delegate", Duration::from_secs(20), || async {
        let said = dig(hosted.secondary, &["+noall", "+authority", "NS", &apex]).await;
        said.is_ok_and(|said| said.contains(&format!("ns1.{apex}.")))
    })
    .await?;

    let secret = hosted.stage.signpost.directory().join("tsig").display().to_string();
    for (key, value) in [
        ("provider", "rfc2136"),
        ("server", &server.to_string()),
        ("tsig_name", KEY),
        ("tsig_algorithm", "hmac-sha512"),
        ("tsig_secret_file", &secret),
    ] {
        hosted.stage.signpost.set(&format!("dns.knot.{key}"), value)?;
    }
    hosted.stage.signpost.set("dns.knot.zones", vec![apex.clone()])?;
    let wildcard = format!("*.{apex}");
    let document = hosted.stage.issue(&["--san", "--challenge", "dns-01", &wildcard, &apex]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}\n{}", knot.log_tail());
    let left = texts(server, &format!("_acme-challenge.{apex}")).await?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

pub(super) fn nsupdate(script: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("nsupdate")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("nsupdate (apt-get install bind9-dnsutils)")?;
    child.stdin.take().context("its input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nsupdate: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn names_of(result: &Value) -> Vec<&str> {
    let names = result["certificates"][0]["names"].as_array().into_iter().flatten();
    let mut names: Vec<&str> = names.filter_map(Value::as_str).collect();
    names.sort_unstable();
    names
}

fn has_step(result: &Value, step: &str) -> bool {
    result["steps"].as_array().is_some_and(|steps| steps.iter().any(|one| one["step"] == step))
}
