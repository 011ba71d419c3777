//! Commands of the configuration, which may do anything, but not for ever.

use std::{
    io::{self, Write},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Until a command has to be done.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a command; an empty one succeeds.
///
/// # Errors
/// Its output when it failed, or why it could not be started or was ended.
pub(super) fn run(command: &[String], input: &[u8]) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let output = child.and_then(|child| finish(child, input)).map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    Err(if text.is_empty() { output.status.to_string() } else { text })
}

fn finish(mut child: Child, input: &[u8]) -> io::Result<Output> {
    let pid = rustix::process::Pid::from_child(&child);
    let (stdin, input) = (child.stdin.take(), input.to_vec());
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        // One that reads nothing has nothing to say about what it was told.
        drop(stdin.map(|mut stdin| stdin.write_all(&input)));
    });
    thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(PATIENCE) {
        Ok(output) => output,
        Err(_) => {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("not done after {} s", PATIENCE.as_secs())))
        }
    }
}
