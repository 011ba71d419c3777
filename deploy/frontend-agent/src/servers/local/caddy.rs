//! Caddy: `get_certificate http` at each handshake, or its whole configuration with the certificates put in.

use super::{canonical, find, parameter};
use crate::{publish::file_names, servers::View};
use actix_web::HttpRequest;
use serde_json::{Map, Value, json};
use shared::domain::Slot;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// ecdsa_secp256r1_sha256, as Caddy writes it.
const ECDSA_P256: u32 = 0x0403;
/// The cipher suites with which a server may show an ECDSA key: those of TLS 1.3, and of 1.2 with ECDHE-ECDSA.
const SUITES_WITH_ECDSA: [u32; 10] =
    [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02c, 0xcca9, 0xc023, 0xc024, 0xc009, 0xc00a];

/// Certificate, chain and key for who asks; `None` when the name is nobody's here.
///
/// # Errors
/// From the file system.
pub(super) fn certificate(
    request: &HttpRequest,
    names: &BTreeMap<Arc<str>, PathBuf>,
) -> io::Result<Option<Vec<u8>>> {
    // A client that names nothing means the address that it came to.
    let name = ["server_name", "local_ip"]
        .into_iter()
        .filter_map(|key| parameter(request, key))
        .map(|name| canonical(&name))
        .find(|name| !name.is_empty());
    let Some(link) = name.and_then(|name| find(names, &name)) else { return Ok(None) };
    // Looked up once: the two files are of one version whatever happens meanwhile.
    let version = link.parent().unwrap_or(Path::new("/")).join(fs::read_link(link)?);
    let takes_ecdsa = offers(request, "signature_schemes", &[ECDSA_P256])
        && offers(request, "cipher_suites", &SUITES_WITH_ECDSA);
    // Where there is one kind only, both names lead to it.
    let (fullchain, privkey) = file_names(if takes_ecdsa { Slot::Ecdsa } else { Slot::Rsa });
    let mut pem = fs::read(version.join(fullchain))?;
    pem.extend(fs::read(version.join(privkey))?);
    Ok(Some(pem))
}

/// Whether a list of hexadecimal numbers has one of these. One that is not there excludes nothing.
fn offers(request: &HttpRequest, key: &str, wanted: &[u32]) -> bool {
    parameter(request, key).is_none_or(|list| {
        list.split(',').filter_map(|number| u32::from_str_radix(number, 16).ok()).any(|n| wanted.contains(&n))
    })
}

/// The operator's configuration with every certificate in `apps.tls.certificates.load_files`, by the paths of its version.
pub(super) fn config(file: &Path, view: &View<'_>) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut config: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut certificates = Vec::new();
    for (id, served) in view.served() {
        let version = view.version(id, served.live);
        for (slot, _) in &served.live.slots {
            let (fullchain, privkey) = file_names(*slot);
            let path = |name: String| version.join(name).display().to_string();
            certificates.push(json!({ "certificate": path(fullchain), "key": path(privkey) }));
        }
    }
    let mut place = &mut config;
    for key in ["apps", "tls", "certificates"] {
        let object =
            place.as_object_mut().ok_or_else(|| format!("{}: no object around {key}", file.display()))?;
        place = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
    }
    place
        .as_object_mut()
        .ok_or_else(|| format!("{}: apps.tls.certificates is no object", file.display()))?
        .insert("load_files".to_owned(), Value::Array(certificates));
    Ok(config.to_string())
}
