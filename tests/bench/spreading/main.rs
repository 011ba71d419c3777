//! How evenly a million certificates are renewed over a year, by lifetime and by how they were issued first. A table; see `run`.

use harness::year::{CERTIFICATES, Change, DAY_S, LIFETIMES_H, MOST, Report, Year};
use jiff::SignedDuration;
use shared::domain::renewal_cycle;
use std::{process::ExitCode, time::Instant};

fn main() -> ExitCode {
    let began = Instant::now();
    println!(
        "{CERTIFICATES} certificates, a year, after the first cycle: renewals over the mean of all hours, minutes of the day"
    );
    println!(
        "{:<44} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "", "an hour", "busiest", "emptiest", "minute", "early", "more"
    );
    let mut worst: f64 = 0.0;
    let mut show = |title: String, report: Report| {
        println!(
            "{title:<44} {:>8.0} {:>8.3} {:>8.3} {:>8.3} {:>9} {:>9.0}",
            report.mean_per_hour,
            report.busiest_hour,
            report.emptiest_hour,
            report.busiest_minute,
            report.early,
            report.more_certificates
        );
        worst = worst.max(report.busiest_hour).max(report.busiest_minute);
    };
    for lifetime_h in LIFETIMES_H {
        let cycle_s = renewal_cycle(SignedDuration::from_hours(lifetime_h.into())).as_secs();
        for (within_s, how) in [(cycle_s, "a cycle"), (3 * DAY_S, "3 days")] {
            for foreseen in [true, false] {
                let title = format!(
                    "{lifetime_h} h, issued within {how}{}",
                    if foreseen { ", foreseen" } else { "" }
                );
                show(title, Year::new(lifetime_h, within_s, foreseen).run());
            }
        }
    }
    let mut year = Year::new(90 * 24, 60 * DAY_S, true);
    year.change = Some(Change { from_s: 100 * DAY_S, lifetime_h: 64 * 24 });
    show("2160 h, from day 100 on 1536 h".to_owned(), year.run());
    println!("the worst {worst:.3}, at most {MOST:.2} is wanted; {:.0} s", began.elapsed().as_secs_f64());
    println!("early, more: renewed early once, to flatten; what that cost, in certificates");
    if worst <= MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
