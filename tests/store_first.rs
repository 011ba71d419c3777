//! What the store has is used, and only what it lacks is ordered: `issue` may be run as often as one likes.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    stage::Stage,
    stored::Stored,
};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_asks_the_ca_nothing() -> Result<()> {
    let stage = Stage::trusting().await?;
    let first = stage.issue(&["--dual", "shop.example"]).await?;
    ensure!(first["results"][0]["status"] == "issued", "{first:#}");
    stage.proxy.reset();
    let second = stage.issue(&["--dual", "shop.example"]).await?;
    ensure!(second["results"][0]["status"] == "valid", "{second:#}");
    ensure!(second["results"][0]["certificates"] == first["results"][0]["certificates"], "{second:#}");
    ensure!(second["requests"] == 0 && stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());

    // The directory that an earlier run left may have expired by the time that the CA is gone.
    stage.redis.command(&["DEL", "sp:{ca:pebble}:directory"]).await?;
    let Stage { mut signpost, redis_proxy: _store, redis: _redis, proxy, pebble, .. } = stage;
    let root = signpost.write("ca-root.pem", std::fs::read(proxy.trusted_roots_file())?)?;
    signpost.set("ca.pebble.trusted_roots_file", root.to_str().context("a path of text")?)?;
    drop((proxy, pebble));
    let third = signpost.issuer_json(&["issue", "shop.example"]).await?;
    ensure!(third["results"][0]["status"] == "valid", "{third:#}");
    ensure!(third["results"][0]["certificates"] == first["results"][0]["certificates"], "{third:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dual_pair_is_one_request_and_a_key_type_can_be_added() -> Result<()> {
    let stage = Stage::trusting().await?;
    let dual = stage.issue(&["--dual", "dual.example"]).await?;
    ensure!(key_types(&dual["results"][0]) == ["ecdsa-p256", "rsa-2048"], "{dual:#}");
    ensure!(stage.proxy.issued_for(&["dual.example"]).len() == 2);

    let one = stage.issue(&["later.example"]).await?;
    ensure!(key_types(&one["results"][0]) == ["ecdsa-p256"], "{one:#}");
    let more = stage.issue(&["--key-type", "rsa-3072", "later.example"]).await?;
    ensure!(key_types(&more["results"][0]) == ["ecdsa-p256", "rsa-3072"], "{more:#}");
    ensure!(stage.proxy.issued_for(&["later.example"]) == ["ecdsa-p256", "rsa-3072"]);
    ensure!(
        serial(&more["results"][0], "ecdsa") == serial(&one["results"][0], "ecdsa"),
        "the first one was replaced"
    );
    // Another type of the same family takes the place of the one before.
    let other = stage.issue(&["--key-type", "ecdsa-p384", "later.example"]).await?;
    ensure!(key_types(&other["results"][0]) == ["ecdsa-p384", "rsa-3072"], "{other:#}");
    // Without a wish, the site is what it was asked to be.
    let again = stage.issue(&["later.example"]).await?;
    ensure!(again["results"][0]["certificates"] == other["results"][0]["certificates"], "{again:#}");
    ensure!(again["requests"] == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_names_share_a_certificate_or_have_one_each() -> Result<()> {
    let stage = Stage::trusting().await?;
    let each = stage.issue(&["a.example", "b.example", "A.example"]).await?;
    ensure!(each["results"].as_array().context("results")?.len() == 2, "a name twice is one name: {each:#}");
    ensure!(stage.proxy.issued_for(&["a.example"]).len() == 1);
    ensure!(stage.proxy.issued_for(&["b.example"]).len() == 1);

    let shared = stage.issue(&["--san", "y.example", "x.example"]).await?;
    let [result] = &shared["results"].as_array().context("results")?[..] else {
        anyhow::bail!("one certificate, one result: {shared:#}");
    };
    ensure!(
        result["certificates"][0]["names"] == serde_json::json!(["x.example", "y.example"]),
        "{result:#}"
    );
    ensure!(stage.proxy.issued_for(&["x.example", "y.example"]).len() == 1);
    // A name of the set is served already, alone or in any order.
    stage.proxy.reset();
    for names in [&["y.example"][..], &["--san", "x.example", "y.example"]] {
        let again = stage.issue(names).await?;
        ensure!(again["results"][0]["status"] == "valid", "{again:#}");
    }
    ensure!(stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_set_that_is_issued_later_takes_nothing_from_a_site() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["--dual", "--tag", "eu", "a.example"]).await?;
    stage.json(&["site", "add", "c.example", "d.example"]).await?;
    stage.proxy.reset();
    let before = stage.json(&["site", "show", "a.example"]).await?;
    for (names, taken) in [
        (&["a.example", "b.example"][..], "a.example"),
        (&["b.example", "d.example"], "d.example"),
        // Theirs, but with certificates of their own.
        (&["c.example", "d.example"], "c.example"),
    ] {
        let line = [&["--json", "issue", "--san"], names].concat();
        let refused = stage.signpost.issuer(&line).await?.with_code(1)?.json()?;
        let message = refused["message"].as_str().context("a message")?;
        ensure!(refused["error"] == "conflict" && message.contains(taken), "{names:?}: {refused:#}");
        ensure!(message.contains("belongs to the site"), "{names:?}: {message}");
    }
    ensure!(stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());
    ensure!(stage.json(&["site", "show", "a.example"]).await? == before, "it was touched");
    stage.signpost.issuer(&["site", "show", "b.example"]).await?.with_code(4)?;
    // One of them alone is its own.
    stage.issue(&["d.example"]).await?;
    ensure!(stage.proxy.issued_for(&["d.example"]).len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_may_be_written_as_its_owner_writes_it() -> Result<()> {
    const WRITTEN: &str = "상점.example.kr";
    const ORDERED: &str = "xn--hg4bs7k.example.kr";
    let stage = Stage::trusting().await?;
    let result = stage.issue(&[WRITTEN]).await?;
    let result = &result["results"][0];
    ensure!(result["names"] == serde_json::json!([ORDERED]), "{result:#}");
    ensure!(result["names_unicode"] == serde_json::json!([WRITTEN]), "{result:#}");
    ensure!(stage.proxy.issued_for(&[ORDERED]).len() == 1);
    let table = stage.signpost.issuer(&["status", ORDERED]).await?.success()?;
    ensure!(table.stdout.contains(WRITTEN), "{}", table.stdout);
    let again = stage.issue(&[ORDERED]).await?;
    ensure!(again["results"][0]["status"] == "valid", "{again:#}");
    Ok(())
}

/// The rules of the CA that a name can be held against without asking anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_ca_accepts_is_refused_before_anything_is_stored_or_sent() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("ca.pebble.public", true)?;
    let long_label = format!("{}.example.com", "a".repeat(64));
    let long_name = format!("{}.com", vec!["a".repeat(60); 5].join("."));
    let rules = [
        ("", "empty"),
        ("localhost", "needs-dot"),
        ("shop.example.com.", "trailing-dot"),
        ("shop..example.com", "empty-label"),
        ("my_shop.example.com", "invalid-character"),
        ("my shop.example.com", "invalid-character"),
        (&long_label, "label-length"),
        (&long_name, "name-length"),
        ("a.b.c.d.e.f.g.h.i.example.com", "label-count"),
        ("-shop.example.com", "hyphen-at-edge"),
        ("ab--cd.example.com", "reserved-hyphens"),
        ("xn--a.example.com", "malformed-idn"),
        ("1.1.1.1", "ip-address"),
        ("2606:4700:4700::1111", "ip-address"),
        ("*.example.com", "wildcard-needs-dns-01"),
        ("www.*.example.com", "wildcard-position"),
        ("www.www.example.com", "repeated-labels"),
        ("shop.internal-zone", "unknown-top-level-domain"),
        ("co.uk", "public-suffix"),
    ];
    for (name, rule) in rules {
        // With a good name beside it: nothing of the request is done.
        let run = stage.run_issue(&["--", "good.example.com", name]).await?.with_code(2)?;
        let answer = run.json()?;
        ensure!(answer["error"] == "names", "{name:?}: {answer:#}");
        let [refused] = &answer["names"].as_array().context("names")?[..] else {
            anyhow::bail!("{name:?}: only the bad one is named: {answer:#}");
        };
        ensure!(refused["name"] == name && refused["rule"] == rule, "{name:?}: {refused:#}");
        ensure!(run.stderr.contains(rule), "{name:?}: {}", run.stderr);
    }
    // Every bad name is named, not only the first.
    let all: Vec<&str> = ["issue", "--"].into_iter().chain(rules.map(|(name, _)| name)).collect();
    let answer = stage.signpost.issuer(&[&["--json"], &all[..]].concat()).await?.with_code(2)?.json()?;
    ensure!(answer["names"].as_array().context("names")?.len() == rules.len(), "{answer:#}");

    // Names for tests and documentation are refused where the CA is a public one.
    stage.signpost.set("ca.letsencrypt.agree_to_terms", true)?;
    let answer = stage.issue_ending(2, &["--ca", "letsencrypt", "shop.example"]).await?;
    ensure!(answer["names"][0]["rule"] == "unknown-top-level-domain", "{answer:#}");

    ensure!(stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());
    let records: u64 = redis::from_redis_value(stage.redis.command(&["DBSIZE"]).await?)?;
    ensure!(records == 0, "{records} records were made");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_issuers_at_once_get_one_certificate() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let other = stage.signpost.another_node()?;
    for round in 0..5 {
        let name = format!("r{round}.example");
        let line = ["--json", "issue", "--dual", &name];
        let (one, two) = tokio::try_join!(stage.signpost.issuer(&line), other.issuer(&line))?;
        let (one, two) = (one.success()?.json()?, two.success()?.json()?);
        ensure!(one["results"][0]["certificates"] == two["results"][0]["certificates"], "{one:#}{two:#}");
        ensure!(stage.proxy.orders_for(&[&name]).len() == 2, "{:#?}", stage.proxy.orders_for(&[&name]));
        ensure!(stage.proxy.issued_for(&[&name]).len() == 2);
    }
    Ok(())
}

/// One of a pair can't be had: the other is served, and the next run orders only what lacks.
#[tokio::test(flavor = "multi_thread")]
async fn the_half_of_a_pair_that_could_be_had_is_served() -> Result<()> {
    let stage = Stage::trusting().await?;
    let refusal = Action::problem(400, "badCSR", "no RSA today");
    stage.proxy.add_rule(Rule::on(Endpoint::Finalize).for_name("half.example").nth(2).does(refusal));
    let failed = stage.issue_ending(1, &["--dual", "half.example"]).await?;
    ensure!(failed["results"][0]["status"] == "failed", "{failed:#}");
    let stored = Stored::open(stage.signpost.config_path()).await?;
    ensure!(stored.served("half.example").await?.len() == 1);
    let second = stage.issue(&["--dual", "half.example"]).await?;
    ensure!(key_types(&second["results"][0]) == ["ecdsa-p256", "rsa-2048"], "{second:#}");
    ensure!(stage.proxy.issued_for(&["half.example"]) == ["ecdsa-p256", "rsa-2048"]);
    Ok(())
}

fn key_types(result: &Value) -> Vec<String> {
    let certificates = result["certificates"].as_array().into_iter().flatten();
    certificates.map(|one| one["key_type"].as_str().unwrap_or_default().to_owned()).collect()
}

fn serial(result: &Value, slot: &str) -> Option<String> {
    let mut certificates = result["certificates"].as_array().into_iter().flatten();
    let found = certificates.find(|one| one["slot"] == slot)?;
    Some(found["serial"].as_str()?.to_owned())
}
