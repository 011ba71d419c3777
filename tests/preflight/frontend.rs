//! `issuer check --frontend`: a frontend is tried before any name leads to it.

use anyhow::{Result, ensure};
use harness::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_is_tried_before_any_name_leads_there() -> Result<()> {
    let stage = Stage::looking().await?;
    let Some(fleet) = &stage.fleet else { anyhow::bail!("a looking stage has a fleet") };
    let (second, nobody) = (fleet.net.host(2).to_string(), fleet.net.host(77).to_string());
    // Every name leads elsewhere.
    stage.pebble.dns().set_default_a(Some(fleet.net.host(77))).await?;
    let good = stage.signpost.issuer_json(&["check", "--frontend", &second]).await?;
    ensure!(good["ready"] == 1 && good["names"][0]["addresses"][0]["address"] == second, "{good:#}");
    let named = stage.signpost.issuer_json(&["check", "--frontend", &second, "shop.example"]).await?;
    ensure!(named["names"][0]["name"] == "shop.example" && named["ready"] == 1, "{named:#}");
    let closed =
        stage.signpost.issuer(&["--json", "check", "--frontend", &nobody]).await?.with_code(1)?.json()?;
    ensure!(closed["names"][0]["remarks"][0]["code"] == "no-connection", "{closed:#}");

    fleet.break_redirects().await?;
    let broken =
        stage.signpost.issuer(&["--json", "check", "--frontend", &second]).await?.with_code(1)?.json()?;
    let remark = &broken["names"][0]["remarks"][0];
    let what = remark["what"].as_str().unwrap_or_default();
    ensure!(remark["code"] == "no-connection" && what.contains("elsewhere.hoster.example"), "{broken:#}");
    Ok(())
}
