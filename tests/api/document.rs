//! The OpenAPI document: that it says what the routes are, and that what is answered is what it says.

use std::{collections::BTreeSet, sync::LazyLock};

use anyhow::{Context as _, Result, bail, ensure};
use issuer::api::{COMMITTED_OPENAPI, Code, ROUTES};
use serde_json::Value;

use crate::service::{Reply, Service};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(COMMITTED_OPENAPI).expect("the committed document is JSON"));

#[test]
fn it_lists_every_route_with_every_status_and_code() {
    let mut listed = BTreeSet::new();
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            listed.insert((method.to_uppercase(), path.clone()));
            assert!(operation["summary"].as_str().unwrap().ends_with('.'), "{method} {path}");
        }
    }
    let routes: BTreeSet<_> =
        ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(listed, routes);
    let mut ids = BTreeSet::new();
    for route in ROUTES {
        let operation = &DOCUMENT["paths"][route.path][route.method.to_lowercase()];
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{} stands twice", route.path);
        let role = route.role.map(|role| role.to_string());
        assert_eq!(operation["x-role"].as_str(), role.as_deref(), "{} {}", route.method, route.path);
        let mut statuses: BTreeSet<String> =
            route.described.answers.iter().map(|(status, _)| status.to_string()).collect();
        for code in route.refusals() {
            statuses.insert(code.status().to_string());
            let codes = &operation["responses"][code.status().to_string()]["x-codes"];
            assert!(codes.as_array().unwrap().contains(&Value::from(code.as_str())), "{codes} {code:?}");
        }
        let known: BTreeSet<String> = operation["responses"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(known, statuses, "{} {}", route.method, route.path);
    }
    let codes =
        DOCUMENT["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap();
    assert_eq!(codes.len(), Code::ALL.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_served_to_everybody() -> Result<()> {
    let service = Service::start().await?;
    let reply = service.ask("GET /openapi.json", "", None).await?.with(200)?;
    ensure!(reply.body == *DOCUMENT && reply.body == issuer::api::openapi());
    Ok(())
}

/// Fails unless the document has this answer to this request, in this form.
pub(crate) fn check(method: &str, path: &str, reply: &Reply) -> Result<()> {
    let path = path.split('?').next().unwrap_or_default();
    let paths = DOCUMENT["paths"].as_object().context("paths")?;
    let is = |pattern: &str| {
        let (wanted, given): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
        wanted.len() == given.len()
            && wanted.iter().zip(&given).all(|(one, other)| one.starts_with('{') || one == other)
    };
    let (_, operations) = paths.iter().find(|(pattern, _)| is(pattern)).context("a path of the document")?;
    let operation = operations.get(method.to_lowercase()).context("a method of the document")?;
    let response =
        operation["responses"].get(reply.status.to_string()).context("a status of the document")?;
    if let Some(codes) = response.get("x-codes").and_then(Value::as_array) {
        ensure!(codes.contains(&reply.body["error"]["code"]), "one of {codes:?}");
    }
    matches(&reply.body, &response["content"]["application/json"]["schema"], "body")
}

/// As much of JSON Schema as the document uses; what it doesn't know is an error.
fn matches(value: &Value, schema: &Value, at: &str) -> Result<()> {
    let schema = schema.as_object().with_context(|| format!("{at}: a schema"))?;
    for (word, rule) in schema {
        match word.as_str() {
            "$ref" => {
                let name = rule.as_str().and_then(|r| r.rsplit('/').next()).context("a reference")?;
                matches(value, &DOCUMENT["components"]["schemas"][name], at)?;
            }
            "oneOf" => {
                let choices = rule.as_array().context("oneOf")?;
                let fitting = choices.iter().filter(|choice| matches(value, choice, at).is_ok()).count();
                ensure!(fitting == 1, "{at}: {value} fits {fitting} of {rule}");
            }
            "type" => {
                let kinds = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                ensure!(kinds.iter().any(|kind| is_of(value, kind)), "{at}: {value} is no {rule}");
            }
            "enum" => ensure!(rule.as_array().context("enum")?.contains(value), "{at}: {value}: {rule}"),
            "required" if !value.is_object() => {}
            "required" => {
                for name in rule.as_array().context("required")?.iter().filter_map(Value::as_str) {
                    ensure!(value.get(name).is_some(), "{at} lacks {name}");
                }
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    if let Some(known) = rule.get(name) {
                        matches(inner, known, &format!("{at}.{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, inner) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.contains_key(name)) {
                        continue;
                    }
                    ensure!(*rule != Value::Bool(false), "{at}.{name} is not described");
                    matches(inner, rule, &format!("{at}.{name}"))?;
                }
            }
            "items" => {
                for inner in value.as_array().into_iter().flatten() {
                    matches(inner, rule, &format!("{at}[]"))?;
                }
            }
            "format" => {
                if let Some(text) = value.as_str() {
                    ensure!(text.parse::<jiff::Timestamp>().is_ok(), "{at}: {text} is no time");
                }
            }
            "description" => {}
            other => bail!("{at}: the checker doesn't know {other}"),
        }
    }
    Ok(())
}

fn is_of(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("null") => value.is_null(),
        _ => false,
    }
}
