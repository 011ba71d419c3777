//! The handbook's page: its session is what curl prints, its tables are those of the code.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use issuer::api::{Code, ROUTES};

use crate::service::Service;

const FENCE: &str = "```console\n";
/// What the page calls what differs from run to run.
const MOMENT: &str = "2026-11-24T17:00:00Z";
const MOMENT_FOR_PEOPLE: &str = "2026-11-24 17:00 UTC";
const TOKEN: &str = "sp_5f0c...";
const ADDRESS: &str = "127.0.0.1:9080";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/handbook/api.md")
}

/// Runs the commands of the page's sessions one after the other, in one shell, and compares. With SIGNPOST_WRITE_SESSION
/// set, what was printed is written into the page instead.
#[tokio::test(flavor = "multi_thread")]
async fn the_session_is_what_curl_prints() -> Result<()> {
    let service = Service::start().await?;
    let text = std::fs::read_to_string(page())?;
    let mut script = String::from("set -u\n");
    let mut sessions = Vec::new();
    for block in text.split(FENCE).skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        let mut commands: Vec<String> = Vec::new();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push(command.to_owned()),
                None => {
                    // A command goes on after a backslash.
                    if let Some(open) = commands.last_mut().filter(|command| command.ends_with('\\')) {
                        open.push('\n');
                        open.push_str(line.trim_start_matches("> "));
                    }
                }
            }
        }
        for command in &commands {
            script.push_str(&format!("{command}\nprintf '\\n--- next\\n'\n"));
        }
        sessions.push((block.to_owned(), commands));
    }
    ensure!(sessions.iter().map(|(_, commands)| commands.len()).sum::<usize>() > 8, "the page has a session");

    let release = harness::signpost::program_path("issuer")?;
    let folder = release.parent().context("a program is in a folder")?;
    let script = script
        .replace(ADDRESS, &service.address.to_string())
        .replace("issuer ", &format!("issuer --config {} ", service.signpost.config_path().display()));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let output = tokio::task::spawn_blocking(move || {
        Command::new("bash").arg("-c").arg(script).env("PATH", path).env("no_proxy", "*").output()
    });
    let output = output.await??;
    let printed = String::from_utf8(output.stdout)?;
    let printed = printed.replace(&service.address.to_string(), ADDRESS);
    let mut answers = printed.split("\n--- next\n");
    let mut made = text.clone();
    for (block, commands) in sessions {
        let mut fresh = String::new();
        for command in commands {
            let answer = answers.next().context("an answer to each command")?.trim_matches('\n');
            fresh.push_str(&format!("$ {}\n", command.replace('\n', "\n> ")));
            if !answer.is_empty() {
                fresh.push_str(&format!("{}\n", settled(answer)));
            }
        }
        made = made.replacen(&block, &fresh, 1);
    }
    if std::env::var_os("SIGNPOST_WRITE_SESSION").is_some() {
        std::fs::write(page(), made)?;
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let differing = made.lines().zip(text.lines()).find(|(now, then)| now != then);
    ensure!(made == text, "api.md is out of date: {differing:#?}\n{errors}");
    Ok(())
}

/// An answer with a moment in the place of each moment, and without the token that was made.
fn settled(answer: &str) -> String {
    let mut text = String::new();
    let mut rest = answer;
    while let Some(at) = rest.find("20") {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let end = from.find(|c: char| !(c.is_ascii_digit() || "-T:.Z".contains(c))).unwrap_or(from.len());
        if from[..end].parse::<jiff::Timestamp>().is_ok() {
            text.push_str(MOMENT);
            rest = &from[end..];
        } else if let Some(after) = after_a_moment_for_people(from) {
            text.push_str(MOMENT_FOR_PEOPLE);
            rest = after;
        } else {
            text.push_str("20");
            rest = &from[2..];
        }
    }
    text.push_str(rest);
    let Some(at) = text.find("sp_") else { return text };
    let end = text[at + 3..].find(|c: char| !c.is_ascii_hexdigit()).map_or(text.len(), |end| at + 3 + end);
    text.replace_range(at..end, TOKEN);
    text
}

/// What comes behind `2026-11-24 17:00 UTC`, where the text begins so.
fn after_a_moment_for_people(text: &str) -> Option<&str> {
    let (moment, after) = text.split_once(" UTC")?;
    let (day, time) = moment.split_once(' ')?;
    format!("{day}T{time}:00Z").parse::<jiff::Timestamp>().ok().map(|_| after)
}

#[test]
fn the_tables_are_those_of_the_code() {
    let text = std::fs::read_to_string(page()).unwrap();
    for code in Code::ALL {
        let row = format!("| {} | `{}` | {} |", code.status(), code.as_str(), code.meaning());
        assert!(text.contains(&row), "api.md lacks\n{row}");
    }
    for route in ROUTES {
        let role = route.role.map_or_else(|| "-".to_owned(), |role| role.to_string());
        let row = format!("| `{} {}` | {role} | {} |", route.method, route.path, route.described.summary);
        assert!(text.contains(&row), "api.md lacks\n{row}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.contains('`')).count();
    assert_eq!(rows, Code::ALL.len() + ROUTES.len(), "rows of something that isn't there");
}
