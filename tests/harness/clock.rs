//! A clock that is wrong, for a child that asks the C library for the time.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Every way in which a program of C asks for the time of day.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *to) {
    int answer = syscall(SYS_clock_gettime, clock, to);
    if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) to->tv_sec += AHEAD;
    return answer;
}

int gettimeofday(struct timeval *to, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A library for `LD_PRELOAD` whose time is so many seconds ahead of the system's.
pub fn shifted(directory: &Path, ahead_seconds: i64) -> Result<PathBuf> {
    let (source, library) = (directory.join("clock.c"), directory.join(format!("clock{ahead_seconds}.so")));
    std::fs::write(&source, SOURCE)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(format!("-DAHEAD=({ahead_seconds})"));
    let output = compiler.arg(&source).output().context("run cc: apt-get install gcc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(library)
}
