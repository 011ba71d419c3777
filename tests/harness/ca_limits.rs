//! A limiter that refuses as Let's Encrypt does, written from its documentation and on its own: it shares nothing with the program
//! under test. Buckets hold one number each (GCRA), in nanoseconds; the clock is an argument.
//!
//! An order is judged as a whole: if one bucket denies, nothing is spent, and the one that resets last is named. Exempt are
//! renewals: exactly the same names within [`Limits::same_set`], from the limits of orders and domains.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

/// Of one bucket.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    pub burst: u32,
    pub count: u32,
    pub period: Duration,
}

/// What is limited.
#[derive(Debug, Clone)]
pub struct Limits {
    pub orders_per_account: Bucket,
    pub certificates_per_domain: Bucket,
    pub certificates_per_set: Bucket,
    pub failures_per_name: Bucket,
    pub same_set: Duration,
    /// Names of two labels under which each name of three is a registered domain.
    pub suffixes: Vec<String>,
}

/// A refusal, as it is told.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The bucket that resets last.
    pub bucket: String,
    pub detail: String,
    pub retry_after: Duration,
}

/// The limiter's memory.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    tats: HashMap<String, u64>,
    issued: HashMap<String, u64>,
    refusals: Vec<Refusal>,
    /// Authorizations that have been counted as failed.
    seen: HashSet<String>,
    /// Orders that were let through, by what they were taken for: `new`, `same-set`.
    pub allowed: BTreeMap<&'static str, u64>,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Limits {
    /// The published ones, each period divided.
    pub fn letsencrypt_divided_by(divisor: u32) -> Self {
        let bucket = |burst, period: Duration| Bucket { burst, count: burst, period: period / divisor };
        Self {
            orders_per_account: bucket(300, DAY / 8),
            certificates_per_domain: bucket(50, DAY * 7),
            certificates_per_set: bucket(5, DAY * 7),
            failures_per_name: bucket(5, DAY / 24),
            same_set: DAY * 120 / divisor,
            suffixes: Vec::new(),
        }
    }

    /// The last two labels of each name, three under a suffix: good for the names of a test.
    fn domains(&self, names: &[String]) -> Vec<String> {
        let last = |name: &str, count: usize| {
            let labels: Vec<&str> = name.rsplit('.').take(count).collect();
            labels.into_iter().rev().collect::<Vec<_>>().join(".")
        };
        let of_name = |name: &String| match last(name, 2) {
            suffix if self.suffixes.contains(&suffix) => last(name, 3),
            domain => domain,
        };
        let mut found: Vec<String> = names.iter().map(of_name).collect();
        found.sort();
        found.dedup();
        found
    }

    /// The same as a file for `limits_file`.
    pub fn to_toml(&self) -> String {
        let table = |name: &str, counts: &str, scope: &str, bucket: Bucket, exempt: &str, says: &str| {
            format!(
                "[limits.{name}]\ncounts = \"{counts}\"\nscope = \"{scope}\"\nburst = {}\ncount = {}\n\
                 period_seconds = {:?}\nexempt = [{exempt}]\nsays = '{says}'\n",
                bucket.burst,
                bucket.count,
                bucket.period.as_secs_f64()
            )
        };
        let renewals = "\"ari\", \"same-set\"";
        [
            format!("same_set_days = {:?}\n", self.same_set.as_secs_f64() / 86_400.0),
            table(
                "new-orders-per-account",
                "orders",
                "account",
                self.orders_per_account,
                renewals,
                "too many new orders",
            ),
            table(
                "certificates-per-registered-domain",
                "certificates",
                "registered-domain",
                self.certificates_per_domain,
                renewals,
                "already issued for \"",
            ),
            table(
                "certificates-per-exact-set",
                "certificates",
                "identifier-set",
                self.certificates_per_set,
                "\"ari\"",
                "exact set of identifiers",
            ),
            table(
                "failed-validations-per-name",
                "failed-validations",
                "account-and-identifier",
                self.failures_per_name,
                "\"ari\"",
                "too many failed authorizations",
            ),
        ]
        .concat()
    }
}

impl Bucket {
    /// So many can be spent from `now` until `end` at the most.
    pub fn possible(self, tat: u64, now: u64, end: u64) -> u64 {
        (end + self.interval() * u64::from(self.burst)).saturating_sub(tat.max(now)) / self.interval()
    }

    fn interval(self) -> u64 {
        nanoseconds(self.period) / u64::from(self.count)
    }

    /// The TAT once one more is spent.
    ///
    /// # Errors
    /// How long until it can be, nanoseconds.
    pub fn spend(self, tat: u64, now: u64) -> Result<u64, u64> {
        let next = tat.max(now) + self.interval();
        let earliest = next.saturating_sub(self.interval() * u64::from(self.burst));
        if earliest > now { Err(earliest - now) } else { Ok(next) }
    }
}

impl Limiter {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            tats: HashMap::new(),
            issued: HashMap::new(),
            refusals: Vec::new(),
            seen: HashSet::new(),
            allowed: BTreeMap::new(),
        }
    }

    /// What was refused so far.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// `now` in nanoseconds. `names` sorted.
    ///
    /// # Errors
    /// The refusal that the client gets.
    pub fn new_order(&mut self, account: &str, names: &[String], now: u64) -> Result<(), Refusal> {
        let set = names.join(",");
        let is_renewal = self.is_renewal(&set, now);
        let mut denied: Option<(u64, String, String)> = None;
        let mut deny = |wait: Result<u64, u64>, bucket: String, text: String| {
            if let Err(wait) = wait
                && denied.as_ref().is_none_or(|(longest, ..)| wait > *longest)
            {
                denied = Some((wait, bucket, text));
            }
        };
        let orders = format!("orders/{account}");
        let spent = self.limits.orders_per_account.spend(self.tat(&orders), now);
        if !is_renewal {
            deny(
                spent,
                orders.clone(),
                "too many new orders (300) from this account in the last 3h0m0s".into(),
            );
            for domain in self.limits.domains(names) {
                let bucket = format!("domain/{domain}");
                let wait = self.limits.certificates_per_domain.spend(self.tat(&bucket), now);
                let text = format!(
                    "too many certificates (50) already issued for \"{domain}\" in the last 168h0m0s"
                );
                deny(wait, bucket, text);
            }
        }
        let bucket = format!("set/{set}");
        let wait = self.limits.certificates_per_set.spend(self.tat(&bucket), now);
        let text =
            "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s";
        deny(wait, bucket, text.into());
        for name in names {
            let bucket = format!("failures/{account}/{name}");
            let wait = self.limits.failures_per_name.spend(self.tat(&bucket), now);
            deny(
                wait,
                bucket,
                format!("too many failed authorizations (5) for \"{name}\" in the last 1h0m0s"),
            );
        }
        if let Some((wait, bucket, text)) = denied {
            let until =
                jiff::Timestamp::from_nanosecond(i128::from(now + wait)).unwrap_or(jiff::Timestamp::MAX);
            let refusal = Refusal {
                bucket,
                detail: format!(
                    "Error creating new order :: {text}, retry after {} UTC: see https://letsencrypt.org/docs/rate-limits/",
                    until.strftime("%F %T")
                ),
                retry_after: Duration::from_nanos(wait),
            };
            self.refusals.push(refusal.clone());
            return Err(refusal);
        }
        if let Ok(tat) = spent
            && !is_renewal
        {
            self.tats.insert(orders, tat);
        }
        *self.allowed.entry(if is_renewal { "same-set" } else { "new" }).or_default() += 1;
        Ok(())
    }

    /// An order that replaces a certificate within its window: no limit holds for it.
    pub fn new_replacement(&mut self) {
        *self.allowed.entry("ari").or_default() += 1;
    }

    /// A certificate was issued.
    pub fn issued(&mut self, names: &[String], now: u64) {
        let set = names.join(",");
        if !self.is_renewal(&set, now) {
            for domain in self.limits.domains(names) {
                let bucket = self.limits.certificates_per_domain;
                self.spend_only(format!("domain/{domain}"), bucket, now);
            }
        }
        let bucket = self.limits.certificates_per_set;
        self.spend_only(format!("set/{set}"), bucket, now);
        self.issued.insert(set, now);
    }

    /// A name was looked at in vain.
    pub fn failed(&mut self, account: &str, name: &str, now: u64) {
        let bucket = self.limits.failures_per_name;
        self.spend_only(format!("failures/{account}/{name}"), bucket, now);
    }

    /// The same, once for each authorization.
    pub fn failed_once(&mut self, authorization: &str, account: &str, name: &str, now: u64) {
        if self.seen.insert(authorization.to_owned()) {
            self.failed(account, name, now);
        }
    }

    /// Somebody else's certificates of the same domain.
    pub fn spend_elsewhere(&mut self, domain: &str, count: u32, now: u64) {
        for _ in 0..count {
            let bucket = self.limits.certificates_per_domain;
            self.spend_only(format!("domain/{domain}"), bucket, now);
        }
    }

    /// Somebody else's orders under the same account.
    pub fn order_elsewhere(&mut self, account: &str, count: u32, now: u64) {
        for _ in 0..count {
            let bucket = self.limits.orders_per_account;
            self.spend_only(format!("orders/{account}"), bucket, now);
        }
    }

    fn is_renewal(&self, set: &str, now: u64) -> bool {
        self.issued
            .get(set)
            .is_some_and(|issued| now.saturating_sub(*issued) <= nanoseconds(self.limits.same_set))
    }

    /// When a bucket is full again, nanoseconds.
    pub fn tat(&self, bucket: &str) -> u64 {
        self.tats.get(bucket).copied().unwrap_or(0)
    }

    fn spend_only(&mut self, name: String, bucket: Bucket, now: u64) {
        if let Ok(tat) = bucket.spend(self.tat(&name), now) {
            self.tats.insert(name, tat);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_account_has_300_orders_and_one_more_in_36_seconds() {
        let mut limiter = Limiter::new(Limits::letsencrypt_divided_by(1));
        let now = 1_800_000_000 * SECOND;
        for number in 0..300 {
            limiter.new_order("a", &names(&[&format!("x.d{number}.example")]), now).unwrap();
        }
        let refusal = limiter.new_order("a", &names(&["y.z.example"]), now).unwrap_err();
        assert_eq!((refusal.bucket.as_str(), refusal.retry_after), ("orders/a", Duration::from_secs(36)));
        assert!(refusal.detail.contains("too many new orders"), "{}", refusal.detail);
        limiter.new_order("b", &names(&["y.z.example"]), now).unwrap();
        limiter.new_order("a", &names(&["y.z.example"]), now + 36 * SECOND).unwrap();
    }

    #[test]
    fn a_domain_has_50_certificates_and_renewals_are_exempt() {
        let mut limiter = Limiter::new(Limits::letsencrypt_divided_by(1));
        let now = 1_800_000_000 * SECOND;
        for number in 0..50 {
            let set = names(&[&format!("n{number}.shop.example")]);
            limiter.new_order("a", &set, now).unwrap();
            limiter.issued(&set, now);
        }
        let refusal = limiter.new_order("b", &names(&["new.shop.example"]), now).unwrap_err();
        assert_eq!(refusal.retry_after, Duration::from_secs(12_096));
        let again = names(&["n7.shop.example"]);
        for _ in 0..4 {
            limiter.new_order("a", &again, now).unwrap();
            limiter.issued(&again, now);
        }
        let refusal = limiter.new_order("a", &again, now).unwrap_err();
        assert_eq!(refusal.retry_after, Duration::from_secs(120_960));
        assert_eq!(limiter.refusals().len(), 2);
    }

    #[test]
    fn failures_are_counted_by_account_and_name() {
        let mut limiter = Limiter::new(Limits::letsencrypt_divided_by(1));
        let now = 1_800_000_000 * SECOND;
        for _ in 0..5 {
            limiter.failed("a", "x.example", now);
        }
        let refusal = limiter.new_order("a", &names(&["x.example"]), now).unwrap_err();
        assert_eq!(refusal.retry_after, Duration::from_secs(720));
        limiter.new_order("b", &names(&["x.example"]), now).unwrap();
    }
}
