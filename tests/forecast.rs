//! What the next 90 days bring, by the certificates that are served; and what if.

use anyhow::{Context as _, Result, ensure};
use harness::stage::{Stage, StageOptions};
use serde_json::Value;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn sum(values: &Value) -> f64 {
    values.as_array().into_iter().flatten().map(number).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_are_foretold_for_the_fleet_as_it_is_and_as_it_might_be() -> Result<()> {
    let mut stage = Stage::trusting_with(StageOptions::default()).await?;
    let ending = stage.signpost.issuer(&["forecast"]).await?.with_code(2)?;
    ensure!(ending.stderr.contains("--lifetime-hours"), "{}", ending.stderr);

    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    for name in ["a.shop.example", "b.shop.example"] {
        stage.issue(&[name]).await?;
    }
    let served = stage.json(&["status", "a.shop.example"]).await?;
    let certificate = &served["sites"][0]["certificates"][0];
    let moment = |field: &str| -> Result<jiff::Timestamp> {
        Ok(certificate[field].as_str().context("a moment")?.parse()?)
    };
    let lived = moment("not_after")?.duration_since(moment("not_before")?).as_secs_f64() / 3600.0;
    let shown = stage.json(&["forecast"]).await?;
    ensure!(shown["sites"] == 2 && shown["ca"] == "pebble", "{shown}");
    ensure!((number(&shown["lifetime_hours"]) - lived).abs() < 0.01, "{lived}: {}", shown["lifetime_hours"]);
    ensure!(shown["renewals_per_hour"].as_array().context("hours")?.len() == 2160, "{shown}");
    ensure!(shown["orders_per_day"].as_array().context("days")?.len() == 90, "{shown}");

    // As if it were a million at Let's Encrypt.
    stage.signpost.set("ca.letsencrypt.agree_to_terms", true)?;
    let many = |more: &[&str]| {
        let mut words = vec!["forecast", "--ca", "letsencrypt", "--sites", "1000000"];
        words.extend(more);
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let ask = async |more: &[&str]| -> Result<Value> {
        let words = many(more);
        stage.json(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let classic = ask(&[]).await?;
    ensure!(classic["lifetime_hours"] == 2160.0, "{classic}");
    let short = ask(&["--profile", "shortlived", "--new-per-day", "5000"]).await?;
    ensure!(
        short["lifetime_hours"] == 160.0 && short["profile"] == "shortlived",
        "{}",
        short["lifetime_hours"]
    );
    // Half of 160 hours: 12,500 an hour, and those that came new before.
    let mean = sum(&short["renewals_per_hour"]) / 2160.0;
    ensure!((12_000.0..16_500.0).contains(&mean), "{mean}");
    let orders = &short["limits"][0];
    ensure!(orders["limit"] == "new-orders-per-account" && orders["allowed_per_day"] == 2400.0, "{orders}");
    ensure!(number(&orders["used"]) > 2.0, "renewals are exempt, new sites are not: {orders}");
    ensure!(number(&short["memory_bytes"]) > 1.4e6 * 1000.0, "{}", short["memory_bytes"]);
    let words = many(&["--lifetime-hours", "2160"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let text = stage.signpost.issuer(&words).await?.success()?.stdout;
    ensure!(
        text.contains("1000000 certificates, 90 days each, from letsencrypt") && text.contains('█'),
        "{text}"
    );

    for (words, said) in [
        (&["forecast", "--ca", "letsencrypt", "--profile", "eternal"][..], "classic, shortlived, tlsserver"),
        (
            &["forecast", "--ca", "letsencrypt", "--profile", "eternal", "--lifetime-hours", "90"],
            "classic, shortlived, tlsserver",
        ),
        (&["forecast", "--lifetime-hours", "0"], "from 1 on"),
        (&["forecast", "--ca", "nobody"], "nobody"),
    ] {
        let ending = stage.signpost.issuer(words).await?.with_code(2)?;
        ensure!(ending.stderr.contains(said), "{words:?}: {}", ending.stderr);
    }
    Ok(())
}
