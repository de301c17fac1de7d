//! Keys that lead to a session in Redis: written before it is live, and removed when it has ended.

use chrono::Utc;

use super::{
    RedisStore,
    connection::Request,
    insertion::{MAX_ATTEMPTS, New},
    keys::Packed,
    record::{Pointer, Record, read_member},
};
use crate::{session::SessionSummary, store::error::StoreError};

/// Sessions that expire later than this are listed by the hour, in seconds. One that is due in the hour is
/// then listed by the minute.
const BY_THE_HOUR: i64 = 24 * 60 * 60;

/// The keys that a call has written for a session that is not live yet.
#[derive(Clone, Copy, Default)]
pub(super) struct Claimed {
    id: bool,
    token: bool,
}

impl Claimed {
    /// Returns `true` if this call has written all that leads to the session.
    pub(super) fn is_whole(self) -> bool {
        self.id && self.token
    }
}

impl RedisStore {
    /// Writes what leads to a session.
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::StoreErrorKind::Conflict) if the id or the token is taken.
    pub(super) async fn claim(&self, new: &New<'_>) -> Result<Claimed, StoreError> {
        let taken = |what: &str| {
            let context = new.context;
            StoreError::conflict(format!("{context}: its {what} is taken"))
        };
        let pointer = Pointer::new(&new.record, new.hash).to_bytes();
        let mut claimed = Claimed::default();
        match self
            .claim_key(new, self.keys.id(&new.record.id), &pointer, new.id_life)
            .await?
        {
            Some(was_free) => claimed.id = was_free,
            None => return Err(taken("id")),
        }
        let token = self.keys.token(&new.hash);
        let record = new.record.to_bytes();
        match self.claim_key(new, token, &record, new.life).await {
            Ok(Some(was_free)) => claimed.token = was_free,
            other => {
                self.undo(new, claimed).await;
                return other.and(Err(taken("token")));
            }
        }
        // If this fails, the keys expire.
        let _ = self.schedule_expiry(new).await;
        Ok(claimed)
    }

    /// Writes a key that leads to a session. Returns `None` if it leads to another one, and `false` if it
    /// leads there already, since an earlier attempt was interrupted.
    async fn claim_key(
        &self,
        new: &New<'_>,
        key: Vec<u8>,
        value: &[u8],
        life: i64,
    ) -> Result<Option<bool>, StoreError> {
        let mut claim = self.scripts.claim.key(key.as_slice());
        claim.arg(value).arg(life);
        for _ in 0..MAX_ATTEMPTS {
            let there = self.send(Request::Script(&claim), new.context).await?;
            let there: Vec<u8> = match there {
                None => return Ok(Some(true)),
                Some(there) if there == value => return Ok(Some(false)),
                Some(there) => there,
            };
            if self.is_in_use(&new.record.id, &there, new).await? {
                return Ok(None);
            }
            // It led to a session that has ended.
            if self
                .swap(key.clone(), &there, value, Some(life), new.context)
                .await?
            {
                return Ok(Some(true));
            }
        }
        Ok(None)
    }

    /// Returns `true` if a key with this value leads to a live session or to a family.
    async fn is_in_use(
        &self,
        id: &Packed,
        value: &[u8],
        new: &New<'_>,
    ) -> Result<bool, StoreError> {
        let (customer, member, family) = match Record::from_bytes(value) {
            // The session that the token opens.
            Some(record) => (record.customer.clone(), record.member(), None),
            None => match Pointer::from_bytes(value) {
                Some(pointer) => {
                    let family = self.keys.family(&pointer.customer, pointer.family(id));
                    (pointer.customer.clone(), pointer.member(id), Some(family))
                }
                None => return Ok(true),
            },
        };
        let mut found = self.scripts.found.key(self.keys.customer(&customer));
        found.key(self.keys.sessions(&customer)).arg(member);
        let is_there: Option<(Vec<u8>, Option<i64>)> =
            self.send(Request::Script(&found), new.context).await?;
        if let (None, Some(family)) = (&is_there, family) {
            return Ok(self.get(family, new.context).await?.is_some());
        }
        Ok(is_there.is_some())
    }

    async fn schedule_expiry(&self, new: &New<'_>) -> Result<(), StoreError> {
        let minute = self.minute(&new.record);
        let entry = new.record.member();
        self.schedule(
            new.record.customer.shard(),
            minute,
            &entry,
            new.life,
            new.context,
        )
        .await
    }

    /// Returns the minute since 1970 by which an expiry is listed.
    fn minute(&self, record: &Record) -> i64 {
        let minute = minute_of(record.expires_at());
        let left = record
            .expires_at()
            .saturating_sub(Utc::now().timestamp_micros());
        match left / 1_000_000 > BY_THE_HOUR {
            true => minute - minute.rem_euclid(60),
            false => minute,
        }
    }

    /// Adds an entry to the list of a minute.
    pub(super) async fn schedule(
        &self,
        shard: u8,
        minute: i64,
        entry: &[u8],
        life: i64,
        context: &str,
    ) -> Result<(), StoreError> {
        let minute = minute.to_string();
        let mut schedule = self.scripts.schedule.key(self.keys.expiry(shard));
        schedule.key(self.keys.listed(shard, &minute));
        // A list is kept until the last of its sessions may go, and those of an hour share one.
        schedule
            .arg(minute)
            .arg(entry)
            .arg(life.saturating_add(3_600_000));
        self.send(Request::Script(&schedule), context).await
    }

    /// Lists sessions that were ended, for their removal. If this fails, they expire.
    pub(super) async fn schedule_removal(
        &self,
        customer: &Packed,
        entry: &[u8],
        life: i64,
        context: &str,
    ) {
        let shard = customer.shard();
        let mut schedule = self.scripts.schedule.key(self.keys.expiry(shard));
        schedule.key(self.keys.listed(shard, "g"));
        schedule.arg("g").arg(entry).arg(life);
        let _: Result<u64, _> = self.send(Request::Script(&schedule), context).await;
    }

    /// Removes what was written of a session that did not become live.
    pub(super) async fn undo(&self, new: &New<'_>, claimed: Claimed) {
        let pointer = Pointer::new(&new.record, new.hash).to_bytes();
        if claimed.id {
            let key = self.keys.id(&new.record.id);
            let _ = self.delete_if(key, &pointer, new.context).await;
        }
        if claimed.token {
            let record = new.record.to_bytes();
            let key = self.keys.token(&new.hash);
            let _ = self.delete_if(key, &record, new.context).await;
        }
    }

    /// Removes what leads to a session that was ended, unless its id must lead to its family. Returns what a
    /// list showed of it.
    pub(super) async fn forget_ended(
        &self,
        customer: &Packed,
        member: &[u8],
        context: &str,
    ) -> Result<Option<SessionSummary>, StoreError> {
        let Some((id, _)) = read_member(member) else {
            return Ok(None);
        };
        let key = self.keys.id(&id);
        let Some(value) = self.get(key.clone(), context).await? else {
            return Ok(None);
        };
        let pointer = Pointer::from_bytes(&value);
        let is_own =
            |pointer: &Pointer| pointer.customer == *customer && pointer.member(&id) == member;
        let Some(pointer) = pointer.filter(is_own) else {
            return Ok(None);
        };
        let token = self.keys.token(&pointer.hash);
        let record = self.record(&pointer.hash, context).await?;
        let record = record.filter(|record| record.member() == member);
        if let Some(record) = &record {
            self.delete_if(token, &record.to_bytes(), context).await?;
        }
        let family = self.keys.family(customer, pointer.family(&id));
        if self.get(family, context).await?.is_none() {
            self.delete_if(key, &value, context).await?;
        }
        record.as_ref().map(Record::summary).transpose()
    }
}

/// Returns the minute since 1970 of a time in microseconds.
pub(super) fn minute_of(micros: i64) -> i64 {
    micros.div_euclid(60_000_000)
}
