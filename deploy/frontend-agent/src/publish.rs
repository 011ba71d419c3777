//! Puts verified pairs where web servers read them: a new directory, complete and on disk, then one rename(2) of a
//! symbolic link. A reader meets the old version or the new one; a crash at any moment leaves one of them.

use crate::{
    disk::{Directory, Meta, SlotMeta, sync_directory},
    listing::ItemId,
    verify::Pair,
};
use jiff::Timestamp;
use shared::domain::Slot;
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// How many versions before the live one are kept, for a reader that just opened one and for a rollback by hand.
const EARLIER_VERSIONS: usize = 1;

/// The moments after which a crash leaves something on disk; tests stop at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    DirectoryMade,
    FilesWritten,
    VersionNamed,
    LinkMade,
    Live,
}

/// Publishes `pairs` as the new version of an item.
///
/// # Errors
/// From the file system; then the version that was live before still is.
pub(crate) fn publish(
    directory: &Directory,
    id: &ItemId,
    names: &[String],
    pairs: &[Pair],
    now: Timestamp,
) -> io::Result<Meta> {
    publish_in_steps(directory, id, names, pairs, now, |_| Ok(()))
}

/// The names of a slot's two files.
pub(crate) fn file_names(slot: Slot) -> (String, String) {
    (format!("{slot}-fullchain.pem"), format!("{slot}-privkey.pem"))
}

/// Clears away what a crashed sync left behind. The lock must be held.
///
/// # Errors
/// From the file system.
pub(crate) fn clear_leftovers(directory: &Directory) -> io::Result<()> {
    for entry in fs::read_dir(directory.live())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            fs::remove_file(entry.path())?;
        }
    }
    for item in fs::read_dir(directory.store())? {
        for version in fs::read_dir(item?.path())? {
            let version = version?;
            if version.file_name().to_string_lossy().starts_with(".new-") {
                fs::remove_dir_all(version.path())?;
            }
        }
    }
    Ok(())
}

fn publish_in_steps(
    directory: &Directory,
    id: &ItemId,
    names: &[String],
    pairs: &[Pair],
    now: Timestamp,
    mut after: impl FnMut(Step) -> io::Result<()>,
) -> io::Result<Meta> {
    let item = directory.item(id);
    if !item.exists() {
        directory.make_directory(&item)?;
        sync_directory(&directory.store())?;
    }
    // New inodes and a new directory each time: nginx tells files apart by inode and by mtime in seconds.
    let version = free_version(&item, now);
    let unfinished = item.join(format!(".new-{version}"));
    directory.make_directory(&unfinished)?;
    after(Step::DirectoryMade)?;
    let meta = write_version(directory, &unfinished, id, names, pairs, now)?;
    after(Step::FilesWritten)?;
    fs::rename(&unfinished, item.join(&version))?;
    sync_directory(&item)?;
    after(Step::VersionNamed)?;
    let link = directory.live().join(format!(".{id}"));
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(Path::new("../store").join(id.as_str()).join(&version), &link)?;
    after(Step::LinkMade)?;
    fs::rename(&link, directory.live().join(id.as_str()))?;
    sync_directory(&directory.live())?;
    after(Step::Live)?;
    directory.unmark_removed(id)?;
    prune(&item, &version)?;
    Ok(meta)
}

fn write_version(
    directory: &Directory,
    path: &Path,
    id: &ItemId,
    names: &[String],
    pairs: &[Pair],
    now: Timestamp,
) -> io::Result<Meta> {
    let (mut slots, mut files) = (BTreeMap::new(), BTreeMap::new());
    for pair in pairs {
        let (fullchain, privkey) = file_names(pair.slot);
        directory.create_public_file(&path.join(&fullchain), &pair.fullchain)?;
        directory.create_key_file(&path.join(&privkey), &pair.privkey)?;
        files.insert(fullchain, pair.fullchain.len() as u64);
        files.insert(privkey, pair.privkey.len() as u64);
        let leaf = &pair.leaf;
        let slot = SlotMeta {
            fingerprint_sha256: leaf.fingerprint_sha256.clone(),
            spki_sha256: leaf.spki_sha256.clone(),
            serial: leaf.serial.clone(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        };
        slots.insert(pair.slot, slot);
    }
    link_missing_slots(path, &slots)?;
    let meta = Meta { id: id.clone(), names: names.to_vec(), slots, files, published: now };
    directory.create_public_file(&path.join("meta.json"), &serde_json::to_vec_pretty(&meta)?)?;
    sync_directory(path)?;
    Ok(meta)
}

/// A server that names the files of both slots finds both; `fullchain.pem` and `privkey.pem` are the first slot's.
fn link_missing_slots(path: &Path, slots: &BTreeMap<Slot, SlotMeta>) -> io::Result<()> {
    let Some(first) = slots.keys().next() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing to publish"));
    };
    let (fullchain, privkey) = file_names(*first);
    symlink(&fullchain, path.join("fullchain.pem"))?;
    symlink(&privkey, path.join("privkey.pem"))?;
    for missing in Slot::ALL.iter().filter(|slot| !slots.contains_key(slot)) {
        let (its_fullchain, its_privkey) = file_names(*missing);
        symlink(&fullchain, path.join(its_fullchain))?;
        symlink(&privkey, path.join(its_privkey))?;
    }
    Ok(())
}

/// A name that sorts by time and is not taken.
fn free_version(item: &Path, now: Timestamp) -> String {
    (now.as_millisecond()..)
        .map(|number| format!("{number:014}"))
        .find(|version| !item.join(version).exists())
        .expect("the numbers do not end")
}

fn prune(item: &Path, live: &str) -> io::Result<()> {
    let mut earlier: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(item)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_version = entry.file_type()?.is_dir() && !name.to_string_lossy().starts_with('.');
        if is_version && name != *live {
            earlier.push(entry.path());
        }
    }
    earlier.sort();
    let superfluous = earlier.len().saturating_sub(EARLIER_VERSIONS);
    earlier[..superfluous].iter().try_for_each(fs::remove_dir_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::StoreConfig,
        test_pki::{TestPki, days},
        verify::{Expected, verify},
    };
    use openssl::{pkey::PKey, x509::X509};
    use std::{
        os::unix::fs::PermissionsExt,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    struct Fixture {
        _root: tempfile::TempDir,
        directory: Directory,
        pki: TestPki,
        id: ItemId,
        names: Vec<String>,
    }

    impl Fixture {
        fn new(group_id: Option<u32>) -> Self {
            let root = tempfile::tempdir().unwrap();
            let config = StoreConfig { directory: root.path().join("agent"), group_id };
            let directory = Directory::open(&config).unwrap();
            let id = ItemId::parse("01ab").unwrap();
            Self { _root: root, directory, pki: TestPki::new(), id, names: vec!["a.example".to_owned()] }
        }

        fn pair(&self, slot: Slot) -> Pair {
            let issued = self.pki.issue(&["a.example"], slot, days(-1), days(90));
            let expected = Expected {
                slot,
                fingerprint_sha256: &issued.fingerprint,
                names: &self.names,
                live_not_before: None,
                now: Timestamp::now(),
            };
            verify(issued.fullchain, issued.privkey, &expected).unwrap()
        }

        fn publish(&self, pairs: &[Pair]) -> Meta {
            publish(&self.directory, &self.id, &self.names, pairs, Timestamp::now()).unwrap()
        }

        fn live(&self) -> PathBuf {
            self.directory.live().join(self.id.as_str())
        }
    }

    #[test]
    fn files_have_their_final_owner_and_mode() {
        for (group_id, key_mode, directory_mode) in
            [(None, 0o600, 0o700), (Some(rustix::process::getegid().as_raw()), 0o640, 0o750)]
        {
            let fixture = Fixture::new(group_id);
            fixture.publish(&[fixture.pair(Slot::Ecdsa)]);
            let mode =
                |name: &str| fs::metadata(fixture.live().join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode("ecdsa-privkey.pem"), key_mode);
            assert_eq!(mode("ecdsa-fullchain.pem"), 0o644);
            assert_eq!(mode("."), directory_mode);
        }
    }

    #[test]
    fn a_missing_slot_is_linked_to_the_other() {
        let fixture = Fixture::new(None);
        fixture.publish(&[fixture.pair(Slot::Rsa)]);
        let read = |name: &str| fs::read(fixture.live().join(name)).unwrap();
        assert_eq!(read("ecdsa-privkey.pem"), read("rsa-privkey.pem"));
        assert_eq!(read("fullchain.pem"), read("rsa-fullchain.pem"));

        fixture.publish(&[fixture.pair(Slot::Ecdsa), fixture.pair(Slot::Rsa)]);
        assert_ne!(read("ecdsa-privkey.pem"), read("rsa-privkey.pem"));
        assert_eq!(read("fullchain.pem"), read("ecdsa-fullchain.pem"));
    }

    #[test]
    fn a_crash_after_any_step_leaves_a_whole_version_and_the_next_sync_goes_on() {
        for stop in [Step::DirectoryMade, Step::FilesWritten, Step::VersionNamed, Step::LinkMade, Step::Live]
        {
            let fixture = Fixture::new(None);
            let old = fixture.publish(&[fixture.pair(Slot::Ecdsa)]);
            let pairs = [fixture.pair(Slot::Ecdsa)];
            let crashed = publish_in_steps(
                &fixture.directory,
                &fixture.id,
                &fixture.names,
                &pairs,
                Timestamp::now(),
                |step| {
                    if step == stop { Err(io::Error::other("power cut")) } else { Ok(()) }
                },
            );
            assert!(crashed.is_err());
            let kept = fixture.directory.scan().unwrap().remove(&fixture.id).unwrap();
            assert!(kept.intact);
            assert_eq!(kept.meta == old, stop != Step::Live, "after {stop:?}");

            clear_leftovers(&fixture.directory).unwrap();
            let next = fixture.publish(&[fixture.pair(Slot::Ecdsa)]);
            assert_eq!(fixture.directory.scan().unwrap()[&fixture.id].meta, next);
            let entries = fs::read_dir(fixture.directory.item(&fixture.id)).unwrap().count();
            assert_eq!(entries, 1 + EARLIER_VERSIONS, "after {stop:?}");
        }
    }

    #[test]
    fn a_reader_never_meets_a_mixed_pair_or_none() {
        let fixture = Fixture::new(None);
        let pairs = [[fixture.pair(Slot::Ecdsa)], [fixture.pair(Slot::Ecdsa)]];
        fixture.publish(&pairs[0]);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) {
                    // One look at the link, which is always there; what it led to may be gone two publications later.
                    let live = fixture.live();
                    let version = live.parent().unwrap().join(fs::read_link(&live).unwrap());
                    let Ok(certificate) = fs::read(version.join("fullchain.pem")) else { continue };
                    let Ok(key) = fs::read(version.join("privkey.pem")) else { continue };
                    let certificate = X509::from_pem(&certificate).unwrap();
                    assert!(
                        certificate
                            .public_key()
                            .unwrap()
                            .public_eq(&PKey::private_key_from_pem(&key).unwrap())
                    );
                    reads += 1;
                }
                reads
            });
            for round in 0..100 {
                fixture.publish(&pairs[round % 2]);
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }

    #[test]
    fn a_damaged_version_is_noticed() {
        let fixture = Fixture::new(None);
        fixture.publish(&[fixture.pair(Slot::Ecdsa)]);
        fs::write(fixture.live().join("ecdsa-privkey.pem"), "").unwrap();
        assert!(!fixture.directory.scan().unwrap()[&fixture.id].intact);
        fs::remove_file(fixture.live().join("meta.json")).unwrap();
        assert!(fixture.directory.scan().unwrap().is_empty());
    }
}
