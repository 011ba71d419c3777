//! Envoy's secrets as files: `envoy/NAME.json` for each name (`_.example.com.json` for `*.example.com`), for an SDS configuration
//! with `path_config_source` and `watched_directory`. A secret holds one kind of key: ECDSA where there is one. An Envoy whose
//! configuration names a file that is not there does not start: that of a name that is gone holds the certificate of nobody.

use super::{Applied, Server, ServerError, View, cannot_name_a_file, file_stem, placeholder};
use crate::wire::ItemId;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, io, path::Path};

const NAME: &str = "envoy";

/// Envoy, with its files in `envoy/`.
pub(crate) struct Envoy {
    /// What each file holds; unknown at first.
    written: Option<BTreeMap<String, String>>,
}

impl Envoy {
    pub(crate) const fn new() -> Self {
        Self { written: None }
    }
}

impl Server for Envoy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cannot_hold(&self, name: &str) -> Option<&'static str> {
        cannot_name_a_file(name)
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        let failed = |error| ServerError::Write(NAME, error);
        let own = view.directory.of_adapter(NAME);
        if !own.exists() {
            view.directory.make_directory(&own).map_err(failed)?;
        }
        let written = match self.written.take() {
            Some(written) => written,
            None => read_all(&own).map_err(failed)?,
        };
        let mut wanted = render(view);
        let gone: Vec<&String> = written.keys().filter(|file| !wanted.contains_key(*file)).collect();
        if !gone.is_empty() {
            let nobody = placeholder::directory(view.directory, NAME).map_err(failed)?;
            let gone = gone.into_iter().map(|file| (file.clone(), of_nobody(file, &written[file], &nobody)));
            wanted.extend(gone.collect::<Vec<_>>());
        }
        let mut changed = false;
        for (file, content) in &wanted {
            if written.get(file) != Some(content) {
                view.directory.write_whole(&own.join(file), content.as_bytes(), 0o644).map_err(failed)?;
                changed = true;
            }
        }
        self.written = Some(wanted);
        Ok(if changed { Applied::Changed { reloaded: false } } else { Applied::Nothing })
    }
}

fn read_all(own: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(own)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            files.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(files)
}

fn render(view: &View<'_>) -> BTreeMap<String, String> {
    let secret = |name: &str, id: &ItemId| {
        let version = view.version(id, view.index.get(id)?);
        Some((format!("{}.json", file_stem(name)), secret(name, &version)))
    };
    view.names.iter().filter_map(|(name, id)| secret(name, id)).collect()
}

fn secret(name: &str, files: &Path) -> String {
    let file = |file: &str| json!({ "filename": files.join(file).display().to_string() });
    let document = json!({ "resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
        "tls_certificate": { "certificate_chain": file("fullchain.pem"), "private_key": file("privkey.pem") },
    }] });
    document.to_string()
}

/// What takes the place of a secret whose name is gone. Its name stays as the configuration has it.
fn of_nobody(file: &str, before: &str, nobody: &Path) -> String {
    let before: Option<Value> = serde_json::from_str(before).ok();
    let name = before.as_ref().and_then(|before| before["resources"][0]["name"].as_str());
    let name = name.unwrap_or_else(|| file.trim_end_matches(".json"));
    secret(name, nobody)
}
