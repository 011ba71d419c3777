//! Sites as they are wanted: added, changed, shown, listed, paused, removed. The daemon follows, and orders nothing that it
//! has already.

use anyhow::{Context as _, Result, ensure};
use harness::{
    daemon::{SOON, list},
    deadline::until_true,
    pull::Pull,
    stage::Stage,
    stored::Stored,
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_added_once_and_changed_as_it_is_told() -> Result<()> {
    let stage = Stage::trusting().await?;
    let added = stage.json(&["site", "add", "shop.example", "--tag", "eu"]).await?;
    ensure!(added["sites"][0]["change"] == "added", "{added:#}");
    let again = stage.json(&["site", "add", "shop.example", "--tag", "eu"]).await?;
    ensure!(again["sites"][0]["change"] == "unchanged", "{again:#}");
    let other = stage.signpost.issuer(&["--json", "site", "add", "shop.example", "--tag", "us"]).await?;
    ensure!(other.with_code(1)?.json()?["error"] == "conflict", "other settings are no addition");
    for names in [&["shop.example", "blog.example"][..], &["blog.example", "shop.example", "x.example"]] {
        let line = [&["--json", "site", "add"], names].concat();
        let refused = stage.signpost.issuer(&line).await?.with_code(1)?;
        let message = refused.json()?["message"].as_str().context("a message")?.to_owned();
        ensure!(message.contains("shop.example") && message.contains("belongs to"), "{message}");
    }
    stage.signpost.issuer(&["site", "show", "blog.example"]).await?.with_code(4)?;

    let daemon = stage.start_daemon()?;
    stage.until_valid("shop.example").await?;
    let set = stage.json(&["site", "set", "shop.example", "--tag", "us", "--dual"]).await?;
    let differences = list(&set["sites"][0]["differences"]).join("; ");
    ensure!(differences.contains("tags: eu -> us") && differences.contains("ecdsa-p256+rsa-2048"), "{set:#}");
    stage
        .until_site("shop.example", "both certificates are there", |site| {
            site["certificates"].as_array().is_some_and(|all| all.len() == 2)
        })
        .await?;
    ensure!(
        stage.proxy.issued_for(&["shop.example"]) == ["ecdsa-p256", "rsa-2048"],
        "only what was lacking is ordered: {:?}",
        stage.proxy.issued_for(&["shop.example"])
    );

    stage.json(&["site", "set", "shop.example", "--add-name", "www.shop.example"]).await?;
    stage.until_valid("www.shop.example").await?;
    let shown = stage.json(&["site", "show", "www.shop.example"]).await?;
    ensure!(list(&shown["wanted"]["names"]) == ["shop.example", "www.shop.example"], "{shown:#}");
    ensure!(shown["groups"].as_array().is_some_and(|groups| groups.len() == 2), "one each: {shown:#}");
    let listed = stage.json(&["site", "list", "--tag", "us"]).await?;
    ensure!(listed["sites"].as_array().is_some_and(|sites| sites.len() == 2), "{listed:#}");
    let page = stage.signpost.issuer(&["site", "list", "--limit", "1"]).await?.success()?;
    ensure!(page.stdout.contains("1 shown, of 2 in all; more: issuer site list --after"), "{}", page.stdout);
    let id = shown["site"].as_str().context("an id")?;
    ensure!(stage.json(&["site", "show", id]).await?["site"] == id);
    let status = stage.json(&["status", id]).await?;
    ensure!(status["sites"].as_array().is_some_and(|sites| sites.len() == 2), "{status:#}");
    let status = stage.json(&["status"]).await?;
    ensure!(status["fleet"]["without_certificate"] == 0, "{status:#}");
    let none = stage.json(&["site", "list", "--tag", "eu"]).await?;
    ensure!(none["sites"] == json!([]), "{none:#}");
    ensure!(stage.proxy.issued_for(&["shop.example"]).len() == 2, "its neighbour costs it nothing");
    daemon.process.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_new_sites_get_depends_on_where_they_come_from() -> Result<()> {
    let stage = Stage::trusting().await?;
    let wanted = async |line: &[&str]| -> Result<Value> {
        let line = [&["site", "add"], line].concat();
        Ok(stage.json(&line).await?["sites"][0]["wanted"].clone())
    };
    let new = wanted(&["new.example"]).await?;
    ensure!(new["redirect"] == true && new["hsts"].is_null(), "{new:#}");
    let imported = wanted(&["old.example", "--imported"]).await?;
    ensure!(imported["redirect"] == false && imported["hsts"].is_null(), "{imported:#}");
    let asked = wanted(&["asked.example", "--imported", "--redirect", "on", "--hsts", "60"]).await?;
    ensure!(asked["redirect"] == true && asked["hsts"]["max_age_seconds"] == 60, "{asked:#}");

    // A tenant whose first site was imported is one that was there before; what it gets is for it to say.
    wanted(&["a.example", "--imported", "--tenant", "before"]).await?;
    let second = wanted(&["b.example", "--tenant", "before"]).await?;
    ensure!(second["redirect"] == false && second["hsts"].is_null(), "{second:#}");
    wanted(&["c.example", "--tenant", "fresh"]).await?;
    let fresh = wanted(&["d.example", "--tenant", "fresh"]).await?;
    ensure!(fresh["redirect"] == true && fresh["hsts"].is_null(), "{fresh:#}");
    // A misspelt account is none, and a word that no site could name is no tenant.
    for line in [
        &["tenant", "set", "before", "--account", "theirs"][..],
        &["tenant", "set", "before", "--account", "x y"],
        &["tenant", "set", "a b"],
    ] {
        stage.signpost.issuer(line).await?.with_code(2)?;
    }
    stage.json(&["account", "create", "--name", "theirs"]).await?;
    stage.json(&["tenant", "set", "before", "--redirect", "on", "--account", "theirs"]).await?;
    let third = wanted(&["e.example", "--tenant", "before"]).await?;
    ensure!(third["redirect"] == true && third["account"] == "theirs", "{third:#}");
    // It says nothing of sites that are there.
    let kept = stage.json(&["site", "show", "b.example"]).await?;
    ensure!(kept["wanted"]["redirect"] == false, "{kept:#}");
    let of_tenant = stage.json(&["site", "list", "--tenant", "before"]).await?;
    ensure!(of_tenant["sites"].as_array().is_some_and(|sites| sites.len() == 3), "{of_tenant:#}");
    let kept = stage.signpost.issuer(&["tenant", "remove", "before"]).await?.with_code(1)?;
    ensure!(kept.stderr.contains("3 sites name the tenant"), "{}", kept.stderr);
    stage.json(&["tenant", "set", "nobodys"]).await?;
    stage.json(&["tenant", "remove", "nobodys"]).await?;
    stage.signpost.issuer(&["tenant", "remove", "nobodys"]).await?.with_code(4)?;
    let tenants = stage.json(&["tenant", "list"]).await?;
    ensure!(tenants["tenants"].as_array().is_some_and(|tenants| tenants.len() == 2), "{tenants:#}");

    // What was said can be taken back, and what becomes of it is said: nobody works here.
    let run = stage.signpost.issuer(&["site", "add", "tagged.example", "--tag", "eu"]).await?.success()?;
    ensure!(run.stdout.contains("no `issuer run` has reported"), "{}", run.stdout);
    let cleared = stage.json(&["site", "set", "tagged.example", "--tag", ""]).await?;
    ensure!(cleared["sites"][0]["wanted"].get("tags").is_none_or(|tags| *tags == json!([])), "{cleared:#}");
    let run = stage.signpost.issuer(&["site", "set", "tagged.example", "--dual"]).await?.success()?;
    ensure!(run.stdout.contains("ordered: tagged.example"), "{}", run.stdout);
    let shown = stage.signpost.issuer(&["status"]).await?.success()?.stdout;
    ensure!(shown.contains("NOBODY WORKS: no `issuer run`"), "{shown}");
    stage.json(&["pause", "issuance", "--tag", "us"]).await?;
    let run = stage.signpost.issuer(&["site", "add", "us.example", "--tag", "us"]).await?.success()?;
    ensure!(run.stdout.contains("`issuer resume issuance --tag us`"), "{}", run.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_not_ordered_for_its_neighbours_sake() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    // Five names in certificates of at most two.
    stage.signpost.set("ca.pebble.names_per_certificate", 2)?;
    let _daemon = stage.start_daemon()?;
    let five = ["a.example", "b.example", "c.example", "d.example", "e.example"];
    stage.json(&[&["site", "add", "--san", "grouped"], &five[..]].concat()).await?;
    for name in five {
        stage.until_valid(name).await?;
    }
    let ordered = |stage: &Stage| -> Vec<Vec<String>> {
        let mut ordered: Vec<_> = stage.proxy.orders().into_iter().map(|order| order.names).collect();
        ordered.sort();
        ordered
    };
    let first = [vec!["a.example", "b.example"], vec!["c.example", "d.example"], vec!["e.example"]];
    ensure!(ordered(&stage) == first, "{:?}", ordered(&stage));

    // A name that goes is not ordered away, one that comes changes the group that has room for it.
    stage.proxy.reset();
    let set = stage.json(&["site", "set", "a.example", "--remove-name", "d.example"]).await?;
    ensure!(set["sites"][0]["reissued"] == json!([]), "{set:#}");
    stage.signpost.issuer(&["status", "d.example"]).await?.with_code(4)?;
    let set = stage.json(&["site", "set", "a.example", "--add-name", "f.example"]).await?;
    ensure!(list(&set["sites"][0]["reissued"]) == ["c.example", "f.example"], "{set:#}");
    stage.until_valid("f.example").await?;
    stage.until_idle().await?;
    ensure!(ordered(&stage) == [["c.example", "f.example"]], "{:?}", ordered(&stage));

    // A group that loses all its names goes; the others stay.
    stage.proxy.reset();
    stage.json(&["site", "set", "a.example", "--remove-name", "e.example"]).await?;
    stage.until_idle().await?;
    ensure!(ordered(&stage).is_empty(), "{:?}", ordered(&stage));
    let stored = Stored::open(stage.signpost.config_path()).await?;
    ensure!(stored.served("e.example").await?.is_empty() && stored.served("d.example").await?.is_empty());
    for name in ["a.example", "b.example", "c.example", "f.example"] {
        ensure!(stored.served(name).await?.len() == 1, "{name} is served");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_site_is_parked_and_comes_back_as_it_was() -> Result<()> {
    let stage = Stage::trusting().await?;
    let role = Pull::start(&stage, &["--scope", "*"]).await?;
    let _daemon = stage.start_daemon()?;
    for name in ["shop.example", "other.example"] {
        stage.json(&["site", "add", name]).await?;
        stage.until_valid(name).await?;
        ensure!(role.status(name)? == 200, "{name}");
    }
    let serial = stage.serial("shop.example").await?;
    stage.json(&["site", "remove", "shop.example"]).await?;
    stage.signpost.issuer(&["status", "shop.example"]).await?.with_code(4)?;
    stage.signpost.issuer(&["site", "show", "shop.example"]).await?.with_code(4)?;
    ensure!(role.status("shop.example")? == 404 && role.status("other.example")? == 200);
    ensure!(!role.listing()?.contains("shop.example"), "it is listed");
    ensure!(stage.keys("sp:{p*}:cert:*").await?.len() == 2, "its certificate is kept");
    stage.until_idle().await?;

    stage.proxy.reset();
    stage.json(&["site", "add", "shop.example"]).await?;
    stage.until_valid("shop.example").await?;
    until_true("it is served again", SOON, || async { role.status("shop.example").is_ok_and(|s| s == 200) })
        .await?;
    ensure!(stage.serial("shop.example").await? == serial, "it is another certificate");
    stage.until_idle().await?;
    ensure!(stage.proxy.orders().is_empty(), "{:?}", stage.proxy.orders());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_time_nothing_of_a_site_is_left() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.grace_hours", 1.0 / 3600.0)?;
    stage.signpost.set("ca.pebble.names_per_certificate", 2)?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "kept.example"]).await?;
    stage.until_valid("kept.example").await?;
    let before = keys_of_sites(&stage).await?;
    stage.json(&["site", "add", "--san", "grouped", "--dual", "a.example", "b.example", "c.example"]).await?;
    for name in ["a.example", "c.example"] {
        stage.until_valid(name).await?;
    }
    // It has more names than this one.
    let refused = stage.signpost.issuer(&["--json", "site", "remove", "b.example"]).await?.with_code(2)?;
    let message = refused.json()?["message"].as_str().context("a message")?.to_owned();
    ensure!(message.contains("goes with a.example, c.example") && message.contains("--yes"), "{message}");
    ensure!(stage.json(&["site", "show", "a.example"]).await?["wanted"]["names"].as_array().is_some());
    stage.json(&["site", "remove", "b.example", "--yes"]).await?;
    until_true("nothing of it is left", SOON, || async {
        keys_of_sites(&stage).await.is_ok_and(|after| after == before)
    })
    .await
    .with_context(|| "keys are left over")?;
    for set in ["sites", "due", "failing", "parked"] {
        let mut members = 0;
        for key in stage.keys(&format!("sp:{{p*}}:{set}")).await? {
            members += redis::from_redis_value::<usize>(stage.redis.command(&["ZCARD", &key]).await?)?;
        }
        let expected = usize::from(matches!(set, "sites" | "due"));
        ensure!(members == expected, "{set}: {members}");
    }
    // Added again it is a new one.
    stage.proxy.reset();
    stage.json(&["site", "add", "--san", "grouped", "a.example", "b.example", "c.example"]).await?;
    stage.until_valid("a.example").await?;
    ensure!(stage.proxy.issued_for(&["a.example", "b.example"]).len() == 1);
    Ok(())
}

/// Everything that belongs to a site: records, certificates, orders, names. A record that only says that there was a site, for
/// frontends that were away meanwhile, is none.
async fn keys_of_sites(stage: &Stage) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for key in stage.keys("sp:{p*}:site:*").await? {
        let fields: Vec<String> = redis::from_redis_value(stage.redis.command(&["HKEYS", &key]).await?)?;
        let stays = ["groups", "wrev", "seq", "former", "unkept"];
        if !fields.iter().all(|field| stays.contains(&field.as_str())) {
            keys.push(key);
        }
    }
    for pattern in ["sp:{p*}:cert:*", "sp:{p*}:order:*", "sp:name:*"] {
        keys.extend(stage.keys(pattern).await?);
    }
    keys.sort();
    Ok(keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_site_is_left_alone_until_it_is_resumed() -> Result<()> {
    let stage = Stage::trusting().await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "shop.example"]).await?;
    stage.until_valid("shop.example").await?;
    stage.json(&["site", "pause", "shop.example"]).await?;
    stage.proxy.reset();
    // Nobody orders for it, however they ask; what it has is there.
    let issued = stage.issue(&["shop.example"]).await?;
    ensure!(issued["results"][0]["status"] == "valid", "{issued:#}");
    for line in [
        &["renew", "--force", "shop.example"][..],
        &["issue", "--dual", "shop.example"],
        &["retry", "shop.example"],
        &["retry", "--new-order", "shop.example"],
    ] {
        let run = stage.signpost.issuer(line).await?.with_code(3)?;
        ensure!(run.stderr.contains("`issuer site resume shop.example`"), "{line:?}: {}", run.stderr);
    }
    for line in [&["retry", "--all"][..], &["renew", "--all", "--force"]] {
        let run = stage.json(line).await?;
        ensure!(run["retried"] != 1 && run["asked"] != 1, "{line:?}: {run:#}");
    }
    stage.json(&["site", "set", "shop.example", "--key-type", "ecdsa-p256"]).await?;
    stage.json(&["site", "set", "shop.example", "--add-name", "www.shop.example"]).await?;
    stage.until_idle().await?;
    let paused = stage.site("shop.example").await?;
    ensure!(paused["state"] == "paused" && paused["certificates"][0]["revoked"] == false, "{paused:#}");
    ensure!(stage.proxy.requests().total() == 0, "the CA was asked: {}", stage.proxy.requests());
    let stored = Stored::open(stage.signpost.config_path()).await?;
    ensure!(stored.served("shop.example").await?.len() == 1, "what is served is served on");

    stage.json(&["site", "resume", "shop.example"]).await?;
    stage.until_valid("www.shop.example").await?;
    ensure!(stage.proxy.orders_for(&["shop.example"]).is_empty());
    ensure!(stage.proxy.issued_for(&["www.shop.example"]).len() == 1);
    Ok(())
}
