//! How many requests of one frontend wait for changes at once: an agent needs one.

use super::refusal::Refusal;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// For one frontend.
const MOST: u32 = 8;

/// Those that wait, by the frontend's name.
#[derive(Clone)]
pub(crate) struct Waiting {
    frontends: Arc<Mutex<HashMap<String, u32>>>,
    all: Gauge,
}

/// Somebody's place among them, until it is dropped.
pub(crate) struct Place<'a> {
    waiting: &'a Waiting,
    name: String,
}

impl Waiting {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let all = Gauge::default();
        registry.register("waiting_frontends", "Requests that ask for changes at present", all.clone());
        Self { frontends: Arc::default(), all }
    }

    /// # Errors
    /// [`Refusal::TooMany`].
    pub(crate) fn enter(&self, name: &str) -> Result<Place<'_>, Refusal> {
        let mut frontends = self.frontends.lock().unwrap_or_else(PoisonError::into_inner);
        let count = frontends.entry(name.to_owned()).or_default();
        if *count >= MOST {
            return Err(Refusal::TooMany);
        }
        *count += 1;
        self.all.inc();
        Ok(Place { waiting: self, name: name.to_owned() })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut frontends = self.waiting.frontends.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.all.dec();
        if let Some(count) = frontends.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                frontends.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frontend_has_so_many_places() {
        let waiting = Waiting::new(&mut Registry::default());
        let mut places: Vec<Place<'_>> =
            (0..MOST).map(|_| waiting.enter("edge-1").unwrap_or_else(|_| panic!())).collect();
        assert!(waiting.enter("edge-1").is_err());
        assert!(waiting.enter("edge-2").is_ok(), "another one is not held up by it");
        places.pop();
        assert!(waiting.enter("edge-1").is_ok());
        drop(places);
        assert!(waiting.frontends.lock().unwrap().is_empty());
    }
}
