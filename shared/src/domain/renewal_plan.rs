//! When a certificate is renewed: drawn once for each window, and stored with the group, so that no look at it draws again.

use super::{CertificateId, RenewalWindow, Slot, renewal_moment, urgent_from};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// What the CA said is trusted for so long; then our own rule counts too.
const STALE: SignedDuration = SignedDuration::from_hours(30);
/// So many digits of a certificate's id tell it from those before it.
const DIGITS: usize = 6;
const RADIX: u32 = 36;
/// For an absent moment.
const NONE: &str = "-";

/// The renewals of a group's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewalPlans(BTreeMap<Slot, RenewalPlan>);

/// The renewal of one certificate. Times are to the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalPlan {
    certificate: String,
    pub window: RenewalWindow,
    pub moment: Timestamp,
    /// It was set before the window, to even out the load: it stands, unless the window moves to before it.
    pub early: bool,
    /// When the CA was last asked for the window and answered; `None`: the window is our own.
    pub heard: Option<Timestamp>,
    /// When the CA is asked next; `None`: it has nothing to say.
    pub ask: Option<Timestamp>,
    /// Questions in a row without an answer.
    pub tries: u8,
    /// The CA did not take an order that named this certificate as the one to be replaced.
    pub nameless: bool,
    /// The window of the certificate before had passed already. Where the CA says the same of this one, it is not followed at once:
    /// that would never end.
    pub hasty: bool,
}

impl RenewalPlan {
    /// For a certificate for which the CA has said nothing yet.
    pub fn new(certificate: &CertificateId, window: RenewalWindow, moment: Timestamp) -> Self {
        Self {
            certificate: short(certificate).to_owned(),
            window: RenewalWindow { start: to_second(window.start), end: to_second(window.end) },
            moment: to_second(moment),
            early: false,
            heard: None,
            ask: None,
            tries: 0,
            nameless: false,
            hasty: false,
        }
    }

    pub fn is_of(&self, certificate: &CertificateId) -> bool {
        self.certificate == short(certificate)
    }

    /// Whether `now` lies in the window that the CA has named.
    pub fn is_inside(&self, now: Timestamp) -> bool {
        self.heard.is_some() && self.window.start <= now && now < self.window.end
    }

    /// When it is renewed: as the CA wishes, but never with less than one sixth of the lifetime left; and where the CA has not
    /// answered for more than a day, no later than our own rule says.
    pub fn due(
        &self,
        certificate: &CertificateId,
        not_before: Timestamp,
        not_after: Timestamp,
        now: Timestamp,
    ) -> Timestamp {
        let moment = self.moment.min(urgent_from(not_before, not_after));
        match self.heard {
            Some(heard) if now.duration_since(heard) > STALE => {
                moment.min(renewal_moment(not_before, not_after, certificate.draw()))
            }
            _ => moment,
        }
    }

    /// As it is stored.
    pub fn to_record(&self) -> String {
        let start = self.window.start.as_second();
        let since_start = |moment: Timestamp| encode(moment.as_second() - start);
        let moment = |moment: Option<Timestamp>| {
            moment.map_or_else(|| NONE.to_owned(), |moment| encode(moment.as_second()))
        };
        // Short: it is stored with each of millions of certificates.
        let before = match (self.heard, self.ask) {
            (Some(heard), Some(ask)) => encode(ask.as_second() - heard.as_second()),
            (heard, _) => {
                heard.map_or_else(|| NONE.to_owned(), |heard| format!("@{}", encode(heard.as_second())))
            }
        };
        let mut record = format!(
            "{} {} {} {} {} {before}",
            self.certificate,
            encode(start),
            since_start(self.window.end),
            since_start(self.moment),
            moment(self.ask),
        );
        if self.early || self.nameless || self.hasty || self.tries > 0 {
            record.push(' ');
            record.push_str(if self.early { "e" } else { "" });
            record.push_str(if self.nameless { "n" } else { "" });
            record.push_str(if self.hasty { "h" } else { "" });
            record.push_str(&if self.tries > 0 { self.tries.to_string() } else { String::new() });
        }
        record
    }

    /// `None` for what [`Self::to_record`] has not written.
    pub fn parse(record: &str) -> Option<Self> {
        let mut words = record.split(' ');
        let certificate = words.next().filter(|word| !word.is_empty())?.to_owned();
        let start = decode(words.next()?)?;
        let at = |seconds: i64| Timestamp::from_second(seconds).ok();
        let after_start = |word: &str| at(start.checked_add(decode(word)?)?);
        let (end, moment) = (after_start(words.next()?)?, after_start(words.next()?)?);
        let ask = match words.next()? {
            NONE => None,
            word => Some(at(decode(word)?)?),
        };
        let heard = match (words.next()?, ask) {
            (NONE, _) => None,
            (word, Some(ask)) => Some(at(ask.as_second().checked_sub(decode(word)?)?)?),
            (word, None) => Some(at(decode(word.strip_prefix('@')?)?)?),
        };
        let flags = words.next().unwrap_or_default();
        Some(Self {
            certificate,
            window: RenewalWindow { start: at(start)?, end },
            moment,
            early: flags.contains('e'),
            heard,
            ask,
            tries: flags.trim_start_matches(['e', 'n', 'h']).parse().unwrap_or(0),
            nameless: flags.contains('n'),
            hasty: flags.contains('h'),
        })
    }
}

impl RenewalPlans {
    /// That of the certificate in a slot; `None` where it has none yet.
    pub fn get(&self, slot: Slot, certificate: &CertificateId) -> Option<&RenewalPlan> {
        self.0.get(&slot).filter(|plan| plan.is_of(certificate))
    }

    pub fn set(&mut self, slot: Slot, plan: RenewalPlan) {
        self.0.insert(slot, plan);
    }

    /// As it is stored; `None` where there is nothing to store.
    pub fn to_record(&self) -> Option<String> {
        let plans = self.0.iter().map(|(slot, plan)| format!("{}{}", letter(*slot), plan.to_record()));
        (!self.0.is_empty()).then(|| plans.collect::<Vec<_>>().join(";"))
    }

    /// What can't be read is left out: it is planned anew.
    pub fn parse(record: &str) -> Self {
        let plan = |text: &str| {
            let slot = Slot::ALL.into_iter().find(|slot| text.starts_with(letter(*slot)))?;
            Some((slot, RenewalPlan::parse(text.get(1..)?)?))
        };
        Self(record.split(';').filter_map(plan).collect())
    }
}

const fn letter(slot: Slot) -> char {
    match slot {
        Slot::Ecdsa => 'e',
        Slot::Rsa => 'r',
    }
}

fn short(certificate: &CertificateId) -> &str {
    certificate.as_str().get(..DIGITS).unwrap_or(certificate.as_str())
}

fn to_second(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

fn encode(number: i64) -> String {
    let mut rest = number.unsigned_abs();
    let mut digits = Vec::new();
    while rest > 0 || digits.is_empty() {
        digits.extend(char::from_digit((rest % u64::from(RADIX)) as u32, RADIX));
        rest /= u64::from(RADIX);
    }
    if number < 0 {
        digits.push('-');
    }
    digits.iter().rev().collect()
}

fn decode(text: &str) -> Option<i64> {
    i64::from_str_radix(text, RADIX).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_S: i64 = 86_400;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn id() -> CertificateId {
        CertificateId::from_stored("80000000aabbccddeeff001122334455".to_owned())
    }

    /// Of a certificate that lives 90 days from 0 on.
    fn plan(moment: i64) -> RenewalPlan {
        let window = RenewalWindow { start: at(59 * DAY_S), end: at(61 * DAY_S) };
        RenewalPlan::new(&id(), window, at(moment))
    }

    fn due(plan: &RenewalPlan, now: i64) -> i64 {
        plan.due(&id(), at(0), at(90 * DAY_S), at(now)).as_second() / DAY_S
    }

    #[test]
    fn the_cas_moment_counts_until_little_is_left() {
        assert_eq!(due(&plan(60 * DAY_S), 0), 60);
        let heard = |moment, heard| RenewalPlan { heard: Some(at(heard)), ..plan(moment) };
        // Later than one third before the end, as the CA wishes; but with a sixth left at the least.
        assert_eq!(due(&heard(70 * DAY_S, 0), 0), 70);
        assert_eq!(due(&heard(89 * DAY_S, 0), 0), 75);
        // A CA that has not answered for long no longer puts it off.
        assert_eq!(due(&heard(70 * DAY_S, 0), 2 * DAY_S), 60);
        assert_eq!(due(&heard(20 * DAY_S, 0), 2 * DAY_S), 20);
    }

    #[test]
    fn the_window_is_half_open_and_the_cas() {
        let own = plan(60 * DAY_S);
        let of_ca = RenewalPlan { heard: Some(at(0)), ..own.clone() };
        assert!(!own.is_inside(at(60 * DAY_S)));
        assert!(of_ca.is_inside(at(59 * DAY_S)) && of_ca.is_inside(at(61 * DAY_S - 1)));
        assert!(!of_ca.is_inside(at(59 * DAY_S - 1)) && !of_ca.is_inside(at(61 * DAY_S)));
    }

    #[test]
    fn it_belongs_to_one_certificate() {
        assert!(plan(0).is_of(&id()));
        assert!(!plan(0).is_of(&CertificateId::from_stored("80000100aabbccddeeff001122334455".to_owned())));
    }

    #[test]
    fn records_are_read_for_ever() {
        let of_ca = RenewalPlan {
            heard: Some(at(1_764_000_000)),
            ask: Some(at(1_764_021_600)),
            tries: 2,
            nameless: true,
            early: true,
            window: RenewalWindow { start: at(1_768_000_000), end: at(1_768_155_520) },
            ..plan(1_767_900_000)
        };
        let record = of_ca.to_record();
        assert_eq!(record, "800000 t8mdj4 3c00 -255s t693s0 go0 en2");
        assert_eq!(RenewalPlan::parse(&record), Some(of_ca));
        for damaged in ["", "800000", "800000 x", "800000 t8mmgw 3c00 0 -", "800000 t8mmgw 3c00 0 - t69aw0"] {
            assert_eq!(RenewalPlan::parse(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn a_group_has_one_for_each_certificate() {
        let mut plans = RenewalPlans::default();
        assert_eq!(plans.to_record(), None);
        plans.set(Slot::Rsa, plan(7));
        plans.set(Slot::Ecdsa, plan(9));
        let read = RenewalPlans::parse(&plans.to_record().unwrap());
        assert_eq!(read, plans);
        assert_eq!(read.get(Slot::Rsa, &id()).map(|plan| plan.moment), Some(at(7)));
        let other = CertificateId::from_stored("00".repeat(16));
        assert_eq!(read.get(Slot::Rsa, &other), None);
        assert_eq!(RenewalPlans::parse("x;;e;r800000"), RenewalPlans::default());
    }

    proptest! {
        #[test]
        fn every_plan_is_read_as_it_was_written(
            start in 0_i64..4_000_000_000, length in 0_i64..40_000_000, moment in 0_i64..4_000_000_000,
            heard in proptest::option::of(0_i64..4_000_000_000), ask in proptest::option::of(0_i64..4_000_000_000),
            tries in 0_u8..9, early: bool, nameless: bool, hasty: bool,
        ) {
            let window = RenewalWindow { start: at(start), end: at(start + length) };
            let plan = RenewalPlan {
                heard: heard.map(at), ask: ask.map(at), tries, early, nameless, hasty,
                ..RenewalPlan::new(&id(), window, at(moment))
            };
            prop_assert_eq!(RenewalPlan::parse(&plan.to_record()), Some(plan));
        }

        #[test]
        fn no_record_panics(record in "[a-z0-9@ -]{0,60}") {
            RenewalPlan::parse(&record);
        }
    }
}
