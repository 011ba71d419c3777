//! Whose the embedded store is: root may use another user's, and leaves nothing there that this user can't use.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

const ROOT: u32 = 0;

/// Who runs the server, and whose its files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// `None`: this process' own user.
    other: Option<(u32, u32)>,
}

impl Owner {
    /// The owner of a directory that is made where there is none.
    ///
    /// # Errors
    /// It can't be made, or another user's is closed to this one.
    pub(super) fn of_new(directory: &Path) -> io::Result<Self> {
        let is_new = !directory.exists();
        fs::create_dir_all(directory)?;
        let owner = Self::of(directory)?;
        if is_new {
            owner.give(directory)?;
        }
        Ok(owner)
    }

    /// # Errors
    /// It is another user's, and this one isn't root.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let (me, its) = (rustix::process::geteuid().as_raw(), fs::metadata(directory)?);
        let parents = directory.parent().map(fs::metadata).transpose()?;
        let parents = parents.map(|parent| (parent.uid(), parent.gid()));
        match decide(me, (its.uid(), its.gid()), parents) {
            Some(owner) => Ok(owner),
            None => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    /// The user of a directory, or of the one that it would be in.
    pub(super) fn uid_of(directory: &Path) -> Option<u32> {
        let exists = directory.ancestors().find_map(|path| fs::metadata(path).ok());
        exists.map(|metadata| metadata.uid())
    }

    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        self.other.map_or(Ok(()), |(uid, gid)| std::os::unix::fs::lchown(path, Some(uid), Some(gid)))
    }

    /// A directory and everything in it.
    pub(super) fn give_all(self, directory: &Path) -> io::Result<()> {
        if self.other.is_none() {
            return Ok(());
        }
        self.give(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.give_all(&entry.path())?;
            } else {
                self.give(&entry.path())?;
            }
        }
        Ok(())
    }

    pub(super) fn become_it(self, command: &mut Command) {
        if let Some((uid, gid)) = self.other {
            command.uid(uid).gid(gid);
        }
    }
}

/// `None`: another user's store. A directory of root's in another user's was left there by a command of root's: it is given back.
fn decide(me: u32, its: (u32, u32), parents: Option<(u32, u32)>) -> Option<Owner> {
    if me != ROOT {
        return (its.0 == me).then_some(Owner { other: None });
    }
    let owner = if its.0 == ROOT { parents.unwrap_or(its) } else { its };
    Some(Owner { other: (owner.0 != ROOT).then_some(owner) })
}

/// The name of a user, or its number where it has none.
pub(super) fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_acts_for_the_owner_and_nobody_for_another_user() {
        let (a, b, root) = ((1000, 1000), (1001, 1001), (ROOT, ROOT));
        assert_eq!(decide(1000, a, Some(root)), Some(Owner { other: None }));
        assert_eq!(decide(1000, b, Some(a)), None);
        assert_eq!(decide(1000, root, Some(a)), None, "what root left there: said, whose it is");
        assert_eq!(decide(ROOT, a, Some(root)), Some(Owner { other: Some(a) }));
        assert_eq!(decide(ROOT, root, Some(a)), Some(Owner { other: Some(a) }));
        assert_eq!(decide(ROOT, root, Some(root)), Some(Owner { other: None }));
    }

    #[test]
    fn users_have_names() {
        assert_eq!(user_name(ROOT), "root");
        assert_eq!(user_name(4_000_000_001), "4000000001");
    }
}
