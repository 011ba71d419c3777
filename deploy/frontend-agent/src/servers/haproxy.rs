//! HAProxy: the list of certificates and the maps for its next start (`haproxy/`), and the runtime API for the one that runs. It
//! is never reloaded, but for another TLS policy where the operator says how.
//!
//! Nothing is remembered on disk of what it was told: a HAProxy that has started since has read the files itself. Only what was
//! published after it started has to be told.

use super::{
    Applied, Server, ServerError, View,
    haproxy_maps::{self, Maps},
    haproxy_socket::{Process, Socket},
    is_hostname,
    reloader::{Reloader, Wanted},
    tls,
};
use crate::{formats::Format, wire::ItemId};
use shared::config::AgentHaproxy;
use std::{collections::BTreeMap, fs, mem, path::PathBuf};
use zeroize::Zeroizing;

const NAME: &str = "haproxy";
const LIST: &str = "crt-list";
/// `tune.bufsize` where nothing is set, and what of it a command can't have.
const BUFFER: usize = 16_384;
const RESERVE: usize = 1_024;

/// HAProxy, with its list in `haproxy/`.
pub(crate) struct Haproxy {
    settings: AgentHaproxy,
    told: Option<(Process, Entries)>,
    maps: Maps,
    policy: Reloader,
    not_taken: Vec<(ItemId, String)>,
}

/// By the path of the file, as the list has it.
type Entries = BTreeMap<String, Entry>;

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Of which item it is; where nobody knows any more, nothing.
    id: Option<ItemId>,
    /// Which version of the file HAProxy has; empty where that is not known.
    version: String,
    /// The names, as the list has them.
    names: String,
}

impl Haproxy {
    pub(crate) fn new(settings: AgentHaproxy) -> Self {
        let policy = Reloader::new(NAME, settings.test.clone(), settings.reload.clone(), 0);
        Self { settings, told: None, maps: Maps::default(), policy, not_taken: Vec::new() }
    }

    fn wanted(view: &View<'_>) -> Entries {
        let mut entries = Entries::new();
        for (id, served) in view.served() {
            let names: Vec<&str> = served.names.iter().copied().filter(|name| is_hostname(name)).collect();
            if names.is_empty() {
                continue;
            }
            for (slot, _) in &served.live.slots {
                let file = view.directory.live().join(id.as_str()).join(Format::Combined.file_name(*slot));
                let (version, names) = (served.live.directory.to_string(), names.join(" "));
                let entry = Entry { id: Some(id.clone()), version, names };
                entries.insert(file.display().to_string(), entry);
            }
        }
        entries
    }

    fn line(&self, file: &str, names: &str) -> String {
        match self.settings.options.as_str() {
            "" => format!("{file} {names}"),
            options => format!("{file} [{options}] {names}"),
        }
    }

    /// What the running HAProxy has: what was told to it, or, when it is another process, what it has read itself.
    fn known(
        &mut self,
        socket: Socket<'_>,
        list: &str,
        wanted: &Entries,
    ) -> Result<(Process, Entries), ServerError> {
        let unreachable = |error| ServerError::Unreachable(self.settings.socket.clone(), error);
        let process = socket.process().map_err(unreachable)?;
        if let Some((before, entries)) = self.told.take()
            && before.is(&process)
        {
            return Ok((process, entries));
        }
        self.maps = Maps::default();
        let answer = socket.ask(&format!("show ssl crt-list {list}")).map_err(unreachable)?;
        if !answer.contains(list) {
            let output = format!("it has no `bind ... ssl crt-list {list}`: {answer}");
            return Err(ServerError::Refused { command: "show ssl crt-list".to_owned(), output });
        }
        let mut entries = Entries::new();
        for line in answer.lines().filter(|line| !line.starts_with('#')) {
            let Some((file, rest)) = line.split_once(' ') else { continue };
            let names = rest.rsplit(']').next().unwrap_or_default().trim().to_owned();
            let version = wanted.get(file).map(|entry| entry.version.clone()).unwrap_or_default();
            // A version's name is the moment of its publication, ms.
            let published = version.parse::<i64>().map_or(i64::MAX, |ms| ms / 1000);
            let read_by_itself = published + 2 < process.started;
            let version = if read_by_itself { version } else { String::new() };
            let id = wanted.get(file).and_then(|entry| entry.id.clone());
            entries.insert(file.to_owned(), Entry { id, version, names });
        }
        Ok((process, entries))
    }

    /// # Errors
    /// What HAProxy says.
    fn put(
        &self,
        socket: Socket<'_>,
        list: &str,
        file: &str,
        entry: &Entry,
        known: Option<&Entry>,
    ) -> Result<(), String> {
        if known.is_none() {
            // It may be there already, from a time that was cut short.
            drop(socket.tell(&format!("new ssl cert {file}"), "New empty certificate"));
        }
        if known.is_none_or(|known| known.version != entry.version) {
            let pem = Zeroizing::new(fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?);
            let lines = pem.lines().filter(|line| !line.trim().is_empty());
            let mut command = Zeroizing::new(format!("set ssl cert {file} <<\n"));
            lines.for_each(|line| {
                command.push_str(line);
                command.push('\n');
            });
            socket.tell(&command, "Transaction").map_err(|reason| explain(command.len(), reason))?;
            if let Err(reason) = socket.tell(&format!("commit ssl cert {file}"), "Success!") {
                drop(socket.ask(&format!("abort ssl cert {file}")));
                return Err(reason);
            }
        }
        match known {
            Some(known) if known.names == entry.names => Ok(()),
            known => {
                let line = self.line(file, &entry.names);
                socket.tell(&format!("add ssl crt-list {list} <<\n{line}\n"), "Success!")?;
                known.map_or(Ok(()), |_| self.drop_older_line(socket, list, file))
            }
        }
    }

    /// Of two lines about a file the first: it has the names of before.
    fn drop_older_line(&self, socket: Socket<'_>, list: &str, file: &str) -> Result<(), String> {
        let answer =
            socket.ask(&format!("show ssl crt-list -n {list}")).map_err(|error| error.to_string())?;
        let prefix = format!("{file}:");
        let number = answer.lines().find_map(|line| line.strip_prefix(&prefix)?.split(' ').next());
        let number = number.ok_or("the line that it had is not to be found")?;
        socket.tell(&format!("del ssl crt-list {list} {file}:{number}"), "deleted")
    }
}

impl Server for Haproxy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn differs(&self, view: &View<'_>) -> bool {
        self.policy.differs(view.directory, &[policy(view)])
    }

    fn test(&mut self, view: &View<'_>) -> Result<(), ServerError> {
        self.policy.test(view.directory, &[policy(view)], |_| Ok(()))
    }

    fn not_taken(&mut self) -> Vec<(ItemId, String)> {
        mem::take(&mut self.not_taken)
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        self.not_taken.clear();
        let wanted = Self::wanted(view);
        let content = wanted.iter().map(|(file, entry)| self.line(file, &entry.names) + "\n").collect();
        let file = Wanted { file: LIST, content, empty: "" };
        Reloader::new(NAME, Vec::new(), Vec::new(), 0).apply(view.directory, &[file], false, |_| Ok(()))?;
        let (own, maps) = (view.directory.of_adapter(NAME), haproxy_maps::wanted(view));
        haproxy_maps::write(view, &own, &maps)?;
        let reloaded = self.policy.apply(view.directory, &[policy(view)], view.owed, |_| Ok(()))?;
        let reloaded = reloaded != Applied::Nothing && !self.settings.reload.is_empty();
        let list = view.directory.of_adapter(NAME).join(LIST).display().to_string();
        let socket: PathBuf = self.settings.socket.clone();
        let socket = Socket(&socket);
        let (process, mut known) = self.known(socket, &list, &wanted)?;
        let (mut failures, mut changed) = (Vec::new(), false);
        for (file, entry) in &wanted {
            if known.get(file) == Some(entry) {
                continue;
            }
            changed = true;
            match self.put(socket, &list, file, entry, known.get(file)) {
                Ok(()) => drop(known.insert(file.clone(), entry.clone())),
                Err(reason) => self.not_taken.extend(entry.id.clone().map(|id| (id, reason))),
            }
        }
        let gone: Vec<String> = known.keys().filter(|file| !wanted.contains_key(*file)).cloned().collect();
        for file in gone {
            changed = true;
            let deleted = socket
                .tell(&format!("del ssl crt-list {list} {file}"), "deleted")
                .and_then(|()| socket.tell(&format!("del ssl cert {file}"), "deleted"));
            match deleted {
                Ok(()) => drop(known.remove(&file)),
                Err(reason) => failures.push(format!("{file}: {reason}")),
            }
        }
        self.told = Some((process, known));
        changed |= self.maps.apply(socket, &own, maps)?;
        match failures.first() {
            None if changed || reloaded => Ok(Applied::Changed { reloaded }),
            None => Ok(Applied::Nothing),
            Some(first) => Err(ServerError::NotLetGo { failed: failures.len(), first: first.clone() }),
        }
    }
}

/// What HAProxy hangs up on is larger than its buffer.
fn explain(bytes: usize, reason: String) -> String {
    if bytes < BUFFER - RESERVE {
        return reason;
    }
    let reason = if reason.is_empty() { "it hangs up" } else { reason.as_str() };
    let enough = (bytes + RESERVE).next_multiple_of(BUFFER);
    format!(
        "certificate, chain and key are {bytes} bytes, more than HAProxy takes at once: `tune.bufsize {enough}` in `global` \
         lets it (16384 where nothing is set), from its next start on, at which it reads the file by itself ({reason})"
    )
}

/// A `global` section of its own.
fn policy(view: &View<'_>) -> Wanted {
    Wanted { file: "tls.cfg", content: view.tls.map_or_else(String::new, tls::of_haproxy), empty: "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_told_by_its_size() {
        assert_eq!(explain(5_000, "Broken pipe".to_owned()), "Broken pipe");
        let told = explain(20_000, "Broken pipe".to_owned());
        assert!(told.contains("20000 bytes") && told.contains("tune.bufsize 32768"), "{told}");
    }
}
