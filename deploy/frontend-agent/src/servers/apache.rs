//! Apache's files: a line of mod_macro for each certificate, `Use SignpostSite NAME "ALIASES" DIRECTORY`; what is spoken; and by
//! name, which redirect plain HTTP and what they announce (HSTS). What a virtual host is like, the operator says once, in the
//! macro.
//!
//! A graceful restart with one bad pair ends a running Apache, and its own test doesn't look at certificates. So every pair
//! that the file names is read and checked again before Apache is told anything.

use super::{
    Applied, Names, Server, ServerError, Versions, View, is_hostname,
    reloader::{Reloader, Wanted},
    tls,
};
use crate::{disk::Directory, wire::ItemId};
use openssl::{pkey::PKey, x509::X509};
use shared::config::AgentApache;
use std::{
    collections::BTreeMap,
    fs, io, mem,
    path::{Path, PathBuf},
};

const NAME: &str = "apache";
const SITES: &str = "sites.conf";

/// Apache, with its files in `apache/`.
pub(crate) struct Apache {
    sites: Reloader,
    /// What Apache reads by itself when it has changed.
    maps: Reloader,
    not_taken: Vec<(ItemId, String)>,
}

impl Apache {
    pub(crate) fn new(settings: AgentApache) -> Self {
        let AgentApache { test, reload, min_reload_seconds } = settings;
        Self {
            sites: Reloader::new(NAME, test, reload, min_reload_seconds),
            maps: Reloader::new(NAME, Vec::new(), Vec::new(), 0),
            not_taken: Vec::new(),
        }
    }
}

impl Server for Apache {
    fn name(&self) -> &'static str {
        NAME
    }

    fn differs(&self, view: &View<'_>) -> bool {
        self.sites.differs(view.directory, &render(view, &BTreeMap::new()))
    }

    fn cannot_hold(&self, name: &str) -> Option<&'static str> {
        name.starts_with("_.").then_some("would be the virtual host of the name with a star in its place")
    }

    fn test(&mut self, view: &View<'_>) -> Result<(), ServerError> {
        self.sites.test(view.directory, &render(view, &BTreeMap::new()), |_| Ok(()))
    }

    fn holds(&self, view: &View<'_>) -> Names {
        let mut former = BTreeMap::new();
        for (id, line) in former_lines(view.directory) {
            let Ok(id) = ItemId::parse(&id) else { continue };
            let names = line.split('"').nth(1).unwrap_or_default().split(' ');
            former.extend(names.map(|name| (name.to_owned(), id.clone())));
        }
        view.held(&former, is_hostname)
    }

    fn holds_versions(&self, directory: &Directory) -> Versions {
        let version = |(id, line): (String, String)| {
            let version = version_of(&line)?;
            Some((ItemId::parse(&id).ok()?, version.file_name()?.to_str()?.into()))
        };
        former_lines(directory).into_iter().filter_map(version).collect()
    }

    fn refuses_the_present(&self) -> bool {
        self.sites.refuses_the_present()
    }

    fn not_taken(&mut self) -> Vec<(ItemId, String)> {
        mem::take(&mut self.not_taken)
    }

    fn names_versions(&self, directory: &Directory) -> Vec<PathBuf> {
        former_lines(directory).into_values().filter_map(|line| version_of(&line)).collect()
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        self.not_taken.clear();
        let mut instead = BTreeMap::new();
        if view.owed || self.differs(view) {
            let former = former_lines(view.directory);
            for (id, served) in view.served() {
                let Err(reason) = check(&view.version(id, served.live)) else { continue };
                self.not_taken
                    .push((id.clone(), format!("its files are not what Apache can load: {reason}")));
                // What was served goes on, as long as that is good.
                let line = former
                    .get(id.as_str())
                    .filter(|line| version_of(line).is_some_and(|version| check(&version).is_ok()));
                instead.insert(id.clone(), line.cloned().unwrap_or_default());
            }
        }
        self.maps.apply(view.directory, &render_maps(view), false, |_| Ok(()))?;
        self.sites.apply(view.directory, &render(view, &instead), view.owed, |_| Ok(()))
    }
}

/// The lines that the file has now, by item.
fn former_lines(directory: &Directory) -> BTreeMap<String, String> {
    let text = fs::read_to_string(directory.of_adapter(NAME).join(SITES)).unwrap_or_default();
    let by_item = |line: &str| {
        let version = version_of(line)?;
        let id = version.parent()?.file_name()?.to_str()?.to_owned();
        Some((id, format!("{line}\n")))
    };
    text.lines().filter_map(by_item).collect()
}

/// The directory that a line names: its last word.
fn version_of(line: &str) -> Option<PathBuf> {
    line.trim_end().rsplit_once("\" ").map(|(_, version)| PathBuf::from(version))
}

/// Text for `RewriteMap`, by name.
fn render_maps(view: &View<'_>) -> [Wanted; 2] {
    let redirect = view.redirected().map(|name| format!("{name} 1\n")).collect();
    let hsts = view.hsts().map(|(name, value)| format!("{name} {value}\n")).collect();
    [
        Wanted { file: "redirect.txt", content: redirect, empty: "" },
        Wanted { file: "hsts.txt", content: hsts, empty: "" },
    ]
}

/// `instead`: lines of items that can't be what they should, perhaps none.
fn render(view: &View<'_>, instead: &BTreeMap<ItemId, String>) -> [Wanted; 2] {
    let mut content = String::new();
    for (id, served) in view.served() {
        if let Some(line) = instead.get(id) {
            content.push_str(line);
            continue;
        }
        let names: Vec<&str> = served.names.iter().copied().filter(|name| is_hostname(name)).collect();
        // A name with a star can be an alias and nothing else.
        let plain = names.iter().find(|name| !name.starts_with('*')).map(ToString::to_string);
        let Some(name) = plain.or_else(|| names.first().map(|name| super::file_stem(name))) else { continue };
        let directory = view.version(id, served.live);
        content.push_str(&format!(
            "Use SignpostSite {name} \"{}\" {}\n",
            names.join(" "),
            directory.display()
        ));
    }
    let policy = view.tls.map_or_else(String::new, tls::of_apache);
    [Wanted { file: SITES, content, empty: "" }, Wanted { file: "tls.conf", content: policy, empty: "" }]
}

/// Whether Apache can load both pairs of a version.
fn check(version: &Path) -> Result<(), String> {
    for slot in shared::domain::Slot::ALL {
        let (fullchain, privkey) = crate::publish::file_names(slot);
        let read = |name: &str| fs::read(version.join(name)).map_err(|error: io::Error| error.to_string());
        let certificate = X509::from_pem(&read(&fullchain)?).map_err(|error| error.to_string())?;
        let key = zeroize::Zeroizing::new(read(&privkey)?);
        let key = PKey::private_key_from_pem(&key).map_err(|_| format!("{privkey} can't be read"))?;
        if !certificate.public_key().is_ok_and(|public| public.public_eq(&key)) {
            return Err(format!("{privkey} does not belong to {fullchain}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_pair_is_noticed() {
        use crate::test_pki::{TestPki, days};
        let pki = TestPki::new();
        let pair = |slot| pki.issue(&["a.example"], slot, days(-1), days(9));
        let version = tempfile::tempdir().unwrap();
        for slot in shared::domain::Slot::ALL {
            let (pair, (fullchain, privkey)) = (pair(slot), crate::publish::file_names(slot));
            fs::write(version.path().join(fullchain), &pair.fullchain).unwrap();
            fs::write(version.path().join(privkey), &pair.privkey[..]).unwrap();
        }
        check(version.path()).unwrap();
        let other = pair(shared::domain::Slot::Ecdsa);
        fs::write(version.path().join("ecdsa-privkey.pem"), &other.privkey[..]).unwrap();
        assert!(check(version.path()).unwrap_err().contains("does not belong"));
        fs::write(version.path().join("ecdsa-privkey.pem"), "").unwrap();
        assert!(check(version.path()).unwrap_err().contains("can't be read"));
    }
}
