//! Open orders: one for each lineage at most. A step replaces exactly the record that was read before.

use super::{
    Cut, Lease, Store, StoreError, certificate_record::CertificateRecord, chains::ChainId, keys, scripts,
};
use crate::domain::{Certificate, Order, OrderState, SiteId, Slot};
use redis::cmd;

/// How often a leaf is packed before its order is left for the next run.
const MOST_PACKINGS: usize = 3;

/// An order as it was read or written last, with the text it is stored as.
#[derive(Clone, Debug)]
pub struct StoredOrder {
    pub order: Order,
    raw: String,
}

impl Store {
    /// # Errors
    /// [`StoreError`]; no open order is `None`.
    pub async fn load_order(&self, site: &SiteId, slot: Slot) -> Result<Option<StoredOrder>, StoreError> {
        let key = keys::order(site, slot);
        let raw: Option<String> = self.link.query(cmd("GET").arg(&key)).await?;
        let Some(raw) = raw else { return Ok(None) };
        let order: Order = serde_json::from_str(&raw).map_err(|e| StoreError::corrupt(key, e))?;
        if order.v > Order::VERSION {
            return Err(StoreError::NewerSchema { found: order.v, known: Order::VERSION });
        }
        Ok(Some(StoredOrder { order, raw }))
    }

    /// Whether the group has an open order in any of its slots.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_open_order(&self, site: &SiteId) -> Result<bool, StoreError> {
        let orders = Slot::ALL.map(|slot| keys::order(site, slot));
        let found: u64 = self.link.query(cmd("EXISTS").arg(&orders)).await?;
        Ok(found > 0)
    }

    /// Begins an order. There must be no open one.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Conflict`], or that it could not be confirmed.
    pub async fn begin_order(&self, lease: &Lease, order: Order) -> Result<StoredOrder, StoreError> {
        self.replace_order(lease, order.slot(), "", order).await
    }

    /// Writes the next step of an order.
    ///
    /// # Errors
    /// As [`Store::begin_order`]. Nothing that relies on the step may be done.
    pub async fn advance_order(
        &self,
        lease: &Lease,
        from: &StoredOrder,
        to: impl Into<OrderState> + Send,
    ) -> Result<StoredOrder, StoreError> {
        self.replace_order(lease, from.order.slot(), &from.raw, from.order.with(to)).await
    }

    /// Writes an order anew, in whatever is different of it.
    ///
    /// # Errors
    /// As [`Store::begin_order`].
    pub async fn rewrite_order(
        &self,
        lease: &Lease,
        from: &StoredOrder,
        to: Order,
    ) -> Result<StoredOrder, StoreError> {
        self.replace_order(lease, from.order.slot(), &from.raw, to).await
    }

    /// Stores a certificate, and the order's step to `Stored`, at once.
    ///
    /// # Errors
    /// As [`Store::begin_order`].
    pub async fn store_certificate(
        &self,
        lease: &Lease,
        from: &StoredOrder,
        certificate: &Certificate,
        to: impl Into<OrderState> + Send,
    ) -> Result<StoredOrder, StoreError> {
        let order = from.order.with(to);
        let raw = to_text(lease, &order)?;
        self.store_chain(&certificate.chain_pem).await?;
        let (site, chain) = (&lease.site, ChainId::of(&certificate.chain_pem));
        let touched = [
            keys::site(site),
            keys::order(site, order.slot()),
            keys::certificate(site, &certificate.id()),
            keys::template(site.partition(), &chain.to_hex()),
        ];
        // The first of a chain is packed against itself, so that the others can be.
        for _ in 0..MOST_PACKINGS {
            let known = self.load_template(site.partition(), chain).await?;
            let template = known.as_deref().unwrap_or(&certificate.leaf_der);
            let record = CertificateRecord::pack(certificate, template).map_err(|e| e.of("certificate"))?;
            let arguments = [lease.token.as_bytes(), from.raw.as_bytes(), raw.as_bytes(), &record, template];
            let stored: i64 =
                self.confirmed.script(&scripts::STORE_CERTIFICATE, &touched, &arguments).await?;
            if stored == 1 {
                return Ok(StoredOrder { order, raw });
            }
            // Somebody else's was first, or a failover has brought another one.
            self.forget_template(site.partition(), chain);
        }
        Err(StoreError::Conflict)
    }

    /// Ends an order that brings no certificate. Names that spoilt it are remembered with the same stroke.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn end_order(&self, lease: &Lease, slot: Slot, cut: Option<&Cut>) -> Result<(), StoreError> {
        let cut = cut.map(serde_json::to_vec).transpose().map_err(|e| StoreError::corrupt("cut", e))?;
        let mut arguments = vec![lease.token.as_bytes()];
        if let Some(cut) = &cut {
            arguments.extend([b"cut".as_slice(), cut]);
        }
        self.confirmed
            .script(
                &scripts::FAIL_ORDER,
                &[keys::site(&lease.site), keys::order(&lease.site, slot)],
                &arguments,
            )
            .await
    }

    async fn replace_order(
        &self,
        lease: &Lease,
        slot: Slot,
        from: &str,
        order: Order,
    ) -> Result<StoredOrder, StoreError> {
        let raw = to_text(lease, &order)?;
        self.confirmed
            .script::<i64>(
                &scripts::WRITE_ORDER,
                &[keys::site(&lease.site), keys::order(&lease.site, slot)],
                &[lease.token.as_bytes(), from.as_bytes(), raw.as_bytes()],
            )
            .await?;
        Ok(StoredOrder { order, raw })
    }
}

fn to_text(lease: &Lease, order: &Order) -> Result<String, StoreError> {
    serde_json::to_string(order).map_err(|e| StoreError::corrupt(keys::order(&lease.site, order.slot()), e))
}
