//! Brakes that are on, all in one small hash: read before each order.

use super::{Damage, Listing, Store, StoreError, keys};
use crate::domain::{Brake, BrakeScope, Braked};
use jiff::Timestamp;
use redis::cmd;

impl Store {
    /// The brakes that are on, for whoever is to heed them.
    ///
    /// # Errors
    /// [`StoreError`]. Where it isn't known whether a brake is on, nothing is ordered.
    pub async fn load_brakes(&self) -> Result<Vec<Brake>, StoreError> {
        let Listing { found, damaged } = self.list_brakes().await?;
        match damaged.into_iter().find(|damage| damage.key == keys::BRAKES) {
            Some(damage) => Err(StoreError::corrupt(damage.key, damage.what)),
            None => Ok(found),
        }
    }

    /// The brakes that are on. One whose record can't be read is on, as its field says.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_brakes(&self) -> Result<Listing<Brake>, StoreError> {
        let Listing { found: fields, damaged } = self.read_hash(keys::BRAKES).await?;
        let mut brakes = Listing { found: Vec::new(), damaged: Vec::new() };
        for (field, record) in fields {
            match serde_json::from_str(&record) {
                Ok(brake) => brakes.found.push(brake),
                Err(error) => {
                    brakes.damaged.push(Damage::of_member(keys::BRAKES, &field, error));
                    brakes.found.extend(of_field(&field));
                }
            }
        }
        for damage in damaged {
            let field = damage.key.strip_prefix(keys::BRAKES).unwrap_or_default().trim_start().to_owned();
            brakes.found.extend(of_field(&field));
            brakes.damaged.push(damage);
        }
        Ok(brakes)
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn set_brake(&self, brake: &Brake) -> Result<(), StoreError> {
        let record = serde_json::to_string(brake).map_err(|e| StoreError::corrupt(keys::BRAKES, e))?;
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("HSET").arg(keys::BRAKES).arg(format!("{}:{}", brake.what, brake.scope)).arg(record);
        self.confirmed.write(pipeline).await.map(drop)
    }

    /// `false` where it was not on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_brake(&self, what: Braked, scope: &BrakeScope) -> Result<bool, StoreError> {
        let removed: u64 =
            self.link.query(cmd("HDEL").arg(keys::BRAKES).arg(format!("{what}:{scope}"))).await?;
        Ok(removed > 0)
    }
}

/// What a field says that stands for a brake: `WHAT:SCOPE`.
fn of_field(field: &str) -> Option<Brake> {
    let (what, scope) = field.split_once(':')?;
    let what = match what {
        "issuance" => Braked::Issuance,
        "publication" => Braked::Publication,
        _ => return None,
    };
    let reason = "its record can't be read; `issuer resume` ends it".to_owned();
    Some(Brake { what, scope: scope.parse().ok()?, since: Timestamp::UNIX_EPOCH, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brake_whose_record_cannot_be_read_is_on_as_its_field_says() {
        for (field, scope) in [
            ("issuance:all", BrakeScope::All),
            ("issuance:ca:le", BrakeScope::Ca("le".to_owned())),
            ("issuance:tag:gold", BrakeScope::Tag("gold".to_owned())),
        ] {
            let brake = of_field(field).unwrap();
            assert_eq!((brake.what, brake.scope), (Braked::Issuance, scope), "{field}");
        }
        assert_eq!(of_field("publication:all").map(|brake| brake.what), Some(Braked::Publication));
        for field in ["", "issuance", "issuance:", "everything:all", "issuance:elsewhere:x"] {
            assert_eq!(of_field(field), None, "{field}");
        }
    }
}
