//! A million certificates over a year, and how even the hours are: by the rule that chooses the moments of renewals, and a
//! histogram for each partition as the store keeps it. Nothing but arithmetic, so every run gives the same numbers.

use jiff::{SignedDuration, Timestamp};
use shared::domain::{Occasion, PARTITIONS, RenewalWindow, candidates, hour_of, renewal_cycle};

pub const CERTIFICATES: u32 = 1_000_000;
/// Lifetimes that are simulated: 90, 64 and 45 days, and 160 hours.
pub const LIFETIMES_H: [u16; 4] = [90 * 24, 64 * 24, 45 * 24, 160];
/// What no hour and no minute of the day may exceed, over the mean of all.
pub const MOST: f64 = 1.10;
const HOUR_S: i64 = 3600;
pub const DAY_S: i64 = 24 * HOUR_S;
const YEAR_S: i64 = 365 * DAY_S;
/// 2027-01-01 00:00 UTC.
const BEGINNING_S: i64 = 1_798_761_600;

/// What came of a year, after its first cycle. Each is that over the mean.
#[derive(Debug)]
pub struct Report {
    pub busiest_hour: f64,
    pub emptiest_hour: f64,
    pub mean_per_hour: f64,
    pub busiest_minute: f64,
    pub busiest_second: f64,
    pub early: u64,
    /// What the early renewals cost once, in certificates: one that comes half a cycle early costs half of one.
    pub more_certificates: f64,
}

/// One run.
pub struct Year {
    lifetime_h: u16,
    pub change: Option<Change>,
    issued_within_s: i64,
    /// Whether each partition knows from the beginning how many certificates it will have.
    foreseen: bool,
    certificates: [u64; PARTITIONS as usize],
    /// By partition, by hour: renewals that are scheduled.
    histograms: Vec<Vec<u32>>,
    /// By hour: what is due, as number and second of the hour. No heap is needed: hours come one after the other.
    due: Vec<Vec<(u32, u16)>>,
    /// By number: how long the certificate lives that it has; 0 as long as it has none.
    lives_h: Vec<u16>,
    draws: u64,
    early: u64,
    more_certificates: f64,
}

/// The CA issues other certificates from then on.
pub struct Change {
    pub from_s: i64,
    pub lifetime_h: u16,
}

impl Year {
    pub fn new(lifetime_h: u16, issued_within_s: i64, foreseen: bool) -> Self {
        let hours = index((YEAR_S + 100 * DAY_S) / HOUR_S);
        let mut certificates = [0; PARTITIONS as usize];
        if foreseen {
            (0..CERTIFICATES).for_each(|number| certificates[partition_of(number)] += 1);
        }
        Self {
            lifetime_h,
            change: None,
            issued_within_s,
            foreseen,
            certificates,
            histograms: vec![vec![0; hours]; usize::from(PARTITIONS)],
            due: vec![Vec::new(); hours],
            lives_h: vec![0; CERTIFICATES as usize],
            draws: 0,
            early: 0,
            more_certificates: 0.0,
        }
    }

    pub fn run(mut self) -> Report {
        let first_cycle_s = renewal_cycle(SignedDuration::from_hours(self.lifetime_h.into())).as_secs();
        let tally_from_s = first_cycle_s + self.change.as_ref().map_or(0, |change| change.from_s);
        let mut tally = Tally::default();
        let mut issued = 0;
        for from_s in (0..YEAR_S).step_by(3600) {
            let due = std::mem::take(&mut self.due[index(from_s / HOUR_S)]);
            if from_s >= tally_from_s {
                tally.add(from_s, &due);
            }
            let all = i64::from(CERTIFICATES);
            let until = (all * (from_s + HOUR_S) / self.issued_within_s).min(all) as u32;
            let first: Vec<u32> = (issued..until).collect();
            issued = until;
            // First ones and renewals come mixed, as they do.
            let mut renewals = due.iter();
            for (place, number) in first.iter().enumerate() {
                self.issue(*number, from_s + (place * 3600 / first.len()) as i64);
                for (number, second) in renewals.by_ref().take(due.len().div_ceil(first.len())) {
                    self.issue(*number, from_s + i64::from(*second));
                }
            }
            for (number, second) in renewals {
                self.issue(*number, from_s + i64::from(*second));
            }
        }
        tally.report(self.early, self.more_certificates)
    }

    /// A certificate is issued: its renewal gets its moment.
    fn issue(&mut self, number: u32, now_s: i64) {
        let lifetime_h = match &self.change {
            Some(change) if now_s >= change.from_s => change.lifetime_h,
            _ => self.lifetime_h,
        };
        let lived_h = std::mem::replace(&mut self.lives_h[number as usize], lifetime_h);
        let occasion = if lived_h == lifetime_h { Occasion::Renewal } else { Occasion::First };
        let partition = partition_of(number);
        if lived_h == 0 && !self.foreseen {
            self.certificates[partition] += 1;
        }

        let now = Timestamp::from_second(BEGINNING_S + now_s).expect("a moment of 2027");
        let lifetime = SignedDuration::from_hours(lifetime_h.into());
        let window = boulders_window(now, lifetime);
        self.draws += 1;
        let candidates = candidates(window, lifetime, occasion, now, mixed(self.draws));
        let histogram = &mut self.histograms[partition];
        let (mut renewals, mut asked) = ([0_u64; 64], 0);
        for hour in candidates.hours() {
            renewals[asked] = u64::from(histogram[place_of(hour)]);
            asked += 1;
        }
        let chosen = candidates.choose(&renewals[..asked], self.certificates[partition]);
        assert!(chosen.moment >= now && chosen.moment < window.end);
        assert!(!chosen.early || occasion == Occasion::First, "nothing is renewed early twice");
        if chosen.early {
            self.early += 1;
            let earlier = window.start.duration_since(chosen.moment).as_secs_f64();
            self.more_certificates += earlier / renewal_cycle(lifetime).as_secs_f64();
        }
        let place = place_of(hour_of(chosen.moment));
        histogram[place] += 1;
        self.due[place].push((number, (chosen.moment.as_second() % HOUR_S) as u16));
    }
}

/// The window that Boulder names (core/objects.go, `RenewalInfoSimple`) for a certificate that it issues now.
fn boulders_window(now: Timestamp, lifetime: SignedDuration) -> RenewalWindow {
    // Its clock may be ahead of others', so the beginning is set back by an hour.
    let not_before = now - SignedDuration::from_hours(1);
    let left = if lifetime < SignedDuration::from_hours(240) { lifetime / 2 } else { lifetime / 3 };
    let (centre, half) = (not_before + lifetime - left, lifetime / 100);
    RenewalWindow { start: centre - half, end: centre + half }
}

fn index(number: i64) -> usize {
    usize::try_from(number).expect("nothing is before the beginning")
}

fn place_of(hour: i64) -> usize {
    index(hour - BEGINNING_S / HOUR_S)
}

fn partition_of(number: u32) -> usize {
    (mixed(u64::from(number)) % u64::from(PARTITIONS)) as usize
}

/// As good as a digest of an id.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let number = (number ^ (number >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    number ^ (number >> 32)
}

/// What was renewed after the first cycle.
struct Tally {
    hours: Vec<u64>,
    minutes_of_day: [u64; 1440],
    seconds_of_minute: [u64; 60],
}

impl Default for Tally {
    fn default() -> Self {
        Self { hours: Vec::new(), minutes_of_day: [0; 1440], seconds_of_minute: [0; 60] }
    }
}

impl Tally {
    fn add(&mut self, from_s: i64, due: &[(u32, u16)]) {
        self.hours.push(due.len() as u64);
        for (_, second) in due {
            let second = index(from_s % DAY_S) + usize::from(*second);
            self.minutes_of_day[second / 60] += 1;
            self.seconds_of_minute[second % 60] += 1;
        }
    }

    fn report(&self, early: u64, more_certificates: f64) -> Report {
        let mean = |counts: &[u64]| counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let busiest = |counts: &[u64]| counts.iter().copied().max().unwrap_or_default() as f64 / mean(counts);
        Report {
            busiest_hour: busiest(&self.hours),
            emptiest_hour: self.hours.iter().copied().min().unwrap_or_default() as f64 / mean(&self.hours),
            mean_per_hour: mean(&self.hours),
            busiest_minute: busiest(&self.minutes_of_day),
            busiest_second: busiest(&self.seconds_of_minute),
            early,
            more_certificates,
        }
    }
}
