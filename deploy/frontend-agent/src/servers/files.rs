//! Files by name, for servers that name each certificate in their own configuration: `files/NAME/fullchain.pem`, where `NAME` is
//! a link to what is live (`_.example.com` for `*.example.com`). The server is reloaded whenever one changed. A server whose
//! configuration names a file that is not there does not start: a name that is gone leads to the certificate of nobody. Where it
//! refuses what is new of an item, its names lead to the version before.

use super::{
    Applied, Names, Server, ServerError, Versions, View, cannot_name_a_file, file_stem, placeholder,
    reloader::{Reloader, Wanted},
};
use crate::{disk::Directory, wire::ItemId};
use shared::config::AgentFiles;
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// What is linked, and to which version: a line for each name, with [`FORMER`] where that is not the live one.
const LIST: &str = ".versions";
const FORMER: &str = "former";

/// Links, with a list of them in `files/`.
pub(crate) struct Files(Reloader);

impl Files {
    pub(crate) fn new(settings: AgentFiles) -> Self {
        let AgentFiles { test, reload, min_reload_seconds } = settings;
        Self(Reloader::new("files", test, reload, min_reload_seconds))
    }
}

impl Server for Files {
    fn name(&self) -> &'static str {
        self.0.server
    }

    fn differs(&self, view: &View<'_>) -> bool {
        self.0.differs(view.directory, &[render(view)])
    }

    fn cannot_hold(&self, name: &str) -> Option<&'static str> {
        if name == placeholder::NOBODY {
            return Some("is what names lead to that are gone");
        }
        cannot_name_a_file(name)
    }

    fn test(&mut self, view: &View<'_>) -> Result<(), ServerError> {
        self.0.test(view.directory, &[render(view)], |content| place(view.directory, content))
    }

    fn holds(&self, view: &View<'_>) -> Names {
        let list = self.0.read(view.directory, LIST);
        let entry = |line: &str| {
            let mut words = line.split(' ');
            let (stem, id) = (words.next()?, words.next()?);
            let name = stem.strip_prefix("_.").map_or_else(|| stem.to_owned(), |rest| format!("*.{rest}"));
            Some((name, ItemId::parse(id).ok()?))
        };
        view.held(&list.lines().filter_map(entry).collect(), |_| true)
    }

    fn holds_versions(&self, directory: &Directory) -> Versions {
        self.0.read(directory, LIST).lines().filter_map(version_of).collect()
    }

    fn names_versions(&self, directory: &Directory) -> Vec<PathBuf> {
        let held = self.holds_versions(directory).into_iter();
        held.map(|(id, version)| directory.item(&id).join(&*version)).collect()
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        let place = |content: &str| place(view.directory, content);
        self.0.apply(view.directory, &[render(view)], view.owed, place)
    }
}

fn render(view: &View<'_>) -> Wanted {
    let line = |name: &str, id: &ItemId| {
        let live = view.index.get(id)?;
        Some(match view.former(id) {
            Some(version) => format!("{} {id} {version} {FORMER}\n", file_stem(name)),
            None => format!("{} {id} {}\n", file_stem(name), live.directory),
        })
    };
    Wanted {
        file: LIST,
        content: view.names.iter().filter_map(|(name, id)| line(name, id)).collect(),
        empty: "",
    }
}

/// Of which item a line is, and of which version.
fn version_of(line: &str) -> Option<(ItemId, Box<str>)> {
    let mut words = line.split(' ').skip(1);
    Some((ItemId::parse(words.next()?).ok()?, words.next()?.into()))
}

/// Makes the links those of the list.
fn place(directory: &Directory, list: &str) -> io::Result<()> {
    let own = directory.of_adapter("files");
    let target = |line: &str| -> Option<(String, PathBuf)> {
        let mut words = line.split(' ');
        let (stem, id, version) = (words.next()?.to_owned(), words.next()?, words.next()?);
        let is_former = words.next() == Some(FORMER);
        let target = if is_former {
            Path::new("../store").join(id).join(version)
        } else {
            Path::new("../live").join(id)
        };
        Some((stem, target))
    };
    let mut wanted: BTreeMap<String, PathBuf> = list.lines().filter_map(target).collect();
    for entry in fs::read_dir(&own)? {
        let entry = entry?;
        if !entry.file_type()?.is_symlink() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = match wanted.get(&name) {
            Some(target) => target.clone(),
            None => {
                placeholder::directory(directory, "files")?;
                PathBuf::from(placeholder::NOBODY)
            }
        };
        if fs::read_link(entry.path()).is_ok_and(|is| is == target) {
            wanted.remove(&name);
        } else {
            wanted.insert(name, target);
        }
    }
    for (name, target) in wanted {
        let temporary = own.join(".link");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(target, &temporary)?;
        fs::rename(&temporary, own.join(name))?;
    }
    crate::disk::sync_directory(&own)
}
