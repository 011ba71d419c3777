//! What every series starts from: a fresh CA, and counters that begin when the clients are warm.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{
    ca_proxy::CaProxy,
    pebble::{Pebble, PebbleOptions},
    ports::LoopbackNet,
};

use crate::{cpu, row::Row};

/// A fresh Pebble behind its proxy, and the address that it asks for every challenge.
pub(crate) struct Stage {
    pub(crate) pebble: Pebble,
    pub(crate) proxy: CaProxy,
    host: Ipv4Addr,
}

/// The moment from which a series counts.
pub(crate) struct Start {
    at: Instant,
    cpu: Duration,
    ca_cpu: Duration,
    all_cpu: Duration,
}

impl Stage {
    pub(crate) async fn set() -> Result<Self> {
        let net = LoopbackNet::pick()?;
        let host = net.host(2);
        let options = PebbleOptions {
            http_port: Some(net.free_port(&[2])?),
            default_address: host,
            ..PebbleOptions::default()
        };
        let pebble = Pebble::start(options).await?;
        let proxy = CaProxy::start(&pebble).await?;
        Ok(Self { pebble, proxy, host })
    }

    /// Where whoever answers challenges must listen.
    pub(crate) fn challenge_address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.pebble.http_port()))
    }

    /// Counts from now on; `cpu` is what the client's long-running parts have used so far.
    pub(crate) fn start(&self, cpu: Duration) -> Result<Start> {
        self.proxy.reset();
        Ok(Start { at: Instant::now(), cpu, ca_cpu: self.ca_cpu()?, all_cpu: cpu::of_all()? })
    }

    /// Ends the series: every order must have come to one certificate. `cpu` as at the start, with what has ended since.
    pub(crate) async fn row(
        &self,
        (client, at_once): (&'static str, usize),
        start: &Start,
        mut latencies: Vec<Duration>,
        cpu: Option<Duration>,
    ) -> Result<Row> {
        let elapsed = start.at.elapsed();
        let ca_cpu = self.ca_cpu()? - start.ca_cpu;
        let all_cpu = cpu::of_all()?.saturating_sub(start.all_cpu);
        let cpu = cpu.map(|cpu| cpu - start.cpu);
        self.pebble.assert_alive().await?;
        let orders = self.proxy.orders();
        let complete = orders.iter().filter(|order| order.finalized == 1).count();
        ensure!(
            complete == latencies.len() && orders.len() == complete,
            "{client}: {} certificates were wanted, the CA made {} orders and finished {complete}",
            latencies.len(),
            orders.len()
        );
        latencies.sort_unstable();
        let mut requests: Vec<u64> = orders.iter().map(|order| order.requests.total()).collect();
        requests.sort_unstable();
        Ok(Row {
            client,
            at_once,
            elapsed,
            latencies,
            cpu,
            ca_cpu,
            other_cpu: all_cpu.saturating_sub(ca_cpu + cpu.unwrap_or_default()),
            requests,
            requests_in_all: self.proxy.requests().total(),
            steps: Vec::new(),
            cpu_by_part: Vec::new(),
        })
    }

    /// Pebble and this process, which is the proxy and little else.
    fn ca_cpu(&self) -> Result<Duration> {
        Ok(self.pebble.process().cpu_time()? + cpu::of_this_process()?)
    }
}

/// The name of certificate number `number` of a series.
pub(crate) fn name(number: usize) -> String {
    format!("n{number}.bench.example")
}
