//! An nginx, or files by name, whose own test refuses what a test wants it to refuse.

use super::{
    Applied, Names, Server, View,
    files::Files,
    nginx::Nginx,
    sieve::{Shown, Sifted},
};
use crate::{
    config::StoreConfig,
    disk::Directory,
    https::{Https, Moment},
    index::{Index, Live},
    status::RefusedItem,
    wire::ItemId,
};
use jiff::Timestamp;
use shared::{
    config::{AgentFiles, AgentNginx},
    domain::TlsPolicy,
};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

/// A server with a test of its own, a shell script that knows its directory as DIR; it counts its tests.
struct World {
    root: tempfile::TempDir,
    directory: Directory,
    adapter: &'static str,
    shown: Shown,
    commands: AgentNginx,
    /// The version of all items that is live.
    version: &'static str,
    /// What was refused last.
    refused: Vec<RefusedItem>,
}

fn id(name: &str) -> ItemId {
    ItemId::parse(&format!("id-{}", name.replace('.', "-"))).unwrap()
}

impl World {
    fn new(condition: &str) -> Self {
        Self::of("nginx", condition)
    }

    fn of(adapter: &'static str, condition: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(&StoreConfig::at(root.path().join("agent"))).unwrap();
        let shown = Shown::new(Box::new(super::traefik::Traefik));
        let commands = AgentNginx { test: Vec::new(), reload: Vec::new(), min_reload_seconds: 0 };
        let mut world = Self { root, directory, adapter, shown, commands, version: "1", refused: Vec::new() };
        world.restart(condition);
        world
    }

    /// The agent begins anew, and the server's test may be another.
    fn restart(&mut self, condition: &str) {
        let own = self.directory.of_adapter(self.adapter).display().to_string();
        let log = self.root.path().join("log").display().to_string();
        let script = format!("echo test >> {log}; {}", condition.replace("DIR", &own).replace("LOG", &log));
        let command = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
        let (test, reload) = (command(&script), command(&format!("echo reload >> {log}")));
        self.commands = AgentNginx { test: test.clone(), reload: reload.clone(), min_reload_seconds: 0 };
        let server: Box<dyn Server> = match self.adapter {
            "files" => Box::new(Files::new(AgentFiles { test, reload, min_reload_seconds: 0 })),
            _ => Box::new(Nginx::new(self.commands.clone())),
        };
        self.shown = Shown::new(server);
        self.shown.recall(&self.refused);
    }

    fn show(&mut self, names: &[&str], tls: Option<&TlsPolicy>, spoken: Option<&TlsPolicy>) -> Sifted {
        let live = |name: &&str| Live {
            version: "v".into(),
            directory: self.version.into(),
            names: [(*name).into()].into(),
            slots: Box::default(),
            https: Https::default(),
            removed: None,
            intact: true,
        };
        let index: Index = names.iter().map(|name| (id(name), live(name))).collect();
        let names: Names = names.iter().map(|name| ((*name).into(), id(name))).collect();
        let at = Moment { now: Timestamp::now(), heard: Timestamp::now() };
        let view = View {
            directory: &self.directory,
            index: &index,
            names: &names,
            former: None,
            owed: false,
            at,
            tls,
        };
        let sifted = self.shown.show(&view, spoken);
        let item = |(name, id, reason): &(std::sync::Arc<str>, ItemId, String)| {
            RefusedItem::new(self.adapter, id.clone(), vec![name.to_string()], reason.clone())
        };
        self.refused = sifted.refused.iter().map(item).collect();
        assert!(!self.directory.of_adapter(self.adapter).join(".former").exists());
        sifted
    }

    /// A version of items, on disk and live.
    fn publish(&mut self, names: &[&str], version: &'static str) {
        self.version = version;
        for id in names.iter().map(|name| id(name)) {
            fs::create_dir_all(self.directory.item(&id).join(version)).unwrap();
            let link = self.directory.live().join(id.as_str());
            fs::remove_file(&link).ok();
            let target = Path::new("../store").join(id.as_str()).join(version);
            std::os::unix::fs::symlink(target, link).unwrap();
        }
    }

    fn link(&self, name: &str) -> String {
        let link = self.directory.of_adapter(self.adapter).join(name);
        fs::read_link(link).unwrap().display().to_string()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.of_adapter(self.adapter).join(file)).unwrap_or_default()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    fn tests(&self) -> usize {
        self.log().lines().filter(|line| *line == "test").count()
    }
}

fn many(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number:03}.example")).collect()
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

const NO_BAD: &str = "! grep -q bad DIR/map.conf || { echo no room for bad >&2; exit 1; }";

#[test]
fn what_is_refused_is_left_out_and_everything_else_goes_live() {
    let mut world = World::new(NO_BAD);
    let many = many("n", 200);
    let mut names = texts(&many);
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
fn a_test_that_hangs_is_ended_and_says_nothing_about_names() {
    let mut world = World::new(
        "if grep -q bad DIR/map.conf; then exit 1; elif grep -q slow DIR/map.conf; then sleep 500; fi",
    );
    world.shown = Shown::new(Box::new(Nginx::new(world.commands.clone()).hurried(Duration::from_secs(3))))
        .resting(Duration::ZERO);
    world.show(&["a.example"], None, None).applied.unwrap();
    let map = world.read("map.conf");
    let hangs = |sifted: Sifted| {
        let told = sifted.applied.unwrap_err().to_string();
        assert!(told.contains("hangs") && told.contains("not done after 3 s"), "{told}");
        assert!(sifted.refused.is_empty() && sifted.policy_refused.is_none() && sifted.policy.is_none());
    };
    // There is no second test, and nobody is left out.
    let tests = world.tests();
    hangs(world.show(&["a.example", "b.example", "slow.example"], None, None));
    assert_eq!((world.tests(), world.read("map.conf")), (tests + 1, map.clone()));
    // Nor where something else is refused, and it hangs while that is found out.
    hangs(world.show(&["a.example", "bad.example", "slow.example"], None, None));
    assert_eq!(world.read("map.conf"), map);
    // It does not hang any more.
    let shown = world.show(&["a.example", "bad.example", "b.example"], None, None);
    assert_eq!(shown.applied.unwrap(), Applied::Changed { reloaded: true });
    assert_eq!(shown.refused.len(), 1);
    assert!(world.read("map.conf").contains("b.example"));
}

#[test]
fn whoever_waited_in_vain_does_not_in_every_pass() {
    let words = ["sh", "-c", "sleep 500"].map(str::to_owned);
    for (test, is_former_back) in [("sleep 500", true), ("", false)] {
        let mut world = World::new(test);
        if !is_former_back {
            world.commands.reload = words.to_vec();
        }
        let nginx = Nginx::new(world.commands.clone()).hurried(Duration::from_secs(1));
        world.shown = Shown::new(Box::new(nginx));
        let mut told = Vec::new();
        for names in [&["a.example"][..], &["a.example", "b.example"]] {
            told.push(world.show(names, None, None).applied.unwrap_err().to_string());
            assert_eq!(world.tests(), 1);
        }
        assert!(told[0].contains("hangs") && told[0].contains("tried again after 20"), "{told:?}");
        assert_eq!(told[0], told[1], "it is one problem");
        assert_eq!(told[0].contains("the former configuration is back"), is_former_back, "{told:?}");
        assert_eq!(world.read("map.conf").is_empty(), is_former_back);
    }
}

#[test]
fn a_server_that_takes_its_time_keeps_no_other_one_waiting() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(&StoreConfig::at(root.path().join("agent"))).unwrap();
    // Each waits for the other.
    let command = |own: &str, other: &str| {
        let at = |name| root.path().join(name).display().to_string();
        let script = format!(": > {}; until test -e {}; do sleep 0.02; done", at(own), at(other));
        ["sh", "-c", &script].map(str::to_owned).to_vec()
    };
    let (reload, min_reload_seconds) = (Vec::new(), 0);
    let nginx = AgentNginx { test: command("one", "two"), reload: reload.clone(), min_reload_seconds };
    let files = AgentFiles { test: command("two", "one"), reload, min_reload_seconds };
    let mut servers = [Shown::new(Box::new(Nginx::new(nginx))), Shown::new(Box::new(Files::new(files)))];
    let (index, names) = (Index::new(), Names::new());
    let at = Moment { now: Timestamp::now(), heard: Timestamp::now() };
    let view =
        View { directory: &directory, index: &index, names: &names, former: None, owed: true, at, tls: None };
    for (server, sifted) in crate::showing::show_all(&mut servers, &[view, view], &BTreeMap::new()) {
        assert!(sifted.applied.is_ok(), "{server}: {:?}", sifted.applied);
    }
}

#[test]
fn a_renewed_pair_that_is_refused_leaves_the_one_before_and_keeps_no_other_back() {
    let refuses = "case \"$(readlink -f DIR/bad.example)\" in */2) echo key too small >&2; exit 1;; esac";
    let mut world = World::of("files", refuses);
    let mut names = vec!["a.example", "bad.example"];
    world.publish(&names, "1");
    world.show(&names, None, None).applied.unwrap();
    names.push("c.example");
    world.publish(&names, "2");
    for pass in ["new", "known", "after a restart"] {
        if pass == "after a restart" {
            world.restart(refuses);
        }
        let shown = world.show(&names, None, None);
        assert_eq!(shown.applied.unwrap() == Applied::Nothing, pass != "new", "{pass}");
        let told: Vec<&str> = shown.refused.iter().map(|(_, _, reason)| &**reason).collect();
        assert_eq!(told, ["files refuses bad.example: key too small"], "{pass}");
        let links = names.iter().map(|name| world.link(name)).collect::<Vec<_>>();
        assert_eq!(
            links,
            ["../live/id-a-example", "../store/id-bad-example/1", "../live/id-c-example"],
            "{pass}"
        );
    }
    let former = world.directory.item(&id("bad.example")).join("1");
    assert!(world.shown.names_versions(&world.directory).contains(&former), "it is kept");
    world.publish(&names, "3");
    let shown = world.show(&names, None, None);
    assert_eq!((shown.applied.unwrap(), shown.refused.len()), (Applied::Changed { reloaded: true }, 0));
    assert_eq!(world.link("bad.example"), "../live/id-bad-example");
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
        assert!(world.read("map.conf").contains("b.example") && world.read("tls.conf").contains("X25519;"));
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

#[test]
fn after_a_restart_everything_that_was_served_is_served_on() {
    let mut world = World::new(NO_BAD);
    let (good, bad) = (many("n", 300), many("bad", 150));
    let mut names = texts(&good);
    world.show(&names, None, None).applied.unwrap();
    names.extend(texts(&bad));
    for _ in 0..2 {
        let before = world.tests();
        let shown = world.show(&names, None, None);
        shown.applied.unwrap();
        assert_eq!((shown.refused.len(), world.read("map.conf").lines().count()), (150, 300));
        assert!(world.tests() - before < 80, "{}", world.tests() - before);
        world.restart(NO_BAD);
    }
    // A new name comes with them: it is tried before those that are known.
    names.push("zz.example");
    let shown = world.show(&names, None, None);
    shown.applied.unwrap();
    assert_eq!((shown.refused.len(), world.read("map.conf").lines().count()), (150, 301));
    // What nobody had the time to try keeps the reason that was found once.
    assert!(
        shown.refused[0].2.starts_with("nginx refuses bad000.example: no room for bad"),
        "{:?}",
        shown.refused[0]
    );
    // With room for all of them they go live at once.
    world.restart("");
    assert!(world.show(&names, None, None).refused.is_empty());
    assert_eq!(world.read("map.conf").lines().count(), 451);
}

#[test]
fn names_that_there_was_no_time_for_come_with_the_next_passes() {
    let mut world = World::new(NO_BAD);
    // Every tenth of them is refused: one pass is not enough.
    let names: Vec<String> =
        (0..400)
            .map(|number| {
                if number % 10 == 0 { format!("n{number}-bad.example") } else { format!("n{number}.example") }
            })
            .collect();
    let mut held = 0;
    for pass in 0..12 {
        world.show(&texts(&names), None, None).applied.unwrap();
        let now = world.read("map.conf").lines().count();
        assert!(now > held || now == 360, "pass {pass}: {now} after {held}");
        held = now;
    }
    assert_eq!(held, 360);
}

#[test]
fn a_name_that_is_served_is_left_out_only_where_the_server_refuses_it_alone_and_all_of_its_files() {
    let mut world = World::new("");
    let good = many("n", 300);
    let mut names = texts(&good);
    names.extend(["bad.example", "zbad.example"]);
    world.show(&names, None, None).applied.unwrap();
    let before = world.read("map.conf");
    // Nothing new is taken, for a reason that has nothing to do with names that are served.
    world.restart(
        "! grep -q later DIR/map.conf && test -e DIR/once || { : > DIR/once; echo no memory >&2; exit 1; }",
    );
    names.push("later.example");
    world.show(&names, None, None).applied.ok();
    assert_eq!(world.read("map.conf"), before);
    // The configuration got less room than it had: even the present files are refused.
    world.restart(NO_BAD);
    let shown = world.show(&names, None, None);
    shown.applied.unwrap();
    assert_eq!((shown.refused.len(), world.read("map.conf").lines().count()), (2, 301));
}

#[test]
fn no_link_that_is_served_leads_elsewhere_during_a_test() {
    let look = "readlink DIR/n000.example >> LOG; ";
    let mut world = World::of("files", look);
    let good = many("n", 20);
    let mut names = texts(&good);
    world.show(&names, None, None).applied.unwrap();
    names.extend(["bad1.example", "bad2.example", "new.example"]);
    for _ in 0..2 {
        let refuses =
            "case \"$(readlink DIR/bad1.example) $(readlink DIR/bad2.example)\" in *live*) exit 1;; esac";
        world.restart(&format!("{look}{refuses}"));
        let shown = world.show(&names, None, None);
        shown.applied.unwrap();
        assert_eq!(shown.refused.len(), 2);
    }
    let links: Vec<String> = world
        .log()
        .lines()
        .filter(|line| line.contains('/') || *line == "nobody")
        .map(str::to_owned)
        .collect();
    assert!(links.len() > 4 && links.iter().all(|link| link.starts_with("../live/")), "{links:?}");
    assert!(world.read(".versions").contains("new.example"));
}

#[test]
fn a_test_that_was_cut_off_leaves_nothing_behind() {
    let mut world = World::new("");
    world.show(&["a.example"], None, None).applied.unwrap();
    // What is there when the agent is killed while nginx tests: the new files, and the former ones beside them.
    let own = world.directory.of_adapter("nginx");
    fs::create_dir(own.join(".former")).unwrap();
    fs::rename(own.join("map.conf"), own.join(".former/map.conf")).unwrap();
    fs::write(own.join("map.conf"), "bad.example id-bad-example;\n").unwrap();
    world.restart("exit 1");
    world.show(&["a.example", "bad.example"], None, None).applied.unwrap_err();
    assert_eq!(world.read("map.conf"), "a.example id-a-example;\n");
}
