//! What the configuration names and can't be used: said by `issuer config check`, before a command or the daemon meets it.

use crate::{
    acme::ExternalAccountBinding,
    ca::{Ca, CaError},
    dns::Resolver,
    dns01, issuance, notify, sightings,
};
use shared::{
    config::{Ca as Section, Config, Inspection},
    error::chain,
};
use std::path::Path;

/// Adds everything that can't be used to the mistakes of a configuration.
pub(crate) fn inspect(inspection: &mut Inspection) {
    let config = inspection.config.clone();
    let mut problems: Vec<(String, String)> = Vec::new();
    for (name, section) in &config.ca {
        of_ca(&config, name, section, &mut problems);
    }
    for (name, section) in &config.dns {
        if let Err(error) = dns01::check(name, section) {
            problems.push((format!("dns.{name}"), chain(&error)));
        }
    }
    for (key, error) in notify::check(&config.notify) {
        problems.push((format!("notify.{key}"), chain(&error)));
    }
    if let Err(error) = sightings::check(&config.sightings) {
        problems.push(("sightings".to_owned(), chain(&error)));
    }
    if let Err(error) = Resolver::with_servers(&config.issuer.resolvers) {
        problems.push(("issuer.resolvers".to_owned(), format!("issuer.resolvers: {}", chain(&error))));
    }
    if let Err(error) = shared::telemetry::check_filter(&config.telemetry.log) {
        problems.push(("telemetry.log".to_owned(), format!("telemetry.log: {error}")));
    }
    for (key, file) in [
        ("store.password_file", &config.store.password_file),
        ("store.trusted_roots_file", &config.store.trusted_roots_file),
    ] {
        if let Some(Err(what)) = file.as_deref().map(readable) {
            problems.push((key.to_owned(), format!("{key}: {what}")));
        }
    }
    // What is wrong with the value itself is said already.
    let sound: Vec<_> = problems.into_iter().filter(|(key, _)| inspection.is_sound(key)).collect();
    for (key, message) in sound {
        inspection.add(&key, &message);
    }
}

/// What works, and not as somebody may expect.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    match config.ca.len() {
        0 => found.push("no CA is configured, so nothing can be ordered: add a section such as [ca.letsencrypt]".to_owned()),
        1 => {}
        _ if config.ca.values().any(|ca| ca.default) => {}
        _ => found.push(
            "several CAs are configured and none has default = true: new sites have to say which (--ca, `ca =` in a file)"
                .to_owned(),
        ),
    }
    for (name, section) in &config.ca {
        let Ok(ca) = Ca::of(config, Some(name)) else { continue };
        if ca.public && !section.agree_to_terms {
            found.push(format!(
                "ca.{name}.agree_to_terms is not true: {} makes no account for who doesn't agree to its terms of service",
                ca.title
            ));
        }
        if let Err(error) = issuance::check_contact(&ca) {
            found.push(chain(&error));
        }
    }
    found
}

fn of_ca(config: &Config, name: &str, section: &Section, problems: &mut Vec<(String, String)>) {
    for error in Ca::problems(config, name) {
        let key = match &error {
            CaError::NoDirectory(_) => "directory",
            CaError::Roots { .. } => "trusted_roots_file",
            _ => "limits_file",
        };
        let message = match &error {
            CaError::NoDirectory(_) => error.to_string(),
            _ => format!("ca.{name}.{key}: {}", chain(&error)),
        };
        problems.push((format!("ca.{name}.{key}"), message));
    }
    if let (Some(kid), Some(file)) = (&section.eab_kid, &section.eab_hmac_file) {
        let usable = std::fs::read_to_string(file)
            .map_err(|e| e.to_string())
            .and_then(|text| ExternalAccountBinding::from_text(kid, &text).map_err(|e| e.to_string()));
        if let Err(what) = usable {
            let message = format!("ca.{name}.eab_hmac_file: {}: {what}", file.display());
            problems.push((format!("ca.{name}.eab_hmac_file"), message));
        }
    }
}

fn readable(path: &Path) -> Result<(), String> {
    std::fs::read(path).map(drop).map_err(|error| format!("{} can't be read: {error}", path.display()))
}
