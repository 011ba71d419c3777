//! Listings, names, files and entity tags.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use openssl::{hash::MessageDigest, pkey::PKey, x509::X509};
use serde_json::{Value, json};
use shared::domain::KeyType;

use crate::fleet::{Fleet, KEYS, ask, hex};

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_everything_in_scope_once_and_nothing_else() -> Result<()> {
    let fleet = Fleet::new().await?;
    let mut wanted = BTreeSet::new();
    for number in 0..23 {
        wanted.insert(
            fleet
                .add_site(&[&format!("s{number}.a.example.com")], &[], &[KeyType::EcdsaP256])
                .await?
                .to_string(),
        );
        fleet.add_site(&[&format!("s{number}.b.example.com")], &[], &[KeyType::EcdsaP256]).await?;
    }
    let edge = fleet.add_frontend("edge", &["*.a.example.com"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let mut stream = fleet.connect(daemon.address, &edge)?;
    for limit in [1, 5, 23, 500] {
        let (mut seen, mut query, mut pages) = (Vec::new(), format!("limit={limit}"), 0);
        loop {
            let answer = ask(&mut stream, &edge, "GET", &format!("/v1/certificates?{query}"), "")?;
            ensure!(answer.status == 200, "{answer:?}");
            ensure!(!answer.text().contains("b.example.com"), "{}", answer.text());
            let page: Value = serde_json::from_slice(&answer.body)?;
            let items = page["items"].as_array().context("no items")?;
            ensure!(items.len() <= limit);
            seen.extend(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)));
            pages += 1;
            match page["next"].as_str() {
                None => break,
                Some(next) => {
                    ensure!(wanted.contains(next), "a page names an id out of scope");
                    query = format!("limit={limit}&after={next}");
                }
            }
        }
        ensure!(
            seen.is_sorted() && seen.iter().cloned().collect::<BTreeSet<_>>() == wanted,
            "{limit}: {seen:?}"
        );
        ensure!(seen.len() == 23 && pages == 23_usize.div_ceil(limit), "{limit}: {pages} pages");
    }
    for query in ["limit=0", "limit=many", "after=shop.example.com"] {
        let answer = ask(&mut stream, &edge, "GET", &format!("/v1/certificates?{query}"), "")?;
        ensure!(answer.status == 400, "{query}: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_says_what_the_files_are() -> Result<()> {
    let fleet = Fleet::new().await?;
    let id = fleet
        .add_site(&["상점.example.kr", "www.shop.example.com"], &[], &[KeyType::EcdsaP384, KeyType::Rsa2048])
        .await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let mut stream = fleet.connect(daemon.address, &edge)?;
    let list = ask(&mut stream, &edge, "GET", "/v1/certificates", "")?;
    let list: Value = serde_json::from_slice(&list.body)?;
    let item = &list["items"][0];
    ensure!(item["id"] == id.as_str() && list["next"].is_null(), "{list}");
    let mut names: Vec<_> =
        item["names"].as_array().context("no names")?.iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    ensure!(names == ["www.shop.example.com", "xn--hg4bs7k.example.kr"], "{item}");
    for (slot, key_type) in [("ecdsa", "ecdsa-p384"), ("rsa", "rsa-2048")] {
        let lineage = &item["lineages"][slot];
        ensure!(lineage["key_type"] == key_type && lineage["state"] == "valid", "{lineage}");
        let mut file = |kind: &str| -> Result<Vec<u8>> {
            let link = lineage["links"][kind].as_str().context("no link")?;
            let answer = ask(&mut stream, &edge, "GET", link, "")?;
            ensure!(answer.status == 200 && answer.header("cache-control") == Some("no-store"), "{answer:?}");
            Ok(answer.body)
        };
        let (cert, chain, fullchain) = (file("cert")?, file("chain")?, file("fullchain")?);
        let (privkey, bundle) = (file("privkey")?, file("bundle")?);
        ensure!(
            fullchain == [cert.clone(), chain].concat() && bundle == [fullchain, privkey.clone()].concat()
        );
        let x509 = X509::from_pem(&cert)?;
        ensure!(x509.public_key()?.public_eq(&*PKey::private_key_from_pem(&privkey)?), "the key doesn't fit");
        ensure!(privkey.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
        ensure!(lineage["fingerprint_sha256"] == hex(&x509.digest(MessageDigest::sha256())?), "{lineage}");
        ensure!(lineage["issuer"] == "Public CA of the test", "{lineage}");
        let expires: jiff::Timestamp = lineage["not_after"].as_str().context("no date")?.parse()?;
        let days = (expires - jiff::Timestamp::now()).total(jiff::Unit::Hour)? / 24.0;
        ensure!((29.0..=30.1).contains(&days), "{lineage}");
    }
    // By each of its names, as people write them, and by its id.
    for name in [
        "www.shop.example.com",
        "WWW.Shop.example.COM",
        "xn--hg4bs7k.example.kr",
        "%EC%83%81%EC%A0%90.example.kr",
        id.as_str(),
    ] {
        let one = ask(&mut stream, &edge, "GET", &format!("/v1/certificates/{name}"), "")?;
        ensure!(one.status == 200, "{name}: {one:?}");
        let one: Value = serde_json::from_slice(&one.body)?;
        ensure!(one["state"] == "valid" && one["lineages"] == item["lineages"], "{one}");
        let expected = if name == id.as_str() {
            Value::Null
        } else if name.to_lowercase().starts_with("www") {
            "www.shop.example.com".into()
        } else {
            "xn--hg4bs7k.example.kr".into()
        };
        ensure!(one["name"] == expected, "{one}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_changes_with_the_certificate_and_not_before() -> Result<()> {
    let fleet = Fleet::new().await?;
    const NAME: &str = "shop.example.com";
    fleet.add_site(&[NAME], &[], &[KeyType::EcdsaP256]).await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let mut stream = fleet.connect(daemon.address, &edge)?;
    let paths = [
        "/v1/certificates".to_owned(),
        format!("/v1/certificates/{NAME}"),
        format!("/v1/certificates/{NAME}/ecdsa/fullchain.pem"),
        format!("/v1/certificates/{NAME}/ecdsa/privkey.pem"),
    ];
    let mut tags = Vec::new();
    for path in &paths {
        let answer = ask(&mut stream, &edge, "GET", path, "")?;
        let tag = answer.header("etag").context("no tag")?.to_owned();
        ensure!(tag.starts_with('"') && tag.ends_with('"') && !tags.contains(&tag), "{path}: {tag}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let again = ask(&mut stream, &edge, "GET", path, &format!("if-none-match: {known}\r\n"))?;
            ensure!(again.status == 304 && again.header("etag") == Some(&tag), "{path}: {again:?}");
        }
        let other = ask(&mut stream, &edge, "GET", path, "if-none-match: \"x\"\r\n")?;
        ensure!(other.status == 200 && other.body == answer.body, "{path}");
        let head = ask(&mut stream, &edge, "HEAD", path, "")?;
        ensure!(
            head.status == 200 && head.header("etag") == Some(&tag) && head.body.is_empty(),
            "{path}: {head:?}"
        );
        // No key is opened for a question that gives out none.
        let is_key = path.ends_with("privkey.pem");
        let length = answer.header("content-length").filter(|_| !is_key);
        ensure!(head.header("content-length") == length, "{path}: {head:?}");
        tags.push(tag);
    }
    fleet.add_site(&[NAME], &[], &[KeyType::EcdsaP256]).await?;
    for (path, tag) in paths.iter().zip(&tags) {
        let renewed = ask(&mut stream, &edge, "GET", path, &format!("if-none-match: {tag}\r\n"))?;
        ensure!(renewed.status == 200 && renewed.header("etag") != Some(tag), "{path}: {renewed:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_said_to_be_and_spoils_no_other() -> Result<()> {
    let fleet = Fleet::new().await?;
    let good = fleet.add_site(&["good.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let bad = fleet.add_site(&["bad.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let stored = fleet.store.load_site(&bad).await?.context("no site")?;
    let id = stored.serving.current.values().next().context("no certificate")?;
    let key = format!("sp:{{{}}}:cert:{bad}:{id}", bad.partition());
    fleet.redis.command(&["SETRANGE", &key, "0", "damaged"]).await?;
    let daemon = fleet.start().await?;
    let mut stream = fleet.connect(daemon.address, &edge)?;
    let list = ask(&mut stream, &edge, "GET", "/v1/certificates", "")?;
    let list: Value = serde_json::from_slice(&list.body)?;
    let item =
        |id: &str| list["items"].as_array().and_then(|items| items.iter().find(|item| item["id"] == id));
    ensure!(item(good.as_str()).is_some_and(|item| item["lineages"]["ecdsa"].is_object()), "{list}");
    ensure!(
        item(bad.as_str())
            .is_some_and(|item| item["damaged"][0] == "ecdsa" && item["names"][0] == "bad.example.com"),
        "{list}"
    );
    for file in ["cert", "privkey"] {
        let answer = ask(
            &mut stream,
            &edge,
            "GET",
            &format!("/v1/certificates/bad.example.com/ecdsa/{file}.pem"),
            "",
        )?;
        ensure!(answer.status == 500, "{answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_answers_for_the_names_that_it_covers() -> Result<()> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&["*.wild.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    fleet.add_site(&["own.wild.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let edge = fleet.add_frontend("edge", &["*.wild.example.com"], &[], KEYS).await?;
    let part = fleet.add_frontend("part", &["any.wild.example.com"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let names = |path: &str| -> Result<(u16, Value)> {
        let answer = fleet.get(daemon.address, &edge, path)?;
        let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok((answer.status, document["names"].clone()))
    };
    let star = json!(["*.wild.example.com"]);
    for path in ["any.wild.example.com", "ANY.wild.example.com", "*.wild.example.com", "%2A.wild.example.com"]
    {
        let found = names(&format!("/v1/certificates/{path}"))?;
        ensure!(found == (200, star.clone()), "{path}: {found:?}");
    }
    let own = names("/v1/certificates/own.wild.example.com")?;
    ensure!(own == (200, json!(["own.wild.example.com"])), "its own certificate comes first: {own:?}");
    for path in ["wild.example.com", "deep.any.wild.example.com", "*.example.com", "*.any.wild.example.com"] {
        ensure!(names(&format!("/v1/certificates/{path}"))?.0 == 404, "{path}");
    }
    for path in [
        "/v1/certificates/any.wild.example.com/ecdsa/privkey.pem",
        "/v1/adapters/haproxy/any.wild.example.com.pem",
    ] {
        ensure!(fleet.get(daemon.address, &edge, path)?.text().contains("PRIVATE KEY"), "{path}");
        // The key serves every name below, so whoever sees one of them alone doesn't get it.
        let refused = fleet.get(daemon.address, &part, path)?;
        ensure!(refused.status == 404 && !refused.text().contains("PRIVATE KEY"), "{path}: {refused:?}");
    }
    for (name, status) in
        [("any.wild.example.com", 200), ("deep.any.wild.example.com", 403), ("wild.example.com", 403)]
    {
        ensure!(
            fleet.get(daemon.address, &edge, &format!("/v1/ask?domain={name}"))?.status == status,
            "{name}"
        );
    }
    Ok(())
}
