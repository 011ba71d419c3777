//! The hook: each event once, one after the other, whatever the program does.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use harness::deadline::{until, until_true};
use serde_json::Value;
use shared::domain::{EventKind, FailureClass};

use crate::{LIMIT, Scene, event, failed};

/// A shell script whose standard input is the event; `$OUT` is the file that [`lines`] reads.
fn use_hook(scene: &mut Scene, script: &str) -> Result<()> {
    let out = scene.signpost.write("hook.out", "")?;
    let text = format!("#!/bin/sh\nOUT={}\n{script}\n", out.display());
    let path = scene.signpost.write("hook.sh", text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    scene.signpost.set("notify.hook", vec![path.display().to_string(), "an argument".into()])
}

fn lines(scene: &Scene) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(scene.signpost.directory().join("hook.out"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

async fn lines_once(scene: &Scene, count: usize) -> Result<Vec<String>> {
    until(&format!("{count} lines"), LIMIT, || async {
        lines(scene).ok().filter(|lines| lines.len() >= count)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_gets_each_event_on_its_standard_input() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    use_hook(&mut scene, "[ \"$1\" = 'an argument' ] && cat >> \"$OUT\"")?;
    let node = scene.start().await?;
    let first = scene.append(&failed("a.example", FailureClass::Caa, 1)?).await?;
    scene.append(&failed("a.example", FailureClass::Caa, 2)?).await?;
    let last = scene.append(&event(EventKind::Issued, "b.example")?).await?;
    lines_once(&scene, 2).await?;
    node.stop().await?;
    let told = lines(&scene)?;
    ensure!(told.len() == 2, "a repetition is not told: {told:?}");
    let told: Vec<Value> = told.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    ensure!(told[0]["id"] == first.to_string() && told[1]["id"] == last.to_string(), "{told:#?}");
    ensure!(told[0]["remedy"] == "Allow the CA in the CAA record." && told[0]["v"] == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_is_run_again_and_then_left_alone() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    use_hook(
        &mut scene,
        "cat > /dev/null; echo \"$SIGNPOST_EVENT_KIND\" >> \"$OUT\"; [ \"$SIGNPOST_EVENT_KIND\" != expired ]",
    )?;
    let node = scene.start().await?;
    scene.append(&event(EventKind::Expired, "a.example")?).await?;
    scene.append(&event(EventKind::StoreBack, "b.example")?).await?;
    let told = lines_once(&scene, 4).await?;
    ensure!(told == ["expired", "expired", "expired", "store-back"], "{told:?}");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_is_killed_with_what_it_started() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    use_hook(
        &mut scene,
        "[ $SIGNPOST_EVENT_KIND = issued ] && { echo done >> $OUT; exit; }\nsleep 1000 &\necho $! >> $OUT\nwait",
    )?;
    let node = scene.start().await?;
    scene.append(&event(EventKind::Expired, "a.example")?).await?;
    lines_once(&scene, 1).await?;
    scene.append(&event(EventKind::Issued, "b.example")?).await?;
    let told = lines_once(&scene, 4).await?;
    ensure!(told[3] == "done", "{told:?}");
    for pid in &told[..3] {
        let pid: u32 = pid.parse().context("a process id")?;
        let stat = format!("/proc/{pid}/stat");
        // A zombie that nobody has collected yet has ended too.
        let ended = || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
        until_true("the sleeper has ended", LIMIT, || async { ended() }).await?;
    }
    node.stop().await
}
