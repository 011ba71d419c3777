//! Thousands of publications while the agent is killed at any moment, and on a disk that is full: whoever follows the link once
//! reads a pair that belongs together.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::deadline::until_true;
use openssl::{pkey::PKey, x509::X509};

use super::{SERVED, Scene};

const SITES: usize = 50;
/// So many publications, or those that `SIGNPOST_PUBLICATIONS` says.
const PUBLICATIONS: usize = 1_000;

/// Follows links and reads pairs, as a web server does that opens the directory once.
struct Readers {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Result<()>>>,
}

impl Readers {
    fn start(live: &Path) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..2)
            .map(|_| {
                let (live, stop, reads) = (live.to_owned(), Arc::clone(&stop), Arc::clone(&reads));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        for entry in live.read_dir()? {
                            read(&entry?.path(), &reads)?;
                        }
                        thread::yield_now();
                    }
                    Ok(())
                })
            })
            .collect();
        Self { stop, reads, threads }
    }

    /// How many pairs were read; an error for one that did not belong together.
    fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a reader has panicked")??;
        }
        Ok(self.reads.load(Ordering::Relaxed))
    }
}

/// A pair by the link, which is resolved once.
fn read(link: &Path, reads: &AtomicU64) -> Result<()> {
    if link.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
        return Ok(());
    }
    let target =
        std::fs::read_link(link).with_context(|| format!("{} was gone for a moment", link.display()))?;
    let version = link.parent().context("a directory")?.join(target);
    // Two publications later a reader is too late: what it finds then is nothing, never something else.
    let (Ok(fullchain), Ok(privkey)) =
        (std::fs::read(version.join("fullchain.pem")), std::fs::read(version.join("privkey.pem")))
    else {
        return Ok(());
    };
    let certificate =
        X509::from_pem(&fullchain).with_context(|| format!("{}: half a certificate", version.display()))?;
    let key =
        PKey::private_key_from_pem(&privkey).with_context(|| format!("{}: half a key", version.display()))?;
    ensure!(certificate.public_key()?.public_eq(&key), "{}: a mixed pair", version.display());
    reads.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// The certificates that are live, by their SHA-256.
fn live(scene: &Scene) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in scene.of_agent("live").read_dir()? {
        let certificate = X509::from_pem(&std::fs::read(entry?.path().join("fullchain.pem"))?)?;
        found.push(crate::fleet::hex(&certificate.digest(openssl::hash::MessageDigest::sha256())?));
    }
    found.sort();
    Ok(found)
}

/// Waits until what is live is what the centre has.
async fn until_converged(scene: &Scene, names: &[String]) -> Result<()> {
    let mut wanted: Vec<String> =
        names.iter().map(|name| scene.wanted(name, "ecdsa")).collect::<Result<_>>()?;
    wanted.sort();
    let agent = || scene.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default();
    until_true("all is live as the centre has it", SERVED, || {
        std::future::ready(live(scene).is_ok_and(|live| live == wanted))
    })
    .await
    .with_context(agent)
}

async fn renew(scene: &Scene, names: &[String]) -> Result<()> {
    for name in names {
        scene.fleet.add_site(&[name], &[], super::ECDSA).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_no_pair_is_ever_mixed() -> Result<()> {
    let mut scene = Scene::new(&[]).await?;
    let mut names = vec![super::SHOP.to_owned()];
    names.extend((1..SITES).map(|number| format!("n{number}.example.com")));
    renew(&scene, &names[1..]).await?;
    scene.sync().await?;
    let rounds =
        std::env::var("SIGNPOST_PUBLICATIONS").ok().map_or(Ok(PUBLICATIONS), |text| text.parse())? / SITES;
    let readers = Readers::start(&scene.of_agent("live"));
    let mut kills = 0;
    for round in 0..rounds {
        scene.start_agent()?;
        // Killed anywhere between its start and its last rename of this round.
        let renewed = renew(&scene, &names);
        let lives = Duration::from_millis(40 + (round as u64 * 97) % 400);
        let (renewed, ()) = tokio::join!(renewed, tokio::time::sleep(lives));
        renewed?;
        if let Some(mut agent) = scene.agent.take() {
            agent.process.kill9().await?;
            kills += 1;
        }
    }
    scene.start_agent()?;
    until_converged(&scene, &names).await?;
    let reads = readers.end()?;
    println!("{} renewals, {kills} kills, {reads} pairs read, none of them mixed", rounds * SITES);
    ensure!(reads > 100 && kills == rounds, "{reads} reads, {kills} kills");
    Ok(())
}

/// A file system of its own, that ends with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, kib: u32) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        let size = format!("size={kib}k,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).status()?;
        ensure!(mounted.success(), "a small disk needs root: mount -t tmpfs");
        Ok(Self(at))
    }

    /// Takes all that is left.
    fn fill(&self) {
        let filler = std::fs::File::create(self.0.join("filler"));
        let taken = filler.and_then(|mut file| std::io::copy(&mut std::io::repeat(0), &mut file));
        debug_assert!(taken.is_err());
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_what_is_live_stays_and_space_is_all_it_needs() -> Result<()> {
    let mut scene = Scene::new(&[]).await?;
    let disk = SmallDisk::mount(scene.path("disk"), 2048)?;
    scene.set("directory", disk.0.join("agent").display().to_string())?;
    let mut names = vec![super::SHOP.to_owned()];
    names.extend((1..20).map(|number| format!("n{number}.example.com")));
    renew(&scene, &names[1..]).await?;
    let live_in = disk.0.join("agent/live");
    scene.fleet.signpost.agent(&["sync"]).await?.success()?;
    std::os::unix::fs::symlink(disk.0.join("agent"), scene.path("agent"))?;
    let before = live(&scene)?;
    ensure!(before.len() == names.len());
    let readers = Readers::start(&live_in);
    disk.fill();
    scene.start_agent()?;
    renew(&scene, &names).await?;
    let agent = scene.agent.as_ref().context("no agent")?;
    until_true("the agent says that the disk is full", SERVED, || {
        std::future::ready(agent.stderr().is_ok_and(|text| text.contains("No space left on device")))
    })
    .await?;
    ensure!(live(&scene)? == before, "something was published on a full disk, or taken away");
    disk.free()?;
    until_converged(&scene, &names).await?;
    ensure!(readers.end()? > 100);
    let status: serde_json::Value =
        scene.fleet.signpost.agent(&["--json", "status"]).await?.success()?.json()?;
    ensure!(status["failed"] == serde_json::json!({}), "{status:#}");
    Ok(())
}
