//! How much one frontend may have written into the audit: a line for each answer as long as that is little, then what is already
//! in a line is only counted, and the counts are written together. A key that is given out for the first time is always written.

use super::audit::Asker;
use shared::domain::AuditedKey;
use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Bytes of lines at once, and how many come back in a second.
const BURST_BYTES: f64 = 65_536.0;
const BYTES_PER_SECOND: f64 = 1_024.0;
/// Client certificates at once, and how many come back in a second.
const BURST_ENROLMENTS: f64 = 60.0;
const ENROLMENTS_PER_SECOND: f64 = 0.1;
/// A key that was written is written again after so long.
const KNOWN_FOR: Duration = Duration::from_secs(3600);
/// Keys of one frontend that are remembered; past that, all are written again.
const MOST_KNOWN: usize = 100_000;

/// A line without its keys and its text, and a key in it, about, in bytes.
const LINE_BYTES: usize = 320;
const KEY_BYTES: usize = 160;

/// The budgets of all frontends.
#[derive(Clone, Default)]
pub(super) struct Budgets {
    of: Arc<Mutex<HashMap<String, Budget>>>,
    hasher: RandomState,
}

struct Budget {
    bytes: Bucket,
    enrolments: Bucket,
    known: HashSet<u64>,
    known_since: Instant,
    counted: Counted,
}

/// Answers that have no line of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Answers with keys, each of which is in a line of the last hour.
    pub(super) answers: u64,
    /// The keys in them.
    pub(super) keys: u64,
    pub(super) denials: u64,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// It gets a line.
    Line,
    /// It was counted. `is_first`: nothing was counted before it, so somebody has to see to the counts' being written.
    Counted { is_first: bool },
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    most: f64,
    per_second: f64,
    at: Instant,
}

impl Budgets {
    /// Before keys are given out.
    pub(super) fn keys(&self, asker: &Asker, keys: &[AuditedKey], now: Instant) -> Spent {
        let who = asker.identity.to_string();
        let marks: Vec<u64> = keys
            .iter()
            .map(|key| self.hasher.hash_one((&who, &asker.from, &key.lineage, key.certificate.as_str())))
            .collect();
        let mut all = self.lock();
        let budget = all.entry(asker.name.clone()).or_insert_with(|| Budget::new(now));
        if now.duration_since(budget.known_since) >= KNOWN_FOR || budget.known.len() > MOST_KNOWN {
            budget.known.clear();
            budget.known_since = now;
        }
        let bytes = LINE_BYTES + KEY_BYTES * keys.len();
        if !marks.iter().all(|mark| budget.known.contains(mark)) {
            budget.bytes.take_anyhow(bytes as f64, now);
            return Spent::Line;
        }
        if budget.bytes.take(bytes as f64, now) {
            return Spent::Line;
        }
        budget.count(Counted { answers: 1, keys: keys.len() as u64, denials: 0 })
    }

    /// Once keys are in a line.
    pub(super) fn written(&self, asker: &Asker, keys: &[AuditedKey]) {
        let who = asker.identity.to_string();
        let marks = keys
            .iter()
            .map(|key| self.hasher.hash_one((&who, &asker.from, &key.lineage, key.certificate.as_str())));
        if let Some(budget) = self.lock().get_mut(&asker.name) {
            budget.known.extend(marks);
        }
    }

    /// Before a denial is written.
    pub(super) fn denial(&self, frontend: &str, path: &str, now: Instant) -> Spent {
        let mut all = self.lock();
        let budget = all.entry(frontend.to_owned()).or_insert_with(|| Budget::new(now));
        if budget.bytes.take((LINE_BYTES + path.len()) as f64, now) {
            return Spent::Line;
        }
        budget.count(Counted { denials: 1, ..Counted::default() })
    }

    /// Whether a frontend may have another client certificate now.
    pub(super) fn enrolment(&self, frontend: &str, now: Instant) -> bool {
        let mut all = self.lock();
        all.entry(frontend.to_owned()).or_insert_with(|| Budget::new(now)).enrolments.take(1.0, now)
    }

    /// What was counted, to be written now.
    pub(super) fn take_counted(&self, frontend: &str) -> Counted {
        self.lock().get_mut(frontend).map(|budget| std::mem::take(&mut budget.counted)).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Budget>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            bytes: Bucket::new(BURST_BYTES, BYTES_PER_SECOND, now),
            enrolments: Bucket::new(BURST_ENROLMENTS, ENROLMENTS_PER_SECOND, now),
            known: HashSet::new(),
            known_since: now,
            counted: Counted::default(),
        }
    }

    fn count(&mut self, more: Counted) -> Spent {
        let is_first = self.counted.is_nothing();
        self.counted.answers += more.answers;
        self.counted.keys += more.keys;
        self.counted.denials += more.denials;
        Spent::Counted { is_first }
    }
}

impl Bucket {
    const fn new(most: f64, per_second: f64, now: Instant) -> Self {
        Self { left: most, most, per_second, at: now }
    }

    fn take(&mut self, amount: f64, now: Instant) -> bool {
        self.fill(now);
        let is_enough = self.left >= amount;
        if is_enough {
            self.left -= amount;
        }
        is_enough
    }

    /// Goes into debt where it must, for no longer than it takes to fill once.
    fn take_anyhow(&mut self, amount: f64, now: Instant) {
        self.fill(now);
        self.left = (self.left - amount).max(-self.most);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = passed.mul_add(self.per_second, self.left).min(self.most);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::identity::Identity;
    use shared::domain::CertificateId;

    fn asker(from: &str) -> Asker {
        Asker { name: "edge".into(), identity: Identity::Token("t".into()), from: from.into() }
    }

    fn key(number: usize) -> AuditedKey {
        AuditedKey {
            lineage: format!("{number:020x}.ecdsa"),
            certificate: CertificateId::from_stored(format!("{number:032x}")),
            spki_sha256: String::new(),
        }
    }

    #[test]
    fn a_flood_is_counted_and_a_new_key_is_always_written() {
        let (budgets, begin) = (Budgets::default(), Instant::now());
        let read = |from: &str, number, now| {
            let (asker, keys) = (asker(from), [key(number)]);
            let spent = budgets.keys(&asker, &keys, now);
            if spent == Spent::Line {
                budgets.written(&asker, &keys);
            }
            spent
        };
        let lines = (0..10_000).filter(|_| read("a", 1, begin) == Spent::Line).count();
        assert!((100..200).contains(&lines), "{lines}");
        assert_eq!(budgets.denial("edge", "/v1/x", begin), Spent::Counted { is_first: false });
        let counted = budgets.take_counted("edge");
        assert_eq!(counted.answers, 10_000 - lines as u64);
        assert_eq!((counted.keys, counted.denials), (counted.answers, 1));
        assert_eq!(read("a", 1, begin), Spent::Counted { is_first: true });
        // Another key, and the same one to another address.
        assert_eq!(read("a", 2, begin), Spent::Line);
        assert_eq!(read("b", 1, begin), Spent::Line);
        let debt = (0..1_000).all(|number| read("c", number, begin) == Spent::Line);
        assert!(debt, "every key that is given out");
        let later = begin + Duration::from_secs(60);
        assert!(matches!(read("c", 5, later), Spent::Counted { .. }), "in debt");
        assert_eq!(read("c", 5, begin + Duration::from_secs(180)), Spent::Line);
        assert_eq!(budgets.denial("other", "/v1/x", begin), Spent::Line, "each has its own");
    }

    #[test]
    fn client_certificates_have_a_budget() {
        let (budgets, begin) = (Budgets::default(), Instant::now());
        assert_eq!((0..100).filter(|_| budgets.enrolment("edge", begin)).count(), 60);
        assert!(budgets.enrolment("edge", begin + Duration::from_secs(11)));
    }
}
