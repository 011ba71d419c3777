//! Role `challenge`: what the CA's validators get, what everybody else gets, and what happens when Redis goes away.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{until, until_true},
    raw_http::{Answer, connect, exchange, read_answer},
    redis::{Redis, RedisOptions},
    signpost::{Daemon, Signpost},
};

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
const OTHER: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
const KEY_AUTHORIZATION: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";
const PATH: &str = "/.well-known/acme-challenge/";
const LIMIT: Duration = Duration::from_secs(20);

/// A Redis with one token, and the role in front of it. No key material is anywhere: the keyring's file doesn't exist.
struct Stage {
    redis: Redis,
    signpost: Signpost,
    daemon: Daemon,
}

impl Stage {
    async fn start(cache_seconds: i64) -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        redis.command(&["SET", &format!("sp:token:{TOKEN}"), KEY_AUTHORIZATION, "EX", "600"]).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_store(&redis.url())?;
        signpost.set("challenge.cache_seconds", cache_seconds)?;
        ensure!(!signpost.directory().join("kek").exists(), "there is a keyring");
        let daemon = signpost.start_challenge().await?;
        Ok(Self { redis, signpost, daemon })
    }

    fn get(&self, path: &str) -> Result<Answer> {
        send(self.daemon.address, &format!("GET {path} HTTP/1.1\r\nhost: a.example\r\n\r\n"))
    }

    fn token(&self, token: &str) -> Result<Answer> {
        self.get(&format!("{PATH}{token}"))
    }

    /// How often Redis was asked for a value.
    async fn lookups(&self) -> Result<u64> {
        let text: String = redis::from_redis_value(self.redis.command(&["INFO", "commandstats"]).await?)?;
        let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
        let calls = line.and_then(|rest| rest.split(',').next()).map_or(Ok(0), str::parse);
        Ok(calls?)
    }

    async fn readiness(&self) -> Option<u16> {
        monitoring::ready_status(self.daemon.telemetry).await
    }
}

/// Asks the page for monitoring.
mod monitoring {
    use std::net::SocketAddr;

    use harness::raw_http::{connect, exchange};

    pub(super) async fn ready_status(telemetry: SocketAddr) -> Option<u16> {
        let mut stream = connect(telemetry).ok()?;
        let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        Some(exchange(&mut stream, request).ok()??.status)
    }
}

fn send(address: SocketAddr, request: &str) -> Result<Answer> {
    exchange(&mut connect(address)?, request.as_bytes())?.context("closed without an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_gets_exactly_the_key_authorization() -> Result<()> {
    let stage = Stage::start(5).await?;
    let answer = stage.token(TOKEN)?;
    ensure!(answer.status == 200 && answer.body == KEY_AUTHORIZATION.as_bytes(), "{answer:?}");
    ensure!(answer.header("content-type") == Some("application/octet-stream"), "{answer:?}");
    ensure!(answer.header("content-length") == Some("87"), "{answer:?}");
    ensure!(answer.header("cache-control") == Some("no-store"), "{answer:?}");
    ensure!(answer.header("transfer-encoding").is_none(), "{answer:?}");
    for request in [
        // The CA keeps a query over a redirect; whatever host it was sent to, the answer is the same.
        format!("GET {PATH}{TOKEN}?a=b HTTP/1.1\r\nhost: b.example\r\n\r\n"),
        format!("GET {PATH}{TOKEN} HTTP/1.0\r\n\r\n"),
        format!("GET http://c.example{PATH}{TOKEN} HTTP/1.1\r\nhost: [2001:db8::1]\r\n\r\n"),
    ] {
        let answer = send(stage.daemon.address, &request)?;
        ensure!(answer.status == 200 && answer.text() == KEY_AUTHORIZATION, "{request}: {answer:?}");
    }
    let head = send(stage.daemon.address, &format!("HEAD {PATH}{TOKEN} HTTP/1.1\r\nhost: a\r\n\r\n"))?;
    ensure!(head.status == 200 && head.header("content-length") == Some("87"), "{head:?}");
    ensure!(stage.lookups().await? == 2, "one at the start, one for all of these");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_prefix_and_both_address_families() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    redis.command(&["SET", &format!("sp:token:{TOKEN}"), KEY_AUTHORIZATION]).await?;
    let mut signpost = Signpost::new()?;
    signpost.use_store(&redis.url())?;
    let port = harness::ports::free_port_on(&["127.0.0.1".parse()?, "::1".parse()?])?;
    signpost.set("challenge.listen", vec![format!("[::]:{port}")])?;
    signpost.set("challenge.second_prefix", "/")?;
    signpost.set("challenge.workers", 3)?;
    let _daemon = signpost.start_challenge().await?;
    for host in ["127.0.0.1", "[::1]"] {
        for path in ["/", PATH] {
            let request = format!("GET {path}{TOKEN} HTTP/1.1\r\nhost: a\r\n\r\n");
            let answer = send(format!("{host}:{port}").parse()?, &request)?;
            ensure!(answer.text() == KEY_AUTHORIZATION, "{host} {path}: {answer:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_requests_change_nothing_and_never_reach_redis() -> Result<()> {
    let stage = Stage::start(600).await?;
    ensure!(stage.token(TOKEN)?.status == 200);
    let (lookups, mut random) = (stage.lookups().await?, Random(0x9e37_79b9_7f4a_7c15));
    let mut counts = [0_u32; 3];
    for number in 0..10_000 {
        let request = hostile(number, &mut random);
        let answer = exchange(&mut connect(stage.daemon.address)?, &request)?;
        let shown = || String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
        match answer {
            None => counts[0] += 1,
            Some(answer) => {
                ensure!(matches!(answer.status, 400 | 404 | 431), "{}: {answer:?}", shown());
                ensure!(answer.header("content-length") == Some("0"), "{}: {answer:?}", shown());
                ensure!(
                    answer.head.len() < 200 && !answer.head.contains("hostile"),
                    "{}: {answer:?}",
                    shown()
                );
                counts[if answer.status == 404 { 1 } else { 2 }] += 1;
            }
        }
    }
    ensure!(counts[1] > 4_000 && counts[2] > 1_000, "closed, not found, bad request: {counts:?}");
    ensure!(stage.lookups().await? == lookups, "Redis was asked");
    ensure!(stage.token(TOKEN)?.text() == KEY_AUTHORIZATION, "a token is answered as before");
    stage.daemon.process.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_headers_and_slow_clients_are_cut_off_and_hold_nobody_up() -> Result<()> {
    let stage = Stage::start(600).await?;
    let head = format!("GET {PATH}{TOKEN} HTTP/1.1\r\nhost: a\r\n");
    let many: String = (0..5_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    for flood in [many, long] {
        let answer = exchange(&mut connect(stage.daemon.address)?, format!("{head}{flood}\r\n").as_bytes())?;
        ensure!(
            answer.as_ref().is_none_or(|a| matches!(a.status, 400 | 431) && a.body.is_empty()),
            "{answer:?}"
        );
    }
    // A hundred clients that never end their request: each is told to go, or just closed, and none is waited for.
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(stage.daemon.address)?;
        stream.write_all(head.as_bytes())?;
        slow.push(stream);
    }
    let started = Instant::now();
    ensure!(stage.token(TOKEN)?.status == 200);
    ensure!(started.elapsed() < Duration::from_secs(1), "an honest client waited {:?}", started.elapsed());
    for mut stream in slow {
        let answer = read_answer(&mut stream, false)?;
        ensure!(answer.is_none_or(|answer| answer.status == 408 && answer.body.is_empty()));
        ensure!(stream.read(&mut [0])? == 0, "the connection is still open");
    }
    ensure!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_stopped_in_the_middle() -> Result<()> {
    // No answer is fresh: each would be confirmed by Redis if it could be.
    let mut stage = Stage::start(0).await?;
    ensure!(stage.token(TOKEN)?.status == 200);
    ensure!(stage.token(OTHER)?.status == 404);
    stage.redis.stop().await?;
    for _ in 0..50 {
        let seen = stage.token(TOKEN)?;
        ensure!(seen.status == 200 && seen.text() == KEY_AUTHORIZATION, "{seen:?}");
    }
    for token in [OTHER, &"a".repeat(64)] {
        let unseen = stage.token(token)?;
        ensure!(unseen.status == 503 && unseen.body.is_empty(), "{unseen:?}");
        ensure!(unseen.header("retry-after") == Some("1"), "{unseen:?}");
    }
    ensure!(stage.get("/")?.status == 404, "what is no token needs no Redis");
    until_true("not ready", LIMIT, async || stage.readiness().await == Some(503)).await?;
    stage.redis.start_again().await?;
    until_true("ready again", LIMIT, async || stage.readiness().await == Some(200)).await?;
    ensure!(stage.token(TOKEN)?.status == 200 && stage.token(OTHER)?.status == 404);

    // One that is there and says nothing is worse than one that is gone.
    stage.redis.pause()?;
    for _ in 0..3 {
        let started = Instant::now();
        let seen = stage.token(TOKEN)?;
        ensure!(
            seen.status == 200 && started.elapsed() < Duration::from_secs(2),
            "{:?} {seen:?}",
            started.elapsed()
        );
    }
    let started = Instant::now();
    ensure!(stage.token(OTHER)?.status == 503, "a silent store was taken for an empty one");
    ensure!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    stage.redis.resume()?;
    until_true("ready again", LIMIT, async || stage.readiness().await == Some(200)).await?;
    ensure!(stage.token(OTHER)?.status == 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_redis_has_no_more_is_forgotten() -> Result<()> {
    let mut stage = Stage::start(1).await?;
    ensure!(stage.token(TOKEN)?.status == 200);
    stage.redis.command(&["DEL", &format!("sp:token:{TOKEN}")]).await?;
    until_true("forgotten", LIMIT, async || stage.token(TOKEN).is_ok_and(|answer| answer.status == 404))
        .await?;
    // For good: not even a failing store brings it back.
    stage.redis.stop().await?;
    ensure!(stage.token(TOKEN)?.status == 503);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_at_the_start_is_waited_for() -> Result<()> {
    let mut redis = Redis::start(RedisOptions::default()).await?;
    redis.command(&["SET", &format!("sp:token:{TOKEN}"), KEY_AUTHORIZATION]).await?;
    redis.stop().await?;
    let mut signpost = Signpost::new()?;
    signpost.use_store(&redis.url())?;
    let mut started = signpost.start_run("validation-server", &["challenge"])?;
    let (address, telemetry) = (listen(&signpost, "challenge")?, listen(&signpost, "telemetry")?);
    until("not ready", LIMIT, async || (monitoring::ready_status(telemetry).await? == 503).then_some(()))
        .await?;
    let request = format!("GET {PATH}{TOKEN} HTTP/1.1\r\nhost: a\r\n\r\n");
    ensure!(send(address, &request)?.status == 503);
    // Asks a program to look at its files again: this one has none.
    started.process.signal(rustix::process::Signal::HUP)?;
    redis.start_again().await?;
    until("ready", LIMIT, async || (monitoring::ready_status(telemetry).await? == 200).then_some(())).await?;
    ensure!(send(address, &request)?.text() == KEY_AUTHORIZATION);
    ensure!(started.process.terminate(LIMIT).await?.code() == Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_could_lose_tokens_is_refused() -> Result<()> {
    let options = RedisOptions { maxmemory_policy: "allkeys-lru", ..RedisOptions::default() };
    let redis = Redis::start(options).await?;
    let mut signpost = Signpost::new()?;
    signpost.use_store(&redis.url())?;
    let run = signpost.run("validation-server", &["challenge"], LIMIT).await?.with_code(2)?;
    ensure!(run.stderr.contains("noeviction"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_answers_what_was_asked() -> Result<()> {
    let mut stage = Stage::start(5).await?;
    let mut idle = connect(stage.daemon.address)?;
    let request = format!("GET {PATH}{OTHER} HTTP/1.1\r\nhost: a\r\n\r\n");
    ensure!(exchange(&mut idle, request.as_bytes())?.is_some_and(|answer| answer.status == 404));
    // This one waits for a Redis that says nothing.
    stage.redis.pause()?;
    let mut asking = connect(stage.daemon.address)?;
    let unanswered = stage.lookups_in_flight(&mut asking, &request).await?;
    stage.daemon.process.signal(rustix::process::Signal::TERM)?;
    let answer = read_answer(&mut asking, false)?.context("the open request was dropped")?;
    ensure!(unanswered && answer.status == 503, "{answer:?}");
    let exit = stage.daemon.process.wait(Duration::from_secs(6)).await?;
    ensure!(exit.code() == Some(0), "{exit:?}");
    ensure!(idle.read(&mut [0])? == 0, "the idle connection is still open");
    stage.redis.resume()
}

impl Stage {
    /// Sends a request that can't be answered for now; true once the server has read it.
    async fn lookups_in_flight(&self, stream: &mut std::net::TcpStream, request: &str) -> Result<bool> {
        stream.write_all(request.as_bytes())?;
        let local = stream.local_addr()?;
        until_true("the request was read", LIMIT, async || unread_bytes(local) == Some(0)).await?;
        Ok(true)
    }
}

/// Bytes that lie in the server's socket unread, for the connection from `client`.
fn unread_bytes(client: SocketAddr) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let peer = format!(":{:04X}", client.port());
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, unread) = fields.get(4)?.split_once(':')?;
        // As the server's side sees it: the client is the remote end.
        fields.get(2)?.ends_with(&peer).then(|| u64::from_str_radix(unread, 16).ok())?
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_configuration_are_all_named() -> Result<()> {
    let mut signpost = Signpost::new()?;
    signpost.run("validation-server", &["challenge", "--check"], LIMIT).await?.success()?;
    signpost.set("challenge.second_prefix", "token")?;
    signpost.set("challenge.listen", toml::Value::Array(Vec::new()))?;
    for arguments in [&["challenge", "--check"][..], &["challenge"]] {
        let run = signpost.run("validation-server", arguments, LIMIT).await?.with_code(2)?;
        for key in ["challenge.second_prefix", "challenge.listen"] {
            ensure!(run.stderr.contains(key), "{}", run.stderr);
        }
    }
    signpost.run("validation-server", &["everything"], LIMIT).await?.with_code(2)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() -> Result<()> {
    let stage = Stage::start(5).await?;
    let run = stage.signpost.run("validation-server", &["challenge"], LIMIT).await?.with_code(1)?;
    ensure!(run.stderr.contains(&stage.daemon.address.to_string()), "{}", run.stderr);
    Ok(())
}

/// An address out of the configuration that the programs read.
fn listen(signpost: &Signpost, what: &str) -> Result<SocketAddr> {
    let config = shared::config::Config::load(Some(signpost.config_path()))?;
    Ok(match what {
        "telemetry" => config.telemetry.address_of(shared::config::Program::Challenge),
        _ => *config.challenge.listen.first().context("no address")?,
    })
}

/// A request that nobody honest sends. The same ones in every run.
fn hostile(number: u32, random: &mut Random) -> Vec<u8> {
    const PARTS: [&str; 24] = [
        "..",
        "%2e%2e",
        "%2f",
        "%00",
        "\\",
        "//",
        "/",
        "%",
        "%zz",
        "%0d%0a",
        "hostile",
        "?",
        "#",
        ";",
        "%c0%af",
        "<script>",
        "{p00}",
        "*",
        "sp:token:",
        "%252e",
        ".",
        "~",
        "'\"",
        "$(id)",
    ];
    let bytes =
        |random: &mut Random, count: usize| -> Vec<u8> { (0..count).map(|_| random.byte()).collect() };
    let path: Vec<u8> = match number % 10 {
        // Traversal and encodings in every order.
        0..=3 => {
            let mut path = PATH.as_bytes().to_vec();
            for _ in 0..1 + random.below(8) {
                path.extend_from_slice(PARTS[random.below(PARTS.len())].as_bytes());
            }
            path
        }
        // A real token, spoiled by one byte that no token has.
        4 => {
            let mut token = TOKEN.as_bytes().to_vec();
            token[random.below(TOKEN.len())] = b"/.%+=~!$&'()*,;:@"[random.below(17)];
            [PATH.as_bytes(), &token].concat()
        }
        // Too short, too long.
        5 => [PATH, &"a".repeat(random.below(16))].concat().into_bytes(),
        6 => [PATH, &"a".repeat(129 + random.below(3_000))].concat().into_bytes(),
        // A real token somewhere else.
        7 => format!("/{}/{TOKEN}", PARTS[random.below(PARTS.len())]).into_bytes(),
        // Bytes, NUL and line ends among them.
        8 => [PATH.as_bytes(), &bytes(random, 40)].concat(),
        _ => {
            let count = 1 + random.below(200);
            let mut garbage = bytes(random, count);
            garbage.extend_from_slice(b"\r\n\r\n");
            return garbage;
        }
    };
    let method = ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "hostile"]
        [random.below(10)];
    let mut request = format!("{method} ").into_bytes();
    request.extend_from_slice(&path);
    request
        .extend_from_slice(b" HTTP/1.1\r\nhost: hostile\r\nx-hostile: hostile\r\nconnection: close\r\n\r\n");
    request
}

/// xorshift64: random enough, and the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[5]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }
}
