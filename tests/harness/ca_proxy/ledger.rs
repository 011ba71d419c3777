//! What went through the proxy: counters, and every request laid to the order it was made for.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use serde_json::Value;

use super::{
    endpoint::{Counts, Endpoint},
    jws::Signed,
};

/// One order that the CA made.
#[derive(Debug, Clone)]
pub struct OrderRecord {
    /// As the client saw it.
    pub url: String,
    /// The account that made it.
    pub account: String,
    /// Sorted.
    pub names: Vec<String>,
    /// Every request made for it: with the newNonce whose nonce it used, and newOrder requests that were refused before.
    pub requests: Counts,
    /// How often a finalize request was accepted: the certificates that the CA has issued for it, at most one.
    pub finalized: u64,
    /// The key in the accepted CSR, such as `ecdsa-p256`.
    pub key_type: Option<String>,
    /// How often newOrder answered with this order (more than once only with `same_open_order`).
    pub answered: u64,
    /// The last status seen.
    pub status: String,
}

/// One request, in the order of arrival.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// Milliseconds since the proxy started or was reset.
    pub at_ms: u64,
    pub endpoint: Endpoint,
    pub path: String,
    /// Index into the orders.
    pub order: Option<usize>,
    /// The status that the CA gave; `None` when it wasn't asked or hasn't answered.
    pub ca_status: Option<u16>,
}

pub(super) struct Ledger {
    started: Instant,
    totals: Counts,
    orders: Vec<OrderRecord>,
    log: Vec<LogLine>,
    /// Which order a resource belongs to, by path.
    by_path: HashMap<String, usize>,
    /// newOrder requests that made no order, by their names: they count for the order made at last.
    unplaced: HashMap<Vec<String>, Counts>,
    /// Nonces that a newNonce gave and nobody has used yet.
    fetched_nonces: HashSet<String>,
    /// Orders that a newOrder for the same account and names returns again, with the body to answer.
    open: HashMap<(String, Vec<String>), (usize, Value)>,
    authorization_status: HashMap<String, String>,
}

/// A request that has been counted.
pub(super) struct Entry {
    pub(super) names: Vec<String>,
    line: usize,
    generation: Instant,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            totals: Counts::default(),
            orders: Vec::new(),
            log: Vec::new(),
            by_path: HashMap::new(),
            unplaced: HashMap::new(),
            fetched_nonces: HashSet::new(),
            open: HashMap::new(),
            authorization_status: HashMap::new(),
        }
    }

    pub(super) fn totals(&self) -> &Counts {
        &self.totals
    }

    pub(super) fn orders(&self) -> &[OrderRecord] {
        &self.orders
    }

    pub(super) fn log(&self) -> &[LogLine] {
        &self.log
    }

    /// Counts a request before anything is done with it.
    pub(super) fn request(&mut self, endpoint: Endpoint, path: &str, signed: &Signed) -> Entry {
        let order = self.by_path.get(path).copied();
        let names = match order {
            Some(order) => self.orders[order].names.clone(),
            None if endpoint == Endpoint::NewOrder => signed.identifiers(),
            None => Vec::new(),
        };
        self.totals.add(endpoint);
        let fetched = signed.nonce.as_ref().is_some_and(|nonce| self.fetched_nonces.remove(nonce));
        let account = match order {
            Some(order) => Some(&mut self.orders[order].requests),
            None if endpoint == Endpoint::NewOrder => Some(self.unplaced.entry(names.clone()).or_default()),
            None => None,
        };
        if let Some(counts) = account {
            counts.add(endpoint);
            if fetched {
                counts.add(Endpoint::NewNonce);
            }
        }
        let at_ms = u64::try_from(self.started.elapsed().as_millis()).expect("a test doesn't run for ages");
        self.log.push(LogLine { at_ms, endpoint, path: path.to_owned(), order, ca_status: None });
        Entry { names, line: self.log.len() - 1, generation: self.started }
    }

    /// The open order for these names, as Boulder would return it instead of a second one.
    pub(super) fn open_order(&mut self, signed: &Signed, names: &[String]) -> Option<(String, Value)> {
        let account = signed.kid.clone()?;
        let (index, body) = self.open.get(&(account, names.to_vec()))?;
        let order = &mut self.orders[*index];
        order.answered += 1;
        if let Some(refused) = self.unplaced.remove(names) {
            order.requests.merge(&refused);
        }
        let mut body = body.clone();
        let mut authorizations = body["authorizations"].as_array().into_iter().flatten();
        let valid = |url: &Value| {
            url.as_str()
                .and_then(|url| self.authorization_status.get(path_of(url)))
                .is_some_and(|s| s == "valid")
        };
        if body["status"] == "pending" && authorizations.all(valid) {
            body["status"] = "ready".into();
        }
        Some((order.url.clone(), body))
    }

    /// Notes a nonce that a newNonce gave.
    pub(super) fn nonce_fetched(&mut self, nonce: &str) {
        self.fetched_nonces.insert(nonce.to_owned());
    }

    /// Notes what the CA answered.
    pub(super) fn answered(
        &mut self,
        entry: &Entry,
        signed: &Signed,
        status: u16,
        location: Option<&str>,
        body: &Value,
    ) {
        if entry.generation != self.started {
            return; // reset in between
        }
        let line = &mut self.log[entry.line];
        line.ca_status = Some(status);
        let (endpoint, order, path) = (line.endpoint, line.order, line.path.clone());
        if !(200..300).contains(&status) {
            return;
        }
        match (endpoint, order) {
            (Endpoint::NewOrder, _) => {
                let Some(url) = location else { return };
                self.order_made(entry, signed, url, body);
            }
            (Endpoint::Authorization, Some(order)) => {
                for challenge in body["challenges"].as_array().into_iter().flatten() {
                    self.belongs(&challenge["url"], order);
                }
                self.authorization_seen(order, &path, body);
            }
            (Endpoint::Order | Endpoint::Finalize, Some(order)) => {
                if endpoint == Endpoint::Finalize {
                    let record = &mut self.orders[order];
                    record.finalized += 1;
                    record.key_type = signed.csr_key_type();
                }
                self.order_seen(order, body);
            }
            _ => {}
        }
    }

    fn order_made(&mut self, entry: &Entry, signed: &Signed, url: &str, body: &Value) {
        let index = self.orders.len();
        let account = signed.kid.clone().unwrap_or_default();
        let mut requests = Counts::default();
        if let Some(counts) = self.unplaced.remove(&entry.names) {
            requests.merge(&counts);
        }
        self.log[entry.line].order = Some(index);
        self.orders.push(OrderRecord {
            url: url.to_owned(),
            account: account.clone(),
            names: entry.names.clone(),
            requests,
            finalized: 0,
            key_type: None,
            answered: 1,
            status: String::new(),
        });
        self.by_path.insert(path_of(url).to_owned(), index);
        self.belongs(&body["finalize"], index);
        for authorization in body["authorizations"].as_array().into_iter().flatten() {
            // An authorization that several orders share counts for the newest.
            self.belongs(authorization, index);
        }
        self.open.insert((account, entry.names.clone()), (index, body.clone()));
        self.order_seen(index, body);
    }

    fn order_seen(&mut self, index: usize, body: &Value) {
        self.belongs(&body["certificate"], index);
        let Some(status) = body["status"].as_str() else { return };
        let record = &mut self.orders[index];
        status.clone_into(&mut record.status);
        let key = (record.account.clone(), record.names.clone());
        if matches!(status, "pending" | "ready") {
            if let Some((open, kept)) = self.open.get_mut(&key)
                && *open == index
            {
                kept.clone_from(body);
            }
        } else {
            self.close(&key, index);
        }
    }

    fn authorization_seen(&mut self, order: usize, path: &str, body: &Value) {
        let Some(status) = body["status"].as_str() else { return };
        if !matches!(status, "pending" | "valid") {
            let key = (self.orders[order].account.clone(), self.orders[order].names.clone());
            self.close(&key, order);
        }
        self.authorization_status.insert(path.to_owned(), status.to_owned());
    }

    fn close(&mut self, key: &(String, Vec<String>), index: usize) {
        if self.open.get(key).is_some_and(|(open, _)| *open == index) {
            self.open.remove(key);
        }
    }

    fn belongs(&mut self, url: &Value, order: usize) {
        if let Some(url) = url.as_str() {
            self.by_path.insert(path_of(url).to_owned(), order);
        }
    }
}

/// The path of an absolute URL.
fn path_of(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(url, |at| &url[at + 3..]);
    after_scheme.find('/').map_or("/", |at| &after_scheme[at..])
}
