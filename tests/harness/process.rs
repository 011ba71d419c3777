//! Children: a log file each, signals by their own handle, CPU time, and an end when the value is dropped.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// How long a child may take to end after SIGTERM when it is dropped, before SIGKILL.
const FAREWELL: Duration = Duration::from_secs(3);
const LOG_TAIL_LINES: usize = 40;

/// How a child is ended when its value is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGKILL at once: for programs without children of their own.
    Kill,
    /// SIGTERM, and SIGKILL when that didn't help: for programs that must end their own workers (nginx).
    TerminateFirst,
}

/// A running child. Dropping it ends it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ending: Ending,
    exit: Option<Exit>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    pub status: ExitStatus,
    /// User and system time of the child and of the children that it waited for.
    pub cpu: Duration,
}

impl Exit {
    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Process {
    /// Starts `command` with both outputs appended to `log`. `package` is the apt package that brings the program.
    pub fn spawn(command: Command, package: &str, log: &Path) -> Result<Self> {
        let output = append_to(log)?;
        Self::spawn_with_stdout(command, package, output, log)
    }

    /// Like [`Process::spawn`], with standard output going elsewhere and only standard error to `log`.
    pub fn spawn_with_stdout(mut command: Command, package: &str, stdout: File, log: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let name = Path::new(&program)
            .file_name()
            .map_or(program.clone(), |name| name.to_string_lossy().into_owned());
        command.stdin(Stdio::null()).stdout(stdout).stderr(append_to(log)?);
        let child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!("{program} isn't there: apt-get install {package}"),
            _ => anyhow!(error).context(format!("start {program}")),
        })?;
        Ok(Self { name, child, log: log.to_owned(), ending: Ending::Kill, exit: None })
    }

    /// Chooses how it is ended on drop; SIGKILL unless told.
    #[must_use]
    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything that it wrote to its log so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of its log, for an error message.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL_LINES);
        format!("--- last lines of {}:\n{}\n---", self.log.display(), lines[from..].join("\n"))
    }

    /// Whether it has neither exited nor been killed.
    pub fn is_running(&self) -> bool {
        // Until we wait for it, the child's entry in /proc stays, as a zombie once it has ended.
        self.exit.is_none() && Stat::of(self.pid()).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    }

    /// Fails with its name and the end of its log when it has ended.
    pub fn assert_running(&self) -> Result<()> {
        if !self.is_running() {
            bail!("{} has ended\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Asks `probe` until it is true; a child that ended, or `limit`, is an error with the end of the log.
    pub async fn ready<F, Fut>(&self, limit: Duration, mut probe: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        let started = Instant::now();
        while !probe().await {
            self.assert_running()?;
            if started.elapsed() > limit {
                bail!("{} wasn't ready within {limit:?}\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.assert_running()
    }

    /// Sends a signal to it. An error once it has been waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exit.is_some() {
            bail!("{} has ended, no signal can reach it", self.name);
        }
        send(self.pid(), signal)
    }

    /// SIGSTOP: it keeps its sockets and answers nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT, after [`Process::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill9(&mut self) -> Result<Exit> {
        self.signal(Signal::KILL)?;
        self.wait(FAREWELL).await
    }

    /// SIGTERM, and waits for the end; an error when it didn't end within `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<Exit> {
        self.signal(Signal::TERM)?;
        self.wait(limit).await
    }

    /// Waits until it has ended by itself; an error with the end of its log after `limit` (it runs on then).
    pub async fn wait(&mut self, limit: Duration) -> Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let child = pidfd_open(pid(self.pid())?, PidfdFlags::empty())?;
        if !tokio::task::spawn_blocking(move || readable_within(&child, limit)).await?? {
            bail!("{} didn't end within {limit:?}\n{}", self.name, self.log_tail());
        }
        // Read before the wait below takes the zombie away.
        let cpu = cpu_time(self.pid()).unwrap_or_default();
        let exit = Exit { status: self.child.wait()?, cpu };
        self.exit = Some(exit);
        Ok(exit)
    }

    /// User and system time so far, of it and of the children that it waited for.
    pub fn cpu_time(&self) -> Result<Duration> {
        match self.exit {
            Some(exit) => Ok(exit.cpu),
            None => cpu_time(self.pid()).with_context(|| format!("CPU time of {}", self.name)),
        }
    }

    /// [`Process::cpu_time`] with its living children added: an nginx with its workers.
    pub fn cpu_time_with_children(&self) -> Result<Duration> {
        let children = children_of(self.pid()).into_iter().filter_map(cpu_time);
        Ok(self.cpu_time()? + children.sum::<Duration>())
    }

    /// A handle for a closure that is to kill this child at some moment.
    pub fn killer(&self) -> Killer {
        Killer { pid: self.pid() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit.is_some() {
            return;
        }
        if self.ending == Ending::TerminateFirst {
            // A stopped child hears nothing but SIGKILL and SIGCONT.
            let asked = send(self.pid(), Signal::CONT).and_then(|()| send(self.pid(), Signal::TERM));
            let started = Instant::now();
            while asked.is_ok() && started.elapsed() < FAREWELL {
                if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Nothing more can be done about an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills or freezes one child from inside a fault rule or a proxy's trigger.
#[derive(Debug, Clone, Copy)]
pub struct Killer {
    pid: u32,
}

impl Killer {
    /// `kill -9` without waiting; a child that has ended already is no error. The [`Process`] must still be held.
    pub fn kill9(&self) {
        let _ = send(self.pid, Signal::KILL);
    }

    /// SIGSTOP, as [`Killer::kill9`]. Returns once none of its threads runs any more: one that does could still write.
    pub fn pause(&self) {
        let began = Instant::now();
        let stopped = send(self.pid, Signal::STOP).is_ok();
        while stopped && !is_stopped(self.pid) && began.elapsed() < PAUSED_WITHIN {
            std::thread::yield_now();
        }
    }
}

/// How long a process that is told to stop is waited for.
const PAUSED_WITHIN: Duration = Duration::from_secs(2);

/// Whether every thread of it is stopped, or gone.
fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let Ok(text) = std::fs::read_to_string(thread.path().join("stat")) else { return true };
        let state = text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}

/// The processes whose parent is `parent`.
pub fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

fn cpu_time(pid: u32) -> Option<Duration> {
    let ticks = Stat::of(pid)?.cpu_ticks;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// What we need of /proc/PID/stat (proc_pid_stat(5)).
struct Stat {
    state: char,
    parent: u32,
    /// utime + stime + cutime + cstime
    cpu_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may itself contain some.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let cpu_ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Self { state: fields.first()?.chars().next()?, parent: fields.get(1)?.parse().ok()?, cpu_ticks })
    }
}

/// A descriptor of a process becomes readable the moment that the process has ended.
fn readable_within(process: &OwnedFd, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for a child"),
        }
    }
}

fn send(to: u32, signal: Signal) -> Result<()> {
    kill_process(pid(to)?, signal).with_context(|| format!("send a signal to process {to}"))
}

fn pid(number: u32) -> Result<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw).with_context(|| format!("{number} is no process id"))
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}
