//! Sites as `issuer status` and `issuer site show` print them.

use super::{
    output::{DAMAGED_REMEDY, table},
    troubles,
};
use serde_json::Value;
use shared::domain::{NameSet, for_people};

pub(super) fn to_text(sites: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list =
        |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let rows = sites.iter().map(|site| {
        let of_all = |field: &str| {
            let certificates = site["certificates"].as_array().into_iter().flatten();
            certificates.map(|certificate| text(&certificate[field])).collect::<Vec<_>>().join("\n")
        };
        let certificates = site["certificates"].as_array().into_iter().flatten();
        let orders = site["order"].as_object().into_iter().flatten();
        let orders =
            orders.map(|(slot, state)| format!("{slot} {}", text(state))).collect::<Vec<_>>().join("\n");
        vec![
            list(&site["names_unicode"]),
            text(&site["state"]),
            of_all("key_type"),
            of_all("not_after"),
            certificates
                .map(|certificate| text(&certificate["renewal"]["moment"]))
                .collect::<Vec<_>>()
                .join("\n"),
            orders,
        ]
    });
    let mut out = table(&["NAMES", "STATE", "KEY", "VALID UNTIL", "RENEWED FROM", "ORDER"], rows);
    for site in sites.iter().filter(|site| site["state"] == "damaged") {
        let names = list(&site["names_unicode"]);
        let what = if names.is_empty() { text(&site["site"]) } else { names };
        out.push_str(&format!(
            "\n\n{what}: damaged: {}\n  what to do: {DAMAGED_REMEDY}",
            text(&site["damaged"])
        ));
    }
    for site in sites.iter().filter(|site| !site["waits_for"].is_null()) {
        let until = match site["next"].as_str() {
            Some(until) if site["state"] == "waiting" => format!(" until {until}"),
            _ => String::new(),
        };
        out.push_str(&format!(
            "\n\n{}: waits{until}: {}",
            list(&site["names_unicode"]),
            text(&site["waits_for"])
        ));
    }
    let failing = sites.iter().filter(|site| !site["failure"].is_null() && site["state"] != "waiting");
    for site in failing {
        let failure = &site["failure"];
        out.push_str(&format!(
            "\n\n{} ({} in a row, last at {}{})\n  what to do: {}",
            of_them(site, &failure["what"]),
            failure["count"],
            text(&failure["at"]),
            troubles::next_attempt(site),
            text(&failure["remedy"])
        ));
    }
    for site in sites.iter().filter(|site| !site["explanation_url"].is_null()) {
        out.push_str(&format!(
            "\n\n{}: the CA explains why it wants it renewed then: {}",
            list(&site["names_unicode"]),
            text(&site["explanation_url"])
        ));
    }
    for site in sites.iter().filter(|site| !site["staged"].is_null()) {
        out.push_str(&format!(
            "\n\n{}: a new certificate is served to the frontends of the tag {}, and to all from {} on",
            list(&site["names_unicode"]),
            text(&site["staged"]["tag"]),
            text(&site["staged"]["until"])
        ));
    }
    for site in sites {
        let parked = &site["parked"];
        // What the CA has paused stands there as a failure already.
        if !parked.is_null() && site["failure"].is_null() {
            out.push_str(&format!(
                "\n\n{} (parked since {})\n  what to do: {}",
                of_them(site, &parked["what"]),
                text(&parked["since"]),
                text(&parked["remedy"])
            ));
        }
        for warning in site["warnings"].as_array().into_iter().flatten() {
            out.push_str(&format!("\n\n{}: {}", list(&site["names_unicode"]), text(warning)));
        }
        for (name, failure) in site["left_out"].as_object().into_iter().flatten() {
            let next = failure["next"].as_str().unwrap_or("never, unless `issuer retry` is told to");
            let kept =
                site["kept"].as_array().into_iter().flatten().find(|kept| {
                    kept["names"].as_array().into_iter().flatten().any(|own| own == name.as_str())
                });
            let kept = kept.map_or(String::new(), |kept| {
                format!("; the certificate before is served for it until {}", text(&kept["not_after"]))
            });
            out.push_str(&format!(
                "\n\n{}: left out of its certificate ({} in a row, tried again at {next}): {}{kept}\n  what to do: {}",
                for_people(&[name]),
                failure["count"],
                text(&failure["what"]),
                text(&failure["remedy"])
            ));
        }
    }
    out
}

/// A sentence about a site, which names it once.
fn of_them(site: &Value, what: &Value) -> String {
    let what = what.as_str().unwrap_or_default();
    match serde_json::from_value::<NameSet>(site["names"].clone()) {
        Ok(names) => names.of_them(what),
        Err(_) => what.to_owned(),
    }
}
