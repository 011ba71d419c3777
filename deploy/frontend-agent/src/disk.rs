//! The agent's directory. What is on disk is the truth: there is no other record of what is published.
//!
//! ```text
//! store/ID/VERSION/    {ecdsa,rsa}-{fullchain,privkey}.pem, fullchain.pem, privkey.pem, meta.json, and the formats that are wanted
//! store/ID/removed     since when the server no longer lists it (only then)
//! live/ID              -> ../store/ID/VERSION, flipped by rename(2)
//! nginx/, haproxy/...  what the adapters write for their servers
//! status.json          how far the agent has come, and how the last sync went
//! lock                 held during a sync
//! ```

use crate::{
    config::StoreConfig,
    formats::Format,
    https::Https,
    index::{Index, Live, LiveSlot},
    wire::ItemId,
};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use shared::{digest::sha256_hex, domain::Slot};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// How long one sync waits for another to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// The directory, and who may read keys in it.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    group_id: Option<u32>,
    formats: Vec<Format>,
}

/// `meta.json`: what a version holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) id: ItemId,
    /// As the centre calls it.
    #[serde(default)]
    pub(crate) version: String,
    pub(crate) names: Vec<String>,
    pub(crate) slots: BTreeMap<Slot, SlotMeta>,
    /// Sizes in bytes, by which a damaged version is noticed at once.
    pub(crate) files: BTreeMap<String, u64>,
    /// SHA-256 of each, hex, by which any damage is. Versions of earlier programs have none.
    #[serde(default)]
    pub(crate) digests: BTreeMap<String, String>,
    pub(crate) published: Timestamp,
    /// Written anew when it changes; all else of a version stays as it is.
    #[serde(default)]
    pub(crate) https: Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotMeta {
    pub(crate) fingerprint_sha256: String,
    pub(crate) spki_sha256: String,
    pub(crate) serial: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// Held during a sync.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Directory {
    /// Makes what is missing of the directory.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn open(config: &StoreConfig) -> io::Result<Self> {
        let directory = Self::existing(config);
        fs::create_dir_all(config.directory.parent().unwrap_or(Path::new("/")))?;
        for path in [directory.root.clone(), directory.store(), directory.live()] {
            match directory.make_directory(&path) {
                // Made by an earlier sync or by a package, perhaps before there was a group.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => directory.let_group_enter(&path)?,
                made => made?,
            }
        }
        Ok(directory)
    }

    /// Without making anything.
    pub(crate) fn existing(config: &StoreConfig) -> Self {
        Self { root: config.directory.clone(), group_id: config.group_id, formats: config.formats.clone() }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn live(&self) -> PathBuf {
        self.root.join("live")
    }

    /// What an adapter of this name writes for its server.
    pub(crate) fn of_adapter(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The formats that are made of each certificate besides PEM.
    pub(crate) fn formats(&self) -> &[Format] {
        &self.formats
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn item(&self, id: &ItemId) -> PathBuf {
        self.store().join(id.as_str())
    }

    /// Waits for another sync to end, but not for ever.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] while another sync goes on.
    pub(crate) fn lock(&self) -> io::Result<Lock> {
        let path = self.root.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let started = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Everything that is live, and what of it cannot be read: that is to be fetched again.
    ///
    /// # Errors
    /// From the file system, when the directory itself cannot be read: that is no empty one.
    pub(crate) fn scan(&self) -> io::Result<(Index, Vec<ItemId>)> {
        let (mut found, mut unreadable) = (Index::new(), Vec::new());
        for entry in fs::read_dir(self.live())? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| ItemId::parse(name).ok()) else { continue };
            match self.load(&id) {
                Ok(live) => drop(found.insert(id, live)),
                Err(error) => {
                    tracing::warn!(%id, %error, "a published item can't be read and is fetched again");
                    unreadable.push(id);
                }
            }
        }
        Ok((found, unreadable))
    }

    fn load(&self, id: &ItemId) -> io::Result<Live> {
        let (directory, meta) = self.load_meta(id)?;
        let files = self.item(id).join(&directory);
        let complete = self
            .formats
            .iter()
            .all(|format| meta.slots.keys().all(|slot| meta.files.contains_key(&format.file_name(*slot))));
        let intact =
            complete && meta.files.iter().all(|(name, bytes)| self.is_intact(&files.join(name), *bytes));
        let removed = match fs::read_to_string(self.removed_marker(id)) {
            Ok(text) => Some(text.trim().parse().unwrap_or_else(|_| Timestamp::now())),
            Err(_) => None,
        };
        let mut live = meta.into_live(&directory)?;
        (live.intact, live.removed) = (intact, removed);
        Ok(live)
    }

    /// All that is known of what is live of an item, and the directory where it is.
    ///
    /// # Errors
    /// From the file system, or for what no agent has written.
    pub(crate) fn load_meta(&self, id: &ItemId) -> io::Result<(String, Meta)> {
        let target = fs::read_link(self.live().join(id.as_str()))?;
        let directory = target.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let meta: Meta =
            serde_json::from_slice(&fs::read(self.item(id).join(&directory).join("meta.json"))?)?;
        if meta.id != *id {
            return Err(io::Error::new(ErrorKind::InvalidData, "meta.json is of another item"));
        }
        Ok((directory, meta))
    }

    /// Whether the files of a version have the content that they were written with. What can't be read has not.
    pub(crate) fn is_as_written(&self, id: &ItemId, version: &str) -> bool {
        let version = self.item(id).join(version);
        let meta = fs::read(version.join("meta.json")).ok();
        let Some(meta) = meta.and_then(|json| serde_json::from_slice::<Meta>(&json).ok()) else {
            return false;
        };
        meta.digests.iter().all(|(name, digest)| {
            let content = fs::read(version.join(name)).map(Zeroizing::new);
            content.is_ok_and(|content| sha256_hex(&content) == *digest)
        })
    }

    /// A second item with what is live of another one, for some of its names. Its files are the same files.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn hold(&self, of: &ItemId, id: &ItemId, names: &[String]) -> io::Result<Live> {
        let (version, meta) = self.load_meta(of)?;
        let (from, item) = (self.item(of).join(&version), self.item(id));
        let to = item.join(&version);
        match fs::remove_dir_all(&item) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.make_directory(&item)?;
        self.make_directory(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            if entry.file_name() != *"meta.json" {
                fs::hard_link(entry.path(), to.join(entry.file_name()))?;
            }
        }
        let meta = Meta { id: id.clone(), names: names.to_vec(), ..meta };
        self.write_whole(&to.join("meta.json"), &serde_json::to_vec(&meta)?, 0o644)?;
        let link = self.live().join(format!(".{id}"));
        match fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(Path::new("../store").join(id.as_str()).join(&version), &link)?;
        self.sync()?;
        fs::rename(&link, self.live().join(id.as_str()))?;
        sync_directory(&self.live())?;
        meta.into_live(&version)
    }

    /// Something else is done with the names of what is live.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn write_https(&self, id: &ItemId, https: &Https) -> io::Result<()> {
        let (directory, meta) = self.load_meta(id)?;
        let meta = Meta { https: https.clone(), ..meta };
        self.write_whole(&self.item(id).join(directory).join("meta.json"), &serde_json::to_vec(&meta)?, 0o644)
    }

    fn removed_marker(&self, id: &ItemId) -> PathBuf {
        self.item(id).join("removed")
    }

    /// Notes that the server no longer lists the item; its files stay.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn mark_removed(&self, id: &ItemId, since: Timestamp) -> io::Result<()> {
        self.write_whole(&self.removed_marker(id), since.to_string().as_bytes(), 0o600)
    }

    /// The item is listed again.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn unmark_removed(&self, id: &ItemId) -> io::Result<()> {
        match fs::remove_file(self.removed_marker(id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes the item with all its versions.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn delete(&self, id: &ItemId) -> io::Result<()> {
        fs::remove_file(self.live().join(id.as_str()))?;
        fs::remove_dir_all(self.item(id))
    }

    /// A directory that the group may enter, and nobody else.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn make_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        self.let_group_enter(path)
    }

    fn let_group_enter(&self, path: &Path) -> io::Result<()> {
        let Some(group_id) = self.group_id else { return Ok(()) };
        let now = fs::metadata(path)?;
        if now.gid() != group_id {
            chown(path, None, Some(group_id))?;
        }
        if now.mode() & 0o050 != 0o050 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o750))?;
        }
        Ok(())
    }

    /// Whether a published file is as it was written, and readable by whom the configuration says.
    fn is_intact(&self, path: &Path, bytes: u64) -> bool {
        let Ok(found) = fs::symlink_metadata(path) else { return false };
        let is_key = !path.to_string_lossy().ends_with("fullchain.pem");
        let owner = match self.group_id {
            Some(group_id) => found.gid() == group_id && found.mode() & 0o777 == 0o640,
            None => found.mode() & 0o777 == 0o600,
        };
        found.is_file() && found.len() == bytes && (owner || !is_key)
    }

    /// A new file with a private key: owner and mode are set before the content. Not on disk before [`Directory::sync`].
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn create_key_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if let Some(group_id) = self.group_id {
            fchown(&file, None, Some(group_id))?;
            file.set_permissions(fs::Permissions::from_mode(0o640))?;
        }
        file.write_all(content)
    }

    /// A new file that is no secret. Not on disk before [`Directory::sync`].
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn create_public_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(content)
    }

    /// Returns once everything that was written is on disk.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&File::open(&self.root)?)?)
    }

    /// Replaces a file so that a reader finds the old content or the new, never a part.
    ///
    /// # Errors
    /// From the file system.
    pub(crate) fn write_whole(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        let mut file = file;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(path.parent().unwrap_or(Path::new("/")))
    }
}

impl Meta {
    /// What is kept of it in memory.
    ///
    /// # Errors
    /// For what no agent has written.
    pub(crate) fn into_live(self, directory: &str) -> io::Result<Live> {
        let slots: Option<Box<[(Slot, LiveSlot)]>> = self
            .slots
            .iter()
            .map(|(slot, meta)| {
                Some((*slot, LiveSlot::new(&meta.fingerprint_sha256, meta.not_before, meta.not_after)?))
            })
            .collect();
        Ok(Live {
            version: self.version.into(),
            directory: directory.into(),
            names: self.names.into_iter().map(Into::into).collect(),
            slots: slots.ok_or_else(|| {
                io::Error::new(ErrorKind::InvalidData, "meta.json has a fingerprint that is none")
            })?,
            https: self.https,
            removed: None,
            intact: true,
        })
    }
}

/// So that a rename survives a power failure.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
