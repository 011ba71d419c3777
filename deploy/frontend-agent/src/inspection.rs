//! Whether what is on disk still is what was written: read again and digested, all of it at the start, and a little of it in each
//! pass, for ever. What is damaged is fetched anew.

use crate::{pass::Pass, wire::ItemId};
use std::{
    ops::Bound,
    time::{Duration, Instant},
};

/// What is looked at until then at the start, and in each pass.
const AT_START: Duration = Duration::from_secs(20);
const IN_A_PASS: Duration = Duration::from_millis(50);
const DAMAGED: &str = "its files on disk are not what was written: it is fetched again";

/// How far the inspection has come.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    last: Option<ItemId>,
}

impl Inspection {
    /// Looks at everything, as far as there is time.
    pub(crate) fn at_start(&mut self, pass: &mut Pass<'_>) {
        self.last = None;
        self.look(pass, AT_START);
    }

    /// Looks at a little more.
    pub(crate) fn go_on(&mut self, pass: &mut Pass<'_>) {
        self.look(pass, IN_A_PASS);
    }

    fn look(&mut self, pass: &mut Pass<'_>, at_most: Duration) {
        let until = Instant::now() + at_most;
        let after = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let (directory, status) = (pass.directory, &mut pass.status);
        for (id, live) in pass.index.range_mut((after, Bound::Unbounded)) {
            if live.intact && live.is_in_service() && !directory.is_as_written(id, &live.directory) {
                tracing::warn!(%id, "{DAMAGED}");
                live.intact = false;
                status.note_failure(
                    id,
                    live.names.iter().map(ToString::to_string).collect(),
                    DAMAGED.to_owned(),
                );
            }
            if Instant::now() >= until {
                self.last = Some(id.clone());
                return;
            }
        }
    }
}
