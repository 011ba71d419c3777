//! One measured series, and the table of all.

use std::time::Duration;

/// The table's columns, two lines each.
const HEAD: [(&str, &str); 12] = [
    ("client", ""),
    ("at", "once"),
    ("certi-", "ficates"),
    ("per", "second"),
    ("seconds", "each"),
    ("p50", "ms"),
    ("p99", "ms"),
    ("its CPU", "ms each"),
    ("CA's CPU", "ms each"),
    ("others", "CPU"),
    ("requests", "median"),
    ("requests", "mean"),
];

/// What one series came to.
pub(crate) struct Row {
    pub(crate) client: &'static str,
    /// Orders under way at the same time.
    pub(crate) at_once: usize,
    /// From the start of the first process to the end of the last.
    pub(crate) elapsed: Duration,
    /// Of each certificate, from when work on it began until it was there. Sorted.
    pub(crate) latencies: Vec<Duration>,
    /// Of the client and of what it needs: its store, the server that answers its challenges. Unknown for the client
    /// that shares a process with the proxy.
    pub(crate) cpu: Option<Duration>,
    /// Of the CA and the proxy before it.
    pub(crate) ca_cpu: Duration,
    /// Of everything else on this machine meanwhile: what spoils the measurement.
    pub(crate) other_cpu: Duration,
    /// Of each order, with the newNonce made for it. Sorted.
    pub(crate) requests: Vec<u64>,
    /// All that arrived, also for directory and nonces.
    pub(crate) requests_in_all: u64,
    /// How long each step of an order took, sorted; only ours tells.
    pub(crate) steps: Vec<(String, Vec<Duration>)>,
    /// What `cpu` is made of; only of ours.
    pub(crate) cpu_by_part: Vec<(&'static str, Duration)>,
}

impl Row {
    pub(crate) fn certificates(&self) -> usize {
        self.latencies.len()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.certificates() as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn seconds_each(&self) -> f64 {
        self.elapsed.as_secs_f64() / self.certificates() as f64
    }

    pub(crate) fn median_requests(&self) -> u64 {
        quantile(&self.requests, 0.5)
    }

    /// Where the time went: each step's median and, in parentheses, its 99th percentile, milliseconds.
    pub(crate) fn step_times(&self) -> String {
        let steps = self.steps.iter().map(|(step, times)| {
            let (median, slow) = (quantile(times, 0.5), quantile(times, 0.99));
            format!("{step} {} ({})", median.as_millis(), slow.as_millis())
        });
        steps.collect::<Vec<_>>().join("  ")
    }

    /// CPU time of each part for one certificate, milliseconds.
    pub(crate) fn cpu_parts(&self) -> String {
        let each = |cpu: &Duration| cpu.as_secs_f64() * 1e3 / self.certificates() as f64;
        let parts = self.cpu_by_part.iter().map(|(part, cpu)| format!("{part} {:.1}", each(cpu)));
        parts.collect::<Vec<_>>().join("  ")
    }

    /// The share of this machine's processors that programs with no part in the series used.
    pub(crate) fn others_share(&self) -> f64 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        self.other_cpu.as_secs_f64() / (self.elapsed.as_secs_f64() * processors as f64)
    }

    fn cells(&self) -> [String; HEAD.len()] {
        let each = |whole: f64| whole / self.certificates() as f64;
        let milliseconds = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e3);
        [
            self.client.to_owned(),
            self.at_once.to_string(),
            self.certificates().to_string(),
            format!("{:.2}", self.per_second()),
            format!("{:.3}", self.seconds_each()),
            milliseconds(quantile(&self.latencies, 0.5)),
            milliseconds(quantile(&self.latencies, 0.99)),
            self.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.1}", each(cpu.as_secs_f64() * 1e3))),
            format!("{:.1}", each(self.ca_cpu.as_secs_f64() * 1e3)),
            format!("{:.0} %", self.others_share() * 100.0),
            self.median_requests().to_string(),
            format!("{:.2}", each(self.requests_in_all as f64)),
        ]
    }
}

/// The smallest value that at least this share of the sorted values doesn't exceed.
pub(crate) fn quantile<T: Copy>(sorted: &[T], share: f64) -> T {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted[place.clamp(1, sorted.len()) - 1]
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines: Vec<Vec<String>> = vec![
        HEAD.iter().map(|(above, _)| (*above).to_owned()).collect(),
        HEAD.iter().map(|(_, below)| (*below).to_owned()).collect(),
    ];
    lines.extend(rows.iter().map(|row| row.cells().to_vec()));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            if column == 0 {
                text.push_str(&format!("{cell:<width$}"));
            } else {
                text.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(quantile(&hundred, 0.5), 50);
        assert_eq!(quantile(&hundred, 0.99), 99);
        assert_eq!(quantile(&[7], 0.99), 7);
        assert_eq!(quantile(&[1, 2, 3], 0.5), 2);
        assert_eq!(quantile(&[1, 2, 3], 0.0), 1);
    }
}
