//! What a pass did, as it is shown and told.

use crate::{index::Live, served::Target, wire::ItemId};
use serde::Serialize;
use std::time::Duration;

/// What a pass did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) published: Vec<Published>,
    /// Told of, and on disk already.
    pub(crate) unchanged: usize,
    pub(crate) removed: Vec<ItemId>,
    pub(crate) deleted: Vec<ItemId>,
    pub(crate) failed: Vec<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) withheld: Option<String>,
    /// What is served on though the centre's store does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
    /// What the web servers refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) server_errors: Vec<String>,
    pub(crate) reloaded: bool,
    pub(crate) duration_ms: u64,
    /// What was published, as a web server should serve it.
    #[serde(skip)]
    pub(crate) targets: Vec<Target>,
    /// When a web server that was reloaded a moment ago may be reloaded again.
    #[serde(skip)]
    pub(crate) again_in: Option<Duration>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Published {
    pub(crate) id: ItemId,
    pub(crate) names: Vec<String>,
}

/// One item that stays as it was.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failed {
    pub(crate) id: Option<ItemId>,
    pub(crate) names: Vec<String>,
    pub(crate) reason: String,
}

impl Published {
    pub(crate) fn of(id: &ItemId, live: &Live) -> Self {
        Self { id: id.clone(), names: live.names.iter().map(ToString::to_string).collect() }
    }
}

impl Report {
    pub(crate) fn is_success(&self) -> bool {
        self.failed.is_empty()
            && self.withheld.is_none()
            && self.kept.is_none()
            && self.server_errors.is_empty()
    }

    /// Every problem of a pass that otherwise went through, on one line.
    pub(crate) fn problems(&self) -> String {
        let failed = self.failed.iter().map(|failed| {
            let id = failed.id.as_ref().map_or("?", ItemId::as_str);
            let names = failed
                .names
                .first()
                .map(|name| format!(" ({})", shared::domain::for_people(&[name])))
                .unwrap_or_default();
            format!("{id}{names}: {}", failed.reason)
        });
        let others = self.withheld.iter().chain(&self.kept).chain(&self.server_errors).cloned();
        failed.chain(others).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn changed_something(&self) -> bool {
        !self.published.is_empty() || !self.removed.is_empty() || self.reloaded
    }
}
