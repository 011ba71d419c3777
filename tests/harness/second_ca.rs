//! acme2certifier, an ACME server in Python: a second one beside Pebble, with renewal information and profiles, on a loopback port.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{deadline::START_LIMIT, ports, process::Process};

/// As `tests/run` installs it.
const VERSION: &str = "0.46.3";
/// Profiles that its directory names.
pub const PROFILES: [&str; 2] = ["classic", "short"];

/// When it wants its certificates renewed, which live for 90 days.
#[derive(Debug, Clone, Copy)]
pub enum Window {
    /// Two days that begin with so much of the life over, percent.
    At(u8),
    /// A second that is over as soon as there is a certificate.
    AtOnce,
}

/// The server.
pub struct SecondCa {
    process: Process,
    listen: SocketAddr,
    folder: TempDir,
}

impl SecondCa {
    pub async fn start(window: Window) -> Result<Self> {
        let python = python()?;
        let folder = tempfile::Builder::new().prefix("second-ca-").tempdir()?;
        let listen = ports::free_address()?;
        std::fs::create_dir(folder.path().join("certificates"))?;
        std::fs::write(folder.path().join("acme_srv.cfg"), configuration(folder.path(), window))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/second_ca.py");
        let mut command = Command::new(python);
        command.arg(script).arg(folder.path()).arg(listen.port().to_string());
        let process = Process::spawn(command, "python3-venv", &folder.path().join("second-ca.log"))?;
        process.ready(START_LIMIT, || async { tokio::net::TcpStream::connect(listen).await.is_ok() }).await?;
        Ok(Self { process, listen, folder })
    }

    pub fn directory_url(&self) -> String {
        format!("https://{}/directory", self.listen)
    }

    /// Its own root, which has signed its HTTPS too.
    pub fn trusted_roots_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What it wrote: each request with its answer.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The payloads of such requests in its log, one line each.
    pub fn requests_of(&self, path: &str) -> usize {
        self.log().lines().filter(|line| line.contains(path)).count()
    }

    pub async fn end(mut self) -> Result<()> {
        self.process.terminate(Duration::from_secs(5)).await.map(drop)
    }
}

/// The interpreter of the environment that it is installed in.
fn python() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let folder = cache.context("neither XDG_CACHE_HOME nor HOME is set")?;
    let python = folder.join(format!("signpost-tests/acme2certifier-{VERSION}/bin/python"));
    ensure!(python.exists(), "{} is missing: `tests/run` installs it", python.display());
    Ok(python)
}

fn configuration(folder: &Path, window: Window) -> String {
    let profiles = PROFILES.map(|name| format!("\"{name}\": \"https://ca.example/{name}\"")).join(", ");
    let (percent, duration) = match window {
        Window::At(percent) => (f64::from(percent), "2d"),
        Window::AtOnce => (0.0, "1s"),
    };
    let folder = folder.display();
    format!(
        "[DEFAULT]\ndebug: False\n\
         [DBhandler]\nhandler: wsgi\ndbfile: {folder}/acme.db\n\
         [CAhandler]\nhandler_module: acme2certifier.cahandlers.openssl_ca_handler\nissuing_ca_key: {folder}/ca.key\n\
         issuing_ca_cert: {folder}/ca.pem\nissuing_ca_crl: {folder}/crl.pem\nca_cert_chain_list: [\"{folder}/ca.pem\"]\n\
         cert_save_path: {folder}/certificates\ncert_validity_days: 90\n\
         [Challenge]\nchallenge_validation_disable: True\n\
         [Order]\nprofiles: {{{profiles}}}\nprofiles_check_disable: False\n\
         [Directory]\ntos_url: https://ca.example/terms\n\
         [Renewalinfo]\nrenewalthreshold_pctg: {percent}\nrenewal_window_duration: {duration}\nretry_after_timeout: 21600\n"
    )
}
