//! Who works on a site, or sleeps over it, while everything is sealed anew; and what is possible between two keys.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    deadline::until_true,
    redis_proxy::{Moment, Then, Trigger},
    signpost::{Signpost, Started},
    stage::{Fuse, Stage},
    stored::Stored,
};

use crate::scene::{
    LIMIT, add_key, everything_opens, is_rotated, killed, node_with_ring, open_orders_are_finished, ring,
    rotate, sealed_with, stage,
};

/// An issuer that has sealed a key with the old one, and is frozen before the store has heard of it. When it wakes it
/// writes the very same.
async fn frozen_before_it_writes(stage: &Stage, name: &str) -> Result<Started> {
    frozen(stage, &stage.signpost, name, ("finalizing", Moment::BeforeCommand, Then::Cut)).await
}

/// An issuer that is frozen before it asks which key seals.
async fn frozen_before_it_asks(stage: &Stage, node: &Signpost, name: &str) -> Result<Started> {
    frozen(stage, node, name, ("ready", Moment::Answered, Then::GoOn)).await
}

async fn frozen(
    stage: &Stage,
    node: &Signpost,
    name: &str,
    (state, moment, then): (&str, Moment, Then),
) -> Result<Started> {
    let fuse = Fuse::default();
    let freeze = fuse.clone();
    let act = move || {
        freeze.pause();
        then
    };
    let trigger = Trigger::on(&format!("\"state\":\"{state}\""), moment, act).and("EVALSHA");
    let fired = stage.redis_proxy.fired();
    stage.redis_proxy.add_trigger(trigger);
    let frozen = node.start_run("issuer", &["--json", "issue", name])?;
    fuse.attach(frozen.process.killer());
    until_true("it is frozen", LIMIT, || async { stage.redis_proxy.fired() > fired }).await?;
    Ok(frozen)
}

/// It writes what the old key has sealed after everybody else has changed: the rotation waits for it, and seals it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_worked_on_is_come_back_to() -> Result<()> {
    let mut stage = stage().await?;
    let old = ring(&stage.signpost)?.remove(0);
    stage.signpost.set("issuer.lease_seconds", 30)?;
    let frozen = frozen_before_it_writes(&stage, "slow.example").await?;
    let new = add_key(&stage.signpost).await?;
    let rotation = stage.signpost.start_run("issuer", &["--json", "key", "rotate"])?;
    until_true("the rotation waits for the site", LIMIT, || async {
        rotation.stderr().is_ok_and(|text| text.contains("waiting for 1 sites"))
    })
    .await?;
    rotation.process.assert_running()?;
    frozen.process.resume()?;
    frozen.wait(LIMIT).await?.success()?;
    rotation.wait(LIMIT).await?.success()?;
    ensure!(sealed_with(&stage, &old).await?.is_empty(), "what it sealed was sealed anew");
    stage.signpost.issuer(&["key", "retire", &old]).await?.success()?;
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    let served = Stored::open(stage.signpost.config_path()).await?.served("slow.example").await?;
    ensure!(served.len() == 1);
    served[0].verify(&root, &["slow.example"])?;
    ensure!(sealed_with(&stage, &new).await?.len() > 8);
    everything_opens(&stage).await
}

/// They sleep longer than their leases last: the rotation ends without them, and they can write nothing of the old key.
#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_through_the_rotation_writes_nothing_of_the_old_key() -> Result<()> {
    let stage = stage().await?;
    let old = ring(&stage.signpost)?.remove(0);
    let asleep = [
        ("sealed.example", frozen_before_it_writes(&stage, "sealed.example").await?),
        ("unsealed.example", frozen_before_it_asks(&stage, &stage.signpost, "unsealed.example").await?),
    ];
    let new = add_key(&stage.signpost).await?;
    rotate(&stage).await?;
    is_rotated(&stage, &old, &new).await?;
    stage.signpost.issuer(&["key", "retire", &old]).await?.success()?;
    for (name, frozen) in asleep {
        frozen.process.resume()?;
        let run = frozen.wait(LIMIT).await?.with_code(1).context(name)?;
        ensure!(run.stderr.contains("another issuer"), "{name}: {}", run.stderr);
        ensure!(sealed_with(&stage, &old).await?.is_empty(), "{name}");
        // Its order is gone on with.
        stage.issue(&[name]).await?;
        ensure!(stage.proxy.orders_for(&[name]).len() == 1, "{name}: the same order");
    }
    everything_opens(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_keys_either_ring_works_and_no_key_can_be_lost() -> Result<()> {
    let stage = stage().await?;
    let old = ring(&stage.signpost)?.remove(0);
    let nothing_newer = stage.signpost.issuer(&["key", "rotate"]).await?.with_code(2)?;
    ensure!(nothing_newer.stderr.contains("issuer key add"), "{}", nothing_newer.stderr);
    let needed = stage.signpost.issuer(&["key", "retire", &old]).await?.with_code(1)?;
    ensure!(needed.stderr.contains("new keys are sealed with it"), "{}", needed.stderr);
    let new = add_key(&stage.signpost).await?;
    let third = add_key(&stage.signpost).await?;

    let fuse = Fuse::default();
    let kill = fuse.clone();
    let act = move || {
        kill.kill9();
        Then::Cut
    };
    stage.redis_proxy.add_trigger(Trigger::on("\"phase\":\"verify\"", Moment::BeforeCommand, act));
    killed(&stage, &fuse, &["key", "rotate", "--to", &new]).await?;

    let shown = stage.signpost.issuer_json(&["key", "status", "--count"]).await?;
    ensure!(shown["current"] == new.as_str() && shown["decided_by"] == "store", "{shown:#}");
    ensure!(
        shown["rotation"]["from"] == old.as_str() && shown["rotation"]["to"] == new.as_str(),
        "{shown:#}"
    );
    ensure!(shown["sealed"]["sealed_with"][&new].as_u64().is_some_and(|count| count >= 8), "{shown:#}");
    let other = stage.signpost.issuer(&["key", "rotate", "--to", &third]).await?.with_code(2)?;
    ensure!(other.stderr.contains("is under way"), "{}", other.stderr);
    let early = stage.signpost.issuer(&["key", "retire", &old]).await?.with_code(1)?;
    ensure!(early.stderr.contains("is under way"), "{}", early.stderr);

    // A node with the old key alone may start, and must not seal.
    let behind = node_with_ring(&stage.signpost, |line| line.starts_with(&old))?;
    let refused = behind.issuer(&["issue", "behind.example"]).await?.with_code(1)?;
    ensure!(refused.stderr.contains("can't be opened"), "{}", refused.stderr);
    // One with the new key alone may, too.
    let ahead = node_with_ring(&stage.signpost, |line| line.starts_with(&new))?;
    ahead.issuer(&["issue", "ahead.example"]).await?.success()?;

    // The run goes on with the key of the one before, not with the newest.
    let rotated = rotate(&stage).await?;
    ensure!(rotated["to"] == new.as_str(), "{rotated:#}");
    ensure!(sealed_with(&stage, &old).await?.is_empty(), "something is sealed with the old key");
    let refused = behind.issuer(&["issue", "behind.example"]).await?.with_code(2)?;
    ensure!(refused.stderr.contains("is not the one this store was sealed with"), "{}", refused.stderr);
    let refused = behind.run("validation-server", &["certificates"], LIMIT).await?.with_code(2)?;
    ensure!(refused.stderr.contains("is not the one this store was sealed with"), "{}", refused.stderr);
    stage.signpost.issuer(&["key", "retire", &old]).await?.success()?;
    stage.signpost.issuer(&["key", "retire", &old]).await?.with_code(4)?;
    everything_opens(&stage).await?;
    open_orders_are_finished(&stage).await
}

/// A node that has the account's key open, and learns of the new key when it is about to seal.
#[tokio::test(flavor = "multi_thread")]
async fn a_ring_without_the_current_key_refuses_to_seal_and_keeps_the_order() -> Result<()> {
    let mut stage = stage().await?;
    stage.signpost.set("issuer.lease_seconds", 30)?;
    let old = ring(&stage.signpost)?.remove(0);
    let behind = node_with_ring(&stage.signpost, |line| line.starts_with(&old))?;
    let run = frozen_before_it_asks(&stage, &behind, "late.example").await?;
    let new = add_key(&stage.signpost).await?;
    let rotation = stage.signpost.start_run("issuer", &["--json", "key", "rotate"])?;
    until_true("the rotation waits for the site", LIMIT, || async {
        rotation.stderr().is_ok_and(|text| text.contains("waiting for 1 sites"))
    })
    .await?;
    run.process.resume()?;
    let run = run.wait(LIMIT).await?.with_code(1)?;
    ensure!(run.stderr.contains(&new) && run.stderr.contains("not in this node's ring"), "{}", run.stderr);
    rotation.wait(LIMIT).await?.success()?;
    ensure!(sealed_with(&stage, &old).await?.is_empty());
    let finished = stage.issue(&["late.example"]).await?;
    ensure!(finished["results"][0]["status"] == "issued", "{finished:#}");
    ensure!(stage.proxy.orders_for(&["late.example"]).len() == 1, "the same order");
    stage.redis.text_of("sp:vault:current").await.context("the store says which key seals")?;
    Ok(())
}

/// What is sealed with a key that a node lacks is neither the CA's fault nor lost: the order and its certificate are there for a node
/// that has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lacks_the_key_keeps_what_the_ca_has_issued() -> Result<()> {
    const NAME: &str = "late.example";
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.lease_seconds", 2)?;
    stage.issue(&["warm.example"]).await?;
    let old = ring(&stage.signpost)?.remove(0);
    let new = add_key(&stage.signpost).await?;
    // Ended when new keys are sealed with the new one, and the account's is sealed with the old one still.
    let fuse = Fuse::default();
    let kill = fuse.clone();
    let act = move || {
        kill.kill9();
        Then::Cut
    };
    stage.redis_proxy.add_trigger(Trigger::on("sp:vault:current", Moment::Answered, act).and("EVALSHA"));
    killed(&stage, &fuse, &["key", "rotate", "--to", &new]).await?;
    ensure!(stage.redis.text_of("sp:vault:current").await? == new);

    stage.json(&["site", "add", NAME]).await?;
    let lost = Action::problem(404, "malformed", "No such certificate");
    stage.proxy.add_rule(Rule::on(Endpoint::Certificate).for_name(NAME).does(lost));
    stage.issue_ending(1, &[NAME]).await?;
    stage.proxy.clear_rules();
    let behind = node_with_ring(&stage.signpost, |line| line.starts_with(&old))?;
    for _ in 0..3 {
        let run = behind.issuer(&["issue", NAME]).await?.with_code(1)?;
        ensure!(run.stderr.contains(&new) && run.stderr.contains("ring"), "{}", run.stderr);
        ensure!(run.stderr.contains("can't be opened here"), "{}", run.stderr);
        let site = stage.site(NAME).await?;
        ensure!(site["order"]["ecdsa"] == "issued", "{site:#}");
    }
    let finished = stage.issue(&[NAME]).await?;
    ensure!(finished["results"][0]["status"] == "issued", "{finished:#}");
    ensure!(stage.proxy.orders_for(&[NAME]).len() == 1, "it was ordered anew");
    Ok(())
}
