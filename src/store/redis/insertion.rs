//! Insertion of sessions into Redis.
//!
//! Keys that lead to a session are written first, and lead nowhere yet. Then one script adds the session to
//! its customer's set, and it is live. Any interruption leaves keys that open nothing, and that expire.

use chrono::DateTime;
use futures_util::future::join;

use super::{
    RedisStore,
    connection::Request,
    keys::{ShortHash, short_hash},
    lookup::{life, read_json, write_json},
    record::{Pointer, Record, read_member},
    score::Band,
};
use crate::{
    customer::Customer,
    invalidation::Invalidation,
    random::random,
    registry::{Inserted, SessionLimit, WhenFull},
    session::{CustomerSession, SessionSummary},
    store::{
        error::{StoreError, StoreErrorKind, customer_is_deleted, limit_is_reached},
        validation::{check_is_current, check_is_no_child, check_session},
    },
};

/// Length of the longest identifier, in bytes.
const MAX_ID_LEN: usize = 32 * 1024;

/// Attempts to write what changes meanwhile.
pub(super) const MAX_ATTEMPTS: usize = 16;

/// A session that is to be added.
pub(super) struct New<'a> {
    pub(super) session: &'a CustomerSession,
    pub(super) record: Record,
    pub(super) hash: ShortHash,
    /// Its score in the customer's set.
    pub(super) score: i64,
    /// Life of its keys in milliseconds, and of the key of its id.
    pub(super) life: i64,
    pub(super) id_life: i64,
    pub(super) context: &'a str,
}

/// The outcome of making a session live.
pub(super) enum Committed {
    /// With its customer as JSON.
    Done(String),
    /// It was live already, with this customer.
    WasThere(String),
}

/// The sessions that a limit has ended.
pub(super) struct Ended {
    /// Members of the customer's set, each with the time of its creation.
    sessions: Vec<(Vec<u8>, i64)>,
    /// `false` if there may be more: the driver repeats a call whose answer was lost, and the lost answer may
    /// have named some.
    pub(super) is_complete: bool,
}

impl Default for Ended {
    fn default() -> Self {
        Self {
            sessions: Vec::new(),
            is_complete: true,
        }
    }
}

impl Ended {
    /// Adds those that an answer names.
    pub(super) fn extend(&mut self, outcome: &[u8], answer: &[Vec<u8>]) {
        // Of several calls one may have been repeated, and its first answer lost.
        self.is_complete &= outcome != b"more";
        self.sessions.extend(answer.chunks_exact(2).map(|pair| {
            let created_at = std::str::from_utf8(&pair[1]).ok();
            let created_at = created_at.and_then(|micros| micros.parse().ok());
            (pair[0].clone(), created_at.unwrap_or(0))
        }));
    }
}

impl RedisStore {
    /// Adds a session.
    pub(super) async fn insert_session(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
        context: &str,
    ) -> Result<Inserted, StoreError> {
        check_is_no_child(session)?;
        check_is_current(session)?;
        let new = self.new_session(session, context)?;
        self.ready().await?;
        let (epoch, claimed) = join(self.epoch(&new), self.claim(&new)).await;
        let claimed = claimed?;
        let mut ended = Ended::default();
        let inserted = match epoch {
            Ok(epoch) => self.commit(&new, limit, epoch, &mut ended).await,
            Err(error) => Err(error),
        };
        let customer = match inserted {
            Ok(Committed::Done(customer)) => customer,
            // A call of ours whose answer was lost, or one that inserts the same.
            Ok(Committed::WasThere(customer)) if claimed.is_whole() => {
                ended.is_complete = limit.is_none();
                customer
            }
            Ok(Committed::WasThere(_)) => {
                return Err(StoreError::conflict(format!("{context}: its id is taken")));
            }
            Err(error) => {
                if is_certain(&error) {
                    self.undo(&new, claimed).await;
                }
                return Err(error);
            }
        };
        self.check_pointer(&new).await?;
        self.inserted(&new, customer, ended).await
    }

    /// Returns a session as it was stored, with the sessions that a limit has ended.
    pub(super) async fn inserted(
        &self,
        new: &New<'_>,
        customer: String,
        ended: Ended,
    ) -> Result<Inserted, StoreError> {
        let mut inserted = Inserted::new(self.stored(new, customer)?);
        if !ended.is_complete {
            let customer = new.session.customer_id.clone();
            inserted.invalidations = vec![Invalidation::Customer(customer)];
        }
        for (member, created_at) in ended.sessions {
            let shown = self
                .forget_ended(&new.record.customer, &member, new.context)
                .await;
            // Its record may be gone, and it has been ended all the same.
            let shown = shown.ok().flatten();
            let shown = shown.or_else(|| summary_of(new.session, &member, created_at));
            inserted.ended.extend(shown);
        }
        inserted
            .ended
            .sort_by(|one, two| (one.created_at, &one.id).cmp(&(two.created_at, &two.id)));
        Ok(inserted)
    }

    pub(super) fn new_session<'a>(
        &self,
        session: &'a CustomerSession,
        context: &'a str,
    ) -> Result<New<'a>, StoreError> {
        check_session(session)?;
        for id in [session.id.as_str(), session.customer_id.as_str()] {
            if id.len() > MAX_ID_LEN {
                let why = format!("an identifier is longer than {MAX_ID_LEN} bytes");
                return Err(StoreError::invalid(why));
            }
        }
        let record = Record::new(session)?;
        Ok(New {
            session,
            hash: short_hash(&self.peppers, &session.token),
            score: Band::of(&session.details).score(record.created_at()),
            life: life(record.expires_at()),
            id_life: life(record.family_end()),
            record,
            context,
        })
    }

    /// Returns the epoch of the customer's shard, and begins one if there is none.
    async fn epoch(&self, new: &New<'_>) -> Result<[u8; 8], StoreError> {
        self.epoch_of(new.record.customer.shard(), new.context)
            .await
    }

    pub(super) async fn epoch_of(&self, shard: u8, context: &str) -> Result<[u8; 8], StoreError> {
        let mut epoch = self.scripts.epoch.key(self.keys.epoch(shard));
        epoch.arg(&random().to_be_bytes());
        let epoch: Vec<u8> = self.send(Request::Script(&epoch), context).await?;
        let corrupt = |_| StoreError::corrupt(format!("{context}: the epoch is corrupt"));
        epoch.try_into().map_err(corrupt)
    }

    /// Makes a session live. Returns its customer as JSON, and adds the sessions that were ended.
    async fn commit(
        &self,
        new: &New<'_>,
        limit: Option<&SessionLimit>,
        mut epoch: [u8; 8],
        ended: &mut Ended,
    ) -> Result<Committed, StoreError> {
        let (customer, context) = (&new.record.customer, new.context);
        let json = write_json(&new.session.customer)?;
        let [max, when_full, since] = limit_args(limit);
        let mut over = Vec::new();
        let corrupt = || StoreError::corrupt(format!("{context}: the answer is corrupt"));
        // Of very many sessions beyond the limit, each attempt ends some.
        for _ in 0..1 << 16 {
            let mut insert = self.scripts.insert.key(self.keys.customer(customer));
            insert.key(self.keys.sessions(customer));
            insert.key(self.keys.children(customer));
            insert.key(self.keys.uses(customer));
            insert.arg(new.record.member());
            insert.arg(new.record.created_at()).arg(new.score);
            insert.arg(epoch.as_slice()).arg(&json).arg(new.life);
            insert
                .arg(self.keys.channel())
                .arg(&max)
                .arg(&when_full)
                .arg(&over)
                .arg(&since);
            let answer: Vec<Vec<u8>> = self.send(Request::Script(&insert), context).await?;
            let (outcome, rest) = answer.split_first().ok_or_else(corrupt)?;
            match (outcome.as_slice(), rest) {
                (b"deleted", _) => return Err(customer_is_deleted(&new.session.id)),
                (b"full", _) => return Err(limit_is_reached(&new.session.id)),
                (b"id", [stored]) => {
                    let stored = String::from_utf8(stored.clone());
                    return stored.map(Committed::WasThere).map_err(|_| corrupt());
                }
                // All sessions may have been ended in between.
                (b"epoch", [found]) => {
                    let current = self.epoch_of(customer.shard(), context).await?;
                    over.clear();
                    if current == epoch {
                        over.clone_from(found);
                    }
                    epoch = current;
                }
                (b"done" | b"more", [stored, more @ ..]) => {
                    ended.extend(outcome, more);
                    if outcome == b"done" {
                        let stored = String::from_utf8(stored.clone());
                        return stored.map(Committed::Done).map_err(|_| corrupt());
                    }
                }
                _ => return Err(corrupt()),
            }
        }
        Err(StoreError::unavailable(format!(
            "{context}: it keeps changing"
        )))
    }

    /// Takes a session back if its id leads to another one, which was added by another call at the same
    /// time.
    pub(super) async fn check_pointer(&self, new: &New<'_>) -> Result<(), StoreError> {
        let (context, customer) = (new.context, &new.record.customer);
        let pointer = self.get(self.keys.id(&new.record.id), context).await?;
        if pointer.is_some_and(|found| found == Pointer::new(&new.record, new.hash).to_bytes()) {
            return Ok(());
        }
        let mut remove = self.scripts.remove.key(self.keys.customer(customer));
        remove.key(self.keys.sessions(customer));
        remove
            .key(self.keys.children(customer))
            .key(self.keys.uses(customer))
            .arg(new.record.member())
            .arg(new.record.id.as_bytes());
        let _: u64 = self.send(Request::Script(&remove), context).await?;
        Err(StoreError::conflict(format!("{context}: its id is taken")))
    }

    /// Returns a session as it was stored, with its customer.
    pub(super) fn stored(
        &self,
        new: &New<'_>,
        customer: String,
    ) -> Result<CustomerSession, StoreError> {
        let corrupt = |why| {
            let context = new.context;
            StoreError::corrupt(format!("{context}: its customer is corrupt: {why}"))
        };
        let customer: Customer = read_json(&new.record.customer, &customer).map_err(corrupt)?;
        let summary = new.record.summary()?;
        Ok(summary.into_session(new.session.token.clone(), customer))
    }
}

/// Returns what is known of an ended session without its record.
fn summary_of(new: &CustomerSession, member: &[u8], created_at: i64) -> Option<SessionSummary> {
    let (id, expires_at) = read_member(member)?;
    let [created_at, expires_at] = [created_at, expires_at].map(DateTime::from_timestamp_micros);
    let customer = new.customer_id.clone();
    Some(SessionSummary::new(
        id.text(),
        customer,
        created_at?,
        expires_at?,
    ))
}

/// Returns a limit as scripts take it: the number of sessions, the treatment of a further one, and since when
/// a session must have been used to count.
pub(super) fn limit_args(limit: Option<&SessionLimit>) -> [String; 3] {
    let Some(limit) = limit else {
        return Default::default();
    };
    let when_full = match limit.when_full {
        WhenFull::EndOldest => "end_oldest",
        WhenFull::Refuse => "refuse",
    };
    let since = limit
        .used_since
        .map(|time| time.timestamp_micros().to_string());
    [
        limit.max.to_string(),
        when_full.to_owned(),
        since.unwrap_or_default(),
    ]
}

/// Returns `true` if an error says that nothing was changed.
pub(super) fn is_certain(error: &StoreError) -> bool {
    error.kind() == StoreErrorKind::Conflict
}
