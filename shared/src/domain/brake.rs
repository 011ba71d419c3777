//! Brakes: an operator stops issuance or publication, for everything, for a CA or for a tag, until it is released.

use super::{Site, parse_tag};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Braked {
    /// Nothing new is ordered. Orders that are under way are finished.
    Issuance,
    /// What is issued is stored, and what was served before is served on.
    Publication,
}

/// Which sites it holds for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrakeScope {
    All,
    Ca(String),
    Tag(String),
}

/// One brake that is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    pub what: Braked,
    #[serde(with = "text")]
    pub scope: BrakeScope,
    pub since: Timestamp,
    #[serde(default)]
    pub reason: String,
}

impl Brake {
    fn holds(&self, what: Braked, site: &Site) -> bool {
        self.what == what
            && match &self.scope {
                BrakeScope::All => true,
                BrakeScope::Ca(ca) => *ca == site.ca,
                BrakeScope::Tag(tag) => site.tags.contains(tag),
            }
    }
}

impl Brake {
    /// The command that ends it.
    pub fn release(&self) -> String {
        let of = match &self.scope {
            BrakeScope::All => String::new(),
            BrakeScope::Ca(ca) => format!(" --ca {ca}"),
            BrakeScope::Tag(tag) => format!(" --tag {tag}"),
        };
        format!("issuer resume {}{of}", self.what)
    }
}

/// The first brake that holds a site, if any does.
pub fn brake_of<'a>(brakes: &'a [Brake], what: Braked, site: &Site) -> Option<&'a Brake> {
    brakes.iter().find(|brake| brake.holds(what, site))
}

impl fmt::Display for Brake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an operator has stopped {} for {} at {}",
            self.what,
            self.scope.in_words(),
            self.since.strftime("%F %T UTC")
        )?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        write!(f, " (`{}` lets it go on)", self.release())
    }
}

impl fmt::Display for Braked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Issuance => "issuance",
            Self::Publication => "publication",
        })
    }
}

impl BrakeScope {
    pub fn in_words(&self) -> String {
        match self {
            Self::All => "everything".to_owned(),
            Self::Ca(ca) => format!("the CA {ca}"),
            Self::Tag(tag) => format!("the tag {tag}"),
        }
    }
}

/// `all`, `ca:NAME`, `tag:TAG`.
impl fmt::Display for BrakeScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Ca(ca) => write!(f, "ca:{ca}"),
            Self::Tag(tag) => write!(f, "tag:{tag}"),
        }
    }
}

impl FromStr for BrakeScope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match Self::stored(text)? {
            Self::Tag(tag) => parse_tag(&tag).map(Self::Tag).map_err(|e| e.to_string()),
            other => Ok(other),
        }
    }
}

impl BrakeScope {
    /// One that was set, whatever may be set by now.
    fn stored(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("ca", ca)) if !ca.is_empty() => Ok(Self::Ca(ca.to_owned())),
            Some(("tag", tag)) if !tag.is_empty() => Ok(Self::Tag(tag.to_owned())),
            _ => Err(format!("{text:?}: use all, ca:NAME or tag:TAG")),
        }
    }
}

mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(scope: &super::BrakeScope, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(scope)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<super::BrakeScope, D::Error> {
        super::BrakeScope::stored(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brake_reads_what_it_writes() {
        for text in ["all", "ca:letsencrypt", "tag:customer-7"] {
            let record = format!(
                r#"{{"what":"issuance","scope":"{text}","since":"2026-11-24T15:00:00Z","reason":""}}"#
            );
            let brake: Brake = serde_json::from_str(&record).unwrap();
            assert_eq!(serde_json::to_string(&brake).unwrap(), record);
        }
        let tag = Brake {
            what: Braked::Issuance,
            scope: BrakeScope::Tag("eu".into()),
            since: Timestamp::UNIX_EPOCH,
            reason: "incident 42".into(),
        };
        assert!(
            tag.to_string().ends_with(": incident 42 (`issuer resume issuance --tag eu` lets it go on)"),
            "{tag}"
        );
        for text in ["", "ca:", "tags:x", "All", "tag:EU WEST", "tag:a\0"] {
            assert!(text.parse::<BrakeScope>().is_err(), "{text}");
        }
    }
}
