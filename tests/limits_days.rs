//! Three days through the real programs: every period is divided by a thousand, those of the CA's limits, of the windows for
//! renewals, of the pauses after a failure, and of the certificates' lives. Two daemons, the limiter in front of Pebble, frontends
//! that answer, names that fail, operators who force them. The CA refuses nothing, and nobody's certificate ends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_limits::Limits,
    ca_proxy::{Endpoint, Manners},
    daemon::seconds,
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
};
use serde_json::json;

const DIVISOR: u32 = 1000;
const DAY: Duration = Duration::from_millis(86_400);
/// Three days of a certificate's life, which is renewed after half of it.
const LIFE_SECONDS: u64 = 250;
const FAILING: usize = 3;
const FORCED_EVERY: Duration = Duration::from_secs(20);

/// So many names of one busy domain, so many with a domain of their own, and those that fail.
fn names(busy: usize, own: usize) -> Vec<String> {
    let busy = (0..busy).map(|number| format!("n{number}.busy.example"));
    let own = (0..own).map(|number| format!("www.shop{number}.example"));
    busy.chain(own).chain((0..FAILING).map(failing)).collect()
}

fn failing(number: usize) -> String {
    format!("www.gone{number}.example")
}

async fn apply(stage: &Stage, names: &[String]) -> Result<()> {
    let lines: String = names.iter().map(|name| format!("{}\n", json!({"names": [name]}))).collect();
    let file = stage.signpost.write("sites.ndjson", lines)?;
    stage.signpost.issuer(&["apply", file.to_str().context("a path is text")?]).await?.success()?;
    Ok(())
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn three_days_without_a_refusal() -> Result<()> {
        let options = StageOptions {
            manners: Manners { renewal_info: true, divisor: Some(DIVISOR), ..Manners::default() },
            pebble: PebbleOptions { validity_period_seconds: Some(LIFE_SECONDS), ..PebbleOptions::default() },
            ..StageOptions::default()
        };
        let mut stage = Stage::looking_with(options).await?;
        let limits = Limits::letsencrypt_divided_by(DIVISOR);
        let file = stage.signpost.write("limits.toml", limits.to_toml())?;
        stage.signpost.set("ca.pebble.limits_file", file.to_str().context("a path is text")?)?;
        stage.signpost.set("issuer.self_check", "off")?;
        stage.signpost.set("issuer.retry_seconds", seconds(&[0.06, 0.6, 6.0, 86.4]))?;
        stage.signpost.issuer(&["account", "create"]).await?.success()?;
        stage.proxy.limit(limits);
        for number in 0..FAILING {
            stage.pebble.dns().set_servfail(&failing(number)).await?;
        }
        apply(&stage, &names(48, 17)).await?;
        let daemons = [stage.start_daemon()?, stage.start_daemon()?];
        let began = Instant::now();
        let (mut grown, mut forced) = (false, 0_u64);
        while began.elapsed() < 3 * DAY {
            if began.elapsed() > DAY && !grown {
                // More than the busy domain has left.
                apply(&stage, &names(56, 30)).await?;
                grown = true;
            }
            let number = usize::try_from(forced)?;
            let waiting = format!("n{}.busy.example", 50 + number % 6);
            for name in [failing(number % FAILING), waiting] {
                // What is not there yet is refused, which is right.
                stage.signpost.issuer(&["retry", &name]).await?;
            }
            forced += 1;
            tokio::time::sleep(FORCED_EVERY).await;
        }

        let refused = stage.proxy.limiter(|limiter| limiter.refusals().to_vec()).context("a limiter")?;
        ensure!(refused.is_empty(), "{refused:?}");
        let healthy: Vec<String> = names(56, 30).into_iter().filter(|name| !name.contains("gone")).collect();
        for name in &healthy {
            let site = stage.site(name).await?;
            ensure!(site["state"] == "valid", "{name}: {site}");
        }
        let allowed = stage.proxy.limiter(|limiter| limiter.allowed.clone()).context("a limiter")?;
        println!("{allowed:?}, {}", stage.proxy.requests());
        // Each was renewed at least once, and as the CA wanted it.
        ensure!(allowed.get("ari").is_some_and(|count| *count >= 65), "{allowed:?}");
        // The failing ones: as often as they are tried by themselves, and as they were forced.
        let of_failing = stage.proxy.orders().iter().filter(|order| order.names[0].contains("gone")).count();
        ensure!(of_failing <= FAILING * 7 + usize::try_from(forced)?, "{of_failing} orders of what fails");
        let all = usize::try_from(stage.proxy.requests().of(Endpoint::NewOrder))?;
        let renewed = allowed.get("ari").copied().unwrap_or_default()
            + allowed.get("same-set").copied().unwrap_or_default();
        ensure!(all == healthy.len() + of_failing + usize::try_from(renewed)?, "{all} orders: {allowed:?}");
        for daemon in daemons {
            let mut daemon = daemon;
            daemon.process.terminate(Duration::from_secs(20)).await?;
        }
        Ok(())
    }
}
