//! A second ACME server beside Pebble, which shares nothing with it: it issues, names profiles, says when to renew, and revokes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    redis::{Redis, RedisOptions},
    second_ca::{SecondCa, Window},
    signpost::Signpost,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

struct Scene {
    signpost: Signpost,
    ca: SecondCa,
    _redis: Redis,
}

impl Scene {
    async fn open(window: Window) -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        let ca = SecondCa::start(window).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_store(&redis.url())?;
        let roots = ca.trusted_roots_file();
        signpost.set("ca.second.directory", ca.directory_url())?;
        signpost.set("ca.second.trusted_roots_file", roots.to_str().context("a path is text")?)?;
        signpost.set("ca.second.agree_to_terms", true)?;
        // It makes no account without one.
        signpost.set("ca.second.contact", vec!["mailto:tls@hoster.example"])?;
        signpost.set("ca.second.default", true)?;
        signpost.set("issuer.self_check", "off")?;
        let ring = signpost.key_encryption_key_file();
        let ring = ring.to_str().context("a temporary path is text")?;
        signpost.issuer(&["key", "generate", ring]).await?.success()?;
        signpost.issuer(&["account", "create"]).await?.success()?;
        Ok(Self { signpost, ca, _redis: redis })
    }

    async fn certificate(&self, name: &str) -> Result<Value> {
        let shown = self.signpost.issuer_json(&["status", name]).await?;
        Ok(shown["sites"][0]["certificates"][0].clone())
    }
}

fn moment(value: &Value) -> Result<Timestamp> {
    Ok(value.as_str().with_context(|| format!("no moment: {value}"))?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_issues_and_says_when_to_renew() -> Result<()> {
    let mut scene = Scene::open(Window::At(66)).await?;
    scene.signpost.set("ca.second.profile", "short")?;
    scene.signpost.issuer(&["issue", "a.example", "b.example", "--san", "--dual"]).await?.success()?;
    let certificate = scene.certificate("a.example").await?;
    ensure!(
        certificate["ca"] == "second" && certificate["names"].as_array().map(Vec::len) == Some(2),
        "{certificate}"
    );
    let renewal = &certificate["renewal"];
    ensure!(renewal["by"] == "ca", "{renewal}");
    let (start, end) = (moment(&renewal["window"]["start"])?, moment(&renewal["window"]["end"])?);
    let expected = moment(&certificate["not_before"])? + SignedDuration::from_hours(90 * 24 * 66 / 100);
    ensure!(start.duration_since(expected).abs() < SignedDuration::from_hours(1), "{renewal}");
    let planned = moment(&renewal["moment"])?;
    ensure!(start <= planned && planned < end, "{renewal}");
    // It wants to be asked again after six hours.
    let pause = moment(&renewal["asked_again"])?.duration_since(Timestamp::now());
    ensure!((SignedDuration::from_hours(5)..SignedDuration::from_hours(8)).contains(&pause), "{renewal}");
    scene.signpost.issuer(&["revoke", "a.example", "--reason", "superseded"]).await?.success()?;
    scene.ca.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_it_lacks_is_not_asked_for() -> Result<()> {
    let mut scene = Scene::open(Window::At(66)).await?;
    scene.signpost.set("ca.second.profile", "eternal")?;
    scene.signpost.set("ca.second.profile_required", true)?;
    let refused = scene.signpost.issuer(&["issue", "a.example"]).await?.with_code(1)?;
    ensure!(refused.stderr.contains("it has classic, short"), "{}", refused.stderr);
    ensure!(scene.ca.requests_of("/acme/neworders") == 0, "{}", scene.ca.log());
    scene.signpost.set("ca.second.profile_required", false)?;
    scene.signpost.issuer(&["issue", "a.example"]).await?.success()?;
    ensure!(scene.ca.requests_of("/acme/neworders") == 1, "{}", scene.ca.log());
    scene.ca.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_wants_renewed_at_once_is_renewed_once() -> Result<()> {
    let scene = Scene::open(Window::AtOnce).await?;
    scene.signpost.issuer(&["issue", "a.example"]).await?.success()?;
    let first = scene.certificate("a.example").await?;
    ensure!(first["renewal"]["by"] == "ca", "{first}");
    let end = moment(&first["renewal"]["window"]["end"])?;
    until_true("the window is over", LIMIT, || async { Timestamp::now() > end }).await?;
    let mut daemon = scene.signpost.start_issuer().await?;
    // Spread over an hour at most; an operator does not wait for it.
    scene.signpost.issuer(&["renew", "a.example"]).await?.success()?;
    until_true("it is renewed", LIMIT, || async {
        scene.certificate("a.example").await.is_ok_and(|now| now["serial"] != first["serial"])
    })
    .await?;
    let second = scene.certificate("a.example").await?;
    // The new one's window is over as well; it is not renewed again and again.
    let planned = moment(&second["renewal"]["moment"])?;
    ensure!(planned > Timestamp::now() + SignedDuration::from_mins(5), "{second}");
    ensure!(scene.ca.requests_of("/acme/neworders") == 2, "{}", scene.ca.log());
    daemon.process.terminate(Duration::from_secs(20)).await?;
    scene.ca.end().await
}
