//! Removal of what has expired from Redis.

use std::future::ready;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use redis::cmd;

use super::{
    RedisStore,
    claim::minute_of,
    connection::Request,
    keys::{Packed, SHARDS},
    lookup::life,
    record::{Pointer, read_member},
};
use crate::store::error::StoreError;

/// Entries that are read at once.
const BATCH: u64 = 100;

/// Entries that are removed at once. Each waits for several answers, and few keep the server busy.
const MAX_CONCURRENT_REMOVALS: usize = 16;

const CONTEXT: &str = "purging expired sessions";

/// A part of a list of sessions that are due.
struct Due {
    minute: String,
    /// The number of all entries of the list.
    count: u64,
    entries: Vec<Vec<u8>>,
}

impl RedisStore {
    /// Removes at most `limit` sessions that have expired, and then what revocations have left behind.
    pub(super) async fn purge(&self, before: DateTime<Utc>, limit: u64) -> Result<u64, StoreError> {
        self.ready().await?;
        // The clock of this machine may be wrong.
        let (seconds, micros): (i64, i64) =
            self.send(Request::Command(&cmd("TIME")), CONTEXT).await?;
        let now = seconds.saturating_mul(1_000_000).saturating_add(micros);
        let before = before.timestamp_micros().min(now);
        let mut purged = 0;
        for shard in SHARDS {
            purged += self.purge_shard(shard, before, limit - purged).await?;
        }
        for shard in SHARDS {
            purged += self.purge_ended(shard, limit - purged).await?;
        }
        Ok(purged)
    }

    async fn purge_shard(&self, shard: u8, before: i64, limit: u64) -> Result<u64, StoreError> {
        let mut purged = 0;
        let mut done: Option<String> = None;
        // Of the list that is looked at: its name, and the number of entries that were not.
        let mut list: Option<(String, u64)> = None;
        while purged < limit {
            let at_most = list.as_ref().map_or(BATCH, |(_, left)| BATCH.min(*left));
            let Some(due) = self
                .due(shard, before, at_most.min(limit - purged), done.as_deref())
                .await?
            else {
                return Ok(purged);
            };
            let read = due.entries.len() as u64;
            let left = match list.take() {
                Some((minute, left)) if minute == due.minute => left,
                _ => due.count,
            };
            let entries = due.entries.iter();
            let removals = entries.map(|entry| self.purge_entry(shard, &due.minute, entry, before));
            purged += some_at_once(removals.collect()).await?;
            match left.saturating_sub(read) {
                0 => done = Some(due.minute),
                left => list = Some((due.minute, left)),
            }
        }
        Ok(purged)
    }

    /// Reads some entries of the next list that is due, after the list of the minute `done`.
    async fn due(
        &self,
        shard: u8,
        before: i64,
        at_most: u64,
        done: Option<&str>,
    ) -> Result<Option<Due>, StoreError> {
        let from = done.map_or_else(|| "-inf".to_owned(), |done| format!("({done}"));
        let mut next = cmd("ZRANGEBYSCORE");
        next.arg(self.keys.expiry(shard))
            .arg(from)
            .arg(minute_of(before));
        next.arg("LIMIT").arg(0).arg(1);
        let minutes: Vec<String> = self.send(Request::Command(&next), CONTEXT).await?;
        let Some(minute) = minutes.into_iter().next() else {
            return Ok(None);
        };
        let mut due = self.scripts.due.key(self.keys.listed(shard, &minute));
        due.arg(at_most);
        let answer: Vec<Vec<u8>> = self.send(Request::Script(&due), CONTEXT).await?;
        let (count, entries) = answer.split_first().unwrap_or((const { &Vec::new() }, &[]));
        let count = std::str::from_utf8(count)
            .ok()
            .and_then(|count| count.parse().ok());
        let count = count.unwrap_or(0);
        if count == 0 {
            self.unlist(shard, &minute, None).await?;
        }
        Ok(Some(Due {
            minute,
            count,
            entries: entries.to_vec(),
        }))
    }

    /// Removes a session, if it has expired. Returns `true` if it was there.
    async fn purge_entry(
        &self,
        shard: u8,
        listed: &str,
        entry: &[u8],
        before: i64,
    ) -> Result<bool, StoreError> {
        let mut was_there = false;
        if let Some((id, expires_at)) = read_member(entry) {
            let minute = minute_of(expires_at);
            if expires_at > before && minute.to_string() == listed {
                return Ok(false);
            }
            if expires_at > before {
                self.schedule(shard, minute, entry, life(expires_at), CONTEXT)
                    .await?;
            } else {
                was_there = self.purge_session(&id, entry).await?;
            }
        }
        self.unlist(shard, listed, Some(entry)).await?;
        Ok(was_there)
    }

    async fn purge_session(&self, id: &Packed, member: &[u8]) -> Result<bool, StoreError> {
        let Some(pointer) = self.get(self.keys.id(id), CONTEXT).await? else {
            return Ok(false);
        };
        let Some(pointer) = Pointer::from_bytes(&pointer) else {
            return Ok(false);
        };
        // Also if the id leads to another entry of the session: this one has expired.
        let customer = &pointer.customer;
        let mut remove = self.scripts.remove.key(self.keys.customer(customer));
        remove.key(self.keys.sessions(customer));
        remove.key(self.keys.children(customer));
        remove.key(self.keys.uses(customer));
        remove.arg(member).arg(pointer.family(id).as_bytes());
        let was_there: u64 = self.send(Request::Script(&remove), CONTEXT).await?;
        self.forget_ended(customer, member, CONTEXT).await?;
        Ok(was_there > 0)
    }

    /// Removes what leads to sessions that a revocation has ended.
    async fn purge_ended(&self, shard: u8, limit: u64) -> Result<u64, StoreError> {
        let list = self.keys.listed(shard, "g");
        let mut purged = 0;
        while purged < limit {
            let mut first = cmd("LINDEX");
            first.arg(&list).arg(0);
            let Some(entry) = self.send(Request::Command(&first), CONTEXT).await? else {
                break;
            };
            let entry: Vec<u8> = entry;
            let removed = self
                .purge_ended_by(&entry, BATCH.min(limit - purged))
                .await?;
            match removed {
                Some(removed) => purged += removed,
                None => self.unlist(shard, "g", Some(&entry)).await?,
            }
        }
        Ok(purged)
    }

    /// Removes some of what an entry names; `None` if nothing is left of it.
    async fn purge_ended_by(&self, entry: &[u8], limit: u64) -> Result<Option<u64>, StoreError> {
        let ended = self.keys.ended_by(entry);
        let tag = entry
            .strip_prefix(b"{")
            .and_then(|entry| entry.len().checked_sub(9).map(|len| &entry[..len]));
        let Some(customer) = tag.and_then(Packed::from_bytes) else {
            return Ok(None);
        };
        let mut range = cmd("ZRANGE");
        range.arg(&ended).arg(0).arg(limit.saturating_sub(1));
        let members: Vec<Vec<u8>> = self.send(Request::Command(&range), CONTEXT).await?;
        if members.is_empty() {
            return Ok(None);
        }
        let removals = members
            .iter()
            .map(|member| self.forget_if_ended(&customer, member));
        some_at_once(removals.collect()).await?;
        let mut remove = cmd("ZREM");
        remove.arg(&ended).arg(&members);
        let removed = self.send(Request::Command(&remove), CONTEXT).await?;
        Ok(Some(removed))
    }

    /// Removes what leads to a session, unless the same session was added again. Returns `true` if it was.
    async fn forget_if_ended(&self, customer: &Packed, member: &[u8]) -> Result<bool, StoreError> {
        let mut score = cmd("ZSCORE");
        score.arg(self.keys.sessions(customer)).arg(member);
        let again: Option<f64> = self.send(Request::Command(&score), CONTEXT).await?;
        if again.is_none() {
            self.forget_ended(customer, member, CONTEXT).await?;
        }
        Ok(again.is_none())
    }

    /// Removes an entry from a list, and the list if it is empty.
    async fn unlist(&self, shard: u8, list: &str, entry: Option<&[u8]>) -> Result<(), StoreError> {
        let mut unlist = self.scripts.unlist.key(self.keys.expiry(shard));
        unlist.key(self.keys.listed(shard, list)).arg(list);
        if let Some(entry) = entry {
            unlist.arg(entry);
        }
        self.send(Request::Script(&unlist), CONTEXT).await
    }
}

/// Waits for removals, some of them at once, and returns how many removed something.
async fn some_at_once(
    removals: Vec<impl Future<Output = Result<bool, StoreError>>>,
) -> Result<u64, StoreError> {
    let removals = stream::iter(removals).buffer_unordered(MAX_CONCURRENT_REMOVALS);
    let removed = removals.try_fold(0, |sum, removed| ready(Ok(sum + u64::from(removed))));
    removed.await
}
