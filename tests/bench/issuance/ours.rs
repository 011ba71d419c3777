//! Our own programs: the issuer with its embedded store, each write on disk before it counts, and the validation server.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::signpost::{Daemon, Signpost};
use serde_json::Value;

use crate::{
    cpu,
    row::Row,
    stage::{Stage, name},
};

/// How the series of one process are called.
pub(crate) const ONE_PROCESS: &str = "issuer";
const A_PROCESS_EACH: &str = "issuer, a process each";
const LIMIT: Duration = Duration::from_secs(600);

/// The programs, with an account made and everything running.
struct Programs {
    signpost: Signpost,
    validation_server: Daemon,
    redis: u32,
}

/// All certificates with one `issuer issue`.
pub(crate) async fn one_process(certificates: usize, slots: usize) -> Result<Row> {
    let stage = Stage::set().await?;
    let programs = Programs::start(&stage).await?;
    let names: Vec<String> = (0..certificates).map(name).collect();
    let slots_text = slots.to_string();
    let mut arguments = vec!["--json", "issue", "--slots", &slots_text];
    arguments.extend(names.iter().map(String::as_str));

    let (store, validation_server) = programs.cpu_by_part()?;
    let start = stage.start(store + validation_server)?;
    let run = programs.signpost.run("issuer", &arguments, LIMIT).await?.success()?;
    let (store_after, validation_server_after) = programs.cpu_by_part()?;
    let cpu = store_after + validation_server_after + run.exit.cpu;
    let document = run.json()?;
    let results = document["results"].as_array().context("no results")?;
    ensure!(results.len() == certificates, "{} results for {certificates} names", results.len());
    let latencies = results.iter().map(latency).collect::<Result<_>>()?;
    let mut row = stage.row((ONE_PROCESS, slots), &start, latencies, Some(cpu)).await?;
    row.steps = steps(results)?;
    row.cpu_by_part = vec![
        ("issuer", run.exit.cpu),
        ("redis-server", store_after - store),
        ("validation-server", validation_server_after - validation_server),
    ];
    Ok(row)
}

/// One `issuer issue` after the other, as a shell script would do it.
pub(crate) async fn a_process_each(certificates: usize) -> Result<Row> {
    let stage = Stage::set().await?;
    let programs = Programs::start(&stage).await?;
    let start = stage.start(programs.cpu()?)?;
    let (mut latencies, mut cpu) = (Vec::new(), Duration::ZERO);
    for number in 0..certificates {
        let run = programs.signpost.issuer(&["issue", &name(number)]).await?.success()?;
        latencies.push(run.elapsed);
        cpu += run.exit.cpu;
    }
    let cpu = programs.cpu()? + cpu;
    stage.row((A_PROCESS_EACH, 1), &start, latencies, Some(cpu)).await
}

impl Programs {
    async fn start(stage: &Stage) -> Result<Self> {
        let mut signpost = Signpost::new()?;
        signpost.use_ca(&stage.pebble, &stage.proxy)?;
        let address = stage.challenge_address();
        signpost.set("challenge.listen", vec![address.to_string()])?;
        signpost.issuer(&["account", "create"]).await?.success()?;
        let validation_server = signpost.start_challenge().await?;
        let redis = cpu::process_in(&signpost.state_dir().join("store"), "redis-server")?;
        Ok(Self { signpost, validation_server, redis })
    }

    /// Of the parts that go on running.
    fn cpu(&self) -> Result<Duration> {
        let (store, validation_server) = self.cpu_by_part()?;
        Ok(store + validation_server)
    }

    /// The store's and the validation server's.
    fn cpu_by_part(&self) -> Result<(Duration, Duration)> {
        Ok((cpu::of(self.redis)?, self.validation_server.process.cpu_time()?))
    }
}

/// From when an order got its slot to its last step.
fn latency(result: &Value) -> Result<Duration> {
    ensure!(result["status"] == "issued", "not issued: {result}");
    let last = result["steps"].as_array().and_then(|steps| steps.last()).context("an issue without steps")?;
    Ok(Duration::from_millis(last["at_ms"].as_u64().context("a step without at_ms")?))
}

/// How long each step took, sorted, in the order in which the first result has them.
fn steps(results: &[Value]) -> Result<Vec<(String, Vec<Duration>)>> {
    let mut steps: Vec<(String, Vec<Duration>)> = Vec::new();
    for step in results.iter().flat_map(|result| result["steps"].as_array().into_iter().flatten()) {
        let name = step["step"].as_str().context("a step without a name")?;
        let took = Duration::from_millis(step["took_ms"].as_u64().context("a step without took_ms")?);
        match steps.iter_mut().find(|(known, _)| known == name) {
            Some((_, times)) => times.push(took),
            None => steps.push((name.to_owned(), vec![took])),
        }
    }
    for (_, times) in &mut steps {
        times.sort_unstable();
    }
    Ok(steps)
}
