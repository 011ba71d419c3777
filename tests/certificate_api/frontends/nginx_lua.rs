//! nginx with Lua fetches each certificate from the agent at the first handshake of its name.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use harness::{deadline::until_true, nginx::Nginx, pki::Authority};
use openssl::{pkey::PKey, rsa::Rsa};

use super::{SECRET, SERVED, SHOP, Scene, caddy};

const MAIN: &str = "worker_processes 1; load_module /usr/lib/nginx/modules/ndk_http_module.so;\n\
                    load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;";

#[tokio::test(flavor = "multi_thread")]
async fn fetches_at_the_first_handshake() -> Result<()> {
    let mut scene = Scene::new(&["local"]).await?;
    let port = caddy::listen(&scene)?.rsplit(':').next().unwrap_or_default().to_owned();
    let key = PKey::from_rsa(Rsa::generate(2048)?)?;
    let none = Authority::new("Nobody")?.issue_server_for(&["none.invalid"], &key)?;
    let certificate = scene.write("none.pem", &String::from_utf8(none.certificate_pem)?)?;
    let key = scene.write("none-key.pem", &String::from_utf8(key.private_key_to_pem_pkcs8()?)?)?;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/frontends/nginx-lua/signpost.lua");
    let http = format!(
        "lua_package_path \"/usr/share/lua/5.1/?.lua;;\"; lua_shared_dict signpost 4m;\n\
         init_by_lua_block {{ signpost = dofile(\"{shipped}\"); signpost.fresh = 1 signpost.unknown = 1 signpost.patience = 600000 }}\n\
         server {{ listen {} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
         ssl_certificate_by_lua_block {{ signpost.serve(\"{SECRET}\", {port}) }}\n\
         location / {{ return 200; }} }}\n",
        scene.address,
        certificate.display(),
        key.display(),
    );
    let nginx = Nginx::start_with_main(MAIN, &http, &[scene.address], &[]).await?;
    scene.start_agent()?;
    let shown = scene.until_served(SHOP).await?;
    ensure!(scene.served("SHOP.example.com.", &[]) == Some(shown), "upper case, with a dot at the end");
    let long = format!("{}.example.com", "a".repeat(240));
    for name in ["stranger.example.com", "../x", "127.0.0.1", &long, "x y", "a/../shop.example.com"] {
        ensure!(scene.served(name, &[]).is_none(), "{name:?} was shown a certificate");
    }
    ensure!(scene.served(SHOP, &["-noservername"]).is_none(), "no name at all");
    let renewed = scene.tell_the_story_without_agent(true).await?;
    // What it has in memory it serves without an agent.
    if let Some(mut agent) = scene.agent.take() {
        agent.process.kill9().await?;
    }
    ensure!(scene.served(SHOP, &[]) == Some(renewed.clone()));

    // Nothing that is no good takes the place of what is known, again and again; and nobody waits for an agent that hangs.
    let bad = answers_that_are_no_good()?;
    let last = bad.len() + 1;
    let answered = answer_in_the_agents_place(&caddy::listen(&scene)?, bad)?;
    for round in 1..=last {
        until_true("it was asked", SERVED, || {
            let shown = scene.served(SHOP, &[]);
            std::future::ready(shown.is_some() && answered.load(Ordering::Relaxed) >= round)
        })
        .await?;
        ensure!(scene.served(SHOP, &[]) == Some(renewed.clone()), "after {round} answers");
    }
    nginx.process().assert_running()
}

/// Each with its head: certificates with the keys of others, half of a pair, pages that are no certificate.
fn answers_that_are_no_good() -> Result<Vec<Vec<u8>>> {
    let nobody = Authority::new("Nobody")?;
    let own = PKey::from_rsa(Rsa::generate(2048)?)?;
    let good =
        [nobody.issue_server_for(&[SHOP], &own)?.certificate_pem, own.private_key_to_pem_pkcs8()?].concat();
    let foreign = PKey::from_rsa(Rsa::generate(2048)?)?.private_key_to_pem_pkcs8()?;
    let answer = |length: usize, body: &[u8]| {
        [format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), body].concat()
    };
    let mut answers = vec![
        answer(good.len(), &good[..good.len() / 2]),
        answer(good.len(), &good[..good.len() - 1]),
        answer(good.len() / 2, &good[..good.len() / 2]),
        answer(0, b""),
        answer(18, b"<html>Log in</html"),
        b"rubbish".to_vec(),
    ];
    for _ in 0..4 {
        let mixed = [nobody.issue_server_for(&[SHOP], &own)?.certificate_pem, foreign.clone()].concat();
        answers.push(answer(mixed.len(), &mixed));
    }
    Ok(answers)
}

/// Each of these once, and whoever asks then is never answered. Answers how many have asked.
///
/// They are made beforehand (nginx waits for an answer, but not long), and an nginx that hung up is no reason to end.
fn answer_in_the_agents_place(address: &str, answers: Vec<Vec<u8>>) -> Result<Arc<AtomicUsize>> {
    let listener = TcpListener::bind(address)?;
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    thread::spawn(move || {
        let (mut answers, mut held) = (answers.into_iter().peekable(), Vec::new());
        for mut stream in listener.incoming().flatten() {
            match answers.peek() {
                Some(text) if answer(&mut stream, text).is_ok() => drop(answers.next()),
                Some(_) => continue,
                None => held.push(stream),
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(answered)
}

fn answer(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    let mut head = [0; 4_096];
    let _ = stream.read(&mut head)?;
    stream.write_all(text)
}
