//! Records written by somebody else: a webhook, a program, acme-dns. Each writes into the real zone.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    bind::{DNS_PORT, texts},
    deadline::until_true,
};
use issuer::notify::sign;
use serde_json::{Value, json};

use super::{
    issued::nsupdate,
    zone::{ADMIN, Hosted, SECRET, ZONE},
};

const RECORD: &str = "_acme-challenge.hosted.example";
const WILDCARD: &str = "*.hosted.example";

/// One request as it came.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
}

type Requests = Arc<Mutex<Vec<Request>>>;

/// A service that does `act` with each request and answers 200; with its error, 400.
fn service(act: impl Fn(&Request) -> Result<String> + Send + 'static) -> Result<(SocketAddr, Requests)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, requests) = (listener.local_addr()?, Requests::default());
    let kept = Arc::clone(&requests);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let Ok(request) = read(&mut stream) else { continue };
            let (status, body) = match act(&request) {
                Ok(body) => ("200 OK", body),
                Err(error) => ("400 Bad Request", format!("{{\"error\":\"{error}\"}}")),
            };
            kept.lock().expect("no panic while held").push(request);
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            // Whoever has gone away is not waited for.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Ok((address, requests))
}

fn read(stream: &mut TcpStream) -> Result<Request> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes)?;
    let mut lines = head.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("a path")?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(Ok(0), |text| text.parse())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Request { path, headers, body: String::from_utf8(body)? })
}

fn update(hosted: &Hosted, lines: &str) -> String {
    format!(
        "server {} {DNS_PORT}\nkey hmac-sha256:{ADMIN} {SECRET}\nzone {ZONE}\n{lines}\nsend\n",
        hosted.primary.ip()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_asked_with_signed_json() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    let script = update(&hosted, "@LINE");
    let (address, requests) = service(move |request| {
        let document: Value = serde_json::from_str(&request.body)?;
        let verb = if document["action"] == "add" { "add" } else { "delete" };
        let (record, value) =
            (document["record"].as_str().context("record")?, document["value"].as_str().context("value")?);
        nsupdate(&script.replace("@LINE", &format!("update {verb} {record} 60 TXT {value}")))?;
        Ok(String::new())
    })?;
    let secret = hosted.stage.signpost.write("hook-secret", "between us\n")?;
    hosted.stage.signpost.set("dns.own.provider", "webhook")?;
    hosted.stage.signpost.set("dns.own.url", format!("http://{address}/txt"))?;
    hosted.stage.signpost.set("dns.own.secret_file", secret.display().to_string())?;
    let document = hosted.stage.issue(&["--challenge", "dns-01", WILDCARD]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    hosted.ensure_clean(RECORD).await?;
    let requests = requests.lock().expect("no panic while held").clone();
    ensure!(requests.len() == 2 && requests.iter().all(|one| one.path == "/txt"), "{requests:#?}");
    for request in requests {
        let signature = request.headers.get("signpost-signature").context("it is signed")?;
        let time = signature.strip_prefix("t=").and_then(|rest| rest.split(',').next()).context("t=")?;
        ensure!(*signature == sign(b"between us", time.parse()?, request.body.as_bytes())?, "{signature}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_json_on_its_input() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    let script = format!(
        "#!/bin/sh\nset -e\ninput=$(cat)\nverb=$(echo \"$input\" | jq -r 'if .action == \"add\" then \"add\" else \"delete\" end')\n\
         record=$(echo \"$input\" | jq -r .record)\nvalue=$(echo \"$input\" | jq -r .value)\nnsupdate <<END\n{}END\n",
        update(&hosted, "update $verb $record 60 TXT $value")
    );
    let program = hosted.stage.signpost.write("write-txt", script)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    hosted.stage.signpost.set("dns.own.provider", "exec")?;
    hosted.stage.signpost.set("dns.own.command", vec![program.display().to_string()])?;
    let document = hosted.stage.issue(&["--challenge", "dns-01", WILDCARD]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    hosted.ensure_clean(RECORD).await?;

    // What it complains about is told.
    hosted.stage.signpost.write("write-txt", "#!/bin/sh\necho the zone is locked >&2\nexit 3\n")?;
    let document = hosted.stage.issue_ending(1, &["--challenge", "dns-01", "*.shop.hosted.example"]).await?;
    let what = document["results"][0]["failure"]["what"].as_str().unwrap_or_default();
    ensure!(what.contains("the zone is locked"), "{what}");
    Ok(())
}

/// acme-dns is not packaged: what stands in its place takes its documented requests and gives its documented answers.
#[tokio::test(flavor = "multi_thread")]
async fn acme_dns_is_asked_as_it_documents() -> Result<()> {
    let mut hosted = Hosted::make(0).await?;
    let script = update(&hosted, "@LINES");
    let values: Mutex<Vec<String>> = Mutex::default();
    let target = "d420c923-bbd7-4056-ab64-c3ca54c9b3cf.acme.hosted.example";
    let (address, requests) = service(move |request| {
        ensure!(request.path == "/update", "{request:?}");
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        ensure!(header("x-api-user") == Some("c36f50e8-4632-44f0-83fe-e070fef28a10"), "forbidden");
        ensure!(header("x-api-key") == Some("htB9mR9DYgcu9bX_afHF62erXaH2TS7bg9KW3F7Z"), "forbidden");
        let document: Value = serde_json::from_str(&request.body)?;
        ensure!(document["subdomain"] == "d420c923-bbd7-4056-ab64-c3ca54c9b3cf", "bad_subdomain");
        let value = document["txt"].as_str().filter(|txt| txt.len() == 43).context("bad_txt")?.to_owned();
        let mut kept = values.lock().expect("no panic while held");
        kept.push(value.clone());
        let oldest = kept.len().saturating_sub(2);
        kept.drain(..oldest);
        let lines: Vec<String> = std::iter::once(format!("update delete {target} TXT"))
            .chain(kept.iter().map(|value| format!("update add {target} 1 TXT {value}")))
            .collect();
        nsupdate(&script.replace("@LINES", &lines.join("\n")))?;
        Ok(json!({ "txt": value }).to_string())
    })?;
    let alias = update(&hosted, &format!("update add {RECORD} 1 CNAME {target}"));
    nsupdate(&alias)?;
    until_true("both nameservers have the alias", Duration::from_secs(20), || async {
        texts(hosted.secondary, RECORD).await.is_ok_and(|found| found == [format!("{target}.")])
    })
    .await?;
    let accounts = json!({ ZONE: {
        "username": "c36f50e8-4632-44f0-83fe-e070fef28a10",
        "password": "htB9mR9DYgcu9bX_afHF62erXaH2TS7bg9KW3F7Z",
        "fulldomain": target,
        "subdomain": "d420c923-bbd7-4056-ab64-c3ca54c9b3cf",
        "allowfrom": [],
    }});
    let accounts = hosted.stage.signpost.write("acme-dns.json", accounts.to_string())?;
    hosted.stage.signpost.set("dns.own.provider", "acme-dns")?;
    hosted.stage.signpost.set("dns.own.url", format!("http://{address}"))?;
    hosted.stage.signpost.set("dns.own.accounts_file", accounts.display().to_string())?;
    let document = hosted.stage.issue(&["--san", "--challenge", "dns-01", WILDCARD, ZONE]).await?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");
    let asked = requests.lock().expect("no panic while held").len();
    ensure!(asked == 4, "two values, each added and taken back: {asked}");
    Ok(())
}
