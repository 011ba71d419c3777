//! What an order tells whoever watches it.

use serde::Serialize;
use shared::domain::{NameSet, Slot};
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Instant,
};

/// One thing that happened to an order.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// `lease`, `ordered`, `challenged`, `self-check`, `answered`, `ready`, `finalizing`, `issued`, `stored`, `published`
    /// (`staged`: to the canaries).
    pub step: &'static str,
    /// Which certificate of the site; absent where it is about the site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// Since the beginning, milliseconds.
    pub at_ms: u64,
    /// Since the step before, milliseconds.
    pub took_ms: u64,
    /// What the CA or the checker said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Hears each step as it happens.
type Listener = dyn Fn(&NameSet, &Step) + Send + Sync;

/// The steps of one site so far.
#[derive(Clone)]
pub struct Timeline {
    names: Arc<NameSet>,
    began: Instant,
    steps: Arc<Mutex<Vec<Step>>>,
    progress: Progress,
}

/// Where timelines are told.
#[derive(Clone)]
pub struct Progress(Arc<Listener>);

impl Progress {
    pub fn new(listener: impl Fn(&NameSet, &Step) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// To nobody.
    pub fn silent() -> Self {
        Self::new(|_, _| {})
    }
}

impl Timeline {
    pub fn begin(names: &NameSet, progress: &Progress) -> Self {
        Self {
            names: Arc::new(names.clone()),
            began: Instant::now(),
            steps: Arc::default(),
            progress: progress.clone(),
        }
    }

    pub fn tell(&self, step: &'static str, slot: Option<Slot>, note: impl Into<String>) {
        let at_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = {
            let mut steps = self.steps.lock().expect("nothing panics while holding it");
            let before = steps.last().map_or(0, |last| last.at_ms);
            steps.push(Step { step, slot, at_ms, took_ms: at_ms - before, note: note.into() });
            steps.last().cloned().expect("it was pushed above")
        };
        let slot = told.slot.map(|slot| slot.to_string());
        tracing::debug!(names = %self.names, step, slot, note = told.note, at_ms, "step");
        (self.progress.0)(&self.names, &told);
    }

    pub fn steps(&self) -> Vec<Step> {
        self.steps.lock().expect("nothing panics while holding it").clone()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeline").field("names", &self.names).finish_non_exhaustive()
    }
}
