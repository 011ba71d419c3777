//! Debian's ACME clients, each as its documentation has it run: a process for each certificate, challenges in a webroot
//! that an nginx serves, P-256 keys. Accounts are made beforehand.

use std::{
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{nginx::Nginx, process::Process};
use tempfile::TempDir;
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    row::Row,
    stage::{Stage, name},
};

const LIMIT: Duration = Duration::from_secs(120);
const EMAIL: &str = "tls@hoster.example";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Certbot,
    Dehydrated,
    Lego,
}

/// What a peer's command line needs.
struct Setting {
    peer: Peer,
    directory_url: String,
    roots: PathBuf,
    webroot: PathBuf,
    state: TempDir,
}

/// One certificate: how long its process took, and the CPU time of it and its children.
struct Cost {
    elapsed: Duration,
    cpu: Duration,
}

pub(crate) async fn measure(peer: Peer, certificates: usize, at_once: usize) -> Result<Row> {
    let stage = Stage::set().await?;
    let address = stage.challenge_address();
    let server = format!("server {{ listen {address}; root {}/www; }}", harness::nginx::PREFIX);
    let nginx = Nginx::start(&server, &[address], &[("www/index.html", b"")]).await?;
    let setting = Arc::new(Setting {
        peer,
        directory_url: stage.proxy.directory_url(),
        roots: stage.proxy.trusted_roots_file(),
        webroot: nginx.prefix().join("www"),
        state: tempfile::Builder::new().prefix("peer-").tempdir()?,
    });
    setting.prepare().await?;
    setting.issue("warm-up.bench.example").await?;

    let nginx_cpu = || nginx.process().cpu_time_with_children();
    let start = stage.start(nginx_cpu()?)?;
    let waiting = Arc::new(Mutex::new(0..certificates));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (setting, waiting) = (Arc::clone(&setting), Arc::clone(&waiting));
        workers.spawn(async move {
            let mut costs = Vec::new();
            loop {
                let Some(number) = waiting.lock().await.next() else { return Ok::<_, anyhow::Error>(costs) };
                costs.push(setting.issue(&name(number)).await?);
            }
        });
    }
    let mut costs = Vec::new();
    while let Some(worker) = workers.join_next().await {
        costs.extend(worker??);
    }
    let cpu = nginx_cpu()? + costs.iter().map(|cost| cost.cpu).sum::<Duration>();
    let latencies = costs.iter().map(|cost| cost.elapsed).collect();
    stage.row((peer.program(), at_once), &start, latencies, Some(cpu)).await
}

impl Peer {
    /// The program, and the Debian package that brings it.
    fn program(self) -> &'static str {
        match self {
            Self::Certbot => "certbot",
            Self::Dehydrated => "dehydrated",
            Self::Lego => "lego",
        }
    }
}

impl Setting {
    /// What must be there before the first certificate. certbot and lego make their account with it.
    async fn prepare(&self) -> Result<()> {
        if self.peer != Peer::Dehydrated {
            return Ok(());
        }
        let challenges = self.webroot.join(".well-known/acme-challenge");
        std::fs::create_dir_all(&challenges)?;
        let config = format!(
            "CA={}\nBASEDIR={}\nWELLKNOWN={}\nCONTACT_EMAIL={EMAIL}\nKEY_ALGO=prime256v1\nCURL_OPTS=\"--cacert {}\"\n",
            self.directory_url,
            self.state.path().display(),
            challenges.display(),
            self.roots.display(),
        );
        std::fs::write(self.path("config"), config).context("write dehydrated's configuration")?;
        let mut command = Command::new("dehydrated");
        command.arg("--register").arg("--accept-terms").arg("--config").arg(self.path("config"));
        self.run(command).await.map(drop)
    }

    async fn issue(&self, name: &str) -> Result<Cost> {
        let cost = self.run(self.command(name)).await?;
        let fullchain = match self.peer {
            Peer::Certbot => format!("config/live/{name}/fullchain.pem"),
            Peer::Dehydrated => format!("certs/{name}/fullchain.pem"),
            Peer::Lego => format!("certificates/{name}.crt"),
        };
        let chain =
            std::fs::read(self.path(&fullchain)).with_context(|| format!("{:?}: {fullchain}", self.peer))?;
        let certificates = openssl::x509::X509::stack_from_pem(&chain)?;
        ensure!(certificates.len() == 2, "{:?}: {} certificates for {name}", self.peer, certificates.len());
        Ok(cost)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.peer.program());
        match self.peer {
            Peer::Certbot => {
                command.args([
                    "certonly",
                    "--non-interactive",
                    "--agree-tos",
                    "--email",
                    EMAIL,
                    "--no-eff-email",
                ]);
                command.args(["--server", &self.directory_url, "--key-type", "ecdsa", "--domain", name]);
                command.arg("--webroot").arg("--webroot-path").arg(&self.webroot);
                command.arg("--config-dir").arg(self.path("config")).arg("--work-dir").arg(self.path("work"));
                command.arg("--logs-dir").arg(self.path("logs"));
            }
            Peer::Dehydrated => {
                command.arg("--cron").arg("--config").arg(self.path("config")).args(["--domain", name]);
            }
            Peer::Lego => {
                command.args([
                    "--server",
                    &self.directory_url,
                    "--accept-tos",
                    "--email",
                    EMAIL,
                    "--domains",
                    name,
                ]);
                command.args(["--key-type", "ec256", "--http", "--http.webroot"]).arg(&self.webroot);
                command.arg("--path").arg(self.state.path()).arg("run");
            }
        }
        command
    }

    async fn run(&self, mut command: Command) -> Result<Cost> {
        command.env("LEGO_CA_CERTIFICATES", &self.roots).env("REQUESTS_CA_BUNDLE", &self.roots);
        let began = Instant::now();
        let mut process = Process::spawn(command, self.peer.program(), &self.path("output.log"))?;
        let exit = process.wait(LIMIT).await?;
        ensure!(exit.status.success(), "{:?} failed: {}\n{}", self.peer, exit.status, process.log_tail());
        Ok(Cost { elapsed: began.elapsed(), cpu: exit.cpu })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }
}
