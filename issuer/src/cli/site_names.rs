//! The names of sites that a command is about.

use super::output::{Exit, Failed};
use shared::{
    domain::{DnsName, SiteId},
    store::WantedSite,
};

/// What would be removed beside the names that were given.
pub(super) fn more_than_named(sites: &[WantedSite], names: &[String]) -> Option<String> {
    let named: Vec<DnsName> = names.iter().filter_map(|name| DnsName::parse_identifier(name).ok()).collect();
    let list = |names: &[DnsName]| names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
    // Its id means all of it.
    let is_meant_whole =
        |wanted: &WantedSite| names.iter().filter_map(|name| SiteId::parse(name)).any(|id| id == wanted.id);
    let more = sites.iter().filter(|wanted| !is_meant_whole(wanted)).filter_map(|wanted| {
        let rest: Vec<DnsName> =
            wanted.site.names.iter().filter(|name| !named.contains(name)).cloned().collect();
        let whole = list(wanted.site.names.as_slice());
        (!rest.is_empty()).then(|| format!("the site {} ({whole}) goes with {}", wanted.id, list(&rest)))
    });
    let more: Vec<String> = more.collect();
    (!more.is_empty()).then(|| {
        format!(
            "more is removed than was named: {}. A single name is taken out with `issuer site set NAME --remove-name NAME`",
            more.join("; ")
        )
    })
}

/// A site's names with some more and without others.
pub(super) fn names_after(
    before: &WantedSite,
    add: &[String],
    remove: &[String],
) -> Result<Vec<String>, Failed> {
    let mut names: Vec<DnsName> = before.site.names.as_slice().to_vec();
    let parse = |text: &String| {
        DnsName::parse_identifier(text).map_err(|e| Failed::because(Exit::Usage, "names", &e))
    };
    for name in remove {
        let name = parse(name)?;
        if !names.contains(&name) {
            let message = format!("{} is no name of this site", name.to_unicode());
            return Err(Failed::new(Exit::NotFound, "not-found", message));
        }
        names.retain(|known| *known != name);
    }
    for name in add {
        names.push(parse(name)?);
    }
    if names.is_empty() {
        let message = "a site needs at least one name: remove it with `issuer site remove`";
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    Ok(names.iter().map(ToString::to_string).collect())
}
