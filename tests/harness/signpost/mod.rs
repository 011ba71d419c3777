//! The programs under test, as a user runs them: a configuration file, a command line, exit codes and output.

mod run;

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

pub use self::run::{Run, Started, program_path};
use crate::{ca_proxy::CaProxy, deadline::START_LIMIT, pebble::Pebble, ports, process::Process};

/// How long one command line may take unless the test says otherwise.
pub const RUN_LIMIT: Duration = Duration::from_secs(120);

/// One machine's installation: a configuration file, a state directory, and the programs that use them.
pub struct Signpost {
    directory: TempDir,
    config: PathBuf,
    settings: toml::Table,
    environment: Vec<(String, String)>,
    /// The same for one program alone, by its name.
    environment_of: Vec<(String, String, String)>,
    runs: AtomicU32,
    /// Whether dropping this ends the embedded store.
    owns_store: bool,
}

/// A long-running program of ours with the address that it serves on.
pub struct Daemon {
    pub process: Process,
    pub address: SocketAddr,
    /// `/metrics`, `/healthz`, `/readyz`
    pub telemetry: SocketAddr,
}

impl Signpost {
    /// The embedded store, every listener on a free loopback port, no CA yet, no self-check.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("signpost-").tempdir()?;
        let mut signpost = Self {
            config: directory.path().join("signpost.toml"),
            settings: toml::Table::new(),
            environment: Vec::new(),
            environment_of: Vec::new(),
            runs: AtomicU32::new(0),
            owns_store: true,
            directory,
        };
        signpost.set("store.state_dir", signpost.path_text("state"))?;
        signpost.set("store.key_encryption_key_file", signpost.path_text("kek"))?;
        signpost.set("issuer.listen", ports::free_address()?.to_string())?;
        signpost.set("issuer.self_check", "off")?;
        signpost.set("challenge.listen", vec![ports::free_address()?.to_string()])?;
        signpost.set("challenge.workers", 1)?;
        signpost.set("certificates.listen", vec![ports::free_address()?.to_string()])?;
        signpost.set("certificates.names", vec!["localhost", "127.0.0.1"])?;
        signpost.set("certificates.workers", 1)?;
        for program in ["issuer", "challenge", "certificates"] {
            signpost.set(&format!("telemetry.listen.{program}"), ports::free_address()?.to_string())?;
        }
        Ok(signpost)
    }

    /// Another node of the same fleet: the same settings and key-encryption key, with listeners of its own. With the
    /// embedded store it is another set of processes on the same machine, and mustn't outlive this value.
    pub fn another_node(&self) -> Result<Self> {
        let mut node = Self::new()?;
        node.owns_store = false;
        for section in ["ca", "frontends"] {
            if let Some(values) = self.settings.get(section) {
                node.settings.insert(section.to_owned(), values.clone());
            }
        }
        let mut shared =
            vec!["issuer.self_check", "issuer.resolvers", "issuer.http_port", "issuer.lease_seconds"];
        shared.extend(["issuer.key_types", "store.url", "store.password_file", "store.trusted_roots_file"]);
        shared.push("store.confirm_replicas");
        shared.push("store.key_encryption_key_file");
        if self.setting("store.url").is_none() {
            shared.push("store.state_dir");
        }
        for key in shared {
            if let Some(value) = self.setting(key) {
                node.set(key, value.clone())?;
            }
        }
        Ok(node)
    }

    /// A CA named `pebble`, reached through the proxy; its DNS and port are the self-check's.
    pub fn use_ca(&mut self, pebble: &Pebble, proxy: &CaProxy) -> Result<()> {
        self.set("ca.pebble.directory", proxy.directory_url())?;
        self.set("ca.pebble.trusted_roots_file", text(&proxy.trusted_roots_file()))?;
        self.set("ca.pebble.contact", vec!["mailto:tls@hoster.example"])?;
        self.set("ca.pebble.agree_to_terms", true)?;
        self.set("ca.pebble.default", true)?;
        if let Some((kid, key)) = &pebble.options().eab {
            let file = self.write("eab-hmac", key)?;
            self.set("ca.pebble.eab_kid", kid.as_str())?;
            self.set("ca.pebble.eab_hmac_file", text(&file))?;
        }
        self.set("issuer.resolvers", vec![pebble.dns_address().to_string()])?;
        self.set("issuer.http_port", i64::from(pebble.http_port()))
    }

    /// A Redis of the test's instead of the embedded one. It demands a key-encryption key, made beforehand in
    /// [`Signpost::key_encryption_key_file`].
    pub fn use_store(&mut self, url: &str) -> Result<()> {
        self.set("store.url", url)
    }

    /// Where role `challenge` listens.
    pub fn listen_challenge(&mut self, address: impl Into<Ipv4Addr>, port: u16) -> Result<()> {
        self.set("challenge.listen", vec![SocketAddr::from((address.into(), port)).to_string()])
    }

    /// Sets one value by its dotted key, such as `issuer.self_check`. Programs started from now on see it.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) -> Result<()> {
        let mut table = &mut self.settings;
        let (sections, last) = key.rsplit_once('.').context("a key is SECTION.NAME")?;
        for section in sections.split('.') {
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = inner.as_table_mut().with_context(|| format!("{key}: {section} is no table"))?;
        }
        table.insert(last.to_owned(), value.into());
        std::fs::write(&self.config, toml::to_string(&self.settings)?).context("write the configuration")
    }

    /// Takes one value out again, so that the default holds.
    pub fn unset(&mut self, key: &str) -> Result<()> {
        let mut table = &mut self.settings;
        let (sections, last) = key.rsplit_once('.').context("a key is SECTION.NAME")?;
        for section in sections.split('.') {
            table = table.get_mut(section).and_then(toml::Value::as_table_mut).context("no such section")?;
        }
        table.remove(last);
        std::fs::write(&self.config, toml::to_string(&self.settings)?).context("write the configuration")
    }

    /// Sets an environment variable for the programs started from now on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The same for one of the programs, such as `validation-server`.
    pub fn set_environment_of(&mut self, program: &str, name: &str, value: &str) {
        self.environment_of.push((program.to_owned(), name.to_owned(), value.to_owned()));
    }

    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// The installation's directory; it goes with this value.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        let path = self.setting("store.state_dir").and_then(toml::Value::as_str);
        PathBuf::from(path.expect("every constructor sets it"))
    }

    /// The keyring of the installation, whether it is there yet or not.
    pub fn key_encryption_key_file(&self) -> PathBuf {
        let path = self.setting("store.key_encryption_key_file").and_then(toml::Value::as_str);
        PathBuf::from(path.expect("every constructor sets it"))
    }

    /// Writes a file into the installation's directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Runs `issuer` to its end.
    pub async fn issuer(&self, arguments: &[&str]) -> Result<Run> {
        self.run("issuer", arguments, RUN_LIMIT).await
    }

    /// Runs `issuer --json`, expects exit code 0, and parses the one document on its standard output.
    pub async fn issuer_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut with_json = vec!["--json"];
        with_json.extend(arguments);
        self.issuer(&with_json).await?.success()?.json()
    }

    /// Runs `frontend-agent` to its end.
    pub async fn agent(&self, arguments: &[&str]) -> Result<Run> {
        self.run("frontend-agent", arguments, RUN_LIMIT).await
    }

    /// Runs one program to its end; one that takes longer than `limit` is killed, and an error.
    pub async fn run(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<Run> {
        let mut started = self.start_run(program, arguments)?;
        let exit = started.process.wait(limit).await?;
        started.finish(exit)
    }

    /// Starts one program, to be killed or waited for by the test.
    pub fn start_run(&self, program: &str, arguments: &[&str]) -> Result<Started> {
        let number = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let stdout = self.path(&format!("{program}-{number}.out"));
        let stderr = self.path(&format!("{program}-{number}.err"));
        let output = File::create(&stdout).with_context(|| format!("create {}", stdout.display()))?;
        let command = self.command(program, arguments)?;
        let process = Process::spawn_with_stdout(command, program, output, &stderr)?;
        Ok(Started { process, stdout, stderr, since: Instant::now() })
    }

    /// `issuer run`, the daemon.
    pub async fn start_issuer(&self) -> Result<Daemon> {
        let address = self.address("issuer.listen")?;
        self.start_daemon("issuer", &["run"], "issuer", address).await
    }

    /// `validation-server challenge`.
    pub async fn start_challenge(&self) -> Result<Daemon> {
        let address = self.address("challenge.listen")?;
        self.start_daemon("validation-server", &["challenge"], "challenge", address).await
    }

    /// `validation-server certificates`.
    pub async fn start_certificates(&self) -> Result<Daemon> {
        let address = self.address("certificates.listen")?;
        self.start_daemon("validation-server", &["certificates"], "certificates", address).await
    }

    /// What the page for monitoring of `issuer run` says: the status of `/readyz`, and why.
    pub async fn readiness(&self) -> Option<(u16, String)> {
        let url = format!("http://{}/readyz", self.address("telemetry.listen.issuer").ok()?);
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().ok()?;
        let answer = client.get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn start_daemon(
        &self,
        program: &str,
        arguments: &[&str],
        role: &str,
        address: SocketAddr,
    ) -> Result<Daemon> {
        let telemetry = self.address(&format!("telemetry.listen.{role}"))?;
        let process =
            Process::spawn(self.command(program, arguments)?, program, &self.path(&format!("{role}.log")))?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let url = format!("http://{telemetry}/readyz");
        process
            .ready(START_LIMIT, || async {
                http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
            })
            .await?;
        Ok(Daemon { process, address, telemetry })
    }

    /// The first address under a key.
    pub fn address(&self, key: &str) -> Result<SocketAddr> {
        let value = self.setting(key).with_context(|| format!("{key} isn't set"))?;
        let text = value.as_str().or_else(|| value.as_array()?.first()?.as_str());
        text.with_context(|| format!("{key} is no address"))?.parse().with_context(|| key.to_owned())
    }

    fn setting(&self, key: &str) -> Option<&toml::Value> {
        let (sections, last) = key.rsplit_once('.')?;
        let table =
            sections.split('.').try_fold(&self.settings, |table, section| table.get(section)?.as_table())?;
        table.get(last)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program_path(program)?);
        command.arg("--config").arg(&self.config).args(arguments);
        for (name, _) in std::env::vars_os() {
            // What the developer has set must not reach the programs under test.
            if name.to_string_lossy().starts_with("SIGNPOST_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let own = self.environment_of.iter().filter(|(of, ..)| of == program);
        command.envs(own.map(|(_, name, value)| (name, value)));
        Ok(command)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn path_text(&self, name: &str) -> String {
        text(&self.path(name))
    }
}

impl Drop for Signpost {
    /// The embedded store outlives the programs that started it; it ends by the command that ends it for a user.
    fn drop(&mut self) {
        let embedded = self.setting("store.url").is_none() && self.state_dir().exists();
        if self.owns_store
            && embedded
            && let Ok(mut command) = self.command("issuer", &["store", "stop"])
        {
            match command.output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => eprintln!("issuer store stop: {}", String::from_utf8_lossy(&output.stderr)),
                Err(error) => eprintln!("issuer store stop: {error}"),
            }
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
