//! Pages: every site and every event once, whatever the size of the page.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shared::domain::SiteId;
use tokio::task::JoinSet;

use crate::service::Service;

const SITES: usize = 120;

/// Site `n`: every tenth has three names, each with a certificate of its own; the tags count to seven.
fn wish(n: usize) -> Value {
    let mut names = vec![format!("n{n}.example.com")];
    if n.is_multiple_of(10) {
        names.extend(["a", "b"].map(|sub| format!("{sub}.n{n}.example.com")));
    }
    json!({"names": names, "tags": [format!("t{}", n % 7)], "tenant": if n < 20 { "few" } else { "many" }})
}

/// All pages of a question: how often each site was shown, by its first name.
async fn walk(service: &Service, token: &str, query: &str, limit: usize) -> Result<BTreeMap<String, usize>> {
    let mut seen = BTreeMap::new();
    let mut after = String::new();
    let mut last = String::new();
    loop {
        let line = format!("GET /sites?limit={limit}{query}{after}");
        let page = service.ask(&line, token, None).await?.with(200)?;
        let sites = page.body["sites"].as_array().context("sites")?;
        ensure!(sites.len() <= limit, "{} sites on a page of {limit}", sites.len());
        for site in sites {
            let id = site["id"].as_str().context("an id")?;
            ensure!(*id > *last, "{id} after {last}");
            last = id.to_owned();
            let names = site["names"].as_array().context("names")?;
            let shortest =
                names.iter().filter_map(Value::as_str).min_by_key(|name| name.len()).context("names")?;
            *seen.entry(shortest.to_owned()).or_default() += 1;
            ensure!(site["groups"].as_array().map(Vec::len) == Some(names.len()), "{site:#}");
        }
        let Some(next) = page.body["next"].as_str() else { return Ok(seen) };
        after = format!("&after={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_site_and_every_event_is_on_one_page() -> Result<()> {
    let service = std::sync::Arc::new(Service::start().await?);
    let token = service.token("panel", "write").await?;
    let before = service.ask("GET /events", &token, None).await?.with(200)?;
    let mut work = JoinSet::new();
    for part in 0..8 {
        let (service, token) = (service.clone(), token.clone());
        work.spawn(async move {
            for n in (part..SITES).step_by(8) {
                service.ask("POST /sites", &token, Some(&wish(n))).await?.with(201)?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    work.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;

    let expected = |passes: &dyn Fn(usize) -> bool| -> BTreeMap<String, usize> {
        (0..SITES).filter(|n| passes(*n)).map(|n| (format!("n{n}.example.com"), 1)).collect()
    };
    for limit in [3, 50, 120, 1000] {
        ensure!(walk(&service, &token, "", limit).await? == expected(&|_| true), "pages of {limit}");
    }
    ensure!(walk(&service, &token, "&tag=t3", 5).await? == expected(&|n| n % 7 == 3));
    ensure!(walk(&service, &token, "&tenant=few&tag=t0", 2).await? == expected(&|n| n < 20 && n % 7 == 0));
    ensure!(walk(&service, &token, "&state=pending", 100).await? == expected(&|_| true));
    ensure!(walk(&service, &token, "&state=issued", 100).await?.is_empty());

    fail_some(&service, &token).await?;
    let failing = |n: usize| n < 12;
    ensure!(walk(&service, &token, "&state=failing", 5).await? == expected(&failing));
    ensure!(
        walk(&service, &token, "&state=failing&tag=t1", 1).await? == expected(&|n| failing(n) && n % 7 == 1)
    );
    ensure!(walk(&service, &token, "&state=pending", 100).await? == expected(&|n| !failing(n)));
    let status = service.ask("GET /status", &token, None).await?.with(200)?;
    ensure!(
        status.body["failing"] == 12 && status.body["groups"] == SITES + SITES.div_ceil(10) * 2,
        "{status:#?}"
    );
    let nudged = service.ask("POST /retry", &token, None).await?.with(202)?;
    ensure!(nudged.body == json!({"site": null, "groups": 12}), "{nudged:#?}");
    let status = service.ask("GET /status", &token, None).await?.with(200)?;
    let ready = status.body["ready"]["operator"].as_u64().unwrap_or(0);
    ensure!(ready == 12 || status.body["overdue"].as_u64() >= Some(12), "{status:#?}");

    for limit in [5, 120, 1000] {
        let mut cursor = before.body["cursor"].as_str().context("a cursor")?.to_owned();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let line = format!("GET /events?limit={limit}&kind=site-added&after={cursor}");
            let page = service.ask(&line, &token, None).await?.with(200)?;
            let events = page.body["events"].as_array().context("events")?;
            ensure!(events.len() <= limit && page.body["lost"] == json!([]), "{page:#?}");
            for event in events {
                *seen.entry(event["id"].as_str().context("an id")?.to_owned()).or_default() += 1;
            }
            if page.body["more"] == false {
                break;
            }
            cursor = page.body["cursor"].as_str().context("a cursor")?.to_owned();
        }
        ensure!(seen.len() == SITES && seen.values().all(|times| *times == 1), "{} of {limit}", seen.len());
    }
    let newest = service.ask("GET /events?limit=3", &token, None).await?.with(200)?;
    ensure!(newest.body["events"].as_array().map(Vec::len) == Some(3), "{newest:#?}");
    Ok(())
}

/// The first twelve fail, as a worker notes it.
async fn fail_some(service: &Service, token: &str) -> Result<()> {
    let failure = json!({"at": "2026-11-24T00:00:00Z", "count": 1, "fault": "customer", "class": "dns",
        "what": "no address", "remedy": "add one"});
    for n in 0..12 {
        let line = format!("GET /sites/n{n}.example.com");
        let site = service.ask(&line, token, None).await?.with(200)?;
        let id = site.body["id"].as_str().and_then(SiteId::parse).context("an id")?;
        let base = format!("sp:{{{}}}:", id.partition());
        let failure = failure.to_string();
        service.redis.command(&["HSET", &format!("{base}site:{id}"), "failure", &failure]).await?;
        service.redis.command(&["ZADD", &format!("{base}failing"), "1764000000000", id.as_str()]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_can_not_be_is_refused() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "read").await?;
    for query in [
        "sites?limit=0",
        "sites?limit=1001",
        "sites?limit=x",
        "sites?limt=5",
        "sites?state=fine",
        "sites?after=x",
        "sites?after=00000000000000000000-1",
        "events?after=1,2",
        "events?kind=nothing",
        "events?limit=1001",
    ] {
        service.ask(&format!("GET /{query}"), &token, None).await?.refused(400, "bad-request")?;
    }
    Ok(())
}
