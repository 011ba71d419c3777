//! Sites from their wish to their removal, and what else there is to look at and to change.

use anyhow::{Context as _, Result, ensure};
use harness::stage::Stage;
use serde_json::{Value, json};

use crate::service::Service;

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_added_looked_at_changed_and_removed() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    let ask = async |line: &str, body: Option<Value>| service.ask(line, &token, body.as_ref()).await;

    let wish = json!({"names": ["www.müller.example", "Müller.example"], "tags": ["eu"], "tenant": "müller"});
    ask("POST /sites", Some(wish.clone())).await?.refused(422, "invalid-site")?;
    let wish =
        json!({"names": ["www.müller.example", "Müller.example"], "tags": ["eu"], "tenant": "mueller"});
    let added = ask("POST /sites", Some(wish.clone())).await?.with(201)?;
    ensure!(added.body["change"] == "added" && added.body["site"]["origin"] == "api", "{added:#?}");
    let names = json!(["www.xn--mller-kva.example", "xn--mller-kva.example"]);
    ensure!(added.body["site"]["names"] == names && added.body["reissued"] == names, "{added:#?}");
    let id = added.body["site"]["id"].as_str().context("an id")?.to_owned();
    ensure!(added.header("Location") == Some(format!("/api/v1/sites/{id}").as_str()));
    ask("POST /sites", Some(wish)).await?.with(200)?;

    let by_name = ask("GET /sites/xn--mller-kva.example", None).await?.with(200)?;
    for other in [format!("GET /sites/{id}"), "GET /sites/www.m%C3%BCller.example".to_owned()] {
        ensure!(ask(&other, None).await?.with(200)?.body == by_name.body, "{other}");
    }
    ensure!(by_name.body["state"] == "pending" && by_name.body["groups"].as_array().map(Vec::len) == Some(2));

    // Names come and go; a patch can be repeated.
    let patch =
        json!({"add_names": ["shop.müller.example"], "remove_names": ["www.müller.example"], "ca": "second"});
    let changed = ask(&format!("PATCH /sites/{id}"), Some(patch.clone())).await?.with(200)?;
    // Of another CA both are ordered anew.
    let both = json!(["xn--mller-kva.example", "shop.xn--mller-kva.example"]);
    ensure!(changed.body["reissued"] == both, "{changed:#?}");
    ensure!(changed.body["change"] == "changed" && changed.body["site"]["ca"] == "second", "{changed:#?}");
    let again = ask(&format!("PATCH /sites/{id}"), Some(patch)).await?.with(200)?;
    ensure!(again.body["change"] == "unchanged" && again.body["differences"] == json!([]), "{again:#?}");
    ask("GET /sites/www.xn--mller-kva.example", None).await?.refused(404, "no-such-site")?;

    // What is taken, wrong or unknown.
    let taken = json!({"names": ["new.example.com", "shop.müller.example"]});
    let taken = ask("POST /sites", Some(taken)).await?.refused(409, "name-taken")?;
    ensure!(taken.body["error"]["details"]["owner"] == id.as_str(), "{taken:#?}");
    let same = json!({"names": ["xn--mller-kva.example", "shop.müller.example"], "tags": ["us"]});
    ask("POST /sites", Some(same)).await?.refused(409, "site-exists")?;
    let wrong = ask("POST /sites", Some(json!({"names": ["a_b.example.com"]}))).await?;
    let wrong = wrong.refused(422, "invalid-name")?;
    ensure!(
        wrong.body["error"]["details"] == json!({"name": "a_b.example.com", "rule": "invalid-character"})
    );
    let several = json!({"names": ["a_b.example.com", "https://c.example.com/", "d.example.com"]});
    let several = ask("POST /sites", Some(several)).await?.refused(422, "invalid-name")?;
    let named = several.body["error"]["details"]["names"].as_array().context("names")?;
    ensure!(named.len() == 2 && named[1]["rule"] == "url", "{several:#?}");
    let unknown = json!({"names": ["b.example.com"], "ca": "third"});
    ask("POST /sites", Some(unknown)).await?.refused(422, "unknown-ca")?;
    ask("POST /sites", Some(json!({"names": []}))).await?.refused(422, "invalid-site")?;
    for body in
        [json!({"name": "x"}), json!({"names": ["b.example.com"], "colour": 1}), json!([]), json!(null)]
    {
        ask("POST /sites", Some(body)).await?.refused(400, "bad-request")?;
    }
    let whole = json!({"names": ["b.example.com"]});
    ask(&format!("PATCH /sites/{id}"), Some(whole)).await?.refused(400, "bad-request")?;
    let all = json!({"remove_names": ["xn--mller-kva.example", "shop.müller.example"]});
    ask(&format!("PATCH /sites/{id}"), Some(all)).await?.refused(422, "invalid-site")?;
    ask("GET /sites/no%20name", None).await?.refused(404, "no-such-site")?;

    // Pauses.
    let paused = ask(&format!("POST /sites/{id}/pause"), None).await?.with(200)?;
    ensure!(paused.body["site"]["paused"].is_string(), "{paused:#?}");
    ensure!(ask(&format!("GET /sites/{id}"), None).await?.body["state"] == "paused");
    let again = ask(&format!("POST /sites/{id}/pause"), None).await?.with(200)?;
    ensure!(
        again.body["change"] == "unchanged" && again.body["site"]["paused"] == paused.body["site"]["paused"]
    );
    ask(&format!("POST /sites/{id}/resume"), None).await?.with(200)?;
    let nudged = ask(&format!("POST /sites/{id}/renew"), None).await?.with(202)?;
    ensure!(nudged.body == json!({"site": id, "groups": 2}), "{nudged:#?}");

    // Its end, and that its names are free again.
    let by_name = ask("DELETE /sites/xn--mller-kva.example", None).await?.refused(409, "more-names")?;
    ensure!(by_name.body["error"]["details"]["site"] == id.as_str(), "{by_name:#?}");
    let removed = ask(&format!("DELETE /sites/{id}"), None).await?.with(200)?;
    ensure!(removed.body["change"] == "removed");
    for line in [format!("GET /sites/{id}"), format!("DELETE /sites/{id}"), format!("POST /sites/{id}/retry")]
    {
        ask(&line, None).await?.refused(404, "no-such-site")?;
    }
    ask("POST /sites", Some(json!({"names": ["shop.müller.example"]}))).await?.with(201)?;

    let events = ask("GET /events?kind=site-added,site-removed", None).await?.with(200)?;
    let kinds: Vec<_> =
        events.body["events"].as_array().context("events")?.iter().map(|e| &e["kind"]).collect();
    ensure!(kinds == ["site-added", "site-removed", "site-added"], "{events:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn brakes_and_tenants() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("ops", "admin").await?;
    let ask = async |line: &str, body: Option<Value>| service.ask(line, &token, body.as_ref()).await;

    let on =
        ask("PUT /brakes/issuance/ca:first", Some(json!({"reason": "it is closed"}))).await?.with(201)?;
    let again = ask("PUT /brakes/issuance/ca:first", Some(json!({"reason": "still"}))).await?.with(200)?;
    ensure!(again.body["since"] == on.body["since"] && again.body["reason"] == "still", "{again:#?}");
    ask("PUT /brakes/publication/all", None).await?.with(201)?;
    let listed = ask("GET /brakes", None).await?.with(200)?;
    let scopes: Vec<_> =
        listed.body["brakes"].as_array().context("brakes")?.iter().map(|b| &b["scope"]).collect();
    ensure!(scopes == ["ca:first", "all"], "{listed:#?}");
    let status = ask("GET /status", None).await?.with(200)?;
    ensure!(status.body["brakes"].as_array().map(Vec::len) == Some(2), "{status:#?}");
    ensure!(status.body["troubles"] == json!(["first: it is closed today"]), "{status:#?}");
    ask("PUT /brakes/issuance/ca:misspelt", None).await?.refused(422, "unknown-ca")?;
    for place in ["issuance/ca:", "everything/all", "issuance/x"] {
        ask(&format!("PUT /brakes/{place}"), None).await?.refused(404, "no-such-brake")?;
    }
    ask("DELETE /brakes/issuance/ca:first", None).await?.with(200)?;
    ask("DELETE /brakes/issuance/ca:first", None).await?.refused(404, "no-such-brake")?;
    let events = ask("GET /events?kind=brake-on,brake-off", None).await?.with(200)?;
    let events = events.body["events"].as_array().context("events")?.clone();
    ensure!(events.len() == 3 && events.iter().all(|event| event["data"]["token"] == "ops"), "{events:#?}");

    ask("GET /tenants/acme", None).await?.refused(404, "no-such-tenant")?;
    // An account that nobody has made is none.
    ask("PUT /tenants/acme", Some(json!({"redirect": false, "account": "acme"})))
        .await?
        .refused(422, "invalid-tenant")?;
    let wish = json!({"redirect": false, "account": "default"});
    let made = ask("PUT /tenants/acme", Some(wish.clone())).await?.with(201)?;
    ensure!(ask("PUT /tenants/acme", Some(wish)).await?.with(200)?.body == made.body);
    for (line, body) in [
        ("PUT /tenants/a%20b", json!({"redirect": true})),
        ("PUT /tenants/x", json!({"redirect": true, "account": "a/b"})),
    ] {
        ask(line, Some(body)).await?.refused(422, "invalid-tenant")?;
    }
    ask("PUT /tenants/x", Some(json!({"account": "a"}))).await?.refused(400, "bad-request")?;
    let site = json!({"names": ["a.example.com"], "tenant": "acme"});
    let site = ask("POST /sites", Some(site)).await?.with(201)?;
    ensure!(site.body["site"]["redirect"] == false && site.body["site"]["account"] == "default", "{site:#?}");
    ask("PATCH /sites/a.example.com", Some(json!({"account": "other"})))
        .await?
        .refused(422, "invalid-site")?;
    let hsts =
        ask("PATCH /sites/a.example.com", Some(json!({"hsts": "on"}))).await?.refused(400, "bad-request")?;
    ensure!(
        hsts.body["error"]["message"].as_str().is_some_and(|what| what.contains("true, false or a table")),
        "{hsts:#?}"
    );
    // A paused site is left alone.
    ask("POST /sites/a.example.com/pause", None).await?.with(200)?;
    for verb in ["retry", "renew"] {
        ask(&format!("POST /sites/a.example.com/{verb}"), None).await?.refused(409, "paused")?;
    }
    ask("DELETE /tenants/acme", None).await?.refused(409, "tenant-in-use")?;
    ask("PUT /tenants/unused", Some(json!({"redirect": true}))).await?.with(201)?;
    ask("DELETE /tenants/unused", None).await?.with(200)?;
    ask("DELETE /tenants/unused", None).await?.refused(404, "no-such-tenant")?;
    ensure!(
        ask("GET /tenants", None).await?.with(200)?.body == json!({"tenants": [made.body], "damaged": []})
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_shown_without_its_key() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["a.example.com", "--key-type", "ecdsa-p256", "--key-type", "rsa-2048"]).await?;
    let Stage { signpost, redis, redis_proxy, proxy: _proxy, pebble: _pebble, .. } = stage;
    let service = Service::over(signpost, redis, redis_proxy).await?;
    let token = service.token("panel", "read").await?;
    let site = service.ask("GET /sites/a.example.com", &token, None).await?.with(200)?;
    ensure!(site.body["state"] == "issued", "{site:#?}");
    let shown = service.ask("GET /certificates/A.example.com", &token, None).await?.with(200)?;
    let certificates = shown.body["certificates"].as_array().context("certificates")?;
    ensure!(certificates.len() == 2, "{shown:#?}");
    for certificate in certificates {
        ensure!(
            certificate["names"] == json!(["a.example.com"]) && certificate["valid"] == true,
            "{shown:#?}"
        );
        let slot = certificate["slot"].as_str().context("a slot")?;
        ensure!(site.body["groups"][0]["certificates"][slot] == certificate["id"], "{site:#?}");
    }
    let text = shown.body.to_string();
    ensure!(!text.contains("PRIVATE") && !text.contains("sealed"), "{text}");
    service
        .ask("GET /certificates/b.example.com", &token, None)
        .await?
        .refused(404, "no-such-certificate")?;
    service.ask("GET /certificates/a_b.example.com", &token, None).await?.refused(422, "invalid-name")?;
    Ok(())
}
