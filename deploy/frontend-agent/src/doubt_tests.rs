//! A store that went back under agents of three sizes, and everything that may be said of it afterwards: no name that was served
//! goes out of service but by a word that says so.

use crate::{
    sync_world::{FIRST, World, after, del, page},
    test_pki::days,
    wire::ItemId,
};
use shared::domain::Slot;
use std::{fs, time::Duration};

/// The store was replaced by a copy: everything is asked for again, and this is all it has.
fn went_back(world: &World, cursor: &str, items: &[String]) {
    world.answer(&after(cursor), 410, r#"{"resync":"epoch"}"#);
    world.everything(items);
}

fn id(text: &str) -> ItemId {
    ItemId::parse(text).unwrap()
}

#[tokio::test]
async fn what_a_store_that_went_back_does_not_know_is_served_until_that_is_confirmed() {
    let mut world = World::new();
    let items: Vec<String> = (0..6).map(|number| world.simple(&format!("i{number}"))).collect();
    world.answer(FIRST, 200, page("old", false, &items));
    assert_eq!(world.sync().await.unwrap().published.len(), 6);
    let (map, log) = (world.map(), world.nginx_log());
    let key = |world: &World, item: &str| fs::read(world.live(&format!("{item}/privkey.pem"))).unwrap();
    let before = key(&world, "i0");

    // It has one of them, with an older certificate, of which it says that it was rolled back.
    let older = world.pki.issue(&["i0.example"], Slot::Ecdsa, days(-30), days(60));
    let put = world.offer_pairs("i0", &["i0.example"], &[older]);
    let rolled_back = |line: &String| line.replace(r#""id":"i0""#, r#""rolled_back":true,"id":"i0""#);
    world.answers.lock().unwrap().bundles.entry("i0".to_owned()).and_modify(|line| *line = rolled_back(line));
    // Its feed still has a removal that was taken back later.
    went_back(&world, "old", &[put.clone(), del("i3")]);
    for round in 0..3 {
        let report = world.sync().await.unwrap();
        assert!(report.removed.is_empty() && !report.is_success(), "{report:?}");
        assert!(report.kept.as_ref().is_some_and(|text| text.contains("5 items")), "{report:?}");
        assert!(report.problems().contains("older than the live one"), "{}", report.problems());
        assert_eq!(
            (world.map(), world.nginx_log(), key(&world, "i0")),
            (map.clone(), log.clone(), before.clone())
        );
        if round == 1 {
            world.restart();
        }
    }
    let told =
        crate::status::Status::load(&crate::disk::Directory::existing(&world.config.store)).to_report(6);
    assert_eq!(told.problem_count, 6, "the centre is told of each: {told:#?}");

    // One comes again, one is removed at the centre, the others wait.
    world.after("one", "two", &[items[1].clone(), del("i2")]);
    world.after("two", "two", &[]);
    let report = world.sync().await.unwrap();
    assert_eq!(report.removed, [id("i2")]);
    assert!(report.kept.as_ref().is_some_and(|text| text.contains("3 items")), "{report:?}");
    let report = world.agent.pass(Duration::ZERO, true).await.unwrap();
    assert_eq!((report.removed.len(), world.map().lines().count()), (3, 2));
    // A person has confirmed it all: the rollback is believed as well.
    assert!(world.sync().await.unwrap().is_success());
    assert_ne!(key(&world, "i0"), before);
}

#[tokio::test]
async fn a_name_that_an_item_lost_with_the_store_is_served_on_beside_it() {
    let mut world = World::new();
    let two = ["a.example", "b.example"];
    world.answer(FIRST, 200, page("old", false, &[world.offer("shop", &two, &[Slot::Ecdsa])]));
    world.sync().await.unwrap();
    assert_eq!(world.map(), "a.example shop;\nb.example shop;\n");

    // It knows one name, with an older certificate; then that is renewed.
    let older = world.pki.issue(&two[..1], Slot::Ecdsa, days(-30), days(60));
    went_back(&world, "old", &[world.offer_pairs("shop", &two[..1], &[older])]);
    world.sync().await.unwrap();
    assert_eq!(world.map(), "a.example shop;\nb.example shop;\n");
    world.after("one", "two", &[world.offer("shop", &two[..1], &[Slot::Ecdsa])]);
    world.after("two", "two", &[]);
    let report = world.sync().await.unwrap();
    assert!(report.failed.is_empty() && report.kept.is_some(), "{}", report.problems());
    assert_eq!(world.map(), "a.example shop;\nb.example shop_held;\n");
    assert!(world.live("shop_held/ecdsa-privkey.pem").exists());

    // The name is added again, elsewhere: its own certificate takes over, and nothing is kept any longer.
    world.restart();
    let other = world.pki.issue(&two[1..], Slot::Ecdsa, days(0), days(90));
    world.after("two", "three", &[world.offer_pairs("other", &two[1..], &[other])]);
    world.after("three", "three", &[]);
    let report = world.sync().await.unwrap();
    assert_eq!((report.removed, report.kept), (vec![id("shop_held")], None));
    assert_eq!(world.map(), "a.example shop;\nb.example other;\n");
    assert!(world.sync().await.unwrap().is_success());
}

#[tokio::test]
async fn what_has_expired_is_kept_no_longer() {
    let mut world = World::new();
    let items = [world.simple("short"), world.simple("other")];
    world.answer(FIRST, 200, page("old", false, &items));
    world.sync().await.unwrap();
    went_back(&world, "old", &[]);
    assert!(world.sync().await.unwrap().withheld.is_none());
    // Days later.
    let meta = world.live("short/meta.json");
    let text = fs::read_to_string(&meta).unwrap();
    let ends = text.split(r#""not_after":""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    fs::write(&meta, text.replace(&ends, &days(-1).to_string())).unwrap();
    world.restart();
    let report = world.sync().await.unwrap();
    assert_eq!(report.removed, [id("short")]);
    assert_eq!(world.map(), "other.example other;\n");
}

#[tokio::test]
async fn a_store_that_stayed_the_same_is_believed_but_for_most_of_everything() {
    let mut world = World::new();
    let items: Vec<String> = (0..6).map(|number| world.simple(&format!("i{number}"))).collect();
    world.answer(FIRST, 200, page("old", false, &items));
    world.sync().await.unwrap();
    world.answer(&after("old"), 410, r#"{"resync":"compacted"}"#);
    world.everything(&items[..1]);
    let report = world.sync().await.unwrap();
    assert!(report.withheld.as_ref().is_some_and(|text| text.contains("5 of 6")), "{report:?}");
    assert_eq!(world.map().lines().count(), 6);
    // One by one it is the same.
    world.restart();
    for (number, gone) in [(1, true), (2, true), (3, true), (4, false), (5, false)] {
        let mut world = World::new();
        world.answer(FIRST, 200, page("c0", false, &items_of(&world)));
        world.sync().await.unwrap();
        for step in 1..=number {
            world.after(&format!("c{}", step - 1), &format!("c{step}"), &[del(&format!("i{step}"))]);
            world.sync().await.unwrap();
        }
        let is_gone = !world.map().contains(&format!("i{number}.example"));
        assert_eq!(is_gone, gone, "{number} of 6, one by one");
    }
}

fn items_of(world: &World) -> Vec<String> {
    (0..6).map(|number| world.simple(&format!("i{number}"))).collect()
}

/// One certificate for all of them, so that most of the time is the agent's.
fn many(world: &World, count: usize) -> Vec<String> {
    let pair = world.pki.issue(&["*.many.example"], Slot::Ecdsa, days(-1), days(90));
    let item = |number: usize| {
        let name = format!("n{number}.many.example");
        world.offer_pairs(&format!("i{number:05}"), &[&name], std::slice::from_ref(&pair))
    };
    (0..count).map(item).collect()
}

#[tokio::test]
async fn under_thousands_of_items_as_well() {
    for count in [300, 5_000] {
        let mut world = World::new();
        let items = many(&world, count);
        world.answer(FIRST, 200, page("old", false, &items));
        assert_eq!(world.sync().await.unwrap().published.len(), count);
        let map = world.map();
        assert_eq!(map.lines().count(), count);
        // The copy lacks the last hundredth, then all but one, then everything.
        for (known, cursor) in [(count - count / 100, "old"), (1, "one"), (0, "one")] {
            went_back(&world, cursor, &items[..known]);
            let report = world.sync().await.unwrap();
            assert!(report.removed.is_empty() && report.kept.is_some(), "{known} of {count}: {report:?}");
            assert_eq!(world.map(), map);
            world.answer(&after("one"), 410, r#"{"resync":"epoch"}"#);
        }
        assert_eq!(world.nginx_log(), "test\nreload\n");
    }
}

#[tokio::test]
async fn an_item_that_can_t_be_kept_beside_what_is_to_come_stays_and_the_others_go_on() {
    let mut world = World::new();
    let two = ["a.example", "b.example"];
    world.answer(
        FIRST,
        200,
        page("old", false, &[world.offer("shop", &two, &[Slot::Ecdsa]), world.simple("x1")]),
    );
    world.sync().await.unwrap();
    // A disk on which nothing can be made at that place.
    let in_the_way = world.config.store.directory.join("store/shop_held");
    fs::write(&in_the_way, "").unwrap();
    let younger = world.pki.issue(&two[..1], Slot::Ecdsa, days(0), days(60));
    went_back(&world, "old", &[world.offer_pairs("shop", &two[..1], &[younger]), world.simple("new1")]);
    for _ in 0..2 {
        let report = world.sync().await.unwrap();
        assert!(report.problems().contains("can't be kept beside"), "{}", report.problems());
        assert_eq!(world.map(), "a.example shop;\nb.example shop;\nnew1.example new1;\nx1.example x1;\n");
        world.restart();
    }
    fs::remove_file(&in_the_way).unwrap();
    world.sync().await.unwrap();
    assert_eq!(world.map(), "a.example shop;\nb.example shop_held;\nnew1.example new1;\nx1.example x1;\n");
}
