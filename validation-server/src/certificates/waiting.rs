//! How many requests of one frontend wait for changes at once: an agent needs one.

use super::refusal::Refusal;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// For one frontend.
const MOST: u32 = 8;
/// How many frontends may ask for everything at once in a second.
const RESYNCS_A_SECOND: usize = 50;

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

    /// When one of those that wait is to ask for everything where all of them have to: drawn, seconds from now.
    pub(crate) fn moment_to_resync(&self) -> u64 {
        let waiting = self.frontends.lock().unwrap_or_else(PoisonError::into_inner).len();
        let longest = u32::try_from(waiting / RESYNCS_A_SECOND).unwrap_or(u32::MAX);
        let mut drawn = [0; 4];
        // Without randomness they come together, which is no reason not to answer.
        openssl::rand::rand_bytes(&mut drawn).ok();
        (u32::from_le_bytes(drawn) % longest.saturating_add(1)).into()
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
