//! Every sentence of SECURITY.md and of the handbook's page on durability stands in tests/claims.md with the tests that show it.
//! Whoever changes a sentence looks at its tests again; whoever takes a test away finds the sentences that lose it.

use std::{collections::BTreeMap, path::PathBuf};

use super::{read, root};

const PAGES: [&str; 2] = ["SECURITY.md", "deploy/handbook/durability.md"];
const LIST: &str = "tests/claims.md";
/// Under a sentence that promises nothing of ours, with the reason.
const NONE: &str = "no test: ";

/// A sentence of the list.
struct Entry {
    line: usize,
    sentence: String,
    shown_by: Vec<String>,
}

#[test]
fn every_sentence_of_the_two_pages_has_its_tests() {
    let listed = listed();
    let mut faults = Vec::new();
    for page in PAGES {
        let (wanted, found) = (units(&read(page)), listed.get(page).map_or(&[][..], Vec::as_slice));
        // In their order: the first that differs is shown, and what is gone or new on either side.
        let sentences: Vec<&str> = found.iter().map(|entry| entry.sentence.as_str()).collect();
        for sentence in wanted.iter().filter(|sentence| !sentences.contains(&sentence.as_str())) {
            faults.push(format!("{page} says, and {LIST} has not:\n> {sentence}"));
        }
        for entry in found.iter().filter(|entry| !wanted.contains(&entry.sentence)) {
            faults.push(format!("{LIST}:{} has, and {page} does not say:\n> {}", entry.line, entry.sentence));
        }
        let other = found.iter().zip(&wanted).find(|(entry, wanted)| entry.sentence != **wanted);
        if let Some((entry, sentence)) = other.filter(|_| faults.is_empty()) {
            faults.push(format!("{LIST}:{} is in another order: here {page} says\n> {sentence}", entry.line));
        }
    }
    assert!(
        faults.is_empty(),
        "a sentence is there or has changed: see that tests show it, and write it down\n\n{}\n",
        faults.join("\n\n")
    );
}

#[test]
fn every_test_that_shows_a_sentence_is_there() {
    let mut named = 0;
    let mut faults = Vec::new();
    for (page, entries) in listed() {
        for entry in entries {
            let at = format!("{LIST}:{}: {page}", entry.line);
            if entry.shown_by.is_empty() {
                faults.push(format!("{at}: neither a test nor `- {NONE}REASON`"));
            }
            for test in &entry.shown_by {
                match test.strip_prefix(NONE) {
                    Some(reason) if reason.len() > 10 => {}
                    Some(_) => faults.push(format!("{at}: no reason")),
                    None if exists(test) => named += 1,
                    None => faults.push(format!("{at}: there is no test `{test}`")),
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(named > 100, "only {named} tests are named");
}

/// By page: its sentences as the list has them, with what stands under each.
fn listed() -> BTreeMap<String, Vec<Entry>> {
    let mut pages: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    let mut page = String::new();
    for (number, line) in read(LIST).lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut page);
        } else if let Some(sentence) = line.strip_prefix("> ") {
            let entry = Entry { line: number + 1, sentence: sentence.to_owned(), shown_by: Vec::new() };
            pages.entry(page.clone()).or_default().push(entry);
        } else if let Some(test) = line.strip_prefix("- ") {
            let entry = pages.get_mut(&page).and_then(|entries| entries.last_mut());
            entry
                .unwrap_or_else(|| panic!("{LIST}:{}: under no sentence", number + 1))
                .shown_by
                .push(test.to_owned());
        }
    }
    assert!(pages.keys().all(|page| PAGES.contains(&page.as_str())), "{LIST}: {:?}", pages.keys());
    pages
}

/// Sentences, rows of tables and blocks of code, in their order; neither headings nor the heads of tables.
fn units(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut paragraph, mut code) = (Vec::new(), None::<Vec<&str>>);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for (number, line) in lines.iter().copied().enumerate() {
        if let Some(mut block) = code.take() {
            if line.starts_with("```") {
                found.push(block.join(" "));
            } else {
                block.push(line);
                code = Some(block);
            }
            continue;
        }
        let item = item_of(line);
        let is_row = line.starts_with('|');
        if line.is_empty() || is_row || item.is_some() || line.starts_with('#') || line.starts_with("```") {
            found.extend(sentences(&paragraph.join(" ")));
            paragraph.clear();
        }
        if line.starts_with("```") {
            code = Some(Vec::new());
        } else if is_row {
            let is_head = lines.get(number + 1).is_some_and(|next| next.starts_with("|---"));
            if !is_head && !line.starts_with("|---") {
                found.push(line.to_owned());
            }
        } else if !line.starts_with('#') && !line.is_empty() {
            paragraph.push(item.unwrap_or(line));
        }
    }
    found.extend(sentences(&paragraph.join(" ")));
    found
}

/// What an item of a list says.
fn item_of(line: &str) -> Option<&str> {
    let numbered = line.split_once(". ").filter(|(number, _)| number.parse::<u32>().is_ok());
    line.strip_prefix("- ").or(numbered.map(|(_, text)| text))
}

/// A sentence ends with a full stop behind which another one begins; not in code.
fn sentences(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let (mut found, mut begin, mut is_code) = (Vec::new(), 0, false);
    for (at, letter) in letters.iter().enumerate() {
        is_code ^= *letter == '`';
        if is_code || !matches!(letter, '.' | '!' | '?') {
            continue;
        }
        let closing = letters[at + 1..].iter().take_while(|next| matches!(next, '*' | ')' | '"')).count();
        let end = at + 1 + closing;
        let begins = |next: &char| next.is_uppercase() || matches!(next, '*' | '`' | '(' | '[' | '"');
        if letters.get(end) == Some(&' ') && letters.get(end + 1).is_some_and(begins) {
            found.push(letters[begin..end].iter().collect::<String>());
            begin = end + 1;
        }
    }
    found.push(letters[begin..].iter().collect());
    found
        .into_iter()
        .map(|sentence| sentence.trim().to_owned())
        .filter(|sentence| !sentence.is_empty())
        .collect()
}

/// Whether the source has a test of this name, written as `cargo nextest list` writes it: the crate or the program of tests, a
/// blank, its modules and its function.
fn exists(test: &str) -> bool {
    let Some((program, path)) = test.split_once(' ') else { return false };
    let folder = match program {
        "shared" | "serving" | "issuer" | "validation-server" => format!("{program}/src"),
        "frontend-agent" => "deploy/frontend-agent/src".to_owned(),
        "stories" | "conventions" | "harness_self" => "tests".to_owned(),
        "api" | "certificate_api" | "key_rotation" | "notify" => format!("tests/{program}"),
        _ => return false,
    };
    let mut modules: Vec<&str> = path.split("::").collect();
    let Some(function) = modules.pop() else { return false };
    let begin = root().join(folder);
    let mut places: Vec<PathBuf> = vec![begin.join(modules.join("/")).with_extension("rs")];
    // Of tests that stand in the file that they test.
    if modules.last() == Some(&"tests") {
        modules.pop();
    }
    if modules.is_empty() {
        places.extend(
            [format!("{program}.rs"), "main.rs".into(), "lib.rs".into()].map(|name| begin.join(name)),
        );
    } else {
        let file = begin.join(modules.join("/"));
        places.extend([file.with_extension("rs"), file.join("mod.rs")]);
    }
    places.retain(|place| place.is_file());
    let signature = format!("fn {function}(");
    places.iter().any(|place| {
        let text = std::fs::read_to_string(place).unwrap_or_default();
        text.match_indices(&signature).any(|(at, _)| {
            let before: Vec<&str> = text[..at].lines().rev().take(4).collect();
            before.iter().any(|line| line.contains("test]") || line.contains("test("))
        })
    })
}

#[test]
fn pages_are_taken_apart_as_they_are_read() {
    let page = "# Head\nOne `a. B` and (two. Three)\ngoes on. **Four.** Five:\n\n| a | b |\n|---|---|\n| `c` | d. E |\n- six. Seven\n\
                2. eight ... Nine\n```\ncode. Here\nmore\n```\nTen e.g. this. (Eleven.)\n";
    let expected = [
        "One `a. B` and (two.",
        "Three) goes on.",
        "**Four.**",
        "Five:",
        "| `c` | d. E |",
        "six.",
        "Seven",
        "eight ...",
        "Nine",
        "code. Here more",
        "Ten e.g. this.",
        "(Eleven.)",
    ];
    assert_eq!(units(page), expected);
    assert!(exists("conventions claims::pages_are_taken_apart_as_they_are_read"));
    assert!(!exists("conventions claims::sentences") && !exists("shared store::no_such_test"));
}
