//! Puts verified pairs where web servers read them: a new directory, complete and on disk, then one rename(2) of a
//! symbolic link. A reader meets the old version or the new one; a crash at any moment leaves one of them.

use crate::{
    disk::{Directory, Meta, SlotMeta},
    https::Https,
    verify::Pair,
    wire::ItemId,
};
use jiff::Timestamp;
use shared::{digest::sha256_hex, domain::Slot};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// How many versions before the live one are kept, for a reader that just opened one and for a rollback by hand.
const EARLIER_VERSIONS: usize = 1;

/// The moments after which a crash leaves something on disk; tests stop at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    VersionNamed,
    LinkMade,
    Live,
}

/// What is to become live of an item.
pub(crate) struct Publication<'a> {
    pub(crate) id: &'a ItemId,
    /// As the centre calls it.
    pub(crate) version: &'a str,
    pub(crate) names: &'a [String],
    pub(crate) pairs: &'a [Pair],
    pub(crate) https: &'a Https,
}

/// A version that is written, and that nobody sees yet.
pub(crate) struct Prepared {
    pub(crate) meta: Meta,
    /// The name of its directory from now on.
    pub(crate) directory: String,
}

/// The names of a slot's two files.
pub(crate) fn file_names(slot: Slot) -> (String, String) {
    (format!("{slot}-fullchain.pem"), format!("{slot}-privkey.pem"))
}

/// Clears away what a crashed sync left behind. The lock must be held. What can't be cleared away is in nobody's way but its own
/// item's.
///
/// # Errors
/// From the file system, when the directories themselves can't be read.
pub(crate) fn clear_leftovers(directory: &Directory) -> io::Result<()> {
    let mut left = Vec::new();
    for entry in fs::read_dir(directory.live())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            left.extend(fs::remove_file(entry.path()).err().map(|error| (entry.path(), error)));
        }
    }
    for item in fs::read_dir(directory.store())? {
        let item = item?.path();
        left.extend(clear_unfinished(&item).err().map(|error| (item, error)));
    }
    for (path, error) in left {
        tracing::warn!(path = %path.display(), %error, "what an earlier sync left behind can't be cleared away");
    }
    Ok(())
}

fn clear_unfinished(item: &Path) -> io::Result<()> {
    for version in fs::read_dir(item)? {
        let version = version?;
        if version.file_name().to_string_lossy().starts_with(".new-") {
            fs::remove_dir_all(version.path())?;
        }
    }
    Ok(())
}

/// Writes a new version of an item beside the live one.
///
/// # Errors
/// From the file system; nothing is left of it then.
pub(crate) fn prepare(
    directory: &Directory,
    publication: &Publication<'_>,
    now: Timestamp,
) -> io::Result<Prepared> {
    let item = directory.item(publication.id);
    if !item.exists() {
        directory.make_directory(&item)?;
    }
    // New inodes and a new directory each time: nginx tells files apart by inode and by mtime in seconds.
    let version = free_version(&item, now);
    let unfinished = unfinished(&item, &version);
    directory.make_directory(&unfinished)?;
    match write_version(directory, &unfinished, publication, now) {
        Ok(meta) => Ok(Prepared { meta, directory: version }),
        Err(error) => {
            // The disk may be full: what is half written helps nobody.
            let _ = fs::remove_dir_all(&unfinished);
            Err(error)
        }
    }
}

/// Makes prepared versions live, each by one rename(2). They are on disk before, so that not even a power failure leaves half
/// of one; and each one that is live stays so after this returns.
///
/// # Errors
/// For all of them where they can't be brought to disk; else the result of each.
pub(crate) fn commit(directory: &Directory, prepared: &[Prepared]) -> io::Result<Vec<io::Result<()>>> {
    if prepared.is_empty() {
        return Ok(Vec::new());
    }
    directory.sync()?;
    let results = prepared.iter().map(|version| make_live(directory, version, |_| Ok(()))).collect();
    directory.sync()?;
    Ok(results)
}

fn make_live(
    directory: &Directory,
    prepared: &Prepared,
    mut after: impl FnMut(Step) -> io::Result<()>,
) -> io::Result<()> {
    let (id, version) = (&prepared.meta.id, &prepared.directory);
    let item = directory.item(id);
    fs::rename(unfinished(&item, version), item.join(version))?;
    after(Step::VersionNamed)?;
    let link = directory.live().join(format!(".{id}"));
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(Path::new("../store").join(id.as_str()).join(version), &link)?;
    after(Step::LinkMade)?;
    fs::rename(&link, directory.live().join(id.as_str()))?;
    after(Step::Live)?;
    directory.unmark_removed(id)
}

fn unfinished(item: &Path, version: &str) -> PathBuf {
    item.join(format!(".new-{version}"))
}

fn write_version(
    directory: &Directory,
    path: &Path,
    publication: &Publication<'_>,
    now: Timestamp,
) -> io::Result<Meta> {
    let (mut slots, mut files, mut digests) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for pair in publication.pairs {
        let (fullchain, privkey) = file_names(pair.slot);
        directory.create_public_file(&path.join(&fullchain), &pair.fullchain)?;
        directory.create_key_file(&path.join(&privkey), &pair.privkey)?;
        digests.insert(fullchain.clone(), sha256_hex(&pair.fullchain));
        digests.insert(privkey.clone(), sha256_hex(&pair.privkey));
        files.insert(fullchain, pair.fullchain.len() as u64);
        files.insert(privkey, pair.privkey.len() as u64);
        for format in directory.formats() {
            let (name, content) = (format.file_name(pair.slot), format.render(pair, publication.names)?);
            directory.create_key_file(&path.join(&name), &content)?;
            digests.insert(name.clone(), sha256_hex(&content));
            files.insert(name, content.len() as u64);
        }
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
    for (from, to) in link_missing_slots(path, &slots)? {
        let digest = digests.get(&from).cloned();
        digests.extend(digest.map(|digest| (to, digest)));
    }
    let meta = Meta {
        id: publication.id.clone(),
        version: publication.version.to_owned(),
        names: publication.names.to_vec(),
        slots,
        files,
        digests,
        published: now,
        https: publication.https.clone(),
    };
    directory.create_public_file(&path.join("meta.json"), &serde_json::to_vec(&meta)?)?;
    Ok(meta)
}

/// A server that names the files of both slots finds both; `fullchain.pem` and `privkey.pem` are the first slot's. Hard links:
/// a version is never changed, and a hundred thousand of them cost no inode. Answers
/// what was linked to what.
fn link_missing_slots(path: &Path, slots: &BTreeMap<Slot, SlotMeta>) -> io::Result<Vec<(String, String)>> {
    let Some(first) = slots.keys().next() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing to publish"));
    };
    let (fullchain, privkey) = file_names(*first);
    let mut links =
        vec![(fullchain.clone(), "fullchain.pem".to_owned()), (privkey.clone(), "privkey.pem".to_owned())];
    for missing in Slot::ALL.iter().filter(|slot| !slots.contains_key(slot)) {
        let (its_fullchain, its_privkey) = file_names(*missing);
        links.extend([(fullchain.clone(), its_fullchain), (privkey.clone(), its_privkey)]);
    }
    for (from, to) in &links {
        fs::hard_link(path.join(from), path.join(to))?;
    }
    Ok(links)
}

/// A name that sorts by time and is not taken.
fn free_version(item: &Path, now: Timestamp) -> String {
    (now.as_millisecond()..)
        .map(|number| format!("{number:014}"))
        .find(|version| !item.join(version).exists())
        .expect("the numbers do not end")
}

/// Deletes all versions of an item but the live one, the one before, and those that something still names.
///
/// # Errors
/// From the file system.
pub(crate) fn prune(item: &Path, live: &str, named: &BTreeSet<PathBuf>) -> io::Result<()> {
    let mut earlier: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(item)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_version = entry.file_type()?.is_dir() && !name.to_string_lossy().starts_with('.');
        if is_version && name != *live && !named.contains(&entry.path()) {
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
        chains::Chains,
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
            let config = StoreConfig { group_id, ..StoreConfig::at(root.path().join("agent")) };
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
                live: None,
                refused_issuers: &[],
                now: Timestamp::now(),
            };
            verify(issued.fullchain, issued.privkey, &expected, &Chains::default()).unwrap()
        }

        fn prepare(&self, pairs: &[Pair]) -> Prepared {
            let https = Https::default();
            let publication =
                Publication { id: &self.id, version: "v", names: &self.names, pairs, https: &https };
            prepare(&self.directory, &publication, Timestamp::now()).unwrap()
        }

        fn publish(&self, pairs: &[Pair]) -> Meta {
            let prepared = [self.prepare(pairs)];
            commit(&self.directory, &prepared).unwrap().pop().unwrap().unwrap();
            prune(&self.directory.item(&self.id), &prepared[0].directory, &BTreeSet::new()).unwrap();
            self.directory.load_meta(&self.id).unwrap().1
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
        for stop in [None, Some(Step::VersionNamed), Some(Step::LinkMade), Some(Step::Live)] {
            let fixture = Fixture::new(None);
            let old = fixture.publish(&[fixture.pair(Slot::Ecdsa)]);
            let prepared = fixture.prepare(&[fixture.pair(Slot::Ecdsa)]);
            if let Some(stop) = stop {
                let crashed = make_live(&fixture.directory, &prepared, |step| {
                    if step == stop { Err(io::Error::other("power cut")) } else { Ok(()) }
                });
                assert!(crashed.is_err());
            } else {
                // And one that was cut off in the middle of a file.
                let half = unfinished(&fixture.directory.item(&fixture.id), "1");
                fixture.directory.make_directory(&half).unwrap();
                fs::write(half.join("ecdsa-privkey.pem"), "half").unwrap();
            }
            let kept = fixture.directory.scan().unwrap().0.remove(&fixture.id).unwrap();
            assert!(kept.intact);
            let now = fixture.directory.load_meta(&fixture.id).unwrap().1;
            assert_eq!(now == old, stop != Some(Step::Live), "after {stop:?}");

            clear_leftovers(&fixture.directory).unwrap();
            let next = fixture.publish(&[fixture.pair(Slot::Ecdsa)]);
            assert_eq!(fixture.directory.load_meta(&fixture.id).unwrap().1, next);
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
        let version = fs::read_link(fixture.live()).unwrap();
        let version = version.file_name().unwrap().to_str().unwrap();
        assert!(fixture.directory.is_as_written(&fixture.id, version));
        let key = fixture.live().join("ecdsa-privkey.pem");
        let mut content = fs::read(&key).unwrap();
        content[60] ^= 1;
        fs::write(&key, &content).unwrap();
        assert!(fixture.directory.scan().unwrap().0[&fixture.id].intact, "its size is what it was");
        assert!(!fixture.directory.is_as_written(&fixture.id, version));
        fs::write(&key, "").unwrap();
        assert!(!fixture.directory.scan().unwrap().0[&fixture.id].intact);
        fs::remove_file(fixture.live().join("meta.json")).unwrap();
        assert!(fixture.directory.scan().unwrap().0.is_empty());
    }
}
