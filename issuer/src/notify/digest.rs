//! What the next mail will say: events summed up as they come, in bounded memory, and the text made of them. Pure.

use super::repeats::Told;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::domain::{Event, EventKind, Severity};
use std::{collections::BTreeMap, fmt::Write as _};

/// Names that are written out for one group.
const NAMES: usize = 20;
/// Groups that are written out; what comes beyond is counted by kind.
const MOST_GROUPS: usize = 100;
/// Longest sentence of another's, in characters.
const LONGEST: usize = 400;

/// Gathered events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Digest {
    /// When something came that is worth a mail.
    pub(super) opened: Option<Timestamp>,
    pub(super) critical: bool,
    groups: Vec<Group>,
    /// Events beyond the groups, and those that are no reason for a mail, by kind.
    counted: BTreeMap<EventKind, u64>,
    /// How often events were trimmed before they were read.
    lost: u64,
}

/// Events with one kind, one class of failure and one remedy.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Group {
    kind: EventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    what: String,
    count: u64,
    /// Failures in a row, of the one that failed most often.
    in_a_row: u32,
    names: Vec<String>,
    more_names: u64,
    since: Timestamp,
}

/// Who still fails, as far as the mails' reader was told.
#[derive(Clone, Debug, Default)]
pub(super) struct StillFailing {
    pub(super) sites: u64,
    pub(super) some: Vec<Told>,
}

/// A mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) subject: String,
    pub(super) body: String,
}

impl Digest {
    pub(super) fn add(&mut self, event: &Event, now: Timestamp) {
        if event.severity == Severity::Info && !event.kind.is_recovery() {
            *self.counted.entry(event.kind).or_default() += 1;
            return;
        }
        self.opened.get_or_insert(now);
        self.critical |= event.severity == Severity::Critical;
        let class = event.class();
        let same = |group: &&mut Group| {
            group.kind == event.kind
                && group.class == class
                && (group.remedy == event.remedy || event.kind.is_recovery())
        };
        if let Some(group) = self.groups.iter_mut().find(same) {
            group.add(event);
        } else if self.groups.len() < MOST_GROUPS {
            let mut group = Group {
                kind: event.kind,
                class,
                remedy: event.remedy.as_deref().map(shortened),
                what: shortened(&event.what),
                count: 0,
                in_a_row: 0,
                names: Vec::new(),
                more_names: 0,
                since: event.at,
            };
            group.add(event);
            self.groups.push(group);
        } else {
            *self.counted.entry(event.kind).or_default() += 1;
        }
    }

    /// Events were trimmed before they could be read.
    pub(super) fn lose(&mut self, times: usize, now: Timestamp) {
        if times > 0 {
            self.opened.get_or_insert(now);
            self.lost += times as u64;
        }
    }

    /// The mail, for the node `host`.
    pub(super) fn text(&self, still: &StillFailing, host: &str) -> Text {
        let of = |severity| self.groups.iter().filter(move |group| group.kind.severity() == severity);
        let sum = |wanted: fn(&Group) -> bool| -> u64 {
            self.groups.iter().filter(|group| wanted(group)).map(|group| group.count).sum()
        };
        let counts = [
            (sum(|group| group.kind.severity() == Severity::Critical), "critical"),
            (sum(|group| group.kind == EventKind::Failed), "failing"),
            (
                sum(|group| group.kind.severity() == Severity::Warning && group.kind != EventKind::Failed),
                "to look at",
            ),
            (sum(|group| group.kind.severity() == Severity::Info), "over"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        let mut body = String::new();
        for (severity, heading) in
            [(Severity::Critical, "CRITICAL"), (Severity::Warning, "TO LOOK AT"), (Severity::Info, "OVER")]
        {
            if of(severity).next().is_some() {
                let _ = writeln!(body, "{heading}\n");
                of(severity).for_each(|group| group.write(&mut body));
            }
        }
        if still.sites > 0 {
            let _ = writeln!(body, "STILL FAILING: {}\n", counted(still.sites, "site"));
            let mut some: Vec<&Told> = still.some.iter().collect();
            some.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
            for told in &some {
                let classes: Vec<&str> = told.classes.keys().map(String::as_str).collect();
                let _ =
                    writeln!(body, "    {}, since {}: {}", told.name, minute(told.since), classes.join(", "));
            }
            let more = still.sites.saturating_sub(some.len() as u64);
            if more > 0 {
                let _ = writeln!(body, "    and {more} more: `issuer status` has all of them");
            }
            body.push('\n');
        }
        if !self.counted.is_empty() {
            let counted: Vec<String> =
                self.counted.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            let _ = writeln!(body, "Besides: {}.\n", counted.join(", "));
        }
        if self.lost > 0 {
            body.push_str("Some events were trimmed from the store before this mail could tell them: mails could not be sent for too long.\n\n");
        }
        let _ = writeln!(
            body,
            "-- \nSignpost on {host}. `issuer events` has every event, `issuer status` what is served."
        );
        let subject = if counts.is_empty() { "events were lost".to_owned() } else { counts.join(", ") };
        Text { subject: format!("[signpost] {subject}"), body }
    }
}

impl Group {
    fn add(&mut self, event: &Event) {
        self.count += 1;
        self.since = self.since.min(event.at);
        self.in_a_row = self.in_a_row.max(event.failure.as_ref().map_or(0, |failure| failure.count));
        for name in &event.names {
            let name = name.to_unicode();
            if self.names.contains(&name) {
                continue;
            }
            if self.names.len() < NAMES {
                self.names.push(name);
            } else {
                self.more_names += 1;
            }
        }
    }

    fn write(&self, out: &mut String) {
        let class = self.class.as_ref().map(|class| format!(" ({class})")).unwrap_or_default();
        let names = self.names.len() as u64 + self.more_names;
        let whom = if names == 0 { String::new() } else { format!(": {}", counted(names, "name")) };
        let times = if self.count > names.max(1) { format!(", {} times", self.count) } else { String::new() };
        let row = if self.in_a_row > 1 {
            format!(", up to {} times in a row", self.in_a_row)
        } else {
            String::new()
        };
        let _ = writeln!(out, "* {}{class}{whom}{times}, since {}{row}", self.kind, minute(self.since));
        let _ = writeln!(out, "    {}", self.what);
        if let Some(remedy) = self.remedy.as_ref().filter(|_| !self.kind.is_recovery()) {
            let _ = writeln!(out, "    What to do: {remedy}");
        }
        for name in &self.names {
            let _ = writeln!(out, "      {name}");
        }
        if self.more_names > 0 {
            let _ = writeln!(out, "      and {} more", self.more_names);
        }
        out.push('\n');
    }
}

fn counted(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// On one line, and no longer than a mail can bear.
fn shortened(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::repeats::tests::{failed, recovered};
    use super::*;
    use shared::domain::FailureClass;

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn failures_with_one_remedy_are_one_paragraph() {
        let mut digest = Digest::default();
        for number in 0..30 {
            digest.add(
                &failed(&format!("n{number}.example.com"), FailureClass::Caa, 2, "2026-11-24T10:00:00Z"),
                now(),
            );
        }
        digest.add(&failed("dns.example.com", FailureClass::Dns, 1, "2026-11-24T11:00:00Z"), now());
        digest.add(&recovered("well.example.com", "2026-11-24T11:00:00Z"), now());
        digest.add(&Event::new(EventKind::Renewed, now(), "new"), now());
        let told =
            Told { name: "old.example.com".into(), since: now(), classes: [("caa".into(), now())].into() };
        let text = digest.text(&StillFailing { sites: 32, some: vec![told] }, "node1");
        assert_eq!(text.subject, "[signpost] 31 failing, 1 over");
        for expected in [
            "* failed (caa): 30 names, since 2026-11-24 10:00 UTC, up to 2 times in a row\n",
            "    What to do: Repair it.\n",
            "      n19.example.com\n      and 10 more\n",
            "* failed (dns): 1 name, since 2026-11-24 11:00 UTC\n",
            "OVER\n\n* recovered: 1 name",
            "STILL FAILING: 32 sites\n\n    old.example.com, since 2026-11-24 12:00 UTC: caa\n    and 31 more",
            "Besides: 1 renewed.",
            "Signpost on node1.",
        ] {
            assert!(text.body.contains(expected), "{expected:?} in\n{}", text.body);
        }
        assert!(!text.body.contains("n20.example.com"), "{}", text.body);
        let kept: Digest = serde_json::from_str(&serde_json::to_string(&digest).unwrap()).unwrap();
        assert_eq!(kept.text(&StillFailing::default(), "a"), digest.text(&StillFailing::default(), "a"));
    }

    #[test]
    fn what_is_routine_is_no_reason_for_a_mail() {
        let mut digest = Digest::default();
        digest.add(&Event::new(EventKind::Issued, now(), "new"), now());
        digest.lose(0, now());
        assert_eq!(digest.opened, None);
        digest.add(&Event::new(EventKind::StoreBack, now(), "back"), now());
        assert_eq!((digest.opened, digest.critical), (Some(now()), false));
        digest.add(&Event::new(EventKind::Expired, now(), "over"), now());
        assert!(digest.critical);
    }

    #[test]
    fn a_digest_stays_small() {
        let mut digest = Digest::default();
        for number in 0..5_000 {
            let event =
                Event::new(EventKind::CaTrouble, now(), "x".repeat(10_000)).remedy(number.to_string());
            digest.add(&event, now());
        }
        assert!(serde_json::to_string(&digest).unwrap().len() < 100_000);
        assert!(digest.text(&StillFailing::default(), "a").body.contains("4900 ca-trouble"));
    }
}
