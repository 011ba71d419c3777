//! The right to work on a site: one holder at a time, for a time, with a token that every write is checked against.

use super::{
    Store, StoreError, WantedSite,
    declared::{indexes, queues, wait_ms},
    keys, schedule, scripts,
};
use crate::{
    digest::hex,
    domain::{Class, Place, Site, SiteId},
};
use jiff::Timestamp;
use std::{fmt, time::Duration};

/// A lease that was acquired. It is not renewed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub site: SiteId,
    pub(super) token: String,
    pub length: Duration,
}

/// One attempt to get a lease. Asked for again with the same attempt, a lease whose answer was lost is not waited for.
#[derive(Clone, Debug)]
pub struct LeaseAttempt {
    pub(super) owner: String,
    pub(super) random: String,
}

/// Who holds a lease: enough to know, on the same machine, whether the holder still lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    host: String,
    boot: String,
    namespace: String,
    pid: u32,
    started: String,
}

/// The answer to asking for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    Acquired(Lease),
    /// Somebody else works on the site, for at most `remaining` more unless it is renewed.
    Held {
        owner: String,
        remaining: Duration,
    },
}

impl Owner {
    /// This process.
    pub fn this_process() -> Self {
        let read =
            |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let namespace = std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string());
        let pid = std::process::id();
        Self {
            host: read("/proc/sys/kernel/hostname").replace('/', "_"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            namespace: namespace.unwrap_or_default(),
            pid,
            started: start_of(pid).unwrap_or_default(),
        }
    }

    /// An attempt of this process to get a lease.
    pub fn attempt(&self) -> LeaseAttempt {
        LeaseAttempt { owner: self.to_string(), random: random() }
    }

    /// Whether `holder` was a process that this one could see, and that has ended. When in doubt, no.
    pub(super) fn knows_dead(&self, holder: &str) -> bool {
        let parts: Vec<&str> = holder.split('/').collect();
        let [_, boot, namespace, pid, started] = parts[..] else { return false };
        if boot.is_empty() || boot != self.boot || namespace != self.namespace || started.is_empty() {
            return false;
        }
        pid.parse().is_ok_and(|pid| start_of(pid).as_deref() != Some(started))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}/{}", self.host, self.boot, self.namespace, self.pid, self.started)
    }
}

/// When a process started, in ticks since the machine did: with the pid, one of its kind until the next boot.
fn start_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces and parentheses; fields are counted from behind it. A zombie has ended.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18).map(str::to_owned) }
}

impl WantedSite {
    /// Whether somebody has wished for it; `false` where whoever ordered it at once has made it, with its lease.
    pub fn was_wished_for(&self) -> bool {
        self.revision != "0"
    }
}

impl Store {
    /// Asks for the right to work on a site, which is created as `wanted` where it is new. A holder on this machine that
    /// has ended is not waited for.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acquire_lease(
        &self,
        site: &SiteId,
        wanted: &Site,
        owner: &Owner,
        attempt: &LeaseAttempt,
        length: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let mut dead = String::new();
        let place = Place {
            class: Class::New,
            moment: wanted.created,
            deadline: wanted.created,
            urgent_from: None,
            renewal: None,
        };
        let spec = serde_json::to_string(wanted).map_err(|e| StoreError::corrupt("site", e))?;
        loop {
            let (acquired, first, second, remaining_ms): (i64, String, Option<String>, Option<u64>) = {
                let mut touched = vec![keys::site(site), keys::sites(site.partition())];
                touched.extend(queues(site.partition()));
                touched.extend(indexes(site.partition()));
                let answer: Vec<redis::Value> = self
                    .confirmed_whole_script(
                        &scripts::ACQUIRE_LEASE,
                        touched,
                        &[
                            attempt.owner.as_bytes(),
                            length.as_millis().to_string().as_bytes(),
                            attempt.random.as_bytes(),
                            dead.as_bytes(),
                            spec.as_bytes(),
                            site.as_str().as_bytes(),
                            schedule::to_record(&place).as_bytes(),
                        ],
                    )
                    .await?;
                parse_answer(answer)?
            };
            if acquired == 1 {
                return Ok(LeaseAnswer::Acquired(Lease { site: site.clone(), token: first, length }));
            }
            let token = second.unwrap_or_default();
            if dead.is_empty() && owner.knows_dead(&first) {
                dead = token;
                continue;
            }
            let host = first.split('/').next().unwrap_or_default();
            let pid = first.split('/').nth(3).unwrap_or_default();
            return Ok(LeaseAnswer::Held {
                owner: format!("{host}, process {pid}"),
                remaining: Duration::from_millis(remaining_ms.unwrap_or(0)),
            });
        }
    }

    /// # Errors
    /// [`StoreError::Fenced`] when somebody else has it by now.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let length = lease.length.as_millis().to_string();
        let arguments = [lease.token.as_bytes(), length.as_bytes(), lease.site.as_str().as_bytes()];
        let touched = vec![keys::site(&lease.site), keys::due(lease.site.partition())];
        self.whole_script(&scripts::RENEW_LEASE, touched, &arguments).await
    }

    /// Gives the site back without a word of what came of it: it is looked at again at once. A lease that was lost already
    /// is left alone.
    ///
    /// # Errors
    /// [`StoreError`]; the lease then ends by itself.
    pub async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        self.release_lease_until(lease, Timestamp::UNIX_EPOCH).await
    }

    /// Gives the site back as [`Self::release_lease`] does, to be looked at again at a moment.
    ///
    /// # Errors
    /// [`StoreError`]; the lease then ends by itself.
    pub async fn release_lease_until(&self, lease: &Lease, moment: Timestamp) -> Result<(), StoreError> {
        let wait = wait_ms(moment);
        let arguments = [lease.token.as_bytes(), lease.site.as_str().as_bytes(), wait.as_bytes()];
        let mut touched = vec![keys::site(&lease.site)];
        touched.extend(queues(lease.site.partition()));
        self.whole_script(&scripts::RELEASE_LEASE, touched, &arguments).await
    }
}

type Answer = (i64, String, Option<String>, Option<u64>);

fn parse_answer(values: Vec<redis::Value>) -> Result<Answer, StoreError> {
    use redis::FromRedisValue;
    let mut values = values.into_iter();
    let mut next = || values.next().unwrap_or(redis::Value::Nil);
    let corrupt = |e: redis::ParsingError| StoreError::corrupt("lease", e);
    Ok((
        i64::from_redis_value(next()).map_err(corrupt)?,
        String::from_redis_value(next()).map_err(corrupt)?,
        Option::from_redis_value(next()).map_err(corrupt)?,
        Option::from_redis_value(next()).map_err(corrupt)?,
    ))
}

/// What makes an attempt one of its kind.
pub(super) fn random() -> String {
    let mut random = [0; 8];
    openssl::rand::rand_bytes(&mut random)
        .expect("the system's random generator works, or no key could be made");
    hex(&random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ended_process_of_this_machine_is_known_dead() {
        let this = Owner::this_process();
        assert!(!this.knows_dead(&this.to_string()), "this process lives");
        let ended = Owner { started: "1".into(), ..this.clone() };
        assert!(this.knows_dead(&ended.to_string()), "the pid was given to another process");
        for elsewhere in [
            Owner { boot: "other".into(), ..ended.clone() },
            Owner { namespace: "pid:[1]".into(), ..ended.clone() },
            Owner { started: String::new(), ..ended },
        ] {
            assert!(!this.knows_dead(&elsewhere.to_string()));
        }
        assert!(!this.knows_dead("nonsense"));
    }
}
