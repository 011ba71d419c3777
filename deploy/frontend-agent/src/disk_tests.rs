//! The agent's directory, whatever was done to it.

use crate::{
    config::StoreConfig,
    disk::Directory,
    https::Https,
    publish::{Publication, commit, prepare},
    test_pki::{TestPki, days},
    verify::Pair,
    wire::ItemId,
};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use shared::domain::{Leaf, Slot};
use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
};

fn open() -> (tempfile::TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(&StoreConfig::at(root.path().join("a/b"))).unwrap();
    (root, directory)
}

/// One item with two names.
fn publish(directory: &Directory, id: &ItemId) {
    let names = ["a.example", "b.example"].map(str::to_owned);
    let issued = TestPki::new().issue(&["a.example", "b.example"], Slot::Ecdsa, days(-1), days(90));
    let leaf = Leaf::of(&openssl::x509::X509::from_pem(&issued.fullchain).unwrap()).unwrap();
    let pairs = [Pair { slot: Slot::Ecdsa, fullchain: issued.fullchain, privkey: issued.privkey, leaf }];
    let https = Https::default();
    let publication = Publication { id, version: "v1", names: &names, pairs: &pairs, https: &https };
    let prepared = [prepare(directory, &publication, Timestamp::now()).unwrap()];
    commit(directory, &prepared).unwrap().pop().unwrap().unwrap();
}

#[test]
fn two_syncs_exclude_each_other() {
    let (_root, directory) = open();
    assert_eq!(fs::metadata(directory.root()).unwrap().permissions().mode() & 0o777, 0o700);
    let held = directory.lock().unwrap();
    let file = File::open(directory.root().join("lock")).unwrap();
    assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
    drop(held);
    assert!(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
}

#[test]
fn a_directory_that_is_missing_is_no_empty_one() {
    let config = StoreConfig::at("/nonexistent/signpost".into());
    assert!(Directory::existing(&config).scan().is_err());
}

#[test]
fn what_is_held_for_some_names_outlives_what_it_was_made_from() {
    let (_root, directory) = open();
    let (of, id) = (ItemId::parse("shop").unwrap(), ItemId::parse("shop_held").unwrap());
    publish(&directory, &of);
    let read = |id: &ItemId| fs::read(directory.live().join(id.as_str()).join("privkey.pem")).unwrap();
    let key = read(&of);
    for _ in 0..2 {
        let held = directory.hold(&of, &id, &["b.example".to_owned()]).unwrap();
        assert_eq!((held.names.len(), &*held.names[0], held.intact), (1, "b.example", true));
    }
    directory.delete(&of).unwrap();
    let (index, unreadable) = directory.scan().unwrap();
    assert_eq!((index.len(), unreadable.len(), read(&id)), (1, 0, key));
    assert!(index[&id].intact && directory.is_as_written(&id, &index[&id].directory));
    assert!(directory.hold(&of, &id, &[]).is_err(), "nothing is held of what is not there");
}

#[test]
fn a_removal_is_remembered_and_taken_back() {
    let (_root, directory) = open();
    let id = ItemId::parse("shop").unwrap();
    publish(&directory, &id);
    let is_removed = || directory.scan().unwrap().0[&id].removed.is_some();
    directory.unmark_removed(&id).unwrap();
    directory.mark_removed(&id, Timestamp::now()).unwrap();
    assert!(is_removed());
    // One that was cut off in the middle of a power failure is one all the same.
    fs::write(directory.item(&id).join("removed"), "").unwrap();
    assert!(is_removed());
    directory.unmark_removed(&id).unwrap();
    assert!(!is_removed());
}

#[test]
fn one_item_that_no_agent_has_written_is_unreadable_and_the_others_are_there() {
    let (_root, directory) = open();
    let [good, odd] = ["good", "odd1"].map(|id| ItemId::parse(id).unwrap());
    publish(&directory, &good);
    publish(&directory, &odd);
    symlink("../store/gone/1", directory.live().join("gone")).unwrap();
    let meta = directory.live().join("odd1/meta.json");
    let text = fs::read_to_string(&meta).unwrap();
    for damaged in [
        "",
        "{}",
        &text.replace("odd1", "good"),
        &text.replace("fingerprint_sha256\":\"", "fingerprint_sha256\":\"x"),
    ] {
        fs::write(&meta, damaged).unwrap();
        let (index, mut unreadable) = directory.scan().unwrap();
        unreadable.sort();
        assert_eq!(index.keys().collect::<Vec<_>>(), [&good], "{damaged}");
        assert_eq!(unreadable.len(), 2, "{damaged}");
    }
}

#[test]
fn a_file_is_replaced_whole_and_with_its_mode() {
    let (root, directory) = open();
    let path = root.path().join("file");
    for mode in [0o600, 0o644] {
        fs::write(root.path().join("file.tmp"), "half of an earlier").unwrap();
        directory.write_whole(&path, b"all of it", mode).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"all of it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        assert!(!root.path().join("file.tmp").exists());
    }
}
