//! How a frontend gets a client certificate to a key of its own, and who else doesn't.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    signpost::{Run, Signpost},
};
use jiff::{SignedDuration, Timestamp};
use openssl::{
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::X509Req,
};
use serde_json::Value;
use shared::{
    domain::{AuditAction, KeyType},
    tls::KeyPair,
};
use std::net::SocketAddr;

use crate::fleet::{Fleet, Identity, KEYS, hex, post};

const LIMIT: Duration = Duration::from_secs(30);
const SHOP: &str = "shop.example.com";
const SHOP_PATH: &str = "/v1/certificates/shop.example.com";
const OWN: &str = "/v1/frontends/self/certificate";
/// Every other route, with its method.
const ROUTES: [(&str, &str); 7] = [
    ("GET", "/v1/certificates"),
    ("GET", SHOP_PATH),
    ("GET", "/v1/certificates/shop.example.com/ecdsa/fullchain.pem"),
    ("GET", "/v1/certificates/shop.example.com/ecdsa/privkey.pem"),
    ("GET", "/v1/changes"),
    ("POST", "/v1/bundles"),
    ("POST", "/v1/frontends/self/status"),
];

async fn fleet() -> Result<Fleet> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&[SHOP], &[], &[KeyType::EcdsaP256]).await?;
    Ok(fleet)
}

pub(crate) fn new_key() -> Result<PKey<Private>> {
    Ok(PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)?)
}

fn request_of(key: &PKey<Private>) -> Result<Vec<u8>> {
    let mut builder = X509Req::builder()?;
    builder.set_pubkey(key)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build().to_pem()?)
}

/// Asks for a certificate; the status, and what to come with next time.
pub(crate) fn enrol(
    fleet: &Fleet,
    at: SocketAddr,
    by: &Identity,
    key: &PKey<Private>,
) -> Result<(u16, Option<Identity>)> {
    let answer = post(fleet, at, by, OWN, &request_of(key)?)?;
    if answer.status != 200 {
        return Ok((answer.status, None));
    }
    let document: Value = serde_json::from_slice(&answer.body)?;
    let pair = KeyPair {
        certificate_pem: document["certificate_pem"].as_str().context("no certificate")?.to_owned(),
        key_pem: key.private_key_to_pem_pkcs8()?.into(),
        spki_sha256: hex(&openssl::sha::sha256(&key.public_key_to_der()?)),
    };
    Ok((200, Some(Identity::Key(Arc::new(pair)))))
}

/// What each of the other routes answers.
fn statuses(fleet: &Fleet, at: SocketAddr, by: &Identity) -> Result<Vec<u16>> {
    let status = |(method, path): (&str, &str)| {
        let answer =
            if method == "GET" { fleet.get(at, by, path)? } else { post(fleet, at, by, path, b"{}")? };
        Ok(answer.status)
    };
    ROUTES.into_iter().map(status).collect()
}

const NOTHING: [u16; 7] = [401; 7];

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_key() -> Result<()> {
    let fleet = fleet().await?;
    let token = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let only = fleet.add_frontend("only", &["*"], &[], KEYS).await?;
    fleet.change_frontend("only", |frontend| frontend.token_enrols_only = true).await?;
    let late = fleet.add_frontend("late", &["*"], &[], KEYS).await?;
    let past = Timestamp::now() - SignedDuration::from_secs(1);
    fleet.change_frontend("late", |frontend| frontend.token_expires = Some(past)).await?;
    let revoked = fleet.add_frontend("revoked", &["*"], &[], KEYS).await?;
    fleet.revoke("revoked").await?;
    let daemon = fleet.start().await?;
    let at = daemon.address;

    let all_but_bad_bodies = [200, 200, 200, 200, 200, 400, 400];
    ensure!(statuses(&fleet, at, &token)? == all_but_bad_bodies);
    let (of_edge, of_only, thief) = (new_key()?, new_key()?, new_key()?);
    for (who, by) in [("only", &only), ("late", &late), ("revoked", &revoked), ("nobody", &Identity::Nobody)]
    {
        ensure!(statuses(&fleet, at, by)? == NOTHING, "{who}");
    }
    for (who, by) in [("late", &late), ("revoked", &revoked), ("nobody", &Identity::Nobody)] {
        ensure!(enrol(&fleet, at, by, &thief)?.0 == 401, "{who}");
    }
    ensure!(enrol(&fleet, at, &Identity::token("wrong-token-0123456789"), &thief)?.0 == 401);

    // Nothing is used up by what can't be read.
    for body in [&b""[..], b"nothing", &[b'x'; 20_000]] {
        let status = post(&fleet, at, &only, OWN, body)?.status;
        ensure!(status == if body.len() > 16_384 { 413 } else { 400 }, "{status}");
    }
    ensure!(fleet.get(at, &only, OWN)?.status == 405);

    for (who, by, key) in [("edge", &token, of_edge.clone()), ("only", &only, of_only)] {
        let (status, enrolled) = enrol(&fleet, at, by, &key)?;
        ensure!(status == 200, "{who}: {status}");
        let enrolled = enrolled.context("no identity")?;
        ensure!(statuses(&fleet, at, &enrolled)? == all_but_bad_bodies, "{who}");
        ensure!(statuses(&fleet, at, by)? == NOTHING, "{who}: the token is used up");
        // However often: it spends nothing of what the frontend itself may have.
        for _ in 0..if who == "only" { 70 } else { 1 } {
            ensure!(enrol(&fleet, at, by, &thief)?.0 == 401, "{who}: a second key");
        }
        ensure!(enrol(&fleet, at, by, &key)?.0 == 200, "{who}: the answer may have been lost");
        let other = fleet.add_frontend("other", &["*"], &[], KEYS).await?;
        ensure!(enrol(&fleet, at, &other, &of_edge)?.0 == 400, "{who}: one key, one frontend");
        ensure!(enrol(&fleet, at, &other, &new_key()?)?.0 == 200, "{who}: its token is not spent by it");
        fleet.revoke(who).await?;
        ensure!(statuses(&fleet, at, &enrolled)? == NOTHING, "{who} is revoked");
        ensure!(enrol(&fleet, at, by, &key)?.0 == 401 && enrol(&fleet, at, &enrolled, &key)?.0 == 401);
    }
    let audit = fleet.audit().await?;
    ensure!(audit.iter().filter(|entry| entry.action == AuditAction::Enrol).count() == 6, "{audit:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_followed_by_the_next_one() -> Result<()> {
    let fleet = fleet().await?;
    let token = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let at = daemon.address;
    let works = |by: &Identity| -> Result<bool> { Ok(fleet.get(at, by, SHOP_PATH)?.status == 200) };
    let enrolled = |by: &Identity| -> Result<Identity> {
        enrol(&fleet, at, by, &new_key()?)?.1.context("no certificate")
    };
    let first = enrolled(&token)?;
    let lost = enrolled(&first)?;
    let second = enrolled(&first)?;
    ensure!(works(&first)? && works(&second)? && !works(&lost)?, "the one that asks and the newest");
    ensure!(!works(&first)? && works(&second)?, "the one before ends when the next is used");
    ensure!(enrol(&fleet, at, &first, &new_key()?)?.0 == 401);
    ensure!(works(&enrolled(&second)?)?);
    Ok(())
}

/// An agent with an enrolment token, and a hook that does nothing.
fn agent(fleet: &mut Fleet, server: SocketAddr, token: &str) -> Result<()> {
    let ca = fleet.signpost.write("agent-ca.pem", fleet.internal_ca.certificate_pem()?)?;
    let token = fleet.signpost.write("agent-token", token)?;
    let directory = fleet.signpost.directory().join("agent");
    for (key, value) in [
        ("server", format!("https://127.0.0.1:{}", server.port())),
        ("ca_file", ca.display().to_string()),
        ("enrolment_token_file", token.display().to_string()),
        ("directory", directory.display().to_string()),
    ] {
        fleet.signpost.set(&format!("agent.{key}"), value)?;
    }
    fleet.signpost.set("agent.servers", toml::Value::Array(Vec::new()))?;
    fleet.signpost.set("agent.poll_seconds", 1)
}

async fn sync(signpost: &Signpost) -> Result<Run> {
    signpost.run("frontend-agent", &["sync"], LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_renews_and_is_enrolled_anew() -> Result<()> {
    let mut fleet = fleet().await?;
    fleet.signpost.set("certificates.client_certificate_seconds", 12)?;
    fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    fleet.change_frontend("edge", |frontend| frontend.token_enrols_only = true).await?;
    let daemon = fleet.start().await?;
    agent(&mut fleet, daemon.address, "edge-token-0123456789")?;
    let own = fleet.signpost.directory().join("agent/identity/client.pem");
    sync(&fleet.signpost).await?.success()?;
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&own)?) & 0o777;
    ensure!(mode == 0o600, "{mode:o}");

    // Taken away, the token is not missed; the key is another one each time.
    std::fs::remove_file(fleet.signpost.directory().join("agent-token"))?;
    let mut before = std::fs::read(&own)?;
    let mut started = fleet.signpost.start_run("frontend-agent", &["run"])?;
    for _ in 0..3 {
        until_true("it renews itself", LIMIT, || {
            std::future::ready(std::fs::read(&own).is_ok_and(|now| now != before))
        })
        .await?;
        before = std::fs::read(&own)?;
    }
    started.process.terminate(LIMIT).await?;
    sync(&fleet.signpost).await?.success()?;
    let shown = fleet.signpost.run("frontend-agent", &["status"], LIMIT).await?.success()?;
    ensure!(shown.stdout.contains("client certificate good until"), "{}", shown.stdout);

    // It was off for too long: it says what to do.
    tokio::time::sleep(Duration::from_secs(13)).await;
    let run = sync(&fleet.signpost).await?;
    ensure!(
        run.stderr.contains("client certificate ended") && run.stderr.contains("--replace"),
        "{}",
        run.stderr
    );
    // A new token is all that it takes.
    let again = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    ensure!(fleet.get(daemon.address, &again, SHOP_PATH)?.status == 200);
    fleet.signpost.write("agent-token", "edge-token-0123456789")?;
    let run = sync(&fleet.signpost).await?;
    ensure!(
        run.stderr.contains("client certificate ended"),
        "one that it has enrolled with already: {}",
        run.stderr
    );
    fleet
        .change_frontend("edge", |frontend| {
            frontend.token_sha256 = Some(hex(&openssl::sha::sha256(b"another-token-0123456789")));
        })
        .await?;
    fleet.signpost.write("agent-token", "another-token-0123456789")?;
    sync(&fleet.signpost).await?.success()?;

    // Revoked, it keeps what it has.
    fleet.revoke("edge").await?;
    let run = sync(&fleet.signpost).await?;
    ensure!(run.code()? != 0 && run.stderr.contains("refuses this frontend"), "{}", run.stderr);
    let live = fleet.signpost.directory().join("agent/live");
    ensure!(live.read_dir()?.count() == 1, "it serves on");
    Ok(())
}
