//! Envoy's secrets as files: `envoy/NAME.json` for each name (`_.example.com.json` for `*.example.com`), for an SDS configuration
//! with `path_config_source` and `watched_directory`. A secret holds one kind of key: ECDSA where there is one.

use super::{Applied, Server, ServerError, View, file_stem};
use crate::wire::ItemId;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

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
        let wanted = render(view);
        let mut changed = false;
        for (file, content) in &wanted {
            if written.get(file) != Some(content) {
                view.directory.write_whole(&own.join(file), content.as_bytes(), 0o644).map_err(failed)?;
                changed = true;
            }
        }
        let kept: BTreeSet<&String> = wanted.keys().collect();
        for file in written.keys().filter(|file| !kept.contains(file)) {
            fs::remove_file(own.join(file)).map_err(failed)?;
            changed = true;
        }
        self.written = Some(wanted);
        Ok(if changed { Applied::Changed { reloaded: false } } else { Applied::Nothing })
    }
}

fn read_all(own: &std::path::Path) -> io::Result<BTreeMap<String, String>> {
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
        let file = |file: &str| json!({ "filename": version.join(file).display().to_string() });
        let document = json!({ "resources": [{
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": name,
            "tls_certificate": { "certificate_chain": file("fullchain.pem"), "private_key": file("privkey.pem") },
        }] });
        Some((format!("{}.json", file_stem(name)), document.to_string()))
    };
    view.names.iter().filter_map(|(name, id)| secret(name, id)).collect()
}
