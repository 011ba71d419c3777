//! What a web server refuses is found out, and left out: one name that it can't take, or a TLS policy that it does not know, keeps
//! nothing else from going live. What is refused is tried again once in a while, and when it is another version.

use super::{Applied, Server, ServerError, View};
use crate::{disk::Directory, wire::ItemId};
use shared::domain::TlsPolicy;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// What was refused is tried again so often: the server's configuration may be another by then.
const TRY_AGAIN: Duration = Duration::from_secs(600);
/// So many tests, and so long, for finding out at one time. Names that were not tried until then wait for the next.
const MOST_TESTS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(120);

type Names = BTreeMap<Arc<str>, ItemId>;

/// A web server with what it takes.
pub(crate) struct Shown {
    server: Box<dyn Server>,
    /// What it took last.
    taken: Names,
    refused: BTreeMap<Arc<str>, Refusal>,
    refused_policy: Option<(TlsPolicy, String)>,
    found: Option<Instant>,
}

/// Why a name was left out, and which version of its item that is about.
#[derive(Clone, Debug)]
struct Refusal {
    id: ItemId,
    directory: Box<str>,
    reason: String,
}

/// What became of showing.
pub(crate) struct Sifted {
    pub(crate) applied: Result<Applied, ServerError>,
    /// Names that were left out, each with its item and the reason.
    pub(crate) refused: Vec<(Arc<str>, ItemId, String)>,
    /// Items that a server does not take as they are.
    pub(crate) not_taken: Vec<(ItemId, String)>,
    /// Why what is spoken stays as it was.
    pub(crate) policy_refused: Option<String>,
    /// What is spoken now, where that is known.
    pub(crate) policy: Option<TlsPolicy>,
}

impl Shown {
    pub(crate) fn new(server: Box<dyn Server>) -> Self {
        Self { server, taken: Names::new(), refused: BTreeMap::new(), refused_policy: None, found: None }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.server.name()
    }

    pub(crate) fn names_versions(&self, directory: &Directory) -> Vec<PathBuf> {
        self.server.names_versions(directory)
    }

    pub(crate) fn differs(&self, view: &View<'_>) -> bool {
        self.server.differs(view)
    }

    /// Shows the server what is live, but for what it refuses. `spoken`: the last policy that it took.
    pub(crate) fn show(&mut self, view: &View<'_>, spoken: Option<&TlsPolicy>) -> Sifted {
        if self.found.is_some_and(|at| at.elapsed() >= TRY_AGAIN) {
            self.refused.clear();
            self.refused_policy = None;
            self.found = None;
        }
        let is_same = |name: &Arc<str>, refusal: &Refusal| {
            view.names.get(name) == Some(&refusal.id)
                && view.index.get(&refusal.id).is_some_and(|live| live.directory == refusal.directory)
        };
        self.refused.retain(|name, refusal| is_same(name, refusal));
        let mut names = Cow::Borrowed(view.names);
        let mut unfit = Vec::new();
        for (name, id) in view.names {
            if let Some(reason) = self.server.cannot_hold(name) {
                names.to_mut().remove(name);
                unfit.push((Arc::clone(name), id.clone(), format!("{}: {name:?} {reason}", self.name())));
            }
        }
        for name in self.refused.keys() {
            names.to_mut().remove(name);
        }
        let is_refused =
            |policy: &TlsPolicy| self.refused_policy.as_ref().is_some_and(|(refused, _)| refused == policy);
        let tls = if view.tls.is_some_and(is_refused) { spoken } else { view.tls };
        if tls == view.tls {
            self.refused_policy = None;
        }
        let mut taken = names.into_owned();
        let mut policy = tls.cloned();
        let mut applied = self.server.apply(&View { names: &taken, tls, ..*view });
        if let Err(ServerError::Refused { output, .. }) = &applied {
            let output = output.clone();
            if let Some((good, spoken)) = self.sift(&View { names: &taken, tls, ..*view }, spoken, &output) {
                applied = self.server.apply(&View { names: &good, tls: spoken.as_ref(), ..*view });
                (taken, policy) = (good, spoken);
                self.found = Some(Instant::now());
            }
        }
        if matches!(applied, Ok(Applied::Nothing | Applied::Changed { .. })) {
            self.taken = taken;
        }
        let refused = self.refused.iter().map(|(name, refusal)| {
            (
                Arc::clone(name),
                refusal.id.clone(),
                format!("{} refuses {name}: {}", self.server.name(), refusal.reason),
            )
        });
        Sifted {
            refused: refused.chain(unfit).collect(),
            not_taken: self.server.not_taken(),
            policy_refused: self.refused_policy.as_ref().map(|(_, reason)| reason.clone()),
            policy: policy.filter(|_| applied.is_ok()),
            applied,
        }
    }

    /// What of it is taken. `None` where nothing of it is what is refused.
    fn sift(
        &mut self,
        view: &View<'_>,
        spoken: Option<&TlsPolicy>,
        output: &str,
    ) -> Option<(Names, Option<TlsPolicy>)> {
        let until = Instant::now() + PATIENCE;
        let mut tests = Tests { server: &mut *self.server, view, left: MOST_TESTS, until };
        // Where it can't be seen in a test, nothing can be found out.
        tests.run(view.names, view.tls).err()?;
        let is_new_policy = view.tls != spoken;
        if is_new_policy && tests.run(view.names, spoken).is_ok() {
            self.refused_policy = view.tls.map(|policy| (policy.clone(), output.to_owned()));
            return Some((view.names.clone(), spoken.cloned()));
        }
        let is_taken = |name: &Arc<str>, id: &ItemId| self.taken.get(name) == Some(id);
        let before = view.names.iter().filter(|(name, id)| is_taken(name, id));
        let mut good: Names = before.map(|(name, id)| (Arc::clone(name), id.clone())).collect();
        if !good.is_empty() && tests.run(&good, spoken).is_err() {
            good.clear();
        }
        if good.is_empty() {
            tests.run(&good, spoken).ok()?;
        }
        let others = view.names.iter().filter(|(name, _)| !good.contains_key(*name));
        let others: Vec<(Arc<str>, ItemId)> =
            others.map(|(name, id)| (Arc::clone(name), id.clone())).collect();
        let mut bad = Vec::new();
        tests.add(&mut good, &others, spoken, &mut bad);
        let mut policy = view.tls;
        if is_new_policy && let Err(reason) = tests.run(&good, view.tls) {
            self.refused_policy = view.tls.map(|refused| (refused.clone(), reason));
            policy = spoken;
        }
        for (name, id, reason) in bad {
            let directory = view.index.get(&id).map(|live| live.directory.clone()).unwrap_or_default();
            self.refused.insert(name, Refusal { id, directory, reason });
        }
        Some((good, policy.cloned()))
    }
}

/// The server's own test, over and over, but not for ever.
struct Tests<'a> {
    server: &'a mut dyn Server,
    view: &'a View<'a>,
    left: usize,
    until: Instant,
}

impl Tests<'_> {
    /// # Errors
    /// What the server says.
    fn run(&mut self, names: &Names, tls: Option<&TlsPolicy>) -> Result<(), String> {
        self.left = self.left.saturating_sub(1);
        match self.server.test(&View { names, tls, ..*self.view }) {
            Err(ServerError::Refused { output, .. }) => Err(output),
            Err(error) => Err(shared::error::chain(&error)),
            Ok(()) => Ok(()),
        }
    }

    /// Adds those that the server takes to the good ones, by halves.
    fn add(
        &mut self,
        good: &mut Names,
        others: &[(Arc<str>, ItemId)],
        tls: Option<&TlsPolicy>,
        bad: &mut Vec<(Arc<str>, ItemId, String)>,
    ) {
        if others.is_empty() {
            return;
        }
        if self.left == 0 || Instant::now() >= self.until {
            let reason = format!(
                "with it or one of {} others it is refused; they were not tried one by one yet",
                others.len()
            );
            bad.extend(others.iter().map(|(name, id)| (Arc::clone(name), id.clone(), reason.clone())));
            return;
        }
        let mut all = good.clone();
        all.extend(others.iter().cloned());
        match self.run(&all, tls) {
            Ok(()) => *good = all,
            Err(reason) if others.len() == 1 => {
                bad.extend(others.iter().map(|(name, id)| (Arc::clone(name), id.clone(), reason.clone())));
            }
            Err(_) => {
                let (one, other) = others.split_at(others.len() / 2);
                self.add(good, one, tls, bad);
                self.add(good, other, tls, bad);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::StoreConfig,
        https::{Https, Moment},
        index::{Index, Live},
        servers::nginx::Nginx,
    };
    use jiff::Timestamp;
    use shared::config::AgentNginx;
    use std::fs;

    /// An nginx whose test refuses every name with `bad` in it, and X25519MLKEM768; it counts its tests.
    struct World {
        root: tempfile::TempDir,
        directory: Directory,
        shown: Shown,
    }

    impl World {
        fn new(condition: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            let directory = Directory::open(&StoreConfig::at(root.path().join("agent"))).unwrap();
            let own = directory.of_adapter("nginx").display().to_string();
            let script =
                format!("echo test >> {}/log; {}", root.path().display(), condition.replace("DIR", &own));
            let command = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
            let reload = command(&format!("echo reload >> {}/log", root.path().display()));
            let settings = AgentNginx { test: command(&script), reload, min_reload_seconds: 0 };
            Self { root, directory, shown: Shown::new(Box::new(Nginx::new(settings))) }
        }

        fn show(&mut self, names: &[&str], tls: Option<&TlsPolicy>, spoken: Option<&TlsPolicy>) -> Sifted {
            let id = |name: &str| ItemId::parse(&format!("id-{}", name.replace('.', "-"))).unwrap();
            let live = |name: &&str| Live {
                version: "v".into(),
                directory: "1".into(),
                names: [(*name).into()].into(),
                slots: Box::default(),
                https: Https::default(),
                removed: None,
                intact: true,
            };
            let index: Index = names.iter().map(|name| (id(name), live(name))).collect();
            let names: Names = names.iter().map(|name| ((*name).into(), id(name))).collect();
            let at = Moment { now: Timestamp::now(), heard: Timestamp::now() };
            let view =
                View { directory: &self.directory, index: &index, names: &names, owed: false, at, tls };
            self.shown.show(&view, spoken)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.directory.of_adapter("nginx").join(file)).unwrap_or_default()
        }

        fn tests(&self) -> usize {
            let log = fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
            log.lines().filter(|line| *line == "test").count()
        }
    }

    const NO_BAD: &str = "! grep -q bad DIR/map.conf || { echo no room for bad >&2; exit 1; }";

    #[test]
    fn what_is_refused_is_left_out_and_everything_else_goes_live() {
        let mut world = World::new(NO_BAD);
        let many: Vec<String> = (0..200).map(|number| format!("n{number:03}.example")).collect();
        let mut names: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(world.show(&names, None, None).applied.unwrap(), Applied::Changed { reloaded: true });
        names.extend(["bad1.example", "new.example", "zbad.example", "default"]);
        let shown = world.show(&names, None, None);
        assert_eq!(shown.applied.unwrap(), Applied::Changed { reloaded: true });
        let told: Vec<&str> = shown.refused.iter().map(|(name, _, _)| &**name).collect();
        assert_eq!(told, ["bad1.example", "zbad.example", "default"]);
        assert!(shown.refused[0].2.contains("no room for bad"), "{:?}", shown.refused);
        assert!(world.read("map.conf").contains("new.example") && !world.read("map.conf").contains("bad"));
        assert_eq!(world.read("map.conf").lines().count(), 201);
        // It is found out once, not at every look.
        let tests = world.tests();
        let again = world.show(&names, None, None);
        assert_eq!((again.applied.unwrap(), again.refused.len()), (Applied::Nothing, 3));
        assert_eq!(world.tests(), tests);
        assert!(tests < 20, "{tests} tests");
    }

    #[test]
    fn a_policy_that_is_refused_keeps_no_name_from_going_live() {
        let mut world = World::new("! grep -q MLKEM DIR/tls.conf || { echo unknown group >&2; exit 1; }");
        let plain = TlsPolicy { groups: vec![shared::domain::TlsGroup::X25519], ..TlsPolicy::default() };
        let unknown =
            TlsPolicy { groups: vec![shared::domain::TlsGroup::X25519MlKem768], ..TlsPolicy::default() };
        assert!(world.show(&["a.example"], Some(&plain), None).policy_refused.is_none());
        for _ in 0..2 {
            let shown = world.show(&["a.example", "b.example"], Some(&unknown), Some(&plain));
            shown.applied.unwrap();
            assert!(shown.policy_refused.is_some_and(|reason| reason.contains("unknown group")));
            assert_eq!(shown.policy, Some(plain.clone()));
            assert!(
                world.read("map.conf").contains("b.example") && world.read("tls.conf").contains("X25519;")
            );
        }
        let shown = world.show(&["a.example"], Some(&plain), Some(&plain));
        assert!(shown.policy_refused.is_none());
    }

    #[test]
    fn a_configuration_that_is_refused_whatever_we_write_is_no_item_s_fault() {
        let mut world = World::new("echo no such directive >&2; exit 1");
        let shown = world.show(&["a.example", "b.example"], None, None);
        assert!(shown.applied.unwrap_err().to_string().contains("no such directive"));
        assert!(shown.refused.is_empty());
        assert_eq!(world.read("map.conf"), "");
    }
}
