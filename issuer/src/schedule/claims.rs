//! Taking what is due, each kind of work within its share.

use super::Node;
use jiff::Timestamp;
use shared::{
    domain::{BrakeScope, Braked, Class, Event, EventKind, Partition, SiteId, leftovers, quotas},
    store::{Claim, Claimed, Store, StoreError, StoredSite},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long new work may go unnoticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);
/// How long a partition in which nothing was to be had is left alone while there is work elsewhere.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// With fewer partitions that nothing is known of, each is asked what it has.
const WORTH_ASKING_FOR: usize = 4;
/// How long the store is left alone after an error.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What is known of a partition since it was looked at last.
#[derive(Clone, Debug)]
struct Outlook {
    looked_at: Instant,
    /// When more becomes due.
    next: Option<Instant>,
    /// Classes of which more is ready.
    left: Vec<Class>,
}

/// Where the next sweep begins, and what is known of all partitions.
struct Round {
    partition: usize,
    outlooks: Vec<Option<Outlook>>,
}

/// What one sweep over the partitions found.
#[derive(Default)]
struct Sweep {
    taken: Vec<Claimed>,
    /// Until more is due anywhere.
    next: Option<Duration>,
    /// A class was given all that it may have: there may be more of it.
    more: bool,
}

impl Node {
    /// Works on what is due until `stop`, then finishes what it has begun, for as long as the configuration says. What is
    /// unfinished then is gone on with by another node, or by the next start.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let slots = self.config.issuer.slots;
        let mut running: JoinSet<Class> = JoinSet::new();
        let mut of_class = [0; 6];
        let mut round = Round::begin();
        let mut store_lost = None;
        while !stop.is_cancelled() {
            *self.swept.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = std::time::Instant::now();
            let sweep = self.sweep(slots, of_class, &mut round).await;
            let pause = match sweep {
                Ok(sweep) => {
                    if let Some((since, is_told)) = store_lost.take() {
                        self.told_that_the_store_is_back(since, is_told).await;
                    }
                    let mut known = self.load_taken(&sweep.taken).await;
                    for claimed in sweep.taken {
                        let stored = known.remove(&claimed.lease.site);
                        of_class[place(claimed.class)] += 1;
                        let node = Arc::clone(&self);
                        running.spawn(async move {
                            let class = claimed.class;
                            node.counters.begin(class);
                            node.work(claimed, stored).await;
                            node.counters.end(class);
                            class
                        });
                    }
                    let next = sweep.next.unwrap_or(LONGEST_SLEEP).clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
                    if sweep.more { SHORTEST_SLEEP } else { next }
                }
                Err(error) => {
                    round = Round::begin();
                    if store_lost.is_none() {
                        tracing::error!(
                            error = shared::error::chain(&error),
                            "the store does not answer: nothing is ordered until it does"
                        );
                        // Where a part of it answers still; else it is told once it is back.
                        let since = Timestamp::now();
                        let is_told = self.store.append_event(&lost(since, since)).await.is_ok();
                        store_lost = Some((since, is_told));
                    }
                    STORE_PAUSE
                }
            };
            // A worker that is done makes room at once; with all of them busy there is little to look for before.
            let pause = if running.len() >= slots { LONGEST_SLEEP } else { pause };
            let wake = Instant::now() + pause;
            tokio::select! {
                Some(ended) = running.join_next() => settle(ended, &mut of_class),
                () = tokio::time::sleep_until(wake) => {}
                () = stop.cancelled() => {}
            }
            while let Some(ended) = running.try_join_next() {
                settle(ended, &mut of_class);
            }
        }
        self.drain(running).await;
    }

    async fn sweep(
        &self,
        slots: usize,
        of_class: [usize; 6],
        round: &mut Round,
    ) -> Result<Sweep, StoreError> {
        let mut sweep = Sweep::default();
        let brakes = self.brakes().await?;
        if brakes.iter().any(|brake| brake.what == Braked::Issuance && brake.scope == BrakeScope::All) {
            return Ok(sweep);
        }
        if let Some(embedded) = self.store.embedded()
            && let Err(error) = embedded.check_free_space()
        {
            return Err(error.into());
        }
        let (attempt, began) = (self.owner.attempt(), Instant::now());
        let mut running = of_class;
        let (mut answered, mut refused) = (self.look_for_quiet(round).await?, None);
        // First each class within its share, then what is left to whoever has work.
        for quota in [quotas, leftovers] {
            for _ in Partition::all() {
                let (most, free) = (quota(slots, running), slots.saturating_sub(running.iter().sum()));
                if free == 0 || most.iter().sum::<usize>() == 0 {
                    sweep.more = true;
                    break;
                }
                let Some(here) = round.turn() else { break };
                if !round.promises(here, most) {
                    continue;
                }
                let length = self.config.issuer.lease_length();
                let claim = match self.store.claim(here, &attempt, length, most, free).await {
                    Ok(claim) => claim,
                    // What is wrong with one partition stops no other.
                    Err(error) if error.is_of_its_keys() => {
                        self.partition_in_trouble(here, &error).await;
                        round.learn(here, &Claim::default());
                        refused = Some(error);
                        continue;
                    }
                    // What was taken already is worked on; the store's error is met again by the next sweep.
                    Err(_) if !sweep.taken.is_empty() => return Ok(sweep),
                    Err(error) => return Err(error),
                };
                answered = true;
                self.partition_is_well(here).await;
                for id in &claim.damaged {
                    let key = Store::key_of_group(here, id);
                    self.note_damaged(&key, None, "its record is none of a site").await;
                }
                for class in &claim.taken {
                    running[place(class.class)] += 1;
                }
                round.learn(here, &claim);
                sweep.taken.extend(claim.taken);
                // Where the store is slow, what was taken must not lose its lease before it is worked on.
                if !sweep.taken.is_empty() && began.elapsed() > length / 4 {
                    sweep.more = true;
                    return Ok(sweep);
                }
            }
        }
        // Where no partition can be worked on, it is the store.
        if let Some(error) = refused.filter(|_| !answered && round.knows_all()) {
            return Err(error);
        }
        sweep.more |= round.has_left(within(leftovers(slots, running), slots));
        sweep.next = round.next();
        Ok(sweep)
    }

    /// Learns of all partitions at once in which of them there is nothing to be taken: where the store is far away, asking one after
    /// the other would take as many times as long. Whether there was any such.
    async fn look_for_quiet(&self, round: &mut Round) -> Result<bool, StoreError> {
        let open: Vec<Partition> = Partition::all().filter(|partition| round.is_open(*partition)).collect();
        if open.len() < WORTH_ASKING_FOR {
            return Ok(false);
        }
        let quiet = self.store.list_quiet(&open).await?;
        for (partition, next) in &quiet {
            round.learn(*partition, &Claim { next: *next, ..Claim::default() });
            self.partition_is_well(*partition).await;
        }
        Ok(!quiet.is_empty())
    }

    /// All of them with one question. What isn't answered is asked for by each worker.
    async fn load_taken(&self, taken: &[Claimed]) -> HashMap<SiteId, StoredSite> {
        let ids: Vec<SiteId> = taken.iter().map(|claimed| claimed.lease.site.clone()).collect();
        let stored = self.store.load_sites(&ids).await.unwrap_or_default().sites;
        stored.into_iter().map(|stored| (stored.id.clone(), stored)).collect()
    }

    async fn drain(&self, mut running: JoinSet<Class>) {
        let unfinished = running.len();
        if unfinished > 0 {
            tracing::info!(unfinished, "told to end: what was begun is finished");
        }
        let all_done = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.config.issuer.drain(), all_done).await.is_err() {
            tracing::warn!(
                "some orders take longer than issuer.drain_seconds: another node goes on with them"
            );
        }
        running.shutdown().await;
        let event = Event::new(EventKind::Drained, Timestamp::now(), "an issuer has ended as it was told to");
        self.tell(event.with("finished", unfinished)).await;
    }

    async fn told_that_the_store_is_back(&self, since: Timestamp, is_told: bool) {
        tracing::info!("the store answers again");
        let now = Timestamp::now();
        if !is_told {
            self.tell(lost(since, now)).await;
        }
        let what =
            format!("the store did not answer from {since} to {now}: nothing was ordered in that time");
        self.tell(Event::new(EventKind::StoreBack, now, what).with("since", since.to_string())).await;
    }

    /// An event that belongs to no site. One that can't be told is logged.
    pub(super) async fn tell(&self, event: Event) {
        if let Err(error) = self.store.append_event(&event).await {
            tracing::warn!(
                error = shared::error::chain(&error),
                event = event.what,
                "an event could not be stored"
            );
        }
    }
}

fn lost(since: Timestamp, told: Timestamp) -> Event {
    let what = format!("the store does not answer since {since}: nothing is ordered until it does");
    Event::new(EventKind::StoreLost, told, what)
        .remedy("look at the store and at the way to it: `issuer store status`")
        .with("since", since.to_string())
}

impl Round {
    /// Nodes begin at different places, and don't run into each other.
    fn begin() -> Self {
        let partition = (crate::issuance::draw() * f64::from(shared::domain::PARTITIONS - 1)) as usize;
        Self { partition, outlooks: vec![None; usize::from(shared::domain::PARTITIONS)] }
    }

    /// The partition whose turn it is.
    fn turn(&mut self) -> Option<Partition> {
        let here = Partition::all().nth(self.partition);
        self.partition = (self.partition + 1) % usize::from(shared::domain::PARTITIONS);
        here
    }

    /// Whether it is not known that there is nothing in it, or that there is something.
    fn is_open(&self, partition: Partition) -> bool {
        let Some(outlook) = &self.outlooks[partition.number()] else { return true };
        let now = Instant::now();
        outlook.left.is_empty()
            && (outlook.next.is_some_and(|next| next <= now)
                || now.duration_since(outlook.looked_at) >= LOOK_AGAIN)
    }

    /// Whether there may be something in it of which there is room for more.
    fn promises(&self, partition: Partition, most: [usize; 6]) -> bool {
        let Some(outlook) = &self.outlooks[partition.number()] else { return true };
        let now = Instant::now();
        outlook.left.iter().any(|class| most[place(*class)] > 0)
            || outlook.next.is_some_and(|next| next <= now)
            || now.duration_since(outlook.looked_at) >= LOOK_AGAIN
    }

    fn learn(&mut self, partition: Partition, claim: &Claim) {
        let looked_at = Instant::now();
        let next = claim.next.map(|next| looked_at + next);
        self.outlooks[partition.number()] = Some(Outlook { looked_at, next, left: claim.left.clone() });
    }

    /// Whether more is ready of which there is room for more.
    fn has_left(&self, most: [usize; 6]) -> bool {
        let mut left = self.outlooks.iter().flatten().flat_map(|outlook| &outlook.left);
        left.any(|class| most[place(*class)] > 0)
    }

    /// Whether every partition was looked at.
    fn knows_all(&self) -> bool {
        self.outlooks.iter().all(Option::is_some)
    }

    /// How long until more is due.
    fn next(&self) -> Option<Duration> {
        let next = self.outlooks.iter().flatten().filter_map(|outlook| outlook.next).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }
}

/// No more in all than is free.
fn within(mut most: [usize; 6], mut free: usize) -> [usize; 6] {
    for most in &mut most {
        *most = (*most).min(free);
        free -= *most;
    }
    most
}

fn place(class: Class) -> usize {
    Class::ALL.into_iter().position(|known| known == class).expect("every class is among all of them")
}

fn settle(ended: Result<Class, tokio::task::JoinError>, of_class: &mut [usize; 6]) {
    match ended {
        Ok(class) => of_class[place(class)] = of_class[place(class)].saturating_sub(1),
        // Its lease ends by itself. Which class it was isn't known: the largest is the likeliest.
        Err(error) => {
            tracing::error!(%error, "a worker panicked; its site is looked at again when the lease ends");
            if let Some(largest) = of_class.iter_mut().max() {
                *largest = largest.saturating_sub(1);
            }
        }
    }
}
