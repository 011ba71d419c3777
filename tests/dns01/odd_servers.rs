//! Nameservers as they are met: one that is gone, aliases that a wildcard makes, a zone of a customer's own below ours.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use harness::{
    bind::{Bind, DNS_PORT, dig, zone_file},
    deadline::until_true,
};
use serde_json::Value;

use super::zone::{ADMIN, Hosted, SECRET, ZONE};

const RECORD: &str = "_acme-challenge.hosted.example";
const WILDCARD: &str = "*.hosted.example";

#[tokio::test(flavor = "multi_thread")]
async fn a_nameserver_that_is_gone_is_told_and_stops_no_order() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    hosted.end_secondary();
    let document = hosted.stage.issue(&["--challenge", "dns-01", WILDCARD]).await?;
    let result = &document["results"][0];
    ensure!(result["status"] == "issued", "{document:#}");
    let told = result["steps"].as_array().into_iter().flatten().any(|step| {
        step["step"] == "propagated"
            && step["note"].as_str().is_some_and(|note| note.contains("ns2.hosted.example"))
    });
    ensure!(told, "the server that did not answer is named: {result:#}");
    hosted.ensure_clean(RECORD).await?;

    hosted.stage.signpost.set("dns.own.require_all_nameservers", true)?;
    hosted.stage.signpost.set("dns.own.propagation_seconds", 1.0)?;
    let name = "*.all.hosted.example";
    let document = hosted.stage.issue_ending(1, &["--challenge", "dns-01", name]).await?;
    let what = document["results"][0]["failure"].to_string();
    ensure!(what.contains("ns2.hosted.example does not answer for the zone"), "{document:#}");
    ensure!(!what.contains("transfer"), "it does not lag: {document:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_a_wildcard_makes_is_no_delegation() -> Result<()> {
    let hosted = Hosted::make(0).await?;
    let owner = Owner(&hosted);
    owner.change(&format!("update add *.{ZONE} 60 CNAME lb.elsewhere.example."))?;
    until_true("the wildcard answers everywhere", Duration::from_secs(30), || async {
        let mut all = true;
        for server in [hosted.primary, hosted.secondary] {
            let seen = dig(server, &["+short", "CNAME", "_acme-challenge.shop2.hosted.example"]).await;
            all &= seen.is_ok_and(|seen| seen.trim() == "lb.elsewhere.example.");
        }
        all
    })
    .await?;
    let check =
        hosted.stage.signpost.issuer(&["--json", "check", "--challenge", "dns-01", "*.shop2.hosted.example"]);
    let check = check.await?;
    ensure!(!check.stdout.contains("lb.elsewhere.example"), "{}", check.stdout);
    let document = hosted.stage.issue(&["--challenge", "dns-01", "*.shop2.hosted.example"]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    hosted.ensure_clean("_acme-challenge.shop2.hosted.example").await.or_else(|error| {
        // With the record gone the wildcard answers again, and its alias is no text.
        if error.to_string().contains("lb.elsewhere.example") { Ok(()) } else { Err(error) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_below_ours_that_another_server_has_is_named() -> Result<()> {
    let hosted = Hosted::make(0).await?;
    let other = hosted.net.host(30);
    let own_zone = "cut.hosted.example";
    let file = zone_file(&format!("{own_zone}."), &[other], "");
    let statement = format!("zone \"{own_zone}\" {{ type primary; file \"cut\"; }};\n");
    let _customers = Bind::authority(other, &statement, &[("cut", &file)]).await?;
    let owner = Owner(&hosted);
    owner.change(&format!(
        "update add {own_zone} 60 NS ns1.{own_zone}.\nupdate add ns1.{own_zone} 60 A {other}"
    ))?;

    let name = "*.cut.hosted.example";
    let check = hosted.stage.signpost.issuer(&["--json", "check", "--challenge", "dns-01", name]).await?;
    ensure!(check.stdout.contains(own_zone) && check.stdout.contains("dns.own"), "{}", check.stdout);
    let document = hosted.stage.issue_ending(1, &["--challenge", "dns-01", name]).await?;
    let failure = &document["results"][0]["failure"];
    ensure!(names_the_zone(failure, own_zone), "{document:#}");
    ensure!(!failure.to_string().contains("clock"), "the key is right and so are the clocks: {document:#}");
    Ok(())
}

fn names_the_zone(failure: &Value, zone: &str) -> bool {
    failure["what"].as_str().is_some_and(|what| what.contains(&format!("zone {zone}")))
}

/// Who may change everything in the zone.
struct Owner<'a>(&'a Hosted);

impl Owner<'_> {
    fn change(&self, lines: &str) -> Result<()> {
        let text = format!(
            "server {} {DNS_PORT}\nkey hmac-sha256:{ADMIN} {SECRET}\nzone {ZONE}\n{lines}\nsend\n",
            self.0.primary.ip()
        );
        let file = self.0.stage.signpost.write("nsupdate", text)?;
        let output = Command::new("nsupdate").arg(file).output()?;
        ensure!(output.status.success(), "nsupdate: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
