//! `status.json`: how far the agent has come, what is still to be done, and how the last sync went.

use crate::{
    disk::Directory, enrolment::Validity, index::Live, report::Report, served::ServedState, wire::ItemId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::{
    digest::hex,
    domain::{FrontendReport, TlsPolicy},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
};
use url::Url;

/// What an agent knows besides its certificates. One that was lost costs a question for everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) server: Option<String>,
    /// Everything up to there is published, but for what has failed.
    pub(crate) cursor: Option<String>,
    /// Another one after each sync: what another process remembers is old then.
    pub(crate) generation: u64,
    pub(crate) last_attempt: Option<Timestamp>,
    /// The last pass without any problem.
    pub(crate) last_success: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
    /// When the centre answered last.
    pub(crate) heard: Option<Timestamp>,
    /// What it wants spoken.
    pub(crate) tls: Option<TlsPolicy>,
    /// Items that could not be published, tried again and again.
    pub(crate) failed: BTreeMap<ItemId, Failure>,
    /// Items that were to go out of service and were too many at once.
    pub(crate) withheld: BTreeSet<ItemId>,
    /// Web servers that may not know yet what changed.
    pub(crate) owed: BTreeSet<String>,
}

/// Why an item stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) names: Vec<String>,
    pub(crate) reason: String,
    pub(crate) since: Timestamp,
}

/// All that `frontend-agent status` shows.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    #[serde(flatten)]
    pub(crate) status: Status,
    /// Until when the agent's own client certificate is good, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_certificate_ends: Option<Timestamp>,
    /// What the web server was last seen to serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) served: Option<ServedState>,
    pub(crate) items: Vec<Shown>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    pub(crate) id: ItemId,
    pub(crate) names: Vec<String>,
    pub(crate) certificates: BTreeMap<String, ShownCertificate>,
    pub(crate) intact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) removed: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ShownCertificate {
    pub(crate) fingerprint_sha256: String,
    pub(crate) not_after: Timestamp,
}

impl Status {
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

    /// A failure that was there before keeps its moment.
    pub(crate) fn note_failure(&mut self, id: &ItemId, names: Vec<String>, reason: String) {
        let since = self.failed.get(id).map_or_else(Timestamp::now, |before| before.since);
        self.failed.insert(id.clone(), Failure { names, reason, since });
    }

    /// What the centre is told.
    pub(crate) fn to_report(&self, items: usize) -> FrontendReport {
        let problems = self.failed.iter().map(|(id, failure)| shared::domain::ItemProblem {
            id: Some(id.to_string()),
            names: failure.names.clone(),
            reason: failure.reason.clone(),
            since: failure.since,
            serves: None,
        });
        FrontendReport {
            agent: concat!("frontend-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
            cursor: self.cursor.clone(),
            items: items as u64,
            problem_count: self.failed.len() as u64,
            problems: problems.collect(),
            served: Vec::new(),
            probes: false,
        }
        .bounded()
    }
}

impl Overview {
    /// # Errors
    /// From the file system, when the agent's directory cannot be read.
    pub(crate) fn of(directory: &Directory) -> io::Result<Self> {
        let items = directory.scan()?.into_iter().map(|(id, live)| Shown::of(id, live)).collect();
        let own = Validity::of(directory.root())?;
        let client_certificate_ends = own.map(|validity| validity.not_after);
        let served = ServedState::load(directory);
        Ok(Self { status: Status::load(directory), client_certificate_ends, served, items })
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
                let names = item.names.join(" ");
                text.push_str(&format!("{slot:5}  {fingerprint}  {days:4} days  {names}{state}\n"));
            }
        }
        let status = &self.status;
        for failure in status.failed.values() {
            text.push_str(&format!(
                "FAILED since {}: {}: {}\n",
                failure.since,
                failure.names.join(" "),
                failure.reason
            ));
        }
        let moment = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        let in_service = self.items.iter().filter(|item| item.removed.is_none()).count();
        text.push_str(&format!("{in_service} items in service\n"));
        text.push_str(&format!(
            "last sync: {}, last without a problem: {}\n",
            moment(status.last_attempt),
            moment(status.last_success)
        ));
        if let Some(served) = &self.served {
            text.push_str(&served.to_text());
        }
        if let Some(ends) = self.client_certificate_ends {
            text.push_str(&format!("client certificate good until {ends}\n"));
        }
        if let Some(error) = &status.last_error {
            text.push_str(&format!("last problem: {error}\n"));
        }
        if !status.withheld.is_empty() {
            text.push_str(&format!(
                "{} items are no longer listed and stay in service: {}\n",
                status.withheld.len(),
                crate::removal::Withheld::REMEDY
            ));
        }
        for server in &status.owed {
            text.push_str(&format!("{server} may not know yet what changed\n"));
        }
        text
    }
}

impl Shown {
    fn of(id: ItemId, live: Live) -> Self {
        let certificates = live.slots.iter().map(|(slot, kept)| {
            let shown = ShownCertificate {
                fingerprint_sha256: hex(&kept.fingerprint),
                not_after: Timestamp::from_second(kept.not_after).unwrap_or_default(),
            };
            (slot.to_string(), shown)
        });
        Self {
            id,
            certificates: certificates.collect(),
            names: live.names.iter().map(ToString::to_string).collect(),
            intact: live.intact,
            removed: live.removed,
        }
    }
}

fn file(directory: &Directory) -> PathBuf {
    directory.root().join("status.json")
}
