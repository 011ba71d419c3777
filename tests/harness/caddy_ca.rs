//! Caddy's embedded ACME server (smallstep's): a private CA, without terms, profiles, renewal information or limits. Its
//! validator asks on port 80 and takes its resolver from the system, so it runs inside a [`crate::namespace`].

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::Result;
use tempfile::TempDir;

use crate::{deadline::START_LIMIT, ports, process::Process, pypi};

/// The server.
pub struct CaddyCa {
    process: Process,
    listen: SocketAddr,
    folder: TempDir,
}

impl CaddyCa {
    pub async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("caddy-ca-").tempdir()?;
        let listen = ports::free_address()?;
        let file = folder.path().join("Caddyfile");
        std::fs::write(
            &file,
            format!(
                "{{\n\tadmin off\n\tstorage file_system {}\n\tskip_install_trust\n\tauto_https disable_redirects\n}}\n\
                 https://{listen} {{\n\ttls internal\n\tacme_server\n}}\n",
                folder.path().join("data").display()
            ),
        )?;
        let mut command = Command::new(pypi::program("caddy")?);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
        command.env("XDG_DATA_HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
        let process = Process::spawn(command, "caddy", &folder.path().join("caddy.log"))?;
        let ca = Self { process, listen, folder };
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .timeout(Duration::from_secs(5));
        let http = http.build()?;
        let url = ca.directory_url();
        ca.process
            .ready(START_LIMIT, || async {
                http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
            })
            .await?;
        Ok(ca)
    }

    pub fn directory_url(&self) -> String {
        format!("https://{}/acme/local/directory", self.listen)
    }

    /// Its own root, which signs its HTTPS and what it issues.
    pub fn trusted_roots_file(&self) -> PathBuf {
        self.folder.path().join("data/pki/authorities/local/root.crt")
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
