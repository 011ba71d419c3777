//! Two maps of HAProxy by hostname, `redirect.map` and `hsts.map`: files for its next start, and the runtime API for the one that
//! runs. One that doesn't use them is told nothing.

use super::{ServerError, View, haproxy_socket::Socket};
use std::{collections::BTreeMap, fs, io, path::Path};

/// A map as HAProxy has it.
type Map = BTreeMap<String, String>;

/// What the running HAProxy has, by file: `None` for one that it doesn't use.
#[derive(Default)]
pub(super) struct Maps(BTreeMap<&'static str, Option<Map>>);

/// The files, and what they are to hold.
pub(super) type WantedMaps = [(&'static str, Map); 2];

/// What frontends announce and redirect now. What has a star answers for no name of its own here.
pub(super) fn wanted(view: &View<'_>) -> WantedMaps {
    let is_plain = |name: &str| !name.starts_with('*');
    let redirect = view.redirected().filter(|name| is_plain(name));
    let hsts = view.hsts().filter(|(name, _)| is_plain(name));
    [
        ("redirect.map", redirect.map(|name| (name.to_owned(), "1".to_owned())).collect()),
        ("hsts.map", hsts.map(|(name, value)| (name.to_owned(), value)).collect()),
    ]
}

/// The files, for the next start.
///
/// # Errors
/// [`ServerError::Write`].
pub(super) fn write(view: &View<'_>, own: &Path, wanted: &WantedMaps) -> Result<(), ServerError> {
    let files = wanted.iter().map(|(file, map)| write_file(view, &own.join(file), map));
    files.collect::<io::Result<()>>().map_err(|error| ServerError::Write("haproxy", error))
}

impl Maps {
    /// Tells the running process. Answers whether anything was different.
    ///
    /// # Errors
    /// [`ServerError`]; what could be told was told.
    pub(super) fn apply(
        &mut self,
        socket: Socket<'_>,
        own: &Path,
        wanted: WantedMaps,
    ) -> Result<bool, ServerError> {
        let mut changed = false;
        for (file, map) in wanted {
            changed |= self.tell(socket, file, &own.join(file).display().to_string(), map)?;
        }
        Ok(changed)
    }

    fn tell(
        &mut self,
        socket: Socket<'_>,
        file: &'static str,
        map: &str,
        wanted: Map,
    ) -> Result<bool, ServerError> {
        let unreachable = |error| ServerError::Unreachable(socket.0.to_owned(), error);
        let known = match self.0.remove(file) {
            Some(known) => known,
            None => parse(&socket.ask(&format!("show map {map}")).map_err(unreachable)?),
        };
        let Some(mut known) = known else {
            self.0.insert(file, None);
            return Ok(false);
        };
        let mut commands: Vec<String> = Vec::new();
        for (name, value) in &wanted {
            // A semicolon would end the command.
            let said = value.replace(';', "\\;");
            match known.get(name) {
                Some(before) if before == value => {}
                Some(_) => commands.push(format!("set map {map} {name} {said}")),
                None => commands.push(format!("add map {map} {name} {said}")),
            }
        }
        let gone = known.keys().filter(|name| !wanted.contains_key(*name));
        commands.extend(gone.map(|name| format!("del map {map} {name}")));
        for command in &commands {
            // Success has no word.
            let answer = socket.ask(command).map_err(unreachable)?;
            if !answer.is_empty() {
                return Err(ServerError::Told {
                    command: command.clone(),
                    answer: answer.replace('\n', "; "),
                });
            }
        }
        known = wanted;
        self.0.insert(file, Some(known));
        Ok(!commands.is_empty())
    }
}

/// `ADDRESS KEY VALUE` on each line; `None` for a map that HAProxy doesn't know.
fn parse(answer: &str) -> Option<Map> {
    if answer.starts_with("Unknown map") {
        return None;
    }
    let entry = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    Some(answer.lines().filter_map(entry).collect())
}

fn write_file(view: &View<'_>, path: &Path, map: &Map) -> io::Result<()> {
    let content: String = map.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    match fs::read(path) {
        Ok(bytes) if bytes == content.as_bytes() => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => view.directory.write_whole(path, content.as_bytes(), 0o644),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_map_or_none() {
        let map = parse("0x55d a.example 1\n0x55e b.example max-age=60").unwrap();
        assert_eq!((map.len(), map["b.example"].as_str()), (2, "max-age=60"));
        assert_eq!(parse(""), Some(Map::new()));
        assert_eq!(parse("Unknown map identifier. Please use #<id> or <file>."), None);
    }
}
