//! The task that looks at what is served and tells the centre, beside the one that waits for changes.

use super::{
    handshake::{Shown, shown},
    watch::{Target, Watch, Wrong},
};
use crate::{
    client::{Client, ClientError, FetchError},
    config::AgentConfig,
    disk::Directory,
    status::Status,
    wire::ItemId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::{
    domain::{FrontendReport, ServedItem, for_people},
    error::chain,
};
use std::{
    collections::BTreeMap,
    fs, io, mem,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};

/// Handshakes at once, and between two such batches.
const BATCH: usize = 16;
const PAUSE: Duration = Duration::from_millis(50);
/// What comes in a rush is told together.
const GATHER: Duration = Duration::from_millis(300);
/// Items in one report.
const MOST_SERVED: usize = 200;
/// How often the centre is told that all is as it was, and how soon again after an error.
const REPORT_EVERY: Duration = Duration::from_secs(600);
const REPORT_AGAIN: Duration = Duration::from_secs(15);
const FILE: &str = "served.json";

/// What came of a pass.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Up to where it went; `None`: nowhere.
    pub(crate) cursor: Option<String>,
    /// Items in service.
    pub(crate) items: usize,
    pub(crate) published: Vec<Target>,
    pub(crate) gone: Vec<ItemId>,
    /// Whether the centre has to hear of it.
    pub(crate) is_news: bool,
}

/// What was last seen, for `frontend-agent status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServedState {
    pub(crate) at: Timestamp,
    pub(crate) address: SocketAddr,
    /// Whether somebody speaks TLS there.
    pub(crate) listens: bool,
    /// Items that were seen to be served, of how many.
    pub(crate) confirmed: usize,
    pub(crate) items: usize,
    pub(crate) wrong: BTreeMap<ItemId, Wrong>,
}

/// Hears of passes; ends with the program.
pub(crate) struct Reporter(mpsc::UnboundedSender<News>);

/// The centre was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl Reporter {
    /// Its task does not end before this does.
    pub(crate) fn start(config: AgentConfig, tasks: &mut JoinSet<&'static str>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tasks.spawn(async move {
            Task::new(config).run(receiver).await;
            "reports to the centre"
        });
        Self(sender)
    }

    pub(crate) fn note(&self, news: News) {
        // It ends after this does.
        self.0.send(news).ok();
    }
}

/// Tells the centre how this frontend is, without a look at what it serves.
///
/// # Errors
/// [`ReportError`].
pub(crate) async fn report_once(config: &AgentConfig, items: usize) -> Result<(), ReportError> {
    send(config, &Status::load(&Directory::existing(&config.store)).to_report(items)).await
}

async fn send(config: &AgentConfig, report: &FrontendReport) -> Result<(), ReportError> {
    // Made anew each time: the credentials may have been renewed on disk.
    Ok(Client::new(config, &config.credentials)?.report(report).await?)
}

impl ServedState {
    /// What a running agent has written down.
    pub(crate) fn load(directory: &Directory) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.root().join(FILE)).ok()?).ok()
    }

    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let Self { at, address, listens, confirmed, items, wrong } = self;
        if !listens {
            return format!("nobody speaks TLS at {address} (agent.probe): what is served is not known\n");
        }
        let mut text = format!(
            "the web server at {address} serves {confirmed} of {items} items as published, seen {at}\n"
        );
        for wrong in wrong.values() {
            let serves = wrong.serves.as_deref().map_or("nothing", |print| print.get(..16).unwrap_or(print));
            text.push_str(&format!(
                "NOT SERVED since {}: {}: the web server shows {serves}\n",
                wrong.since,
                for_people(&[&wrong.name])
            ));
        }
        text
    }

    fn store(&self, directory: &Directory) -> io::Result<()> {
        directory.write_whole(&directory.root().join(FILE), &serde_json::to_vec_pretty(self)?, 0o644)
    }
}

struct Task {
    config: AgentConfig,
    watch: Watch,
    items: usize,
    /// Seen to be served, and not told yet.
    served: Vec<ServedItem>,
    report_at: Instant,
    /// After an error nothing is so new that the centre is asked sooner.
    not_before: Instant,
    told_wrong: BTreeMap<ItemId, Wrong>,
    told_cursor: Option<String>,
    /// Of the last pass.
    cursor: Option<String>,
    state: Option<ServedState>,
}

impl Task {
    fn new(config: AgentConfig) -> Self {
        let at = Instant::now();
        Self {
            watch: Watch::new(at),
            config,
            items: 0,
            served: Vec::new(),
            // Nothing before the first pass.
            report_at: at + REPORT_EVERY,
            not_before: at,
            told_wrong: BTreeMap::new(),
            told_cursor: None,
            cursor: None,
            state: None,
        }
    }

    async fn run(mut self, mut news: mpsc::UnboundedReceiver<News>) {
        loop {
            let look_at = match self.config.probe {
                Some(_) => self.watch.next(),
                None => self.report_at,
            };
            let wake = look_at.min(self.report_at).max(Instant::now() + PAUSE);
            tokio::select! {
                news = news.recv() => match news {
                    Some(news) => self.take_in(news),
                    None => return,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            if let Some(address) = self.config.probe {
                self.look(address).await;
            }
            // Until the centre hears of it, it takes this frontend for one that is behind.
            if self.told_cursor.is_some() && self.cursor_to_tell() != self.told_cursor.as_ref() {
                self.report_soon(Instant::now());
            }
            if Instant::now() >= self.report_at {
                self.report().await;
            }
        }
    }

    fn take_in(&mut self, news: News) {
        let at = Instant::now();
        self.items = news.items;
        self.watch.forget(&news.gone);
        self.cursor.clone_from(&news.cursor);
        self.watch.publish(news.published, news.cursor, at);
        if news.is_news {
            self.report_soon(at);
        }
    }

    fn cursor_to_tell(&self) -> Option<&String> {
        if self.config.probe.is_some() { self.watch.cursor() } else { self.cursor.as_ref() }
    }

    fn report_soon(&mut self, at: Instant) {
        self.report_at = self.report_at.min((at + GATHER).max(self.not_before));
    }

    async fn look(&mut self, address: SocketAddr) {
        let due = self.watch.due(Instant::now(), BATCH);
        if due.is_empty() {
            return;
        }
        let mut looking = JoinSet::new();
        for target in due {
            looking.spawn_blocking(move || {
                let shown = look_at(address, &target);
                (target, shown)
            });
        }
        while let Some(looked) = looking.join_next().await {
            let Ok((target, shown)) = looked else { continue };
            match shown {
                Ok(shown) => {
                    let served = self.watch.saw(&target, &shown, Timestamp::now(), Instant::now());
                    self.served.extend(served);
                }
                Err(error) => {
                    if self.watch.listens {
                        tracing::info!(%address, %error, "the web server can't be asked what it serves");
                    }
                    self.watch.nobody(Instant::now());
                }
            }
        }
        for (id, wrong) in &self.watch.wrong {
            if !self.told_wrong.contains_key(id) {
                let serves = wrong.serves.as_deref().unwrap_or("nothing");
                tracing::warn!(%id, name = wrong.name, serves, "the web server does not serve what was published");
            }
        }
        if !self.served.is_empty() || self.watch.wrong != self.told_wrong {
            self.told_wrong.clone_from(&self.watch.wrong);
            self.report_soon(Instant::now());
        }
        self.write_down(address);
    }

    /// For `frontend-agent status`.
    fn write_down(&mut self, address: SocketAddr) {
        let (confirmed, items) = self.watch.counts();
        let state = ServedState {
            at: Timestamp::now(),
            address,
            listens: self.watch.listens,
            confirmed,
            items,
            wrong: self.watch.wrong.clone(),
        };
        let is_known =
            self.state.as_ref().is_some_and(|known| ServedState { at: state.at, ..known.clone() } == state);
        if is_known {
            return;
        }
        let directory = Directory::existing(&self.config.store);
        match state.store(&directory) {
            Ok(()) => self.state = Some(state),
            Err(error) => tracing::debug!(%error, "what is served can't be written down"),
        }
    }

    async fn report(&mut self) {
        let mut report = Status::load(&Directory::existing(&self.config.store)).to_report(self.items);
        let left = self.served.split_off(self.served.len().min(MOST_SERVED));
        report.served = mem::replace(&mut self.served, left);
        report.probes = self.config.probe.is_some() && self.watch.listens;
        report.cursor = self.cursor_to_tell().cloned();
        report.problem_count += self.watch.wrong.len() as u64;
        report.problems.extend(self.watch.problems());
        let at = Instant::now();
        match send(&self.config, &report.clone().bounded()).await {
            Ok(()) => {
                self.told_cursor = report.cursor;
                let next = if self.served.is_empty() { REPORT_EVERY } else { Duration::ZERO };
                self.report_at = Instant::now() + next;
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the centre was not told how this frontend is");
                report.served.append(&mut self.served);
                self.served = report.served;
                self.served.truncate(50 * MOST_SERVED);
                self.not_before = at + REPORT_AGAIN;
                self.report_at = self.not_before;
            }
        }
    }
}

/// What a client is shown, for each kind of key.
fn look_at(address: SocketAddr, target: &Target) -> io::Result<Vec<Shown>> {
    let is_dual = target.slots.len() > 1;
    let look = |slot| shown(address, &target.name, is_dual.then_some(slot));
    target.slots.iter().map(|(slot, _)| look(*slot)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync_world::World;

    #[tokio::test]
    async fn a_centre_that_refuses_reports_is_left_alone_whatever_happens() {
        let world = World::new();
        let mut task = Task::new(world.config.clone());
        task.report().await;
        let at = Instant::now();
        task.take_in(News { is_news: true, ..News::default() });
        assert!(task.report_at > at + REPORT_AGAIN / 2, "{:?}", task.report_at.duration_since(at));
    }
}
