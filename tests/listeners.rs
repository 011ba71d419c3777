//! Clients who hold connections, drip, send nonsense or say nothing: what they cost is bounded and over in time, and nobody
//! else waits for it. On the challenge role; the other listeners have the same way in.

use std::{
    future::ready,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    raw_http::{connect, exchange, read_answer},
    redis::{Redis, RedisOptions},
    signpost::{Daemon, Signpost},
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
const KEY_AUTHORIZATION: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";
const PATH: &str = "/.well-known/acme-challenge/";
const LIMIT: Duration = Duration::from_secs(20);

struct Stage {
    _redis: Redis,
    _signpost: Signpost,
    daemon: Daemon,
}

impl Stage {
    async fn start(settings: &[(&str, toml::Value)]) -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        redis.command(&["SET", &format!("sp:token:{TOKEN}"), KEY_AUTHORIZATION, "EX", "600"]).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_store(&redis.url())?;
        for (key, value) in settings {
            signpost.set(key, value.clone())?;
        }
        let daemon = signpost.start_challenge().await?;
        Ok(Self { _redis: redis, _signpost: signpost, daemon })
    }

    fn connect(&self) -> Result<TcpStream> {
        Ok(connect(self.daemon.address)?)
    }

    async fn connect_from(&self, client: Ipv4Addr) -> Result<TcpStream> {
        connect_from(client.into(), self.daemon.address).await
    }

    /// What everybody else gets meanwhile.
    fn assert_answers(&self) -> Result<()> {
        let answer = exchange(&mut self.connect()?, get(TOKEN).as_bytes())?.context("no answer")?;
        ensure!(answer.status == 200 && answer.text() == KEY_AUTHORIZATION, "{answer:?}");
        Ok(())
    }

    async fn metric(&self, name: &str) -> Result<u64> {
        let url = format!("http://{}/metrics", self.daemon.telemetry);
        let page = reqwest::Client::builder().no_proxy().build()?.get(url).send().await?.text().await?;
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.with_context(|| format!("no {name}: {page}"))?.trim().parse()?)
    }
}

async fn connect_from(client: IpAddr, server: SocketAddr) -> Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    let stream = socket.connect(server).await?.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn get(token: &str) -> String {
    format!("GET {PATH}{token} HTTP/1.1\r\nhost: a.example\r\n\r\n")
}

/// Whether the server has ended the connection; false while it is open and silent.
fn is_closed(stream: &mut TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0; 512]);
    stream.set_nonblocking(false)?;
    Ok(match read {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_keeps_back_is_not_waited_for() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    // Answered before it was heard to the end: closed, whatever would have come.
    for head in ["transfer-encoding: chunked\r\n\r\n", "content-length: 1000000\r\n\r\nabc"] {
        let started = Instant::now();
        let mut stream = stage.connect()?;
        let request = format!("POST {PATH}{TOKEN} HTTP/1.1\r\nhost: a\r\n{head}");
        let answer = exchange(&mut stream, request.as_bytes())?.context("no answer")?;
        ensure!(answer.status == 404 && answer.header("connection") == Some("close"), "{answer:?}");
        ensure!(stream.read(&mut [0])? == 0, "it is still open");
        ensure!(started.elapsed() < LIMIT / 2, "{:?}", started.elapsed());
    }
    // One whose body comes along is not.
    let mut stream = stage.connect()?;
    let whole = format!("{}{}", get(TOKEN), get("short"));
    stream.write_all(whole.as_bytes())?;
    ensure!(read_answer(&mut stream, false)?.is_some_and(|answer| answer.status == 200));
    ensure!(read_answer(&mut stream, false)?.is_some_and(|answer| answer.status == 404), "sent in advance");

    // A second head that comes byte by byte, a first one that does not come, one that stops, and one behind an endless
    // sequence of line ends.
    let mut dripping = stage.connect()?;
    ensure!(exchange(&mut dripping, get(TOKEN).as_bytes())?.is_some_and(|answer| answer.status == 200));
    let mut blank = stage.connect()?;
    let mut silent = [stage.connect()?, stage.connect()?];
    silent[1].write_all(b"GET / HT")?;
    let started = Instant::now();
    let mut head = get(TOKEN).into_bytes().into_iter();
    let mut is_dripping = [true, true];
    until_true("both are cut off", LIMIT, || {
        if is_dripping[0] {
            let byte = head.next().unwrap_or(b'x');
            is_dripping[0] = dripping.write_all(&[byte]).is_ok() && !is_cut(&mut dripping);
        }
        if is_dripping[1] {
            is_dripping[1] = blank.write_all(b"\r\n").is_ok() && !is_cut(&mut blank);
        }
        std::thread::sleep(Duration::from_millis(100));
        ready(is_dripping == [false, false])
    })
    .await?;
    ensure!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // One that was kept in reserve hears no answer that nobody has asked for, and is no slow one.
    let [mut reserve, mut stopped] = silent;
    ensure!(reserve.read(&mut [0])? == 0, "a word to who said nothing");
    let answer = read_answer(&mut stopped, false)?.context("nothing was said")?;
    ensure!(answer.status == 408 && stopped.read(&mut [0])? == 0, "{answer:?}");
    ensure!(stage.metric("signpost_connection_faults_total{fault=\"slow\"}").await? == 3);
    stage.assert_answers()
}

/// Whether something came back: the request was given up.
fn is_cut(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).is_ok() && {
        let read = stream.read(&mut [0; 512]);
        stream.set_nonblocking(false).is_err()
            || !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_and_crowds_of_requests() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    // Who has said all is answered.
    let mut half = stage.connect()?;
    half.write_all(get(TOKEN).as_bytes())?;
    half.shutdown(Shutdown::Write)?;
    ensure!(read_answer(&mut half, false)?.is_some_and(|answer| answer.text() == KEY_AUTHORIZATION));
    ensure!(half.read(&mut [0])? == 0);
    // Sent in advance, and answered one after the other.
    let mut stream = stage.connect()?;
    stream.write_all(get(TOKEN).repeat(50).as_bytes())?;
    for number in 0..50 {
        let answer = read_answer(&mut stream, false)?.with_context(|| format!("answer {number}"))?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    // Who takes no answers is not read on: sooner or later it can send no more.
    let mut greedy = stage.connect()?;
    greedy.set_write_timeout(Some(Duration::from_millis(500)))?;
    let requests = get(TOKEN).repeat(500);
    let sent = (0..2_000).take_while(|_| greedy.write_all(requests.as_bytes()).is_ok()).count();
    ensure!(
        sent < 2_000,
        "it took {} MiB of requests whose answers nobody takes",
        (sent * requests.len()) >> 20
    );
    stage.assert_answers()?;
    // Nonsense has no line of the log for itself.
    let lines = || stage.daemon.process.log().lines().count();
    let before = lines();
    for _ in 0..100 {
        let answer = exchange(&mut stage.connect()?, b"\x16\x03\x01 nonsense\r\n\r\n")?;
        ensure!(answer.is_none_or(|answer| answer.status == 400));
    }
    until_true("all are counted", LIMIT, async || {
        stage
            .metric("signpost_connection_faults_total{fault=\"malformed\"}")
            .await
            .is_ok_and(|count| count >= 100)
    })
    .await?;
    ensure!(lines() < before + 5, "{}", stage.daemon.process.log_tail());
    stage.assert_answers()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_and_takes_them_from_nobody_else() -> Result<()> {
    let settings = [
        ("challenge.max_connections_per_address", toml::Value::from(20)),
        ("challenge.unlimited_addresses", toml::Value::from(vec!["127.0.0.3/32"])),
    ];
    let mut stage = Stage::start(&settings).await?;
    let (greedy, balancer) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    // Some are refused before they are there.
    let mut held = Vec::new();
    for _ in 0..50 {
        held.extend(stage.connect_from(greedy).await.ok());
    }
    until_true("thirty are refused", LIMIT, || {
        held.retain_mut(|stream| is_closed(stream).is_ok_and(|closed| !closed));
        ready(held.len() == 20)
    })
    .await?;
    ensure!(stage.metric("signpost_connection_faults_total{fault=\"too_many\"}").await? == 30);
    stage.assert_answers()?;
    let mut held_by_balancer = Vec::new();
    for _ in 0..50 {
        held_by_balancer.push(stage.connect_from(balancer).await?);
    }
    let mut one_more = stage.connect_from(balancer).await?;
    ensure!(exchange(&mut one_more, get(TOKEN).as_bytes())?.is_some_and(|answer| answer.status == 200));
    // A place that is free again is anybody's.
    held.truncate(0);
    until_true("a place is free", LIMIT, async || {
        let Ok(mut stream) = stage.connect_from(greedy).await else { return false };
        exchange(&mut stream, get(TOKEN).as_bytes()).is_ok_and(|answer| answer.is_some())
    })
    .await?;
    // Told to end, it waits for nobody who has asked nothing.
    let started = Instant::now();
    ensure!(stage.daemon.process.terminate(LIMIT).await?.code() == Some(0));
    ensure!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_for_another_connection_those_go_that_say_nothing() -> Result<()> {
    let stage = Stage::start(&[]).await?;
    stage.assert_answers()?;
    let pid = Pid::from_raw(stage.daemon.process.pid().try_into()?).context("a child has an id")?;
    let used = std::fs::read_dir(format!("/proc/{}/fd", stage.daemon.process.pid()))?.count();
    let most = u64::try_from(used)? + 20;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?;
    let mut held = Vec::new();
    for number in 0..60_u8 {
        held.push(stage.connect_from(Ipv4Addr::new(127, 0, 1, number)).await?);
    }
    until_true("the system has no more files", LIMIT, async || {
        stage.daemon.process.log().contains("no further connection")
    })
    .await?;
    let cpu = stage.daemon.process.cpu_time_with_children()?;
    let started = Instant::now();
    for _ in 0..5 {
        stage.assert_answers()?;
    }
    let used = stage.daemon.process.cpu_time_with_children()?.saturating_sub(cpu);
    ensure!(used < started.elapsed() / 2 + Duration::from_millis(100), "{used:?} of {:?}", started.elapsed());
    ensure!(stage.daemon.process.log().matches("no further connection").count() == 1, "it is said once");
    stage.daemon.process.assert_running()
}
