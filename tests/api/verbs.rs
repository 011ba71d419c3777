//! What each command and each route does to a site in each state, and what of it the site's CA is asked: with a second CA, a
//! second account and a profile. The table stands in the handbook.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, CaProxy, Endpoint, Hits, Rule},
    deadline::until_true,
    pebble::{Pebble, PebbleOptions},
    signpost::{Signpost, Started},
    stage::Stage,
};
use serde_json::{Value, json};

use crate::service::Service;

const LIMIT: Duration = Duration::from_secs(60);
const BEGIN: &str = "<!-- begin: written by tests/api/verbs.rs -->\n";
const END: &str = "<!-- end -->";
/// Where each site's certificates come from.
const FROM: [&str; 6] = ["--ca", "second", "--account", "billing", "--profile", "shortlived"];

/// How a site stands when a verb is used on it: the word, and what it means.
const STATES: [(&str, &str); 9] = [
    ("new", "added, nothing ordered yet"),
    ("valid", "has its certificate"),
    ("paused", "has its certificate, and is paused"),
    ("failing", "the CA refuses its order, in its pause"),
    ("waiting", "a limit of the CA, an hour to go"),
    ("revoked", "its certificate was revoked, nothing ordered since"),
    ("removed", "removed, within `issuer.grace_hours`"),
    ("unknown", "never was a site"),
    ("damaged", "its record can't be read"),
];

/// What is asked by a command. `NAME` stands for the site's name.
const COMMANDS: [&str; 14] = [
    "issue NAME",
    "renew NAME",
    "renew --force NAME",
    "retry NAME",
    "retry --new-order NAME",
    "revoke NAME",
    "status NAME",
    "limits NAME",
    "site show NAME",
    "site set NAME --tag x",
    "site pause NAME",
    "site resume NAME",
    "site rollback NAME",
    "site remove NAME",
];

/// What is asked by the API.
const ROUTES: [&str; 9] = [
    "GET /sites/NAME",
    "GET /certificates/NAME",
    "PATCH /sites/NAME",
    "POST /sites/NAME/pause",
    "POST /sites/NAME/resume",
    "POST /sites/NAME/retry",
    "POST /sites/NAME/renew",
    "POST /sites/NAME/rollback",
    "DELETE /sites/NAME",
];

struct Scene {
    service: Service,
    second: CaProxy,
    first: CaProxy,
    /// newOrder at the second CA, by name.
    orders: BTreeMap<String, Hits>,
    _pebbles: [Pebble; 2],
}

/// One use of a verb.
struct Use {
    verb: &'static str,
    name: String,
    /// The exit code or the status.
    answer: String,
    /// newOrder so far.
    before: u64,
    at_once: u64,
    revocations: u64,
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/handbook/commands.md")
}

fn name_of(state: &str, verb: &str) -> String {
    let place = COMMANDS.iter().chain(&ROUTES).position(|known| *known == verb).unwrap_or_default();
    format!("v{place}.{state}.example")
}

fn names_of(state: &str) -> Vec<String> {
    COMMANDS.iter().chain(&ROUTES).map(|verb| name_of(state, verb)).collect()
}

impl Scene {
    async fn open() -> Result<Self> {
        let Stage { mut signpost, redis_proxy, proxy, redis, pebble, .. } = Stage::trusting().await?;
        let other = Pebble::start(PebbleOptions { always_valid: true, ..PebbleOptions::default() }).await?;
        let second = CaProxy::start(&other).await?;
        let roots = second.trusted_roots_file().display().to_string();
        signpost.set("ca.second.directory", second.directory_url())?;
        signpost.set("ca.second.trusted_roots_file", roots)?;
        signpost.set("ca.second.agree_to_terms", true)?;
        // What fails is left alone for the rest of the story.
        let pauses: Vec<toml::Value> = vec![3600.0.into()];
        signpost.set("issuer.retry_seconds", pauses)?;
        let mut orders = BTreeMap::new();
        for (state, _) in STATES {
            for name in names_of(state) {
                let action = match state {
                    "failing" => Action::problem(400, "rejectedIdentifier", "policy forbids it"),
                    "waiting" => Action::Answer(
                        Answer::problem(429, "rateLimited", "too many certificates for this set of names")
                            .header("Retry-After", "3600"),
                    ),
                    _ => Action::call_before(|_| {}),
                };
                let counted = second.add_rule(Rule::on(Endpoint::NewOrder).for_name(&name).does(action));
                orders.insert(name, counted);
            }
        }
        let service = Service::over(signpost, redis, redis_proxy).await?;
        Ok(Self { service, second, first: proxy, orders, _pebbles: [pebble, other] })
    }

    fn signpost(&self) -> &Signpost {
        &self.service.signpost
    }

    fn asked(&self, name: &str) -> u64 {
        self.orders.get(name).map_or(0, Hits::count)
    }

    async fn issuer(&self, line: &[&str], names: &[String]) -> Result<()> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let run = self.signpost().issuer(&[line, &names].concat()).await?;
        run.success().with_context(|| format!("{line:?}")).map(drop)
    }

    /// Sites, each of its own, from a file of their source.
    async fn add(&self, source: &str, names: &[String]) -> Result<()> {
        let line = |name: &String| {
            json!({ "names": [name], "ca": "second", "account": "billing", "profile": "shortlived" })
                .to_string()
        };
        let file = names.iter().map(line).collect::<Vec<_>>().join("\n");
        let path = self.signpost().write("sites.ndjson", file)?.display().to_string();
        self.issuer(&["apply", "--source", source, &path], &[]).await
    }

    /// A daemon beside the API, until nothing is left to do.
    async fn let_the_daemon_work(&self) -> Result<()> {
        let mut node = self.signpost().another_node()?;
        let pauses: Vec<toml::Value> = vec![3600.0.into()];
        node.set("issuer.retry_seconds", pauses)?;
        let mut daemon: Started = node.start_run("issuer", &["run"])?;
        let idle = until_true("the daemon is idle", LIMIT, || async {
            let Ok(status) = self.signpost().issuer_json(&["status", "--limit", "1"]).await else {
                return false;
            };
            let load = &status["fleet"]["load"];
            let ready = load["ready"].as_object().is_some_and(|ready| ready.values().all(|count| count == 0));
            ready && load["overdue"] == 0 && self.leases().await.is_ok_and(|held| held == 0)
        });
        let idle = idle.await.with_context(|| daemon.stderr().unwrap_or_default());
        daemon.process.terminate(Duration::from_secs(20)).await?;
        idle
    }

    async fn leases(&self) -> Result<usize> {
        let mut held = 0;
        for key in self.keys("sp:{p*}:site:*").await? {
            let answer = self.service.redis.command(&["HEXISTS", &key, "lease_until"]).await?;
            held += usize::from(redis::from_redis_value::<bool>(answer)?);
        }
        Ok(held)
    }

    async fn keys(&self, pattern: &str) -> Result<Vec<String>> {
        Ok(redis::from_redis_value(self.service.redis.command(&["KEYS", pattern]).await?)?)
    }

    /// Puts the sites of each state into it.
    async fn set_up(&self) -> Result<()> {
        let mut issued = Vec::new();
        for state in ["valid", "paused", "revoked", "removed", "damaged"] {
            issued.extend(names_of(state));
        }
        self.issuer(&["account", "create", "--ca", "second", "--name", "billing"], &[]).await?;
        self.issuer(&[&["issue", "--slots", "8"][..], &FROM].concat(), &issued).await?;
        let troubled = [names_of("failing"), names_of("waiting")].concat();
        self.add("troubled", &troubled).await?;
        self.let_the_daemon_work().await?;
        self.issuer(&["site", "pause"], &names_of("paused")).await?;
        self.issuer(&["site", "remove"], &names_of("removed")).await?;
        for name in names_of("revoked") {
            self.issuer(&["revoke"], &[name]).await?;
        }
        for name in names_of("damaged") {
            let shown = self.signpost().issuer_json(&["site", "show", &name]).await?;
            let id = shown["site"].as_str().context("an id")?.to_owned();
            let [key] = &self.keys(&format!("sp:{{p*}}:site:{id}")).await?[..] else {
                anyhow::bail!("{name}: no record of {id}")
            };
            self.service.redis.command(&["HSET", key, "spec", "{"]).await?;
        }
        self.add("new", &names_of("new")).await
    }

    async fn command(&self, verb: &'static str, state: &str) -> Result<Use> {
        let name = name_of(state, verb);
        let before = (self.asked(&name), self.second.requests().of(Endpoint::Revoke));
        let line = verb.replace("NAME", &name);
        let mut words: Vec<&str> = vec!["--json"];
        words.extend(line.split(' '));
        let run = self.signpost().issuer(&words).await?;
        // Whatever it is, there is one document.
        let document = run.json().with_context(|| format!("{line}: {}", run.stderr))?;
        let code = run.code()?;
        ensure!(code < 5, "{line}: {}", run.stderr);
        ensure!(code == 0 || code == 3 || document["error"].is_string() || code == 1, "{line}: {document:#}");
        Ok(Use {
            verb,
            answer: code.to_string(),
            before: before.0,
            at_once: self.asked(&name) - before.0,
            revocations: self.second.requests().of(Endpoint::Revoke) - before.1,
            name,
        })
    }

    async fn route(&self, verb: &'static str, state: &str, token: &str) -> Result<Use> {
        let name = name_of(state, verb);
        let before = self.asked(&name);
        let body = verb.starts_with("PATCH").then(|| json!({ "tags": ["x"] }));
        let reply = self.service.ask(&verb.replace("NAME", &name), token, body.as_ref()).await?;
        let at_once = self.asked(&name) - before;
        ensure!(at_once == 0, "{verb}: the API never orders by itself");
        Ok(Use { verb, answer: reply.status.to_string(), before, at_once, revocations: 0, name })
    }

    /// What a verb came to: its answer, what the CA was asked at once, and what it was asked once the daemon had worked.
    fn cell(&self, used: &Use) -> String {
        let mut text = used.answer.clone();
        for (is_so, what) in [
            (used.at_once > 0, "asks"),
            (used.revocations > 0, "revokes"),
            (self.asked(&used.name) > used.before + used.at_once, "daemon asks"),
        ] {
            if is_so {
                text.push_str(&format!(", {what}"));
            }
        }
        text
    }

    fn table(&self, heading: &str, verbs: &[&str], uses: &BTreeMap<&str, Vec<Use>>) -> String {
        let mut text = format!("| {heading} |");
        for (state, _) in STATES {
            text.push_str(&format!(" {state} |"));
        }
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(STATES.len())));
        for verb in verbs {
            text.push_str(&format!("| `{verb}` |"));
            for (state, _) in STATES {
                let used = uses[state].iter().find(|used| used.verb == *verb);
                text.push_str(&format!(" {} |", used.map_or_else(String::new, |used| self.cell(used))));
            }
            text.push('\n');
        }
        text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_in_every_state() -> Result<()> {
    let scene = Scene::open().await?;
    scene.set_up().await?;
    let token = scene.service.token("verbs", "write").await?;
    let mut uses: BTreeMap<&str, Vec<Use>> = BTreeMap::new();
    for (state, _) in STATES {
        let used = uses.entry(state).or_default();
        for verb in COMMANDS {
            used.push(scene.command(verb, state).await.with_context(|| format!("{verb}, {state}"))?);
        }
        for verb in ROUTES {
            used.push(scene.route(verb, state, &token).await.with_context(|| format!("{verb}, {state}"))?);
        }
    }
    scene.let_the_daemon_work().await?;

    // Whoever asked: the site's CA, as the site's account, for the site's profile. The default CA only where there is no site.
    let accounts = scene.signpost().issuer_json(&["account", "list"]).await?;
    let accounts = accounts["accounts"].as_array().context("accounts")?;
    let is_billing = |account: &&Value| account["ca"] == "second" && account["name"] == "billing";
    let billing = accounts.iter().find(is_billing).context("the second account")?;
    for order in scene.second.orders() {
        ensure!(billing["url"] == json!(order.account), "{order:#?}\n{accounts:#?}");
    }
    let strays = scene.first.orders().into_iter().flat_map(|order| order.names);
    let strays: Vec<String> = strays.filter(|name| !name.ends_with(".unknown.example")).collect();
    let removed: Vec<String> =
        strays.iter().filter(|name| !name.ends_with(".removed.example")).cloned().collect();
    ensure!(removed.is_empty(), "asked of the default CA: {removed:?}");
    for (verb, state) in [("renew --force NAME", "valid"), ("POST /sites/NAME/renew", "valid")] {
        let shown = scene.signpost().issuer_json(&["site", "show", &name_of(state, verb)]).await?;
        let wanted = &shown["wanted"];
        ensure!(
            (&wanted["ca"], &wanted["account"], &wanted["profile"])
                == (&json!("second"), &json!("billing"), &json!("shortlived")),
            "{verb}: {shown:#}"
        );
        ensure!(shown["groups"][0]["certificates"][0]["ca"] == "second", "{verb}: {shown:#}");
    }

    let mut table = String::from("| state | |\n|---|---|\n");
    for (state, meaning) in STATES {
        table.push_str(&format!("| {state} | {meaning} |\n"));
    }
    table.push('\n');
    table.push_str(&scene.table("`issuer ...`", &COMMANDS, &uses));
    table.push('\n');
    table.push_str(&scene.table("`/api/v1`", &ROUTES, &uses));
    let text = std::fs::read_to_string(page())?;
    let (head, rest) = text.split_once(BEGIN).context("the page has a place for the table")?;
    let (_, tail) = rest.split_once(END).context("the page has a place for the table")?;
    let made = format!("{head}{BEGIN}{table}{END}{tail}");
    if std::env::var_os("SIGNPOST_WRITE_SESSION").is_some() {
        std::fs::write(page(), made)?;
        return Ok(());
    }
    let differing: Vec<(&str, &str)> =
        made.lines().zip(text.lines()).filter(|(now, then)| now != then).collect();
    ensure!(made == text, "commands.md is out of date: {differing:#?}");
    Ok(())
}
