//! A real `redis-server`: private, on loopback or a unix socket, that can be stopped, killed, frozen and started again.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use redis::{TlsCertificates, aio::MultiplexedConnection};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};

use crate::{
    clock,
    deadline::START_LIMIT,
    pki::{Authority, PairFiles},
    ports,
    process::{Exit, Process},
};

const STARTS: u32 = 5;
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Where Redis listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// A free port on 127.0.0.1.
    Tcp,
    /// The same with TLS only; the root is [`Redis::root_file`].
    Tls,
    /// A socket in the data directory, no TCP port.
    Unix,
}

/// How Redis is configured. The defaults are what the design asks of a store: nothing evicted, every write on disk.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    pub listen: Listen,
    pub append_only: bool,
    /// `always`, `everysec` or `no`
    pub append_fsync: &'static str,
    pub maxmemory_policy: &'static str,
    /// Lines of an ACL file, such as `user default on nopass ~* &* +@all`.
    pub acl: Option<String>,
    pub requirepass: Option<String>,
    /// How far its clock is ahead of everybody else's.
    pub clock_ahead_seconds: i64,
    /// The primary of this replica.
    pub replica_of: Option<SocketAddr>,
    /// Further lines of redis.conf.
    pub extra: String,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp,
            append_only: true,
            append_fsync: "always",
            maxmemory_policy: "noeviction",
            acl: None,
            requirepass: None,
            clock_ahead_seconds: 0,
            replica_of: None,
            extra: String::new(),
        }
    }
}

/// Redis with its data directory, running or stopped.
pub struct Redis {
    process: Option<Process>,
    options: RedisOptions,
    address: Address,
    config: PathBuf,
    authority: Option<Authority>,
    directory: TempDir,
}

/// Where a Redis can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Redis {
    pub async fn start(options: RedisOptions) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("redis-").tempdir()?;
        let authority = match options.listen {
            Listen::Tls => Some(Authority::new("Test CA for Redis")?),
            Listen::Tcp | Listen::Unix => None,
        };
        let mut redis = Self {
            process: None,
            address: Address::Unix(directory.path().join("redis.sock")),
            config: directory.path().join("redis.conf"),
            options,
            authority,
            directory,
        };
        for attempt in 1.. {
            if redis.options.listen != Listen::Unix {
                redis.address = Address::Tcp(ports::free_address()?);
            }
            redis.write_config()?;
            match redis.start_again().await {
                Ok(()) => return Ok(redis),
                Err(error) if attempt < STARTS && format!("{error:#}").contains("already in use") => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop above returns")
    }

    /// The URL for `[store] url`, with the password when there is one.
    pub fn url(&self) -> String {
        match (&self.address, &self.options.requirepass) {
            (Address::Unix(path), None) => format!("redis+unix://{}", path.display()),
            (Address::Unix(path), Some(password)) => {
                format!("redis+unix://{}?pass={password}", path.display())
            }
            (Address::Tcp(address), None) => format!("{}://{address}", self.scheme()),
            (Address::Tcp(address), Some(password)) => format!("{}://:{password}@{address}", self.scheme()),
        }
    }

    /// The URL for one user of the ACL.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        match &self.address {
            Address::Unix(path) => format!("redis+unix://{}?user={user}&pass={password}", path.display()),
            Address::Tcp(address) => format!("{}://{user}:{password}@{address}", self.scheme()),
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The root that signed its certificate, with [`Listen::Tls`].
    pub fn root_file(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    /// A connection of the test's own, for looking inside. Answers may take 10 s.
    pub async fn connection(&self) -> Result<MultiplexedConnection> {
        self.connect(&self.url()).await
    }

    /// Like [`Redis::connection`], as one user of the ACL.
    pub async fn connection_as(&self, user: &str, password: &str) -> Result<MultiplexedConnection> {
        self.connect(&self.url_as(user, password)).await
    }

    /// Runs one command, such as `["GET", "key"]`.
    pub async fn command(&self, words: &[&str]) -> Result<redis::Value> {
        let (name, arguments) = words.split_first().context("an empty command")?;
        let mut connection = self.connection().await?;
        Ok(redis::cmd(name).arg(arguments).query_async(&mut connection).await?)
    }

    /// `GET`; a key that doesn't exist is an error.
    pub async fn text_of(&self, key: &str) -> Result<String> {
        let value: Option<String> = redis::from_redis_value(self.command(&["GET", key]).await?)?;
        value.with_context(|| format!("Redis has no {key}"))
    }

    /// Its child, for signals and CPU time; an error while it is stopped.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("Redis is stopped")
    }

    /// SIGTERM: Redis ends as an operator ends it.
    pub async fn stop(&mut self) -> Result<Exit> {
        self.process.take().context("Redis is stopped already")?.terminate(STOP_LIMIT).await
    }

    /// `kill -9`.
    pub async fn kill9(&mut self) -> Result<Exit> {
        self.process.take().context("Redis is stopped already")?.kill9().await
    }

    /// Its clock from its next start on.
    pub fn set_clock(&mut self, ahead_seconds: i64) {
        self.options.clock_ahead_seconds = ahead_seconds;
    }

    /// With [`Listen::Tls`]: another certificate, signed by another root, while it runs. Whoever is connected is put out.
    pub async fn replace_root(&mut self) -> Result<()> {
        let mut connection = self.connection().await?;
        let authority = Authority::new("Another test CA for Redis")?;
        let files = self.write_tls_files(&authority)?;
        let mut set = redis::cmd("CONFIG");
        set.arg("SET");
        for (name, path) in [
            ("tls-cert-file", files.certificate),
            ("tls-key-file", files.key),
            ("tls-ca-cert-file", self.root_file()),
        ] {
            set.arg(name).arg(path.to_str().context("a path of text")?);
        }
        let _: () = set.query_async(&mut connection).await?;
        self.authority = Some(authority);
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
        let _: i64 = kill.query_async(&mut connection).await?;
        Ok(())
    }

    fn write_tls_files(&self, authority: &Authority) -> Result<PairFiles> {
        std::fs::write(self.root_file(), authority.pem()?)?;
        authority.issue_server(&["127.0.0.1", "localhost"])?.write(self.directory.path(), "server")
    }

    /// Starts it on the same address and data, after [`Redis::stop`] or [`Redis::kill9`].
    pub async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("Redis is running");
        }
        let log = self.directory.path().join("redis.log");
        let read = std::fs::metadata(&log).map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(0));
        let mut command = Command::new("redis-server");
        command.arg(&self.config).current_dir(self.directory.path());
        if self.options.clock_ahead_seconds != 0 {
            let library = clock::shifted(self.directory.path(), self.options.clock_ahead_seconds)?;
            command.env("LD_PRELOAD", library);
        }
        let process = Process::spawn(command, "redis-server", &log)?;
        let address = self.address.clone();
        process
            .ready(START_LIMIT, || {
                // Logged once the data has been loaded; before that it only answers LOADING.
                let loaded =
                    process.log().get(read..).is_some_and(|new| new.contains("eady to accept connections"));
                let address = &address;
                async move {
                    loaded
                        && match address {
                            Address::Tcp(address) => TcpStream::connect(address).await.is_ok(),
                            Address::Unix(path) => UnixStream::connect(path).await.is_ok(),
                        }
                }
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.process()?.pause()
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.process()?.resume()
    }

    /// `SAVE`, and where the dump is.
    pub async fn save(&self) -> Result<PathBuf> {
        self.command(&["SAVE"]).await?;
        Ok(self.rdb_path())
    }

    pub fn rdb_path(&self) -> PathBuf {
        self.data_dir().join("dump.rdb")
    }

    /// Every file of the append-only log: base, increments, manifest.
    pub fn aof_paths(&self) -> Result<Vec<PathBuf>> {
        let folder = self.data_dir().join("appendonlydir");
        let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// What is on disk now, as a backup has it.
    pub fn copy_data(&self) -> Result<TempDir> {
        let copy = tempfile::Builder::new().prefix("redis-copy-").tempdir()?;
        copy_folder(&self.data_dir().join("appendonlydir"), copy.path())?;
        Ok(copy)
    }

    /// Puts a copy in the place of what is on disk; for a Redis that is stopped.
    pub fn restore_data(&self, copy: &TempDir) -> Result<()> {
        if self.process.is_some() {
            bail!("Redis is running");
        }
        let folder = self.data_dir().join("appendonlydir");
        std::fs::remove_dir_all(&folder)?;
        std::fs::create_dir(&folder)?;
        copy_folder(copy.path(), &folder)
    }

    pub fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    fn scheme(&self) -> &'static str {
        if self.options.listen == Listen::Tls { "rediss" } else { "redis" }
    }

    async fn connect(&self, url: &str) -> Result<MultiplexedConnection> {
        let client = match &self.authority {
            Some(authority) => redis::Client::build_with_tls(
                url,
                TlsCertificates { client_tls: None, root_cert: Some(authority.pem()?) },
            )?,
            None => redis::Client::open(url)?,
        };
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    fn write_config(&self) -> Result<()> {
        let directory = self.directory.path();
        let options = &self.options;
        let mut text = format!(
            "bind 127.0.0.1\ndir {}\nsave \"\"\nenable-debug-command local\nshutdown-on-sigterm default\n\
             appendonly {}\nappendfsync {}\nmaxmemory-policy {}\n",
            directory.display(),
            if options.append_only { "yes" } else { "no" },
            options.append_fsync,
            options.maxmemory_policy,
        );
        match (&self.address, options.listen) {
            (Address::Unix(path), _) => {
                writeln!(text, "port 0\nunixsocket {}\nunixsocketperm 700", path.display())?
            }
            (Address::Tcp(address), Listen::Tls) => {
                let authority = self.authority.as_ref().context("TLS without a CA")?;
                let files = self.write_tls_files(authority)?;
                writeln!(
                    text,
                    "port 0\ntls-port {}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no",
                    address.port(),
                    files.certificate.display(),
                    files.key.display(),
                    self.root_file().display()
                )?;
            }
            (Address::Tcp(address), _) => writeln!(text, "port {}", address.port())?,
        }
        if let Some(acl) = &options.acl {
            let path = directory.join("users.acl");
            std::fs::write(&path, acl)?;
            writeln!(text, "aclfile {}", path.display())?;
        }
        if let Some(password) = &options.requirepass {
            writeln!(text, "requirepass {password}")?;
        }
        if let Some(primary) = options.replica_of {
            writeln!(text, "replicaof {} {}", primary.ip(), primary.port())?;
        }
        text.push_str(&options.extra);
        text.push('\n');
        std::fs::write(&self.config, text)?;
        // It may hold a password.
        std::fs::set_permissions(&self.config, std::fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
