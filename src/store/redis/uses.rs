//! Uses of sessions that Redis records.

use std::collections::HashMap;

use chrono::DateTime;
use futures_util::{StreamExt as _, stream};
use redis::cmd;

use super::{
    RedisStore,
    connection::{Failure, Request},
    keys::Packed,
    record::{Pointer, Record, read_member},
};
use crate::{registry::SessionUse, session::SessionSummary, store::error::StoreError};

/// Uses whose sessions are looked up at once.
const BATCH: usize = 500;

/// Uses of one customer that a script records.
const MAX_IN_SCRIPT: usize = 100;

/// Scripts that are sent at once.
const MAX_CONCURRENT_SCRIPTS: usize = 32;

const CONTEXT: &str = "recording uses of sessions";

/// Members of a customer's set, each with the time of a use in microseconds.
type Uses = Vec<(Vec<u8>, i64)>;

impl RedisStore {
    /// Records when sessions were last used.
    pub(super) async fn record_uses(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        self.ready().await?;
        let mut first_error = None;
        for batch in uses.chunks(BATCH) {
            let by_customer = self.uses_by_customer(batch).await?;
            let parts = by_customer.iter().flat_map(|(customer, uses)| {
                let parts = uses.chunks(MAX_IN_SCRIPT);
                parts.map(move |part| (customer, part))
            });
            let scripts: Vec<_> = parts
                .map(|(customer, part)| self.record_uses_of(customer, part))
                .collect();
            let mut scripts = stream::iter(scripts).buffer_unordered(MAX_CONCURRENT_SCRIPTS);
            while let Some(recorded) = scripts.next().await {
                match recorded {
                    Ok(()) => {}
                    Err(failure) if failure.is_of_connection => return Err(failure.error),
                    // One slot of a cluster may be moving, or without a primary. The others go on.
                    Err(failure) => _ = first_error.get_or_insert(failure.error),
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Returns the uses of sessions that are known, of each customer.
    async fn uses_by_customer(
        &self,
        uses: &[SessionUse],
    ) -> Result<HashMap<Packed, Uses>, StoreError> {
        let ids: Vec<_> = uses
            .iter()
            .map(|used| Packed::from(&used.session))
            .collect();
        let keys: Vec<_> = ids.iter().map(|id| self.keys.id(id)).collect();
        let pointers = self.get_many(&keys, CONTEXT).await?;
        let mut by_customer: HashMap<_, Uses> = HashMap::new();
        for ((used, id), pointer) in uses.iter().zip(&ids).zip(pointers) {
            // A damaged one leads to no session.
            if let Some(pointer) = pointer.as_deref().and_then(Pointer::from_bytes) {
                let member = pointer.member(id);
                let uses = by_customer.entry(pointer.customer).or_default();
                uses.push((member, used.at.timestamp_micros()));
            }
        }
        Ok(by_customer)
    }

    async fn record_uses_of(
        &self,
        customer: &Packed,
        uses: &[(Vec<u8>, i64)],
    ) -> Result<(), Failure> {
        let mut touch = self.scripts.touch.key(self.keys.sessions(customer));
        touch.key(self.keys.uses(customer));
        for (member, micros) in uses {
            touch.arg(member).arg(*micros);
        }
        let _: u64 = self.try_send(Request::Script(&touch), CONTEXT).await?;
        Ok(())
    }

    /// Reads the last use of a session, in microseconds.
    pub(super) async fn last_use(
        &self,
        record: &Record,
        context: &str,
    ) -> Result<Option<i64>, StoreError> {
        let mut get = cmd("HGET");
        get.arg(self.keys.uses(&record.customer))
            .arg(record.id.as_bytes());
        self.read(Request::Command(&get), context).await
    }

    /// Reads the last uses of members of a customer's set, by their ids.
    pub(super) async fn last_uses(
        &self,
        customer: &Packed,
        members: &[Vec<u8>],
        context: &str,
    ) -> Result<HashMap<Packed, i64>, StoreError> {
        let ids = members.iter().filter_map(|member| read_member(member));
        let ids: Vec<_> = ids.map(|(id, _)| id).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut get = cmd("HMGET");
        get.arg(self.keys.uses(customer));
        for id in &ids {
            get.arg(id.as_bytes());
        }
        let uses: Vec<Option<i64>> = self.read(Request::Command(&get), context).await?;
        let uses = ids.into_iter().zip(uses);
        Ok(uses.filter_map(|(id, used)| Some((id, used?))).collect())
    }
}

/// Adds the last use to what is kept of a session.
///
/// # Errors
///
/// [`Corrupt`](crate::StoreErrorKind::Corrupt) if the time is out of range.
pub(super) fn with_last_use(
    mut summary: SessionSummary,
    micros: Option<i64>,
) -> Result<SessionSummary, StoreError> {
    if let Some(micros) = micros {
        let used_at = DateTime::from_timestamp_micros(micros);
        let corrupt = || {
            let id = &summary.id;
            StoreError::corrupt(format!("session {id}: the time of its last use is corrupt"))
        };
        summary.details.last_used_at = Some(used_at.ok_or_else(corrupt)?);
    }
    Ok(summary)
}
