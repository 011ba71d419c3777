//! Names as they were typed: what is one, and what the CA takes.

use super::Arguments;
use crate::{
    ca::{Ca, Terms},
    cli::output::{Exit, Failed},
    sites::check_provable,
    suffixes,
};
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{ChallengeType, DnsName, NameError, NameSet},
};

/// Names as they were typed, each with the rule that it breaks.
pub(super) type Refused = Vec<(String, NameError)>;

/// Names as they were typed, each once; and what is none.
pub(super) fn parse_all(texts: &[String]) -> (Vec<(&str, DnsName)>, Refused) {
    let (mut names, mut wrong) = (Vec::<(&str, DnsName)>::new(), Refused::new());
    for text in texts {
        match DnsName::parse_identifier(text) {
            Ok(name) if names.iter().any(|(_, known)| *known == name) => {}
            Ok(name) => names.push((text, name)),
            Err(error) => wrong.push((text.clone(), error)),
        }
    }
    (names, wrong)
}

/// Names that the CA would refuse.
pub(super) fn refused(names: &[(&str, DnsName)], ca: &Ca, arguments: &Arguments, config: &Config) -> Refused {
    let suffixes = suffixes::current(config);
    // A wildcard is taken where something could prove it.
    let by_record = !config.dns.is_empty() || ca.section.dns_persist.is_some();
    let otherwise = if by_record { ChallengeType::Auto } else { ChallengeType::Http01 };
    let challenge = arguments.challenge.unwrap_or(otherwise);
    let profile = arguments.from.profile().or(ca.section.profile.as_deref());
    let check = |name: &DnsName| {
        ca.limits.check_name(&suffixes, name, ca.public, profile, challenge)?;
        arguments.challenge.map_or(Ok(()), |challenge| check_provable(config, name, challenge))
    };
    names.iter().filter_map(|(text, name)| Some(((*text).to_owned(), check(name).err()?))).collect()
}

/// Whether a name can be had of no CA that is configured, whatever its profile and however it is proved.
pub(super) fn no_ca_takes(text: &str, config: &Config) -> bool {
    let Ok(name) = DnsName::parse_identifier(text) else { return true };
    let suffixes = suffixes::current(config);
    let takes = |terms: &Terms| {
        let profiles = terms.limits.profiles.keys().map(String::as_str).map(Some);
        let mut profiles = profiles.chain([None]);
        profiles.any(|profile| terms.check_name(&suffixes, &name, profile, ChallengeType::Auto).is_ok())
    };
    !config.ca.keys().any(|ca| Terms::of(config, Some(ca)).is_ok_and(|terms| takes(&terms)))
}

pub(super) fn refusal(refused: &[(String, NameError)]) -> Failed {
    let list: Vec<Value> = refused
        .iter()
        .map(|(name, error)| json!({ "name": name, "rule": error.rule(), "message": error.to_string() }))
        .collect();
    let lines: Vec<String> =
        refused.iter().map(|(_, error)| format!("{error} (rule: {})", error.rule())).collect();
    let message = format!("nothing was ordered, because of these names:\n  {}", lines.join("\n  "));
    Failed::new(Exit::Usage, "names", message).with_details(json!({ "names": list }))
}

pub(super) fn name_sets(names: Vec<DnsName>, san: bool) -> Result<Vec<NameSet>, Failed> {
    if !san {
        return Ok(names.into_iter().map(NameSet::one).collect());
    }
    NameSet::new(names).map(|set| vec![set]).map_err(|e| Failed::because(Exit::Usage, "names", &e))
}

/// Whether the CA takes these names in one certificate.
pub(super) fn check_set(names: &NameSet, ca: &Ca, profile: Option<&str>) -> Result<(), Failed> {
    let count = names.as_slice().len();
    let room = ca.room(profile.or(ca.section.profile.as_deref()));
    if count > room.names {
        let message =
            format!("{count} names are too many for one certificate: {} takes {}", ca.title, room.names);
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    let bytes: usize = names.iter().map(|name| name.as_str().len()).sum();
    if count > 1 && bytes > room.bytes {
        let message = format!(
            "the names have {bytes} bytes together, too many for one certificate: {} takes {}",
            ca.title, room.bytes
        );
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    if let Some((name, wildcard)) = names.covered_by_own_wildcard() {
        let message = format!(
            "{} is covered by {}, and a CA refuses both in one order: leave it out, or order it by itself",
            name.to_unicode(),
            wildcard.to_unicode()
        );
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    Ok(())
}
