//! The OpenAPI document: made from the table of routes, the table of codes and the schemas. What is served is the
//! committed copy; a test compares the two.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Public},
    refusal::{Code, Refusal},
    routes::{ROUTES, Route},
    server::BASE,
};
use actix_web::http::StatusCode;
use serde_json::{Map, Value, json};
use shared::domain::ApiRole;
use std::collections::BTreeMap;

/// The document as it is committed and served.
pub const COMMITTED: &str = include_str!("openapi.json");
const SCHEMAS: &str = include_str!("schemas.json");

pub(super) async fn show(_: Authorized<Public>, _: Asked) -> Result<Answer, Refusal> {
    Ok(Answer::of_text(StatusCode::OK, COMMITTED.to_owned()))
}

/// The document as the tables say it is.
pub fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in ROUTES {
        paths.entry(route.path).or_default().insert(route.method.to_lowercase(), operation(route));
    }
    let mut schemas: Value =
        serde_json::from_str(SCHEMAS).expect("the shipped schemas are JSON: a test reads them");
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    schemas["Error"] = json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["code", "message", "remedy", "details"],
            "properties": {
                "code": { "type": "string", "enum": codes },
                "message": { "type": "string", "description": "What is wrong, for people." },
                "remedy": { "type": "string", "description": "What to do about it." },
                "details": { "type": "object", "description": "What a program may want to know." },
            },
        }},
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Signpost, the operators' API",
            "version": "1",
            "description": "Sites, certificates and events of the issuer. The codes of errors are stable.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": BASE }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Made with `issuer token add NAME --role read|write|admin`. A role may do what those before it may.",
            }},
        },
    })
}

fn operation(route: &Route) -> Value {
    let described = route.described;
    let mut parameters: Vec<Value> = parts_of(route.path)
        .map(|part| json!({ "name": part, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(described.query.iter().map(|(name, meaning)| {
        let kind = match *name {
            "limit" | "hold_hours" | "remove" => "integer",
            _ => "string",
        };
        json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": kind } })
    }));
    if route.is_change() {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Chosen by the caller for this request: a repetition within 24 hours gets the first answer.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
        }));
    }
    if route.takes_if_match() {
        parameters.push(json!({
            "name": "If-Match",
            "in": "header",
            "description": "An ETag of what is changed: nothing is written where it is in another state by now.",
            "schema": { "type": "string" },
        }));
    }
    if route.takes_if_none_match() {
        parameters.push(json!({
            "name": "If-None-Match",
            "in": "header",
            "description": "`*`, and nothing else: only what is not there yet is made; nothing is written where it is.",
            "schema": { "type": "string", "enum": ["*"] },
        }));
    }
    let mut shown = json!({
        "operationId": described.id,
        "summary": described.summary,
        "description": match route.role {
            Some(role) => format!("Needs the role `{role}`."),
            None => "Needs no token.".to_owned(),
        },
        "parameters": parameters,
        "responses": responses(route),
        "security": route.role.iter().map(|_| json!({ "token": [] })).collect::<Vec<_>>(),
        "x-role": route.role.map(ApiRole::as_str),
    });
    if let Some((schema, required)) = described.body {
        shown["requestBody"] = json!({ "required": required, "content": content(schema) });
    }
    if described.takes_file {
        shown["requestBody"] = json!({ "required": true, "content": {
            "application/x-ndjson": { "schema": { "type": "string", "description": "A SiteWish on each line." } },
            "application/toml": { "schema": { "type": "string", "description": "A `[[site]]` table for each site, `[defaults]` before them." } },
        }});
    }
    shown
}

fn responses(route: &Route) -> Value {
    let mut responses = Map::new();
    for (status, schema) in route.described.answers {
        let description = match status {
            200 => "As asked.",
            201 => "It is new.",
            _ => "It will be done.",
        };
        responses
            .insert(status.to_string(), json!({ "description": description, "content": content(schema) }));
    }
    let mut refusals: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in route.refusals() {
        refusals.entry(code.status()).or_default().push(code);
    }
    for (status, codes) in refusals {
        let texts: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        let response = json!({
            "description": codes.iter().map(|code| code.meaning()).collect::<Vec<_>>().join(" "),
            "content": content("Error"),
            "x-codes": texts,
        });
        responses.insert(status.to_string(), response);
    }
    Value::Object(responses)
}

fn content(schema: &str) -> Value {
    json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}

fn parts_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With SIGNPOST_WRITE_OPENAPI set, the copy is written instead.
    #[test]
    fn the_committed_document_is_what_the_tables_say() {
        let made = format!("{:#}\n", document());
        if std::env::var_os("SIGNPOST_WRITE_OPENAPI").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/openapi.json");
            std::fs::write(path, &made).unwrap();
            return;
        }
        assert!(
            made == COMMITTED,
            "openapi.json is out of date: SIGNPOST_WRITE_OPENAPI=1 cargo test -p issuer openapi writes it"
        );
    }

    #[test]
    fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
        let document = document();
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in schemas.keys() {
            assert!(text.contains(&format!("#/components/schemas/{name}\"")), "{name} is not used");
        }
        for rest in text.split("#/components/schemas/").skip(1) {
            let name = rest.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "there is no schema {name}");
        }
    }
}
