//! A DNS with a root of its own, frontends that answer each name in its own way, and the validation host behind them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use harness::{
    bind::{Bind, zone_file},
    nginx::Nginx,
    pebble::PebbleOptions,
    ports::{LoopbackNet, free_port_on},
    signpost::Daemon,
    stage::{Stage, StageOptions, VALIDATION_HOST},
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

/// What the CA of these tests calls itself in CAA records.
pub(super) const CA_IDENTITY: &str = "ca.example";
/// The zone that most names lie in.
pub(super) const ZONE: &str = "zoo.example";

/// Hosts of the loopback network.
pub(super) const FRONTEND: u8 = 2;
pub(super) const SECOND_FRONTEND: u8 = 4;
pub(super) const FOREIGN: u8 = 5;
pub(super) const SILENT: u8 = 6;
pub(super) const CLOSED: u8 = 7;
pub(super) const NO_WEB_SERVER: u8 = 8;
const VALIDATION: u8 = 3;
pub(super) const RESOLVER: u8 = 9;
pub(super) const AUTHORITY: u8 = 20;
pub(super) const SECOND_AUTHORITY: u8 = 21;
pub(super) const LAME_AUTHORITY: u8 = 22;
pub(super) const DEAD_AUTHORITY: u8 = 23;

/// One name of the zoo.
pub(super) struct Animal {
    /// Below [`ZONE`], or whole with a dot at its end.
    pub(super) name: &'static str,
    /// Lines of the zone file, with `@A` for the first frontend's record; empty where the name lies elsewhere.
    pub(super) records: String,
    /// What stands in its server block; the redirect rule unless given.
    pub(super) server: Option<String>,
}

/// Everything around the programs.
pub(super) struct Surroundings {
    pub(super) stage: Stage,
    _challenge: Daemon,
    _nginx: Nginx,
    _authorities: Vec<Bind>,
    _resolver: Bind,
}

/// A zone of its own: its apex, what its servers say of it, and who is said to have authority.
pub(super) struct OwnZone {
    pub(super) apex: &'static str,
    /// By the server that has it: [`AUTHORITY`] or [`SECOND_AUTHORITY`].
    pub(super) content: Vec<(u8, String)>,
    pub(super) servers: Vec<u8>,
}

impl Surroundings {
    pub(super) async fn make(
        net: LoopbackNet,
        animals: &[Animal],
        zones: &[OwnZone],
        trust: &str,
        ca_looks: bool,
        account_records: impl Fn(&str) -> Vec<String>,
    ) -> Result<Self> {
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let v4: Vec<IpAddr> = [FRONTEND, VALIDATION, SECOND_FRONTEND, FOREIGN, SILENT, CLOSED, NO_WEB_SERVER]
            .map(|number| IpAddr::V4(net.host(number)))
            .to_vec();
        let port = free_port_on(&[v4, vec![v6]].concat())?;
        let resolver_port = free_port_on(&[IpAddr::V4(net.host(RESOLVER))])?;
        let resolver_at = SocketAddr::from((net.host(RESOLVER), resolver_port));

        let pebble =
            PebbleOptions { http_port: Some(port), resolver: Some(resolver_at), ..PebbleOptions::default() };
        let options = StageOptions { pebble, ..StageOptions::default() };
        let mut stage = if ca_looks {
            Stage::watching_with(options).await?
        } else {
            Stage::trusting_with(options).await?
        };
        let limits =
            stage.signpost.write("limits.toml", format!("caa_identities = [\"{CA_IDENTITY}\"]\n"))?;
        stage.signpost.set("ca.pebble.limits_file", limits.display().to_string())?;
        stage.signpost.unset("issuer.self_check")?;
        let ours: Vec<String> =
            [FRONTEND, SECOND_FRONTEND].map(|number| net.host(number).to_string()).to_vec();
        let ours = [ours, vec![v6.to_string()]].concat();
        stage.signpost.set("frontends.addresses", ours)?;
        // Somebody who could write any record; no proof is made here.
        stage.signpost.set("dns.any.provider", "exec")?;
        stage.signpost.set("dns.any.command", vec!["/bin/true"])?;
        stage.signpost.listen_challenge(net.host(VALIDATION), port)?;
        let challenge = stage.signpost.start_challenge().await?;
        let account = stage.signpost.issuer_json(&["account", "create"]).await?;
        let url =
            account["url"].as_str().or(account["account"]["url"].as_str()).unwrap_or_default().to_owned();

        let mut records: Vec<String> = animals.iter().map(|animal| animal.records.clone()).collect();
        records.extend(account_records(&url));
        let authorities = authorities(net, &records.join("\n"), zones).await?;
        let resolver = Bind::resolver(resolver_at, net.host(AUTHORITY), trust).await?;
        let nginx = frontends(net, port, animals).await?;
        silent(net, port).await?;
        no_web_server(net, port).await?;
        Ok(Self {
            stage,
            _challenge: challenge,
            _nginx: nginx,
            _authorities: authorities,
            _resolver: resolver,
        })
    }
}

/// The root with every zone, and a second server that has some.
async fn authorities(net: LoopbackNet, records: &str, zones: &[OwnZone]) -> Result<Vec<Bind>> {
    let main = net.host(AUTHORITY);
    let records = records.replace("@A", &format!("A {}", net.host(FRONTEND)));
    let mut root = zone_file(".", &[main], "");
    root.push_str("example. NS ns1.example.\n");
    root.push_str(&format!("ns1.example. A {main}\n"));
    let validation = format!("{VALIDATION_HOST}. A {}\n", net.host(VALIDATION));
    let mut top = zone_file("example.", &[main], &validation);
    top.push_str(&format!("{ZONE}. NS ns1.{ZONE}.\nns1.{ZONE}. A {main}\n"));
    for zone in zones {
        for server in &zone.servers {
            let (apex, address) = (zone.apex, net.host(*server));
            top.push_str(&format!("{apex}. NS ns{server}.{apex}.\nns{server}.{apex}. A {address}\n"));
        }
    }
    let own = zone_file(&format!("{ZONE}."), &[main], &records);
    let mut files = vec![
        ("root".to_owned(), root, AUTHORITY, ".".to_owned()),
        ("example".to_owned(), top, AUTHORITY, "example".to_owned()),
        ("zoo".to_owned(), own, AUTHORITY, ZONE.to_owned()),
    ];
    for zone in zones {
        for (server, content) in &zone.content {
            let mut text = format!("$TTL 1\n$ORIGIN {}.\n@ SOA ns hostmaster 1 60 60 3600 1\n", zone.apex);
            for server in &zone.servers {
                text.push_str(&format!("@ NS ns{server}\nns{server} A {}\n", net.host(*server)));
            }
            text.push_str(&content.replace("@A", &format!("A {}", net.host(FRONTEND))));
            text.push('\n');
            files.push((format!("{}-{server}", zone.apex), text, *server, zone.apex.to_owned()));
        }
    }
    let mut servers = Vec::new();
    for server in [AUTHORITY, SECOND_AUTHORITY, LAME_AUTHORITY] {
        let of_it = files.iter().filter(|(_, _, owner, _)| *owner == server);
        let zones: String = of_it
            .clone()
            .map(|(file, _, _, apex)| {
                format!("zone \"{apex}\" {{ type primary; file \"{file}\"; check-names ignore; }};\n")
            })
            .collect();
        let contents: Vec<(&str, &str)> =
            of_it.map(|(file, text, _, _)| (file.as_str(), text.as_str())).collect();
        servers.push(Bind::authority(net.host(server), &zones, &contents).await?);
    }
    Ok(servers)
}

/// The frontends, with a server block for each name, and the server of somebody else.
async fn frontends(net: LoopbackNet, port: u16, animals: &[Animal]) -> Result<Nginx> {
    let (first, second, foreign) = (net.host(FRONTEND), net.host(SECOND_FRONTEND), net.host(FOREIGN));
    let rule = rule(port);
    let mut http = "server_names_hash_bucket_size 256;\n".to_owned();
    let listen = format!("listen {first}:{port}; listen {second}:{port}; listen [::1]:{port};");
    let mut lines: Vec<(String, String)> = vec![("_".to_owned(), rule.clone())];
    for animal in animals {
        let Some(server) = &animal.server else { continue };
        let name = animal.name.strip_suffix('.').map_or(format!("{}.{ZONE}", animal.name), str::to_owned);
        lines.push((
            name,
            server
                .replace("@RULE", &rule)
                .replace("@PORT", &port.to_string())
                .replace("@VALIDATION", &format!("{}:{port}", net.host(VALIDATION))),
        ));
    }
    for (number, (name, server)) in lines.iter().enumerate() {
        let listen = if number == 0 { listen.replace(';', " default_server;") } else { listen.clone() };
        http.push_str(&format!("server {{ {listen} server_name {name}; {server} }}\n"));
    }
    http.push_str(&format!(
        "server {{ listen {foreign}:{port}; location / {{ return 404; }} \
         location ~ \"^/\\.well-known/acme-challenge/(?<token>.*)$\" {{ if ($host ~ \"^left\\.\") {{ return 200 \"{page}\"; }} \
         if ($host ~ \"^cdn\\.\") {{ return 302 http://{VALIDATION_HOST}:{port}/.well-known/acme-challenge/$token; }} return 404; }} }}\n",
        page = "<html>The new shop of a customer who has left.</html>".repeat(4),
    ));
    let at = [first, second, foreign].map(|ip| SocketAddr::from((ip, port)));
    let modules = "/usr/lib/nginx/modules";
    let main = format!(
        "worker_processes 1; load_module {modules}/ndk_http_module.so; load_module {modules}/ngx_http_lua_module.so;"
    );
    Nginx::start_with_main(&main, &http, &at, &[]).await
}

/// The shipped rule, as these frontends have it.
fn rule(port: u16) -> String {
    format!(
        "location ^~ /.well-known/acme-challenge/ {{ \
         location ~ \"^/\\.well-known/acme-challenge/([A-Za-z0-9_-]{{16,128}})$\" {{ \
         return 302 http://{VALIDATION_HOST}:{port}/.well-known/acme-challenge/$1; }} return 404; }} \
         location / {{ return 301 https://$host$request_uri; }}"
    )
}

/// Takes connections and says nothing.
async fn silent(net: LoopbackNet, port: u16) -> Result<()> {
    let listener = TcpListener::bind((net.host(SILENT), port)).await?;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    Ok(())
}

/// What has the port is something else.
async fn no_web_server(net: LoopbackNet, port: u16) -> Result<()> {
    let listener = TcpListener::bind((net.host(NO_WEB_SERVER), port)).await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Whoever has gone away is not waited for.
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
        }
    });
    Ok(())
}
