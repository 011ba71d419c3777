//! A CA of one's own, on one's own network: names and addresses that no public CA knows.

use anyhow::{Result, ensure};
use harness::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_not_public_certifies_what_a_network_of_ones_own_has() -> Result<()> {
    let mut stage = Stage::looking().await?;
    // The check looks as this CA does: into private networks.
    stage.signpost.set("issuer.self_check", "required")?;
    for name in ["wiki.internal", "nas.lan", "printer"] {
        stage.issue(&[name]).await?;
        ensure!(stage.proxy.issued_for(&[name]) == ["ecdsa-p256"], "{name}");
    }
    stage.signpost.set("ca.pebble.public", true)?;
    for (name, rule) in [("docs.internal", "unknown-top-level-domain"), ("scanner", "needs-dot")] {
        let answer = stage.issue_ending(2, &[name]).await?;
        ensure!(answer["names"][0]["rule"] == rule, "{answer:#}");
    }
    Ok(())
}
