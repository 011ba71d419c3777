//! Challenges that Pebble does not know yet. Its proxy offers them in the place of dns-01, and it takes every answer: what is shown is
//! what stands in the DNS when the CA is told to look.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use harness::{
    bind::texts,
    ca_proxy::{Action, Endpoint, Rule},
};

use super::zone::{CUSTOMER, Hosted, ZONE};

const ACCOUNT_KIND: &str = "\"type\": \"dns-account-01\"";
const PERSIST_KIND: &str = "\"type\": \"dns-persist-01\", \"issuer-domain-names\": [\"ca.example\"]";

/// Offers another challenge in the place of dns-01.
fn offer(hosted: &Hosted, kind: &str) {
    let dns01 = "\"type\": \"dns-01\"".to_owned();
    hosted
        .stage
        .proxy
        .add_rule(Rule::on(Endpoint::Authorization).does(Action::Rewrite(dns01, kind.to_owned())));
}

/// What `dig` finds at a record whenever the CA is told to look.
fn looked_up(hosted: &Hosted, record: String) -> Arc<Mutex<Vec<Vec<String>>>> {
    let found: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let (seen, primary) = (Arc::clone(&found), hosted.primary);
    let runtime = tokio::runtime::Handle::current();
    let look = move |_: &_| {
        let (record, seen) = (record.clone(), Arc::clone(&seen));
        let values = std::thread::scope(|scope| {
            scope.spawn(|| runtime.block_on(texts(primary, &record))).join().expect("dig has ended")
        });
        seen.lock().expect("no panic while held").push(values.unwrap_or_default());
    };
    hosted.stage.proxy.add_rule(Rule::on(Endpoint::Challenge).does(Action::call_before(look)));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_a_record_of_its_own() -> Result<()> {
    let hosted = Hosted::trusting().await?;
    let first = hosted.stage.issue(&["--challenge", "dns-01", "warm.hosted.example"]).await?;
    let account = first["account"].as_str().context("account")?.to_owned();
    let record = format!("{}._acme-challenge.{ZONE}", label_of(&account)?);
    offer(&hosted, ACCOUNT_KIND);
    let found = looked_up(&hosted, record.clone());
    let document = hosted.stage.issue(&["--challenge", "dns-account-01", ZONE]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    let found = found.lock().expect("no panic while held").clone();
    ensure!(found.len() == 1 && found[0].len() == 1 && found[0][0].len() == 43, "{found:?}");
    hosted.ensure_clean(&record).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_stays_is_written_once_or_asked_for() -> Result<()> {
    let mut hosted = Hosted::trusting().await?;
    // Which draft the CA speaks is not guessed.
    let refused =
        hosted.stage.signpost.issuer(&["site", "add", ZONE, "--challenge", "dns-persist-01"]).await?;
    let refused = refused.with_code(2)?;
    ensure!(refused.stderr.contains("dns_persist"), "{}", refused.stderr);
    hosted.stage.signpost.set("ca.pebble.dns_persist", "01")?;
    let limits = hosted.stage.signpost.write("limits.toml", "caa_identities = [\"ca.example\"]\n")?;
    hosted.stage.signpost.set("ca.pebble.limits_file", limits.display().to_string())?;
    offer(&hosted, PERSIST_KIND);

    let record = format!("_validation-persist.{ZONE}");
    let found = looked_up(&hosted, record.clone());
    let document = hosted.stage.issue(&["--challenge", "dns-persist-01", ZONE]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    let account = document["account"].as_str().context("account")?;
    let wanted = format!("ca.example; accounturi={account}");
    ensure!(*found.lock().expect("no panic while held") == [[wanted.clone()]], "{found:?}");
    ensure!(texts(hosted.primary, &record).await? == [wanted.clone()], "it stays");
    hosted.stage.signpost.issuer(&["renew", "--force", ZONE]).await?.success()?;
    ensure!(texts(hosted.primary, &record).await? == [wanted.clone()], "once");
    // The record names the account, which keeps its URL when it gets another key: it stands as it is.
    hosted.stage.json(&["account", "rollover", "--key-type", "ecdsa-p384"]).await?;
    hosted.stage.signpost.issuer(&["renew", "--force", ZONE]).await?.success()?;
    ensure!(texts(hosted.primary, &record).await? == [wanted], "the same account");

    // In a zone that nobody writes, its owner is told, and the CA is not asked.
    hosted.stage.proxy.reset();
    let document = hosted.stage.issue_ending(1, &["--challenge", "dns-persist-01", CUSTOMER]).await?;
    let remedy = document["results"][0]["failure"]["remedy"].as_str().unwrap_or_default();
    ensure!(
        remedy.contains(&format!("_validation-persist.{CUSTOMER} TXT \"ca.example; accounturi={account}\"")),
        "{remedy}"
    );
    ensure!(hosted.stage.proxy.requests().of(Endpoint::NewOrder) == 0, "it was ordered");
    Ok(())
}

/// draft-ietf-acme-dns-account-label-02 section 3, by another program.
fn label_of(account_url: &str) -> Result<String> {
    let script = "import base64, hashlib, sys; \
                  print('_' + base64.b32encode(hashlib.sha256(sys.argv[1].encode()).digest()[:10]).decode().lower())";
    let output = std::process::Command::new("python3").args(["-c", script, account_url]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
