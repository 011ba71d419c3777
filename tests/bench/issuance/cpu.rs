//! CPU time of processes that are nobody's children here: proc_pid_stat(5).

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

/// User and system time so far of this process, without its children.
pub(crate) fn of_this_process() -> Result<Duration> {
    of(std::process::id())
}

/// User and system time so far of a process, without its children.
pub(crate) fn of(pid: u32) -> Result<Duration> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let ticks = ticks(&text).with_context(|| format!("/proc/{pid}/stat: {text}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// What all programs of this machine have used since it started, and what was taken from it by its host: proc_stat(5).
pub(crate) fn of_all() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let ticks = all_ticks(&text).with_context(|| format!("/proc/stat: {text}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The process of this name that was started in `directory`.
pub(crate) fn process_in(directory: &Path, name: &str) -> Result<u32> {
    let directory = directory.canonicalize()?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let is_it = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == directory)
            && std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        if is_it {
            return Ok(pid);
        }
    }
    bail!("no {name} runs in {}", directory.display())
}

/// utime + stime. The second field is the program's name in parentheses and may itself contain some.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// user + nice + system + steal. Time in interrupts belongs to nobody in particular.
fn all_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Some(fields.get(..3)?.iter().sum::<u64>() + fields.get(7)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_name_of_a_program_may_look_like_anything() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 100 0 0 0 30 12 5 6 20 0 1 0";
        assert_eq!(super::ticks(stat), Some(42));
    }

    #[test]
    fn idle_time_and_interrupts_are_nobodys() {
        let stat = "cpu  100 20 3 9000 800 70 60 5 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(super::all_ticks(stat), Some(128));
    }
}
