//! Requests of the whole fleet that leave from one address: no faster than the CA takes them, and none while it wants a pause.

use crate::{
    acme::{Moment, Pacer, Turn},
    ca::Ca,
};
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{Event, EventKind, Rate},
    store::{PauseTurn, Store, StoreError},
};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long it is taken for sure that the CA wants no pause, where others may have heard of one.
const SURE_FOR: Duration = Duration::from_secs(1);
/// The operator is told of a pause that is not shorter.
const TOLD_FROM: Duration = Duration::from_secs(600);

/// The queues and the pauses in the store.
#[derive(Debug)]
pub(crate) struct FleetPacer {
    store: Store,
    ca: String,
    title: String,
    /// The address that the requests come from, as the CA sees it.
    from: String,
    rates: BTreeMap<String, Rate>,
    /// When it was last found that the CA wants no pause at all.
    unpaused: Mutex<Option<Instant>>,
}

impl FleetPacer {
    pub(crate) fn of(store: &Store, ca: &Ca) -> Arc<dyn Pacer> {
        let rates = ca.limits.requests.iter().map(|(endpoint, rate)| (endpoint.clone(), rate.rate()));
        Arc::new(Self {
            store: store.clone(),
            ca: ca.name.clone(),
            title: ca.title.clone(),
            from: ca.egress.clone(),
            rates: rates.collect(),
            unpaused: Mutex::default(),
        })
    }

    fn place(&self, endpoint: &str) -> String {
        format!("{endpoint}:{}", self.from)
    }

    async fn pause_at(&self, endpoint: &str, by_hand: bool) -> Result<PauseTurn, StoreError> {
        if by_hand || !self.rates.contains_key(endpoint) {
            return Ok(PauseTurn::Go);
        }
        let known = *self.unpaused.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some_and(|at| at.elapsed() < SURE_FOR) {
            return Ok(PauseTurn::Go);
        }
        if self.store.has_pauses(&self.ca).await? {
            return self.store.ask_pause(&self.ca, &self.place(endpoint)).await;
        }
        self.knows(Some(Instant::now()));
        Ok(PauseTurn::Go)
    }

    fn knows(&self, unpaused: Option<Instant>) {
        *self.unpaused.lock().unwrap_or_else(PoisonError::into_inner) = unpaused;
    }

    async fn pace(&self, endpoint: &str) -> Duration {
        let Some(rate) = self.rates.get(endpoint) else { return Duration::ZERO };
        let turn = self.store.pace_request(&self.ca, &self.place(endpoint), *rate).await;
        turn.unwrap_or_else(|error| {
            // Nobody knows what the others send: one goes at the pace of all.
            tracing::debug!(error = shared::error::chain(&error), endpoint, "its turn is not known");
            Duration::from_micros(rate.interval_us().unsigned_abs())
        })
    }

    async fn begin(&self, endpoint: &str, pause: Duration) -> Result<(), StoreError> {
        self.knows(None);
        let is_new = self.store.begin_pause(&self.ca, &self.place(endpoint), pause).await?;
        if !is_new || pause < TOLD_FROM {
            return Ok(());
        }
        let now = Timestamp::now();
        let length = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        let until = now.saturating_add(length).unwrap_or(Timestamp::MAX);
        let what = format!(
            "{} wants no requests of the kind {endpoint:?} until {}: one an hour finds out whether it takes them sooner",
            self.title,
            until.strftime("%F %T UTC")
        );
        let remedy = format!("wait; `issuer limits` shows it, `issuer retry --ca {}` asks at once", self.ca);
        let event = Event::new(EventKind::CaTrouble, now, what).ca(&self.ca).remedy(remedy);
        self.store.append_event(&event.with("until", until.to_string())).await?;
        Ok(())
    }

    async fn end(&self, endpoint: &str) -> Result<(), StoreError> {
        if self.store.end_pause(&self.ca, &self.place(endpoint)).await? {
            let what = format!("{} takes requests of the kind {endpoint:?} again", self.title);
            let event = Event::new(EventKind::CaRecovered, Timestamp::now(), what).ca(&self.ca);
            self.store.append_event(&event).await?;
        }
        Ok(())
    }
}

impl Pacer for FleetPacer {
    fn turn<'a>(
        &'a self,
        endpoint: &'static str,
        by_hand: bool,
    ) -> Pin<Box<dyn Future<Output = Turn> + Send + 'a>> {
        Box::pin(async move {
            let pause = self.pause_at(endpoint, by_hand).await.unwrap_or_else(|error| {
                tracing::debug!(error = shared::error::chain(&error), endpoint, "its pauses are not known");
                PauseTurn::Go
            });
            match pause {
                PauseTurn::Wait(wait) => Turn { wait, is_paused: true, tries: false },
                pause => {
                    let wait = self.pace(endpoint).await;
                    Turn { wait, is_paused: false, tries: pause == PauseTurn::Try }
                }
            }
        })
    }

    fn pause<'a>(
        &'a self,
        endpoint: &'static str,
        pause: Duration,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            // Of a CA that is not known to count requests, who was refused waits alone.
            if !self.rates.contains_key(endpoint) {
                return;
            }
            tracing::warn!(ca = self.ca, endpoint, pause_s = pause.as_secs(), "the CA wants a pause");
            if let Err(error) = self.begin(endpoint, pause).await {
                tracing::warn!(error = shared::error::chain(&error), endpoint, "others do not know of it");
            }
        })
    }

    fn resume<'a>(&'a self, endpoint: &'static str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if let Err(error) = self.end(endpoint).await {
                tracing::warn!(
                    error = shared::error::chain(&error),
                    endpoint,
                    "others do not know that it is over"
                );
            }
        })
    }

    fn disbelieve<'a>(
        &'a self,
        kind: Moment,
        said: &'a str,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tell_of_moment(&self.store, &self.ca, &self.title, kind, said))
    }
}

/// Tells, once a day, that a CA has named a moment that is not believed.
pub(crate) async fn tell_of_moment(store: &Store, ca: &str, title: &str, kind: Moment, said: &str) {
    let said: String = said.chars().take(100).collect();
    tracing::warn!(ca, kind = kind.as_str(), said, "the CA names a moment that is not believed");
    let told = async {
        if store.is_news_of_ca(ca, kind.as_str()).await? {
            let bounds = kind.bounds();
            let what = format!(
                "{title} says {:?} for {}: it is not believed ({}), and the nearest moment that is takes its place",
                said,
                kind.as_str(),
                bounds.reason
            );
            let event = Event::new(EventKind::CaTrouble, Timestamp::now(), what).ca(ca);
            let event = event.remedy("nothing: orders go on; tell the CA if it repeats");
            store.append_event(&event.with("said", said)).await?;
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = told.await {
        tracing::debug!(error = shared::error::chain(&error), ca, "the operator could not be told");
    }
}
