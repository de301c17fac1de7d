//! Replacement of sessions in Redis.

use redis::cmd;

use super::{
    RedisStore,
    connection::Request,
    insertion::{Ended, New, is_certain, limit_args},
    keys::Packed,
    lookup::Location,
    record::Record,
    score::{Band, score_of_overlap},
};
use crate::{
    registry::{Inserted, SessionLimit},
    session::{CustomerSession, SessionId},
    store::{
        error::{StoreError, limit_is_reached},
        validation::check_is_current,
    },
};

/// A session that is live, and the sessions that a limit has ended.
pub(super) struct Replaced {
    /// The customer, as JSON.
    pub(super) customer: String,
    ended: Ended,
}

impl RedisStore {
    /// Puts a session in the place of another.
    pub(super) async fn replace_session(
        &self,
        old: &SessionId,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
        context: &str,
    ) -> Result<Option<Inserted>, StoreError> {
        check_is_current(session)?;
        self.ready().await?;
        let new = self.new_session(session, context)?;
        let Some(place) = self.locate(old, context).await? else {
            return Ok(None);
        };
        if place.pointer.customer != new.record.customer || place.is_replaced() {
            return Ok(None);
        }
        let new = New {
            record: (new.record.with_family(place.family().clone()))
                .with_parent(place.pointer.parent().cloned()),
            ..new
        };
        let limit = limit.filter(|_| place.pointer.parent().is_none());
        let replaced = self.commit_replacement(&new, &place, limit, None).await?;
        let Some(Replaced { customer, ended }) = replaced else {
            return Ok(None);
        };
        // The old token opens nothing any more.
        self.delete(self.keys.token(&place.pointer.hash), context)
            .await;
        Ok(Some(self.inserted(&new, customer, ended).await?))
    }

    /// Makes a session live in the place of another. Returns `None` if the other one is gone.
    pub(super) async fn commit_replacement(
        &self,
        new: &New<'_>,
        place: &Location,
        limit: Option<&SessionLimit>,
        overlapping: Option<&Record>,
    ) -> Result<Option<Replaced>, StoreError> {
        let claimed = self.claim(new).await?;
        let replaced = self.call_replacement(new, place, limit, overlapping).await;
        match &replaced {
            Ok(None) => self.undo(new, claimed).await,
            Err(error) if is_certain(error) => self.undo(new, claimed).await,
            Ok(Some(_)) | Err(_) => {}
        }
        replaced
    }

    /// Calls the script that puts a session in the place of another, which is kept as `overlapping`, if that is
    /// given.
    async fn call_replacement(
        &self,
        new: &New<'_>,
        place: &Location,
        limit: Option<&SessionLimit>,
        overlapping: Option<&Record>,
    ) -> Result<Option<Replaced>, StoreError> {
        let (customer, context) = (&new.record.customer, new.context);
        let Some(epoch) = self.get(self.keys.epoch(customer.shard()), context).await? else {
            return Ok(None);
        };
        let members = self.keys.members(customer, place.family());
        if !self.keep_ids(new, place, &members).await? {
            return Ok(None);
        }
        let mut replace = self.scripts.replace.key(self.keys.customer(customer));
        replace.key(self.keys.sessions(customer));
        replace.key(self.keys.family(customer, place.family()));
        replace.key(members).key(self.keys.children(customer));
        replace.key(self.keys.uses(customer));
        replace.arg(place.member()).arg(new.record.member());
        replace.arg(new.record.created_at()).arg(new.score);
        replace.arg(epoch).arg(new.life).arg(new.id_life);
        replace
            .arg(self.keys.channel())
            .arg(place.id.text())
            .arg(place.id.as_bytes());
        replace.arg(&limit_args(limit));
        replace.arg(place.family().as_bytes());
        if let Some(old) = overlapping {
            replace
                .arg(score_of_overlap(old.expires_at()))
                .arg(old.member());
            replace.arg(Band::Uncounted.score(old.created_at()));
        }
        let corrupt = || StoreError::corrupt(format!("{context}: the answer is corrupt"));
        let mut ended = Ended::default();
        // Of very many sessions beyond the limit, each attempt ends some.
        for _ in 0..1 << 16 {
            let answer: Vec<Vec<u8>> = self.send(Request::Script(&replace), context).await?;
            let (outcome, rest) = answer.split_first().ok_or_else(corrupt)?;
            match (outcome.as_slice(), rest) {
                (b"gone", _) => return Ok(None),
                (b"full", _) => return Err(limit_is_reached(&new.session.id)),
                (b"done" | b"more" | b"there", [customer, more @ ..]) => {
                    ended.extend(outcome, more);
                    ended.is_complete &= outcome != b"there" || limit.is_none();
                    if outcome != b"more" {
                        let customer =
                            String::from_utf8(customer.clone()).map_err(|_| corrupt())?;
                        return Ok(Some(Replaced { customer, ended }));
                    }
                }
                _ => return Err(corrupt()),
            }
        }
        Err(StoreError::unavailable(format!(
            "{context}: it keeps changing"
        )))
    }

    /// Has the old id lead to the family until that ends, and all earlier ids too if the end was postponed.
    /// Returns `false` if the old id is gone.
    async fn keep_ids(
        &self,
        new: &New<'_>,
        place: &Location,
        members: &[u8],
    ) -> Result<bool, StoreError> {
        let mut left = cmd("PTTL");
        left.arg(members);
        let left: i64 = self.read(Request::Command(&left), new.context).await?;
        // The end is reckoned from the present, and may seem a moment later each time.
        if left >= 0 && new.id_life > left + 60_000 {
            let mut earlier = cmd("LRANGE");
            earlier.arg(members).arg(0).arg(-1);
            let earlier: Vec<Vec<u8>> = self.read(Request::Command(&earlier), new.context).await?;
            for id in earlier.iter().filter_map(|id| Packed::from_bytes(id)) {
                self.keep_id(new, &id).await?;
            }
        }
        self.keep_id(new, &place.id).await
    }

    async fn keep_id(&self, new: &New<'_>, id: &Packed) -> Result<bool, StoreError> {
        let mut keep = self.scripts.keep.key(self.keys.id(id));
        keep.arg(new.id_life);
        let kept: u64 = self.send(Request::Script(&keep), new.context).await?;
        Ok(kept > 0)
    }
}
