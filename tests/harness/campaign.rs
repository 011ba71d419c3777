//! A run of many names that something disturbs: run again until all is done, and what must be true then.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    ca_proxy::{Action, Endpoint, Rule},
    deadline::until,
    signpost::RUN_LIMIT,
    stage::Stage,
    stored::Stored,
};

/// The CA takes its time over each order, so that there is a middle to disturb.
const EACH_ORDER_TAKES: Duration = Duration::from_millis(1200);
const SLOTS: &str = "2";
const MOST_RUNS: usize = 20;

/// Names to issue, a certificate each.
pub struct Campaign {
    pub names: Vec<String>,
}

impl Campaign {
    pub fn of(count: usize) -> Self {
        Self { names: (0..count).map(|number| format!("c{number}.example")).collect() }
    }

    /// Issues for all names, again and again until one run has nothing to complain of.
    pub async fn run(&self, stage: &Stage) -> Result<()> {
        stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::Delay(EACH_ORDER_TAKES)));
        let mut line = vec!["--json", "issue", "--slots", SLOTS];
        line.extend(self.names.iter().map(String::as_str));
        let mut last = String::new();
        for _ in 0..MOST_RUNS {
            let run = stage.signpost.run("issuer", &line, RUN_LIMIT).await?;
            match run.code()? {
                0 => return Ok(()),
                1 => last = run.stderr,
                code => bail!("exit code {code}: {}{}", run.stdout, run.stderr),
            }
        }
        bail!("not done after {MOST_RUNS} runs: {last}")
    }

    /// How many certificates the CA has issued.
    pub fn issued(&self, stage: &Stage) -> u64 {
        stage.proxy.orders().iter().map(|order| order.finalized).sum()
    }

    /// Waits until the CA has issued this many; fails when all names have theirs, for then there is no middle any more.
    pub async fn issued_at_least(&self, stage: &Stage, wanted: u64) -> Result<()> {
        until("certificates are issued", RUN_LIMIT, async || (self.issued(stage) >= wanted).then_some(()))
            .await?;
        let issued = self.issued(stage);
        ensure!(issued < self.names.len() as u64, "all {issued} were issued before the next disturbance");
        Ok(())
    }

    /// Every name has its certificate with a key that fits, and the CA has issued no second one.
    pub async fn is_complete(&self, stage: &Stage) -> Result<()> {
        let mut issued: BTreeMap<String, u64> = BTreeMap::new();
        for order in stage.proxy.orders() {
            *issued.entry(order.names.join(",")).or_default() += order.finalized;
        }
        let root = stage.pebble.roots().await?.remove(0).root_pem;
        let stored = Stored::open(stage.signpost.config_path()).await?;
        for name in &self.names {
            ensure!(issued.get(name) == Some(&1), "{name}: issued {:?} times", issued.get(name));
            let served = stored.served(name).await.with_context(|| name.clone())?;
            ensure!(served.len() == 1, "{name}: {} certificates are served", served.len());
            served[0].verify(&root, &[name])?;
        }
        Ok(())
    }
}
