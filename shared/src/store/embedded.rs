//! The embedded store: a private `redis-server` on a unix socket in the state directory, for one machine.
//!
//! The program that needs it first starts it, detached; all others attach; it outlives them. A file lock that the server
//! inherits says that it lives: whoever gets the lock knows that nobody serves, and starts it.

use super::{
    Role,
    embedded_owner::{Owner, user_name},
    rights::{granted, granted_where_embedded},
};
use crate::config::StoreSection;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use std::{
    fs::{File, Permissions, TryLockError},
    io::{self, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{sleep, timeout},
};

/// A unix socket's path has room for 107 bytes; the design leaves some.
const MAX_SOCKET_PATH: usize = 100;
/// How long a start may take: a large append-only file is read first.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// How long a server may say nothing at all, not even that it loads.
const SILENT_DEADLINE: Duration = Duration::from_secs(10);
/// When it is said what is waited for.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// How long a stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Where an embedded store lives, and how it is started.
#[derive(Clone, Debug)]
pub struct Embedded {
    directory: PathBuf,
    memory_mib: u64,
    min_free_mib: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("the socket's path {0} is longer than {MAX_SOCKET_PATH} bytes: choose a shorter store.state_dir")]
    PathTooLong(PathBuf),
    #[error("{path} can't be used (store.state_dir names the directory; store.url a Redis of your own)")]
    Files {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "redis-server can't be started: install it (apt-get install redis-server), or name a Redis with store.url"
    )]
    NoServer(#[source] io::Error),
    #[error(
        "the embedded store in {path} belongs to the user {owner}, and this is {me}: run it as {owner} (sudo -u {owner} ...), or \
         give it back where {owner} has it by mistake (chown -R)"
    )]
    NotOwner { path: PathBuf, owner: String, me: String },
    #[error(
        "the embedded store in {path} is gone although this program uses it: it is not begun anew while it runs. Put the \
         directory back, or restart the program"
    )]
    Removed { path: PathBuf },
    #[error(
        "the redis-server of {path} runs and has said nothing for {} s: it was stopped (kill -CONT lets it go on), or its \
         disk hangs", SILENT_DEADLINE.as_secs()
    )]
    Frozen { path: PathBuf },
    #[error("redis-server did not come up within {} s; its log {log} ends with:\n{tail}", START_DEADLINE.as_secs())]
    Silent { log: PathBuf, tail: String },
    #[error("redis-server ended at once; its log {log} ends with:\n{tail}")]
    Ended { log: PathBuf, tail: String },
    #[error(
        "only {free_mib} MiB are free at {path}, {wanted_mib} are wanted: nothing new is ordered, because Redis ends when \
         it can't write its append-only file"
    )]
    DiskFull { path: PathBuf, free_mib: u64, wanted_mib: u64 },
}

impl Embedded {
    /// Lines of redis.conf that decide how compactly records are kept. Right for a Redis of one's own, too.
    pub const MEMORY_SETTINGS: &str = "hash-max-listpack-value 1024\n";

    /// # Errors
    /// [`EmbeddedError::PathTooLong`].
    pub fn at(section: &StoreSection) -> Result<Self, EmbeddedError> {
        let directory = section.state_dir.join("store");
        let found = Self {
            directory,
            memory_mib: section.embedded_memory_mib,
            min_free_mib: section.embedded_min_free_mib,
        };
        let socket = found.socket();
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            Err(EmbeddedError::PathTooLong(socket))
        } else {
            Ok(found)
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    /// Attaches to the server, starting it where nobody has. Two programs may do this in the same instant.
    ///
    /// # Errors
    /// [`EmbeddedError`]: it is another user's, or with the end of the server's log where it doesn't come up.
    pub async fn ensure_running(&self) -> Result<(), EmbeddedError> {
        let owner = Owner::of_new(&self.directory).map_err(|e| self.not_usable(e))?;
        self.start_or_attach(owner).await
    }

    /// The same for a program that has used it: what was removed meanwhile is not begun anew.
    pub(super) async fn revive(&self) -> Result<(), EmbeddedError> {
        if !self.directory.exists() {
            return Err(EmbeddedError::Removed { path: self.directory.clone() });
        }
        self.start_or_attach(Owner::of(&self.directory).map_err(|e| self.not_usable(e))?).await
    }

    /// Gives a file that belongs to the store to the user whose store it is.
    ///
    /// # Errors
    /// The file can't be given away.
    pub(super) fn give_to_owner(&self, path: &Path) -> io::Result<()> {
        Owner::of(&self.directory)?.give(path)
    }

    /// Whether a server holds the lock.
    pub fn is_running(&self) -> bool {
        File::open(self.lock_path())
            .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Ends the server once everything is written. `false` where none ran.
    ///
    /// # Errors
    /// [`super::StoreError`] when it can't be told to end, or doesn't.
    pub async fn stop(&self) -> Result<bool, super::StoreError> {
        if self.directory.exists()
            && let Err(error) = std::fs::read_dir(&self.directory)
        {
            return Err(self.not_usable(error).into());
        }
        if !self.is_running() {
            return Ok(false);
        }
        let client =
            redis::Client::open(self.connection_info(Role::Issuer)?).map_err(super::StoreError::Url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        // The answer to a shutdown is that the connection ends.
        let _: Result<(), redis::RedisError> = redis::cmd("SHUTDOWN").query_async(&mut connection).await;
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.is_running() {
            if Instant::now() >= deadline {
                return Err(EmbeddedError::Silent { log: self.log_path(), tail: self.log_tail() }.into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(true)
    }

    /// # Errors
    /// [`EmbeddedError::DiskFull`] when too little space is left for what an order writes.
    pub fn check_free_space(&self) -> Result<(), EmbeddedError> {
        let stat = rustix::fs::statvfs(&self.directory).map_err(|e| self.files(e.into()))?;
        let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
        if free_mib < self.min_free_mib {
            return Err(EmbeddedError::DiskFull {
                path: self.directory.clone(),
                free_mib,
                wanted_mib: self.min_free_mib,
            });
        }
        Ok(())
    }

    pub(super) fn connection_info(&self, role: Role) -> Result<ConnectionInfo, EmbeddedError> {
        if !self.directory.exists() {
            return Err(EmbeddedError::Removed { path: self.directory.clone() });
        }
        let path = self.secret_path(role);
        let password =
            std::fs::read_to_string(&path).map_err(|source| EmbeddedError::Files { path, source })?;
        let user = RedisConnectionInfo::default().set_username(role.as_str()).set_password(password.trim());
        let address = ConnectionAddr::Unix(self.socket());
        let info = address.into_connection_info().map_err(|e| self.files(io::Error::other(e)))?;
        Ok(info.set_redis_settings(user))
    }

    async fn start_or_attach(&self, owner: Owner) -> Result<(), EmbeddedError> {
        let began = Instant::now();
        let (mut silent_since, mut said) = (began, false);
        loop {
            match self.look().await {
                Look::Answers => return Ok(()),
                Look::Loading => silent_since = Instant::now(),
                Look::Forbidden(error) => return Err(self.not_usable(error)),
                Look::Silent => {}
            }
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(self.lock_path())
                .map_err(|e| self.not_usable(e))?;
            match lock.try_lock() {
                // Nobody serves, and nobody else is about to: the lock goes to the server with its standard input's neighbour.
                Ok(()) => return self.start(lock, owner).await,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(self.files(e)),
            }
            if silent_since.elapsed() >= SILENT_DEADLINE {
                return Err(EmbeddedError::Frozen { path: self.directory.clone() });
            }
            self.wait(began, &mut said).await?;
        }
    }

    /// A moment, as long as there is time; says what is waited for once it takes long.
    async fn wait(&self, began: Instant, said: &mut bool) -> Result<(), EmbeddedError> {
        if began.elapsed() >= START_DEADLINE {
            return Err(EmbeddedError::Silent { log: self.log_path(), tail: self.log_tail() });
        }
        if began.elapsed() >= SAID_AFTER && !std::mem::replace(said, true) {
            tracing::warn!(store = %self.directory.display(), "waiting for the embedded redis-server to answer");
        }
        sleep(Duration::from_millis(10)).await;
        Ok(())
    }

    async fn start(&self, lock: File, owner: Owner) -> Result<(), EmbeddedError> {
        let began = Instant::now();
        std::fs::set_permissions(&self.directory, Permissions::from_mode(0o750))
            .map_err(|e| self.files(e))?;
        self.write_settings().map_err(|e| self.files(e))?;
        let _ = std::fs::remove_file(self.socket());
        // What somebody left here who is not the owner would keep the owner out.
        owner.give_all(&self.directory).map_err(|e| self.files(e))?;
        let mut command = Command::new("redis-server");
        // The server's standard input is the lock: it holds it for as long as it lives, and nobody else inherits it.
        command
            .arg(self.directory.join("redis.conf"))
            .current_dir(&self.directory)
            .stdin(Stdio::from(lock))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        owner.become_it(&mut command);
        let mut server = command.spawn().map_err(EmbeddedError::NoServer)?;
        let mut said = false;
        loop {
            if matches!(self.look().await, Look::Answers) {
                return Ok(());
            }
            if server.try_wait().map_err(|e| self.files(e))?.is_some() {
                return Err(EmbeddedError::Ended { log: self.log_path(), tail: self.log_tail() });
            }
            self.wait(began, &mut said).await?;
        }
    }

    /// Whether a server answers and has loaded its data. `NOAUTH` is an answer; `LOADING` is not.
    async fn look(&self) -> Look {
        let ask = async {
            let mut stream = UnixStream::connect(self.socket()).await?;
            let password = std::fs::read_to_string(self.secret_path(Role::Challenge))?;
            let question = format!("AUTH {} {}\r\nPING\r\n", Role::Challenge.as_str(), password.trim());
            stream.write_all(question.as_bytes()).await?;
            let (mut answer, mut got) = (vec![0; 128], 0);
            while answer[..got].iter().filter(|byte| **byte == b'\n').count() < 2 {
                match stream.read(&mut answer[got..]).await? {
                    0 => break,
                    read => got += read,
                }
            }
            answer.truncate(got);
            Ok::<_, io::Error>(answer)
        };
        let has = |answer: &[u8], word: &[u8]| answer.windows(word.len()).any(|window| window == word);
        match timeout(Duration::from_millis(500), ask).await {
            Ok(Ok(answer)) if has(&answer, b"+PONG") => Look::Answers,
            Ok(Ok(answer)) if has(&answer, b"LOADING") => Look::Loading,
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Look::Forbidden(error),
            _ => Look::Silent,
        }
    }

    /// A user for each role with no more rights than it needs; passwords that are made once and kept.
    fn write_settings(&self) -> io::Result<()> {
        // The default user has every right and nobody can be it: the append-only file is read back in its name, and Redis
        // leaves out each of its transactions whose commands that user may not run.
        let mut users = String::from("user default off resetpass ~* &* +@all\n");
        for role in Role::ALL {
            let password = self.secret(role)?;
            let (rights, besides) = (granted(role), granted_where_embedded(role));
            users.push_str(&format!("user {} on >{password} {rights}{besides}\n", role.as_str()));
        }
        write_private(&self.directory.join("users.acl"), users.as_bytes())?;
        let settings = format!(
            "# Written by Signpost at every start.\n\
             port 0\nunixsocket {socket}\nunixsocketperm 770\ndaemonize no\nsupervised no\ndir {dir}\nlogfile {log}\n\
             loglevel notice\naclfile {dir}/users.acl\nappendonly yes\nappendfsync always\nsave \"\"\nmaxmemory {memory}mb\n\
             maxmemory-policy noeviction\ndatabases 1\n\
             {records}",
            socket = self.socket().display(),
            dir = self.directory.display(),
            log = self.log_path().display(),
            memory = self.memory_mib,
            records = Self::MEMORY_SETTINGS,
        );
        write_private(&self.directory.join("redis.conf"), settings.as_bytes())
    }

    fn secret(&self, role: Role) -> io::Result<String> {
        let path = self.secret_path(role);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; 24];
                openssl::rand::rand_bytes(&mut bytes)?;
                let secret = crate::digest::hex(&bytes);
                write_private(&path, secret.as_bytes())?;
                Ok(secret)
            }
            Err(e) => Err(e),
        }
    }

    fn secret_path(&self, role: Role) -> PathBuf {
        self.directory.join(format!("{}.password", role.as_str()))
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.join("redis.lock")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("redis.log")
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }

    /// Of a permission that is lacking it is said whose store it is.
    fn not_usable(&self, source: io::Error) -> EmbeddedError {
        if source.kind() != io::ErrorKind::PermissionDenied {
            return self.files(source);
        }
        let me = rustix::process::geteuid().as_raw();
        let owner = Owner::uid_of(&self.directory).unwrap_or(0);
        EmbeddedError::NotOwner { path: self.directory.clone(), owner: user_name(owner), me: user_name(me) }
    }

    fn files(&self, source: io::Error) -> EmbeddedError {
        EmbeddedError::Files { path: self.directory.clone(), source }
    }
}

impl EmbeddedError {
    /// Whether it may pass while a program waits.
    pub const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Silent { .. }
                | Self::Ended { .. }
                | Self::Frozen { .. }
                | Self::DiskFull { .. }
                | Self::Removed { .. }
        )
    }
}

/// What came of asking the server.
enum Look {
    Answers,
    Loading,
    Silent,
    Forbidden(io::Error),
}

/// A file that its owner alone can read, from its first byte on.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut draft =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(directory)?;
    draft.write_all(content)?;
    draft.as_file().sync_all()?;
    draft.persist(path).map_err(|e| e.error)?;
    Ok(())
}
