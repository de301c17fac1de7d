//! How Redis keeps sessions: every method is a script.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use redis::Script;
use tokio::time::timeout;

use super::{
    RedisStore,
    record::{read_record, write_record},
};
use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    registry::{Inserted, Page, Revocation, Revoked, SessionLimit, SessionPage, WhenFull},
    session::{CustomerSession, SessionId, SessionSummary},
    shared_caches::SharedCaches,
    store::{
        error::{StoreError, customer_is_deleted, limit_is_reached},
        traits::{SessionRegistry, SessionStore},
        validation::{check_customer, check_session, from_json, to_json},
    },
    token::{SessionToken, TokenFormat},
};

/// Time a lookup may spend on keeping a session under the current pepper.
const REHASH_TIMEOUT: Duration = Duration::from_millis(100);

/// Largest integer that the scores of a sorted set hold exactly: a time in the year 2255.
const MAX_SCORE: i64 = 1 << 53;

impl RedisStore {
    /// Runs `insert` or `replace`. Returns the session as stored and the sessions that ended to
    /// make room for it, or `None` if the session to be replaced is gone.
    async fn put(
        &self,
        script: &Script,
        session: &CustomerSession,
        more: &[&str],
        context: impl Fn() -> String,
    ) -> Result<Option<Inserted>, StoreError> {
        check_session(session)?;
        let expires = session.expires_at.timestamp_micros();
        let hash = hex::encode(self.peppers.hash(&session.token));
        let record = write_record(session);
        let score = expires.min(MAX_SCORE).to_string();
        let customer = to_json(&session.customer)?;
        let (id, customer_id) = (session.id.as_str(), session.customer_id.as_str());
        let mut arguments = vec![id, customer_id, &hash, &record, &score, &customer];
        arguments.extend(more);
        let answer: Vec<String> = self.run(script, &arguments, &context).await?;
        let corrupt = || StoreError::corrupt(format!("{}: the answer is corrupt", context()));
        let (outcome, rest) = answer.split_first().ok_or_else(corrupt)?;
        match outcome.as_str() {
            "done" => {}
            "absent" => return Ok(None),
            "deleted" => return Err(customer_is_deleted(&session.id)),
            "full" => return Err(limit_is_reached(&session.id)),
            taken => {
                return Err(StoreError::conflict(format!(
                    "{}: its {taken} is taken",
                    context()
                )));
            }
        }
        let (customer, ended) = rest.split_first().ok_or_else(corrupt)?;
        let customer = read_customer(id, customer)?;
        let stored = read_record(id, customer_id, &record)?;
        let mut inserted = Inserted::new(stored.into_session(session.token.clone(), customer));
        for pair in ended.chunks_exact(2) {
            inserted
                .ended
                .push(read_record(&pair[0], customer_id, &pair[1])?);
        }
        Ok(Some(inserted))
    }
}

fn read_customer(session: &str, customer: &str) -> Result<Customer, StoreError> {
    from_json(customer).map_err(|why| {
        StoreError::corrupt(format!("session {session}: its customer is corrupt: {why}"))
    })
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let hashes: Vec<_> = self.peppers.hashes(token).map(hex::encode).collect();
        let arguments: Vec<_> = hashes.iter().map(String::as_str).collect();
        let context = || "looking up a session".to_owned();
        let find = &self.scripts.find;
        let found: Option<(usize, String, String, String)> =
            self.read(find, &arguments, context).await?;
        let Some((place, id, record, customer)) = found else {
            return Ok(None);
        };
        let customer = read_customer(&id, &customer)?;
        let summary = read_record(&id, customer.id.as_str(), &record)?;
        if let Some(old) = place.checked_sub(1).filter(|place| *place > 0) {
            // If this fails, the next lookup tries again.
            let arguments = [&id, customer.id.as_str(), &hashes[0], &hashes[old]];
            let rewrite = &self.scripts.rewrite;
            let rewritten = self.run::<u64>(rewrite, &arguments, context);
            let _ = timeout(REHASH_TIMEOUT, rewritten).await;
        }
        Ok(Some(summary.into_session(token.clone(), customer)))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }

    fn shared_caches(&self) -> Option<&SharedCaches> {
        Some(&self.caches)
    }

    fn has_invalidation_source(&self) -> bool {
        true
    }
}

#[async_trait]
impl SessionRegistry for RedisStore {
    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        let context = || format!("inserting session {}", session.id);
        let now = session.created_at.timestamp_micros().to_string();
        let (max, when_full) = match limit {
            None => (String::new(), ""),
            Some(limit) => {
                let when_full = match limit.when_full {
                    WhenFull::EndOldest => "end_oldest",
                    WhenFull::Refuse => "refuse",
                };
                (limit.max.to_string(), when_full)
            }
        };
        let more = [now.as_str(), &max, when_full];
        let inserted = self
            .put(&self.scripts.insert, session, &more, context)
            .await?;
        inserted.ok_or_else(|| StoreError::corrupt(format!("{}: no answer", context())))
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let context = || format!("replacing session {old} with {}", new.id);
        let family_end = SessionSummary::from(new).family_end().timestamp_micros();
        let family_end = family_end.min(MAX_SCORE).to_string();
        let more = [old.as_str(), &family_end];
        let replaced = self.put(&self.scripts.replace, new, &more, context).await?;
        Ok(replaced.map(|inserted| inserted.session))
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let time;
        let (arguments, context) = match what {
            Revocation::Session(session) => (
                vec!["session", session.as_str()],
                format!("revoking session {session}"),
            ),
            Revocation::Owned { customer, session } => (
                vec!["owned", session.as_str(), customer.as_str()],
                format!("revoking session {session}"),
            ),
            Revocation::Others { customer, keep } => (
                vec!["customer", customer.as_str(), keep.as_str()],
                format!("revoking customer {customer}"),
            ),
            Revocation::Customer(customer) => (
                vec!["customer", customer.as_str()],
                format!("revoking customer {customer}"),
            ),
            Revocation::CreatedBefore(before) => {
                time = before.timestamp_micros().to_string();
                (vec!["all", &time], "revoking all sessions".to_owned())
            }
            Revocation::All => (vec!["all"], "revoking all sessions".to_owned()),
        };
        let (count, ended, customer): (i64, String, String) = self
            .run(&self.scripts.revoke, &arguments, || context)
            .await?;
        let (Revocation::Session(session) | Revocation::Owned { session, .. }) = what else {
            return Ok(Revoked::new(count > 0, [what.invalidation()]));
        };
        if count < 0 {
            return Ok(Revoked::default());
        }
        let ended = (count > 0).then(|| ended.into());
        let customer = (!customer.is_empty()).then(|| customer.into());
        Ok(Revoked::of_session(session, ended, customer))
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        let context = || format!("listing customer {customer}");
        let list = &self.scripts.list;
        let records: Vec<(String, String)> = self.read(list, &[customer.as_str()], context).await?;
        let mut sessions = records
            .iter()
            .map(|(id, record)| read_record(id, customer.as_str(), record))
            .collect::<Result<Vec<_>, _>>()?;
        sessions.sort_by(|one, two| (one.created_at, &one.id).cmp(&(two.created_at, &two.id)));
        if let Some(cursor) = page.cursor() {
            let place = (cursor.created_at, &cursor.id);
            sessions.retain(|session| (session.created_at, &session.id) > place);
        }
        Ok(SessionPage::cut(sessions, page))
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        check_customer(customer)?;
        let data = to_json(customer)?;
        let context = || format!("updating customer {}", customer.id);
        let update = &self.scripts.update_customer;
        let arguments = [customer.id.as_str(), &data];
        let updated: u64 = self.run(update, &arguments, context).await?;
        Ok(updated > 0)
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let before = before.timestamp_micros().min(MAX_SCORE).to_string();
        let context = || "purging expired sessions".to_owned();
        let mut purged = 0;
        // What is left of customers deleted by hand is removed too, but it does not count: else a
        // batch that holds some of it would look like the last one.
        loop {
            let limit = u64::from(limit) - purged;
            let arguments = [&*before, &limit.to_string()];
            let (due, removed, more): (u64, u64, u64) =
                self.run(&self.scripts.purge, &arguments, context).await?;
            purged += removed;
            if more == 0 && (removed == due || due < limit) {
                return Ok(purged);
            }
        }
    }

    async fn announce(&self, _: &Invalidation) -> Result<(), StoreError> {
        Err(StoreError::unavailable(
            "RedisStore announces changes of its own keys alone; change the session or the customer \
             by its methods, or announce by a PostgresStore",
        ))
    }

    async fn check(&self) -> Result<(), StoreError> {
        Self::check(self).await
    }
}
