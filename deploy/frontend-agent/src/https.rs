//! What is done with a name over plain HTTP, and announced over HTTPS: as the centre has planned it, for a moment.

use crate::{index::Live, status::Status};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::domain::{HstsStep, announced};

/// Of an item, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Https {
    /// Whether plain HTTP is redirected.
    #[serde(default)]
    pub(crate) redirect: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hsts: Option<Box<Hsts>>,
}

/// Strict transport security, by steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hsts {
    #[serde(default)]
    include_subdomains: bool,
    steps: Vec<HstsStep>,
}

/// For when it is rendered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Timestamp,
    /// When the centre was heard last: what it may have thought of since is not known.
    pub(crate) heard: Timestamp,
}

impl Moment {
    /// Now, by the centre's clock as far as it is known: its plans are made by that, and a clock that runs ahead binds nobody.
    pub(crate) fn of(status: &Status) -> Self {
        let ahead = SignedDuration::from_secs(status.ahead_seconds);
        let now = Timestamp::now();
        Self {
            now: now.checked_sub(ahead).unwrap_or(now),
            heard: status.heard.unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

impl Https {
    /// Whether plain HTTP is redirected now. Not to a certificate that is over.
    pub(crate) fn redirects(&self, live: &Live, at: Moment) -> bool {
        self.redirect && is_good(live, at.now)
    }

    /// The value of `Strict-Transport-Security`, without a space; `None`: no header. While the centre is not heard, nothing is
    /// raised.
    pub(crate) fn header(&self, live: &Live, at: Moment) -> Option<String> {
        let hsts = self.hsts.as_ref().filter(|_| is_good(live, at.now))?;
        let by_now = announced(&hsts.steps, at.now);
        let heard = announced(&hsts.steps, at.heard.min(at.now));
        let age = match (by_now, heard) {
            // It has ended.
            (None, _) => return None,
            (Some(age), Some(heard)) => age.min(heard),
            (Some(0), None) => 0,
            (Some(_), None) => return None,
        };
        let subdomains = if hsts.include_subdomains { ";includeSubDomains" } else { "" };
        Some(format!("max-age={age}{subdomains}"))
    }
}

fn is_good(live: &Live, now: Timestamp) -> bool {
    live.slots.iter().all(|(_, slot)| slot.not_after > now.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::LiveSlot;
    use shared::domain::Slot;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(NOW + second).unwrap()
    }

    fn live(ends: i64) -> Live {
        Live {
            version: "v".into(),
            directory: "1".into(),
            names: Box::default(),
            slots: [(Slot::Ecdsa, LiveSlot { fingerprint: [0; 32], not_before: 0, not_after: NOW + ends })]
                .into(),
            https: Https::default(),
            removed: None,
            intact: true,
        }
    }

    #[test]
    fn nothing_is_raised_unheard_and_everything_lowered() {
        let text = r#"{"redirect":true,"hsts":{"include_subdomains":true,"steps":[
            {"from":"2027-01-15T08:00:00Z","max_age_seconds":60},{"from":"2027-01-15T08:01:00Z","max_age_seconds":600},
            {"from":"2027-01-15T08:02:00Z","max_age_seconds":0},{"from":"2027-01-15T08:03:00Z","max_age_seconds":null}]}}"#;
        let https: Https = serde_json::from_str(text).unwrap();
        let says = |now, heard| https.header(&live(999), Moment { now: at(now), heard: at(heard) });
        let age = |age: u64| Some(format!("max-age={age};includeSubDomains"));
        assert_eq!((says(-1, -1), says(0, 0), says(60, 60)), (None, age(60), age(600)));
        assert_eq!((says(0, -1), says(60, 0), says(120, 0)), (None, age(60), age(0)));
        assert_eq!((says(180, 0), says(180, 180)), (None, None));
        assert_eq!(says(0, 60), age(60), "a clock that was put back raises nothing");
    }

    #[test]
    fn nobody_is_sent_to_a_certificate_that_is_over() {
        let https = Https { redirect: true, hsts: None };
        let moment = Moment { now: at(0), heard: at(0) };
        assert!(https.redirects(&live(1), moment) && !https.redirects(&live(0), moment));
        assert!(!Https::default().redirects(&live(1), moment));
    }
}
