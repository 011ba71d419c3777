//! A million certificates that were all issued within three days, over a year: no hour is much busier than another. That is the
//! worst beginning; `tests/bench/spreading/run` has the others.

use harness::year::{Change, DAY_S, MOST, Year};

/// Nobody knew how many there would be.
fn all_within_three_days(lifetime_h: u16) -> Year {
    Year::new(lifetime_h, 3 * DAY_S, false)
}

fn check(year: Year) {
    let report = year.run();
    println!("{report:?}");
    assert!(report.busiest_hour <= MOST, "the busiest hour: {report:?}");
    assert!(report.busiest_minute <= MOST, "the busiest minute of the day: {report:?}");
    assert!(report.busiest_second <= 1.02, "the busiest second of the minute: {report:?}");
}

#[test]
fn forty_five_days() {
    check(all_within_three_days(45 * 24));
}

mod long {
    use super::*;

    #[test]
    fn ninety_days() {
        check(all_within_three_days(90 * 24));
    }

    #[test]
    fn sixty_four_days() {
        check(all_within_three_days(64 * 24));
    }

    #[test]
    fn a_hundred_and_sixty_hours() {
        check(all_within_three_days(160));
    }

    /// Renewals of two months come due within six weeks, so a third of the hours would have twice what the others have.
    #[test]
    fn the_ca_goes_from_ninety_days_to_sixty_four() {
        let mut year = Year::new(90 * 24, 60 * DAY_S, true);
        year.change = Some(Change { from_s: 100 * DAY_S, lifetime_h: 64 * 24 });
        check(year);
    }
}
