//! Whole passes against an HTTPS server that says what the test wants: what is published, and above all what is not
//! withdrawn.

use crate::{
    disk::Directory,
    formats::Format,
    sync_world::{Answers, FIRST, World, after, del, page},
    test_pki::days,
    wire::ItemId,
};
use openssl::{pkey::PKey, x509::X509};
use serde_json::json;
use shared::domain::Slot;
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

#[tokio::test]
async fn publishes_reloads_once_and_then_does_nothing() {
    let mut world = World::new();
    let dual = world.offer("dual1", &["d.example", "*.d.example"], &Slot::ALL);
    world.everything(&[dual, world.simple("single1"), world.offer("waiting1", &["w.example"], &[])]);
    let report = world.sync().await.unwrap();
    assert!(report.is_success() && report.reloaded, "{}", report.problems());
    assert_eq!((report.published.len(), report.unchanged), (2, 1));
    assert_eq!(world.map(), "*.d.example dual1;\nd.example dual1;\nsingle1.example single1;\n");
    assert!(world.live("dual1/rsa-privkey.pem").exists());

    let report = world.sync().await.unwrap();
    assert_eq!((report.published.len(), report.reloaded), (0, false));
    assert_eq!(world.nginx_log(), "test\nreload\n");
    let asked = world.answers.lock().unwrap().asked.clone();
    assert_eq!(
        asked,
        [format!("200 {FIRST}"), "200 /v1/bundles".to_owned(), format!("200 {}", after("one"))]
    );
}

#[tokio::test]
async fn a_renewal_is_published_without_a_reload() {
    let mut world = World::new();
    world.everything(&[world.simple("shop")]);
    world.sync().await.unwrap();
    let before = fs::read(world.live("shop/ecdsa-fullchain.pem")).unwrap();
    world.after("one", "two", &[world.simple("shop")]);
    let report = world.sync().await.unwrap();
    assert_eq!((report.published.len(), report.reloaded), (1, false));
    assert_ne!(fs::read(world.live("shop/ecdsa-fullchain.pem")).unwrap(), before);
    // It goes on from there, also after a restart.
    world.after("two", "three", &[world.simple("other")]);
    world.restart();
    assert_eq!(world.sync().await.unwrap().published.len(), 1);
}

#[tokio::test]
async fn no_failure_of_the_server_changes_anything() {
    let mut world = World::new();
    let items = [world.simple("a1"), world.simple("b1")];
    world.everything(&items);
    world.sync().await.unwrap();
    let (map, key) = (world.map(), fs::read(world.live("a1/privkey.pem")).unwrap());
    let whole = page("two", false, &[del("a1")]);
    for (status, body) in [
        (500, String::new()),
        (503, whole.clone()),
        (401, String::new()),
        (403, whole.clone()),
        (404, String::new()),
        (204, String::new()),
        (200, String::new()),
        (200, "{}".to_owned()),
        (200, whole[..whole.len() - 1].to_owned()),
        (200, "<html>maintenance</html>".to_owned()),
        // Everything has to be asked for again, and that fails.
        (410, r#"{"resync":"epoch"}"#.to_owned()),
    ] {
        world.answer(&after("one"), status, body);
        world.answer(FIRST, 500, "");
        assert!(world.sync().await.is_err(), "{status}");
    }
    // The second page fails: nothing of the first is taken out of service.
    world.answer(&after("one"), 200, page("half", true, &[del("a1")]));
    assert!(world.sync().await.is_err());
    // Everything is asked for again, and there is nothing at all: no order to withdraw everything.
    for why in ["epoch", "scope", "compacted"] {
        world.answer(&after("one"), 410, format!(r#"{{"resync":"{why}"}}"#));
        world.answer(FIRST, 200, page("one", false, &[]));
        let report = world.sync().await.unwrap();
        assert!(report.problems().contains("went back"), "{why}: {report:?}");
        assert!(!report.is_success());
    }
    // The server is gone.
    world.config.server = "https://localhost:1".parse().unwrap();
    world.restart();
    assert!(world.sync().await.is_err());

    assert_eq!(world.map(), map);
    assert_eq!(fs::read(world.live("a1/privkey.pem")).unwrap(), key);
    assert_eq!(world.nginx_log(), "test\nreload\n");
}

#[tokio::test]
async fn what_is_gone_leaves_the_map_keeps_its_files_and_can_come_back() {
    let mut world = World::new();
    let items = [world.simple("a1"), world.simple("b1")];
    world.everything(&items);
    world.sync().await.unwrap();
    world.after("one", "two", &[del("b1"), del("never-seen")]);
    let report = world.sync().await.unwrap();
    assert_eq!(report.removed, [ItemId::parse("b1").unwrap()]);
    assert!(report.is_success() && report.reloaded);
    assert_eq!(world.map(), "a1.example a1;\n");
    assert!(world.live("b1/privkey.pem").exists());

    world.after("two", "three", &items[1..]);
    world.sync().await.unwrap();
    assert!(world.map().contains("b1.example"), "it is back");
    // Asked for everything, it is not there: gone as well. A day later the files go.
    world.answer(&after("three"), 410, r#"{"resync":"scope"}"#);
    world.everything(&items[..1]);
    assert_eq!(world.sync().await.unwrap().removed.len(), 1);
    let directory = Directory::existing(&world.config.store);
    directory.mark_removed(&ItemId::parse("b1").unwrap(), days(-2)).unwrap();
    world.restart();
    let report = world.sync().await.unwrap();
    assert_eq!(report.deleted.len(), 1);
    assert!(!world.live("b1").exists());
}

#[tokio::test]
async fn many_gone_at_once_need_a_confirmation() {
    let mut world = World::new();
    let items: Vec<_> = (0..24).map(|number| world.simple(&format!("i{number:03}"))).collect();
    world.everything(&items);
    assert_eq!(world.sync().await.unwrap().published.len(), 24);
    let gone: Vec<String> = (2..24).map(|number| del(&format!("i{number:03}"))).collect();
    world.after("one", "two", &gone);
    world.after("two", "two", &[]);
    let report = world.sync().await.unwrap();
    assert!(report.removed.is_empty() && report.withheld.is_some());
    assert_eq!(world.map().lines().count(), 24);
    // It is remembered, also by another process, and one of them comes back.
    world.restart();
    world.after("two", "three", &items[5..6]);
    world.after("three", "three", &[]);
    assert!(world.sync().await.unwrap().withheld.is_some_and(|text| text.contains("21 of 24")));
    let report = world.agent.pass(Duration::ZERO, true).await.unwrap();
    assert_eq!((report.removed.len(), world.map().lines().count()), (21, 3));
    assert!(world.sync().await.unwrap().is_success());
}

#[tokio::test]
async fn one_bad_item_is_reported_tried_again_and_the_others_are_published() {
    let mut world = World::new();
    let wrong_name = world.offer("wrongname", &["a.example"], &[Slot::Ecdsa]);
    let of_wrong_name = |answers: &mut Answers| {
        let bundle = answers.bundles.get_mut("wrongname").unwrap();
        *bundle = bundle.replace("a.example", "other.example");
    };
    of_wrong_name(&mut world.answers.lock().unwrap());
    let broken = world.simple("broken");
    let refusal = r#"{"id":"broken","error":"can't be read"}"#.to_owned();
    let bundle = world.answers.lock().unwrap().bundles.insert("broken".to_owned(), refusal).unwrap();
    let gone = world.simple("gone");
    world.answers.lock().unwrap().bundles.remove("gone");
    let dangerous = world.simple("evil").replace("evil.example", "evil.example; include /etc/shadow");
    world.answers.lock().unwrap().bundles.entry("evil".to_owned()).and_modify(|bundle| {
        *bundle = bundle.replace("evil.example", "evil.example; include /etc/shadow");
    });
    world.everything(&[wrong_name, broken, gone, dangerous, world.simple("good")]);
    let report = world.sync().await.unwrap();
    assert_eq!((report.published.len(), report.failed.len()), (1, 3), "{}", report.problems());
    assert_eq!(world.map(), "good.example good;\n");
    for words in ["does not cover other.example", "can't be read", "no hostname"] {
        assert!(report.problems().contains(words), "{words} in {}", report.problems());
    }
    assert!(!report.problems().contains("BEGIN"));
    // What failed is asked for again, without being told of again.
    world.answers.lock().unwrap().bundles.insert("broken".to_owned(), bundle);
    world.restart();
    let report = world.sync().await.unwrap();
    assert_eq!((report.published.len(), report.failed.len()), (1, 3), "{}", report.problems());
    assert!(world.map().contains("broken.example"));
    // One that was announced and isn't given out is one that fails, until somebody says that it is gone.
    assert!(report.problems().contains("has not said that it is gone"), "{}", report.problems());
    world.after("one", "two", &[del("gone")]);
    world.after("two", "two", &[]);
    assert_eq!(world.sync().await.unwrap().failed.len(), 2);
    world.answer(&after("two"), 410, r#"{"resync":"scope"}"#);
    world.everything(&[world.simple("good")]);
    assert!(world.sync().await.unwrap().is_success(), "the others are not listed any more");
}

#[tokio::test]
async fn a_certificate_for_names_in_upper_case_is_served() {
    let mut world = World::new();
    let upper = world.offer("shop", &["SHOP.Example", "*.SHOP.example"], &[Slot::Ecdsa]);
    world.everything(&[upper]);
    let report = world.sync().await.unwrap();
    assert!(report.is_success() && report.published.len() == 1, "{}", report.problems());
    assert_eq!(world.map(), "*.shop.example shop;\nshop.example shop;\n");
    // Renewed for names in lower case, it is the same names.
    let lower = world.offer("shop", &["shop.example", "*.shop.example"], &[Slot::Ecdsa]);
    world.after("one", "two", &[lower]);
    let report = world.sync().await.unwrap();
    assert!(report.is_success() && !report.reloaded, "{}", report.problems());
}

#[tokio::test]
async fn what_can_t_be_deleted_of_one_item_is_told_and_the_others_are_cleared() {
    let mut world = World::new();
    let root = world.config.store.directory.display().to_string();
    world.everything(&["a1", "b1", "c1", "d1"].map(|id| world.simple(id)));
    world.sync().await.unwrap();
    for (cursor, next) in [("one", "two"), ("two", "three")] {
        world.after(cursor, next, &[world.simple("c1"), world.simple("d1")]);
        world.sync().await.unwrap();
    }
    world.after("three", "four", &[del("a1"), del("b1")]);
    assert_eq!(world.sync().await.unwrap().removed.len(), 2);
    let directory = Directory::existing(&world.config.store);
    for id in ["a1", "b1"] {
        directory.mark_removed(&ItemId::parse(id).unwrap(), days(-2)).unwrap();
    }
    // In the middle of the pass, something takes the place of what is to be deleted.
    let script = format!("cd {root}; rm live/a1; mkdir live/a1; mv store/c1 store/away; touch store/c1");
    world.nginx().test = ["sh", "-c", &script].map(str::to_owned).to_vec();
    world.restart();
    world.after("four", "five", &[world.simple("c1"), world.simple("d1"), world.simple("new1")]);
    let report = world.sync().await.unwrap();
    assert_eq!(report.published.len(), 3, "{}", report.problems());
    assert_eq!(report.deleted, [ItemId::parse("b1").unwrap()], "{}", report.problems());
    assert_eq!(report.failed.len(), 2, "{}", report.problems());
    for words in ["a1: it has long been gone and can't be deleted", "its former versions can't be deleted"] {
        assert!(report.problems().contains(words), "{words} in {}", report.problems());
    }
    assert_eq!(world.map().lines().count(), 3);
    let versions = fs::read_dir(world.config.store.directory.join("store/d1")).unwrap().count();
    assert_eq!(versions, 2, "the live one and the one before");
    // And once nothing is in the way.
    fs::remove_dir(world.live("a1")).unwrap();
}

#[tokio::test]
async fn half_an_answer_publishes_nothing() {
    let mut world = World::new();
    world.everything(&[world.simple("a1"), world.simple("b1")]);
    let whole = world.answers.lock().unwrap().bundles(br#"{"ids":["a1","b1"]}"#).1;
    let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap();
    for (status, body) in
        [(200, whole[..=first_line].to_vec()), (200, whole[..whole.len() - 1].to_vec()), (503, whole.clone())]
    {
        world.answers.lock().unwrap().bundles_fail = Some((status, body));
        assert!(world.sync().await.is_err());
        assert!(!world.live("a1").exists());
    }
    world.answers.lock().unwrap().bundles_fail = None;
    assert_eq!(world.sync().await.unwrap().published.len(), 2);
}

#[tokio::test]
async fn an_older_certificate_does_not_replace_a_newer_one_unless_the_operator_went_back() {
    let mut world = World::new();
    world.everything(&[world.simple("shop")]);
    world.sync().await.unwrap();
    let key = fs::read(world.live("shop/privkey.pem")).unwrap();
    let old = world.pki.issue(&["shop.example"], Slot::Ecdsa, days(-30), days(60));
    world.after("one", "two", &[world.offer_pairs("shop", &["shop.example"], &[old])]);
    let report = world.sync().await.unwrap();
    assert!(report.problems().contains("older than the live one"), "{}", report.problems());
    assert_eq!(fs::read(world.live("shop/privkey.pem")).unwrap(), key);
    world.after("two", "two", &[]);
    let back = |answers: &mut Answers| {
        let bundle = answers.bundles.get_mut("shop").unwrap();
        *bundle = bundle.replace(r#""id":"shop""#, r#""rolled_back":true,"id":"shop""#);
    };
    back(&mut world.answers.lock().unwrap());
    assert!(world.sync().await.unwrap().is_success());
    assert_ne!(fs::read(world.live("shop/privkey.pem")).unwrap(), key);
}

#[tokio::test]
async fn a_certificate_of_a_staging_ca_is_not_published() {
    let mut world = World::new();
    world.config.refused_issuers = vec!["test ca".to_owned()];
    world.restart();
    world.everything(&[world.simple("shop")]);
    let report = world.sync().await.unwrap();
    assert!(report.problems().contains("agent.refused_issuers"), "{}", report.problems());
    assert!(!world.live("shop").exists());
}

#[tokio::test]
async fn pages_are_followed() {
    let mut world = World::new();
    world.answer(FIRST, 200, page("half", true, &[world.simple("a1")]));
    world.answer(&after("half"), 200, page("one", false, &[world.simple("b1")]));
    assert_eq!(world.sync().await.unwrap().published.len(), 2);
}

#[tokio::test]
async fn a_reload_that_failed_is_owed_until_it_succeeds() {
    let mut world = World::new();
    world.everything(&[world.simple("shop")]);
    let good = world.config.servers.clone();
    world.nginx().reload = vec!["/nonexistent/nginx".to_owned()];
    world.restart();
    let report = world.sync().await.unwrap();
    assert!(!report.server_errors.is_empty() && !report.is_success());
    world.config.servers = good;
    world.restart();
    let report = world.sync().await.unwrap();
    assert!(report.reloaded && report.is_success());
    assert!(!world.sync().await.unwrap().reloaded);
}

#[tokio::test]
async fn a_damaged_or_widely_readable_key_is_replaced() {
    let mut world = World::new();
    world.everything(&[world.simple("shop")]);
    world.sync().await.unwrap();
    let key = world.live("shop/ecdsa-privkey.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    world.restart();
    assert_eq!(world.sync().await.unwrap().published.len(), 1);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&key, "").unwrap();
    world.restart();
    assert_eq!(world.sync().await.unwrap().published.len(), 1);
    assert!(fs::metadata(&key).unwrap().len() > 0);
    assert_eq!(world.sync().await.unwrap().published.len(), 0);
}

#[tokio::test]
async fn other_formats_are_made_and_made_up_for() {
    let mut world = World::new();
    world.everything(&[world.offer("shop", &["shop.example"], &Slot::ALL)]);
    world.sync().await.unwrap();
    world.config.store.formats =
        vec![Format::Combined, Format::Pkcs12("secret".to_owned().into()), Format::KubernetesSecret];
    world.restart();
    assert_eq!(world.sync().await.unwrap().published.len(), 1, "they were wanted only now");
    let read = |name: &str| fs::read(world.live("shop").join(name)).unwrap();
    let mode = |name: &str| fs::metadata(world.live("shop").join(name)).unwrap().permissions().mode() & 0o777;
    for slot in Slot::ALL {
        let key = PKey::private_key_from_pem(&read(&format!("{slot}-privkey.pem"))).unwrap();
        let combined = read(&format!("combined.pem.{slot}"));
        assert!(PKey::private_key_from_pem(&combined).unwrap().public_eq(&key));
        assert_eq!(X509::stack_from_pem(&combined).unwrap().len(), 2);
        let store = openssl::pkcs12::Pkcs12::from_der(&read(&format!("{slot}.p12"))).unwrap();
        assert!(store.parse2("wrong").is_err());
        let store = store.parse2("secret").unwrap();
        assert!(store.pkey.unwrap().public_eq(&key) && store.ca.unwrap().len() == 1);
        let secret: serde_json::Value =
            serde_json::from_slice(&read(&format!("{slot}-secret.json"))).unwrap();
        let data =
            |name: &str| openssl::base64::decode_block(secret["data"][name].as_str().unwrap()).unwrap();
        assert_eq!(data("tls.key"), read(&format!("{slot}-privkey.pem")));
        assert_eq!(
            (secret["type"].as_str(), data("tls.crt")),
            (Some("kubernetes.io/tls"), read(&format!("{slot}-fullchain.pem")))
        );
        for name in [format!("combined.pem.{slot}"), format!("{slot}.p12"), format!("{slot}-secret.json")] {
            assert_eq!(mode(&name), 0o600, "{name}");
        }
    }
}

#[tokio::test]
async fn a_crash_between_the_names_and_the_reload_loses_no_reload() {
    let mut world = World::new();
    world.everything(&[world.simple("shop")]);
    let directory = Directory::open(&world.config.store).unwrap();
    // The test command sees what a crash at that moment would leave.
    let seen = world.root.path().join("seen");
    world.nginx().test = ["cp", "-r"]
        .map(str::to_owned)
        .into_iter()
        .chain([directory.root().display().to_string(), seen.display().to_string()])
        .collect();
    world.restart();
    world.sync().await.unwrap();
    let status: serde_json::Value =
        serde_json::from_slice(&fs::read(seen.join("status.json")).unwrap()).unwrap();
    assert_eq!(
        (&status["owed"], &status["cursor"]),
        (&json!(["nginx"]), &json!(null)),
        "what was told is told again"
    );
    assert!(fs::read_to_string(seen.join("nginx/map.conf")).unwrap().contains("shop.example"));
    let status = fs::read_to_string(directory.root().join("status.json")).unwrap();
    assert!(status.contains(r#""owed": []"#) && status.contains(r#""cursor": "one""#), "{status}");
}

#[tokio::test]
async fn what_can_t_be_read_is_told_until_it_can_and_the_rest_goes_on() {
    let mut world = World::new();
    let told = |world: &World| {
        crate::status::Status::load(&Directory::existing(&world.config.store)).to_report(0).problems
    };
    let (good, bad) = (world.simple("a1"), world.simple("b1"));
    let odd = bad.replace("b1.example", "b1.example; x");
    world.answers.lock().unwrap().bundles.entry("b1".to_owned()).and_modify(|line| {
        *line = line.replace("b1.example", "b1.example; x");
    });
    let unknown = r#"{"op":"put","id":"../x"}"#.to_owned();
    world.everything(&[good, odd, unknown]);
    assert_eq!(world.sync().await.unwrap().published.len(), 1);
    // Also in the passes after it, in which nothing of it is said again.
    for _ in 0..2 {
        assert!(!world.sync().await.unwrap().failed.is_empty());
        let problems = told(&world);
        assert_eq!(problems.len(), 2, "{problems:#?}");
        assert!(problems.iter().any(|problem| problem.id.as_deref() == Some("b1")));
        assert!(
            problems.iter().any(|problem| problem.id.is_none() && problem.reason.contains("nobody knows"))
        );
    }
    // It can be read now, though no change says so.
    world.simple("b1");
    assert_eq!(world.sync().await.unwrap().published.len(), 1);
    assert_eq!(told(&world).len(), 1);
    world.answer(&after("one"), 410, r#"{"resync":"scope"}"#);
    world.answer(FIRST, 200, page("two", false, &[world.simple("a1"), world.simple("b1")]));
    world.sync().await.unwrap();
    assert_eq!(told(&world).len(), 0);
}

#[tokio::test]
async fn a_removal_that_can_t_be_written_down_is_done_another_time() {
    let mut world = World::new();
    world.everything(&[world.simple("a1"), world.simple("b1"), world.simple("c1")]);
    world.sync().await.unwrap();
    // Nothing can take the marker's place.
    let in_the_way = world.config.store.directory.join("store/b1/removed");
    fs::create_dir(&in_the_way).unwrap();
    world.after("one", "two", &[del("b1"), del("c1")]);
    world.after("two", "two", &[]);
    let report = world.sync().await.unwrap();
    assert_eq!(report.removed, [ItemId::parse("c1").unwrap()]);
    assert!(report.problems().contains("can't be written down"), "{}", report.problems());
    fs::remove_dir(&in_the_way).unwrap();
    world.restart();
    assert_eq!(world.sync().await.unwrap().removed, [ItemId::parse("b1").unwrap()]);
    world.restart();
    world.agent.serve_what_is_here().unwrap();
    assert_eq!(world.map(), "a1.example a1;\n");
}

#[tokio::test]
async fn a_status_that_can_t_be_written_loses_no_removal() {
    let mut world = World::new();
    world.everything(&[world.simple("a1"), world.simple("b1")]);
    world.sync().await.unwrap();
    let in_the_way = world.config.store.directory.join("status.json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    world.after("one", "two", &[del("b1")]);
    world.after("two", "two", &[]);
    for _ in 0..2 {
        assert!(world.sync().await.is_err());
        assert!(world.map().contains("b1.example"));
    }
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(world.sync().await.unwrap().removed, [ItemId::parse("b1").unwrap()]);
    assert_eq!(world.map(), "a1.example a1;\n");
}
