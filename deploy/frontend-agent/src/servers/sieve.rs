//! What a web server refuses is found out, and left out: one name that it can't take, or a TLS policy that it does not know, keeps
//! nothing else from going live. What is refused is tried again once in a while, and when it is another version.
//!
//! It begins with what the server's files hold, names and versions of items: that stays, whatever comes of the others. Only where the server refuses
//! these files too is one of them left out, and not before it was tried alone.

use super::{Applied, Names, Server, ServerError, Versions, View};
use crate::{disk::Directory, status::RefusedItem, wire::ItemId};
use jiff::Timestamp;
use shared::domain::TlsPolicy;
use std::{
    collections::BTreeMap,
    mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// What was refused is tried again so often: the server's configuration may be another by then.
const TRY_AGAIN: Duration = Duration::from_secs(600);
/// So many tests, and so long, for finding out at one time: with the commands before and after, less than the `TimeoutStopSec` of the
/// agent's unit. Names that were
/// not tried until then wait for the next pass.
const MOST_TESTS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// A server whose command does not end is left alone for so long, twice as long each time, and at most for so long.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(900);

/// A web server with what it takes.
pub(crate) struct Shown {
    server: Box<dyn Server>,
    /// One of its commands did not end when it was last run.
    hung: Option<Hang>,
    first_pause: Duration,
    refused: BTreeMap<Arc<str>, Refusal>,
    /// What was refused when that was last found out, and why. They are tried again, after all others.
    suspects: BTreeMap<Arc<str>, String>,
    /// Whether what an earlier process found out is among them.
    recalls: bool,
    refused_policy: Option<(TlsPolicy, String)>,
    found: Option<Instant>,
}

/// A command that did not end.
struct Hang {
    /// Whether it only tests.
    is_test: bool,
    command: String,
    reason: String,
    pause: Duration,
    /// When it is asked again, at the soonest.
    next: Instant,
}

/// Why a name was left out, and which version of its item that is about.
#[derive(Clone, Debug)]
struct Refusal {
    id: ItemId,
    directory: Box<str>,
    reason: String,
    /// Whether that was found out, or there was no time to.
    is_tried: bool,
    /// What answers for the name meanwhile, as before.
    instead: Option<ItemId>,
    /// The version of the item that does, where that is not the live one.
    former: Option<Box<str>>,
}

/// What a server is shown.
#[derive(Clone, Default)]
struct Choice {
    names: Names,
    former: Versions,
}

/// A name that was left out, with its item and the reason.
pub(crate) type LeftOut = (Arc<str>, ItemId, String);

/// What became of showing.
pub(crate) struct Sifted {
    pub(crate) applied: Result<Applied, ServerError>,
    pub(crate) refused: Vec<LeftOut>,
    /// Items that a server does not take as they are.
    pub(crate) not_taken: Vec<(ItemId, String)>,
    /// Why what is spoken stays as it was.
    pub(crate) policy_refused: Option<String>,
    /// What is spoken now, where that is known.
    pub(crate) policy: Option<TlsPolicy>,
}

impl Shown {
    pub(crate) fn new(server: Box<dyn Server>) -> Self {
        Self {
            server,
            hung: None,
            first_pause: FIRST_PAUSE,
            refused: BTreeMap::new(),
            suspects: BTreeMap::new(),
            recalls: false,
            refused_policy: None,
            found: None,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.server.name()
    }

    pub(crate) fn names_versions(&self, directory: &Directory) -> Vec<PathBuf> {
        self.server.names_versions(directory)
    }

    /// Takes over what an earlier process has found out, once.
    pub(crate) fn recall(&mut self, refused: &[RefusedItem]) {
        if mem::replace(&mut self.recalls, true) {
            return;
        }
        let server = self.name();
        for item in refused.iter().filter(|item| item.server == server) {
            let Some(name) = item.names.first() else { continue };
            if let Some(reason) = item.reason.strip_prefix(&told(server, name)) {
                self.suspects.insert(name.as_str().into(), reason.to_owned());
            }
        }
    }

    pub(crate) fn differs(&self, view: &View<'_>) -> bool {
        let (choice, _) = self.choice(view);
        self.server.differs(&View { names: &choice.names, former: Some(&choice.former), ..*view })
    }

    /// With less patience for one whose command does not end.
    #[cfg(test)]
    pub(super) const fn resting(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Shows the server what is live, but for what it refuses. `spoken`: the last policy that it took.
    pub(crate) fn show(&mut self, view: &View<'_>, spoken: Option<&TlsPolicy>) -> Sifted {
        if self.is_time_to_try_again() {
            let refused = mem::take(&mut self.refused).into_iter().filter(|(_, refusal)| refusal.is_tried);
            self.suspects.extend(refused.map(|(name, refusal)| (name, refusal.reason)));
            self.refused_policy = None;
            self.found = None;
        }
        self.refused.retain(|name, refusal| refusal.stands(name, view));
        let (mut choice, unfit) = self.choice(view);
        if let Some(hang) = self.hung.as_ref().filter(|hang| Instant::now() < hang.next) {
            let told = hang.to_error();
            return self.sifted(Err(told), None, unfit);
        }
        let is_refused =
            |policy: &TlsPolicy| self.refused_policy.as_ref().is_some_and(|(refused, _)| refused == policy);
        let tls = if view.tls.is_some_and(is_refused) { spoken } else { view.tls };
        if tls == view.tls {
            self.refused_policy = None;
        }
        let mut policy = tls.cloned();
        let shown = View { names: &choice.names, former: Some(&choice.former), tls, ..*view };
        let mut applied = self.server.apply(&shown);
        if let Err(ServerError::Refused { output, .. }) = &applied {
            let output = output.clone();
            match self.sift(&shown, spoken, &output) {
                Ok(Some((good, spoken))) => {
                    applied = self.server.apply(&View {
                        names: &good.names,
                        former: Some(&good.former),
                        tls: spoken.as_ref(),
                        ..*view
                    });
                    (choice, policy) = (good, spoken);
                }
                Ok(None) => {}
                Err(hung) => applied = Err(hung),
            }
        }
        if matches!(applied, Ok(Applied::Nothing | Applied::Changed { .. })) {
            self.suspects.retain(|name, _| !choice.names.contains_key(name));
        }
        let applied = self.note_hang(applied);
        self.sifted(applied, policy, unfit)
    }

    fn sifted(
        &mut self,
        applied: Result<Applied, ServerError>,
        policy: Option<TlsPolicy>,
        unfit: Vec<LeftOut>,
    ) -> Sifted {
        let refused = self.refused.iter().map(|(name, refusal)| {
            (Arc::clone(name), refusal.id.clone(), told(self.server.name(), name) + &refusal.reason)
        });
        Sifted {
            refused: refused.chain(unfit).collect(),
            not_taken: self.server.not_taken(),
            policy_refused: self.refused_policy.as_ref().map(|(_, reason)| reason.clone()),
            policy: policy.filter(|_| applied.is_ok()),
            applied,
        }
    }

    /// Whoever waits in vain once need not in every pass.
    fn note_hang(&mut self, applied: Result<Applied, ServerError>) -> Result<Applied, ServerError> {
        let before = self.hung.take();
        let (command, reason, is_test) = match applied {
            Err(ServerError::Hung { command, reason }) => (command, reason, true),
            Err(ServerError::Stuck { command, reason }) => (command, reason, false),
            other => return other,
        };
        let pause = before.map_or(self.first_pause, |hang| (hang.pause * 2).min(LONGEST_PAUSE));
        let next = Timestamp::now() + pause;
        let reason = format!("{reason}; it is tried again after {}", next.strftime("%F %H:%M:%S UTC"));
        let next = Instant::now() + pause;
        let hang = Hang { is_test, command, reason, pause, next };
        let told = hang.to_error();
        self.hung = Some(hang);
        Err(told)
    }

    fn is_time_to_try_again(&self) -> bool {
        self.found.is_some_and(|at| at.elapsed() >= TRY_AGAIN)
    }

    /// Everything but the names that can't stand in the server's files, which are told of, and what it refuses.
    fn choice(&self, view: &View<'_>) -> (Choice, Vec<LeftOut>) {
        let mut choice = Choice { names: view.names.clone(), former: Versions::new() };
        let mut unfit = Vec::new();
        for (name, id) in view.names {
            if let Some(reason) = self.server.cannot_hold(name) {
                choice.names.remove(name);
                unfit.push((Arc::clone(name), id.clone(), format!("{}: {name:?} {reason}", self.name())));
            }
        }
        let standing = self.refused.iter().filter(|(name, refusal)| refusal.stands(name, view));
        for (name, refusal) in standing.filter(|_| !self.is_time_to_try_again()) {
            match &refusal.instead {
                Some(id) if view.index.contains_key(id) => {
                    choice.names.insert(Arc::clone(name), id.clone());
                }
                _ => drop(choice.names.remove(name)),
            }
            let former = refusal.former.as_ref().filter(|version| is_there(view, &refusal.id, version));
            choice.former.extend(former.map(|version| (refusal.id.clone(), version.clone())));
        }
        (choice, unfit)
    }

    /// What of it is taken. `None` where nothing of it is what is refused, or what is not known yet.
    ///
    /// # Errors
    /// [`ServerError::Hung`]: a test that does not end says nothing about names, and nothing is taken from it.
    fn sift(
        &mut self,
        view: &View<'_>,
        spoken: Option<&TlsPolicy>,
        output: &str,
    ) -> Result<Option<(Choice, Option<TlsPolicy>)>, ServerError> {
        let until = Instant::now() + PATIENCE;
        let held = self.server.holds(view);
        let mut former = self.server.holds_versions(view.directory);
        former.retain(|id, version| {
            view.index.get(id).is_some_and(|live| live.directory != *version) && is_there(view, id, version)
        });
        let mut tests = Tests { server: &mut *self.server, view, left: MOST_TESTS, until, hung: None };
        let all = Choice { names: view.names.clone(), former: view.former.cloned().unwrap_or_default() };
        // Where it can't be seen in a test, nothing can be found out.
        if tests.run(&all, view.tls).is_ok() {
            return Ok(None);
        }
        let is_new_policy = view.tls != spoken;
        if is_new_policy && tests.run(&all, spoken).is_ok() {
            self.refused_policy = view.tls.map(|policy| (policy.clone(), output.to_owned()));
            self.found = Some(Instant::now());
            return Ok(Some((all, spoken.cloned())));
        }
        let (mut good, mut is_repair) = (Choice { names: held.clone(), former: all.former.clone() }, false);
        good.former.extend(former);
        if tests.run(&good, spoken).is_err() {
            tests.is_heard()?;
            if held.is_empty() || !tests.server.refuses_the_present() {
                return Ok(None);
            }
            is_repair = true;
            good.names.clear();
            if tests.run(&good, spoken).is_err() {
                return tests.is_heard().map(|()| None);
            }
        }
        let is_held_back = |id: &ItemId| good.former.contains_key(id) && !all.former.contains_key(id);
        let others =
            view.names.iter().filter(|(name, id)| good.names.get(*name) != Some(*id) || is_held_back(id));
        let others = others.map(|(name, id)| (Arc::clone(name), id.clone()));
        let is_suspect = |(name, _): &(Arc<str>, ItemId)| self.suspects.contains_key(name);
        let (suspects, others): (Vec<_>, Vec<_>) = others.partition(is_suspect);
        let mut bad = Vec::new();
        tests.add(&mut good, &others, spoken, &mut bad);
        tests.add(&mut good, &suspects, spoken, &mut bad);
        let mut policy = view.tls;
        let new_policy = if is_new_policy { tests.run(&good, view.tls) } else { Ok(()) };
        tests.is_heard()?;
        if let Err(reason) = new_policy {
            self.refused_policy = view.tls.map(|refused| (refused.clone(), reason));
            policy = spoken;
        }
        self.found = Some(Instant::now());
        let mut is_known = true;
        for Bad { name, id, mut reason, mut is_tried } in bad {
            if let Some(before) = self.suspects.remove(&name).filter(|_| !is_tried) {
                (reason, is_tried) = (before, true);
            }
            let before = held.get(&name);
            // It is served, and nobody knows whether it can't be any more.
            is_known &= is_tried || before.is_none() || !is_repair;
            let directory = view.index.get(&id).map(|live| live.directory.clone()).unwrap_or_default();
            let instead = before.filter(|_| !is_repair).cloned();
            let former = good.former.get(&id).filter(|_| instead.as_ref() == Some(&id)).cloned();
            self.refused.insert(name, Refusal { id, directory, reason, is_tried, instead, former });
        }
        Ok(is_known.then(|| (good, policy.cloned())))
    }
}

impl Hang {
    fn to_error(&self) -> ServerError {
        let (command, reason) = (self.command.clone(), self.reason.clone());
        match self.is_test {
            true => ServerError::Hung { command, reason },
            false => ServerError::Stuck { command, reason },
        }
    }
}

impl Refusal {
    /// Whether what was refused is what it still is. What there was no time for is tried as if nothing was known.
    fn stands(&self, name: &Arc<str>, view: &View<'_>) -> bool {
        self.is_tried
            && view.names.get(name) == Some(&self.id)
            && view.index.get(&self.id).is_some_and(|live| live.directory == self.directory)
    }
}

/// Whether a version of an item is still on disk.
fn is_there(view: &View<'_>, id: &ItemId, version: &str) -> bool {
    view.directory.item(id).join(version).is_dir()
}

/// What comes before the reason.
fn told(server: &str, name: &str) -> String {
    format!("{server} refuses {name}: ")
}

/// A name that is left out.
struct Bad {
    name: Arc<str>,
    id: ItemId,
    reason: String,
    is_tried: bool,
}

/// The server's own test, over and over, but not for ever.
struct Tests<'a> {
    server: &'a mut dyn Server,
    view: &'a View<'a>,
    left: usize,
    until: Instant,
    /// One of them did not end: there are no more.
    hung: Option<ServerError>,
}

impl Tests<'_> {
    /// # Errors
    /// What the server says.
    fn run(&mut self, choice: &Choice, tls: Option<&TlsPolicy>) -> Result<(), String> {
        if self.hung.is_some() {
            return Err(String::new());
        }
        self.left = self.left.saturating_sub(1);
        let (names, former) = (&choice.names, Some(&choice.former));
        match self.server.test(&View { names, former, tls, ..*self.view }) {
            Err(ServerError::Refused { output, .. }) => Err(output),
            Err(hung @ ServerError::Hung { .. }) => {
                (self.left, self.hung) = (0, Some(hung));
                Err(String::new())
            }
            Err(error) => Err(shared::error::chain(&error)),
            Ok(()) => Ok(()),
        }
    }

    /// # Errors
    /// [`ServerError::Hung`], where one of them did not end.
    fn is_heard(&mut self) -> Result<(), ServerError> {
        self.hung.take().map_or(Ok(()), Err)
    }

    /// Adds those that the server takes to the good ones, by halves.
    fn add(
        &mut self,
        good: &mut Choice,
        others: &[(Arc<str>, ItemId)],
        tls: Option<&TlsPolicy>,
        bad: &mut Vec<Bad>,
    ) {
        let all_bad = |reason: String, is_tried| {
            let bad = move |(name, id): &(Arc<str>, ItemId)| Bad {
                name: Arc::clone(name),
                id: id.clone(),
                reason: reason.clone(),
                is_tried,
            };
            others.iter().map(bad)
        };
        if others.is_empty() {
            return;
        }
        if self.left == 0 || Instant::now() >= self.until {
            let reason = format!(
                "with it or one of {} others it is refused; they were not tried one by one yet",
                others.len()
            );
            bad.extend(all_bad(reason, false));
            return;
        }
        let mut all = good.clone();
        all.names.extend(others.iter().cloned());
        let stays = |id: &ItemId| self.view.former.is_some_and(|former| former.contains_key(id));
        all.former.retain(|id, _| stays(id) || others.iter().all(|(_, other)| other != id));
        match self.run(&all, tls) {
            Ok(()) => *good = all,
            Err(reason) if others.len() == 1 => bad.extend(all_bad(reason, true)),
            Err(_) => {
                let (one, other) = others.split_at(others.len() / 2);
                self.add(good, one, tls, bad);
                self.add(good, other, tls, bad);
            }
        }
    }
}
