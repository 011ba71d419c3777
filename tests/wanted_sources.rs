//! Files of several sources side by side, read from pipes, written on any system: nothing is changed that their author did not
//! mean.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use harness::{
    daemon::{SOON, list},
    deadline::until_true,
    signpost::program_path,
    stage::Stage,
};
use serde_json::{Value, json};

const THREE: &str = "{\"names\":[\"a.example\"]}\n{\"names\":[\"b.example\"]}\n{\"names\":[\"c.example\"]}\n";

fn counts(plan: &Value) -> [u64; 4] {
    ["added", "changed", "removed", "unchanged"].map(|word| plan[word].as_u64().unwrap_or(u64::MAX))
}

fn file(stage: &Stage, name: &str, text: impl AsRef<[u8]>) -> Result<String> {
    let path = stage.signpost.write(name, text)?;
    Ok(path.to_str().context("a temporary path is text")?.to_owned())
}

async fn names(stage: &Stage) -> Result<Vec<String>> {
    let listed = stage.json(&["site", "list", "--limit", "1000"]).await?;
    let sites = listed["sites"].as_array().context("a list")?.iter();
    let mut names: Vec<String> =
        sites.flat_map(|site| list(&site["wanted"]["names"])).map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// A line for a shell with `issuer --json`, where `$F` is the file; it ends with this code. Answers its document.
async fn shell(stage: &Stage, line: &str, file: &str, code: i32) -> Result<Value> {
    let issuer = program_path("issuer")?;
    let (issuer, config) = (issuer.display().to_string(), stage.signpost.config_path().display().to_string());
    let line =
        line.replace("issuer --json", &format!("{issuer} --json --config {config}")).replace("$F", file);
    let mut command = Command::new("bash");
    command.args(["-c", &line]).stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output()).await??;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.code() == Some(code), "{line}: {:?}\n{stderr}", ended.status);
    serde_json::from_slice(&ended.stdout).with_context(|| format!("{line}: {stderr}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_as_good_as_a_file() -> Result<()> {
    let stage = Stage::trusting().await?;
    let path = file(&stage, "sites.ndjson", THREE)?;
    for line in [
        "cat $F | issuer --json apply /dev/stdin",
        "issuer --json apply <(cat $F)",
        "cat $F | issuer --json apply -",
        "issuer --json apply - < $F",
        "rm -f $F.fifo; mkfifo $F.fifo; cat $F > $F.fifo & issuer --json apply $F.fifo",
        "cat $F | issuer --json plan -",
    ] {
        let applied = shell(&stage, line, &path, 0).await?;
        let known = names(&stage).await?;
        ensure!(known == ["a.example", "b.example", "c.example"], "{line}: {known:?}");
        ensure!(counts(&applied)[2] == 0 && applied["failed"] == json!([]), "{line}: {applied:#}");
    }
    // A pipe that brought nothing, because what should have written it failed.
    for line in
        ["false | issuer --json apply -", "issuer --json apply <(false)", "issuer --json apply /dev/null"]
    {
        let refused = shell(&stage, line, &path, 2).await?;
        ensure!(refused["error"] == "removals" && refused["removed"] == 3, "{line}: {refused:#}");
    }
    for empty in ["", "# nothing is wanted\n\n", "\u{feff}\r\n", "[defaults]\ntags = [\"eu\"]\n"] {
        let path = file(&stage, "empty", empty)?;
        let refused = stage.signpost.issuer(&["--json", "apply", &path]).await?.with_code(2)?.json()?;
        ensure!(
            refused["message"].as_str().is_some_and(|m| m.contains("--remove 3")),
            "{empty:?}: {refused:#}"
        );
        let planned = stage.json(&["plan", &path]).await?;
        ensure!(counts(&planned) == [0, 0, 3, 0] && planned["needs_remove"] == 3, "{empty:?}: {planned:#}");
    }
    ensure!(names(&stage).await?.len() == 3);
    // Nobody writes: Ctrl-C ends it.
    let mut child = Command::new(program_path("issuer")?)
        .args(["--config", stage.signpost.config_path().to_str().context("text")?, "apply", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = child.id().to_string();
    let caught = || -> Result<bool> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        Ok(u64::from_str_radix(mask.trim(), 16).unwrap_or(0) & 2 != 0)
    };
    until_true("it hears signals", SOON, || async { caught().unwrap_or(false) }).await?;
    Command::new("kill").args(["-INT", &pid]).status()?;
    let ended = tokio::task::spawn_blocking(move || child.wait()).await??;
    ensure!(ended.code() == Some(130), "{ended:?}");

    let nothing = file(&stage, "none", "")?;
    let applied = stage.json(&["apply", "--remove", "3", &nothing]).await?;
    ensure!(counts(&applied) == [0, 0, 3, 0] && names(&stage).await?.is_empty(), "{applied:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_and_sites_by_hand_live_side_by_side() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.json(&["site", "add", "mine.example", "--tag", "by-hand"]).await?;
    stage.json(&["site", "add", "both.example", "www.both.example", "--san", "grouped"]).await?;
    let ours = file(&stage, "ours.ndjson", THREE)?;
    stage.json(&["apply", &ours]).await?;
    let panel =
        file(&stage, "panel.toml", "[[site]]\nnames = [\"p.example\"]\n[[site]]\nnames = [\"q.example\"]\n")?;
    let applied = stage.json(&["apply", "--source", "panel", &panel]).await?;
    ensure!(counts(&applied) == [2, 0, 0, 0] && applied["source"] == "panel", "{applied:#}");
    ensure!(stage.json(&["site", "show", "p.example"]).await?["wanted"]["source"] == "panel");
    for (source, path, sites) in [("default", &ours, 3), ("panel", &panel, 2)] {
        let again = stage.json(&["apply", "--source", source, path]).await?;
        ensure!(counts(&again) == [0, 0, 0, sites], "{source}: {again:#}");
    }

    // What others have is not taken, whatever the line says beside it; the rest is done, and what fails is not removed.
    let grabbing = [
        json!({"names": ["mine.example"], "tags": ["panel"]}),
        json!({"names": ["www.both.example", "new.example"]}),
        json!({"names": ["a.example"]}),
        json!({"names": ["p.example", "b.example"]}),
        json!({"names": ["q.example"], "tags": ["eu"]}),
    ];
    let text: String = grabbing.iter().map(|line| format!("{line}\n")).collect();
    let path = file(&stage, "grabbing.ndjson", text)?;
    let before = stage.json(&["site", "show", "mine.example"]).await?["wanted"].clone();
    for verb in ["plan", "apply"] {
        let run = stage.signpost.issuer(&["--json", verb, "--source", "panel", &path]).await?.with_code(1)?;
        let document = run.json()?;
        ensure!(counts(&document) == [0, 1, 0, 0], "{verb}: {document:#}");
        let failed = document["failed"].as_array().context("a list")?.clone();
        let whose = ["by hand", "by hand", "source \"default\"", "source \"default\""];
        ensure!(failed.len() == whose.len(), "{verb}: {failed:#?}");
        for (failed, whose) in failed.iter().zip(whose) {
            let message = failed["message"].as_str().context("a message")?;
            ensure!(message.contains("belongs to") && message.contains(whose), "{verb}: {message}");
        }
    }
    ensure!(stage.json(&["site", "show", "mine.example"]).await?["wanted"] == before);
    ensure!(names(&stage).await?.len() == 8, "{:?}", names(&stage).await?);
    ensure!(stage.json(&["site", "show", "q.example"]).await?["wanted"]["tags"] == json!(["eu"]));

    // A file of one source without the others' sites removes none of them.
    let fewer = file(&stage, "fewer.ndjson", "{\"names\":[\"q.example\"]}\n")?;
    let refused = stage.signpost.issuer(&["--json", "apply", "--source", "panel", &fewer]).await?;
    let refused = refused.with_code(2)?.json()?;
    ensure!(refused["removed"] == 1 && refused["known"] == 2, "one of two is more than a tenth: {refused:#}");
    let applied = stage.json(&["apply", "--source", "panel", "--remove", "1", &fewer]).await?;
    ensure!(counts(&applied) == [0, 0, 1, 1], "{applied:#}");
    let left = names(&stage).await?;
    let expected = [
        "a.example",
        "b.example",
        "both.example",
        "c.example",
        "mine.example",
        "q.example",
        "www.both.example",
    ];
    ensure!(left == expected, "{left:?}");
    stage.signpost.issuer(&["apply", "--source", "a b", &fewer]).await?.with_code(2)?;

    // A person may hand a site over, and take it back.
    let handed = stage.json(&["site", "set", "mine.example", "--source", "panel"]).await?;
    ensure!(list(&handed["sites"][0]["differences"]) == ["source: none -> panel"], "{handed:#}");
    ensure!(handed["sites"][0]["reissued"] == json!([]), "{handed:#}");
    let with_mine =
        file(&stage, "mine.ndjson", "{\"names\":[\"q.example\"]}\n{\"names\":[\"mine.example\"]}\n")?;
    let applied = stage.json(&["apply", "--source", "panel", &with_mine]).await?;
    ensure!(counts(&applied) == [0, 0, 0, 2], "{applied:#}");
    stage.json(&["site", "set", "mine.example", "--source", ""]).await?;
    let planned = stage.json(&["plan", "--source", "panel", &fewer]).await?;
    ensure!(counts(&planned) == [0, 0, 0, 1], "{planned:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_however_they_were_written() -> Result<()> {
    let stage = Stage::trusting().await?;
    let toml = "\u{feff}# ours\r\n[defaults]\r\ntags = [\"eu\"]\r\n\r\n[[site]]\t# one\r\nnames = [\"a.example\", \"a.example\"]\r\n";
    let path = file(&stage, "windows.toml", toml)?;
    ensure!(counts(&stage.json(&["apply", &path]).await?) == [1, 0, 0, 0]);
    let json = "\u{feff}# ours\r\n\t{\"names\":[\"a.example\"],\"tags\":[\"eu\"]}\t\r\n\r\n";
    let path = file(&stage, "windows.ndjson", json)?;
    ensure!(counts(&stage.json(&["apply", &path]).await?) == [0, 0, 0, 1]);

    // Every mistake at once.
    let wrong = "{\"names\":[\"https://a.example/x\",\"ok.example\",\"me@b.example\",\"c.example:443\"]}\n\u{ff}\n{\"names\":[]}\n{\"nmaes\":[]}\n{\"names\":[\"d_e.example\"],\"tags\":[\"a b\"]}\n";
    let bytes: Vec<u8> = wrong.chars().map(|c| if c == '\u{ff}' { 0xff } else { c as u8 }).collect();
    let path = file(&stage, "wrong.ndjson", bytes)?;
    let run = stage.signpost.issuer(&["--json", "plan", &path]).await?.with_code(2)?.json()?;
    let mistakes = list(&run["mistakes"]);
    let expected = [
        ("line 1: ", "is a URL: give the hostname alone, a.example"),
        ("line 1: ", "is an e-mail address: give the hostname alone, b.example"),
        ("line 1: ", "has a port: give the hostname alone, c.example"),
        ("line 2: ", "not UTF-8"),
        ("line 3: ", "at least one name"),
        ("line 4: ", "nmaes"),
        ("line 5: ", "d_e.example"),
        ("line 5: ", "can't be a tag"),
    ];
    ensure!(mistakes.len() == expected.len() && run["more"] == 0, "{run:#}");
    for (mistake, (line, words)) in mistakes.iter().zip(expected) {
        ensure!(mistake.starts_with(line) && mistake.contains(words), "{mistake}");
    }
    let many: String = (0..300).map(|n| format!("{{\"names\":[\"n_{n}.example\"]}}\n")).collect();
    let path = file(&stage, "many.ndjson", many)?;
    for (line, shown) in [(&["--limit", "7"][..], 7), (&[][..], 100), (&["--all"][..], 300)] {
        let line = [&["--json", "plan", &path], line].concat();
        let run = stage.signpost.issuer(&line).await?.with_code(2)?.json()?;
        ensure!(list(&run["mistakes"]).len() == shown && run["more"] == 300 - shown, "{line:?}");
    }
    // What is no file of sites is told what one is, once.
    for (text, seems) in [
        ("a.example\nb.example\n", "a plain list of names"),
        ("name,tag\na.example,eu\n", "CSV"),
        ("[{\"names\":[\"a.example\"]}]\n", "a JSON array"),
    ] {
        let path = file(&stage, "list.txt", text)?;
        let run = stage.signpost.issuer(&["--json", "apply", &path]).await?.with_code(2)?.json()?;
        let mistakes = list(&run["mistakes"]);
        ensure!(
            mistakes.len() == 1 && mistakes[0].contains(seems) && mistakes[0].contains("[[site]]"),
            "{run:#}"
        );
    }
    // The same reader for plain lists; every wrong name is told.
    let run = stage.signpost.issuer(&["--json", "site", "add", "a_b.example", "https://c.example/"]).await?;
    ensure!(run.with_code(2)?.json()?["names"].as_array().is_some_and(|all| all.len() == 2));
    ensure!(names(&stage).await? == ["a.example"]);
    Ok(())
}
