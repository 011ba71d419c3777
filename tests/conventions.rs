//! The rules of the tree that no lint knows: who may import what, one TLS stack, small files, documented settings.

mod claims;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use shared::config::Config;

const PROGRAMS: [&str; 5] =
    ["shared/src", "serving/src", "issuer/src", "validation-server/src", "deploy/frontend-agent/src"];
/// Beyond this a file has a seam that was overlooked.
const MOST_LINES: usize = 500;

#[test]
fn redis_is_spoken_in_the_store_alone() {
    let outside = lines(&PROGRAMS, |path| !path.starts_with("shared/src/store"));
    refuse(outside, &["redis::"], "the store's module is the only one that knows Redis");
}

#[test]
fn the_shared_library_knows_no_http_server_and_no_http_client() {
    let shared = lines(&["shared/src"], |_| true);
    refuse(shared, &["actix_", "reqwest::"], "servers and clients belong to the programs");
}

#[test]
fn the_domain_is_pure() {
    let domain = || lines(&["shared/src/domain"], |_| true);
    refuse(domain(), &["SystemTime::now", "Instant::now", "Timestamp::now"], "the clock is an argument");
    refuse(domain(), &["tokio::", "std::fs", "std::net::Tcp", "std::env"], "the domain does no I/O");
    let ours = domain().into_iter().filter(|line| line.text.contains("crate::")).map(|line| Line {
        text: line.text.replace("crate::domain", "").replace("crate::error", "").replace("crate::digest", ""),
        ..line
    });
    refuse(ours, &["crate::"], "the domain imports nothing of ours but itself, errors and digests");
}

#[test]
fn the_two_programs_never_use_each_other() {
    refuse(lines(&["issuer"], |_| true), &["validation_server"], "issuer -> shared, and no further");
    refuse(
        lines(&["validation-server"], |_| true),
        &["issuer::"],
        "validation-server -> shared, and no further",
    );
    refuse(
        lines(&["shared", "serving"], |_| true),
        &["issuer::", "validation_server::"],
        "the libraries are below the programs",
    );
    for (manifest, foreign) in [
        ("issuer/Cargo.toml", "validation-server"),
        ("validation-server/Cargo.toml", "issuer"),
        ("deploy/frontend-agent/Cargo.toml", "issuer"),
        ("shared/Cargo.toml", "issuer"),
        ("shared/Cargo.toml", "serving"),
        ("serving/Cargo.toml", "issuer"),
    ] {
        let manifest: toml::Table = read(manifest).parse().unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let has = manifest.get(section).is_some_and(|table| table.get(foreign).is_some());
            assert!(!has, "{foreign} among the {section} of {manifest}");
        }
    }
}

#[test]
fn there_is_one_tls_stack() {
    // Not the lock file: it also lists what a dependency could use and does not.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["tree", "--workspace", "--locked", "--offline", "--edges", "normal,build,dev"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("openssl"), "the tree was read");
    let others = ["ring", "aws-lc-rs", "aws-lc-sys", "rustls", "openssl-src", "boring", "mbedtls"];
    let found: Vec<_> = others.iter().filter(|name| names.contains(**name)).collect();
    assert!(found.is_empty(), "OpenSSL is the one TLS and crypto stack, but the tree has {found:?}");
}

#[test]
fn unsafe_code_is_forbidden_in_every_crate() {
    let workspace: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    let members = workspace["workspace"]["members"].as_array().unwrap();
    assert!(members.len() >= 6, "{members:?}");
    for member in members.iter().filter_map(toml::Value::as_str) {
        let manifest: toml::Table = read(format!("{member}/Cargo.toml")).parse().unwrap();
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "the lints of {member}");
    }
}

/// What is wiped is secret: a type that holds it prints itself only as it was taught to.
#[test]
fn secrets_are_in_no_debug_output() {
    let (mut derived, mut holder, mut holders) = (String::new(), None, 0);
    for line in lines(&PROGRAMS, |_| true) {
        let text = line.text.trim_start();
        if text.starts_with("#[derive(") {
            text.clone_into(&mut derived);
        } else if text.contains("struct ") || text.contains("enum ") {
            holder = Some(std::mem::take(&mut derived));
        } else if text.starts_with("fn ") || text.contains(" fn ") || text.starts_with("impl") {
            (holder, derived) = (None, String::new());
        }
        if text.contains(": Zeroizing<")
            && !text.contains("fn ")
            && !text.contains("let ")
            && let Some(derives) = &holder
        {
            holders += 1;
            let place = format!("{}:{}", line.path.display(), line.number);
            assert!(!derives.contains("Debug"), "{place}: {text} in a type that derives Debug");
        }
    }
    assert!(holders >= 8, "only {holders} fields with secrets were found");
}

#[test]
fn memory_is_wiped_in_every_program_that_sees_keys() {
    for program in ["issuer", "validation-server", "deploy/frontend-agent"] {
        let main = read(format!("{program}/src/main.rs"));
        let (_, allocator) = main.split_once("#[global_allocator]").expect(program);
        assert!(allocator.contains("ZeroAlloc"), "the allocator of {program}");
    }
}

/// Every listener that may be reached by others has the bounds of the one way in.
#[test]
fn connections_are_taken_in_one_place() {
    let outside = lines(&PROGRAMS, |path| !path.starts_with("serving"));
    refuse(outside, &["HttpServer", "HttpService", "actix_server"], "`serving` takes all connections");
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long: Vec<String> = sources(&["shared", "serving", "issuer", "validation-server", "deploy", "tests"])
        .into_iter()
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(count, _)| *count > MOST_LINES)
        .map(|(count, path)| format!("{}: {count} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "past {MOST_LINES} lines look for the seam:\n{}", long.join("\n"));
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let known = settings();
    let documented = documented_settings();
    for (key, default) in &known {
        let Some(shown) = documented.get(key) else { panic!("configuration.md lacks {key}") };
        if let Some(default) = default {
            assert_eq!(shown, &format!("`{default}`"), "the default of {key} in configuration.md");
        }
    }
    let unknown: Vec<_> = documented.keys().filter(|key| !known.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "configuration.md documents what does not exist: {unknown:?}");
}

#[test]
fn every_example_in_the_documentation_is_a_valid_configuration() {
    let mut examples = 0;
    for path in files(&["README.md", "deploy/handbook"], "md") {
        let text = read(&path);
        for block in text.split("```toml\n").skip(1) {
            let example = block.split("```").next().unwrap_or_default();
            Config::parse(example, &path, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            examples += 1;
        }
    }
    assert!(examples > 5, "only {examples} examples were found");
}

#[test]
fn the_key_map_is_the_one_of_the_code() {
    let keys = |text: &str| -> BTreeSet<String> {
        let rows = text.lines().filter_map(|line| line.trim_start_matches("//! ").strip_prefix("| `sp:"));
        let cells = rows.filter_map(|row| row.split(" | ").next());
        cells
            .flat_map(|cell| cell.split('`').filter(|part| !part.trim_matches([',', ' ']).is_empty()))
            .map(|key| key.trim_start_matches("sp:").to_owned())
            .collect()
    };
    let (code, page) = (keys(&read("shared/src/store/keys.rs")), keys(&read("ARCHITECTURE.md")));
    assert!(code.len() > 10, "the table was read: {code:?}");
    assert_eq!(code, page, "the tables of shared/src/store/keys.rs and ARCHITECTURE.md");
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut links = 0;
    let pages = files(
        &[
            "README.md",
            "ARCHITECTURE.md",
            "SECURITY.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "deploy/handbook",
        ],
        "md",
    );
    for page in pages {
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.parent().unwrap_or(Path::new("")).join(target);
            assert!(root().join(&path).exists(), "{}: {link} leads nowhere", page.display());
            links += 1;
        }
    }
    assert!(links > 10, "only {links} links were found");
}

/// One line of a source file.
struct Line {
    path: PathBuf,
    number: usize,
    text: String,
}

fn refuse(lines: impl IntoIterator<Item = Line>, forbidden: &[&str], rule: &str) {
    let mut seen = 0;
    let mut found = Vec::new();
    for line in lines {
        seen += 1;
        if forbidden.iter().any(|word| has_word(&line.text, word)) {
            found.push(format!("{}:{}: {}", line.path.display(), line.number, line.text.trim()));
        }
    }
    assert!(seen > 0, "no line was looked at: {rule}");
    assert!(found.is_empty(), "{rule}, but\n{}", found.join("\n"));
}

/// Whether `text` has `word` where no longer word ends with it.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Every line of code below `folders` in files that `wanted` accepts; comments are left out.
fn lines(folders: &[&str], wanted: impl Fn(&Path) -> bool) -> Vec<Line> {
    let mut found = Vec::new();
    for path in sources(folders).into_iter().filter(|path| wanted(path)) {
        let text = read(&path);
        found.extend(
            text.lines()
                .enumerate()
                .filter(|(_, text)| !text.trim_start().starts_with("//"))
                .map(|(number, text)| Line { path: path.clone(), number: number + 1, text: text.to_owned() }),
        );
    }
    found
}

fn sources(folders: &[&str]) -> Vec<PathBuf> {
    files(folders, "rs")
}

/// Every file with this extension at or below the given places, relative to the root of the tree.
fn files(places: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = places.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        let full = root().join(&path);
        if full.is_dir() {
            let entries = std::fs::read_dir(&full)
                .expect("a readable folder")
                .map(|entry| path.join(entry.expect("a readable entry").file_name()));
            open.extend(entries.filter(|path| !path.ends_with("target")));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{extension} file at {places:?}");
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is below the root").to_owned()
}

/// Every key of the configuration's types, such as `store.url` and `ca.NAME.directory`, with its default where it has one.
fn settings() -> BTreeMap<String, Option<String>> {
    let config =
        Config::parse("[ca.NAME]\n", Path::new("x"), &[]).expect("a section alone is a configuration");
    let defaults: BTreeMap<String, String> =
        config.origins("").into_iter().map(|value| (value.key, value.value)).collect();
    let source = ["load", "sections", "agent", "dns", "sightings"]
        .map(|file| read(format!("shared/src/config/{file}.rs")));
    let structs = fields_of_structs(&source.concat());
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), "Config")];
    while let Some((section, kind)) = open.pop() {
        for (field, kind) in &structs[kind] {
            let key = if section.is_empty() { field.clone() } else { format!("{section}.{field}") };
            let (key, kind) = match kind.strip_prefix("BTreeMap<String, ") {
                Some(kind) => (format!("{key}.NAME"), kind.trim_end_matches('>')),
                None => (key, kind.as_str()),
            };
            if structs.contains_key(kind) {
                open.push((key, kind));
            } else {
                let default = defaults.get(&key).cloned();
                found.insert(key, default);
            }
        }
    }
    assert!(found.len() > 30, "the types were read: {found:?}");
    found
}

/// By struct: its public fields and their types.
fn fields_of_structs(source: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut current = None;
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            current = Some(name.trim_end_matches(" {").to_owned());
        } else if line == "}" {
            current = None;
        } else if let (Some(name), Some(field)) = (&current, line.strip_prefix("    pub ")) {
            let (field, kind) = field.trim_end_matches(',').split_once(": ").expect("a field has a type");
            found.entry(name.clone()).or_default().insert(field.to_owned(), kind.to_owned());
        }
    }
    found
}

/// The rows of the tables of configuration.md, below a heading or subheading for each section: key and default.
fn documented_settings() -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut found = BTreeMap::new();
    for line in read("deploy/handbook/configuration.md").lines() {
        if let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
            section = heading.trim_matches(['`', '[', ']']).to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let mut cells = row.split(" | ");
            let key = cells.next().expect("a split has a first part").trim_end_matches('`');
            let default = cells.next().unwrap_or_default().trim();
            found.insert(format!("{section}.{key}"), default.to_owned());
        }
    }
    found
}
