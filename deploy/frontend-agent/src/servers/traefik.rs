//! Traefik's dynamic configuration, for its file provider: `traefik/certificates.yml`, which it watches. JSON, for YAML is more
//! than that; the same at `/traefik` for its HTTP provider.

use super::{
    Applied, Server, ServerError, View,
    reloader::{Reloader, Wanted},
};
use serde_json::{Value, json};

/// Traefik, with its file in `traefik/`.
pub(crate) struct Traefik;

impl Server for Traefik {
    fn name(&self) -> &'static str {
        "traefik"
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        let wanted = Wanted { file: "certificates.yml", content: document(view).to_string(), empty: "" };
        Reloader::new("traefik", Vec::new(), Vec::new(), 0).apply(
            view.directory,
            &[wanted],
            false,
            |_| Ok(()),
        )
    }
}

/// Every certificate by the paths of its version, so that the document changes when one is renewed: that is what Traefik
/// looks at. In a fixed order.
pub(super) fn document(view: &View<'_>) -> Value {
    let certificate = |(id, served): (&crate::wire::ItemId, super::Served<'_>)| {
        let version = view.version(id, served.live);
        let certificate = version.join("fullchain.pem").display().to_string();
        let key = version.join("privkey.pem").display().to_string();
        json!({ "certFile": certificate, "keyFile": key, "stores": ["default"] })
    };
    let certificates: Vec<Value> = view.served().into_iter().map(certificate).collect();
    json!({ "tls": { "certificates": certificates } })
}
