//! Debian's nginx, from the servers that a test writes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    deadline::{START_LIMIT, until_true},
    process::{Ending, Exit, Process, children_of},
};

/// Stands for the prefix directory in a configuration text.
pub const PREFIX: &str = "@PREFIX@";

/// A running nginx with a prefix directory of its own.
pub struct Nginx {
    process: Process,
    prefix: TempDir,
}

/// One line of the access log.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLine {
    /// Unix time in seconds.
    pub time: f64,
    pub remote: String,
    pub host: String,
    pub method: String,
    pub target: String,
    pub status: u16,
    pub bytes: u64,
    pub user_agent: String,
}

impl Nginx {
    /// Starts nginx with these lines inside its `http` block ([`PREFIX`] is replaced) and waits until every address of
    /// `listen` accepts connections. `files` are written below the prefix first.
    pub async fn start(http: &str, listen: &[SocketAddr], files: &[(&str, &[u8])]) -> Result<Self> {
        Self::start_with_main("worker_processes 1;", http, listen, files).await
    }

    /// Like [`Nginx::start`] with lines for the main context, such as `worker_processes 1;`.
    pub async fn start_with_main(
        main: &str,
        http: &str,
        listen: &[SocketAddr],
        files: &[(&str, &[u8])],
    ) -> Result<Self> {
        let prefix = tempfile::Builder::new().prefix("nginx-").tempdir()?;
        for (name, content) in files {
            let path = prefix.path().join(name);
            std::fs::create_dir_all(path.parent().context("a file below the prefix")?)?;
            std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        }
        write_config(prefix.path(), main, http)?;
        let process = Process::spawn(command(prefix.path()), "nginx", &prefix.path().join("output.log"))?
            .ending(Ending::TerminateFirst);
        let nginx = Self { process, prefix };
        let up = nginx
            .process
            .ready(START_LIMIT, || async {
                for address in listen {
                    if TcpStream::connect(address).await.is_err() {
                        return false;
                    }
                }
                true
            })
            .await;
        up.with_context(|| nginx.error_log())?;
        Ok(nginx)
    }

    /// Its directory: configuration, logs, and what the test wrote.
    pub fn prefix(&self) -> &Path {
        self.prefix.path()
    }

    pub fn config_path(&self) -> PathBuf {
        config_path(self.prefix())
    }

    /// Its child, for signals and CPU time (the workers are the child's children).
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Replaces the lines inside the `http` block; takes effect with [`Nginx::reload`].
    pub fn set_http(&self, http: &str) -> Result<()> {
        write_config(self.prefix(), "worker_processes 1;", http)
    }

    /// The command line of `nginx -t` for this configuration, for programs that run it themselves.
    pub fn test_command(&self) -> Vec<String> {
        self.command_line(&["-t"])
    }

    /// The command line of `nginx -s reload` for this nginx.
    pub fn reload_command(&self) -> Vec<String> {
        self.command_line(&["-s", "reload"])
    }

    /// `nginx -t`: an error with nginx' own words when the configuration is wrong.
    pub fn test(&self) -> Result<()> {
        let line = self.test_command();
        let output = Command::new(&line[0]).args(&line[1..]).output()?;
        if !output.status.success() {
            bail!("nginx -t: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// SIGHUP, and waits until new workers have taken over; an error when nginx kept the old configuration.
    pub async fn reload(&self) -> Result<()> {
        let before = self.workers();
        self.process.signal(Signal::HUP)?;
        // An old worker may still accept a connection until it has heard that it is to end.
        let taken_over =
            until_true("new workers of nginx, and no old ones", Duration::from_secs(10), || async {
                let now = self.workers();
                !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
            });
        taken_over.await.with_context(|| self.error_log())
    }

    /// Process ids of the workers: new ones show that a reload took place.
    pub fn workers(&self) -> Vec<u32> {
        children_of(self.process.pid())
    }

    /// Ends it as an operator does.
    pub async fn stop(&mut self) -> Result<Exit> {
        self.process.terminate(Duration::from_secs(10)).await
    }

    /// What nginx complained about.
    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.prefix().join("error.log")).unwrap_or_default()
    }

    /// Every request so far. nginx writes a line when the answer has been sent: poll for what was asked just now.
    pub fn access_log(&self) -> Result<Vec<AccessLine>> {
        let text = std::fs::read_to_string(self.prefix().join("access.log"))?;
        text.lines()
            .map(|line| AccessLine::parse(line).with_context(|| format!("access log: {line}")))
            .collect()
    }

    fn command_line(&self, arguments: &[&str]) -> Vec<String> {
        let command = command_for(self.prefix());
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .chain(arguments.iter().map(|word| (*word).to_owned()))
            .collect()
    }
}

impl AccessLine {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let time = fields.next()?.parse().ok()?;
        let remote = fields.next()?.to_owned();
        let host = fields.next()?.to_owned();
        let mut request = fields.next()?.splitn(3, ' ');
        let (method, target) = (request.next()?.to_owned(), request.next().unwrap_or_default().to_owned());
        let status = fields.next()?.parse().ok()?;
        let bytes = fields.next()?.parse().ok()?;
        Some(Self {
            time,
            remote,
            host,
            method,
            target,
            status,
            bytes,
            user_agent: fields.next()?.to_owned(),
        })
    }
}

fn config_path(prefix: &Path) -> PathBuf {
    prefix.join("nginx.conf")
}

fn command_for(prefix: &Path) -> Command {
    let mut command = Command::new("/usr/sbin/nginx");
    // -e: until it has read its configuration nginx writes to a file of the distribution's otherwise.
    command.arg("-p").arg(prefix).arg("-c").arg(config_path(prefix)).arg("-e").arg(prefix.join("error.log"));
    command
}

fn command(prefix: &Path) -> Command {
    let mut command = command_for(prefix);
    command.args(["-g", "daemon off;"]);
    command
}

fn write_config(prefix: &Path, main: &str, http: &str) -> Result<()> {
    // Started by root, nginx would give its workers to an account that can't read the test's directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let text = format!(
        r#"{user}
pid {PREFIX}/nginx.pid;
error_log {PREFIX}/error.log notice;
{main}
events {{ worker_connections 1024; }}
http {{
    log_format test '$msec\t$remote_addr\t$http_host\t$request\t$status\t$body_bytes_sent\t$http_user_agent';
    access_log {PREFIX}/access.log test;
    client_body_temp_path {PREFIX}/body;
    proxy_temp_path {PREFIX}/proxy;
    fastcgi_temp_path {PREFIX}/fastcgi;
    uwsgi_temp_path {PREFIX}/uwsgi;
    scgi_temp_path {PREFIX}/scgi;
{http}
}}
"#
    );
    let text = text.replace(PREFIX, &prefix.display().to_string());
    std::fs::write(config_path(prefix), text).context("write nginx.conf")
}
