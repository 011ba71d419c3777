//! The floor: the harness' own client, which makes the same requests and stores nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use harness::{bare_acme::BareClient, nginx::Nginx};
use tokio::task::JoinSet;

use crate::{
    row::Row,
    stage::{Stage, name},
};

pub(crate) async fn measure(certificates: usize, at_once: usize) -> Result<Row> {
    let stage = Stage::set().await?;
    let client =
        BareClient::register(&stage.proxy.directory_url(), &stage.proxy.trusted_roots_file()).await?;
    let address = stage.challenge_address();
    // The answer to any challenge follows from its token.
    let server = format!(
        "server {{ listen {address}; location ~ ^/.well-known/acme-challenge/(.+)$ {{ return 200 $1.{}; }} }}",
        client.thumbprint()
    );
    let _nginx = Nginx::start(&server, &[address], &[]).await?;

    let start = stage.start(Duration::ZERO)?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (client, next) = (client.clone(), Arc::clone(&next));
        workers.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= certificates {
                    return Ok::<_, anyhow::Error>(latencies);
                }
                let began = Instant::now();
                client.issue(&[&name(number)]).await?;
                latencies.push(began.elapsed());
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(worker) = workers.join_next().await {
        latencies.extend(worker??);
    }
    stage.row(("bare client, stores nothing", at_once), &start, latencies, None).await
}
