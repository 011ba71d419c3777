//! Strict transport security, which frontends announce (RFC 6797): raised by steps, lowered while a certificate fails, wound
//! down before a customer moves away.
//!
//! A browser that was told insists on HTTPS until the age is over, and lets nobody past a bad certificate. So nothing here is
//! decided by whoever announces it: the centre plans every step with its moment, and the plan changes only when the record does.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is announced on the way up, seconds: an hour, a day, seven days, 60 days. Each for as long as it binds a browser.
const RAMP: [u64; 4] = [3_600, 86_400, 7 * 86_400, 60 * 86_400];

/// What is said to whoever switches it on: Let's Encrypt's integration guide, "HTTPS by Default".
pub const HSTS_WARNINGS: [&str; 3] = [
    "browsers that were told insist on HTTPS until the age is over: a customer who moves to a host without HTTPS is unreachable \
     for them until then. Switch it off first, and wait",
    "an error of the certificate can't be clicked away any more: whoever has an expired one is gone for those browsers",
    "it begins with an hour and is raised to a day, 7 days and 60 days; while the certificate can't be renewed it is lowered",
];

/// What is said to whoever removes a site that announces it.
pub const HSTS_REMOVED: &str = "browsers insist on HTTPS for this site until what they were told is over: where it moves to a host \
     without HTTPS, switch HSTS off first (`issuer site set NAME --hsts off`) and wait until it is wound down";

/// How far it shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HstsGoal {
    #[serde(default = "HstsGoal::default_max_age")]
    pub max_age_seconds: u64,
    #[serde(default)]
    pub include_subdomains: bool,
}

/// What is wanted of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hsts {
    /// 0: it is wound down.
    pub max_age_seconds: u64,
    #[serde(default)]
    pub include_subdomains: bool,
    /// When it was switched on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the last browser has let go that was told more. One that is wound down is not announced any more from then on;
    /// absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How a site's certificate stands, as far as this goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct HstsStanding {
    /// When its certificate came, where it was switched on before, or when it last recovered.
    pub from: Option<Timestamp>,
    pub failing: bool,
    /// What it was lowered to when it began to fail, seconds.
    pub held: Option<u64>,
    /// When its certificate ends.
    pub ends: Option<Timestamp>,
}

/// What is announced from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HstsStep {
    pub from: Timestamp,
    /// Absent: the header is left out.
    pub max_age_seconds: Option<u64>,
}

impl HstsGoal {
    /// Two years, what browsers' own lists ask for. More would only bind them longer to a mistake.
    pub const MOST_SECONDS: u64 = 2 * 365 * 86_400;

    /// 60 days: Let's Encrypt's integration guide, "HTTPS by Default".
    const fn default_max_age() -> u64 {
        60 * 86_400
    }
}

impl Default for HstsGoal {
    fn default() -> Self {
        Self { max_age_seconds: Self::default_max_age(), include_subdomains: false }
    }
}

impl Default for Hsts {
    fn default() -> Self {
        let HstsGoal { max_age_seconds, include_subdomains } = HstsGoal::default();
        Self { max_age_seconds, include_subdomains, since: None, until: None }
    }
}

impl Hsts {
    /// Switched on; what was on before goes on from where it is.
    pub fn towards(goal: HstsGoal, before: Option<&Self>, now: Timestamp) -> Self {
        let HstsGoal { max_age_seconds, include_subdomains } = goal;
        let max_age_seconds = max_age_seconds.min(HstsGoal::MOST_SECONDS);
        if max_age_seconds == 0 {
            let zero = Self { max_age_seconds, include_subdomains, since: None, until: None };
            return Self::wound_down(before, now).unwrap_or(zero);
        }
        let since = before.filter(|before| before.is_on()).and_then(|before| before.since).or(Some(now));
        let is_less = before.is_some_and(|before| max_age_seconds < before.max_age_seconds);
        let until = before.filter(|before| is_less || before.until > Some(now));
        Self { max_age_seconds, include_subdomains, since, until: until.map(|before| before.let_go(now)) }
    }

    /// Switched off: an age of 0 is announced for as long as a browser may have been told something else. Where nothing is to
    /// be taken back, `None`.
    pub fn wound_down(before: Option<&Self>, now: Timestamp) -> Option<Self> {
        let before = before?;
        if !before.is_on() {
            // An age of 0 that somebody asked for ends; one that has its end keeps it.
            return before.until.map(|_| *before);
        }
        Some(Self { max_age_seconds: 0, since: None, until: Some(before.let_go(now)), ..*before })
    }

    /// When the last browser lets go, if nothing more is announced.
    fn let_go(&self, now: Timestamp) -> Timestamp {
        let told = announced(&self.plan(HstsStanding::default()), now).unwrap_or(0);
        let last = now.saturating_add(seconds(told)).unwrap_or(Timestamp::MAX);
        self.until.map_or(last, |until| until.max(last))
    }

    pub const fn goal(&self) -> HstsGoal {
        HstsGoal { max_age_seconds: self.max_age_seconds, include_subdomains: self.include_subdomains }
    }

    pub const fn is_on(&self) -> bool {
        self.max_age_seconds > 0
    }

    /// The ages on the way up.
    fn ages(&self) -> impl Iterator<Item = u64> {
        RAMP.into_iter().filter(|age| *age < self.max_age_seconds).chain([self.max_age_seconds])
    }

    /// What is announced when: the steps in their order, as far as nothing happens in between.
    pub fn plan(&self, standing: HstsStanding) -> Vec<HstsStep> {
        let step = |from, max_age_seconds| HstsStep { from, max_age_seconds };
        let always = Timestamp::UNIX_EPOCH;
        if !self.is_on() {
            let end = self.until.map(|until| step(until, None));
            return [step(always, Some(0))].into_iter().chain(end).collect();
        }
        match (standing.held, standing.failing) {
            (Some(held), _) => {
                let mut steps = vec![step(always, Some(held))];
                // No browser is bound for longer than the certificate is good.
                for (less, age) in self.ages_below(held).zip(self.ages_from(held)) {
                    let Some(ends) = standing.ends else { break };
                    let from = ends.saturating_sub(seconds(age)).unwrap_or(Timestamp::MIN);
                    steps.push(step(from, Some(less)));
                }
                steps
            }
            // Nobody switches it on for a certificate that fails.
            (None, true) => Vec::new(),
            (None, false) => {
                let Some(mut from) = self.since.max(standing.from) else { return Vec::new() };
                let mut steps = Vec::new();
                for age in self.ages() {
                    steps.push(step(from, Some(age)));
                    from = from.saturating_add(seconds(age)).unwrap_or(Timestamp::MAX);
                }
                steps
            }
        }
    }

    /// What it is lowered to when its certificate begins to fail: by a step at least, and to no more than what is left of the
    /// certificate. `None` where nothing is announced.
    pub fn lowered(&self, standing: HstsStanding, now: Timestamp) -> Option<u64> {
        let told = announced(&self.plan(standing), now).filter(|age| *age > 0)?;
        let left = standing.ends.map_or(0, |ends| ends.as_second().saturating_sub(now.as_second()));
        let left = u64::try_from(left).unwrap_or(0);
        Some(self.ages().filter(|age| *age < told && *age <= left).last().unwrap_or(0))
    }

    /// From when on its steps count so that now, recovered, it goes on from what it was lowered to.
    pub fn resumed(&self, held: u64, now: Timestamp) -> Timestamp {
        let passed: u64 = self.ages().take_while(|age| *age < held).sum();
        now.saturating_sub(seconds(passed)).unwrap_or(now)
    }

    /// The ages that are less, from the largest on, and 0.
    fn ages_below(&self, held: u64) -> impl Iterator<Item = u64> + use<> {
        let mut less: Vec<u64> = self.ages().filter(|age| *age < held).collect();
        less.reverse();
        less.into_iter().chain([0])
    }

    /// `held` and what is less, from the largest on.
    fn ages_from(&self, held: u64) -> impl Iterator<Item = u64> + use<> {
        [held].into_iter().filter(|age| *age > 0).chain(self.ages_below(held).filter(|age| *age > 0))
    }
}

impl fmt::Display for Hsts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subdomains = if self.include_subdomains { " with subdomains" } else { "" };
        match (self.is_on(), self.since, self.until) {
            (true, Some(since), _) => {
                write!(
                    f,
                    "{} s{subdomains}, by steps since {}",
                    self.max_age_seconds,
                    since.strftime("%F %T UTC")
                )
            }
            (true, None, _) => write!(f, "{} s{subdomains}, not begun", self.max_age_seconds),
            (false, _, Some(until)) => write!(f, "wound down until {}", until.strftime("%F %T UTC")),
            (false, _, None) => f.write_str("0 s"),
        }
    }
}

/// What a plan says for a moment; `None`: no header. Never more than may be announced, whoever has planned it.
pub fn announced(steps: &[HstsStep], at: Timestamp) -> Option<u64> {
    let age = steps.iter().take_while(|step| step.from <= at).last()?.max_age_seconds?;
    Some(age.min(HstsGoal::MOST_SECONDS))
}

fn seconds(number: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 86_400;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn on(at_second: i64) -> Hsts {
        Hsts::towards(HstsGoal::default(), None, at(at_second))
    }

    fn table(steps: &[HstsStep], moments: &[i64]) -> Vec<Option<u64>> {
        moments.iter().map(|moment| announced(steps, at(*moment))).collect()
    }

    #[test]
    fn it_is_raised_by_steps_each_as_long_as_it_binds() {
        let steps = on(0).plan(HstsStanding::default());
        let moments = [-1, 0, HOUR, HOUR + DAY - 1, HOUR + DAY, HOUR + 8 * DAY, 400 * DAY];
        assert_eq!(
            table(&steps, &moments),
            [None, Some(3600), Some(86_400), Some(86_400), Some(604_800), Some(5_184_000), Some(5_184_000)]
        );
        let year = HstsGoal { max_age_seconds: 31_536_000, include_subdomains: true };
        let further = Hsts::towards(year, Some(&on(0)), at(30 * DAY));
        assert_eq!(further.since, Some(at(0)), "a higher goal does not begin anew");
        assert_eq!(
            table(&further.plan(HstsStanding::default()), &[30 * DAY, 70 * DAY]),
            [Some(5_184_000), Some(31_536_000)]
        );
        let endless = HstsGoal { max_age_seconds: u64::MAX, include_subdomains: false };
        let bounded = Hsts::towards(endless, None, at(0)).plan(HstsStanding::default());
        assert_eq!(table(&bounded, &[9_999 * DAY]), [Some(HstsGoal::MOST_SECONDS)]);
        let unbounded = [HstsStep { from: at(0), max_age_seconds: Some(u64::MAX) }];
        assert_eq!(table(&unbounded, &[0]), [Some(HstsGoal::MOST_SECONDS)]);
        let little = Hsts::towards(HstsGoal { max_age_seconds: 60, ..HstsGoal::default() }, None, at(0));
        assert_eq!(table(&little.plan(HstsStanding::default()), &[0, DAY]), [Some(60), Some(60)]);
    }

    #[test]
    fn it_begins_with_the_certificate() {
        let standing = HstsStanding { from: Some(at(9 * DAY)), ..HstsStanding::default() };
        assert_eq!(table(&on(0).plan(standing), &[8 * DAY, 9 * DAY]), [None, Some(3600)]);
        // A record of before there were steps, and a certificate of before: it waits for the next one.
        assert!(Hsts::default().plan(HstsStanding::default()).is_empty());
    }

    #[test]
    fn it_is_never_raised_while_the_certificate_fails() {
        let ends = Some(at(30 * DAY));
        let healthy = HstsStanding { ends, ..HstsStanding::default() };
        for (now, told, lowered) in [
            (0, 3600, 0),
            (2 * HOUR, 86_400, 3600),
            (2 * DAY, 604_800, 86_400),
            (20 * DAY, 5_184_000, 604_800),
            (29 * DAY + DAY / 2, 5_184_000, 3600),
        ] {
            assert_eq!(announced(&on(0).plan(healthy), at(now)), Some(told));
            assert_eq!(on(0).lowered(healthy, at(now)), Some(lowered), "at {now}");
            let failing = HstsStanding { failing: true, held: Some(lowered), ..healthy };
            let mut before = lowered;
            for moment in (now..31 * DAY).step_by(1800) {
                let said = announced(&on(0).plan(failing), at(moment)).unwrap();
                let left = (30 * DAY - moment).max(0).unsigned_abs();
                assert!(said <= before && said <= left, "{said} at {moment}, {left} left");
                before = said;
            }
            let recovered = HstsStanding { from: Some(on(0).resumed(lowered, at(now))), ..healthy };
            let next = announced(&on(0).plan(recovered), at(now));
            assert_eq!(next, Some(lowered.max(3600)), "it goes on from where it was lowered to");
        }
        let failing = HstsStanding { failing: true, ..healthy };
        assert!(on(0).plan(failing).is_empty(), "never switched on for what fails");
        assert_eq!(on(0).lowered(failing, at(0)), None);
    }

    #[test]
    fn it_is_wound_down_for_as_long_as_somebody_was_told() {
        let off = Hsts::wound_down(Some(&on(0)), at(2 * HOUR)).unwrap();
        let steps = off.plan(HstsStanding { failing: true, ..HstsStanding::default() });
        assert_eq!(table(&steps, &[2 * HOUR, 26 * HOUR - 1, 26 * HOUR]), [Some(0), Some(0), None]);
        assert_eq!(Hsts::wound_down(Some(&off), at(3 * HOUR)), Some(off), "repeated, its end stays");
        assert_eq!(Hsts::wound_down(None, at(0)), None);
        let zero = Hsts::towards(HstsGoal { max_age_seconds: 0, ..HstsGoal::default() }, None, at(0));
        assert_eq!(table(&zero.plan(HstsStanding::default()), &[0, 999 * DAY]), [Some(0), Some(0)]);
        assert_eq!(Hsts::wound_down(Some(&zero), at(0)), None);
        let again = Hsts::towards(HstsGoal::default(), Some(&off), at(DAY));
        assert_eq!(again.since, Some(at(DAY)), "on again, it begins anew");
    }

    #[test]
    fn a_lower_goal_does_not_shorten_what_browsers_hold() {
        let hour = HstsGoal { max_age_seconds: 3_600, ..HstsGoal::default() };
        let less = Hsts::towards(hour, Some(&on(0)), at(20 * DAY));
        assert_eq!(announced(&less.plan(HstsStanding::default()), at(20 * DAY)), Some(3_600));
        for off in [
            Hsts::wound_down(Some(&less), at(21 * DAY)).unwrap(),
            Hsts::towards(HstsGoal { max_age_seconds: 0, ..hour }, Some(&less), at(21 * DAY)),
        ] {
            assert_eq!(off.until, Some(at(80 * DAY)), "60 days from when it was last announced");
        }
        let off = Hsts::wound_down(Some(&less), at(79 * DAY + DAY - 60)).unwrap();
        assert_eq!(off.until, Some(at(80 * DAY + HOUR - 60)), "or what was told last, where that is later");
        let off = Hsts::wound_down(Some(&on(0)), at(20 * DAY)).unwrap();
        let again = Hsts::towards(hour, Some(&off), at(21 * DAY));
        assert_eq!(Hsts::wound_down(Some(&again), at(22 * DAY)).unwrap().until, Some(at(80 * DAY)));
        assert_eq!(Hsts::towards(HstsGoal::default(), Some(&on(0)), at(DAY)).until, None);
    }
}
