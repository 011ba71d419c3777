//! Where the names of customers lead, asked of a real DNS: ours, another provider's, half of each, nowhere, or no answer.

use anyhow::{Result, ensure};
use harness::mock_dns::MockDns;
use issuer::{
    dns::Resolver,
    preflight::{Departure, Whereabouts},
};
use shared::{config::Config, domain::DnsName};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

const SETTINGS: &str = r#"
[frontends]
addresses = ["192.0.2.10", "192.0.2.11", "2001:db8::10"]
cname_targets = ["edge.hoster.example"]
"#;
const FOREIGN_DEFAULT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

struct Scene {
    dns: MockDns,
    config: Config,
    departure: Departure,
    _directory: tempfile::TempDir,
}

impl Scene {
    /// A DNS in which a name without records has none.
    async fn start(settings: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let dns = MockDns::start(directory.path(), FOREIGN_DEFAULT).await?;
        dns.set_default_a(None).await?;
        let config = configured(settings)?;
        let departure = looking(&config, dns.address())?;
        Ok(Self { dns, config, departure, _directory: directory })
    }

    async fn give(&self, host: &str, addresses: &[&str]) -> Result<()> {
        let addresses: Result<Vec<_>, _> = addresses.iter().map(|address| address.parse()).collect();
        self.dns.set_addresses(host, &addresses?).await
    }

    async fn look(&self, host: &str) -> Result<Whereabouts> {
        Ok(self.departure.look(&DnsName::parse(host)?).await)
    }

    fn explain(&self, found: &Whereabouts, host: &str) -> Result<String> {
        Ok(found.explain(&DnsName::parse(host)?, &self.config.frontends))
    }

    async fn expect(&self, host: &str, expected: Whereabouts) -> Result<()> {
        let found = self.look(host).await?;
        ensure!(found == expected, "{host}: {found:?} instead of {expected:?}");
        Ok(())
    }
}

fn configured(settings: &str) -> Result<Config> {
    Ok(Config::parse(settings, Path::new("signpost.toml"), &[])?)
}

fn looking(config: &Config, dns: SocketAddr) -> Result<Departure> {
    let departure = Departure::of(&config.frontends, Resolver::with_servers(&[dns])?);
    departure.ok_or_else(|| anyhow::anyhow!("frontends are configured"))
}

fn elsewhere(found: &[&str], cname: Option<&str>) -> Result<Whereabouts> {
    let found: Result<Vec<_>, _> = found.iter().map(|address| address.parse()).collect();
    Ok(Whereabouts::Elsewhere { found: found?, cname: cname.map(str::to_owned) })
}

#[tokio::test]
async fn a_name_that_leads_to_our_addresses_is_here_for_two_questions() -> Result<()> {
    let scene = Scene::start(SETTINGS).await?;
    for (host, addresses) in [
        ("four.example", &["192.0.2.10"] as &[_]),
        ("six.example", &["2001:db8::10"]),
        ("both.example", &["192.0.2.11", "2001:db8::10"]),
        ("several.example", &["192.0.2.10", "192.0.2.11"]),
    ] {
        scene.give(host, addresses).await?;
        scene.expect(host, Whereabouts::Here).await?;
        let questions = scene.dns.queries(host).await?;
        ensure!(questions == 2, "{host}: {questions} questions instead of A and AAAA");
    }
    Ok(())
}

#[tokio::test]
async fn a_foreign_address_beside_ours_is_advice_and_no_departure() -> Result<()> {
    let scene = Scene::start(SETTINGS).await?;
    for (host, addresses, foreign) in [
        ("aaaa.example", &["192.0.2.10", "2001:db8:bad::1"], "2001:db8:bad::1"),
        ("a.example", &["203.0.113.7", "2001:db8::10"], "203.0.113.7"),
        ("two.example", &["192.0.2.10", "203.0.113.7"], "203.0.113.7"),
    ] {
        scene.give(host, addresses).await?;
        let found = scene.look(host).await?;
        ensure!(found == Whereabouts::Partly { foreign: vec![foreign.parse()?] }, "{host}: {found:?}");
        ensure!(!found.is_departed());
        let words = scene.explain(&found, host)?;
        ensure!(words.contains("Remove") && words.matches(foreign).count() == 2, "{words}");
    }
    Ok(())
}

#[tokio::test]
async fn a_name_goes_elsewhere_and_comes_back() -> Result<()> {
    let scene = Scene::start(SETTINGS).await?;
    let host = "moving.example";
    scene.give(host, &["192.0.2.10"]).await?;
    scene.expect(host, Whereabouts::Here).await?;

    scene.give(host, &["203.0.113.7", "2001:db8:bad::1"]).await?;
    let found = scene.look(host).await?;
    ensure!(found == elsewhere(&["203.0.113.7", "2001:db8:bad::1"], None)?, "{found:?}");
    ensure!(found.is_departed());
    let words = scene.explain(&found, host)?;
    for part in ["203.0.113.7", "2001:db8:bad::1", "CNAME edge.hoster.example", "A 192.0.2.10 or 192.0.2.11"]
    {
        ensure!(words.contains(part), "{words}");
    }

    scene.give(host, &[]).await?;
    scene.expect(host, Whereabouts::Gone).await?;
    let words = scene.explain(&Whereabouts::Gone, host)?;
    ensure!(Whereabouts::Gone.is_departed() && words.contains("AAAA 2001:db8::10"), "{words}");

    scene.give(host, &["2001:db8::10"]).await?;
    scene.expect(host, Whereabouts::Here).await
}

#[tokio::test]
async fn a_chain_of_aliases_is_followed_to_our_target() -> Result<()> {
    let scene = Scene::start(SETTINGS).await?;
    // An address that is listed nowhere: behind the target it is ours all the same.
    scene.give("edge.hoster.example", &["198.51.100.5"]).await?;
    scene.give("c77.edge.hoster.example", &["198.51.100.6", "2001:db8:77::1"]).await?;
    scene.dns.set_cname("direct.example", "edge.hoster.example").await?;
    scene.dns.set_cname("www.direct.example", "direct.example").await?;
    scene.dns.set_cname("deep.example", "www.direct.example").await?;
    scene.dns.set_cname("below.example", "c77.edge.hoster.example").await?;
    for host in ["direct.example", "www.direct.example", "deep.example", "below.example"] {
        scene.expect(host, Whereabouts::Here).await?;
    }

    // What only looks like the target is another's.
    for (host, target) in [
        ("like.example", "my-edge.hoster.example"),
        ("after.example", "edge.hoster.example.attacker.example"),
        ("away.example", "cdn.other.example"),
    ] {
        scene.give(target, &["203.0.113.7"]).await?;
        scene.dns.set_cname(host, target).await?;
        scene.expect(host, elsewhere(&["203.0.113.7"], Some(target))?).await?;
    }
    let words = scene.explain(&scene.look("away.example").await?, "away.example")?;
    ensure!(words.contains("by its CNAME to cdn.other.example"), "{words}");

    // An alias of somebody else that ends at our addresses is here.
    scene.give("reseller.example", &["192.0.2.10"]).await?;
    scene.dns.set_cname("resold.example", "reseller.example").await?;
    scene.expect("resold.example", Whereabouts::Here).await?;

    // The customer did nothing wrong when our own target loses its addresses.
    scene.give("edge.hoster.example", &[]).await?;
    for host in ["direct.example", "deep.example"] {
        scene.expect(host, Whereabouts::Here).await?;
    }
    scene.dns.set_cname("dangling.example", "nothing.example").await?;
    scene.expect("dangling.example", Whereabouts::Gone).await
}

#[tokio::test]
async fn an_apex_with_the_addresses_of_our_target_is_here() -> Result<()> {
    let scene = Scene::start("[frontends]\ncname_targets = [\"edge.hoster.example\"]\n").await?;
    scene.give("edge.hoster.example", &["198.51.100.5", "2001:db8:5::1"]).await?;
    scene.give("apex.example", &["198.51.100.5", "2001:db8:5::1"]).await?;
    scene.give("mixed.example", &["198.51.100.5", "2001:db8:bad::1"]).await?;
    scene.give("other.example", &["203.0.113.7"]).await?;
    scene.expect("apex.example", Whereabouts::Here).await?;
    scene.expect("mixed.example", Whereabouts::Partly { foreign: vec!["2001:db8:bad::1".parse()?] }).await?;
    scene.expect("other.example", elsewhere(&["203.0.113.7"], None)?).await?;
    let questions = scene.dns.queries("edge.hoster.example").await?;
    ensure!(questions == 2, "the target was asked {questions} times for three names");
    Ok(())
}

#[tokio::test]
async fn a_dns_that_fails_is_no_reason_to_park_a_name() -> Result<()> {
    let scene = Scene::start(SETTINGS).await?;
    scene.give("broken.example", &["203.0.113.7"]).await?;
    scene.dns.set_cname("alias.example", "broken.example").await?;
    scene.dns.set_servfail("broken.example").await?;
    for host in ["broken.example", "alias.example"] {
        let found = scene.look(host).await?;
        let words = scene.explain(&found, host)?;
        ensure!(matches!(&found, Whereabouts::Unknown(_)) && !found.is_departed(), "{host}: {found:?}");
        ensure!(words.contains("nothing is concluded"), "{words}");
    }
    scene.dns.clear_servfail("broken.example").await?;
    scene.expect("broken.example", elsewhere(&["203.0.113.7"], None)?).await?;

    // Nor is our own target that fails, for a name that may be a copy of it.
    let scene = Scene::start("[frontends]\ncname_targets = [\"edge.hoster.example\"]\n").await?;
    scene.give("copy.example", &["198.51.100.5"]).await?;
    scene.dns.set_servfail("edge.hoster.example").await?;
    ensure!(matches!(scene.look("copy.example").await?, Whereabouts::Unknown(_)));
    scene.dns.clear_servfail("edge.hoster.example").await?;
    scene.give("edge.hoster.example", &["198.51.100.5"]).await?;
    scene.expect("copy.example", Whereabouts::Here).await
}

#[tokio::test]
async fn a_dead_or_silent_resolver_tells_nothing_and_holds_nobody_up() -> Result<()> {
    let config = configured(SETTINGS)?;
    let host = DnsName::parse("shop.example")?;
    // Bound and never read: silent. Once it is closed the kernel refuses.
    let silent = UdpSocket::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?;
    expect_nothing(&looking(&config, address)?, &host).await?;
    drop(silent);
    expect_nothing(&looking(&config, address)?, &host).await
}

async fn expect_nothing(departure: &Departure, host: &DnsName) -> Result<()> {
    let started = Instant::now();
    let found = departure.look(host).await;
    ensure!(matches!(found, Whereabouts::Unknown(_)), "{found:?}");
    // Three seconds, and what a busy machine adds.
    ensure!(started.elapsed() < Duration::from_secs(8), "{:?} for one look", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn without_frontends_nobody_can_depart_and_a_wrong_target_is_a_mistake_with_its_line() -> Result<()> {
    let resolver = Resolver::with_servers(&[([127, 0, 0, 1], 53).into()])?;
    ensure!(Departure::of(&configured("")?.frontends, resolver).is_none());
    let refused =
        configured("[frontends]\ncname_targets = [\"edge_hoster.example\"]\n").unwrap_err().to_string();
    ensure!(refused.contains("signpost.toml:2") && refused.contains("invalid character"), "{refused}");
    Ok(())
}
