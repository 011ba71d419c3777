//! The feed: everything once, then every change once, to whom it concerns; long-polls; cursors that count no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{deadline::until_true, raw_http::Answer, signpost::Daemon};
use serde_json::Value;
use shared::domain::{KeyType, Partition, Right, SiteId};

use crate::fleet::{CERTS, Fleet, Identity, KEYS, ask};

const LIMIT: Duration = Duration::from_secs(20);
const ECDSA: &[KeyType] = &[KeyType::EcdsaP256];

/// A frontend that follows: what it has, by id, and how far it has come.
struct Follower<'a> {
    fleet: &'a Fleet,
    daemon: &'a Daemon,
    identity: Identity,
    cursor: String,
    has: BTreeMap<String, Value>,
}

impl<'a> Follower<'a> {
    fn new(fleet: &'a Fleet, daemon: &'a Daemon, identity: &Identity) -> Self {
        let (cursor, has) = (String::new(), BTreeMap::new());
        Self { fleet, daemon, identity: identity.clone(), cursor, has }
    }

    fn ask(&self, more: &str) -> Result<Answer> {
        let path = format!("/v1/changes?cursor={}{more}", self.cursor);
        self.fleet.get(self.daemon.address, &self.identity, &path)
    }

    /// Asks until there is no more, and answers what was said: `put ID` and `del ID`, in that order.
    fn catch_up(&mut self, more: &str) -> Result<Vec<String>> {
        let mut said = Vec::new();
        loop {
            let answer = self.ask(more)?;
            ensure!(answer.status == 200, "{answer:?}");
            ensure!(answer.header("cache-control") == Some("no-store"), "{answer:?}");
            ensure!(!answer.text().contains("PRIVATE"), "metadata only");
            let page: Value = serde_json::from_slice(&answer.body)?;
            self.cursor = page["cursor"].as_str().context("no cursor")?.to_owned();
            for item in page["items"].as_array().context("no items")? {
                let id = item["id"].as_str().context("no id")?.to_owned();
                let op = item["op"].as_str().context("no op")?;
                said.push(format!("{op} {id}"));
                match op {
                    "put" => drop(self.has.insert(id, item.clone())),
                    _ => drop(self.has.remove(&id)),
                }
            }
            if page["more"] != true {
                return Ok(said);
            }
        }
    }

    /// Whoever does not wait hears at once of what was written before it asked.
    fn catch_up_to(&mut self, expected: &[String]) -> Result<()> {
        let said = self.catch_up("")?;
        let (said, expected): (BTreeSet<&String>, BTreeSet<&String>) =
            (said.iter().collect(), expected.iter().collect());
        ensure!(said == expected, "{said:?}, expected {expected:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_once_and_then_each_change_once() -> Result<()> {
    let fleet = Fleet::new().await?;
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(fleet.add_site(&[&format!("s{number}.a.example.com")], &[], ECDSA).await?.to_string());
        fleet.add_site(&[&format!("s{number}.b.example.com")], &[], ECDSA).await?;
    }
    let edge = fleet.add_frontend("edge", &["*.a.example.com"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    for pages in ["&limit=1", "&limit=7", ""] {
        let mut follower = Follower::new(&fleet, &daemon, &edge);
        until_true("the feed is followed", LIMIT, async || {
            follower.ask("").is_ok_and(|answer| answer.status == 200)
        })
        .await?;
        let said = follower.catch_up(pages)?;
        let wanted: BTreeSet<String> = ids.iter().map(|id| format!("put {id}")).collect();
        ensure!(said.len() == 30 && said.into_iter().collect::<BTreeSet<_>>() == wanted, "{pages}");
        ensure!(follower.catch_up(pages)?.is_empty());
        let listed: Value =
            serde_json::from_slice(&fleet.get(daemon.address, &edge, "/v1/certificates")?.body)?;
        for item in listed["items"].as_array().context("no items")? {
            let mut followed = follower.has[item["id"].as_str().context("no id")?].clone();
            followed.as_object_mut().context("no object")?.remove("op");
            ensure!(followed == *item, "the feed and the listing say the same: {followed} {item}");
        }
    }
    let mut follower = Follower::new(&fleet, &daemon, &edge);
    follower.catch_up("")?;
    let before = follower.has[&ids[3]].clone();
    // Renewed twice, another one once, and one that is none of its business.
    for name in ["s3.a.example.com", "s3.a.example.com", "s4.a.example.com", "s3.b.example.com"] {
        fleet.add_site(&[name], &[], ECDSA).await?;
    }
    until_true("both changes are there", LIMIT, || {
        ready(follower.catch_up("").is_ok() && follower.has[&ids[3]]["version"] != before["version"])
    })
    .await?;
    let text = String::from_utf8(serde_json::to_vec(&follower.has)?)?;
    ensure!(!text.contains("b.example.com"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_scope_is_let_go_of_by_those_who_had_it_alone() -> Result<()> {
    let fleet = Fleet::new().await?;
    let site = fleet.add_site(&["shop.example.com"], &["eu"], ECDSA).await?;
    let other = fleet.add_site(&["other.example.com"], &["eu"], ECDSA).await?;
    let eu = fleet.add_frontend("eu", &[], &["eu"], CERTS).await?;
    let us = fleet.add_frontend("us", &[], &["us"], CERTS).await?;
    let asia = fleet.add_frontend("asia", &[], &["asia"], CERTS).await?;
    let daemon = fleet.start().await?;
    let mut followers: Vec<Follower<'_>> =
        [&eu, &us, &asia].into_iter().map(|identity| Follower::new(&fleet, &daemon, identity)).collect();
    until_true("the feed is followed", LIMIT, async || {
        followers[0].ask("").is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    for follower in &mut followers {
        follower.catch_up("")?;
    }
    let late = Follower { cursor: followers[0].cursor.clone(), ..Follower::new(&fleet, &daemon, &eu) };

    fleet.change_site(&site, |wanted| wanted.tags = vec!["us".to_owned()]).await?;
    let (put, del) = (format!("put {site}"), format!("del {site}"));
    followers[1].catch_up_to(std::slice::from_ref(&put))?;
    ensure!(followers[0].catch_up("")? == std::slice::from_ref(&del));
    ensure!(followers[2].catch_up("")?.is_empty(), "who never saw it hears nothing of it");

    // A name in it that this frontend's patterns don't cover: by tag alone.
    fleet.retire_site(&site).await?;
    followers[1].catch_up_to(std::slice::from_ref(&del))?;
    ensure!(followers[0].catch_up("")?.is_empty(), "it was told already");
    fleet.retire_site(&other).await?;
    followers[0].catch_up_to(&[format!("del {other}")])?;
    // One who slept through all of it.
    let mut late = late;
    let mut said = late.catch_up("")?;
    said.sort();
    let mut expected = vec![del, format!("del {other}")];
    expected.sort();
    ensure!(said == expected, "{said:?}");
    // And one who begins.
    let mut new = Follower::new(&fleet, &daemon, &eu);
    ensure!(new.catch_up("")?.is_empty() && new.has.is_empty());

    // Wanted again: everybody concerned hears of it.
    fleet.add_site(&["shop.example.com"], &["eu"], ECDSA).await?;
    until_true("it is back", LIMIT, || {
        ready(followers[0].catch_up("").is_ok() && followers[0].has.contains_key(site.as_str()))
    })
    .await?;
    ensure!(
        followers[1].catch_up("")?.iter().all(|said| said.starts_with("del")),
        "not in its scope any more"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_frontend_is_told_at_once_and_one_that_was_revoked_is_sent_away() -> Result<()> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&["shop.a.example.com"], &[], ECDSA).await?;
    let edge = fleet.add_frontend("edge", &["*.a.example.com"], &[], CERTS).await?;
    let token = fleet.add_frontend("token", &["*.a.example.com"], &[], CERTS).await?;
    let key = fleet.add_frontend_with_key("key", &["*.a.example.com"], KEYS).await?;
    let moved = fleet.add_frontend("moved", &["*.a.example.com"], &[], CERTS).await?;
    let mut daemon = fleet.start().await?;
    let mut follower = Follower::new(&fleet, &daemon, &edge);
    until_true("the feed is followed", LIMIT, async || {
        follower.ask("").is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    follower.catch_up("")?;

    // Nothing of its own happens: an empty answer at the end, with a cursor that has moved on.
    let before = follower.cursor.clone();
    let started = Instant::now();
    let waiting = wait_for(&fleet, &daemon, &edge, &before, 2);
    fleet.add_site(&["shop.b.example.com"], &[], ECDSA).await?;
    let page: Value = serde_json::from_slice(&waiting.join().expect("no panic")?.body)?;
    ensure!(page["items"] == serde_json::json!([]) && started.elapsed() >= Duration::from_secs(2), "{page}");
    follower.catch_up("")?;
    ensure!(follower.cursor != before);

    let waiting = wait_for(&fleet, &daemon, &edge, &follower.cursor, 30);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let changed = Instant::now();
    fleet.add_site(&["new.a.example.com"], &[], ECDSA).await?;
    let answer = waiting.join().expect("no panic")?;
    ensure!(answer.status == 200 && answer.text().contains("new.a.example.com"), "{answer:?}");
    ensure!(changed.elapsed() < Duration::from_secs(10), "it need not have waited to the end");

    for (name, identity) in [("token", &token), ("key", &key)] {
        let mut follower = Follower::new(&fleet, &daemon, identity);
        follower.catch_up("")?;
        let waiting = wait_for(&fleet, &daemon, identity, &follower.cursor, 30);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let started = Instant::now();
        fleet.revoke(name).await?;
        let answer = waiting.join().expect("no panic")?;
        ensure!(answer.status == 401 && started.elapsed() < Duration::from_secs(10), "{name}: {answer:?}");
    }
    // One whose scope becomes another one is told to begin again.
    let mut follower = Follower::new(&fleet, &daemon, &moved);
    follower.catch_up("")?;
    let waiting = wait_for(&fleet, &daemon, &moved, &follower.cursor, 30);
    fleet.add_frontend("moved", &["*.b.example.com"], &[], CERTS).await?;
    let answer = waiting.join().expect("no panic")?;
    ensure!(answer.status == 410 && answer.text().contains(r#""resync":"scope""#), "{answer:?}");

    // So many at once, and no more; another frontend is not held up by them.
    let mut follower = Follower::new(&fleet, &daemon, &edge);
    follower.catch_up("")?;
    let waiting: Vec<_> = (0..9).map(|_| wait_for(&fleet, &daemon, &edge, &follower.cursor, 30)).collect();
    until_true("one is too many", LIMIT, async || waiting.iter().any(std::thread::JoinHandle::is_finished))
        .await?;
    // Told to end, it answers those who wait.
    daemon.process.terminate(LIMIT).await?;
    let mut statuses: Vec<u16> = waiting
        .into_iter()
        .map(|one| one.join().expect("no panic").map(|answer| answer.status))
        .collect::<Result<_>>()?;
    statuses.sort_unstable();
    ensure!(statuses == [200, 200, 200, 200, 200, 200, 200, 200, 429], "{statuses:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_which_nothing_can_be_said_is_refused() -> Result<()> {
    let fleet = Fleet::new().await?;
    let id = fleet.add_site(&["shop.example.com"], &[], ECDSA).await?;
    for number in 0..3 {
        fleet.add_site(&[&format!("s{number}.example.com")], &[], ECDSA).await?;
    }
    let edge = fleet.add_frontend("edge", &["*"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let mut follower = Follower::new(&fleet, &daemon, &edge);
    until_true("the feed is followed", LIMIT, async || {
        follower.ask("").is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    follower.catch_up("")?;
    for bad in ["x", "a.b.c.d", "..", "%00"] {
        let answer = fleet.get(daemon.address, &edge, &format!("/v1/changes?cursor={bad}"))?;
        ensure!(answer.status == 400, "{bad}: {answer:?}");
    }
    let refused = async |follower: &Follower<'_>, why: &str| {
        until_true(&format!("refused because of {why}"), LIMIT, async || {
            follower.ask("").is_ok_and(|answer| {
                answer.status == 410 && answer.text().contains(&format!(r#""resync":"{why}""#))
            })
        })
        .await
    };
    // A failover.
    fleet.redis.command(&["HINCRBY", "sp:epoch", "n", "1"]).await?;
    refused(&follower, "epoch").await?;
    follower.cursor.clear();
    ensure!(follower.catch_up("")?.len() == 4);
    // Its rights are others.
    fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    refused(&follower, "scope").await?;
    follower.cursor.clear();
    follower.catch_up("")?;
    // Deletions that it hasn't heard of are forgotten.
    let partition = Partition::all().nth(id.partition().number()).context("a partition")?;
    let state = format!("sp:{{{partition}}}:feed-state");
    fleet.redis.command(&["HSET", &state, "floor", "100", "seq", "200"]).await?;
    refused(&follower, "compacted").await?;
    follower.cursor.clear();
    ensure!(follower.catch_up("")?.len() == 4);
    // The store has lost something, and nobody noticed.
    fleet.redis.command(&["HSET", &state, "seq", "150"]).await?;
    refused(&follower, "epoch").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_no_empty_answer() -> Result<()> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&["shop.example.com"], &[], ECDSA).await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let path = "/v1/changes";
    until_true("the feed is followed", LIMIT, async || {
        fleet.get(daemon.address, &edge, path).is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    fleet.redis.pause()?;
    for _ in 0..5 {
        let answer = fleet.get(daemon.address, &edge, path)?;
        ensure!(answer.status == 503 && answer.header("retry-after").is_some(), "{answer:?}");
    }
    fleet.redis.resume()?;
    until_true("it is answered again", LIMIT, async || {
        fleet.get(daemon.address, &edge, path).is_ok_and(|answer| answer.status == 200)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_changes_that_cant_be_read_holds_nobody_and_loses_nothing() -> Result<()> {
    let fleet = Fleet::new().await?;
    let mut of_partitions: BTreeMap<usize, Vec<(String, SiteId)>> = BTreeMap::new();
    for number in 0..30 {
        let name = format!("s{number}.example.com");
        let id = fleet.add_site(&[&name], &[], ECDSA).await?;
        of_partitions.entry(id.partition().number()).or_default().push((name, id));
    }
    let several = of_partitions.values().find(|sites| sites.len() > 1).context("two of a partition")?.clone();
    let others = of_partitions.values().find(|sites| sites[0].1 != several[0].1).context("another one")?;
    let (first, second, other) = (&several[0], &several[1], &others[0]);
    let partition = first.1.partition();
    let edge = fleet.add_frontend("edge", &["*"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let mut follower = Follower::new(&fleet, &daemon, &edge);
    until_true("the feed is followed", LIMIT, async || {
        follower.ask("").is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    follower.catch_up("")?;
    let late = follower.cursor.clone();
    // What only the lists say: that one is gone.
    fleet.retire_site(&second.1).await?;

    let feed = format!("sp:{{{partition}}}:feed");
    for key in [format!("{feed}:0"), feed] {
        fleet.redis.command(&["DEL", &key]).await?;
        fleet.redis.command(&["SET", &key, "rubbish"]).await?;
        // What changes is told, in this partition and in others; and who begins gets everything.
        for (name, id) in [first, other] {
            fleet.add_site(&[name.as_str()], &[], ECDSA).await?;
            let said = follower.catch_up("")?;
            ensure!(said.contains(&format!("put {id}")), "{key}: {said:?}");
        }
        let mut new = Follower::new(&fleet, &daemon, &edge);
        new.catch_up("&limit=7")?;
        ensure!(
            new.has.len() == 29 && !new.has.contains_key(second.1.as_str()),
            "{key}: {:?}",
            new.has.keys()
        );

        let damage = fleet.store.damage_of_feed(partition).await?;
        ensure!(damage.found.iter().any(|found| found.key == key), "{key}: {damage:?}");
        fleet.store.mend_feed(partition, &damage).await?;
        let damage = fleet.store.damage_of_feed(partition).await?;
        ensure!(damage.is_none(), "{key}: {damage:?}");
        // Who went on behind it hears of what went, nobody of what stays.
        let mut late = Follower { cursor: late.clone(), ..Follower::new(&fleet, &daemon, &edge) };
        let said = late.catch_up("")?;
        let gone: Vec<&String> = said.iter().filter(|said| said.starts_with("del")).collect();
        ensure!(
            !gone.is_empty() && gone.iter().all(|gone| **gone == format!("del {}", second.1)),
            "{said:?}"
        );
        follower.catch_up("")?;
        let mut new = Follower::new(&fleet, &daemon, &edge);
        new.catch_up("")?;
        ensure!(new.has == follower.has && new.has.len() == 29, "{key}: {:?}", new.has.keys());
    }
    Ok(())
}

/// A certificate that a frontend is given only for names that its site no longer wants is no way around its scope.
#[tokio::test(flavor = "multi_thread")]
async fn powers_are_those_of_the_moment() -> Result<()> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&["shop.a.example.com"], &[], ECDSA).await?;
    let nothing = fleet.add_frontend("nothing", &["*"], &[], &[] as &[Right]).await?;
    let daemon = fleet.start().await?;
    let mut follower = Follower::new(&fleet, &daemon, &nothing);
    until_true("the feed is followed", LIMIT, async || {
        follower.ask("").is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    ensure!(follower.catch_up("")?.is_empty() && follower.has.is_empty());
    Ok(())
}

/// One request that waits, on a thread of its own.
fn wait_for(
    fleet: &Fleet,
    daemon: &Daemon,
    identity: &Identity,
    cursor: &str,
    seconds: u64,
) -> std::thread::JoinHandle<Result<Answer>> {
    let stream = fleet.connect(daemon.address, identity);
    let (identity, path) = (identity.clone(), format!("/v1/changes?cursor={cursor}&wait={seconds}"));
    std::thread::spawn(move || match stream {
        Ok(mut stream) => ask(&mut stream, &identity, "GET", &path, ""),
        Err(error) => bail!(error),
    })
}
