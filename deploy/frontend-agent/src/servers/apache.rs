//! Apache's files: a line of mod_macro for each certificate, `Use SignpostSite NAME "ALIASES" DIRECTORY`; what is spoken; and by
//! name, which redirect plain HTTP and what they announce (HSTS). What a virtual host is like, the operator says once, in the
//! macro.
//!
//! A graceful restart with one bad pair ends a running Apache, and its own test doesn't look at certificates. So every pair
//! that the file names is read and checked again before Apache is told anything.

use super::{
    Applied, Server, ServerError, View, is_hostname,
    reloader::{Reloader, Wanted},
    tls,
};
use openssl::{pkey::PKey, x509::X509};
use shared::config::AgentApache;
use std::{fs, io, path::Path};

const NAME: &str = "apache";

/// Apache, with its files in `apache/`.
pub(crate) struct Apache {
    sites: Reloader,
    /// What Apache reads by itself when it has changed.
    maps: Reloader,
}

impl Apache {
    pub(crate) fn new(settings: AgentApache) -> Self {
        let AgentApache { test, reload, min_reload_seconds } = settings;
        Self {
            sites: Reloader::new(NAME, test, reload, min_reload_seconds),
            maps: Reloader::new(NAME, Vec::new(), Vec::new(), 0),
        }
    }
}

impl Server for Apache {
    fn name(&self) -> &'static str {
        NAME
    }

    fn differs(&self, view: &View<'_>) -> bool {
        self.sites.differs(view.directory, &render(view))
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        for (id, served) in view.served() {
            check(&view.version(id, served.live)).map_err(|reason| ServerError::Refused {
                command: "the check before Apache is told".to_owned(),
                output: format!("{id} ({}): {reason}", served.names.join(" ")),
            })?;
        }
        self.maps.apply(view.directory, &render_maps(view), false, |_| Ok(()))?;
        self.sites.apply(view.directory, &render(view), view.owed, |_| Ok(()))
    }
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

fn render(view: &View<'_>) -> [Wanted; 2] {
    let mut content = String::new();
    for (id, served) in view.served() {
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
    [
        Wanted { file: "sites.conf", content, empty: "" },
        Wanted { file: "tls.conf", content: policy, empty: "" },
    ]
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
