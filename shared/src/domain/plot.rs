//! A picture of numbers by hour, for a terminal.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use std::fmt::Write as _;

const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BLOCKS: [char; 9] = [' ', '.', '.', '.', ':', ':', ':', '|', '#'];
/// Dates stand that far apart, each takes ten characters.
const BETWEEN_DATES: usize = 13;

/// How large a picture is, and of what it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Characters of a line, with the numbers at its left.
    pub width: usize,
    /// Lines of columns; the dates and the sentence below them come on top.
    pub height: usize,
    /// For terminals and logs that know nothing else.
    pub ascii: bool,
}

impl Plot {
    /// Draws numbers by hour, the first of which is that of the hour `from`. A column stands for several hours and is as high as
    /// the busiest of them, so that no peak is lost. Dates are marked where they begin, in UTC.
    pub fn draw(&self, per_hour: &[f64], from: Timestamp) -> String {
        let Some((busiest, peak)) = busiest(per_hour) else { return "Nothing is due.\n".to_owned() };
        let mean = per_hour.iter().sum::<f64>() / per_hour.len() as f64;
        let height = self.height.max(2);
        let numbers = [peak, mean, 0.0].map(short);
        let left = numbers.iter().map(String::len).max().unwrap_or_default();
        let columns = self.width.saturating_sub(left + 2).max(10).min(per_hour.len());
        // A column begins with this hour.
        let hour_of = |column: usize| column * per_hour.len() / columns;
        let column_of = |hour: usize| ((hour + 1) * columns - 1) / per_hour.len();

        let heights: Vec<usize> = (0..columns)
            .map(|column| {
                let hours = &per_hour[hour_of(column)..hour_of(column + 1)];
                let most = hours.iter().copied().fold(0.0, f64::max);
                (most / peak * (height * 8) as f64).round() as usize
            })
            .collect();
        let (blocks, mean_line) = if self.ascii { (ASCII_BLOCKS, '-') } else { (BLOCKS, '┄') };
        let mean_row = (((mean / peak) * height as f64) as usize).min(height - 1);
        let mut text = String::new();
        for row in (0..height).rev() {
            let number = match row {
                _ if row + 1 == height => &numbers[0],
                _ if row == mean_row => &numbers[1],
                _ => "",
            };
            let axis = match (number.is_empty(), self.ascii) {
                (true, true) => '|',
                (true, false) => '│',
                (false, true) => '+',
                (false, false) => '┤',
            };
            let empty = if row == mean_row { mean_line } else { ' ' };
            let cells: String = heights
                .iter()
                .map(|height| match height.saturating_sub(row * 8).min(8) {
                    0 => empty,
                    eighths => blocks[eighths],
                })
                .collect();
            push_line(&mut text, &format!("{number:>left$} {axis}{cells}"));
        }
        let (ticks, dates) = self.dates(columns, column_of, per_hour.len(), from);
        let corner = if self.ascii { '+' } else { '└' };
        push_line(&mut text, &format!("{:>left$} {corner}{ticks}", numbers[2]));
        push_line(&mut text, &format!("{:left$}  {dates}", ""));
        let arrow = if self.ascii { '^' } else { '▲' };
        push_line(&mut text, &format!("{:left$}  {:2$}{arrow}", "", "", column_of(busiest)));
        let at = (from + hours(busiest)).strftime("%Y-%m-%d %H:%M UTC");
        push_line(&mut text, &format!("peak {} an hour, {at}; mean {}", numbers[0], numbers[1]));
        text
    }

    /// The line below the columns, and the dates below that.
    fn dates(
        &self,
        columns: usize,
        column_of: impl Fn(usize) -> usize,
        all_hours: usize,
        from: Timestamp,
    ) -> (String, String) {
        let (line, tick) = if self.ascii { ('-', '+') } else { ('─', '┬') };
        let mut ticks = vec![line; columns];
        let mut dates = String::new();
        let mut free_from = 0;
        for hour in 0..all_hours {
            let moment = from + hours(hour);
            let column = column_of(hour);
            if moment.to_zoned(TimeZone::UTC).hour() != 0 || column < free_from || column + 10 > columns {
                continue;
            }
            ticks[column] = tick;
            let gap = column - dates.len();
            // Writing to a string never fails.
            let _ = write!(dates, "{:gap$}{}", "", moment.strftime("%Y-%m-%d"));
            free_from = column + BETWEEN_DATES;
        }
        (ticks.into_iter().collect(), dates)
    }
}

/// Which number is the largest, and it, where there is one above nothing.
fn busiest(per_hour: &[f64]) -> Option<(usize, f64)> {
    let finite = per_hour.iter().copied().enumerate().filter(|(_, count)| count.is_finite() && *count > 0.0);
    // Of equal ones the first.
    finite.reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn hours(hours: usize) -> SignedDuration {
    SignedDuration::from_hours(i64::try_from(hours).unwrap_or(i64::MAX))
}

/// In at most six characters.
fn short(count: f64) -> String {
    match count {
        _ if count >= 999_500.0 => format!("{:.1}M", count / 1e6),
        _ if count >= 9_999.5 => format!("{:.1}k", count / 1e3),
        _ if count >= 9.95 || count == 0.0 => format!("{count:.0}"),
        _ => format!("{count:.1}"),
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2027-01-01 12:00 UTC.
    fn from() -> Timestamp {
        Timestamp::from_second(1_798_804_800).unwrap()
    }

    /// 100 an hour for five days, 200 in one hour, 50 for the last day.
    fn week() -> Vec<f64> {
        let mut per_hour = vec![100.0; 120];
        per_hour[40] = 200.0;
        per_hour.extend([50.0; 24]);
        per_hour
    }

    #[test]
    fn a_week_in_blocks() {
        let text = Plot { width: 42, height: 4, ascii: false }.draw(&week(), from());
        let expected = "
200 ┤          █
    │          █
 92 ┤███████████████████████████████┄┄┄┄┄┄
    │█████████████████████████████████████
  0 └───┬─────────────────┬───────────────
        2027-01-02        2027-01-05
               ▲
peak 200 an hour, 2027-01-03 04:00 UTC; mean 92
";
        assert_eq!(text, expected.trim_start_matches('\n'), "\n{text}");
    }

    #[test]
    fn a_week_in_ascii() {
        let text = Plot { width: 42, height: 4, ascii: true }.draw(&week(), from());
        let expected = "
200 +          #
    |          #
 92 +###############################------
    |#####################################
  0 +---+-----------------+---------------
        2027-01-02        2027-01-05
               ^
peak 200 an hour, 2027-01-03 04:00 UTC; mean 92
";
        assert_eq!(text, expected.trim_start_matches('\n'), "\n{text}");
    }

    #[test]
    fn eighths_show_what_is_less_than_a_line() {
        let per_hour: Vec<f64> = (1..=16).map(f64::from).collect();
        let text = Plot { width: 80, height: 2, ascii: false }.draw(&per_hour, from());
        assert!(text.starts_with(" 16 ┤┄┄┄┄┄┄┄┄▁▂▃▄▅▆▇█\n    │▁▂▃▄▅▆▇█████████"), "\n{text}");
        let plain = Plot { width: 80, height: 2, ascii: true }.draw(&per_hour, from());
        assert!(plain.contains("|...:::|#########\n"), "\n{plain}");
    }

    #[test]
    fn nothing_is_said_and_not_drawn() {
        for nothing in [&[][..], &[0.0, 0.0], &[f64::NAN]] {
            let text = Plot { width: 80, height: 10, ascii: false }.draw(nothing, from());
            assert_eq!(text, "Nothing is due.\n");
        }
    }

    #[test]
    fn numbers_stay_short() {
        for (count, expected) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (9.94, "9.9"),
            (9.96, "10"),
            (9_999.4, "9999"),
            (9_999.6, "10.0k"),
            (694_000.0, "694.0k"),
            (999_600.0, "1.0M"),
        ] {
            assert_eq!(short(count), expected);
        }
    }

    proptest! {
        #[test]
        fn it_fits_whatever_is_drawn(
            per_hour in proptest::collection::vec(0.0..1e7_f64, 1..3000),
            width in 20_usize..200, height in 2_usize..40, ascii: bool,
        ) {
            let text = Plot { width, height, ascii }.draw(&per_hour, from());
            prop_assert_eq!(text.lines().count(), height + 4);
            prop_assert!(text.lines().take(height + 3).all(|line| line.chars().count() <= width), "\n{}", text);
            prop_assert!(!ascii || text.is_ascii());
            prop_assert_eq!(text.matches(['▲', '^']).count(), 1);
            let columns = text.lines().nth(height).unwrap().chars().filter(|c| "─┬-+".contains(*c)).count();
            prop_assert!(columns <= per_hour.len() + 1, "no hour is drawn twice");
        }
    }
}
