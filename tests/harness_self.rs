//! The harness itself: what stories take for granted.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    bare_acme::BareClient,
    ca_proxy::{Action, Answer, CaProxy, Endpoint, Manners, RetryAfter, Rule},
    deadline::until_true,
    mock_dns::{MockDns, NEWER},
    nginx::{Nginx, PREFIX},
    pebble::{Pebble, PebbleOptions},
    ports::{self, LoopbackNet},
    process::Process,
    redis::{Listen, Redis, RedisOptions},
    redis_proxy::{Mode, Moment, RedisProxy, Then, Trigger},
    signpost::Signpost,
};
use openssl::x509::X509;
use shared::config::Config;
use tokio::net::UdpSocket;

/// Pebble that asks nobody, behind the proxy, with an account.
async fn always_valid(manners: Manners) -> Result<(Pebble, CaProxy, BareClient)> {
    let pebble = Pebble::start(PebbleOptions { always_valid: true, ..PebbleOptions::default() }).await?;
    let proxy = CaProxy::start_with(&pebble, manners).await?;
    let client = BareClient::register(&proxy.directory_url(), &proxy.trusted_roots_file()).await?;
    proxy.reset();
    Ok((pebble, proxy, client))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_through_a_real_challenge_and_counted() -> Result<()> {
    let net = LoopbackNet::pick()?;
    let port = net.free_port(&[2])?;
    let options = PebbleOptions {
        http_port: Some(port),
        default_address: net.host(2),
        alternate_roots: 1,
        ..Default::default()
    };
    let pebble = Pebble::start(options).await?;
    let proxy = CaProxy::start(&pebble).await?;
    let client = BareClient::register(&proxy.directory_url(), &proxy.trusted_roots_file()).await?;
    let frontend = SocketAddr::from((net.host(2), port));
    let server = format!(
        "server {{ listen {frontend}; location ~ ^/.well-known/acme-challenge/(.+)$ {{ return 200 $1.{}; }} }}",
        client.thumbprint()
    );
    let nginx = Nginx::start(&server, &[frontend], &[]).await?;

    let chain = client.issue(&["shop.example"]).await?;

    let leaf = X509::stack_from_pem(chain.as_bytes())?.remove(0);
    let roots = pebble.roots().await?;
    assert_eq!(roots.len(), 2);
    let intermediate = X509::from_pem(roots[0].intermediate_pem.as_bytes())?;
    assert!(leaf.verify(intermediate.public_key()?.as_ref())?, "signed by the default intermediate");
    let serial = leaf.serial_number().to_bn()?.to_hex_str()?.to_string();
    assert_eq!(pebble.certificate_status(&serial).await?, "Valid");

    until_true("the access log of the challenge", Duration::from_secs(5), || async {
        nginx.access_log().is_ok_and(|log| log.iter().any(|line| line.host == format!("shop.example:{port}")))
    })
    .await?;
    let order = proxy.orders_for(&["shop.example"]).pop().context("the order is in the ledger")?;
    assert_eq!(order.finalized, 1);
    assert_eq!(proxy.issued_for(&["shop.example"]), ["ecdsa-p256"]);
    for endpoint in [Endpoint::NewOrder, Endpoint::Authorization, Endpoint::Challenge, Endpoint::Finalize] {
        assert_eq!(order.requests.of(endpoint), 1, "{endpoint:?}: {}", order.requests);
    }
    assert_eq!(order.requests.of(Endpoint::Certificate), 1, "{}", order.requests);
    let others =
        [Endpoint::Directory, Endpoint::NewAccount, Endpoint::NewNonce].map(|e| proxy.requests().of(e));
    assert_eq!(others, [1, 1, 1]);
    assert_eq!(proxy.requests().total(), order.requests.total() + 3);
    Ok(())
}

/// Without the gate Pebble hangs within these 300 orders, every time.
#[tokio::test(flavor = "multi_thread")]
async fn the_gate_keeps_pebble_alive_under_concurrent_orders() -> Result<()> {
    let (pebble, proxy, client) = always_valid(Manners::default()).await?;
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..64)
        .map(|_| {
            let (client, next) = (client.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= 300 {
                        return Ok::<_, anyhow::Error>(());
                    }
                    client.issue(&[&format!("n{number}.example")]).await?;
                }
            })
        })
        .collect();
    for worker in workers {
        tokio::time::timeout(Duration::from_secs(60), worker).await.context("Pebble hangs")???;
    }
    let elapsed = started.elapsed().as_secs_f64();
    pebble.assert_alive().await?;
    let (orders, total) = (proxy.orders(), proxy.requests().total());
    println!(
        "300 certificates in {elapsed:.2} s: {:.0}/s, {:.0} requests/s",
        300.0 / elapsed,
        total as f64 / elapsed
    );
    assert_eq!(orders.len(), 300);
    assert!(orders.iter().all(|order| order.finalized == 1 && order.requests.of(Endpoint::NewOrder) == 1));
    assert_eq!(orders.iter().map(|order| order.requests.total()).sum::<u64>(), total);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_strike_where_the_rule_says() -> Result<()> {
    let (_pebble, proxy, client) = always_valid(Manners::default()).await?;

    let refused = proxy.add_rule(Rule::on(Endpoint::NewOrder).first(2).does(Action::RefuseNonce));
    client.issue(&["refused.example"]).await?;
    assert_eq!(refused.count(), 2);
    assert_eq!(proxy.orders_for(&["refused.example"])[0].requests.of(Endpoint::NewOrder), 3);

    let page = Answer::page(503, "text/html", "<h1>Service Unavailable</h1>").header("retry-after", "7");
    proxy.add_rule(Rule::on(Endpoint::Finalize).for_name("b.example").does(Action::Answer(page)));
    client.issue(&["a.example"]).await?;
    let error = client.issue(&["b.example"]).await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error:#}");
    assert_eq!(proxy.orders_for(&["b.example"])[0].finalized, 0, "the CA saw nothing");

    proxy.clear_rules();
    proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name("c.example").nth(1).does(Action::DropAnswer));
    let error = client.issue(&["c.example"]).await.unwrap_err();
    assert!(format!("{error:?}").contains("reset"), "{error:?}");
    client.issue(&["c.example"]).await?;
    assert_eq!(proxy.orders_for(&["c.example"]).len(), 2, "the CA had acted");
    assert_eq!(proxy.issued_for(&["c.example"]).len(), 1);

    proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name("d.example").nth(1).does(Action::Reset));
    let error = client.issue(&["d.example"]).await.unwrap_err();
    assert!(format!("{error:?}").contains("reset"), "{error:?}");
    assert!(proxy.orders_for(&["d.example"]).is_empty(), "the CA had seen nothing");

    proxy.add_rule(Rule::on(Endpoint::Order).for_name("e.example").nth(1).does(Action::MalformedBody));
    let error = client.issue(&["e.example"]).await.unwrap_err();
    assert!(error.downcast_ref::<serde_json::Error>().is_some(), "{error:?}");

    let called = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&called);
    let call = Action::call_after(move |seen| {
        assert_eq!(seen.names, ["f.example"]);
        counter.fetch_add(1, Ordering::SeqCst);
    });
    proxy.add_rule(Rule::on(Endpoint::Finalize).does(call));
    client.issue(&["f.example"]).await?;
    assert_eq!(called.load(Ordering::SeqCst), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manners_of_lets_encrypt_can_be_had() -> Result<()> {
    let manners =
        Manners { retry_after: Some(RetryAfter::Seconds(3)), same_open_order: true, ..Manners::default() };
    let pebble = Pebble::start(PebbleOptions::default()).await?;
    let proxy = CaProxy::start_with(&pebble, manners).await?;
    let client = BareClient::register(&proxy.directory_url(), &proxy.trusted_roots_file()).await?;

    let (first, order) = client.new_order(&["a.example", "b.example"]).await?;
    let (again, same) = client.new_order(&["b.example", "a.example"]).await?;
    let (other, _) = client.new_order(&["a.example"]).await?;
    assert_eq!(first, again);
    assert_eq!(order["authorizations"], same["authorizations"]);
    assert_ne!(first, other);
    assert_eq!(proxy.orders_for(&["a.example", "b.example"])[0].answered, 2);
    assert_eq!(client.fetch(&first).await?.retry_after.as_deref(), Some("3"));
    let authorization = order["authorizations"][0].as_str().context("an authorization URL")?;
    assert_eq!(client.fetch(authorization).await?.retry_after.as_deref(), Some("3"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_dns_server_is_told_in_its_own_flags() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (address, default) = (ports::free_address()?, Ipv4Addr::new(127, 9, 9, 8));
    let newer = MockDns::start_program(NEWER.as_ref(), address, directory.path(), default).await?;
    let (_, addresses) = answers(&newer, "shop.example", 1).await?;
    ensure!(addresses == [vec![127, 9, 9, 8]], "{addresses:?}");
    newer.assert_alive()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_lead_where_the_test_says() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dns = MockDns::start(directory.path(), Ipv4Addr::new(127, 9, 9, 9)).await?;
    const A: u16 = 1;
    const AAAA: u16 = 28;
    const CAA: u16 = 257;
    assert_eq!(answers(&dns, "any.example", A).await?, (0, vec![vec![127, 9, 9, 9]]));
    assert_eq!(answers(&dns, "any.example", AAAA).await?, (0, vec![]));

    dns.set_a("a.example", &[Ipv4Addr::new(127, 1, 2, 3)]).await?;
    assert_eq!(answers(&dns, "a.example", A).await?, (0, vec![vec![127, 1, 2, 3]]));
    dns.clear_a("a.example").await?;
    assert_eq!(answers(&dns, "a.example", A).await?, (0, vec![vec![127, 9, 9, 9]]));

    dns.set_aaaa("six.example", &[Ipv6Addr::LOCALHOST]).await?;
    assert_eq!(answers(&dns, "six.example", AAAA).await?, (0, vec![Ipv6Addr::LOCALHOST.octets().to_vec()]));

    dns.set_caa("caa.example", &[("issue", "ca.example")]).await?;
    assert_eq!(answers(&dns, "caa.example", CAA).await?, (0, vec![b"\0\x05issueca.example".to_vec()]));

    dns.set_servfail("broken.example").await?;
    assert_eq!(answers(&dns, "broken.example", A).await?, (2, vec![]));
    dns.clear_servfail("broken.example").await?;
    assert_eq!(answers(&dns, "broken.example", A).await?.0, 0);
    assert_eq!(dns.queries("broken.example").await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_has_a_configuration_without_mistakes() -> Result<()> {
    let eab = Some((
        "kid-1".to_owned(),
        "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned(),
    ));
    let pebble = Pebble::start(PebbleOptions { eab, ..PebbleOptions::default() }).await?;
    let proxy = CaProxy::start(&pebble).await?;
    let mut signpost = Signpost::new()?;
    signpost.use_ca(&pebble, &proxy)?;
    signpost.use_store("redis://127.0.0.1:1")?;

    let config = Config::load(Some(signpost.config_path()))?;
    assert_eq!(config.ca["pebble"].directory, Some(proxy.directory_url()));
    assert_eq!(config.ca["pebble"].eab_kid.as_deref(), Some("kid-1"));
    assert_eq!(config.issuer.resolvers, [pebble.dns_address()]);
    assert_eq!(config.issuer.http_port, pebble.http_port());

    let other = signpost.another_node()?;
    let node = Config::load(Some(other.config_path()))?;
    assert_eq!(node.store.url, config.store.url);
    assert_eq!(node.store.key_encryption_key_file, config.store.key_encryption_key_file);
    assert_ne!(node.store.state_dir, config.store.state_dir);
    assert_ne!(node.issuer.listen, config.issuer.listen);
    Ok(())
}

/// One query over UDP: response code, and the data of the answers.
async fn answers(dns: &MockDns, name: &str, kind: u16) -> Result<(u8, Vec<Vec<u8>>)> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.send_to(&query, dns.address()).await?;
    let mut buffer = [0; 512];
    let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await??;
    let answer = &buffer[..length];
    let mut data = Vec::new();
    let mut at = query.len();
    for _ in 0..answer[7] {
        // The owner: labels up to a zero byte, or a pointer of two bytes.
        while answer[at] != 0 && answer[at] < 0xc0 {
            at += usize::from(answer[at]) + 1;
        }
        at += if answer[at] == 0 { 1 } else { 2 };
        let end = at + 10 + usize::from(u16::from_be_bytes([answer[at + 8], answer[at + 9]]));
        data.push(answer[at + 10..end].to_vec());
        at = end;
    }
    Ok((answer[3] & 0xf, data))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_can_be_waited_for_frozen_and_killed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("child.log");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command, "dash", &log)
    };
    let limit = Duration::from_secs(10);

    let mut child = shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo counted >&2; exit 3")?;
    let exit = child.wait(limit).await?;
    assert_eq!(exit.code(), Some(3));
    assert!(exit.cpu > Duration::ZERO, "time used is known after the end");
    assert_eq!(child.log(), "counted\n");

    let mut child = shell("read nothing; exec tail -f /dev/null")?;
    child.pause()?;
    assert!(child.is_running());
    assert!(child.wait(Duration::from_millis(50)).await.is_err());
    child.killer().kill9();
    assert_eq!(child.wait(limit).await?.code(), None);
    assert!(child.pause().is_err(), "no signal goes to a process id that may be somebody else's");

    let Err(error) = Process::spawn(Command::new("no-such-program"), "no-such-package", &log) else {
        anyhow::bail!("a program that isn't there was started");
    };
    assert!(error.to_string().contains("apt-get install no-such-package"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_keeps_what_it_confirmed() -> Result<()> {
    for listen in [Listen::Tcp, Listen::Unix, Listen::Tls] {
        let options = RedisOptions { listen, requirepass: Some("secret".into()), ..RedisOptions::default() };
        let mut redis = Redis::start(options).await?;
        redis.command(&["SET", "kept", "yes"]).await?;
        redis.kill9().await?;
        redis.start_again().await?;
        let mut connection = redis.connection().await?;
        let kept: String = redis::cmd("GET").arg("kept").query_async(&mut connection).await?;
        assert_eq!(kept, "yes", "{listen:?}");
        assert!(redis.save().await?.is_file());
        assert!(redis.aof_paths()?.len() >= 2);
        redis.stop().await?;
        assert!(redis.connection().await.is_err());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_proxy_stalls_cuts_and_acts_at_the_moment_asked_for() -> Result<()> {
    let redis = Redis::start(RedisOptions { listen: Listen::Unix, ..RedisOptions::default() }).await?;
    let proxy = RedisProxy::start(redis.address()).await?;
    let client = redis::Client::open(proxy.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let get = |key: &'static str| redis.text_of(key);

    // The server has done it, the client never hears.
    proxy.add_trigger(Trigger::on("SET", Moment::Answered, || Then::Cut).and("challenged"));
    let set = |key: &str, value: &str| redis::cmd("SET").arg(key).arg(value).to_owned();
    set("order:1", r#"{"state":"ordered"}"#).exec_async(&mut connection).await?;
    assert!(set("order:1", r#"{"state":"challenged"}"#).exec_async(&mut connection).await.is_err());
    assert_eq!(get("order:1").await?, r#"{"state":"challenged"}"#);
    assert_eq!(proxy.fired(), 1);

    // The server has seen nothing.
    proxy.add_trigger(Trigger::on("order:2", Moment::BeforeCommand, || Then::Cut));
    let mut connection = client.get_multiplexed_async_connection().await?;
    assert!(set("order:2", "x").exec_async(&mut connection).await.is_err());
    assert!(get("order:2").await.is_err());

    // The client has its answer.
    proxy.add_trigger(Trigger::on("order:3", Moment::PassedOn, || Then::Cut));
    let mut connection = client.get_multiplexed_async_connection().await?;
    set("order:3", "x").exec_async(&mut connection).await?;
    assert!(set("order:4", "x").exec_async(&mut connection).await.is_err());

    // A black hole: connected, and silent.
    let mut connection = client.get_multiplexed_async_connection().await?;
    proxy.set_mode(Mode::BlackHole);
    let error = set("order:5", "x").exec_async(&mut connection).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(get("order:5").await.is_err());
    proxy.set_mode(Mode::Pass);
    proxy.cut();
    let mut connection = client.get_multiplexed_async_connection().await?;
    set("order:5", "x").exec_async(&mut connection).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_reloads_and_tells_a_wrong_configuration() -> Result<()> {
    let address = ports::free_address()?;
    let server = |line: &str| format!("server {{ listen {address}; root {PREFIX}/www; {line} }}");
    let mut nginx = Nginx::start(&server(""), &[address], &[("www/index.html", b"hello")]).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    assert_eq!(http.get(format!("http://{address}/")).send().await?.text().await?, "hello");

    nginx.test()?;
    nginx.set_http(&server("return 403;"))?;
    nginx.reload().await?;
    until_true("the new configuration answers", Duration::from_secs(5), || async {
        // A new connection each time: the old worker serves its own to the end.
        let fresh = reqwest::Client::builder().no_proxy().build().expect("a client without settings");
        fresh.get(format!("http://{address}/")).send().await.is_ok_and(|answer| answer.status() == 403)
    })
    .await?;
    nginx.set_http(&server("no_such_directive;"))?;
    assert!(nginx.test().unwrap_err().to_string().contains("no_such_directive"));
    let exit = nginx.stop().await?;
    ensure!(exit.status.success(), "nginx ended with {}", exit.status);
    Ok(())
}
