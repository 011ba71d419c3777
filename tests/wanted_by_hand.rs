//! What is asked for by hand is what is done, and nothing beside it; what is wanted otherwise takes effect.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    daemon::{list, seconds},
    stage::Stage,
    stored::Stored,
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_mistyped_is_neither_renewed_nor_added() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["shop.example"]).await?;
    stage.proxy.reset();
    for line in [
        &["renew", "shpo.example"][..],
        &["renew", "--force", "shop.example", "shpo.example"],
        &["retry", "shpo.example"],
        &["site", "remove", "shop.example", "shpo.example"],
        &["site", "pause", "shpo.example"],
    ] {
        let run = stage.signpost.issuer(&[&["--json"], line].concat()).await?.with_code(4)?;
        ensure!(run.json()?["error"] == "not-found", "{line:?}: {}", run.stdout);
        ensure!(run.stderr.contains("shpo.example"), "{line:?}: {}", run.stderr);
    }
    ensure!(stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());
    ensure!(stage.keys("sp:{p*}:site:*").await?.len() == 1 && stage.keys("sp:name:*").await?.len() == 1);
    let shown = stage.json(&["site", "show", "shop.example"]).await?;
    ensure!(shown["wanted"]["paused"].is_null(), "{shown:#}");
    // Ended accounts order nothing any more, so that is asked about, too.
    let refused = stage.signpost.issuer(&["--json", "account", "deactivate"]).await?.with_code(2)?;
    ensure!(refused.json()?["error"] == "confirmation", "{}", refused.stdout);
    ensure!(stage.proxy.requests().of(Endpoint::Account) == 0, "{}", stage.proxy.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_fails_leaves_no_site_behind() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["good.example"]).await?;
    let refusal = Answer::problem(400, "rejectedIdentifier", "policy forbids it");
    for name in ["bad.example", "worse.example"] {
        let rule = Rule::on(Endpoint::NewOrder).for_name(name);
        stage.proxy.add_rule(rule.does(Action::Answer(refusal.clone())));
    }
    // Again and again.
    for _ in 0..3 {
        let run = stage.run_issue(&["bad.example"]).await?.with_code(1)?;
        ensure!(run.stderr.contains("no site was added"), "{}", run.stderr);
    }
    stage.run_issue(&["--san", "bad.example", "worse.example"]).await?.with_code(1)?;
    for name in ["bad.example", "worse.example"] {
        stage.signpost.issuer(&["status", name]).await?.with_code(4)?;
        stage.signpost.issuer(&["site", "show", name]).await?.with_code(4)?;
        ensure!(
            stage.redis.text_of(&format!("sp:name:{name}")).await.is_err(),
            "{name} is kept for somebody"
        );
    }
    let listed = stage.json(&["site", "list"]).await?;
    ensure!(listed["sites"].as_array().is_some_and(|sites| sites.len() == 1), "{listed:#}");
    // What was there before stays, whatever fails.
    let failing = Rule::on(Endpoint::NewOrder).for_name("good.example");
    stage.proxy.add_rule(failing.does(Action::Answer(refusal)));
    stage.run_issue(&["--key-type", "rsa-2048", "good.example"]).await?.with_code(1)?;
    stage.signpost.issuer(&["site", "show", "good.example"]).await?.success()?;
    // Put right, they are issued.
    stage.proxy.clear_rules();
    stage.issue(&["bad.example"]).await?;
    stage.issue(&["worse.example"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_otherwise_is_ordered_anew_and_told_beforehand() -> Result<()> {
    let stage = with_production().await?;
    stage.json(&["account", "create", "--ca", "production", "--name", "second"]).await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "--dual", "shop.example"]).await?;
    stage.json(&["site", "add", "other.example"]).await?;
    for name in ["shop.example", "other.example"] {
        stage.until_valid(name).await?;
    }
    stage.until_idle().await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    for (what, line, orders) in [
        ("ca: pebble -> production", &["--ca", "production"][..], 2),
        ("account: default -> second", &["--account", "second"], 2),
        ("profile: none -> shortlived", &["--profile", "shortlived"], 2),
        ("profile: shortlived -> none", &["--profile", ""], 2),
        (
            "key_types: ecdsa-p256+rsa-2048 -> ecdsa-p384+rsa-2048",
            &["--key-type", "ecdsa-p384", "--key-type", "rsa-2048"],
            1,
        ),
    ] {
        stage.proxy.reset();
        let before = stage.serial("shop.example").await?;
        let set = stage.json(&[&["site", "set", "shop.example"], line].concat()).await?;
        let set = &set["sites"][0];
        ensure!(list(&set["differences"]) == [what], "{set:#}");
        ensure!(list(&set["reissued"]) == ["shop.example"], "{what}: {set:#}");
        ensure!(!stored.served("shop.example").await?.is_empty(), "{what}: it is served all along");
        stage
            .until_site("shop.example", what, |site| {
                site["state"] == "valid" && site["certificates"][0]["serial"] != json!(before)
            })
            .await?;
        stage.until_idle().await?;
        ensure!(
            stage.proxy.issued_for(&["shop.example"]).len() == orders,
            "{what}: {:?}",
            stage.proxy.orders()
        );
        ensure!(stage.proxy.orders_for(&["other.example"]).is_empty(), "{what}: its neighbour was ordered");
        // Asked again, nothing is lacking.
        stage.proxy.reset();
        stage.json(&["retry", "shop.example"]).await?;
        stage.until_idle().await?;
        ensure!(stage.proxy.orders().is_empty(), "{what}: {:?}", stage.proxy.orders());
    }
    // A key that is wanted no longer is served no longer, and what needs no order makes none.
    for line in [&["--key-type", "ecdsa-p384"][..], &["--tag", "eu"], &["--challenge", "auto"]] {
        let set = stage.json(&[&["site", "set", "shop.example"], line].concat()).await?;
        ensure!(set["sites"][0]["reissued"] == json!([]), "{line:?}: {set:#}");
    }
    stage.until_site("shop.example", "one key", |site| list_len(&site["certificates"]) == 1).await?;
    ensure!(stage.proxy.orders().is_empty(), "{:?}", stage.proxy.orders());

    // A file says the same, and its plan says so first.
    let path = stage.signpost.write("sites.ndjson", "{\"names\":[\"filed.example\"],\"ca\":\"pebble\"}\n")?;
    let path = path.to_str().context("a path is text")?.to_owned();
    stage.json(&["apply", &path]).await?;
    stage.until_valid("filed.example").await?;
    stage.signpost.write("sites.ndjson", "{\"names\":[\"filed.example\"],\"ca\":\"production\"}\n")?;
    stage.proxy.reset();
    for verb in ["plan", "apply"] {
        let planned = stage.json(&[verb, &path]).await?;
        ensure!(planned["changed"] == 1 && planned["orders"] == 1, "{verb}: {planned:#}");
        ensure!(list(&planned["changes"][0]["reissued"]) == ["filed.example"], "{verb}: {planned:#}");
    }
    stage.until_idle().await?;
    ensure!(stage.proxy.issued_for(&["filed.example"]).len() == 1, "{:?}", stage.proxy.orders());
    // By hand it is asked of the site's own CA.
    let renewed = stage.json(&["renew", "--force", "filed.example"]).await?;
    ensure!(renewed["ca"] == "production", "{renewed:#}");
    Ok(())
}

fn list_len(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_added_again_is_not_tried_sooner() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[0.2, 0.2, 3600.0]))?;
    let refusal = Action::Answer(Answer::problem(400, "rejectedIdentifier", "policy forbids it"));
    let asked = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name("bad.example").does(refusal));
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "bad.example"]).await?;
    let far = |site: &Value| {
        let next = site["failure"]["next"].as_str().and_then(|next| next.parse::<jiff::Timestamp>().ok());
        next.is_some_and(|next| next.duration_since(jiff::Timestamp::now()).as_secs() > 600)
    };
    let failed = stage.until_site("bad.example", "it has failed for long", far).await?;
    stage.until_idle().await?;
    let (orders, next) = (asked.count(), failed["failure"]["next"].clone());

    for line in [
        &["site", "add", "bad.example"][..],
        &["site", "add", "bad.example", "good.example", "--san", "grouped"],
    ] {
        stage.json(&["site", "remove", "bad.example", "--yes"]).await?;
        stage.signpost.issuer(&["status", "bad.example"]).await?.with_code(4)?;
        stage.json(line).await?;
        stage.until_idle().await?;
        ensure!(asked.count() == orders, "{line:?}: the CA was asked {} times", asked.count());
    }
    // What failed is left out, and the other name does not wait for it.
    let site =
        stage.until_site("good.example", "the other is issued", |site| site["state"] == "degraded").await?;
    ensure!(site["left_out"]["bad.example"]["next"] == next, "{site:#}");
    stage.json(&["site", "remove", "bad.example", "good.example"]).await?;
    let again = stage.json(&["site", "add", "bad.example"]).await?;
    ensure!(again["sites"][0]["change"] == "added", "{again:#}");
    let site = stage.until_site("bad.example", "it goes on", |site| site["state"] == "failing").await?;
    ensure!(
        site["failure"]["next"] == next && site["failure"]["count"] == failed["failure"]["count"],
        "{site:#}"
    );
    stage.until_idle().await?;
    ensure!(asked.count() == orders, "the CA was asked {} times", asked.count());
    // A person may have it tried now.
    stage.proxy.clear_rules();
    stage.json(&["retry", "bad.example"]).await?;
    stage.until_valid("bad.example").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_and_what_it_covers_have_certificates_of_their_own() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let names = ["*.shop.example", "shop.example", "www.shop.example"];
    let line = [&["site", "add", "--san", "grouped", "--challenge", "dns-01"], &names[..]].concat();
    // Where nobody could write the record, nothing is taken that only a record proves.
    for line in [
        &line[..],
        &["site", "add", "--challenge", "auto", "*.shop.example"],
        &["site", "add", "--challenge", "dns-01", "plain.example"],
        &["issue", "--challenge", "dns-01", "plain.example"],
    ] {
        let refused = stage.signpost.issuer(line).await?.with_code(2)?;
        ensure!(
            refused.stderr.contains("no [dns.NAME] section is configured"),
            "{line:?}: {}",
            refused.stderr
        );
    }
    stage.signpost.set("dns.own.provider", "exec")?;
    stage.signpost.set("dns.own.command", vec!["/bin/true".to_owned()])?;
    stage.json(&line).await?;
    let shown = stage.json(&["site", "show", "shop.example"]).await?;
    let groups = shown["groups"].as_array().context("groups")?;
    let of_group = |number: usize| list(&groups[number]["names"]);
    ensure!(groups.len() == 2, "{shown:#}");
    ensure!(
        of_group(0) == ["*.shop.example", "shop.example"] && of_group(1) == ["www.shop.example"],
        "{shown:#}"
    );
    let line = ["issue", "--san", "--challenge", "dns-01", "*.x.example", "www.x.example"];
    let refused = stage.signpost.issuer(&line).await?.with_code(2)?;
    ensure!(refused.stderr.contains("www.x.example is covered by *.x.example"), "{}", refused.stderr);
    Ok(())
}

/// The stage with its CA under a second name: what is of one is not of the other.
async fn with_production() -> Result<Stage> {
    let mut stage = Stage::trusting().await?;
    let directory = stage.proxy.directory_url();
    let roots = stage.proxy.trusted_roots_file().display().to_string();
    for (key, value) in [("directory", directory), ("trusted_roots_file", roots)] {
        stage.signpost.set(&format!("ca.production.{key}"), value)?;
    }
    stage.signpost.set("ca.production.agree_to_terms", true)?;
    stage.signpost.set("ca.pebble.default", true)?;
    let profiles = json!({ "default": "five years", "shortlived": "six days" });
    let described = Action::change_object(move |directory| directory["meta"]["profiles"] = profiles.clone());
    stage.proxy.add_rule(Rule::on(Endpoint::Directory).does(described));
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_an_order_is_wanted_from_now_on() -> Result<()> {
    let stage = with_production().await?;
    let wanted = async |name: &str| -> Result<Value> {
        let wanted = stage.json(&["site", "show", name]).await?["wanted"].clone();
        Ok(json!([wanted["ca"], wanted["account"], wanted["profile"]]))
    };
    let line = ["--account", "second", "--profile", "shortlived", "shop.example"];
    // A misspelt account is none, whoever names it, and the CA hears nothing of it.
    let path =
        stage.signpost.write("accounts.ndjson", "{\"names\":[\"a.example\"],\"account\":\"second\"}\n")?;
    let path = path.to_str().context("a path is text")?.to_owned();
    stage.json(&["site", "add", "there.example"]).await?;
    for (code, line) in [
        (2, [&["issue"], &line[..]].concat()),
        (2, [&["site", "add"], &line[..]].concat()),
        (2, vec!["site", "set", "there.example", "--account", "second"]),
        (2, vec!["renew", "there.example", "--account", "second"]),
        (1, vec!["plan", &path]),
        (1, vec!["apply", &path]),
    ] {
        let refused = stage.signpost.issuer(&line).await?.with_code(code)?;
        let told = format!("{}{}", refused.stdout, refused.stderr);
        ensure!(told.contains("`issuer account create --ca pebble --name second`"), "{line:?}: {told}");
    }
    ensure!(stage.json(&["account", "list"]).await?["accounts"] == json!([]), "an account was made");
    for (ca, name) in [("pebble", "second"), ("production", "second"), ("production", "third")] {
        stage.json(&["account", "create", "--ca", ca, "--name", name]).await?;
    }
    let made = stage.issue(&line).await?;
    let of = |document: &Value| json!([document["results"][0]["ca"], document["results"][0]["account"]]);
    ensure!(of(&made) == json!(["pebble", "second"]), "{made:#}");
    ensure!(wanted("shop.example").await? == json!(["pebble", "second", "shortlived"]));
    // Nothing is lacking, and the site's own account is asked, not the default one.
    stage.proxy.reset();
    let again = stage.issue(&line).await?;
    ensure!(
        again["results"][0]["status"] == "valid" && of(&again) == json!(["pebble", "second"]),
        "{again:#}"
    );
    ensure!(stage.proxy.orders().is_empty());
    for (line, expected) in [
        (&["renew", "--ca", "production", "shop.example"][..], json!(["production", "second", "shortlived"])),
        (&["issue", "--account", "third", "shop.example"], json!(["production", "third", "shortlived"])),
        (&["issue", "--profile", "", "shop.example"], json!(["production", "third", null])),
    ] {
        stage.proxy.reset();
        let before = stage.serial("shop.example").await?;
        let run = stage.signpost.issuer(&[&["--json"], line].concat()).await?.success()?;
        ensure!(run.stderr.contains("wanted from now on"), "{line:?}: {}", run.stderr);
        let done = run.json()?;
        ensure!(of(&done) == json!([expected[0], expected[1]]), "{line:?}: {done:#}");
        ensure!(wanted("shop.example").await? == expected, "{line:?}");
        ensure!(stage.serial("shop.example").await? != before, "{line:?}: it was not ordered anew");
        ensure!(stage.proxy.issued_for(&["shop.example"]).len() == 1, "{:?}", stage.proxy.orders());
        // Said again, nothing is lacking.
        stage.proxy.reset();
        stage.json(line).await?;
        ensure!(stage.proxy.orders().is_empty(), "{line:?}: {:?}", stage.proxy.orders());
    }
    // So is everything else that is said of it: it is said and told, and what was there is not called new.
    let line = ["issue", "--key-type", "rsa-2048", "--tag", "eu", "--challenge", "auto", "shop.example"];
    let run = stage.signpost.issuer(&line).await?.success()?;
    for said in ["key_types: ecdsa-p256 -> ecdsa-p256+rsa-2048", "tags:  -> eu", "challenge: http-01 -> auto"]
    {
        ensure!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
    for (status, kind) in [("valid, from the store", "ecdsa-p256"), ("issued", "rsa-2048")] {
        let is_so = |line: &str| line.contains(status) && line.contains(kind);
        ensure!(run.stdout.lines().any(is_so), "{}", run.stdout);
    }
    let told = stage.events(&["site-changed"]).await?;
    ensure!(
        told.iter().any(|event| event["what"].as_str().is_some_and(|what| what.contains("-> eu"))),
        "{told:#?}"
    );
    // What can't be is refused, and changes nothing.
    stage.proxy.reset();
    for line in [
        &["issue", "--ca", "nowhere", "shop.example"][..],
        &["renew", "--account", "a b", "shop.example"],
        &["issue", "--profile", "a b", "new.example"],
        &["renew", "--all", "--ca", "production"],
        &["check", "--ca", "nowhere", "shop.example"],
        &["check", "--account", "nobody", "shop.example"],
        &["check", "--account", "nobody", "new.example"],
        &["check", "--ca", "production", "--account", "nobody", "new.example"],
        &["check", "--account", "a b", "new.example"],
        &["account", "create", "--name", "a b"],
        &["issue", "--slots", "0", "new.example"],
        &["status", "--limit", "0"],
        &["site", "rollback", "--hold-hours", "9000", "shop.example"],
    ] {
        stage.signpost.issuer(line).await?.with_code(2).with_context(|| format!("{line:?}"))?;
    }
    for line in [&["site", "list", "--tenant", "nobody"][..], &["events", "--site", "shpo.example"]] {
        stage.signpost.issuer(line).await?.with_code(4).with_context(|| format!("{line:?}"))?;
    }
    ensure!(wanted("shop.example").await? == json!(["production", "third", null]));
    ensure!(stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());
    // A name is looked at as the CA of its site would, and another as the default one.
    let checked = stage.signpost.issuer(&["--json", "check", "shop.example", "new.example"]).await?.json()?;
    let seen: Vec<&Value> =
        checked["names"].as_array().into_iter().flatten().map(|name| &name["ca"]).collect();
    ensure!(seen == ["production", "pebble"] && checked["ca"].is_null(), "{checked:#}");
    let retried = stage.json(&["retry", "--ca", "production", "--new-order"]).await?;
    ensure!(retried["retried"] == 0 && retried["ca"] == "production", "{retried:#}");

    // A profile that the CA lacks is said when it is wished for, wherever that is.
    let set = stage.json(&["site", "set", "shop.example", "--profile", "eternal"]).await?;
    let warning = set["sites"][0]["warnings"][0].as_str().unwrap_or_default().to_owned();
    ensure!(warning.contains("\"eternal\"") && warning.contains("shortlived"), "{set:#}");
    let lines = ["a", "b"].map(|name| json!({ "names": [format!("{name}.example")], "profile": "eternal" }));
    let path = stage.signpost.write("sites.ndjson", format!("{}\n{}\n", lines[0], lines[1]))?;
    let planned = stage.json(&["plan", path.to_str().context("a path is text")?]).await?;
    ensure!(planned["warnings"].as_array().is_some_and(|told| told.len() == 1), "{planned:#}");
    let fine = stage.json(&["site", "set", "shop.example", "--profile", "shortlived"]).await?;
    ensure!(fine["sites"][0]["warnings"] == json!([]), "{fine:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_wants_meanwhile_is_not_forgotten_and_a_site_is_revoked_whole() -> Result<()> {
    let stage = with_production().await?;
    let orders = Rule::on(Endpoint::NewOrder).below("example");
    let late = stage.proxy.add_rule(orders.does(Action::Delay(std::time::Duration::from_millis(1500))));
    let refusal = Answer::problem(400, "rejectedIdentifier", "policy forbids it");
    stage.proxy.add_rule(Rule::on(Endpoint::Finalize).below("example").does(Action::Answer(refusal)));
    let running = stage.signpost.start_run("issuer", &["issue", "wanted.example"])?;
    harness::deadline::until_true("it is ordered", harness::daemon::SOON, || async { late.count() == 1 })
        .await?;
    let added = stage.json(&["site", "add", "wanted.example"]).await?;
    ensure!(added["sites"][0]["change"] == "unchanged", "{added:#}");
    let run = running.wait(harness::daemon::SOON).await?.with_code(1)?;
    ensure!(!run.stderr.contains("no site was added"), "{}", run.stderr);
    stage.signpost.issuer(&["site", "show", "wanted.example"]).await?.success()?;
    stage.run_issue(&["unwanted.example"]).await?.with_code(1)?;
    stage.signpost.issuer(&["site", "show", "unwanted.example"]).await?.with_code(4)?;

    stage.proxy.clear_rules();
    let added = stage.json(&["site", "add", "--ca", "production", "one.example", "two.example"]).await?;
    let id = added["sites"][0]["site"].as_str().context("an id")?.to_owned();
    stage.issue(&["one.example", "two.example"]).await?;
    let revoked = stage.json(&["revoke", &id, "--reason", "keyCompromise"]).await?;
    ensure!(list_len(&revoked["revoked"]) == 2 && list_len(&revoked["names"]) == 2, "{revoked:#}");
    ensure!(revoked["revoked"][0]["ca"] == "production", "{revoked:#}");
    ensure!(stage.proxy.requests().of(Endpoint::Revoke) == 2, "{}", stage.proxy.requests());
    for name in ["one.example", "two.example"] {
        ensure!(stage.site(name).await?["state"] == "revoked");
    }
    Ok(())
}
