//! Broken names, each with its own verdict and remedy; healthy ones, none of which is suspected. The CA is not asked.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use harness::{ca_proxy::Endpoint, ports::LoopbackNet};
use serde_json::Value;

use super::surroundings::{
    AUTHORITY, Animal, CA_IDENTITY, CLOSED, DEAD_AUTHORITY, FOREIGN, LAME_AUTHORITY, NO_WEB_SERVER, OwnZone,
    SECOND_AUTHORITY, SECOND_FRONTEND, SILENT, Surroundings, ZONE,
};

/// A name, its records (its own `A` record of the frontend where there are none), its server block where it has one of its own,
/// and what is said of it: the verdict, the code, and words of the remedy.
struct Case {
    name: &'static str,
    records: String,
    server: Option<&'static str>,
    said: Said,
}

type Said = (&'static str, &'static str, &'static str);

const READY: Said = ("ready", "", "");

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_name_has_its_verdict_and_no_healthy_one_is_suspected() -> Result<()> {
    let net = LoopbackNet::pick()?;
    let (broken, healthy) = (broken(net), healthy(net));
    ensure!(broken.len() >= 40 && healthy.len() >= 40, "{} broken, {} healthy", broken.len(), healthy.len());
    let animals: Vec<Animal> = broken
        .iter()
        .chain(&healthy)
        .map(|case| Animal {
            name: case.name,
            records: case.records.clone(),
            server: case.server.map(str::to_owned),
        })
        .collect();
    let of_account = |url: &str| {
        vec![
            format!("caa-own @A\ncaa-own CAA 0 issue \"{CA_IDENTITY}; accounturi={url}\""),
            format!(
                "caa-both @A\ncaa-both CAA 0 issue \"{CA_IDENTITY}; accounturi={url}; validationmethods=http-01\""
            ),
        ]
    };
    let trust = format!("trust-anchors {{ bogus.example. static-ds 12345 13 2 \"{}\"; }};", "ab".repeat(32));
    let surroundings = Surroundings::make(net, &animals, &zones(net), &trust, false, of_account).await?;
    let stage = &surroundings.stage;
    stage.proxy.reset();

    let names: Vec<String> = broken.iter().chain(&healthy).map(|case| whole(case.name)).collect();
    let mut line = vec!["--json", "check"];
    line.extend(names.iter().map(String::as_str));
    let document = stage.signpost.issuer(&line).await?.with_code(1)?.json()?;
    let answers = document["names"].as_array().context("names")?;
    ensure!(answers.len() == names.len(), "{} answers to {} names", answers.len(), names.len());
    let mut wrong = Vec::new();
    for (case, answer) in broken.iter().chain(&healthy).zip(answers) {
        if let Err(error) = judge(case, answer) {
            wrong.push(format!("{}: {error}", case.name));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), names.len(), wrong.join("\n\n"));
    ensure!(document["will_fail"].as_u64() > Some(30), "{document:#}");

    // One look at the CA itself, and nothing that it counts.
    let asked = stage.proxy.requests();
    ensure!(asked.total() == 1 && asked.of(Endpoint::Directory) == 1, "{asked:?}");
    ensure!(stage.proxy.orders().is_empty(), "the CA was asked for something");

    // In words, and in Korean.
    let text =
        stage.signpost.issuer(&["check", "missing.zoo.example", "rule.zoo.example"]).await?.with_code(1)?;
    for words in
        ["will fail", "create an A or AAAA record", "The CA would probably say: dns: DNS problem: NXDOMAIN"]
    {
        ensure!(text.stdout.contains(words), "{words:?} is missing:\n{}", text.stdout);
    }
    let line = ["check", "--lang", "ko", "missing.zoo.example"];
    let korean = stage.signpost.issuer(&line).await?.with_code(1)?.stdout;
    ensure!(
        korean.contains("실패 예상") && korean.contains("레코드를") && !korean.contains("create an"),
        "{korean}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_names_are_looked_at_in_one_run() -> Result<()> {
    let net = LoopbackNet::pick()?;
    let many = Animal { name: "many", records: "*.many @A".to_owned(), server: None };
    let surroundings = Surroundings::make(net, &[many], &[], "", false, |_| Vec::new()).await?;
    let names: String = (0..1_000).map(|number| format!("n{number}.many.{ZONE}\n")).collect();
    let file = surroundings.stage.signpost.write("names", names)?;
    let began = Instant::now();
    let document =
        surroundings.stage.signpost.issuer_json(&["check", "--file", &file.display().to_string()]).await?;
    println!("1,000 names in {:.1} s", began.elapsed().as_secs_f64());
    ensure!(document["ready"] == 1_000, "{} are ready", document["ready"]);
    Ok(())
}

/// Pebble follows redirects as any client does, to any port and after a 303, and knows no CAA: where it is as strict as a CA, it says
/// what the strict validator says.
#[tokio::test(flavor = "multi_thread")]
async fn the_strict_validator_and_pebble_agree_where_pebble_is_strict() -> Result<()> {
    const STRICT: [&str; 28] = [
        "missing",
        "empty",
        "dangling",
        "foreign",
        "left",
        "closed",
        "rule",
        "loop",
        "nowhere",
        "no-token",
        "wrong-path",
        "password",
        "bot-filter",
        "limited",
        "soft-404",
        "long-404",
        "other-client",
        "bom",
        "no-content",
        "broken-site",
        "plain",
        "second",
        "alias",
        "moved",
        "temporary",
        "permanent",
        "query",
        "cdn",
    ];
    let net = LoopbackNet::pick()?;
    let cases: Vec<Case> =
        broken(net).into_iter().chain(healthy(net)).filter(|case| STRICT.contains(&case.name)).collect();
    ensure!(cases.len() == STRICT.len(), "{} of {}", cases.len(), STRICT.len());
    let animals: Vec<Animal> = cases
        .iter()
        .map(|case| Animal {
            name: case.name,
            records: case.records.clone(),
            server: case.server.map(str::to_owned),
        })
        .collect();
    let mut surroundings = Surroundings::make(net, &animals, &[], "", true, |_| Vec::new()).await?;
    let names: Vec<String> = cases.iter().map(|case| whole(case.name)).collect();
    let mut check = vec!["--json", "check"];
    check.extend(names.iter().map(String::as_str));
    let checked = surroundings.stage.signpost.issuer(&check).await?.with_code(1)?.json()?;
    surroundings.stage.signpost.set("issuer.self_check", "off")?;
    let mut issue = vec!["--json", "issue", "--slots", "4"];
    issue.extend(names.iter().map(String::as_str));
    let issued = surroundings.stage.signpost.issuer(&issue).await?.with_code(1)?.json()?;
    let mut differ = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let (ours, theirs) = (&checked["names"][place], &issued["results"][place]);
        if (ours["verdict"] == "ready") != (theirs["status"] == "issued") {
            differ.push(format!("{name}: we say {ours:#}\nPebble {theirs:#}"));
        }
    }
    ensure!(differ.is_empty(), "{}", differ.join("\n\n"));
    Ok(())
}

fn judge(case: &Case, answer: &Value) -> Result<()> {
    let (verdict, code, remedy) = case.said;
    ensure!(answer["verdict"] == verdict, "expected {verdict}: {answer:#}");
    if code.is_empty() {
        return Ok(());
    }
    let remarks = answer["remarks"].as_array().context("remarks")?;
    let remark = remarks.iter().find(|remark| remark["code"] == code);
    let remark = remark.with_context(|| format!("expected {code}: {answer:#}"))?;
    ensure!(remark["weight"] == verdict, "{code} is no reason: {answer:#}");
    let said = remark["remedy"].as_str().unwrap_or_default();
    ensure!(said.contains(remedy), "{remedy:?} is not in the remedy {said:?}");
    for text in ["what", "remedy", "what_ko", "remedy_ko"].map(|key| remark[key].as_str().unwrap_or_default())
    {
        ensure!(!text.is_empty() && !text.contains('?'), "a word is missing: {text}");
    }
    ensure!(verdict == "doubtful" || remark["ca_answer"].is_string(), "what will the CA say? {remark:#}");
    Ok(())
}

fn whole(name: &str) -> String {
    name.strip_suffix('.').map_or(format!("{name}.{ZONE}"), str::to_owned)
}

fn fails(name: &'static str, code: &'static str, remedy: &'static str) -> Case {
    Case { name, records: format!("{name} @A"), server: None, said: ("will-fail", code, remedy) }
}

fn doubtful(name: &'static str, code: &'static str, remedy: &'static str) -> Case {
    Case { said: ("doubtful", code, remedy), ..fails(name, code, remedy) }
}

fn ready(name: &'static str) -> Case {
    Case { said: READY, ..fails(name, "", "") }
}

impl Case {
    /// Instead of the frontend's own record.
    fn records(self, records: impl Into<String>) -> Self {
        let name = self.name;
        let records: String = records.into();
        let lines: Vec<String> = records.split('|').map(|line| format!("{name} {}", line.trim())).collect();
        Self { records: if records.is_empty() { String::new() } else { lines.join("\n") }, ..self }
    }

    fn and(self, line: impl AsRef<str>) -> Self {
        Self { records: format!("{}\n{}", self.records, line.as_ref()), ..self }
    }

    fn server(self, server: &'static str) -> Self {
        Self { server: Some(server), ..self }
    }
}

fn broken(net: LoopbackNet) -> Vec<Case> {
    let a = |number: u8| format!("A {}", net.host(number));
    let caa = |value: &str| format!("@A|CAA {value}");
    let hops: &str = "location ~ \"/hop([0-9]+)x*$\" { return 302 http://hops.zoo.example:@PORT${uri}x; } location / { return 302 http://hops.zoo.example:@PORT/hop1; }";
    vec![
        // The name.
        fails("missing", "nxdomain", "create an A or AAAA record").records(""),
        fails("empty", "no-address", "create an A or AAAA record").records("TXT \"nothing\""),
        fails("dangling", "dangling-alias", "CNAME").records("CNAME gone.zoo.example."),
        fails("www.all-lame.example.", "nameservers-fail", "the owner of the zone must repair it").records(""),
        fails("www.dead.example.", "nameservers-fail", "").records(""),
        fails("www.bogus.example.", "dnssec-bogus", "DS record").records(""),
        doubtful("www.half-lame.example.", "lame-server", "Remove ns22.half-lame.example").records(""),
        doubtful("www.half-dead.example.", "silent-server", "port 53").records(""),
        doubtful("www.torn.example.", "servers-disagree", "transfer").records(""),
        fails("under_score", "name-refused", "Correct the name"),
        // CAA.
        fails("caa-other", "caa-other-issuer", "caa-other.zoo.example CAA 0 issue \"ca.example\"")
            .records(caa("0 issue \"other.example\"")),
        fails("caa-nobody", "caa-other-issuer", "Add:").records(caa("0 issue \";\"")),
        fails("www.caa-parent", "caa-other-issuer", "caa-parent.zoo.example CAA")
            .and("caa-parent CAA 0 issue \"other.example\""),
        fails("caa-alias", "caa-other-issuer", "Add:").records("CNAME caa-target").and("caa-target @A\ncaa-target CAA 0 issue \"other.example\""),
        fails("caa-account", "caa-other-account", "accounturi=https://")
            .records(caa("0 issue \"ca.example; accounturi=https://ca.example/acct/7\"")),
        fails("caa-method", "caa-other-method", "validationmethods")
            .records(caa("0 issue \"ca.example; validationmethods=dns-01\"")),
        fails("caa-critical", "caa-critical", "critical flag").records(caa("128 tbs \"unknown\"")),
        fails("*.caa-wild", "caa-other-issuer", "CAA 0 issuewild").records("")
            .and("caa-wild CAA 0 issue \"ca.example\"\ncaa-wild CAA 0 issuewild \";\""),
        // Where it leads.
        fails("foreign", "frontend-answered", "point the A record").records(a(FOREIGN)),
        fails("left", "frontend-page", "point the A record").records(a(FOREIGN)),
        fails("closed", "no-connection", "point the A record").records(a(CLOSED)),
        fails("silent", "no-answer", "point the A record").records(a(SILENT)),
        fails("ssh", "no-answer", "point the A record").records(a(NO_WEB_SERVER)),
        fails("dead-v6", "no-connection", "point the AAAA record").records("AAAA ::2"),
        doubtful("half-v6", "ipv6-dead", "remove the AAAA record").records("@A|AAAA ::2"),
        fails("other-v6", "ipv6-differs", "remove the AAAA record of other-v6").records("@A|AAAA ::1")
            .server("if ($server_addr = \"::1\") { return 404; } @RULE"),
        doubtful("other-v4", "ipv4-differs", "remove the A record").records(format!("AAAA ::1|{}", a(FOREIGN))),
        doubtful("one-of-two", "one-of-many", "Or remove the A record").records(format!("@A|{}", a(FOREIGN))),
        // What the frontend does with it.
        fails("rule", "frontend-answered", "the redirect rule is missing in its port-80 server for rule")
            .server("location / { return 404; }"),
        fails("https-first", "site-redirect", "Put the redirect rule first").server("return 301 https://$host$request_uri;"),
        fails("see-other", "redirect-refused", "Use 302").server("return 303 http://acme.hoster.example:@PORT$request_uri;"),
        fails("port", "redirect-refused", "name no port").server("return 302 http://acme.hoster.example:8080$request_uri;"),
        fails("www-first", "site-redirect", "Put the redirect rule first").and(format!("www.www-first {}", a(CLOSED)))
            .server("return 301 http://www.$host:@PORT$request_uri;"),
        fails("no-location", "frontend-answered", "redirect rule is missing").server("return 302;"),
        fails("multiple", "frontend-answered", "redirect rule is missing").server("return 300;"),
        fails("half-escape", "redirect-refused", "whole").server("return 302 http://acme.hoster.example:@PORT/%zz;"),
        fails("loop", "redirect-refused", "once").server("return 302 http://$host:@PORT$request_uri;"),
        fails("hops", "site-redirect", "Put the redirect rule first").server(hops),
        fails("slash", "redirect-refused", "Put a slash").server("return 302 http://acme.hoster.example.well-known/acme-challenge/x;"),
        fails("ftp", "redirect-refused", "Redirect to http://").server("return 302 ftp://acme.hoster.example$request_uri;"),
        // A host of a network of one's own, as this CA may know it: not here.
        fails("bare", "redirect-target-dns", "public DNS records").server("return 302 http://acme$request_uri;"),
        fails("nowhere", "redirect-target-dns", "public DNS records").server("return 302 http://gone.zoo.example:@PORT$request_uri;"),
        fails("no-token", "validation-unknown-token", "same store").server("return 302 http://acme.hoster.example:@PORT/.well-known/acme-challenge/aaaaaaaaaaaaaaaaaaaaaa;"),
        fails("wrong-path", "validation-unknown-token", "same store").server("return 302 http://acme.hoster.example:@PORT/challenges$request_uri;"),
        fails("password", "frontend-guarded", "password").server("return 401;"),
        fails("bot-filter", "frontend-guarded", "bot filter").server("return 403;"),
        fails("limited", "frontend-limited", "exempt").server("return 429;"),
        fails("soft-404", "frontend-content", "redirect rule is missing").server("return 200 \"page not found\";"),
        fails("long-404", "frontend-page", "redirect rule is missing")
            .server("return 200 \"<html>This page could not be found, and to say so it takes many more bytes than any key authorization has: that is why it goes on and on.</html>\";"),
        fails("other-client", "frontend-content", "redirect rule is missing")
            .server("location ~ \"/([A-Za-z0-9_-]+)$\" { return 200 \"$1.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI\"; }"),
        fails("bom", "frontend-content", "redirect rule is missing")
            .server("location / { content_by_lua_block { ngx.print(\"\\239\\187\\191\", ngx.var.uri) } }"),
        fails("no-content", "frontend-answered", "redirect rule is missing").server("return 204;"),
        fails("cut", "no-answer", "which program has the port").server("return 444;"),
        fails("broken-site", "frontend-answered", "redirect rule is missing").server("return 502;"),
    ]
}

fn healthy(net: LoopbackNet) -> Vec<Case> {
    let a = |number: u8| format!("A {}", net.host(number));
    let caa = |value: &str| format!("@A|CAA {value}");
    let long = "a-label-of-sixty-three-characters-is-as-long-as-any-may-be-here";
    vec![
        ready("plain"),
        ready("second").records(a(SECOND_FRONTEND)),
        ready("both").records(format!("@A|{}", a(SECOND_FRONTEND))),
        ready("v6").records("AAAA ::1"),
        ready("v6-and-v4").records("@A|AAAA ::1"),
        ready("all").records(format!("@A|{}|AAAA ::1", a(SECOND_FRONTEND))),
        ready("alias").records("CNAME plain"),
        ready("alias-of-alias").records("CNAME alias"),
        ready("alias-elsewhere").records("CNAME www.whole.example."),
        ready("any.wild").and("*.star @A"),
        ready("made-up.star").records(""),
        ready("very.deep.below.the.zone"),
        ready(long),
        ready("xn--vj4bp7i"),
        ready("www.whole.example.").records(""),
        ready("www.two.example.").records(""),
        ready("www.spread.example.").records(""),
        ready("whole.example.").records(""),
        ready("cdn").records(a(FOREIGN)),
        // CAA.
        ready("caa").records(caa("0 issue \"ca.example\"")),
        ready("caa-upper").records(caa("0 issue \"CA.Example\"")),
        ready("caa-spaces").records(caa("0 issue \" ca.example ; \"")),
        ready("caa-critical-issue").records(caa("128 issue \"ca.example\"")),
        ready("caa-two").records("@A|CAA 0 issue \"other.example\"|CAA 0 issue \"ca.example\""),
        ready("caa-iodef").records(caa("0 iodef \"mailto:a@example.com\"")),
        ready("caa-mail").records(caa("0 issuemail \";\"")),
        ready("caa-wild-only").records(caa("0 issuewild \";\"")),
        ready("caa-unknown").records(caa("0 tbs \"unknown\"")),
        ready("caa-http").records(caa("0 issue \"ca.example; validationmethods=dns-01,http-01\"")),
        ready("caa-parameter").records(caa("0 issue \"ca.example; priority=1\"")),
        ready("caa-own").records(""),
        ready("caa-both").records(""),
        ready("allowed.caa-closed").and("allowed.caa-closed CAA 0 issue \"ca.example\"\ncaa-closed CAA 0 issue \";\""),
        ready("*.caa-wild-ok").records("").and("caa-wild-ok CAA 0 issue \";\"\ncaa-wild-ok CAA 0 issuewild \"ca.example\""),
        // The way.
        ready("moved").server("return 301 http://acme.hoster.example:@PORT$request_uri;"),
        ready("temporary").server("return 307 http://acme.hoster.example:@PORT$request_uri;"),
        ready("permanent").server("return 308 http://acme.hoster.example:@PORT$request_uri;"),
        ready("two-hops").server("return 302 http://plain.zoo.example:@PORT$request_uri;"),
        ready("relative").server("location = /x { return 404; } location / { if ($args = \"\") { return 302 \"$uri?again\"; } return 302 http://acme.hoster.example:@PORT$uri; }"),
        ready("query").server("return 302 http://acme.hoster.example:@PORT$uri?from=$host;"),
        ready("capital").server("return 302 http://ACME.Hoster.Example:@PORT$request_uri;"),
        ready("guide").server("location ~ \"^/.well-known/acme-challenge/(.*)$\" { return 302 http://acme.hoster.example:@PORT/.well-known/acme-challenge/$1; }"),
        ready("busy").server("add_header Strict-Transport-Security max-age=60 always; @RULE"),
        ready("proxied").server("location / { proxy_set_header Host acme.hoster.example; proxy_pass http://@VALIDATION; }"),
    ]
}

fn zones(net: LoopbackNet) -> Vec<OwnZone> {
    let zone = |apex, servers: &[u8], content: &[(u8, &str)]| OwnZone {
        apex,
        servers: servers.to_vec(),
        content: content.iter().map(|(server, text)| (*server, (*text).to_owned())).collect(),
    };
    let other = format!("www A {}", net.host(FOREIGN));
    let second = format!("www A {}", net.host(SECOND_FRONTEND));
    vec![
        zone("all-lame.example", &[LAME_AUTHORITY], &[]),
        zone("dead.example", &[DEAD_AUTHORITY], &[]),
        zone("bogus.example", &[AUTHORITY], &[(AUTHORITY, "www @A")]),
        zone("half-lame.example", &[AUTHORITY, LAME_AUTHORITY], &[(AUTHORITY, "www @A")]),
        zone("half-dead.example", &[AUTHORITY, DEAD_AUTHORITY], &[(AUTHORITY, "www @A")]),
        zone(
            "torn.example",
            &[AUTHORITY, SECOND_AUTHORITY],
            &[(AUTHORITY, "www @A"), (SECOND_AUTHORITY, &other)],
        ),
        zone("whole.example", &[AUTHORITY], &[(AUTHORITY, "@ @A\nwww @A")]),
        zone(
            "two.example",
            &[AUTHORITY, SECOND_AUTHORITY],
            &[(AUTHORITY, "www @A"), (SECOND_AUTHORITY, "www @A")],
        ),
        // Each server names another of our frontends.
        zone(
            "spread.example",
            &[AUTHORITY, SECOND_AUTHORITY],
            &[(AUTHORITY, "www @A"), (SECOND_AUTHORITY, &second)],
        ),
    ]
}
