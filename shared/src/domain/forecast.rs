//! What the next 90 days bring: renewals by hour, orders by day, what they leave of a limit, and the memory they need. For the
//! fleet as it is, or as if it had other lifetimes or more sites.

use super::renewal_cycle;
use jiff::{SignedDuration, Timestamp};

/// How far a forecast looks: 90 days.
pub const FORECAST_HOURS: usize = 90 * 24;
/// Anything shorter would be renewed several times within the hours that are counted.
const SHORTEST_LIFETIME: SignedDuration = SignedDuration::from_hours(4);

/// What a forecast needs to know of the sites.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// Sites, or groups of names where a site has several: what is renewed at once.
    pub sites: u64,
    /// How long their certificates live.
    pub lifetime: SignedDuration,
    /// The CA's profile that gives this lifetime, for whoever reads the forecast.
    pub profile: Option<String>,
    /// 2 where each has a certificate of each key type, and in between where some have.
    pub certificates_per_site: f64,
    pub new_sites_per_day: f64,
}

/// Renewals of a fleet by hour, orders by day.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// Where its first hour begins.
    pub from: Timestamp,
    pub fleet: Fleet,
    /// Sites that are renewed, by hour: [`FORECAST_HOURS`] of them.
    pub renewals_per_hour: Vec<f64>,
}

/// An hour or a day of a forecast, and how many there are in it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Peak {
    pub from: Timestamp,
    pub count: f64,
}

/// Orders that a CA takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderLimit {
    pub count: u64,
    pub period: SignedDuration,
    /// Most CAs exempt renewals: only sites that are new count.
    pub counts_renewals: bool,
}

/// What is used of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Headroom {
    /// On the busiest day.
    pub used_per_day: f64,
    pub allowed_per_day: f64,
}

impl Forecast {
    /// The forecast for `fleet`, of which `scheduled` are the renewals that have their moment, by hour from the hour `from`
    /// on, and as far as they are known. What is overdue belongs into the first hour.
    pub fn of(scheduled: &[u64], from: Timestamp, fleet: Fleet) -> Self {
        Self::what_if(scheduled, from, &fleet, fleet.clone())
    }

    /// The same if `fleet` had always been `other`: its schedule is stretched to the other one's cycle, so a lifetime of half the
    /// length brings twice the renewals at once, not after a transition. Sites that it has more are spread evenly, as they will
    /// be; with fewer, each hour has fewer.
    pub fn what_if(scheduled: &[u64], from: Timestamp, fleet: &Fleet, other: Fleet) -> Self {
        let mut renewals_per_hour = vec![0.0; FORECAST_HOURS];
        let is_planned = scheduled.iter().any(|count| *count > 0);
        let known = if is_planned { fleet.sites.min(other.sites) } else { 0 };
        let stretch = other.cycle_hours() / fleet.cycle_hours();
        let scale = known as f64 / fleet.sites.max(1) as f64;
        for (hour, count) in scheduled.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (start, end) = (hour as f64 * stretch, (hour + 1) as f64 * stretch);
            add(&mut renewals_per_hour, start, end, *count as f64 * scale);
        }
        other.spread_evenly(&mut renewals_per_hour, other.sites - known);
        other.repeat(&mut renewals_per_hour);
        Self { from, fleet: other, renewals_per_hour }
    }

    /// The busiest hour: sites that are renewed in it.
    pub fn busiest_hour(&self) -> Peak {
        peak(self.renewals_per_hour.iter().copied(), self.from, 1)
    }

    pub fn mean_per_hour(&self) -> f64 {
        self.renewals_per_hour.iter().sum::<f64>() / FORECAST_HOURS as f64
    }

    /// Orders on each of the 90 days that begin with the forecast, for renewals and for new sites.
    pub fn orders_per_day(&self) -> Vec<f64> {
        let certificates = self.fleet.certificates_per_site;
        let day = |hours: &[f64]| (hours.iter().sum::<f64>() + self.fleet.new_sites_per_day) * certificates;
        self.renewals_per_hour.chunks(24).map(day).collect()
    }

    pub fn busiest_day(&self) -> Peak {
        peak(self.orders_per_day().into_iter(), self.from, 24)
    }

    pub fn mean_orders_per_day(&self) -> f64 {
        let days = self.orders_per_day();
        days.iter().sum::<f64>() / days.len() as f64
    }

    /// What the busiest day uses of a limit.
    pub fn headroom(&self, limit: &OrderLimit) -> Headroom {
        let new = self.fleet.new_sites_per_day * self.fleet.certificates_per_site;
        let used_per_day = if limit.counts_renewals { self.busiest_day().count } else { new };
        let days = limit.period.as_secs_f64() / 86_400.0;
        let allowed_per_day = if days > 0.0 { limit.count as f64 / days } else { f64::INFINITY };
        Headroom { used_per_day, allowed_per_day }
    }

    /// What the store needs at the end of the forecast, for certificates that take `bytes_per_certificate` each with all that
    /// belongs to them.
    pub fn memory_bytes(&self, bytes_per_certificate: u64) -> u64 {
        let new_sites = self.fleet.new_sites_per_day * (FORECAST_HOURS / 24) as f64;
        let certificates = (self.fleet.sites as f64 + new_sites) * self.fleet.certificates_per_site;
        (certificates * bytes_per_certificate as f64).round() as u64
    }
}

impl Headroom {
    /// What is used, as a share: more than 1.0 is more than the CA takes.
    pub fn used(&self) -> f64 {
        if self.used_per_day > 0.0 { self.used_per_day / self.allowed_per_day } else { 0.0 }
    }

    /// Orders that can be added each day.
    pub fn left_per_day(&self) -> f64 {
        (self.allowed_per_day - self.used_per_day).max(0.0)
    }
}

impl Fleet {
    fn lifetime(&self) -> SignedDuration {
        self.lifetime.max(SHORTEST_LIFETIME)
    }

    fn cycle_hours(&self) -> f64 {
        renewal_cycle(self.lifetime()).as_secs_f64() / 3600.0
    }

    /// The moment of a renewal lies within so much of the cycle's end: one hundredth of the lifetime.
    fn half_window_hours(&self) -> f64 {
        (self.lifetime().as_secs_f64() / 3600.0 / 100.0).max(0.5)
    }

    /// Nothing to go by: as it will be once all is spread. Each begins with a window of its own, so it ends gently.
    fn spread_evenly(&self, renewals_per_hour: &mut [f64], sites: u64) {
        let (cycle_hours, half_hours) = (self.cycle_hours(), self.half_window_hours());
        let steps = (2.0 * half_hours).ceil();
        for step in 0..steps as usize {
            let end = cycle_hours - half_hours + 2.0 * half_hours * (step as f64 + 0.5) / steps;
            add(renewals_per_hour, 0.0, end, sites as f64 / steps * end / cycle_hours);
        }
    }

    /// What is renewed is renewed again a cycle later, and what is new a cycle after it came. What is uneven blurs a little each
    /// time, because a moment is drawn from a window.
    fn repeat(&self, renewals_per_hour: &mut [f64]) {
        let cycle_hours = self.cycle_hours();
        let half_hours = self.half_window_hours();
        let new_per_hour = self.new_sites_per_day / 24.0;
        // By hour: certificates that are issued before it, so that those between any two moments are one subtraction.
        let mut issued = vec![0.0];
        let until = |issued: &[f64], hours: f64| {
            let hours = hours.clamp(0.0, (issued.len() - 1) as f64);
            let (whole, part) = (hours as usize, hours.fract());
            let next = issued.get(whole + 1).unwrap_or(&issued[whole]);
            issued[whole] + (next - issued[whole]) * part
        };
        for (hour, renewals) in renewals_per_hour.iter_mut().enumerate() {
            // A cycle is longer than half a window and an hour, so all that comes back in this hour is counted already.
            let middle = hour as f64 + 0.5 - cycle_hours;
            let back = until(&issued, middle + half_hours) - until(&issued, middle - half_hours);
            *renewals += back / (2.0 * half_hours);
            issued.push(issued[hour] + *renewals + new_per_hour);
        }
    }
}

/// Adds so many, evenly between two moments. What is beyond the end is left out.
fn add(per_hour: &mut [f64], start: f64, end: f64, count: f64) {
    let density = count / (end - start);
    let last = (end.ceil() as usize).min(per_hour.len());
    for (hour, sum) in per_hour.iter_mut().enumerate().take(last).skip(start as usize) {
        let overlap = end.min((hour + 1) as f64) - start.max(hour as f64);
        *sum += density * overlap;
    }
}

fn peak(counts: impl Iterator<Item = f64>, from: Timestamp, hours_each: i64) -> Peak {
    let busiest = counts.zip(0_i64..).max_by(|(one, _), (two, _)| one.total_cmp(two)).unwrap_or((0.0, 0));
    Peak { from: from + SignedDuration::from_hours(busiest.1 * hours_each), count: busiest.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fleet(sites: u64, lifetime_h: i64) -> Fleet {
        Fleet {
            sites,
            lifetime: SignedDuration::from_hours(lifetime_h),
            profile: None,
            certificates_per_site: 1.0,
            new_sites_per_day: 0.0,
        }
    }

    /// 2027-01-01.
    fn from() -> Timestamp {
        Timestamp::from_second(1_798_761_600).unwrap()
    }

    fn sum(counts: &[f64]) -> f64 {
        counts.iter().sum()
    }

    fn close(one: f64, two: f64) -> bool {
        (one - two).abs() <= 1e-6 * one.abs().max(two.abs()).max(1.0)
    }

    #[test]
    fn what_is_scheduled_comes_as_scheduled_and_again_a_cycle_later() {
        let mut scheduled = vec![0; 1440];
        scheduled[100] = 1000;
        let forecast = Forecast::of(&scheduled, from(), fleet(1000, 2160));
        let hours = &forecast.renewals_per_hour;
        assert_eq!(hours.len(), FORECAST_HOURS);
        assert!(close(hours[100], 1000.0) && close(sum(&hours[..1000]), 1000.0));
        assert_eq!(
            forecast.busiest_hour(),
            Peak { from: from() + SignedDuration::from_hours(100), count: hours[100] }
        );
        // 21.6 hours either way around hour 1540.
        assert!(close(sum(&hours[1518..1563]), 1000.0), "{}", sum(&hours[1518..1563]));
        assert!(close(hours[1540], 1000.0 / 43.2));
        assert!(close(hours[1517] + hours[1564], 0.0));
        assert!(close(forecast.mean_per_hour(), 2000.0 / 2160.0));
        let days = forecast.orders_per_day();
        assert!(days.len() == 90 && close(days[4], 1000.0) && close(sum(&days), 2000.0));
        assert_eq!(forecast.busiest_day().from, from() + SignedDuration::from_hours(96));
    }

    #[test]
    fn an_even_fleet_stays_even() {
        for lifetime_h in [2160, 1536, 1080, 160] {
            let forecast = Forecast::of(&[], from(), fleet(1_000_000, lifetime_h));
            let mean = 1_000_000.0 / forecast.fleet.cycle_hours();
            for count in &forecast.renewals_per_hour {
                assert!((count / mean - 1.0).abs() < 0.02, "{lifetime_h}: {count} of {mean}");
            }
            assert!((forecast.mean_orders_per_day() / mean / 24.0 - 1.0).abs() < 0.01, "{lifetime_h}");
        }
    }

    #[test]
    fn another_lifetime_and_number_scale_the_schedule() {
        let scheduled = vec![694; 1440];
        let now = fleet(1_000_000, 2160);
        for (other, per_hour) in [
            (now.clone(), 694.0),
            (fleet(2_000_000, 2160), 1388.0),
            (fleet(1_000_000, 1536), 694.0 * 1440.0 / 1024.0),
            (fleet(1_000_000, 1080), 1388.0),
            (fleet(1_000_000, 160), 694.0 * 18.0),
            (fleet(500_000, 160), 694.0 * 9.0),
        ] {
            let forecast = Forecast::what_if(&scheduled, from(), &now, other.clone());
            let hours = &forecast.renewals_per_hour;
            // What comes on top is spread over the cycle, which is no whole multiple of what is scheduled.
            assert!((hours[10] / per_hour - 1.0).abs() < 0.001, "{other:?}: {}", hours[10]);
            assert!((forecast.mean_per_hour() / per_hour - 1.0).abs() < 0.02, "{other:?}");
            assert_eq!(forecast.fleet, other);
        }
        let planned = Forecast::of(&[], from(), fleet(1_440_000, 2160));
        assert!(close(planned.renewals_per_hour[0], 1000.0), "nothing is scheduled yet");
    }

    #[test]
    fn new_sites_are_orders_at_once_and_renewals_a_cycle_later() {
        let growing = Fleet { new_sites_per_day: 2400.0, certificates_per_site: 2.0, ..fleet(144_000, 2160) };
        let forecast = Forecast::of(&[100; 1440], from(), growing);
        assert!(close(forecast.renewals_per_hour[1000], 100.0));
        assert!(close(forecast.renewals_per_hour[2000], 200.0));
        let days = forecast.orders_per_day();
        assert!(close(days[0], 2.0 * (2400.0 + 2400.0)) && close(days[89], 2.0 * (2400.0 + 4800.0)));
        assert_eq!(forecast.memory_bytes(5_000), 2 * (144_000 + 90 * 2400) * 5_000);

        let limit = OrderLimit { count: 300, period: SignedDuration::from_hours(3), counts_renewals: false };
        let headroom = forecast.headroom(&limit);
        assert_eq!((headroom.used_per_day, headroom.allowed_per_day), (4800.0, 2400.0));
        assert_eq!((headroom.used(), headroom.left_per_day()), (2.0, 0.0));
        let all = forecast.headroom(&OrderLimit { counts_renewals: true, ..limit });
        assert!(close(all.used_per_day, 14_400.0), "{all:?}");
        let idle = Forecast::of(&[], from(), fleet(10, 2160)).headroom(&limit);
        assert_eq!((idle.used(), idle.left_per_day()), (0.0, 2400.0));
    }

    proptest! {
        #[test]
        fn nobody_comes_twice_within_a_cycle(
            scheduled in proptest::collection::vec(0_u64..1000, 1..3000), lifetime_h in 0_i64..5000,
            other_h in 0_i64..5000, sites in 0_u64..1_000_000,
        ) {
            let (now, other) = (fleet(sites, lifetime_h), fleet(sites / 2, other_h));
            let forecast = Forecast::what_if(&scheduled, from(), &now, other.clone());
            prop_assert!(forecast.renewals_per_hour.iter().all(|count| count.is_finite() && *count >= 0.0));
            // Within one cycle everybody comes at most once.
            let cycle = other.cycle_hours() * 0.9;
            let within = (cycle as usize).min(FORECAST_HOURS).min(scheduled.len());
            let total = scheduled.iter().sum::<u64>().max(sites) as f64;
            prop_assert!(sum(&forecast.renewals_per_hour[..within]) <= total * 1.001 + 1.0);
        }
    }
}
