//! Commands of the configuration, which may do anything, but not for ever.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

/// Until a server's test has to be done, and until any other command has. One after the other they are over well before the
/// `TimeoutStopSec` of the agent's unit: what stops the agent waits for them.
pub(super) const TEST: Duration = Duration::from_secs(20);
pub(super) const OTHER: Duration = Duration::from_secs(30);
/// What a command has said is waited for so long once it has ended: what it leaves behind, as a server, may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Bytes of its output that are kept.
const MOST_OUTPUT: usize = 64 << 10;

/// A command did not do what it is for.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// What it said, or why it could not be started.
    #[error("{0}")]
    Failed(String),
    /// It says nothing about what it was run for.
    #[error("it was not done after {0} s, and was ended with all that it had started{1}")]
    Hung(u64, String),
}

/// Runs a command; an empty one succeeds. One that is not done in time is ended, and whatever it has started.
///
/// # Errors
/// [`CommandError`].
pub(super) fn run(command: &[String], input: &[u8], patience: Duration) -> Result<(), CommandError> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Of its own: all of it can be ended together.
        .process_group(0)
        .spawn();
    let ended = child.and_then(|child| finish(child, input, patience));
    let (status, said) = ended.map_err(|error| CommandError::Failed(error.to_string()))?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) if said.is_empty() => Err(CommandError::Failed(status.to_string())),
        Some(_) => Err(CommandError::Failed(said)),
        None if said.is_empty() => Err(CommandError::Hung(patience.as_secs(), said)),
        None => Err(CommandError::Hung(patience.as_secs(), format!("; it had said: {said}"))),
    }
}

/// How it ended, `None` where it did not by itself, and what it has said.
fn finish(mut child: Child, input: &[u8], patience: Duration) -> io::Result<(Option<ExitStatus>, String)> {
    let group = rustix::process::Pid::from_child(&child);
    let (stdin, input) = (child.stdin.take(), input.to_vec());
    thread::spawn(move || {
        // One that reads nothing has nothing to say about what it was told.
        drop(stdin.map(|mut stdin| stdin.write_all(&input)));
    });
    let (heard, all_heard) = mpsc::channel();
    let errors = listen(child.stderr.take(), heard.clone());
    let output = listen(child.stdout.take(), heard);
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait()));
    let status = match ended.recv_timeout(patience) {
        Ok(status) => Some(status?),
        Err(_) => {
            // Gone at this very moment is as good.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            None
        }
    };
    // Over once both have been heard to the end.
    while all_heard.recv_timeout(LAST_WORDS).is_ok() {}
    let said = |text: &Mutex<Vec<u8>>| text.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = [said(&errors), said(&output)].concat();
    Ok((status, String::from_utf8_lossy(&text).trim().replace('\n', "; ")))
}

/// Hears all that comes, so that nobody waits to be heard, and keeps the beginning. Hangs up with the last word.
fn listen(from: Option<impl Read + Send + 'static>, heard: Sender<()>) -> Arc<Mutex<Vec<u8>>> {
    let kept = Arc::<Mutex<Vec<u8>>>::default();
    let text = Arc::clone(&kept);
    thread::spawn(move || {
        let (mut from, mut buffer) = (from?, [0; 4096]);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MOST_OUTPUT.saturating_sub(text.len()).min(count);
            text.extend_from_slice(&buffer[..room]);
        }
        drop(heard);
        Some(())
    });
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path, time::Instant};

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn what_a_command_says_is_told_and_what_it_leaves_behind_is_not_waited_for() {
        run(&[], &[], LONG).unwrap();
        run(&shell("read word && test $word = told"), b"told\n", LONG).unwrap();
        let failed = |script: &str| run(&shell(script), &[], LONG).unwrap_err().to_string();
        assert_eq!(failed("echo one; echo two >&2; exit 1"), "two; one");
        assert_eq!(failed("exit 3"), "exit status: 3");
        let much = failed("head -c 300000 /dev/zero | tr '\\0' x; exit 1");
        assert_eq!(much.len(), MOST_OUTPUT);
        assert!(run(&["/nonexistent".to_owned()], &[], LONG).is_err());
        // A server that was started has its output, for as long as it lives.
        let started = Instant::now();
        run(&shell("sleep 50 & echo started"), &[], LONG).unwrap();
        assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_that_it_has_started() {
        let root = tempfile::tempdir().unwrap();
        let child = root.path().join("child");
        let script = format!("sleep 500 & echo $! > {}; echo waiting; wait", child.display());
        let hung = run(&shell(&script), &[], Duration::from_secs(2)).unwrap_err();
        assert!(matches!(hung, CommandError::Hung(2, _)), "{hung}");
        assert!(hung.to_string().contains("not done after 2 s") && hung.to_string().contains("waiting"));
        let pid = fs::read_to_string(child).unwrap();
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        let is_there = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let until = Instant::now() + LONG;
        while is_there() {
            assert!(Instant::now() < until, "it goes on");
            thread::yield_now();
        }
    }
}
