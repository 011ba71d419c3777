//! Objects of a CA with members that nobody expects, and chains that are out of their dates: what can be used is used, and what can't be
//! is told.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Manners, Rule},
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    x509::{X509, X509Builder},
};
use serde_json::{Value, json};

/// One odd member never spoils the whole object, wherever it is met.
#[tokio::test(flavor = "multi_thread")]
async fn one_odd_member_spoils_no_object() -> Result<()> {
    let manners = Manners { renewal_info: true, ..Manners::default() };
    let stage = Stage::trusting_with(StageOptions { manners, ..StageOptions::default() }).await?;
    let odd = |endpoint, change: fn(&mut Value)| {
        stage.proxy.add_rule(Rule::on(endpoint).does(Action::change_object(change)))
    };
    let met = [
        odd(Endpoint::Directory, |directory| {
            for (name, member) in [("meta", Value::Null), ("newAuthz", json!(7)), ("keyChange", json!([]))] {
                directory[name] = member;
            }
            directory["another"] = json!({"not": ["a", "url"]});
        }),
        odd(Endpoint::NewAccount, odd_account),
        odd(Endpoint::Account, odd_account),
        odd(Endpoint::NewOrder, odd_order),
        odd(Endpoint::Order, |order| {
            odd_order(order);
            order["finalize"] = Value::Null;
            if order["status"] != "pending" {
                order["authorizations"] = Value::Null;
            }
        }),
        odd(Endpoint::Finalize, |order| {
            odd_order(order);
            order["authorizations"] = json!("none");
        }),
        odd(Endpoint::Authorization, |authorization| {
            for (name, member) in
                [("expires", json!("1970-01-01T00:00:00Z")), ("wildcard", json!("no")), ("new", json!([1]))]
            {
                authorization[name] = member;
            }
            let Some(challenges) = authorization["challenges"].as_array_mut() else { return };
            for challenge in challenges.iter_mut() {
                challenge["error"] = Value::Null;
                challenge["validated"] = json!(7);
            }
            challenges.insert(0, Value::Null);
            challenges.insert(0, json!("http-01"));
            challenges.insert(0, json!({"type": "http-01", "token": 7}));
            challenges.insert(
                0,
                json!({
                    "type": "dns-persist-01", "status": "pending", "issuerDomainNames": ["ca.example"],
                    "issuer-domain-names": null, "accounturi": 7,
                }),
            );
        }),
        odd(Endpoint::Challenge, |challenge| {
            for (name, member) in [("error", json!([])), ("validated", json!({})), ("token", Value::Null)] {
                challenge[name] = member;
            }
            challenge["status"] = json!("thinking");
        }),
        odd(Endpoint::RenewalInfo, |info| {
            info["explanationURL"] = json!(7);
            info["suggestedWindow"]["reason"] = Value::Null;
        }),
    ];
    // Of its own and of a group, of both key types, and renewed.
    stage.issue(&["odd.example", "--dual"]).await?;
    stage.issue(&["a.odd.example", "b.odd.example", "--san"]).await?;
    stage.json(&["renew", "--force", "odd.example"]).await?;
    let shown = stage.json(&["account", "show"]).await?;
    ensure!(shown["status"] == "valid" && shown["at_ca"]["status"] == "unknown", "{shown:#}");
    for (place, hits) in met.iter().enumerate() {
        ensure!(hits.count() > 0, "rule {place} has struck nothing");
    }
    ensure!(stage.proxy.orders_for(&["odd.example"]).len() == 4, "ordered more than once");
    ensure!(stage.proxy.orders_for(&["a.odd.example", "b.odd.example"]).len() == 1);
    let site = stage.site("odd.example").await?;
    ensure!(site["state"] == "valid" && site["failure"].is_null(), "{site:#}");
    // A refusal with odd members is read as far as it can be.
    let refusal = json!({
        "type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": null, "status": "400", "instance": 7,
        "subproblems": [null, 7, {"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "forbidden",
            "identifier": {"type": "dns", "value": "bad.example"}}, {"identifier": null}],
    });
    let refused = harness::ca_proxy::Answer {
        with_nonce: true,
        ..harness::ca_proxy::Answer::page(400, "application/problem+json", &refusal.to_string())
    };
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name("bad.example").does(Action::Answer(refused)));
    let result = stage.issue(&["good.example", "bad.example", "--san"]).await;
    let site = stage.site("good.example").await?;
    ensure!(site["left_out"]["bad.example"]["class"] == "policy", "{site:#} {result:?}");
    ensure!(
        stage.proxy.issued_for(&["good.example"]) == ["ecdsa-p256"],
        "the other one is issued without it"
    );
    Ok(())
}

fn odd_account(account: &mut Value) {
    for (name, member) in [("contact", Value::Null), ("orders", json!([])), ("status", json!("thriving"))] {
        account[name] = member;
    }
}

fn odd_order(order: &mut Value) {
    for (name, member) in
        [("error", Value::Null), ("notBefore", json!(7)), ("profile", json!([])), ("expires", json!("soon"))]
    {
        order[name] = member;
    }
    if let Some(identifiers) = order["identifiers"].as_array_mut() {
        identifiers.push(Value::Null);
    }
    if order["status"] != "valid" {
        order["certificate"] = json!("");
    }
}

/// An intermediate that has expired: another chain of the CA is taken; where there is none, it is told, and what is served stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_an_expired_intermediate_is_not_served() -> Result<()> {
    let pebble = PebbleOptions { alternate_roots: 1, ..PebbleOptions::default() };
    let stage = Stage::trusting_with(StageOptions { pebble, ..StageOptions::default() }).await?;
    stage.issue(&["warm.example"]).await?;
    let roots = stage.pebble.roots().await?;
    let intermediates = roots
        .iter()
        .map(|root| X509::from_pem(root.intermediate_pem.as_bytes())?.to_der().map_err(Into::into))
        .collect::<Result<Vec<_>>>()?;
    let expiring = |which: &[usize]| {
        let old: Vec<Vec<u8>> = which.iter().map(|place| intermediates[*place].clone()).collect();
        let old = Arc::new(old);
        Action::change(move |pem| with_expired(pem, &old).unwrap_or_else(|_| pem.to_owned()))
    };
    stage.proxy.add_rule(Rule::on(Endpoint::Certificate).does(expiring(&[0])));
    stage.issue(&["one.example"]).await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let served = stored.served("one.example").await?.remove(0);
    served.verify(&roots[1].root_pem, &["one.example"]).context("the chain that is in its dates")?;

    // All of them: the renewal is told, and what was served is served on.
    let before = stage.serial("warm.example").await?;
    stage.proxy.clear_rules();
    stage.proxy.add_rule(Rule::on(Endpoint::Certificate).does(expiring(&[0, 1])));
    let run = stage.signpost.issuer(&["--json", "renew", "--force", "warm.example"]).await?.with_code(1)?;
    let failure = run.json()?["results"][0]["failure"].clone();
    ensure!(failure["class"] == "bad-certificate" && failure["fault"] == "ca", "{failure:#}");
    ensure!(failure["what"].as_str().is_some_and(|what| what.contains("has expired")), "{failure:#}");
    ensure!(stage.serial("warm.example").await? == before, "what is served was touched");
    stage.proxy.clear_rules();
    // The CA has put it right: what it has issued is fetched.
    stage.json(&["renew", "--force", "warm.example"]).await?;
    ensure!(stage.serial("warm.example").await? != before);
    Ok(())
}

/// The chain, with one that has expired in the place of any of these intermediates: of the same name and key, so that what it has signed
/// verifies still.
fn with_expired(pem: &str, old: &[Vec<u8>]) -> Result<String> {
    let mut chain = String::new();
    for certificate in X509::stack_from_pem(pem.as_bytes())? {
        let is_old = old.contains(&certificate.to_der()?);
        let certificate = if is_old { expired(&certificate)? } else { certificate };
        chain.push_str(std::str::from_utf8(&certificate.to_pem()?)?);
    }
    Ok(chain)
}

fn expired(certificate: &X509) -> Result<X509> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let now = jiff::Timestamp::now().as_second();
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    let serial = BigNum::from_u32(77)?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(certificate.subject_name())?;
    builder.set_issuer_name(certificate.issuer_name())?;
    let public = certificate.public_key()?;
    builder.set_pubkey(&public)?;
    let (from, until) = (Asn1Time::from_unix(now - 90 * 86_400)?, Asn1Time::from_unix(now - 86_400)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(builder.build())
}
