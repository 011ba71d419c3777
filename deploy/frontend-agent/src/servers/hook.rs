//! A command of the operator, for everything that no adapter knows: it reads on its standard input what changed, and is told
//! again until it succeeds.

use super::{
    Applied, Served, Server, ServerError, View,
    command::{self, run},
};
use crate::wire::ItemId;
use serde::Serialize;
use shared::{config::AgentHook, digest::hex};
use std::{collections::BTreeMap, fs, io, path::PathBuf};

const NAME: &str = "hook";
/// What the command was told: a line `ID VERSION` for each item.
const TOLD: &str = "told";

/// The command, with what it was told in `hook/`.
pub(crate) struct Hook {
    settings: AgentHook,
    told: Option<BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct Message<'a> {
    changed: Vec<Changed<'a>>,
    removed: Vec<&'a str>,
}

#[derive(Serialize)]
struct Changed<'a> {
    id: &'a str,
    names: Vec<&'a str>,
    directory: PathBuf,
    /// By kind of key.
    certificates: BTreeMap<String, Certificate>,
}

#[derive(Serialize)]
struct Certificate {
    fullchain: PathBuf,
    privkey: PathBuf,
    fingerprint_sha256: String,
    /// Unix time, seconds.
    not_after: i64,
}

impl Hook {
    pub(crate) const fn new(settings: AgentHook) -> Self {
        Self { settings, told: None }
    }
}

impl Server for Hook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        let failed = |error| ServerError::Write(NAME, error);
        let file = view.directory.of_adapter(NAME).join(TOLD);
        let told = match self.told.take() {
            Some(told) => told,
            None => read(&file).map_err(failed)?,
        };
        let told = self.told.insert(told);
        let served = view.served();
        let wanted: BTreeMap<String, String> =
            served.iter().map(|(id, served)| (id.to_string(), served.live.directory.to_string())).collect();
        let changed: Vec<Changed<'_>> = served
            .into_iter()
            .filter(|(id, served)| {
                told.get(id.as_str()).is_none_or(|version| **version != *served.live.directory)
            })
            .map(|(id, served)| changed(view, id, served))
            .collect();
        let removed: Vec<&str> =
            told.keys().filter(|id| !wanted.contains_key(*id)).map(String::as_str).collect();
        if changed.is_empty() && removed.is_empty() {
            return Ok(Applied::Nothing);
        }
        let message =
            serde_json::to_vec(&Message { changed, removed }).map_err(|error| failed(error.into()))?;
        let command = &self.settings.command;
        run(command, &message, command::OTHER).map_err(|error| ServerError::of_telling(command, error))?;
        if !view.directory.of_adapter(NAME).exists() {
            view.directory.make_directory(&view.directory.of_adapter(NAME)).map_err(failed)?;
        }
        let text: String = wanted.iter().map(|(id, version)| format!("{id} {version}\n")).collect();
        view.directory.write_whole(&file, text.as_bytes(), 0o600).map_err(failed)?;
        self.told = Some(wanted);
        Ok(Applied::Changed { reloaded: true })
    }
}

fn changed<'a>(view: &View<'a>, id: &'a ItemId, served: Served<'a>) -> Changed<'a> {
    let directory = view.version(id, served.live);
    let certificate = |(slot, live): &(shared::domain::Slot, crate::index::LiveSlot)| {
        let (fullchain, privkey) = crate::publish::file_names(*slot);
        let certificate = Certificate {
            fullchain: directory.join(fullchain),
            privkey: directory.join(privkey),
            fingerprint_sha256: hex(&live.fingerprint),
            not_after: live.not_after,
        };
        (slot.to_string(), certificate)
    };
    let certificates = served.live.slots.iter().map(certificate).collect();
    Changed { id: id.as_str(), names: served.names, certificates, directory }
}

fn read(file: &std::path::Path) -> io::Result<BTreeMap<String, String>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let words = |line: &str| line.split_once(' ').map(|(id, version)| (id.to_owned(), version.to_owned()));
    Ok(text.lines().filter_map(words).collect())
}
