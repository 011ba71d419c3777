//! Which server a key lives on now: one and the same, the primary that Sentinels name, or one of a Cluster's.
//!
//! What is known is doubted when a server refuses, is away, or says that another is right; then it is asked for anew before
//! the next command goes out.

use super::{
    StoreError,
    dial::{Dial, Recipe},
    discovery::{Range, Replica, Sentinels, ask_for_slots, unlikely_successors},
    node::Node,
    slots,
};
use crate::config::HostPort;
use arc_swap::ArcSwapOption;
use redis::{ErrorKind, RedisError};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

/// Many commands fail at once; it is asked once for all of them.
const ASK_AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// The servers of a store.
pub(super) struct Servers {
    target: Target,
    layout: ArcSwapOption<Layout>,
    /// When it was last asked, and whether there was an answer. Held while it is asked.
    asked: tokio::sync::Mutex<Option<(Instant, bool)>>,
    /// Where to ask first: the node that another one pointed to.
    hint: Mutex<Option<HostPort>>,
    /// Whom of a Cluster to ask first otherwise: another one each time, since one may be dead.
    turn: AtomicUsize,
    reachable: AtomicBool,
    /// Where it is asked: whoever needs the answer may have gone before it comes.
    runtime: Handle,
}

enum Target {
    Single,
    Sentinel { sentinels: Sentinels, dial: Arc<Dial> },
    Cluster { seeds: Vec<HostPort>, dial: Arc<Dial> },
}

/// Who serves what, as it was when it was asked.
pub(super) struct Layout {
    ranges: Vec<(u16, u16, Arc<Node>)>,
    /// Who may be promoted, where Sentinels say so.
    replicas: Option<Vec<Replica>>,
    doubted: AtomicBool,
}

/// What to do about an error.
pub(super) enum Reaction {
    GiveUp,
    /// Nothing was done, and another server may be right by now.
    Again,
    /// This command alone belongs to another server: its slot is on the move.
    AskAt(Arc<Node>),
}

impl Servers {
    pub(super) fn single(node: Node) -> Self {
        let layout = Layout::new(vec![(0, slots::LAST, Arc::new(node))], None);
        let servers = Self::of(Target::Single);
        servers.layout.store(Some(Arc::new(layout)));
        servers
    }

    pub(super) fn behind_sentinels(sentinels: Sentinels, dial: Dial) -> Self {
        Self::of(Target::Sentinel { sentinels, dial: Arc::new(dial) })
    }

    pub(super) fn cluster(seeds: Vec<HostPort>, dial: Dial) -> Self {
        Self::of(Target::Cluster { seeds, dial: Arc::new(dial) })
    }

    fn of(target: Target) -> Self {
        Self {
            target,
            layout: ArcSwapOption::empty(),
            asked: tokio::sync::Mutex::default(),
            hint: Mutex::default(),
            turn: AtomicUsize::new(0),
            reachable: AtomicBool::new(true),
            runtime: Handle::current(),
        }
    }

    /// Whether keys are spread over several servers.
    pub(super) fn are_many(&self) -> bool {
        matches!(self.target, Target::Cluster { .. })
    }

    /// How often one command is sent at most, each server having said that it is another's.
    pub(super) const fn most_tries(&self) -> usize {
        if self.may_change() { 4 } else { 2 }
    }

    /// Whether another server may take a server's place.
    pub(super) const fn may_change(&self) -> bool {
        !matches!(self.target, Target::Single)
    }

    /// Whether every server answered its last command.
    pub(super) fn are_healthy(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
            && self.layout.load().as_ref().is_none_or(|layout| layout.nodes().all(|node| node.is_healthy()))
    }

    /// Who serves what; asks where that isn't known, or doubted. What was begun goes on where nobody waits for it any more.
    pub(super) async fn layout(self: &Arc<Self>) -> Result<Arc<Layout>, StoreError> {
        if let Some(layout) = self.layout.load_full().filter(|layout| layout.is_certain()) {
            return Ok(layout);
        }
        let (this, came) = (Arc::clone(self), Instant::now());
        let found = self.runtime.spawn(async move { this.find_out(came).await });
        found.await.unwrap_or_else(|_| Err(no_server("the program ends")))
    }

    /// For somebody who came at that moment: what was answered since is the answer for all who waited.
    async fn find_out(&self, came: Instant) -> Result<Arc<Layout>, StoreError> {
        let mut asked = self.asked.lock().await;
        let known = self.layout.load_full();
        if asked.is_some_and(|(at, answered)| !answered && at > came) {
            return known.ok_or_else(|| no_server("nobody says who serves the store"));
        }
        if let Some(layout) = &known {
            // What changed since may be asked a little later; those who could not be reached just now are left alone.
            let pause =
                asked.map_or(Duration::ZERO, |(at, _)| ASK_AT_MOST_EVERY.saturating_sub(at.elapsed()));
            let in_vain = asked.is_some_and(|(_, answered)| !answered) && !pause.is_zero();
            if layout.is_certain() || in_vain {
                return Ok(Arc::clone(layout));
            }
            tokio::time::sleep(pause).await;
        }
        let answer = self.ask(known.as_deref()).await;
        *asked = Some((Instant::now(), answer.is_ok()));
        self.reachable.store(answer.is_ok(), Ordering::Relaxed);
        match (answer, known) {
            (Ok(layout), _) => {
                let layout = Arc::new(layout);
                self.layout.store(Some(Arc::clone(&layout)));
                Ok(layout)
            }
            // Those who could tell are away; who served before may serve still.
            (Err(error), Some(known)) => {
                tracing::debug!(error = crate::error::chain(&error), "nobody says who serves");
                Ok(known)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// What is known without asking.
    pub(super) fn known(&self) -> Option<Arc<Layout>> {
        self.layout.load_full()
    }

    /// Where the store is, for people.
    pub(super) fn place(&self) -> String {
        match &self.target {
            Target::Sentinel { sentinels, .. } => {
                format!("the service {} (by its Sentinels)", sentinels.service)
            }
            Target::Cluster { seeds, .. } => {
                let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
                format!("the Cluster at {}", seeds.join(", "))
            }
            Target::Single => self
                .known()
                .and_then(|layout| layout.nodes().next().map(|node| node.place()))
                .unwrap_or_default(),
        }
    }

    /// What it was until now may not be so any more.
    pub(super) fn doubt(&self, layout: &Layout) {
        if !matches!(self.target, Target::Single) {
            layout.doubted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the answer says that the connection leads to a server that is another one by now: replaced, demoted, loading
    /// its data, or with users of its own.
    pub(super) fn is_another(&self, error: &RedisError) -> bool {
        match super::error::first_of_pipeline(error.clone()).code() {
            Some("READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH") => true,
            Some("MOVED") => !self.are_many(),
            _ => false,
        }
    }

    /// What an error of `node` says about who serves what.
    pub(super) fn react(&self, layout: &Layout, node: &Node, error: &RedisError) -> Reaction {
        let code = super::error::first_of_pipeline(error.clone());
        let Some(dial) = self.dial() else {
            // The address may lead to another server by now.
            return if code.code() == Some("READONLY") { Reaction::Again } else { Reaction::GiveUp };
        };
        if let Some((address, moved)) = redirection(error, node) {
            if moved {
                *self.hint.lock().expect("nothing panics while holding it") = Some(address);
                self.doubt(layout);
                return Reaction::Again;
            }
            let target = layout.node_at(&address).map_or_else(|| new_node(dial, address), Ok);
            return target.map_or(Reaction::GiveUp, Reaction::AskAt);
        }
        match code.code() {
            Some("READONLY") => {
                self.doubt(layout);
                Reaction::Again
            }
            Some("CLUSTERDOWN" | "MASTERDOWN" | "LOADING" | "NOREPLICAS") | None => {
                self.doubt(layout);
                if is_absent(error) { Reaction::Again } else { Reaction::GiveUp }
            }
            Some(_) => Reaction::GiveUp,
        }
    }

    const fn dial(&self) -> Option<&Arc<Dial>> {
        match &self.target {
            Target::Single => None,
            Target::Sentinel { dial, .. } | Target::Cluster { dial, .. } => Some(dial),
        }
    }

    async fn ask(&self, known: Option<&Layout>) -> Result<Layout, StoreError> {
        match &self.target {
            Target::Single => unreachable!("the one server is known from the start and never doubted"),
            Target::Sentinel { sentinels, dial } => {
                let watched = sentinels.ask().await?;
                let range = Range { first: 0, last: slots::LAST, primary: watched.primary };
                Layout::of(vec![range], watched.replicas, known, dial)
            }
            Target::Cluster { seeds, dial } => {
                let ranges = ask_for_slots(dial, &self.whom_to_ask(seeds, known)).await?;
                Layout::of(ranges, None, known, dial)
            }
        }
    }

    fn whom_to_ask(&self, seeds: &[HostPort], known: Option<&Layout>) -> Vec<HostPort> {
        let mut addresses: Vec<HostPort> =
            known.into_iter().flat_map(Layout::nodes).filter_map(|node| node.address.clone()).collect();
        addresses.extend(seeds.iter().filter(|seed| !addresses.contains(seed)).cloned().collect::<Vec<_>>());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(turn);
        if let Some(hint) = self.hint.lock().expect("nothing panics while holding it").take() {
            addresses.insert(0, hint);
        }
        addresses
    }
}

impl Layout {
    fn new(ranges: Vec<(u16, u16, Arc<Node>)>, replicas: Option<Vec<Replica>>) -> Self {
        Self { ranges, replicas, doubted: AtomicBool::new(false) }
    }

    fn is_certain(&self) -> bool {
        !self.doubted.load(Ordering::Relaxed)
    }

    /// Servers that were known before keep their connections.
    fn of(
        ranges: Vec<Range>,
        replicas: Option<Vec<Replica>>,
        known: Option<&Self>,
        dial: &Arc<Dial>,
    ) -> Result<Self, StoreError> {
        let mut nodes: HashMap<HostPort, Arc<Node>> = HashMap::new();
        let mut found = Vec::with_capacity(ranges.len());
        for Range { first, last, primary } in ranges {
            let node = match nodes.get(&primary) {
                Some(node) => Arc::clone(node),
                None => match known.and_then(|known| known.node_at(&primary)) {
                    Some(node) => node,
                    None => new_node(dial, primary.clone())?,
                },
            };
            nodes.insert(primary, Arc::clone(&node));
            found.push((first, last, node));
        }
        found.sort_by_key(|(first, ..)| *first);
        Ok(Self::new(found, replicas))
    }

    /// Who may be promoted, where Sentinels say so.
    pub(super) fn replicas(&self) -> Option<&[Replica]> {
        self.replicas.as_deref()
    }

    /// How many replicas must have a write so that `wanted` of those have it that are likely to be promoted.
    pub(super) fn replicas_to_wait_for(&self, wanted: u32) -> u32 {
        if wanted == 0 {
            return 0;
        }
        let unlikely = self.replicas().map_or(0, unlikely_successors);
        wanted.saturating_add(u32::try_from(unlikely).unwrap_or(u32::MAX))
    }

    /// One of these keys that the server with this first slot serves.
    pub(super) fn key_at<'a>(&self, first_slot: u16, keys: &'a [String]) -> Option<&'a String> {
        let node = self.node_of(Some(first_slot)).ok()?;
        keys.iter().find(|key| {
            self.node_of(Some(slots::slot_of_key(key.as_bytes()))).is_ok_and(|other| Arc::ptr_eq(node, other))
        })
    }

    /// The server of a slot; any one for what has no key.
    pub(super) fn node_of(&self, slot: Option<u16>) -> Result<&Arc<Node>, StoreError> {
        let wanted = slot.unwrap_or(0);
        self.ranges
            .iter()
            .find(|(first, last, _)| slot.is_none() || (*first..=*last).contains(&wanted))
            .map(|(.., node)| node)
            .ok_or_else(|| no_server("no server serves this slot of the Cluster"))
    }

    /// Each server once, with the first slot that it serves.
    pub(super) fn shards(&self) -> Vec<(u16, Arc<Node>)> {
        let mut found: Vec<(u16, Arc<Node>)> = Vec::new();
        for (first, _, node) in &self.ranges {
            if !found.iter().any(|(_, known)| Arc::ptr_eq(known, node)) {
                found.push((*first, Arc::clone(node)));
            }
        }
        found
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.ranges.iter().map(|(.., node)| node)
    }

    fn node_at(&self, address: &HostPort) -> Option<Arc<Node>> {
        self.nodes().find(|node| node.address.as_ref() == Some(address)).cloned()
    }
}

fn new_node(dial: &Arc<Dial>, address: HostPort) -> Result<Arc<Node>, StoreError> {
    let recipe = Recipe::Address { dial: Arc::clone(dial), address: address.clone() };
    Node::new(Some(address), recipe).map(Arc::new)
}

fn no_server(what: &'static str) -> StoreError {
    StoreError::Unavailable(RedisError::from((ErrorKind::ClusterConnectionNotFound, what)).into())
}

/// Where a node points to, and whether for good (`MOVED`) or for this command alone (`ASK`).
fn redirection(error: &RedisError, from: &Node) -> Option<(HostPort, bool)> {
    let errors = error.clone().into_server_errors()?;
    errors.iter().find_map(|(_, error)| {
        let moved = match error.code() {
            "MOVED" => true,
            "ASK" => false,
            _ => return None,
        };
        let (host, port) = error.details()?.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
        let host = if host.is_empty() { from.address.as_ref()?.host.as_str() } else { host };
        Some((HostPort { host: host.to_owned(), port: port.parse().ok()? }, moved))
    })
}

/// Nobody listens: the command can't have been seen.
pub(super) fn is_absent(error: &RedisError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    error.is_connection_refusal()
        || std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|io| matches!(io.kind(), NotFound | ConnectionRefused))
}
