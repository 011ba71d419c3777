//! nginx with Lua fetches each certificate from the agent at the first handshake of its name.

use anyhow::{Result, ensure};
use harness::{nginx::Nginx, pki::Authority};
use openssl::{pkey::PKey, rsa::Rsa};

use super::{SECRET, SHOP, Scene, caddy};

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
         init_by_lua_block {{ signpost = dofile(\"{shipped}\"); signpost.fresh = 1 signpost.unknown = 1 }}\n\
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
    ensure!(scene.served(SHOP, &[]) == Some(renewed));
    nginx.process().assert_running()
}
