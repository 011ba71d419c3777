//! Weeks at the edge of a CA's limits, under a moved clock. What is simulated is time, the sites and the answers' delays: the twin is
//! the product's own, with its scripts in a real Redis, asked by several issuers; the limiter that refuses is another one, which
//! shares nothing with it.

use anyhow::{Context as _, Result};
use harness::{
    ca_limits::{Limiter, Limits, Refusal},
    redis::Redis,
};
use issuer::{
    acme::{Problem, Refusal as Refused, RequestError},
    ca::Ca,
    limits::{Asked, SuffixSource, Ticket, Turn, Twin},
};
use shared::{
    config::Config,
    domain::{Backoff, DnsName, NameSet, OrderClass, PublicSuffixes},
    store::{Claimant, Role, Store},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

#[path = "unused.rs"]
mod unused;
use unused::{Look, Unused};

const S: u64 = 1_000_000;
const HOUR: u64 = 3600 * S;
const DAY: u64 = 24 * HOUR;
/// 2027-01-01, microseconds.
const BEGINNING: u64 = 1_798_761_600 * S;
const ISSUERS: usize = 3;
const ACCOUNT: &str = "default";
const PRIVATE_SUFFIX: &str = "github.io";
/// As the product retries what fails, without its draws.
const RETRY_S: [u64; 4] = [60, 600, 6000, 86_400];
/// A turn that comes within this is waited for by the worker.
const SOON: Duration = Duration::from_secs(2);

/// What happens.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) days: u64,
    /// Sites whose certificates are renewed once in that time.
    pub(crate) renewing: usize,
    /// Sites that come, in bursts.
    pub(crate) new: usize,
    pub(crate) bursts: usize,
    /// Registered domains of the new ones.
    pub(crate) domains: usize,
    /// Of these, so many under one.
    pub(crate) busy: usize,
    /// And so many under a private suffix, each a domain of its own.
    pub(crate) private: usize,
    /// One of so many fails.
    pub(crate) failing: usize,
    /// Times that an operator forces something that fails or waits.
    pub(crate) forced: usize,
    /// All that the twin knows is lost then, hours.
    pub(crate) wiped_at: Option<u64>,
    /// Somebody else has so many certificates a day for the busy domain.
    pub(crate) foreign_per_day: u64,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) new_orders: u64,
    pub(crate) renewals: u64,
    pub(crate) failed: u64,
    pub(crate) asked: u64,
    pub(crate) refusals: Vec<Refusal>,
    /// New orders that were placed while others waited.
    pub(crate) used: u64,
    /// And what the limiter would have allowed beside them to those that waited: what lay there unused at the worst moment of each
    /// time of waiting, and what a full bucket lost.
    pub(crate) unused: u64,
    /// New sites without a certificate at the end, the failing ones aside.
    pub(crate) waiting: usize,
    pub(crate) took: Duration,
}

impl Report {
    pub(crate) fn share(&self) -> f64 {
        self.used as f64 / (self.used + self.unused).max(1) as f64
    }

    /// How often each bucket refused.
    pub(crate) fn refusals_by_bucket(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for refusal in &self.refusals {
            *counts.entry(refusal.bucket.as_str()).or_default() += 1;
        }
        counts
    }
}

#[derive(Debug)]
struct Site {
    names: NameSet,
    text: Vec<String>,
    domain: String,
    kind: Kind,
    fails: bool,
    failures: u32,
    promised: bool,
    is_busy: bool,
    is_done: bool,
    /// It wants an order, and the limits keep it waiting: since then.
    waits: bool,
    /// Looks of an older plan are void.
    turn: u64,
    ticket: Option<Ticket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    New,
    /// Exactly the names of a certificate that ends.
    SameSet,
    /// Within the window that the CA has named.
    Ari,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The site's turn has come, or so it was told; by an operator's wish.
    Look {
        turn: u64,
        forced: bool,
    },
    /// The CA gets the order.
    Arrive,
    /// The CA has looked at the names.
    Judged,
    /// The issuer hears of it.
    Heard,
    /// An operator forces it.
    Forced,
    /// The hour is over.
    Hour,
    Wiped,
    Foreign,
}

struct World<'a> {
    plan: &'a Plan,
    redis: &'a Redis,
    twins: Vec<Twin>,
    limiter: Limiter,
    limits: Limits,
    sites: Vec<Site>,
    events: BinaryHeap<Reverse<(u64, u64, usize, What)>>,
    sequence: u64,
    random: u64,
    now: u64,
    unused: Unused,
    /// New orders that the CA has taken.
    placed: u64,
    report: Report,
}

/// Lives through it.
pub(crate) async fn live(redis: &Redis, plan: &Plan) -> Result<Report> {
    let began = Instant::now();
    let mut world = World::new(redis, plan).await?;
    while let Some(Reverse((at, _, site, what))) = world.events.pop() {
        if at >= BEGINNING + plan.days * DAY {
            break;
        }
        world.now = at;
        world.happen(site, what).await?;
    }
    world.unused.end(world.placed);
    let mut report = world.report;
    (report.used, report.unused) = (world.unused.used, world.unused.unused);
    report.refusals = world.limiter.refusals().to_vec();
    let new = world.sites.iter().filter(|site| site.kind == Kind::New && !site.fails);
    report.waiting = new.filter(|site| !site.is_done).count();
    report.took = began.elapsed();
    Ok(report)
}

impl<'a> World<'a> {
    async fn new(redis: &'a Redis, plan: &'a Plan) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("signpost.toml");
        std::fs::write(&file, format!("[store]\nurl = {:?}\n[ca.letsencrypt]\n", redis.url()))?;
        let config = Config::parse(&std::fs::read_to_string(&file)?, Path::new("signpost.toml"), &[])?;
        let list = Arc::new(PublicSuffixes::shipped());
        let suffixes: SuffixSource = Arc::new(move || Arc::clone(&list));
        let mut twins = Vec::new();
        for _ in 0..ISSUERS {
            let store = Store::open(&config.store, Role::Issuer).await?;
            let ca = Ca::of(&config, None)?;
            twins.push(Twin::new(store, ca, ACCOUNT, Arc::clone(&suffixes), config.issuer.limit_reserve));
        }
        let limits =
            Limits { suffixes: vec![PRIVATE_SUFFIX.to_owned()], ..Limits::letsencrypt_divided_by(1) };
        let mut world = Self {
            plan,
            redis,
            twins,
            limiter: Limiter::new(limits.clone()),
            limits,
            sites: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            random: plan.seed,
            now: BEGINNING,
            unused: Unused::default(),
            placed: 0,
            report: Report::default(),
        };
        world.begin()?;
        Ok(world)
    }

    fn begin(&mut self) -> Result<()> {
        let plan = self.plan;
        let all = plan.days * DAY;
        for number in 0..plan.renewing {
            let domain = format!("old{number}.com");
            let kind = if number % 10 < 3 { Kind::SameSet } else { Kind::Ari };
            let site = self.add(format!("www.{domain}"), domain, kind)?;
            // It has a certificate, which was issued before.
            self.limiter.issued(&self.sites[site].text.clone(), (BEGINNING - 60 * DAY) * 1000);
            let at = BEGINNING + self.below(all);
            self.at(at, site, What::Look { turn: 0, forced: false });
        }
        // The last burst leaves time to be worked off.
        let starts: Vec<u64> = (0..plan.bursts).map(|_| BEGINNING + self.below(all * 3 / 4)).collect();
        for number in 0..plan.new {
            let (name, domain) = match number {
                number if number < plan.busy => (format!("n{number}.busy.com"), "busy.com".to_owned()),
                number if number < plan.busy + plan.private => {
                    (format!("u{number}.{PRIVATE_SUFFIX}"), format!("u{number}.{PRIVATE_SUFFIX}"))
                }
                number => {
                    let domain = format!("shop{}.com", number % plan.domains.max(1));
                    (format!("n{number}.{domain}"), domain)
                }
            };
            let site = self.add(name, domain, Kind::New)?;
            let start = starts[self.below(starts.len() as u64) as usize];
            let at = start + self.below(600 * S);
            self.at(at, site, What::Look { turn: 0, forced: false });
        }
        for _ in 0..plan.forced {
            let (at, site) = (BEGINNING + self.below(all), self.below(self.sites.len() as u64) as usize);
            self.at(at, site, What::Forced);
        }
        for hour in 0..plan.days * 24 {
            self.at(BEGINNING + hour * HOUR, 0, What::Hour);
        }
        if let Some(hours) = plan.wiped_at {
            self.at(BEGINNING + hours * HOUR, 0, What::Wiped);
        }
        for number in 0..plan.foreign_per_day * plan.days {
            self.at(BEGINNING + (number * DAY) / plan.foreign_per_day, 0, What::Foreign);
        }
        Ok(())
    }

    fn add(&mut self, name: String, domain: String, kind: Kind) -> Result<usize> {
        let number = self.sites.len();
        let names = NameSet::one(DnsName::parse(&name)?);
        self.sites.push(Site {
            names,
            text: vec![name],
            domain,
            kind,
            fails: number % self.plan.failing == self.plan.failing - 1,
            failures: 0,
            promised: false,
            is_busy: false,
            is_done: false,
            waits: false,
            turn: 0,
            ticket: None,
        });
        Ok(number)
    }

    /// xorshift
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound.max(1)
    }

    fn at(&mut self, at: u64, site: usize, what: What) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, site, what)));
    }

    fn after(&mut self, least_ms: u64, most_ms: u64, site: usize, what: What) {
        let pause = (least_ms + self.below(most_ms - least_ms)) * 1000;
        self.at(self.now + pause, site, what);
    }

    fn clock(&self) -> Option<i64> {
        i64::try_from(self.now).ok()
    }

    async fn happen(&mut self, site: usize, what: What) -> Result<()> {
        match what {
            What::Look { turn, forced } => {
                let of = &self.sites[site];
                if turn == of.turn && !of.is_busy && !of.is_done {
                    self.look(site, forced).await?;
                }
            }
            What::Forced => {
                let of = &self.sites[site];
                if (of.waits || of.failures > 0) && !of.is_busy && !of.is_done {
                    self.look(site, true).await?;
                }
            }
            What::Arrive => self.arrive(site).await?,
            What::Judged => {
                let now = self.now * 1000;
                if self.sites[site].fails {
                    let name = self.sites[site].text[0].clone();
                    self.limiter.failed(ACCOUNT, &name, now);
                } else {
                    self.limiter.issued(&self.sites[site].text.clone(), now);
                }
                self.after(100, 3000, site, What::Heard);
            }
            What::Heard => self.heard(site).await,
            What::Hour => self.count_hour(),
            What::Wiped => {
                let keys: Vec<String> =
                    redis::from_redis_value(self.redis.command(&["KEYS", "sp:{ca:*"]).await?)?;
                for key in keys {
                    self.redis.command(&["DEL", &key]).await?;
                }
            }
            What::Foreign => self.limiter.spend_elsewhere("busy.com", 1, self.now * 1000),
        }
        Ok(())
    }

    async fn look(&mut self, site: usize, forced: bool) -> Result<()> {
        let at = self.clock();
        let of = &mut self.sites[site];
        of.turn += 1;
        let same_set = of.kind != Kind::New;
        let asked = Asked {
            order: format!("s{site}/ecdsa"),
            names: &of.names,
            replaces: None,
            class: match of.kind {
                Kind::New => OrderClass::New,
                Kind::SameSet => OrderClass::SameSet,
                Kind::Ari => OrderClass::Ari,
            },
            same_set,
            claimant: match of.kind {
                _ if forced => Claimant::Operator,
                Kind::New => Claimant::New,
                Kind::SameSet | Kind::Ari => Claimant::Renewal,
            },
            by_hand: false,
            promised: of.promised && !forced,
        };
        self.report.asked += 1;
        match self.twins[site % ISSUERS].ask(&asked, at).await? {
            Turn::Now(ticket) => {
                (of.is_busy, of.waits, of.promised) = (true, false, false);
                of.ticket = Some(ticket);
                self.after(20, 1500, site, What::Arrive);
            }
            Turn::Later(later) => {
                (of.waits, of.promised) = (true, true);
                let turn = of.turn;
                let wait = later.wait.max(Duration::from_millis(5)).as_micros() as u64;
                // What is not waited for by the worker is claimed within a second of its turn.
                let late = if later.wait <= SOON { 0 } else { self.below(S) };
                self.at(self.now + wait + late, site, What::Look { turn, forced });
            }
        }
        Ok(())
    }

    async fn arrive(&mut self, site: usize) -> Result<()> {
        let of = &self.sites[site];
        let outcome = if of.kind == Kind::Ari {
            self.limiter.new_replacement();
            Ok(())
        } else {
            self.limiter.new_order(ACCOUNT, &of.text, self.now * 1000)
        };
        // The answer is on its way as long as the order was.
        let heard = i64::try_from(self.now + 20_000 + self.below(S)).ok();
        let of = &mut self.sites[site];
        let twin = &self.twins[site % ISSUERS];
        let ticket = of.ticket.as_ref().context("an order has its ticket")?;
        match outcome {
            Ok(()) => {
                ticket.placed(twin, 1, heard).await;
                if of.kind == Kind::New {
                    self.report.new_orders += 1;
                    self.placed += 1;
                } else {
                    self.report.renewals += 1;
                }
                self.after(2000, 20_000, site, What::Judged);
            }
            Err(refusal) => {
                ticket.refused(twin, &told(&refusal), 1, heard).await;
                (of.is_busy, of.waits, of.promised, of.ticket) = (false, true, true, None);
                let turn = of.turn;
                let wait = refusal.retry_after.as_micros() as u64 + 2 * S;
                self.at(self.now + wait, site, What::Look { turn, forced: false });
            }
        }
        Ok(())
    }

    async fn heard(&mut self, site: usize) {
        let at = self.clock();
        let of = &mut self.sites[site];
        of.is_busy = false;
        let Some(ticket) = of.ticket.take() else { return };
        let twin = &self.twins[site % ISSUERS];
        if of.fails {
            of.failures += 1;
            self.report.failed += 1;
            ticket.failed(twin, of.names.as_slice(), at).await;
            let [early @ .., repeating] = RETRY_S.map(Duration::from_secs);
            let pause = Backoff::new(early, repeating).pause(of.failures, 0.5).as_micros() as u64;
            let turn = of.turn;
            self.at(self.now + pause, site, What::Look { turn, forced: false });
        } else {
            of.is_done = true;
            ticket.issued(twin, at).await;
        }
    }

    /// What the limiter would allow now of what waits.
    fn count_hour(&mut self) {
        let mut by_domain: BTreeMap<&str, u64> = BTreeMap::new();
        for site in self.sites.iter().filter(|site| site.waits && site.kind == Kind::New && !site.is_busy) {
            *by_domain.entry(&site.domain).or_default() += 1;
        }
        if by_domain.is_empty() {
            self.unused.end(self.placed);
            return;
        }
        let now = self.now * 1000;
        let of_domains: u64 = by_domain
            .into_iter()
            .map(|(domain, waiting)| {
                let tat = self.limiter.tat(&format!("domain/{domain}"));
                self.limits.certificates_per_domain.possible(tat, now, now).min(waiting)
            })
            .sum();
        let bucket = self.limits.orders_per_account;
        let held = bucket.possible(self.limiter.tat(&format!("orders/{ACCOUNT}")), now, now);
        let came = bucket.possible(now, now, now + HOUR * 1000) - u64::from(bucket.burst);
        self.unused.look(Look { of_domains, held, came, placed: self.placed });
    }
}

/// As the CA's client would have read it.
fn told(refusal: &Refusal) -> RequestError {
    RequestError::Problem(Box::new(Refused {
        status: 429,
        problem: Problem {
            type_urn: Some("urn:ietf:params:acme:error:rateLimited".to_owned()),
            detail: Some(refusal.detail.clone()),
            ..Problem::default()
        },
        // Whole seconds, as in the header.
        retry_after: Some(Duration::from_secs(refusal.retry_after.as_secs() + 1)),
        help: None,
        terms_of_service: None,
        location: None,
    }))
}
