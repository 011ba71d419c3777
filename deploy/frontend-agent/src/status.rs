//! What is on disk, and how the last sync went.

use crate::{
    disk::{Directory, Kept},
    listing::ItemId,
    sync::{Failed, Report},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::PathBuf};
use url::Url;

/// `status.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) server: Option<String>,
    pub(crate) last_attempt: Option<Timestamp>,
    /// The last pass without any problem.
    pub(crate) last_success: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
    pub(crate) failed: Vec<Failed>,
    /// The names changed, but the web server does not know yet.
    pub(crate) reload_owed: bool,
}

/// All that `frontend-agent status` shows.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    #[serde(flatten)]
    pub(crate) status: Status,
    pub(crate) items: Vec<Shown>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) id: ItemId,
    pub(crate) names: Vec<String>,
    pub(crate) certificates: BTreeMap<String, ShownCertificate>,
    pub(crate) published: Timestamp,
    pub(crate) intact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) removed: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ShownCertificate {
    pub(crate) fingerprint_sha256: String,
    pub(crate) serial: String,
    pub(crate) not_after: Timestamp,
}

impl Status {
    /// An unreadable one is as good as none: it holds nothing that a sync depends on.
    pub(crate) fn load(directory: &Directory) -> Self {
        fs::read(file(directory)).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
    }

    /// # Errors
    /// From the file system.
    pub(crate) fn store(&self, directory: &Directory) -> io::Result<()> {
        directory.write_whole(&file(directory), &serde_json::to_vec_pretty(self)?, 0o644)
    }

    pub(crate) fn note_report(&mut self, report: &Report, server: &Url) {
        self.server = Some(server.to_string());
        self.last_attempt = Some(Timestamp::now());
        self.failed = report.failed.clone();
        if report.is_success() {
            self.last_success = self.last_attempt;
            self.last_error = None;
        } else {
            self.last_error = Some(report.problems());
        }
    }

    pub(crate) fn note_error(&mut self, error: String, server: &Url) {
        self.server = Some(server.to_string());
        self.last_attempt = Some(Timestamp::now());
        self.last_error = Some(error);
    }
}

impl Overview {
    /// # Errors
    /// From the file system, when the agent's directory cannot be read.
    pub(crate) fn of(directory: &Directory) -> io::Result<Self> {
        let items = directory.scan()?.into_iter().map(|(id, kept)| Shown::of(id, kept)).collect();
        Ok(Self { status: Status::load(directory), items })
    }

    /// For people: one line for each certificate, then how the last sync went.
    pub(crate) fn to_text(&self, now: Timestamp) -> String {
        let mut text = String::new();
        for item in &self.items {
            let state = match (item.removed, item.intact) {
                (Some(since), _) => format!("  removed {since}"),
                (None, false) => "  DAMAGED".to_owned(),
                (None, true) => String::new(),
            };
            for (slot, certificate) in &item.certificates {
                let days = certificate.not_after.duration_since(now).as_hours() / 24;
                let fingerprint: String = certificate.fingerprint_sha256.chars().take(16).collect();
                text.push_str(&format!(
                    "{slot:5}  {fingerprint}  {days:4} days  {}{state}\n",
                    item.names.join(" ")
                ));
            }
        }
        let status = &self.status;
        let moment = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        text.push_str(&format!(
            "{} items in service\n",
            self.items.iter().filter(|i| i.removed.is_none()).count()
        ));
        text.push_str(&format!(
            "last sync: {}, last without a problem: {}\n",
            moment(status.last_attempt),
            moment(status.last_success)
        ));
        if let Some(error) = &status.last_error {
            text.push_str(&format!("last problem: {error}\n"));
        }
        if status.reload_owed {
            text.push_str("the web server has not been reloaded since names changed\n");
        }
        text
    }
}

impl Shown {
    fn of(id: ItemId, kept: Kept) -> Self {
        let certificates = kept.meta.slots.into_iter().map(|(slot, meta)| {
            let shown = ShownCertificate {
                fingerprint_sha256: meta.fingerprint_sha256,
                serial: meta.serial,
                not_after: meta.not_after,
            };
            (slot.to_string(), shown)
        });
        Self {
            id,
            names: kept.meta.names,
            certificates: certificates.collect(),
            published: kept.meta.published,
            intact: kept.intact,
            removed: kept.removed,
        }
    }
}

fn file(directory: &Directory) -> PathBuf {
    directory.root().join("status.json")
}
