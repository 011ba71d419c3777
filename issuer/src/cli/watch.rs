//! What a person sees while certificates are being ordered. Quiet in a pipe.

use super::output::Output;
use crate::issuance::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Beyond this many sites steps would scroll by unread: a bar is shown in their place.
const MOST_STEPS_SHOWN: usize = 4;

/// Progress of a run over sites.
pub(super) struct Watch {
    bar: Option<ProgressBar>,
    progress: Progress,
}

impl Watch {
    pub(super) fn over(sites: usize, output: Output) -> Self {
        if !output.has_watcher() {
            return Self { bar: None, progress: Progress::silent() };
        }
        if sites <= MOST_STEPS_SHOWN {
            let progress = Progress::new(move |names, step| {
                let slot = step.slot.map(|slot| format!(" {slot}")).unwrap_or_default();
                let note = if step.note.is_empty() { String::new() } else { format!("  {}", step.note) };
                output.note(&format!("{:>7} ms  {names}{slot}: {}{note}", step.at_ms, step.step));
            });
            return Self { bar: None, progress };
        }
        let bar = ProgressBar::new(sites as u64);
        let style = "{bar:30} {pos} of {len}, {per_sec}, {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar: Some(bar), progress: Progress::silent() }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn site_done(&self, words: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(words.to_owned());
            bar.inc(1);
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns when the user or the system asks the program to end.
pub(super) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
