//! Writing ring files: whole or not at all, readable by their owner alone, and no line is ever lost on the way.

use super::{Keyring, KeyringError, seal::KeyEncryptionKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const HEADING: &str =
    "# Key-encryption keys of Signpost. Without this file no stored private key can be opened.\n";

impl Keyring {
    /// Makes a ring of one new key and writes it to `path`, mode 0600. An existing file is never overwritten.
    ///
    /// # Errors
    /// [`KeyringError::Unwritable`], also when the file exists.
    pub fn generate(path: &Path) -> Result<Self, KeyringError> {
        let unwritable = unwritable(path);
        let key = KeyEncryptionKey::random().map_err(|e| unwritable(io::Error::other(e)))?;
        let directory = directory_of(path);
        std::fs::create_dir_all(directory).map_err(&unwritable)?;
        let text = Zeroizing::new(format!("{HEADING}{}", *line_of(&key)));
        draft(directory, &text, None)
            .and_then(|draft| draft.persist_noclobber(path).map_err(|e| e.error))
            .and_then(|_| sync(directory))
            .map_err(&unwritable)?;
        Ok(Self::of(vec![key]))
    }

    /// Adds a new key below the others, and answers with the ring and the new key's id. Owner and mode of the file stay.
    ///
    /// # Errors
    /// [`KeyringError`]: not a ring, or not writable; the file is then as it was.
    pub fn add(path: &Path) -> Result<(Self, String), KeyringError> {
        let file = LockedFile::open(path)?;
        Self::parse(&file.text, path)?;
        let key = KeyEncryptionKey::random().map_err(|e| unwritable(path)(io::Error::other(e)))?;
        let end = if file.text.ends_with('\n') { "" } else { "\n" };
        let text = Zeroizing::new(format!("{}{end}{}", *file.text, *line_of(&key)));
        let ring = Self::parse(&text, path)?;
        file.replace(&text)?;
        Ok((ring, key.id().to_owned()))
    }

    /// Takes a key out of a ring file. Whether anything is still sealed with it, the caller must know.
    ///
    /// # Errors
    /// [`KeyringError`]: not there, the only one, or not writable; the file is then as it was.
    pub fn remove(path: &Path, id: &str) -> Result<Self, KeyringError> {
        let file = LockedFile::open(path)?;
        let ring = Self::parse(&file.text, path)?;
        if !ring.has(id) {
            return Err(KeyringError::NotThere { path: path.into(), id: id.to_owned() });
        }
        if ring.ids().len() == 1 {
            return Err(KeyringError::Only { path: path.into(), id: id.to_owned() });
        }
        let mut text = Zeroizing::new(String::with_capacity(file.text.len()));
        for line in file.text.lines().filter(|line| line.split_whitespace().next() != Some(id)) {
            text.push_str(line);
            text.push('\n');
        }
        let ring = Self::parse(&text, path)?;
        file.replace(&text)?;
        Ok(ring)
    }
}

/// A ring file that nobody else of ours changes meanwhile.
struct LockedFile {
    /// Where it really lies: a link stays a link.
    path: PathBuf,
    file: File,
    text: Zeroizing<String>,
}

impl LockedFile {
    fn open(path: &Path) -> Result<Self, KeyringError> {
        // Also refuses what is missing or exposed.
        Keyring::load(path)?;
        let unreadable = |source: io::Error| KeyringError::Unreadable { path: path.into(), source };
        loop {
            let real = path.canonicalize().map_err(unreadable)?;
            let file = File::open(&real).map_err(unreadable)?;
            file.lock().map_err(unreadable)?;
            // Whoever held the lock before has put another file in its place.
            let locked = file.metadata().map_err(unreadable)?;
            let current = std::fs::metadata(&real).map_err(unreadable)?;
            if (locked.dev(), locked.ino()) == (current.dev(), current.ino()) {
                let text = Zeroizing::new(io::read_to_string(&file).map_err(unreadable)?);
                return Ok(Self { path: real, file, text });
            }
        }
    }

    fn replace(self, text: &str) -> Result<(), KeyringError> {
        let unwritable = unwritable(&self.path);
        let directory = directory_of(&self.path);
        let like = self.file.metadata().map_err(&unwritable)?;
        draft(directory, text, Some(&like))
            .and_then(|draft| draft.persist(&self.path).map_err(|e| e.error))
            .and_then(|_| sync(directory))
            .map_err(&unwritable)
    }
}

fn draft(
    directory: &Path,
    text: &str,
    like: Option<&std::fs::Metadata>,
) -> io::Result<tempfile::NamedTempFile> {
    let mut draft =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(directory)?;
    if let Some(like) = like {
        let made = draft.as_file().metadata()?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            fchown(draft.as_file(), Some(like.uid()), Some(like.gid()))?;
        }
        draft.as_file().set_permissions(Permissions::from_mode(like.mode() & 0o777))?;
    }
    draft.write_all(text.as_bytes())?;
    draft.as_file().sync_all()?;
    Ok(draft)
}

fn line_of(key: &KeyEncryptionKey) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(key.bytes()));
    Zeroizing::new(format!("{} {}\n", key.id(), *encoded))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> KeyringError {
    move |source| KeyringError::Unwritable { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_generated_ring_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/kek");
        let made = Keyring::generate(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(Keyring::load(&path).unwrap().ids(), made.ids());
        assert!(matches!(Keyring::generate(&path), Err(KeyringError::Unwritable { .. })));
    }

    #[test]
    fn a_key_is_added_below_the_others_and_taken_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        Keyring::generate(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let before = std::fs::read_to_string(&path).unwrap();
        // Without a newline at its end, as an editor may leave it.
        std::fs::write(&path, before.trim_end()).unwrap();
        let (ring, added) = Keyring::add(&path).unwrap();
        let after = std::fs::read_to_string(&path).unwrap();
        assert!(after.starts_with(&before) && after.lines().count() == before.lines().count() + 1);
        assert_eq!(Keyring::load(&path).unwrap().ids(), ring.ids());
        assert_eq!(ring.ids().last(), Some(&added.as_str()));
        assert_eq!(mode(&path), 0o640, "the mode stays");

        let first = ring.ids()[0].to_owned();
        assert!(matches!(Keyring::remove(&path, "kek-x"), Err(KeyringError::NotThere { .. })));
        assert_eq!(Keyring::remove(&path, &first).unwrap().ids(), [&added]);
        assert_eq!(Keyring::load(&path).unwrap().ids(), [&added]);
        assert!(matches!(Keyring::remove(&path, &added), Err(KeyringError::Only { .. })));
    }

    #[test]
    fn of_keys_that_are_added_at_once_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        Keyring::generate(&path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| Keyring::add(&path).unwrap());
            }
        });
        assert_eq!(Keyring::load(&path).unwrap().ids().len(), 9);
    }
}
