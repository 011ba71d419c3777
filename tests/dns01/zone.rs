//! A zone of the hoster's with a primary that takes signed updates and a secondary that follows it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use harness::{
    bind::{Bind, DIRECTORY, DNS_PORT, texts, zone_file},
    pebble::PebbleOptions,
    ports::{LoopbackNet, free_port_on},
    stage::{Stage, StageOptions, VALIDATION_HOST},
};

/// The zone whose names are proved, and one of a customer who delegates.
pub(super) const ZONE: &str = "hosted.example";
pub(super) const CUSTOMER: &str = "customer.example";
/// The key's name and secret.
pub(super) const KEY: &str = "signpost";
/// A key that may change everything, for what a zone's owner does.
pub(super) const ADMIN: &str = "owner";
pub(super) const SECRET: &str = "bm90IGEgc2VjcmV0IGF0IGFsbCwgYnV0IDMyIGJ5dGVz";

const PRIMARY: u8 = 20;
const SECONDARY: u8 = 21;

/// The scene, and the nameservers that it asks.
pub(super) struct Hosted {
    pub(super) stage: Stage,
    pub(super) net: LoopbackNet,
    pub(super) primary: SocketAddr,
    pub(super) secondary: SocketAddr,
    servers: Vec<Bind>,
}

impl Hosted {
    /// `lag`: after how many seconds the secondary looks for what is new; 0: it is told at once.
    pub(super) async fn make(lag: u32) -> Result<Self> {
        Self::with(lag, PebbleOptions::default()).await
    }

    /// With a CA that takes every answer.
    pub(super) async fn trusting() -> Result<Self> {
        Self::with(0, PebbleOptions { always_valid: true, ..PebbleOptions::default() }).await
    }

    async fn with(lag: u32, pebble: PebbleOptions) -> Result<Self> {
        let net = LoopbackNet::pick()?;
        let (first, second) = (net.host(PRIMARY), net.host(SECONDARY));
        let port = free_port_on(&[IpAddr::V4(net.host(9))])?;
        let resolver_at = SocketAddr::from((net.host(9), port));
        // The CA asks another resolver than ours, as in life: what one has heard too early the other has not.
        let ca_port = free_port_on(&[IpAddr::V4(net.host(8))])?;
        let ca_resolver_at = SocketAddr::from((net.host(8), ca_port));
        let pebble = PebbleOptions { resolver: Some(ca_resolver_at), ..pebble };
        let mut stage = Stage::looking_with(StageOptions { pebble, ..StageOptions::default() }).await?;
        let fleet = &stage.fleet.as_ref().context("a looking stage has a fleet")?.net;

        let key: String = [KEY, ADMIN]
            .map(|name| format!("key \"{name}\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n"))
            .concat();
        let told = if lag == 0 {
            format!("notify explicit; also-notify {{ {second}; }};")
        } else {
            "notify no;".into()
        };
        let zone = |apex: &str, file: &str| {
            format!(
                "zone \"{apex}\" {{ type primary; file \"{DIRECTORY}/{file}\"; \
                 update-policy {{ grant {KEY} wildcard *.{apex}. TXT; grant {ADMIN} zonesub ANY; }}; \
                 allow-transfer {{ any; }}; {told} }};\n"
            )
        };
        let fixed =
            |apex: &str, file: &str| format!("zone \"{apex}\" {{ type primary; file \"{file}\"; }};\n");
        let both = [first, second];
        let mut root = zone_file(".", &[first], "");
        root.push_str(&format!("example. NS ns1.example.\nns1.example. A {first}\n"));
        let mut top = zone_file("example.", &[first], &format!("{VALIDATION_HOST}. A {}\n", fleet.host(3)));
        for apex in [ZONE, CUSTOMER] {
            top.push_str(&format!("{apex}. NS ns1.{apex}.\nns1.{apex}. A {first}\n"));
        }
        top.push_str(&format!("{ZONE}. NS ns2.{ZONE}.\nns2.{ZONE}. A {second}\n"));
        let own =
            format!("@ A {}\nshop A {}\nunreachable A {}", fleet.host(1), fleet.host(2), fleet.host(99));
        let own = zone_file(&format!("{ZONE}."), &both, &own);
        let customer = format!("@ A {}\n_acme-challenge CNAME {CUSTOMER}.acme.{ZONE}.", fleet.host(1));
        let customer = zone_file(&format!("{CUSTOMER}."), &[first], &customer);
        let statements = [
            key,
            fixed(".", "root"),
            fixed("example", "top"),
            fixed(CUSTOMER, "customer"),
            zone(ZONE, "own"),
        ]
        .concat();
        let files = [("root", &*root), ("top", &*top), ("own", &*own), ("customer", &*customer)];
        let main = Bind::authority(first, &statements, &files).await?;
        let follows = format!(
            "zone \"{ZONE}\" {{ type secondary; file \"{DIRECTORY}/own\"; primaries {{ {first}; }}; allow-notify {{ {first}; }}; \
             min-refresh-time {0}; max-refresh-time {0}; }};\n",
            lag.max(1)
        );
        let follower = Bind::authority(second, &follows, &[]).await?;
        let resolver = Bind::resolver(resolver_at, first, "").await?;
        let ca_resolver = Bind::resolver(ca_resolver_at, first, "").await?;
        stage.signpost.set("issuer.resolvers", vec![resolver_at.to_string()])?;

        let secret = stage.signpost.write("tsig", SECRET)?;
        stage.signpost.set("dns.own.provider", "rfc2136")?;
        stage.signpost.set("dns.own.zones", vec![ZONE])?;
        stage.signpost.set("dns.own.server", SocketAddr::from((first, DNS_PORT)).to_string())?;
        stage.signpost.set("dns.own.tsig_name", KEY)?;
        stage.signpost.set("dns.own.tsig_secret_file", secret.display().to_string())?;
        Ok(Self {
            stage,
            net,
            primary: SocketAddr::from((first, DNS_PORT)),
            secondary: SocketAddr::from((second, DNS_PORT)),
            servers: vec![main, follower, resolver, ca_resolver],
        })
    }

    /// The secondary is gone, and its address with it.
    pub(super) fn end_secondary(&mut self) {
        drop(self.servers.remove(1));
    }

    /// Nothing of a proof is left: not in the zone, not in the journal.
    pub(super) async fn ensure_clean(&self, record: &str) -> Result<()> {
        let left = texts(self.primary, record).await?;
        ensure!(left.is_empty(), "{record} still has {left:?}");
        let journal = self.stage.redis.command(&["ZCARD", "sp:txt-journal"]).await?;
        ensure!(journal == redis::Value::Int(0), "the journal has {journal:?}");
        Ok(())
    }
}
