//! Certificates for IP addresses, over http-01, where the CA's profile takes them.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::Endpoint,
    stage::{Stage, StageOptions},
    stored::Stored,
};

const PROFILES: &str = "[profiles.classic]\nnames = 100\nlifetime_hours = 2160.0\n\
                        [profiles.shortlived]\nnames = 25\nlifetime_hours = 160.0\nidentifiers = [\"dns\", \"ip\"]\n";

async fn scene() -> Result<(Stage, String)> {
    let mut stage = Stage::looking_with(StageOptions::default()).await?;
    let file = stage.signpost.write("limits.toml", PROFILES)?;
    stage.signpost.set("ca.pebble.limits_file", file.to_str().context("a path is text")?)?;
    let address = stage.fleet.as_ref().context("frontends")?.net.host(1).to_string();
    Ok((stage, address))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_proved_where_it_leads_and_served_by_its_name() -> Result<()> {
    let (mut stage, address) = scene().await?;
    stage.signpost.set("ca.pebble.profile", "shortlived")?;
    let issued = stage.issue(&[&address, "--dual"]).await?;
    ensure!(issued["results"][0]["status"] == "issued", "{issued}");
    // The self-check has asked the address itself.
    ensure!(!issued.to_string().contains("self-check failed"), "{issued}");
    let stored = Stored::open(stage.signpost.config_path()).await?;
    for served in stored.served(&address).await? {
        let names = served.leaf.subject_alt_names().context("names")?;
        let wanted: std::net::IpAddr = address.parse()?;
        let octets = match wanted {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        ensure!(names.len() == 1 && names[0].ipaddress() == Some(octets.as_slice()), "{names:?}");
    }
    let status = stage.json(&["status", &address]).await?;
    ensure!(status["sites"][0]["certificates"][0]["names"][0] == address.as_str(), "{status}");
    // A name and an address in one certificate.
    let other = stage.fleet.as_ref().context("frontends")?.net.host(2).to_string();
    stage.issue(&[&other, "shop.example", "--san"]).await?;
    // What is there is used.
    let before = stage.proxy.requests().of(Endpoint::NewOrder);
    stage.issue(&[&address, "--dual"]).await?;
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_profile_takes_it_nothing_is_ordered() -> Result<()> {
    let (mut stage, address) = scene().await?;
    for profile in [None, Some("classic")] {
        if let Some(profile) = profile {
            stage.signpost.set("ca.pebble.profile", profile)?;
        }
        let refused = stage.signpost.issuer(&["issue", &address]).await?.with_code(2)?;
        ensure!(refused.stderr.contains("profile that allows them"), "{}", refused.stderr);
        let refused = stage.signpost.issuer(&["site", "add", &address]).await?.with_code(2)?;
        ensure!(refused.stderr.contains("profile that allows them"), "{}", refused.stderr);
    }
    ensure!(stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());
    // A site may ask for the profile by itself.
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    stage.signpost.issuer(&["site", "add", &address, "--profile", "shortlived"]).await?.success()?;
    // A public CA issues nothing for what is not public.
    stage.signpost.set("ca.letsencrypt.profile", "shortlived")?;
    let refused = stage.signpost.issuer(&["issue", "10.1.2.3", "--ca", "letsencrypt"]).await?.with_code(2)?;
    ensure!(refused.stderr.contains("special purpose"), "{}", refused.stderr);
    Ok(())
}
