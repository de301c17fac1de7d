//! Lookups in Redis, by token and by id.

use std::time::Duration;

use chrono::DateTime;
use futures_util::future::join4;
use redis::{Cmd, cmd};
use tokio::time::timeout;

use super::{
    RedisStore,
    connection::Request,
    keys::{Packed, ShortHash, short_hashes},
    record::{Pointer, Record},
    uses::with_last_use,
};
use crate::{
    customer::{Customer, CustomerData},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::StoreError,
        json::{from_json, to_json},
    },
    token::SessionToken,
};

/// Time a lookup may spend on keeping a session under the current pepper.
const REHASH_TIMEOUT: Duration = Duration::from_millis(100);

/// Time that a key lives on after the last session that it is about.
const SURPLUS_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// A live session.
pub(super) struct LiveSession {
    record: Record,
    /// The value of the key.
    bytes: Vec<u8>,
    /// The place of the token's hash among those that were asked for.
    place: usize,
    customer: Customer,
    /// The time of the last use, in microseconds.
    used_at: Option<i64>,
    /// The end of its overlap if it was just replaced, in microseconds.
    overlap_end: Option<i64>,
}

/// The answer of `find.lua`: the place of the hash, the record, the customer, the last use, and the end of the
/// overlap if the session was just replaced.
type LookupAnswer = (usize, Vec<u8>, Vec<u8>, Option<i64>, Option<i64>);

/// The session that an id leads to, live or not.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) id: Packed,
    pub(super) pointer: Pointer,
}

impl Location {
    /// Returns the session as the member of its customer's set, unless another has taken its place.
    pub(super) fn member(&self) -> Vec<u8> {
        self.pointer.member(&self.id)
    }

    /// Returns `true` if the session was replaced, and is still accepted.
    pub(super) fn is_replaced(&self) -> bool {
        self.pointer.parent() == Some(self.family())
    }

    /// Returns the first session of the family.
    pub(super) fn family(&self) -> &Packed {
        self.pointer.family(&self.id)
    }
}

/// Returns the time in milliseconds until keys about a session that ends at `end` may expire. By this
/// machine's clock, as the end is: the server's may be another.
pub(super) fn life(end_micros: i64) -> i64 {
    let now = chrono::Utc::now().timestamp_micros();
    let left = end_micros.saturating_sub(now).max(0) / 1000;
    left + i64::try_from(SURPLUS_LIFE.as_millis()).unwrap_or(0)
}

impl RedisStore {
    /// Finds the session that `token` opens.
    pub(super) async fn find_session(
        &self,
        token: &SessionToken,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.ready().await?;
        let hashes = short_hashes(&self.peppers, token);
        let Some(found) = self.find_by(&hashes, "looking up a session").await? else {
            return Ok(None);
        };
        if found.place > 0 {
            // If this fails, the next lookup tries again.
            let rehash = self.rehash(&found, &hashes);
            let _ = timeout(REHASH_TIMEOUT, rehash).await;
        }
        let summary = with_last_use(found.record.summary()?, found.used_at)?;
        let summary = with_overlap(summary, found.overlap_end)?;
        Ok(Some(summary.into_session(token.clone(), found.customer)))
    }

    /// Finds a live session by the hashes of its token.
    pub(super) async fn find_by(
        &self,
        hashes: &[ShortHash],
        context: &str,
    ) -> Result<Option<LiveSession>, StoreError> {
        let found = match self.connection.is_cluster() {
            true => self.find_on_cluster(hashes, context).await?,
            false => {
                let mut find = self.scripts.find.key(self.keys.prefix());
                for hash in hashes {
                    find.arg(hash);
                }
                self.read(Request::Script(&find), context).await?
            }
        };
        let Some((place, bytes, customer, used_at, overlap_end)): Option<LookupAnswer> = found
        else {
            return Ok(None);
        };
        let corrupt = || StoreError::corrupt(format!("{context}: its record is corrupt"));
        let record = Record::from_bytes(&bytes).ok_or_else(corrupt)?;
        Ok(Some(LiveSession {
            customer: read_customer(&record, &customer)?,
            place: place.saturating_sub(1),
            record,
            bytes,
            used_at,
            overlap_end,
        }))
    }

    /// Finds what `find.lua` does, in two steps: a cluster's scripts see the keys of one slot.
    async fn find_on_cluster(
        &self,
        hashes: &[ShortHash],
        context: &str,
    ) -> Result<Option<LookupAnswer>, StoreError> {
        for (hash, place) in hashes.iter().zip(1..) {
            let mut bytes = self.get(self.keys.token(hash), context).await?;
            while let Some(read) = bytes {
                let found = self.find_by_record(place, &read, context).await?;
                if found.is_some() {
                    return Ok(found);
                }
                // It may have been rewritten between the two steps, as by a rotation that overlaps.
                bytes = self.get(self.keys.token(hash), context).await?;
                bytes = bytes.filter(|bytes| *bytes != read);
            }
        }
        Ok(None)
    }

    /// Finds the live session of a record.
    async fn find_by_record(
        &self,
        place: usize,
        bytes: &[u8],
        context: &str,
    ) -> Result<Option<LookupAnswer>, StoreError> {
        let corrupt = || StoreError::corrupt(format!("{context}: its record is corrupt"));
        let record = Record::from_bytes(bytes).ok_or_else(corrupt)?;
        let mut found = self.scripts.found.key(self.keys.customer(&record.customer));
        found.key(self.keys.sessions(&record.customer));
        found.arg(record.member());
        let found = self.read::<Option<(Vec<u8>, _)>>(Request::Script(&found), context);
        // By a command of its own: while a slot moves, the key of a script must be there.
        let used_at = self.last_use(&record, context);
        let epoch = self.get(self.keys.epoch(record.customer.shard()), context);
        // A failover may have lost what the session is revoked by.
        let pointer = self.get(self.keys.id(&record.id), context);
        let (found, epoch, pointer, used_at) = join4(found, epoch, pointer, used_at).await;
        let (found, epoch, pointer, used_at) = (found?, epoch?, pointer?, used_at?);
        let pointer = pointer.as_deref().and_then(Pointer::from_bytes);
        if !pointer.is_some_and(|pointer| pointer.leads_to(&record)) {
            return Ok(None);
        }
        if let Some((customer, overlap_end)) = found
            && epoch.is_some()
            && customer.get(1..9) == epoch.as_deref()
        {
            return Ok(Some((
                place,
                bytes.to_vec(),
                customer,
                used_at,
                overlap_end,
            )));
        }
        Ok(None)
    }

    /// Reads the value of a key.
    pub(super) async fn get(
        &self,
        key: Vec<u8>,
        context: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut get = cmd("GET");
        get.arg(key);
        self.read(Request::Command(&get), context).await
    }

    /// Deletes a key. If this fails, it expires.
    pub(super) async fn delete(&self, key: Vec<u8>, context: &str) {
        let delete = Cmd::unlink(key);
        let _: Result<u64, _> = self.send(Request::Command(&delete), context).await;
    }

    /// Finds the session and the family that an id leads to.
    pub(super) async fn locate(
        &self,
        id: &SessionId,
        context: &str,
    ) -> Result<Option<Location>, StoreError> {
        let id = Packed::from(id);
        let Some(pointer) = self.get(self.keys.id(&id), context).await? else {
            return Ok(None);
        };
        let corrupt = || StoreError::corrupt(format!("{context}: a key `i:` leads nowhere"));
        let pointer = Pointer::from_bytes(&pointer).ok_or_else(corrupt)?;
        Ok(Some(Location { id, pointer }))
    }

    /// Reads the record of the session that a token opens, live or not.
    pub(super) async fn record(
        &self,
        hash: &ShortHash,
        context: &str,
    ) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = self.get(self.keys.token(hash), context).await? else {
            return Ok(None);
        };
        let corrupt = || StoreError::corrupt(format!("{context}: its record is corrupt"));
        Record::from_bytes(&bytes).ok_or_else(corrupt).map(Some)
    }

    /// Keeps a session under the hash of the current pepper. Announces nothing: no session ends.
    async fn rehash(&self, found: &LiveSession, hashes: &[ShortHash]) -> Result<(), StoreError> {
        let context = "keeping a session under the current pepper";
        let (new, old) = (&hashes[0], &hashes[found.place]);
        let mut claim = self.scripts.claim.key(self.keys.token(new));
        claim.arg(&found.bytes).arg(life(found.record.expires_at()));
        let there: Option<Vec<u8>> = self.send(Request::Script(&claim), context).await?;
        // An earlier attempt may have written what the session was before it was replaced. Only that is older.
        if let Some(there) = there.filter(|there| *there != found.bytes) {
            let is_older =
                |there: Record| there.id == found.record.id && found.record.is_replaced();
            let key = self.keys.token(new);
            let life = Some(life(found.record.expires_at()));
            if !Record::from_bytes(&there).is_some_and(is_older)
                || !self.swap(key, &there, &found.bytes, life, context).await?
            {
                return Ok(());
            }
        }
        let pointers = [old, new].map(|hash| Pointer::new(&found.record, *hash).to_bytes());
        let key = self.keys.id(&found.record.id);
        if self
            .swap(key, &pointers[0], &pointers[1], None, context)
            .await?
        {
            self.delete(self.keys.token(old), context).await;
        }
        Ok(())
    }

    /// Deletes a key if its value is `old`.
    pub(super) async fn delete_if(
        &self,
        key: Vec<u8>,
        old: &[u8],
        context: &str,
    ) -> Result<(), StoreError> {
        self.swap(key, old, b"", None, context).await.map(drop)
    }

    /// Replaces the value of a key, or deletes the key if the new one is empty. Its life stays as it is, unless
    /// one is given. Returns `false` if the value is not `old`.
    pub(super) async fn swap(
        &self,
        key: Vec<u8>,
        old: &[u8],
        new: &[u8],
        life: Option<i64>,
        context: &str,
    ) -> Result<bool, StoreError> {
        let mut swap = self.scripts.swap.key(key);
        let life = life.map(|life| life.to_string()).unwrap_or_default();
        swap.arg(old).arg(new).arg(life);
        let swapped: u64 = self.send(Request::Script(&swap), context).await?;
        Ok(swapped > 0)
    }
}

/// Marks a session as replaced, and gives it the end of its overlap.
fn with_overlap(
    mut summary: SessionSummary,
    until: Option<i64>,
) -> Result<SessionSummary, StoreError> {
    if let Some(until) = until {
        let until = DateTime::from_timestamp_micros(until);
        let corrupt =
            || StoreError::corrupt(format!("session {}: its score is corrupt", summary.id));
        summary.expires_at = summary.expires_at.min(until.ok_or_else(corrupt)?);
        summary.details.ends_at = Some(summary.expires_at);
        summary.details.is_replaced = true;
    }
    Ok(summary)
}

/// Reads the customer of a session: a byte for the kind, the epoch, and JSON.
fn read_customer(record: &Record, value: &[u8]) -> Result<Customer, StoreError> {
    let corrupt = |why: &str| {
        let session = record.id.text();
        StoreError::corrupt(format!("session {session}: its customer is corrupt: {why}"))
    };
    let json = value.get(9..).ok_or_else(|| corrupt("it is cut short"))?;
    let json = std::str::from_utf8(json).map_err(|_| corrupt("it is not UTF-8"))?;
    read_json(&record.customer, json).map_err(|why| corrupt(&why))
}

/// Writes a customer as JSON, without the id, and without what a new customer has: each session may have
/// one.
pub(super) fn write_json(customer: &Customer) -> Result<String, StoreError> {
    let fields = |customer: &Customer| serde_json::to_value(customer).map_err(StoreError::corrupt);
    let mut written = fields(customer)?;
    let default = fields(&CustomerData::new("", "").into())?;
    if let Some(written) = written.as_object_mut() {
        written.remove("id");
        let is_needed = |name: &str| matches!(name, "organization_id" | "created_at");
        written.retain(|name, value| is_needed(name) || default.get(name) != Some(value));
    }
    to_json(&written)
}

/// Reads what [`write_json`] has written. The error says where it is corrupt, never what stands there.
pub(super) fn read_json(id: &Packed, json: &str) -> Result<Customer, String> {
    let not_written = || "it is not a JSON object".to_owned();
    let fields = json.strip_prefix('{').ok_or_else(not_written)?;
    let separator = if fields.starts_with('}') { "" } else { "," };
    let id = serde_json::to_string(&id.text()).map_err(|_| not_written())?;
    from_json(&format!("{{\"id\":{id}{separator}{fields}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::customer::CustomerId;

    #[test]
    fn a_customer_is_read_as_it_was_written() {
        let mut data = CustomerData::new("cus_1", "org_1");
        let id = Packed::from(&CustomerId::from("cus_1"));
        data.metadata =
            serde_json::from_str(r#"{"big": 18446744073709551615, "pi": 3.141592653589793}"#)
                .expect("metadata");
        data.name = Some("null".to_owned());
        let customer = Customer::from(data);
        let json = write_json(&customer).expect("JSON");
        assert!(!json.contains("null,") && !json.contains("cus_1"), "{json}");
        assert!(!json.contains("email_verified"), "{json}");
        assert_eq!(read_json(&id, &json), Ok(customer));
        for damaged in ["", "{", "{}", "[]", r#"{"organization_id": 1}"#] {
            let why = read_json(&id, damaged).expect_err(damaged);
            assert!(!why.contains('{'), "{why}");
        }
    }
}
