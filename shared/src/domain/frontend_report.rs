//! What a frontend says of itself: how far it has come, what it serves, and what went wrong.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Of each list no more than this is kept, and of each text no more than so many bytes.
const MOST_ENTRIES: usize = 200;
const MOST_NAMES: usize = 5;
const TEXT_BYTES: usize = 500;

/// As a frontend sends it, and as it is kept. What a newer program says besides is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendReport {
    /// The program that reports, with its version.
    pub agent: String,
    /// Everything up to there is published, but for what has a problem. Absent before the first sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// How many items are in service.
    #[serde(default)]
    pub items: u64,
    /// How many have a problem, and those of them that are named.
    #[serde(default)]
    pub problem_count: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ItemProblem>,
    /// What it has lately begun to serve, seen by a handshake with itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub served: Vec<ServedItem>,
    /// Whether it asks its web server what it serves.
    #[serde(default)]
    pub probes: bool,
    /// The TLS policies that its web servers took last ([`TlsPolicy::digest`](super::TlsPolicy::digest)); none where it renders none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speaks: Vec<String>,
}

/// An item that is not as the centre wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemProblem {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The first of its names.
    #[serde(default)]
    pub names: Vec<String>,
    pub reason: String,
    pub since: Timestamp,
    /// What the web server serves in its place; absent where it was not published at all, or nothing is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<String>,
}

/// A certificate that is live on a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedItem {
    pub id: String,
    pub name: String,
    pub fingerprint_sha256: String,
    pub since: Timestamp,
    /// From its issuance until then, where the centre knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_seconds: Option<i64>,
}

/// A report with the moment when it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReport {
    pub v: u32,
    pub at: Timestamp,
    #[serde(flatten)]
    pub report: FrontendReport,
}

impl StoredReport {
    pub const VERSION: u32 = 1;
}

impl FrontendReport {
    /// What may be kept of it: frontends are many, and what they send is shown to people.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        bound(&mut self.agent);
        self.cursor = self.cursor.filter(|cursor| cursor.len() <= 2 * TEXT_BYTES);
        self.problem_count = self.problem_count.max(self.problems.len() as u64);
        self.problems.truncate(MOST_ENTRIES);
        self.served.truncate(MOST_ENTRIES);
        self.speaks.truncate(MOST_NAMES);
        self.speaks.iter_mut().for_each(bound);
        for problem in &mut self.problems {
            problem.names.truncate(MOST_NAMES);
            problem.names.iter_mut().chain(&mut problem.id).chain(&mut problem.serves).for_each(bound);
            bound(&mut problem.reason);
        }
        for item in &mut self.served {
            [&mut item.id, &mut item.name, &mut item.fingerprint_sha256].into_iter().for_each(bound);
        }
        self
    }
}

/// Cut off, and without what could move a terminal's cursor.
fn bound(text: &mut String) {
    if text.len() > TEXT_BYTES {
        let end = (0..=TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    if text.chars().any(char::is_control) {
        *text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_kept_within_bounds() {
        let problem = ItemProblem {
            id: Some("x".repeat(4_000)),
            names: vec!["a.example\u{1b}[2J".to_owned(); 50],
            reason: "é".repeat(4_000),
            since: Timestamp::UNIX_EPOCH,
            serves: None,
        };
        let report = FrontendReport { problems: vec![problem; 1_000], ..FrontendReport::default() }.bounded();
        assert_eq!((report.problems.len(), report.problem_count), (MOST_ENTRIES, 1_000));
        let problem = &report.problems[0];
        assert_eq!((problem.names.len(), problem.names[0].as_str()), (MOST_NAMES, "a.example [2J"));
        assert_eq!((problem.reason.len(), problem.id.as_ref().unwrap().len()), (TEXT_BYTES, TEXT_BYTES));
    }

    #[test]
    fn a_report_of_this_version_is_read_for_ever() {
        let text = r#"{"v":1,"at":"2026-11-27T12:00:00Z","agent":"frontend-agent 0.1.0","cursor":"e.s.1","items":3,"problem_count":1,"problems":[{"id":"0123456789abcdef0123","names":["a.example"],"reason":"expired","since":"2026-11-27T11:00:00Z"}],"served":[{"id":"0123456789abcdef0123","name":"a.example","fingerprint_sha256":"00","since":"2026-11-27T11:00:00Z","after_seconds":2}],"probes":true}"#;
        let report: StoredReport = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
    }
}
