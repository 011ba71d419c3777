//! The configuration as an operator meets it: what is wrong with it, what it lacks for the sites that there are.

use anyhow::{Result, ensure};
use harness::{
    deadline::{START_LIMIT, until_true},
    signpost::Signpost,
};

#[tokio::test(flavor = "multi_thread")]
async fn sites_of_a_ca_that_was_renamed_are_told_of_and_moved() -> Result<()> {
    let mut signpost = Signpost::new()?;
    // Nobody is asked: no daemon runs.
    signpost.set("ca.one.directory", "https://127.0.0.1:1/directory")?;
    let run = signpost.issuer(&["config", "check"]).await?.success()?;
    ensure!(!run.stderr.contains("warning"), "{}", run.stderr);
    for names in [&["a.example.com", "b.example.com"][..], &["c.example.com"], &["d.example.com"]] {
        signpost.issuer(&[&["site", "add"], names].concat()).await?.success()?;
    }
    signpost.unset("ca.one")?;
    signpost.set("ca.two.directory", "https://127.0.0.1:1/directory")?;

    let told = "3 sites name the CA \"one\", which is not configured here";
    let checked = signpost.issuer_json(&["config", "check"]).await?;
    ensure!(checked["warnings"][0].as_str().is_some_and(|text| text.starts_with(told)), "{checked:#}");
    let mut daemon = signpost.start_issuer().await?;
    until_true("the daemon tells of them", START_LIMIT, async || {
        daemon.process.log().replace('\\', "").contains(told)
    })
    .await?;
    daemon.process.kill9().await?;
    let run = signpost.issuer(&["site", "set", "a.example.com", "--tag", "x"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("site set --of-ca one --ca NAME"), "{}", run.stderr);

    let wrong: [(&[&str], i32); 4] = [
        (&["--of-ca", "one"], 2),
        (&["--of-ca", "one", "--ca", "three", "--yes"], 2),
        (&["--of-ca", "none", "--ca", "two", "--yes"], 4),
        // Nobody can be asked.
        (&["--of-ca", "one", "--ca", "two"], 2),
    ];
    for (arguments, code) in wrong {
        signpost.issuer(&[&["site", "set"], arguments].concat()).await?.with_code(code)?;
    }
    let moved = signpost.issuer_json(&["site", "set", "--of-ca", "one", "--ca", "two", "--yes"]).await?;
    ensure!(moved["moved"] == 3 && moved["failed"] == serde_json::json!([]), "{moved:#}");
    let shown = signpost.issuer_json(&["site", "show", "b.example.com"]).await?;
    ensure!(shown["wanted"]["ca"] == "two", "{shown:#}");
    let checked = signpost.issuer_json(&["config", "check"]).await?;
    ensure!(checked["warnings"] == serde_json::json!([]), "{checked:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_used_is_said_at_once_and_with_its_place() -> Result<()> {
    let mut signpost = Signpost::new()?;
    let clause =
        signpost.write("tsig", "key \"a\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0\";\n};\n")?;
    signpost.set("ca.mine.contact", vec!["mailto:tls@hoster.example"])?;
    signpost.set("ca.other.directory", "http://127.0.0.1:1/directory")?;
    signpost.set("ca.zerossl.eab_kid", "kid")?;
    signpost.set("ca.zerossl.eab_hmac_file", "/nonexistent/eab")?;
    signpost.set("dns.own.provider", "rfc2136")?;
    signpost.set("dns.own.server", "127.0.0.1:53")?;
    signpost.set("dns.own.tsig_name", "a")?;
    signpost.set("dns.own.tsig_secret_file", clause.display().to_string())?;
    signpost.set("notify.webhook_url", "https://127.0.0.1:1/")?;
    signpost.set("notify.webhook_secret_file", "/nonexistent/secret")?;
    signpost.set("sightings.allow_url", "https://127.0.0.1:1/")?;
    signpost.set("sightings.allow_token_file", "/nonexistent/token")?;
    signpost.set("telemetry.log", "info,issuer=loud")?;
    signpost.set_environment("SIGNPOST_STORE__PASSWORD_FILE", "/nonexistent/password");
    let run = signpost.issuer(&["config", "check"]).await?.with_code(2)?;
    let said = run.stderr;
    for expected in [
        "ca.mine.directory is missing",
        "ca.other.directory: expected an https://",
        "ca.zerossl.eab_hmac_file: /nonexistent/eab",
        "tsig-keygen",
        "notify.webhook_secret_file: /nonexistent/secret",
        "sightings.allow_token_file: /nonexistent/token",
        "telemetry.log",
        "SIGNPOST_STORE__PASSWORD_FILE: store.password_file: /nonexistent/password",
    ] {
        ensure!(said.contains(expected), "{expected} in\n{said}");
    }
    let file = signpost.config_path().display().to_string();
    let lines: Vec<usize> = said
        .lines()
        .filter_map(|line| line.split(&format!("{file}:")).nth(1)?.split(':').next()?.parse().ok())
        .collect();
    ensure!(lines.len() == 7 && lines.is_sorted() && lines[6] > lines[0], "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_and_orders_nothing_is_warned_of() -> Result<()> {
    let mut signpost = Signpost::new()?;
    let checked = signpost.issuer_json(&["config", "check"]).await?;
    ensure!(checked["warnings"].to_string().contains("no CA is configured"), "{checked:#}");
    signpost.set("ca.letsencrypt.contact", vec!["mailto:tls@hoster.example"])?;
    signpost.set("ca.google.agree_to_terms", true)?;
    let checked = signpost.issuer_json(&["config", "check"]).await?;
    let warnings = checked["warnings"].to_string();
    ensure!(warnings.contains("ca.letsencrypt.agree_to_terms is not true"), "{checked:#}");
    ensure!(warnings.contains("none has default = true") && !warnings.contains("ca.google"), "{checked:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_or_is_refused_makes_no_keyring() -> Result<()> {
    let mut signpost = Signpost::new()?;
    let wish = signpost.write("sites", "a.example.com\n")?.display().to_string();
    let refused: [(&[&str], &str); 3] = [
        (&["site", "add", "a.example.com"], "no CA is configured"),
        (&["issue", "a.example.com"], "no CA is configured"),
        (&["apply", &wish], "no CA is configured"),
    ];
    for (arguments, expected) in refused {
        let run = signpost.issuer(arguments).await?.with_code(2)?;
        ensure!(run.stderr.contains(expected), "{arguments:?}: {}", run.stderr);
    }
    signpost.set("ca.mine.directory", "https://127.0.0.1:1/directory")?;
    for verb in ["show", "rollover", "update"] {
        let run = signpost.issuer(&["account", verb]).await?.with_code(4)?;
        ensure!(run.stderr.contains("`issuer account create --ca mine --name default`"), "{}", run.stderr);
    }
    let looks: [&[&str]; 8] = [
        &["account", "list"],
        &["token", "list"],
        &["frontend", "list"],
        &["site", "list"],
        &["status"],
        &["events"],
        &["tls-policy", "show"],
        &["key", "status"],
    ];
    for arguments in looks {
        signpost.issuer(arguments).await?.success()?;
    }
    ensure!(!signpost.key_encryption_key_file().exists(), "a keyring was made");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_named_with_the_setting() -> Result<()> {
    let mut signpost = Signpost::new()?;
    let away = harness::ports::free_address()?;
    signpost.use_store(&format!("redis://issuer:hunter2@{away}/"))?;
    let run = signpost.issuer(&["store", "status"]).await?.with_code(1)?;
    let expected = format!("not reachable at {away}/, as store.url names it: ");
    ensure!(run.stderr.contains(&expected) && !run.stderr.contains("hunter2"), "{}", run.stderr);
    signpost.set_environment("SIGNPOST_STORE__URL", "localhost:6379");
    let run = signpost.issuer(&["store", "status"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("SIGNPOST_STORE__URL: store.url: expected redis://"), "{}", run.stderr);
    Ok(())
}
