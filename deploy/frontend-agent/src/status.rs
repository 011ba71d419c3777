//! `status.json`: how far the agent has come, what is still to be done, and how the last sync went.

use crate::{
    disk::Directory,
    doubt::Doubt,
    enrolment::Validity,
    index::Live,
    removal::Withheld,
    report::{Failed, Report},
    served::ServedState,
    wire::ItemId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::{
    digest::hex,
    domain::{FrontendReport, ItemProblem, TlsPolicy, for_people},
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
    /// Up to there every web server has taken it, but for what it refuses: as far as the centre is told.
    pub(crate) shown: Option<String>,
    /// Another one after each sync: what another process remembers is old then.
    pub(crate) generation: u64,
    pub(crate) last_attempt: Option<Timestamp>,
    /// The last pass without any problem.
    pub(crate) last_success: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
    /// When the centre answered last, by its own clock.
    pub(crate) heard: Option<Timestamp>,
    /// How far this machine's clock was ahead of the centre's then, seconds.
    pub(crate) ahead_seconds: i64,
    /// What it wants spoken.
    pub(crate) tls: Option<TlsPolicy>,
    /// What each web server took last of that.
    pub(crate) spoken: BTreeMap<String, TlsPolicy>,
    /// Items that could not be published, tried again and again.
    pub(crate) failed: BTreeMap<ItemId, Failure>,
    /// Items that were to go out of service and were too many at once.
    pub(crate) withheld: BTreeSet<ItemId>,
    /// Web servers that may not know yet what changed.
    pub(crate) owed: BTreeSet<String>,
    /// Items, or names of theirs, that a web server refuses; everything else is live.
    pub(crate) refused: Vec<RefusedItem>,
    /// What web servers refuse altogether, by their names.
    pub(crate) server_problems: BTreeMap<String, ServerProblem>,
    /// A change that could not be read, nor which item it was about; until everything was asked for again.
    pub(crate) unreadable: Option<ServerProblem>,
    /// What is served without the centre's knowing of it.
    pub(crate) doubt: Doubt,
}

/// What a web server refuses of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedItem {
    pub(crate) server: String,
    pub(crate) id: ItemId,
    pub(crate) names: Vec<String>,
    /// In the server's own words.
    pub(crate) reason: String,
    pub(crate) since: Timestamp,
}

/// Why a web server stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerProblem {
    pub(crate) reason: String,
    pub(crate) since: Timestamp,
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

    /// Something in the centre's answer can't be read.
    pub(crate) fn note_unreadable(&mut self, reason: &str) {
        let since = self.unreadable.as_ref().map_or_else(Timestamp::now, |before| before.since);
        let reason = format!("a change can't be read, and nobody knows which item it is about: {reason}");
        self.unreadable = Some(ServerProblem { reason, since });
    }

    /// What web servers refuse from now on. What they refused before keeps its moment.
    pub(crate) fn note_refusals(&mut self, mut items: Vec<RefusedItem>, problems: BTreeMap<String, String>) {
        for item in &mut items {
            let is_it = |before: &&RefusedItem| {
                before.server == item.server && before.id == item.id && before.names == item.names
            };
            item.since = self.refused.iter().find(is_it).map_or(item.since, |before| before.since);
        }
        self.refused = items;
        let now = Timestamp::now();
        let before = std::mem::take(&mut self.server_problems);
        let problem = |(server, reason): (String, String)| {
            let since = before.get(&server).map_or(now, |before| before.since);
            (server, ServerProblem { reason, since })
        };
        self.server_problems = problems.into_iter().map(problem).collect();
    }

    /// The centre has answered; `date` is what its clock says.
    pub(crate) fn hear(&mut self, date: Option<Timestamp>) {
        let now = Timestamp::now();
        self.heard = Some(date.unwrap_or(now));
        self.ahead_seconds = date.map_or(0, |date| now.as_second().saturating_sub(date.as_second()));
    }

    /// What the centre is told.
    pub(crate) fn to_report(&self, items: usize) -> FrontendReport {
        let problem = |id: Option<&ItemId>, names: &[String], reason: &str, since| ItemProblem {
            id: id.map(ToString::to_string),
            names: names.to_vec(),
            reason: reason.to_owned(),
            since,
            serves: None,
        };
        // Those of whole servers first: only so many are told one by one.
        let servers = self.server_problems.values().chain(&self.unreadable);
        let mut problems: Vec<ItemProblem> =
            servers.map(|of| problem(None, &[], &of.reason, of.since)).collect();
        let failed = self.failed.iter();
        problems.extend(failed.map(|(id, of)| problem(Some(id), &of.names, &of.reason, of.since)));
        problems.extend(self.refused.iter().map(|of| problem(Some(&of.id), &of.names, &of.reason, of.since)));
        let kept = self.doubt.kept();
        problems.extend(kept.map(|(id, of)| problem(Some(id), &of.names, &of.to_reason(), of.since)));
        if !self.withheld.is_empty() {
            let reason = format!(
                "{} items were to go out of service at once, and stay; {}",
                self.withheld.len(),
                Withheld::REMEDY
            );
            problems.push(problem(None, &[], &reason, self.last_attempt.unwrap_or_default()));
        }
        FrontendReport {
            agent: concat!("frontend-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
            cursor: self.shown.clone(),
            items: items as u64,
            problem_count: problems.len() as u64,
            problems,
            served: Vec::new(),
            probes: false,
            speaks: self.spoken.values().map(TlsPolicy::digest).collect(),
        }
        .bounded()
    }
}

impl RefusedItem {
    pub(crate) fn new(server: &str, id: ItemId, names: Vec<String>, reason: String) -> Self {
        Self { server: server.to_owned(), id, names, reason, since: Timestamp::now() }
    }

    pub(crate) fn to_failed(&self) -> Failed {
        Failed { id: Some(self.id.clone()), names: self.names.clone(), reason: self.reason.clone() }
    }
}

impl Overview {
    /// # Errors
    /// From the file system, when the agent's directory cannot be read.
    pub(crate) fn of(directory: &Directory) -> io::Result<Self> {
        let items = directory.scan()?.0.into_iter().map(|(id, live)| Shown::of(id, live)).collect();
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
                let names = for_people(&item.names);
                text.push_str(&format!("{slot:5}  {fingerprint}  {days:4} days  {names}{state}\n"));
            }
        }
        let status = &self.status;
        for failure in status.failed.values() {
            text.push_str(&format!(
                "FAILED since {}: {}: {}\n",
                failure.since,
                for_people(&failure.names),
                failure.reason
            ));
        }
        for refused in &status.refused {
            text.push_str(&format!(
                "REFUSED since {}: {}: {}\n",
                refused.since,
                for_people(&refused.names),
                refused.reason
            ));
        }
        for (id, kept) in status.doubt.kept() {
            text.push_str(&format!(
                "UNKNOWN TO THE CENTRE since {}: {id} ({}): {}\n",
                kept.since,
                for_people(&kept.names),
                kept.to_reason()
            ));
        }
        for problem in status.server_problems.values().chain(&status.unreadable) {
            text.push_str(&format!("since {}: {}\n", problem.since, problem.reason));
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
                Withheld::REMEDY
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
