//! `issuer frontend ...`: who is let in, shown, changed and shut out, seen from both sides.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shared::domain::KeyType;

use crate::fleet::{Fleet, Identity};

const LIMIT: Duration = Duration::from_secs(30);
const SHOP: &str = "/v1/certificates/shop.example.com";

/// The document that a command of this fleet prints.
async fn done(fleet: &Fleet, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["--json", "frontend"], arguments].concat();
    fleet.signpost.run("issuer", &arguments, LIMIT).await?.success()?.json()
}

/// The exit code and the error's code of a command that fails.
async fn refused(fleet: &Fleet, arguments: &[&str]) -> Result<(i32, String)> {
    let arguments = [&["--json", "frontend"], arguments].concat();
    let run = fleet.signpost.run("issuer", &arguments, LIMIT).await?;
    let document = run.json().unwrap_or_default();
    Ok((run.code()?, document["error"].as_str().unwrap_or_default().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_is_added_shown_changed_and_revoked() -> Result<()> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&["shop.example.com"], &["eu"], &[KeyType::EcdsaP256]).await?;
    let daemon = fleet.start().await?;
    let at = daemon.address;

    let added = done(&fleet, &["add", "edge-1", "--tag", "eu", "--enrol"]).await?;
    ensure!(added["state"] == "not-enrolled" && added["by"] == "token", "{added}");
    ensure!(added["scope"] == json!({ "names": [], "tags": ["eu"] }), "{added}");
    let ends: jiff::Timestamp = added["token_expires"].as_str().context("it ends")?.parse()?;
    let hours = (ends - jiff::Timestamp::now()).get_seconds() / 3600;
    ensure!(hours == 23, "{hours}");
    let only_enrols = Identity::token(added["token"].as_str().context("no token")?);
    ensure!(fleet.get(at, &only_enrols, SHOP)?.status == 401);

    // A second one of this name ends the first; nothing happens without the word.
    let name = ["add", "edge-1", "--scope", "*.example.com"];
    ensure!(refused(&fleet, &name).await? == (1, "exists".to_owned()));
    let directory = fleet.signpost.directory().join("edge-1");
    let out = directory.display().to_string();
    let replaced = done(&fleet, &[&name[..], &["--replace", "--out", &out]].concat()).await?;
    ensure!(replaced["state"] == "active" && replaced["token_expires"].is_null(), "{replaced}");
    let token = Identity::token(std::fs::read_to_string(directory.join("token"))?.trim());
    ensure!(fleet.get(at, &token, SHOP)?.status == 200);
    ensure!(fleet.get(at, &token, "/v1/certificates/shop.example.com/ecdsa/privkey.pem")?.status == 200);

    // What it sees changes with its next request.
    let set = done(&fleet, &["set", "edge-1", "--scope", "other.example.com"]).await?;
    ensure!(set["scope"]["names"] == json!(["other.example.com"]), "{set}");
    ensure!(fleet.get(at, &token, SHOP)?.status == 404);
    let set = done(&fleet, &["set", "edge-1", "--tag", "eu", "--certs-only", "true"]).await?;
    ensure!(set["rights"] == json!(["read-cert"]) && set["scope"]["tags"] == json!(["eu"]), "{set}");
    ensure!(fleet.get(at, &token, SHOP)?.status == 200);
    ensure!(fleet.get(at, &token, "/v1/certificates/shop.example.com/ecdsa/privkey.pem")?.status == 404);
    let emptied = ["set", "edge-1", "--tag", "--scope"];
    ensure!(refused(&fleet, &emptied).await? == (2, "no-scope".to_owned()));
    ensure!(done(&fleet, &["show", "edge-1"]).await? == set, "a refused change changes nothing");

    let listed = done(&fleet, &["list"]).await?;
    ensure!(listed["frontends"] == json!([set]), "{listed}");

    let revoked = done(&fleet, &["revoke", "edge-1"]).await?;
    ensure!(revoked["state"] == "revoked", "{revoked}");
    ensure!(fleet.get(at, &token, SHOP)?.status == 401);
    ensure!(done(&fleet, &["revoke", "edge-1"]).await? == revoked, "again, it stays as it was");

    for command in [&["show", "nobody"][..], &["revoke", "nobody"], &["set", "nobody", "--tag", "eu"]] {
        ensure!(refused(&fleet, command).await? == (4, "not-found".to_owned()), "{command:?}");
    }
    for command in [&["set", "edge-1"][..], &["add", "edge-2"], &["add", "Edge 2", "--scope", "*"]] {
        ensure!(refused(&fleet, command).await?.0 == 2, "{command:?}");
    }
    Ok(())
}
