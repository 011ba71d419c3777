//! What a store may answer in the place of what was asked: refused logins, no room, no writes, another fleet's data, nothing at
//! all. Nothing sticks: `issuer run` says what is in the way while it is, and goes on by itself when it has gone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    daemon::SOON,
    deadline::until,
    redis::RedisOptions,
    signpost::{Daemon, Signpost},
    stage::{Stage, StageOptions},
};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);
/// The daemon's user, and one that the tests look in with.
const USERS: &str = "user default on nopass ~* &* +@all\nuser issuer on >one ~* &* +@all\n";

/// A daemon whose user is `issuer`, and a connection of the test's own that nothing refuses.
struct Scene {
    stage: Stage,
    _daemon: Daemon,
    admin: MultiplexedConnection,
}

impl Scene {
    async fn set_up() -> Result<Self> {
        let extra = "enable-debug-command yes\n".to_owned();
        let redis = RedisOptions { acl: Some(USERS.to_owned()), extra, ..RedisOptions::default() };
        let mut stage = Stage::trusting_with(StageOptions { redis, ..StageOptions::default() }).await?;
        let password = stage.signpost.write("redis.password", "one\n")?;
        stage.signpost.set("store.password_file", password.display().to_string())?;
        stage.signpost.use_store(&stage.redis.url_as("issuer", "").replace(":@", "@"))?;
        let daemon = stage.signpost.start_issuer().await?;
        let admin = stage.redis.connection().await?;
        Ok(Self { stage, _daemon: daemon, admin })
    }

    /// The ids of the connections of the daemon's user.
    async fn connections(&mut self) -> Result<Vec<String>> {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut self.admin).await?;
        let ours = list.lines().filter(|line| line.contains(" user=issuer "));
        Ok(ours.filter_map(|line| line.split([' ', '=']).nth(1).map(str::to_owned)).collect())
    }

    async fn tell(&mut self, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let mut command = redis::cmd(words.next().context("a command")?);
        words.for_each(|word| {
            command.arg(word);
        });
        let _: redis::Value = command.query_async(&mut self.admin).await.with_context(|| line.to_owned())?;
        Ok(())
    }

    /// Has Redis load its data again, and take so many microseconds for each key. The task ends with it.
    async fn load_slowly(&mut self, delay_us: u32) -> Result<JoinHandle<()>> {
        self.tell("CONFIG SET loading-process-events-interval-bytes 1024").await?;
        self.tell(&format!("CONFIG SET key-load-delay {delay_us}")).await?;
        let mut loader = self.stage.redis.connection().await?;
        Ok(tokio::spawn(async move {
            // It may take longer than an answer is waited for.
            let _: Result<(), _> = redis::cmd("DEBUG").arg("RELOAD").query_async(&mut loader).await;
        }))
    }

    async fn until_ready(&self, status: u16, word: &str) -> Result<()> {
        let what = format!("{status} {word}");
        until(&what, LIMIT, async || {
            let (found, why) = self.stage.signpost.readiness().await?;
            (found == status && why.contains(word)).then_some(())
        })
        .await
    }

    /// The daemon says what is in the way, and orders again once it has gone.
    async fn passes(&mut self, number: usize, begin: &[&str], word: &str, end: &[&str]) -> Result<()> {
        for line in begin {
            self.tell(line).await?;
        }
        self.until_ready(503, word).await.with_context(|| begin.join(", "))?;
        // Nor does anybody else change anything; only of one that does not answer it takes a while to find out.
        if word != "does not answer" {
            let wish = self.stage.signpost.issuer(&["site", "add", "meanwhile.example"]).await?;
            ensure!(wish.code()? != 0, "{begin:?}: something was changed meanwhile");
        }
        for line in end {
            self.tell(line).await?;
        }
        self.until_ready(200, "").await.with_context(|| end.join(", "))?;
        let name = format!("n{number}.example");
        self.stage.json(&["site", "add", &name]).await?;
        self.stage.until_valid(&name).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_sticks() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    let kill = "CLIENT KILL TYPE normal SKIPME yes";
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["ACL SETUSER issuer off", kill], "refuses", &["ACL SETUSER issuer on"]),
        (&["CONFIG SET maxclients 1", kill], "does not answer", &["CONFIG SET maxclients 10000"]),
        (&["ACL SETUSER issuer -@write"], "refuses", &["ACL SETUSER issuer +@all"]),
        (&["ACL SETUSER issuer -eval -evalsha -hset"], "refuses", &["ACL SETUSER issuer +@all"]),
        (&["REPLICAOF 127.0.0.1 1"], "takes no writes", &["REPLICAOF NO ONE"]),
        (&["CONFIG SET maxmemory 1mb"], "takes no writes", &["CONFIG SET maxmemory 0"]),
        (&["CONFIG SET min-replicas-to-write 1"], "takes no writes", &["CONFIG SET min-replicas-to-write 0"]),
        (
            &["CONFIG SET maxmemory-policy allkeys-lru"],
            "throw records away",
            &["CONFIG SET maxmemory-policy noeviction"],
        ),
    ];
    for (number, (begin, word, end)) in cases.iter().enumerate() {
        scene.passes(number, begin, word, end).await?;
    }

    // A server that reads its file again answers, and gives nothing.
    let reload = scene.load_slowly(100_000).await?;
    scene.until_ready(503, "does not answer").await?;
    reload.await?;
    scene.until_ready(200, "").await?;
    scene.tell("CONFIG SET key-load-delay 0").await?;
    scene.stage.json(&["site", "add", "loaded.example"]).await?;
    scene.stage.until_valid("loaded.example").await?;

    // A password that was changed on the server alone, and then in the file. Nothing is restarted.
    scene.tell("ACL SETUSER issuer resetpass >two").await?;
    scene.tell(kill).await?;
    scene.until_ready(503, "refuses").await?;
    scene.stage.signpost.write("redis.password", "two\n")?;
    scene.until_ready(200, "").await?;
    scene.stage.json(&["site", "add", "changed.example"]).await?;
    scene.stage.until_valid("changed.example").await?;

    // By the book nobody notices: the new one beside the old one, the file, the old one away.
    let before = scene.connections().await?;
    scene.tell("ACL SETUSER issuer >three").await?;
    scene.stage.signpost.write("redis.password", "three\n")?;
    scene.tell("ACL SETUSER issuer <two").await?;
    scene.stage.json(&["site", "add", "rotated.example"]).await?;
    scene.stage.until_valid("rotated.example").await?;
    let kept = scene.connections().await?;
    ensure!(before.iter().any(|id| kept.contains(id)), "{before:?} became {kept:?}");
    scene.tell(kill).await?;
    scene.until_ready(200, "").await?;
    scene.stage.json(&["site", "add", "dialled.example"]).await?;
    scene.stage.until_valid("dialled.example").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loads_its_data_is_waited_for() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    scene.stage.json(&["site", "add", "before.example"]).await?;
    scene.stage.until_valid("before.example").await?;
    // So slowly that somebody notices: some seconds for what is there.
    let loaded = scene.load_slowly(150_000).await?;
    scene.until_ready(503, "").await?;
    scene.until_ready(200, "").await?;
    loaded.abort();
    scene.stage.json(&["site", "add", "after.example"]).await?;
    scene.stage.until_valid("after.example").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_store_is_noticed_and_left_alone_until_somebody_acts() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    scene.stage.json(&["site", "add", "before.example"]).await?;
    scene.stage.until_valid("before.example").await?;
    let mut copy = Vec::new();
    for key in scene.stage.keys("*").await? {
        let value: Option<Vec<u8>> = redis::cmd("DUMP").arg(&key).query_async(&mut scene.admin).await?;
        copy.extend(value.map(|value| (key, value)));
    }
    scene.tell("FLUSHALL").await?;
    scene.until_ready(503, "was emptied").await?;
    scene.tell("FLUSHALL").await?;
    until("a look that finds it as it is", SOON, async || {
        let (status, _) = scene.stage.signpost.readiness().await?;
        (status == 503).then_some(())
    })
    .await?;
    // Who only looks leaves it as it is.
    for line in [&["status"][..], &["frontend", "list"], &["token", "list"], &["tls-policy", "show"]] {
        scene.stage.signpost.issuer(line).await?.success().with_context(|| format!("{line:?}"))?;
    }
    ensure!(scene.stage.keys("*").await?.is_empty(), "{:?}", scene.stage.keys("*").await?);
    // A copy is put back: it goes on. Another fleet's in its place: nothing is written.
    for (key, value) in &copy {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(0).arg(value).arg("REPLACE");
        let () = restore.query_async(&mut scene.admin).await?;
    }
    scene.until_ready(200, "").await?;
    let canary = "sp:vault:canary";
    let ours: Vec<u8> = redis::cmd("GET").arg(canary).query_async(&mut scene.admin).await?;
    let other = Signpost::new()?;
    other.issuer(&["tenant", "set", "theirs"]).await?.success()?;
    let theirs: Vec<u8> = redis::cmd("GET").arg(canary).query_async(&mut embedded(&other).await?).await?;
    let () = redis::cmd("SET").arg(canary).arg(theirs).query_async(&mut scene.admin).await?;
    scene.until_ready(503, "sealed with keys that this program lacks").await?;
    let wish = scene.stage.signpost.issuer(&["site", "add", "theirs.example"]).await?;
    ensure!(wish.code()? == 2, "{}", wish.stderr);
    let () = redis::cmd("SET").arg(canary).arg(ours).query_async(&mut scene.admin).await?;
    scene.until_ready(200, "").await?;
    scene.tell("FLUSHALL").await?;
    scene.until_ready(503, "was emptied").await?;
    // Whoever wants something begins anew; the daemon follows.
    scene.stage.json(&["site", "add", "after.example"]).await?;
    scene.until_ready(200, "").await?;
    scene.stage.until_valid("after.example").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_with_another_keyring_changes_nothing() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["shop.example"]).await?;
    let mut node = stage.signpost.another_node()?;
    let ring = node.directory().join("ring-of-another-fleet").display().to_string();
    node.issuer(&["key", "generate", &ring]).await?.success()?;
    node.set("store.key_encryption_key_file", ring.as_str())?;
    let file = node.write("sites.toml", "[[site]]\nnames = [\"other.example\"]\n")?.display().to_string();
    // Everything but what goes away by itself.
    let digest = async || -> Result<(Vec<String>, redis::Value)> {
        let mut connection = stage.redis.connection().await?;
        let (mut kept, mut all) = (Vec::new(), stage.keys("*").await?);
        all.sort();
        for key in all {
            let ttl: i64 = redis::cmd("TTL").arg(&key).query_async(&mut connection).await?;
            if ttl == -1 {
                kept.push(key);
            }
        }
        let mut question = redis::cmd("DEBUG");
        let values = question.arg("DIGEST-VALUE").arg(&kept).query_async(&mut connection).await?;
        Ok((kept, values))
    };
    let before = digest().await?;
    for line in [
        &["site", "add", "other.example"][..],
        &["site", "set", "shop.example", "--tag", "x"],
        &["site", "remove", "shop.example"],
        &["site", "pause", "shop.example"],
        &["apply", &file],
        &["pause", "issuance"],
        &["retry", "--all"],
        &["renew", "--all"],
        &["tenant", "set", "customer"],
        &["token", "add", "ops", "--role", "admin"],
        &["frontend", "add", "web1", "--scope", "*"],
        &["tls-policy", "set", "intermediate"],
        &["check", "shop.example"],
        &["issue", "other.example"],
    ] {
        let refused = node.issuer(line).await?.with_code(2)?;
        ensure!(
            refused.stderr.contains("not the one this store was sealed with"),
            "{line:?}: {}",
            refused.stderr
        );
        ensure!(digest().await? == before, "{line:?} changed something");
    }
    // What only reads may be asked by anybody, also without a keyring; but what it shows of what grants something it verifies.
    for exists in [true, false] {
        if !exists {
            std::fs::remove_file(&ring)?;
        }
        for line in [
            &["status"][..],
            &["store", "status"],
            &["site", "list"],
            &["plan", &file],
            &["events"],
            &["limits"],
            &["forecast"],
            &["key", "status"],
            &["account", "list"],
            &["tenant", "list"],
            &["delegation", "list"],
            &["sightings"],
        ] {
            node.issuer(line).await?.success().with_context(|| format!("{line:?}"))?;
        }
        for line in [
            &["frontend", "list"][..],
            &["token", "list"],
            &["tls-policy", "show"],
            &["status", "--fleet"],
            &["audit", "--verify"],
        ] {
            node.issuer(line).await?.with_code(2).with_context(|| format!("{line:?}"))?;
        }
    }
    ensure!(!std::path::Path::new(&ring).exists() && digest().await? == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_writes_is_read_all_the_same() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["shop.example"]).await?;
    let file = stage.signpost.write("sites.toml", "[[site]]\nnames = [\"other.example\"]\n")?;
    let file = file.display().to_string();
    let states: [(&[&str], &str, &[&str]); 3] = [
        (&["REPLICAOF", "127.0.0.1", "1"], "read only", &["REPLICAOF", "NO", "ONE"]),
        (&["CONFIG", "SET", "maxmemory", "1mb"], "maxmemory", &["CONFIG", "SET", "maxmemory", "0"]),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            "enough good replicas",
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
    ];
    for (begin, word, end) in states {
        stage.redis.command(begin).await?;
        for line in [
            &["status"][..],
            &["status", "shop.example"],
            &["store", "status"],
            &["site", "list"],
            &["site", "show", "shop.example"],
            &["plan", &file],
            &["events"],
            &["limits"],
            &["forecast"],
            &["key", "status"],
            &["account", "list"],
            &["frontend", "list"],
            &["tenant", "list"],
            &["token", "list"],
            &["delegation", "list"],
            &["sightings"],
            &["tls-policy", "show"],
        ] {
            let run = stage.signpost.issuer(line).await?;
            ensure!(run.code()? == 0, "{word}: {line:?}: {}", run.stderr);
            // `store status` is about that; for all others it is a note.
            let said = format!("{}{}", run.stdout, run.stderr).to_lowercase();
            ensure!(said.contains(word), "{line:?}: {word}: {said}");
        }
        let health = stage.json(&["store", "status"]).await?;
        ensure!(health["takes_writes"] == false, "{health:#}");
        stage.redis.command(end).await?;
    }
    ensure!(stage.json(&["store", "status"]).await?["takes_writes"] == true);
    Ok(())
}

/// Whoever wants a site before there is a keyring gets one, and can go on; so can whoever did so with an older release.
#[tokio::test(flavor = "multi_thread")]
async fn a_wish_before_the_keyring_is_no_dead_end() -> Result<()> {
    let signpost = Signpost::new()?;
    let made = async |name: &str| -> Result<()> {
        let added = signpost.issuer(&["tenant", "set", name]).await?.success()?;
        ensure!(added.stderr.contains("Back this file up"), "{}", added.stderr);
        Ok(())
    };
    made("first").await?;
    let ring = signpost.key_encryption_key_file();
    std::fs::remove_file(&ring)?;
    let lost = signpost.issuer(&["tenant", "set", "second"]).await?.with_code(2)?;
    ensure!(lost.stderr.contains("copy the file"), "another ring would not open it: {}", lost.stderr);
    // As an older release left it: wishes, and nothing that was sealed.
    let mut connection = embedded(&signpost).await?;
    let removed: u64 = redis::cmd("DEL").arg("sp:vault:canary").query_async(&mut connection).await?;
    ensure!(removed == 1);
    made("second").await
}

/// A connection to the embedded store, as an issuer.
async fn embedded(signpost: &Signpost) -> Result<MultiplexedConnection> {
    let store = signpost.state_dir().join("store");
    let password = std::fs::read_to_string(store.join("issuer.password"))?;
    let url =
        format!("redis+unix://{}?user=issuer&pass={}", store.join("redis.sock").display(), password.trim());
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection().await?)
}

/// A server that has no room for more connections than there are is no failure of what waits for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_little_room_serves_all_in_turn() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.slots", 32)?;
    let list: String = (0..40).map(|number| format!("[[site]]\nnames = [\"s{number}.example\"]\n")).collect();
    let file = stage.signpost.write("sites.toml", list)?.display().to_string();
    stage.json(&["apply", &file]).await?;
    // Of the test's own, before there is no more room: for the daemon's own connection and a few for its writes.
    let mut admin = stage.redis.connection().await?;
    let mut room_for = redis::cmd("CONFIG");
    let () = room_for.arg("SET").arg("maxclients").arg(8).query_async(&mut admin).await?;
    let daemon = stage.signpost.start_issuer().await?;
    until("all are issued", LIMIT, async || {
        let names: Vec<String> =
            redis::cmd("KEYS").arg("sp:name:*").query_async(&mut admin.clone()).await.ok()?;
        (names.len() == 40).then_some(())
    })
    .await?;
    let mut room_for = redis::cmd("CONFIG");
    let () = room_for.arg("SET").arg("maxclients").arg(1000).query_async(&mut admin).await?;
    let failed = stage.events(&["failed"]).await?;
    ensure!(failed.is_empty(), "{failed:#?}");
    daemon.process.assert_running()
}
