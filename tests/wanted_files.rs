//! Files of wanted sites: what they would change is told, what they say is made so, all of it or, where a line is wrong,
//! nothing; killed in the middle, the same file does the rest.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    daemon::list,
    deadline::until_true,
    redis_proxy::{Moment, Then, Trigger},
    stage::{Fuse, Stage},
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes a file of sites and answers its path.
fn file(stage: &Stage, name: &str, text: &str) -> Result<String> {
    let path = stage.signpost.write(name, text)?;
    Ok(path.to_str().context("a temporary path is text")?.to_owned())
}

fn ndjson(sites: &[Value]) -> String {
    sites.iter().fold(String::new(), |mut text, site| {
        let _ = writeln!(text, "{site}");
        text
    })
}

fn counts(plan: &Value) -> [u64; 4] {
    ["added", "changed", "removed", "unchanged"].map(|word| plan[word].as_u64().unwrap_or(u64::MAX))
}

/// What is wanted of every site, without the moments.
async fn wanted(stage: &Stage) -> Result<Vec<Value>> {
    let listed = stage.json(&["site", "list", "--limit", "100000"]).await?;
    let sites = listed["sites"].as_array().context("a list")?.iter();
    let mut wanted: Vec<Value> = sites.map(|site| site["wanted"].clone()).collect();
    for site in &mut wanted {
        site["created"].take();
        if let Some(hsts) = site["hsts"].as_object_mut() {
            hsts.remove("since");
        }
    }
    wanted.sort_by_key(|site| site["names"].to_string());
    Ok(wanted)
}

const TOML: &str = r#"
# The fleet
[defaults]
tags = ["eu"]

[[site]]
names = ["shop.example", "www.shop.example"]
san = "grouped"

[[site]] # a customer's
names = ["old.example"]
key_types = ["ecdsa-p256", "rsa-2048"]
imported = true
tenant = "acme"

[[site]]
names = ["strict.example"]
tags = ["us"]
[site.hsts]
max_age_seconds = 60
"#;

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_say_the_same_and_an_unchanged_file_changes_nothing() -> Result<()> {
    let stage = Stage::trusting().await?;
    let toml = file(&stage, "sites.toml", TOML)?;
    let planned = stage.json(&["plan", &toml]).await?;
    ensure!(counts(&planned) == [3, 0, 0, 0] && planned["orders"] == 4, "{planned:#}");
    ensure!(wanted(&stage).await?.is_empty(), "a plan changes nothing");
    let applied = stage.json(&["apply", &toml]).await?;
    ensure!(counts(&applied) == [3, 0, 0, 0] && applied["failed"] == json!([]), "{applied:#}");
    let of_toml = wanted(&stage).await?;
    let old = of_toml.iter().find(|site| list(&site["names"]) == ["old.example"]).context("old.example")?;
    ensure!(old["redirect"] == false && old["tags"] == json!(["eu"]) && old["origin"] == "file", "{old:#}");

    let tenant = stage.json(&["tenant", "show", "acme"]).await?;
    ensure!(tenant["redirect"] == false, "its first site was imported: {tenant:#}");

    let same = ndjson(&[
        json!({"names": ["www.shop.example", "shop.example"], "san": "grouped", "tags": ["eu"]}),
        json!({"names": ["old.example"], "key_types": ["rsa-2048", "ecdsa-p256"], "imported": true, "tenant": "acme", "tags": ["eu"]}),
        json!({"names": ["strict.example"], "hsts": {"max_age_seconds": 60}, "tags": ["us"]}),
    ]);
    let ndjson = file(&stage, "sites.ndjson", &same)?;
    for line in [["plan", &toml], ["plan", &ndjson], ["apply", &toml], ["apply", &ndjson]] {
        let unchanged = stage.json(&line).await?;
        ensure!(counts(&unchanged) == [0, 0, 0, 3] && unchanged["orders"] == 0, "{line:?}: {unchanged:#}");
    }
    // On a store of its own the other form makes the same sites.
    let other = Stage::trusting().await?;
    let path = file(&other, "sites.ndjson", &same)?;
    other.json(&["apply", &path]).await?;
    let of_ndjson = wanted(&other).await?;
    ensure!(of_toml == of_ndjson, "{of_toml:#?}\n{of_ndjson:#?}");

    // A site that is no longer in the file is no longer wanted; one of another origin is none of the file's business.
    stage.json(&["site", "add", "by-hand.example"]).await?;
    let less = file(&stage, "less.ndjson", same.lines().next().context("a line")?)?;
    stage.signpost.issuer(&["apply", &less]).await?.with_code(2)?;
    let applied = stage.json(&["apply", "--remove", "2", &less]).await?;
    ensure!(counts(&applied) == [0, 0, 2, 1], "{applied:#}");
    let left = wanted(&stage).await?;
    ensure!(left.len() == 2 && list(&left[0]["names"]) == ["by-hand.example"], "{left:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_anywhere_changes_nothing_and_is_named() -> Result<()> {
    let stage = Stage::trusting().await?;
    let good = |number: usize| json!({"names": [format!("g{number}.example")]}).to_string();
    for (line, wrong, word) in [
        (1, r#"{"names": ["a_b.example"]}"#.to_owned(), "invalid-character"),
        (300, r#"{"names": ["g7.example"]}"#.to_owned(), "line 7 already"),
        (700, r#"{"names": ["x.example"], "tgas": []}"#.to_owned(), "tgas"),
        (700, "{\"names\": [".to_owned(), "EOF"),
        (700, r#"{"names": []}"#.to_owned(), "at least one name"),
        (700, r#"{"names": ["x.example"], "ca": "nobody"}"#.to_owned(), "nobody"),
    ] {
        let mut lines: Vec<String> = (1..=700).map(good).collect();
        lines[line - 1] = wrong;
        let path = file(&stage, "wrong.ndjson", &lines.join("\n"))?;
        for verb in ["plan", "apply"] {
            let run = stage.signpost.issuer(&["--json", verb, &path]).await?.with_code(2)?;
            let message = run.json()?["message"].as_str().context("a message")?.to_owned();
            let named = message.contains(&format!("line {line}:")) && message.contains(word);
            ensure!(named, "{verb}, {word}: {message}");
        }
        ensure!(stage.keys("sp:{p*}:site:*").await?.is_empty(), "{word}: something was written");
    }
    let toml =
        file(&stage, "wrong.toml", "[[site]]\nnames = [\"a.example\"]\n\n[[site]]\nnames = \"b.example\"\n")?;
    let run = stage.signpost.issuer(&["apply", &toml]).await?.with_code(2)?;
    ensure!(run.stderr.contains("line 4"), "{}", run.stderr);
    ensure!(stage.keys("sp:{p*}:site:*").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_stream_through_and_are_not_removed_by_a_slip() -> Result<()> {
    const SITES: usize = 5_000;
    let stage = Stage::trusting().await?;
    let line = |number: usize| json!({"names": [format!("s{number}.example")]});
    let all: Vec<Value> = (0..SITES).map(line).collect();
    let path = file(&stage, "all.ndjson", &ndjson(&all))?;
    let applied = stage.json(&["apply", &path, "--limit", "3"]).await?;
    ensure!(counts(&applied) == [SITES as u64, 0, 0, 0], "{:?}", counts(&applied));
    ensure!(applied["changes"].as_array().is_some_and(|changes| changes.len() == 3), "{applied:#}");
    ensure!(applied["omitted"] == SITES - 3, "{applied:#}");
    let again = stage.json(&["apply", &path]).await?;
    ensure!(counts(&again) == [0, 0, 0, SITES as u64], "{again:#}");

    let half = file(&stage, "half.ndjson", &ndjson(&all[..SITES / 2]))?;
    let refused = stage.signpost.issuer(&["--json", "apply", &half]).await?.with_code(2)?;
    ensure!(refused.json()?["error"] == "removals", "{}", refused.stdout);
    ensure!(counts(&stage.json(&["plan", &path]).await?) == [0, 0, 0, SITES as u64], "it removed something");
    let planned = stage.json(&["plan", &half]).await?;
    ensure!(planned["removed"] == SITES / 2, "{planned:#}");
    ensure!(planned["needs_remove"] == SITES / 2, "{planned:#}");
    for number in ["0", "2499"] {
        stage.signpost.issuer(&["apply", "--remove", number, &half]).await?.with_code(2)?;
    }
    let applied = stage.json(&["apply", "--remove", "2500", &half]).await?;
    ensure!(counts(&applied) == [0, 0, SITES as u64 / 2, SITES as u64 / 2], "{:?}", counts(&applied));
    Ok(())
}

/// Killed in the middle of the first changes, of the names of a change, and of the removals.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_the_same_file_does_the_rest() -> Result<()> {
    let stage = Stage::trusting().await?;
    let before: Vec<Value> = (0..200)
        .map(|number| json!({"names": [format!("k{number}.example"), format!("www.k{number}.example")]}))
        .collect();
    let path = file(&stage, "before.ndjson", &ndjson(&before))?;
    for nth in [30, 200, 100] {
        killed_at(&stage, &["apply", &path], "sp:name:", nth).await?;
    }
    let rest = stage.json(&["apply", &path]).await?;
    ensure!(rest["failed"] == json!([]), "{rest:#}");
    ensure!(counts(&stage.json(&["apply", &path]).await?) == [0, 0, 0, 200]);
    ensure!(wanted(&stage).await?.len() == 400, "each name has a certificate of its own");

    // Half of them go, the others get one more name.
    let after: Vec<Value> = (0..100)
        .map(|n| json!({"names": [format!("k{n}.example"), format!("www.k{n}.example"), format!("m.k{n}.example")]}))
        .collect();
    let path = file(&stage, "after.ndjson", &ndjson(&after))?;
    for nth in [50, 60, 90] {
        killed_at(&stage, &["apply", "--remove", "100", &path], "sp:name:", nth).await?;
    }
    let rest = stage.json(&["apply", "--remove", "100", &path]).await?;
    ensure!(rest["failed"] == json!([]), "{rest:#}");
    ensure!(counts(&stage.json(&["plan", &path]).await?) == [0, 0, 0, 100]);
    ensure!(wanted(&stage).await?.len() == 300);
    // A name of a removal that was killed leads to nothing that is served, and goes when its site is deleted.
    let names = stage.keys("sp:name:*").await?.len();
    ensure!((300..=300 + 3 * 2 * 32).contains(&names), "{names} names are kept for somebody");
    stage.signpost.issuer(&["status", "k150.example"]).await?.with_code(4)?;
    Ok(())
}

/// `kill -9` before the nth write of this kind.
async fn killed_at(stage: &Stage, line: &[&str], what: &str, nth: u64) -> Result<()> {
    let fuse = Fuse::default();
    let fired = stage.redis_proxy.fired();
    let killer = fuse.clone();
    let trigger = Trigger::on(what, Moment::BeforeCommand, move || {
        killer.kill9();
        Then::Cut
    });
    stage.redis_proxy.add_trigger(trigger.and("EVALSHA").nth(nth));
    let mut run = stage.signpost.start_run("issuer", line)?;
    fuse.attach(run.process.killer());
    let ended = run.process.wait(LIMIT).await?;
    ensure!(ended.code().is_none() && stage.redis_proxy.fired() > fired, "it ended by itself: {ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_move_between_sites_of_the_file_and_are_served_all_along() -> Result<()> {
    let stage = Stage::trusting().await?;
    let _daemon = stage.start_daemon()?;
    let of = |one: &[&str], other: &[&str]| {
        ndjson(&[json!({"names": one, "san": "grouped"}), json!({"names": other, "san": "grouped"})])
    };
    let first = file(&stage, "first.ndjson", &of(&["a.example", "b.example"], &["c.example", "d.example"]))?;
    stage.json(&["apply", &first]).await?;
    for name in ["a.example", "d.example"] {
        stage.until_valid(name).await?;
    }
    stage.until_idle().await?;
    stage.proxy.reset();
    // b and c change places.
    let second =
        file(&stage, "second.ndjson", &of(&["a.example", "c.example"], &["b.example", "d.example"]))?;
    let applied = stage.json(&["apply", &second]).await?;
    ensure!(applied["failed"] == json!([]) && applied["changed"] == 2, "{applied:#}");
    for name in ["a.example", "b.example", "c.example", "d.example"] {
        ensure!(!stage.redis.text_of(&format!("sp:name:{name}")).await?.starts_with('?'), "{name} is served");
    }
    until_true("the new certificates are there", LIMIT, || async {
        stage.proxy.issued_for(&["a.example", "c.example"]).len() == 1
            && stage.proxy.issued_for(&["b.example", "d.example"]).len() == 1
    })
    .await?;
    stage.until_idle().await?;
    ensure!(stage.proxy.orders().len() == 2, "{:?}", stage.proxy.orders());
    ensure!(counts(&stage.json(&["plan", &second]).await?) == [0, 0, 0, 2]);
    for (name, names) in
        [("c.example", ["a.example", "c.example"]), ("b.example", ["b.example", "d.example"])]
    {
        let site = stage.until_valid(name).await?;
        ensure!(list(&site["names"]) == names, "{name}: {site:#}");
        ensure!(list(&site["certificates"][0]["names"]) == names, "{name}: {site:#}");
    }
    // A name that somebody has by hand is not taken from them, and the rest of the file is applied.
    stage.json(&["site", "add", "mine.example"]).await?;
    let grabbing = of(&["a.example", "mine.example"], &["b.example", "d.example", "e.example"]);
    let third = file(&stage, "third.ndjson", &grabbing)?;
    let run = stage.signpost.issuer(&["--json", "apply", &third]).await?.with_code(1)?;
    ensure!(run.json()?["failed"][0]["message"].as_str().is_some_and(|m| m.contains("mine.example")));
    stage.until_valid("e.example").await?;
    Ok(())
}
