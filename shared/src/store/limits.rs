//! The twin of a CA's limiter: what is left in each of its buckets, for all issuers of the fleet together.
//!
//! An order asks once for all its buckets ([`Store::ask_limits`]); what became of it settles what it was given
//! ([`Store::settle_limits`]). What is never settled, because its issuer was killed, expires by itself, as spent. Writes are not
//! confirmed by replicas: what a failover loses makes the twin too hopeful, the CA's refusal corrects it.

use super::{Listing, Store, StoreError, keys, scripts};
use crate::domain::Rate;
use jiff::Timestamp;
use redis::cmd;
use std::time::Duration;

/// A CA that asks for a longer pause than a day is not taken at its word.
const MOST_WAIT_US: i64 = 86_400 * 1_000_000;

/// Whose order it is: each has a share of a bucket that the others leave to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant {
    /// Somebody asked, and may be waiting.
    Operator,
    Renewal,
    /// One of many new ones.
    New,
}

/// What an order does to a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketUse {
    /// Spent when the order is placed.
    Spend,
    /// Looked at when the order is placed, and spent later: until then it is held.
    Hold,
    /// Only looked at.
    Look,
}

/// A bucket, and what an order wants of it.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketWish {
    pub bucket: String,
    pub rate: Rate,
    pub usage: BucketUse,
    pub cost: u32,
    /// What it leaves in the bucket, for others.
    pub left: u32,
}

/// What one order asks.
#[derive(Clone, Debug)]
pub struct LimitWish<'a> {
    /// The same for every ask of one order.
    pub order: &'a str,
    pub claimant: Claimant,
    /// It comes at the turn that it was given before.
    pub promised: bool,
    pub buckets: &'a [BucketWish],
    /// How long the CA may take to answer.
    pub asking: Duration,
    /// How long the order may live.
    pub open: Duration,
    /// From 0.0 to 1.0: those who wait for the same bucket don't all come at once.
    pub draw: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LimitAnswer {
    /// All is spent or held.
    Go(Spending),
    /// Nothing was touched.
    Wait {
        /// When to come again.
        turn: Timestamp,
        bucket: String,
        /// How long until then, by the store's clock.
        wait: Duration,
    },
}

/// What an order was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spending {
    asking_ends_us: i64,
    /// By bucket: which of its spendings it was.
    numbers: Vec<(String, i64)>,
}

/// What became of an order, for one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The CA has answered. What was spent was spent by now.
    Answered,
    /// The CA made no order: it has given back what it took.
    Refunded,
    /// So many more requests were sent that may have counted.
    Again(u32),
    /// Nothing will be spent any more.
    Released,
    /// The certificate was issued. `always`: it counts although nothing was held.
    Issued { always: bool },
    /// So many failed.
    Failed(u32),
    /// A success makes it full again.
    Reset,
    /// The CA has refused, and allows the next one after this long.
    Limited(Duration),
}

/// A bucket as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketState {
    pub bucket: String,
    /// Microseconds since 1970.
    pub tat_us: i64,
    /// Orders that may still spend from it: the CA counts their certificates when it issues them.
    pub open: u64,
    /// The last turns that were promised, to new orders and to renewals, as far as they are still to come.
    pub promised_us: [Option<i64>; 2],
    /// Until when somebody else may be spending from it.
    pub shared_until_us: Option<i64>,
}

impl Claimant {
    const fn letter(self) -> &'static str {
        match self {
            Self::Operator => "o",
            Self::Renewal => "r",
            Self::New => "n",
        }
    }
}

impl Store {
    /// Asks for all buckets of an order, at one moment. `at_us` moves the clock, for simulations.
    ///
    /// # Errors
    /// [`StoreError`]; what was given without an answer counts as spent.
    pub async fn ask_limits(
        &self,
        ca: &str,
        wish: &LimitWish<'_>,
        at_us: Option<i64>,
    ) -> Result<LimitAnswer, StoreError> {
        let mut arguments = vec![
            clock(at_us),
            wish.order.to_owned(),
            wish.claimant.letter().to_owned(),
            u8::from(wish.promised).to_string(),
            wish.asking.as_micros().to_string(),
            wish.open.as_micros().to_string(),
        ];
        for bucket in wish.buckets {
            let mode = match bucket.usage {
                BucketUse::Spend => "s",
                BucketUse::Hold => "h",
                BucketUse::Look => "l",
            };
            arguments.extend([
                bucket.bucket.clone(),
                bucket.rate.interval_us().to_string(),
                bucket.rate.burst.to_string(),
                mode.to_owned(),
                bucket.cost.to_string(),
                bucket.left.to_string(),
                wish.draw.to_string(),
            ]);
        }
        let buckets = wish.buckets.iter().map(|wish| wish.bucket.as_str());
        let touched = touched(ca, buckets);
        let answer: Vec<String> = self.limits_script(&scripts::ASK_LIMITS, touched, &arguments).await?;
        parse_answer(&answer, wish.buckets, at_us.is_some())
            .ok_or_else(|| StoreError::corrupt(keys::limits(ca), answer.join(" ")))
    }

    /// Says what became of an order, bucket by bucket: `spending` is what it was given.
    ///
    /// # Errors
    /// [`StoreError`]; what is not settled counts as held until it expires.
    pub async fn settle_limits(
        &self,
        ca: &str,
        order: &str,
        spending: Option<&Spending>,
        settled: &[(BucketWish, Settled)],
        at_us: Option<i64>,
    ) -> Result<(), StoreError> {
        if settled.is_empty() {
            return Ok(());
        }
        let asking_ends = spending.map_or(0, |spending| spending.asking_ends_us);
        let mut arguments = vec![clock(at_us), order.to_owned(), asking_ends.to_string()];
        for (bucket, what) in settled {
            let spent = spending.and_then(|spending| {
                spending.numbers.iter().find(|(name, _)| *name == bucket.bucket).map(|(_, number)| *number)
            });
            let number = spent.unwrap_or(0);
            let (letter, value) = match what {
                Settled::Answered if bucket.usage == BucketUse::Spend => ("a", number),
                Settled::Answered => ("a", 0),
                Settled::Refunded => ("u", 0),
                Settled::Again(count) => ("x", i64::from(*count)),
                Settled::Released => ("h", 0),
                Settled::Issued { always: false } => ("i", 0),
                Settled::Issued { always: true } => ("j", 0),
                Settled::Failed(count) => ("f", i64::from(*count)),
                Settled::Reset => ("r", 0),
                Settled::Limited(wait) => ("l", i64::try_from(wait.as_micros()).unwrap_or(MOST_WAIT_US)),
            };
            arguments.extend([
                bucket.bucket.clone(),
                bucket.rate.interval_us().to_string(),
                bucket.rate.burst.to_string(),
                letter.to_owned(),
                value.to_string(),
            ]);
        }
        let touched = touched(ca, settled.iter().map(|(wish, _)| wish.bucket.as_str()));
        let _: i64 = self.limits_script(&scripts::SETTLE_LIMITS, touched, &arguments).await?;
        Ok(())
    }

    /// Takes a request's place in the queue for an endpoint, and answers how long to wait before it is sent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pace_request(&self, ca: &str, bucket: &str, rate: Rate) -> Result<Duration, StoreError> {
        let arguments =
            [String::new(), bucket.to_owned(), rate.interval_us().to_string(), rate.burst.to_string()];
        let touched = vec![keys::limits(ca), keys::limit_requests(ca, bucket)];
        let wait: String = self.limits_script(&scripts::PACE_REQUEST, touched, &arguments).await?;
        Ok(Duration::from_micros(wait.parse().unwrap_or(0)))
    }

    /// The buckets that are half empty or that somebody waits for, emptiest last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_tight_buckets(&self, ca: &str) -> Result<Listing<BucketState>, StoreError> {
        let now = Timestamp::now().as_microsecond();
        let mut range = cmd("ZRANGEBYSCORE");
        range.arg(keys::limits(ca)).arg(format!("({now}")).arg("+inf");
        let names = self.read_members(&range).await?;
        // Those that are full again. A store that takes no writes can be looked at all the same.
        let mut full = cmd("ZREMRANGEBYSCORE");
        let _: Result<i64, StoreError> =
            self.link.query(full.arg(keys::limits(ca)).arg("-inf").arg(now)).await;
        let mut states = self.load_buckets(ca, &names.found).await?;
        states.damaged.extend(names.damaged);
        Ok(states)
    }

    /// These buckets as they are; one that nobody has spent from is full.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_buckets(&self, ca: &str, names: &[String]) -> Result<Listing<BucketState>, StoreError> {
        let now = Timestamp::now().as_microsecond();
        let (mut fields, mut open) = (Vec::new(), Vec::new());
        for name in names {
            let key = keys::limit_bucket(ca, name);
            fields.push(cmd("HMGET").arg(key).arg(&["t", "q:n", "q:r", "c"]).clone());
            open.push(cmd("ZCOUNT").arg(keys::limit_open(ca, name)).arg(now).arg("+inf").clone());
        }
        let fields = self.read_each::<[Option<f64>; 4]>(&fields).await?;
        let open = self.read_each::<u64>(&open).await?;
        let mut states = Listing::default();
        for ((name, fields), open) in names.iter().zip(fields).zip(open) {
            let state = fields.and_then(|fields| {
                let [tat, new, renewal, shared] =
                    fields.map(|time| time.map(|time| time as i64).filter(|time| *time > now));
                Ok(BucketState {
                    bucket: name.clone(),
                    tat_us: tat.unwrap_or(0),
                    open: open?,
                    promised_us: [new, renewal],
                    shared_until_us: shared,
                })
            });
            let key = match &state {
                Err(StoreError::Corrupt { key, .. }) => key.clone(),
                _ => keys::limit_bucket(ca, name),
            };
            states.add(&key, state)?;
        }
        Ok(states)
    }

    /// Since when the buckets of a CA are counted; `None` before the first order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn limits_since(&self, ca: &str) -> Result<Option<Timestamp>, StoreError> {
        let since: Option<i64> = self.link.query(cmd("GET").arg(keys::limits_since(ca))).await?;
        Ok(since.and_then(|since| Timestamp::from_microsecond(since).ok()))
    }

    /// Forgets all that is known of a CA's buckets: as if the fleet began now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_limits_anew(&self, ca: &str) -> Result<(), StoreError> {
        let _: i64 = self.link.query(cmd("DEL").arg(keys::limits_since(ca))).await?;
        Ok(())
    }

    async fn limits_script<T: redis::FromRedisValue>(
        &self,
        script: &scripts::Script,
        touched: Vec<String>,
        arguments: &[String],
    ) -> Result<T, StoreError> {
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        self.whole_script(script, touched, &arguments).await
    }
}

/// All that a script of the twin touches.
fn touched<'a>(ca: &str, buckets: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut touched = vec![keys::limits(ca), keys::limits_since(ca)];
    let distinct: std::collections::BTreeSet<&str> = buckets.collect();
    for bucket in distinct {
        touched.extend([
            keys::limit_bucket(ca, bucket),
            keys::limit_asking(ca, bucket),
            keys::limit_open(ca, bucket),
        ]);
    }
    touched
}

fn clock(at_us: Option<i64>) -> String {
    at_us.map(|at| at.to_string()).unwrap_or_default()
}

/// The turn is by the clock of whoever asks, whatever the store's says.
fn parse_answer(answer: &[String], buckets: &[BucketWish], is_simulated: bool) -> Option<LimitAnswer> {
    let (now, words) = answer.split_last()?;
    let now: i64 = now.parse().ok()?;
    match words {
        [go, ends, numbers @ ..] if go == "1" => {
            let named = buckets.iter().zip(numbers);
            let numbers = named
                .map(|(wish, number)| Some((wish.bucket.clone(), number.parse().ok()?)))
                .collect::<Option<Vec<_>>>()?;
            Some(LimitAnswer::Go(Spending { asking_ends_us: ends.parse().ok()?, numbers }))
        }
        [wait, turn, bucket, _] if wait == "0" => {
            let turn_us: i64 = turn.parse().ok()?;
            let wait_us = u64::try_from(turn_us.saturating_sub(now)).unwrap_or(0);
            Some(LimitAnswer::Wait {
                turn: match is_simulated {
                    true => Timestamp::from_microsecond(turn_us).ok()?,
                    false => Timestamp::now().saturating_add(Duration::from_micros(wait_us)).ok()?,
                },
                bucket: bucket.clone(),
                wait: Duration::from_micros(wait_us),
            })
        }
        _ => None,
    }
}
