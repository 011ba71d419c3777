//! An ACME client of a few lines that stores nothing and shares no code with ours.
//!
//! It speaks for itself in the harness' own tests, and is the floor that issuance benchmarks stand on: nobody who does the
//! same requests and more can be faster. P-256 only, http-01 answered by whoever the CA asks (or a Pebble that asks nobody).

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use openssl::{
    bn::BigNumContext,
    ec::{EcGroup, EcKey},
    ecdsa::EcdsaSig,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    sha::sha256,
    stack::Stack,
    x509::{X509Name, X509Req, extension::SubjectAlternativeName},
};
use serde_json::{Value, json};

const POLL: Duration = Duration::from_millis(2);
const ORDER_LIMIT: Duration = Duration::from_secs(60);
/// Half of all nonces refused: 2^-20 of giving up.
const NONCE_TRIES: u32 = 20;

/// An account at a CA. Clones share it and its nonces.
#[derive(Clone)]
pub struct BareClient(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    key: EcKey<Private>,
    jwk: Value,
    directory: Value,
    account: String,
    nonces: Mutex<Vec<String>>,
}

/// A successful answer of the CA.
#[derive(Debug)]
pub struct Answer {
    pub location: Option<String>,
    pub retry_after: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

impl BareClient {
    /// Fetches the directory and makes an account.
    pub async fn register(directory_url: &str, trusted_roots_file: &Path) -> Result<Self> {
        let root = reqwest::Certificate::from_pem(&std::fs::read(trusted_roots_file)?)?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([root])
            .http1_only()
            .user_agent("bare-acme")
            .timeout(Duration::from_secs(30))
            .build()?;
        let directory = serde_json::from_slice(&http.get(directory_url).send().await?.bytes().await?)?;
        let key = EcKey::generate(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?.as_ref())?;
        let jwk = jwk(&key)?;
        let mut inner =
            Inner { http, key, jwk, directory, account: String::new(), nonces: Mutex::new(Vec::new()) };
        let url = inner.resource("newAccount")?;
        let answer = inner.post(&url, Some(&json!({"termsOfServiceAgreed": true}))).await?;
        inner.account = answer.location.context("newAccount without Location")?;
        Ok(Self(Arc::new(inner)))
    }

    /// What follows the dot in every key authorization of this account (RFC 8555 section 8.1, RFC 7638).
    pub fn thumbprint(&self) -> String {
        let jwk = &self.0.jwk;
        let canonical = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            jwk["x"].as_str().unwrap_or_default(),
            jwk["y"].as_str().unwrap_or_default()
        );
        BASE64_URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()))
    }

    /// Orders one certificate; answers with the chain, PEM.
    pub async fn issue(&self, names: &[&str]) -> Result<String> {
        self.issue_answering(names, |_, _| {}).await
    }

    /// Like [`BareClient::issue`]; `publish` is given token and key authorization of every http-01 challenge.
    pub async fn issue_answering(&self, names: &[&str], publish: impl Fn(&str, &str)) -> Result<String> {
        let (url, order) = self.new_order(names).await?;
        for authorization in order["authorizations"].as_array().context("an order without authorizations")? {
            let authorization = self.0.post_as_get(as_text(authorization)?).await?;
            if authorization["status"] == "valid" {
                continue;
            }
            let challenges = authorization["challenges"].as_array().context("no challenges")?;
            let challenge =
                challenges.iter().find(|c| c["type"] == "http-01").context("no http-01 challenge")?;
            let token = as_text(&challenge["token"])?;
            publish(token, &format!("{token}.{}", self.thumbprint()));
            self.0.post(as_text(&challenge["url"])?, Some(&json!({}))).await?;
        }
        let order = self.poll(&url, "ready").await?;
        let csr = BASE64_URL_SAFE_NO_PAD.encode(csr(names)?);
        self.0.post(as_text(&order["finalize"])?, Some(&json!({"csr": csr}))).await?;
        let order = self.poll(&url, "valid").await?;
        let chain = self.0.post(as_text(&order["certificate"])?, None).await?;
        Ok(String::from_utf8(chain.body)?)
    }

    /// Makes an order and leaves it: its URL and what the CA answered.
    pub async fn new_order(&self, names: &[&str]) -> Result<(String, Value)> {
        let identifiers: Vec<Value> =
            names.iter().map(|name| json!({"type": "dns", "value": name})).collect();
        let url = self.0.resource("newOrder")?;
        let answer = self.0.post(&url, Some(&json!({"identifiers": identifiers}))).await?;
        Ok((answer.location.context("newOrder without Location")?, serde_json::from_slice(&answer.body)?))
    }

    /// POST-as-GET of any resource (RFC 8555 section 6.3).
    pub async fn fetch(&self, url: &str) -> Result<Answer> {
        self.0.post(url, None).await
    }

    async fn poll(&self, order_url: &str, wanted: &str) -> Result<Value> {
        let started = Instant::now();
        loop {
            let order = self.0.post_as_get(order_url).await?;
            match as_text(&order["status"])? {
                status if status == wanted => return Ok(order),
                "invalid" => bail!("order {order_url} became invalid: {order}"),
                _ => ensure!(started.elapsed() < ORDER_LIMIT, "order {order_url} stayed {order}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Inner {
    fn resource(&self, name: &str) -> Result<String> {
        Ok(self.directory[name].as_str().with_context(|| format!("no {name} in the directory"))?.to_owned())
    }

    async fn post_as_get(&self, url: &str) -> Result<Value> {
        self.post(url, None).await?.json()
    }

    async fn post(&self, url: &str, payload: Option<&Value>) -> Result<Answer> {
        for _ in 0..NONCE_TRIES {
            let nonce = self.take_nonce().await?;
            let answer = self
                .http
                .post(url)
                .header("content-type", "application/jose+json")
                .body(self.sign(url, &nonce, payload)?)
                .send()
                .await?;
            let status = answer.status();
            let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            if let Some(nonce) = header("replay-nonce") {
                self.nonces.lock().expect("no panic while held").push(nonce);
            }
            let (location, retry_after) = (header("location"), header("retry-after"));
            let body = answer.bytes().await?.to_vec();
            if status.is_success() {
                return Ok(Answer { location, retry_after, body });
            }
            let text = String::from_utf8_lossy(&body);
            if !text.contains("urn:ietf:params:acme:error:badNonce") {
                bail!("{url}: {status} {text}");
            }
        }
        bail!("{url}: {NONCE_TRIES} nonces refused in a row")
    }

    async fn take_nonce(&self) -> Result<String> {
        if let Some(nonce) = self.nonces.lock().expect("no panic while held").pop() {
            return Ok(nonce);
        }
        let answer = self.http.head(self.resource("newNonce")?).send().await?;
        Ok(answer.headers().get("replay-nonce").context("newNonce without a nonce")?.to_str()?.to_owned())
    }

    fn sign(&self, url: &str, nonce: &str, payload: Option<&Value>) -> Result<String> {
        let mut protected = json!({"alg": "ES256", "nonce": nonce, "url": url});
        if self.account.is_empty() {
            protected["jwk"] = self.jwk.clone();
        } else {
            protected["kid"] = json!(self.account);
        }
        let protected = BASE64_URL_SAFE_NO_PAD.encode(protected.to_string());
        let payload = BASE64_URL_SAFE_NO_PAD.encode(payload.map(Value::to_string).unwrap_or_default());
        let digest = sha256(format!("{protected}.{payload}").as_bytes());
        let signature = EcdsaSig::sign(&digest, &self.key)?;
        let mut raw = signature.r().to_vec_padded(32)?;
        raw.extend(signature.s().to_vec_padded(32)?);
        let signature = BASE64_URL_SAFE_NO_PAD.encode(raw);
        Ok(json!({"protected": protected, "payload": payload, "signature": signature}).to_string())
    }
}

fn jwk(key: &EcKey<Private>) -> Result<Value> {
    let mut context = BigNumContext::new()?;
    let (mut x, mut y) = (openssl::bn::BigNum::new()?, openssl::bn::BigNum::new()?);
    key.public_key().affine_coordinates(key.group(), &mut x, &mut y, &mut context)?;
    Ok(json!({
        "kty": "EC",
        "crv": "P-256",
        "x": BASE64_URL_SAFE_NO_PAD.encode(x.to_vec_padded(32)?),
        "y": BASE64_URL_SAFE_NO_PAD.encode(y.to_vec_padded(32)?),
    }))
}

fn csr(names: &[&str]) -> Result<Vec<u8>> {
    let key = PKey::from_ec_key(EcKey::generate(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?.as_ref())?)?;
    let mut request = X509Req::builder()?;
    request.set_version(0)?;
    request.set_subject_name(X509Name::builder()?.build().as_ref())?;
    request.set_pubkey(&key)?;
    let mut alternatives = SubjectAlternativeName::new();
    for name in names {
        alternatives.dns(name);
    }
    let mut extensions = Stack::new()?;
    extensions.push(alternatives.build(&request.x509v3_context(None))?)?;
    request.add_extensions(&extensions)?;
    request.sign(&key, MessageDigest::sha256())?;
    Ok(request.build().to_der()?)
}

fn as_text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("not a string: {value}"))
}
