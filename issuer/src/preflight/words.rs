//! How a finding is said: in the languages of `words.toml`, which has every sentence once.

use serde::Deserialize;
use shared::domain::NameError;
use std::{collections::BTreeMap, sync::LazyLock};

/// What people read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    #[default]
    En,
    Ko,
}

/// What was found, and which remedy it has: words that are put together when it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    code: &'static str,
    remedy: &'static str,
    with: BTreeMap<&'static str, Word>,
}

/// What is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Text(String),
    /// Said in the same language.
    Cause(Cause),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    what: BTreeMap<String, Sentence>,
    remedy: BTreeMap<String, Sentence>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sentence {
    en: String,
    ko: String,
    #[serde(default)]
    ca: Option<String>,
}

static CATALOGUE: LazyLock<Catalogue> =
    LazyLock::new(|| toml::from_str(include_str!("words.toml")).expect("a test reads it"));

impl Cause {
    /// A finding of the catalogue, which has a remedy of the same name unless [`Cause::remedied_by`] names another.
    pub(super) fn new(code: &'static str) -> Self {
        Self { code, remedy: code, with: BTreeMap::new() }
    }

    /// The CA issues nothing for a name that is written so.
    pub(crate) fn of_name(name: &str, error: &NameError) -> Self {
        Self::new("name-refused").with("name", name).with("reason", error)
    }

    /// Nobody can write the record that would prove a name.
    pub(crate) fn of_provider(record: &str) -> Self {
        Self::new("no-dns-provider").with("record", record)
    }

    /// Where the record that would prove a name leads can't be told.
    pub(crate) fn of_record(record: &str, reason: &impl ToString) -> Self {
        Self::new("dns-other").with("name", record).with("reason", reason.to_string())
    }

    /// The clock differs from the CA's.
    pub(crate) fn of_clock(seconds: i64) -> Self {
        Self::new("clock-off").with("seconds", seconds)
    }

    /// The CA can't be reached.
    pub(crate) fn of_ca(url: &str, reason: &str) -> Self {
        Self::new("ca-unreachable").with("url", url).with("reason", reason)
    }

    #[must_use]
    pub(super) fn remedied_by(self, remedy: &'static str) -> Self {
        Self { remedy, ..self }
    }

    /// An address has no records: what is said of a name's is said of the address itself.
    #[must_use]
    pub(super) fn of_address(self) -> Self {
        match self.remedy {
            "points-elsewhere" => self.remedied_by("address-elsewhere"),
            "record-or-rule" => self.remedied_by("address-or-rule"),
            _ => self,
        }
    }

    #[must_use]
    pub(super) fn with(mut self, word: &'static str, text: impl ToString) -> Self {
        self.with.insert(word, Word::Text(text.to_string()));
        self
    }

    #[must_use]
    pub(super) fn with_cause(mut self, word: &'static str, cause: Self) -> Self {
        self.with.insert(word, Word::Cause(cause));
        self
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn what(&self, language: Language) -> String {
        self.say(CATALOGUE.what.get(self.code), language)
    }

    /// The record or the rule to change.
    pub fn remedy(&self, language: Language) -> String {
        self.say(CATALOGUE.remedy.get(self.remedy), language)
    }

    /// What was found and what to change.
    pub fn explain(&self, language: Language) -> String {
        format!("{} {}", self.what(language), self.remedy(language))
    }

    /// What the CA would probably answer; `None` where it has no part in it.
    pub fn ca_answer(&self) -> Option<String> {
        let answer = CATALOGUE.what.get(self.code)?.ca.as_deref()?;
        Some(self.fill(answer, &|cause| cause.ca_answer().unwrap_or_default()))
    }

    fn say(&self, sentence: Option<&Sentence>, language: Language) -> String {
        let Some(sentence) = sentence else { return self.code.to_owned() };
        let text = match language {
            Language::En => &sentence.en,
            Language::Ko => &sentence.ko,
        };
        self.fill(text, &|cause| cause.explain(language))
    }

    fn fill(&self, text: &str, say: &dyn Fn(&Self) -> String) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            filled.push_str(before);
            let Some((word, after)) = behind.split_once('}') else { break };
            match self.with.get(word) {
                Some(Word::Text(text)) => filled.push_str(text),
                Some(Word::Cause(cause)) => filled.push_str(&say(cause)),
                None => filled.push('?'),
            }
            rest = after;
        }
        filled.push_str(rest);
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn words(text: &str) -> BTreeSet<&str> {
        text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(word, _)| word).collect()
    }

    #[test]
    fn every_sentence_says_the_same_in_both_languages() {
        for (code, sentence) in CATALOGUE.what.iter().chain(&CATALOGUE.remedy) {
            // Korean may leave out a name that its sentence does without.
            assert!(words(&sentence.ko).is_subset(&words(&sentence.en)), "{code}");
            assert!(sentence.ko.chars().any(|c| ('가'..='힣').contains(&c)), "{code}");
            assert!(!sentence.en.is_empty());
        }
    }

    #[test]
    fn a_cause_within_a_cause_is_said_in_its_language() {
        let inner = Cause::new("nxdomain").with("name", "a.example");
        let outer = Cause::new("ipv6-differs").with("name", "a.example").with_cause("reason", inner);
        assert!(outer.explain(Language::En).contains("there: DNS problem: NXDOMAIN"), "{outer:?}");
        assert!(outer.explain(Language::Ko).contains("이름입니다(NXDOMAIN)"), "{outer:?}");
    }

    #[test]
    fn what_the_sources_name_is_in_the_catalogue() {
        let sources = [
            include_str!("finding.rs"),
            include_str!("judge.rs"),
            include_str!("look.rs"),
            include_str!("reach.rs"),
            include_str!("words.rs"),
        ]
        .concat();
        let named = |mark: &str| -> Vec<&str> {
            sources.split(mark).skip(1).filter_map(|rest| rest.split('"').next()).collect()
        };
        let codes = named("Cause::new(\"");
        assert!(codes.len() > 20);
        for code in codes {
            assert!(CATALOGUE.what.contains_key(code), "{code} is not there");
        }
        for code in CATALOGUE.what.keys().chain(CATALOGUE.remedy.keys()) {
            assert!(sources.contains(&format!("\"{code}\"")), "nobody says {code}");
        }
    }
}
