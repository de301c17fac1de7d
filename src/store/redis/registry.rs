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
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::StoreError,
        traits::{SessionRegistry, SessionStore},
        validation::{check_customer, check_session, from_json, to_json},
    },
    token::{SessionToken, TokenFormat},
};

/// How long a lookup may take over keeping a session under another pepper.
const REWRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// The largest integer that a sorted set tells from its neighbours: a moment in the year 2255.
const MAX_SCORE: i64 = 1 << 53;

impl RedisStore {
    /// Runs `insert` or `replace`, and says what became of it.
    async fn add(
        &self,
        script: &Script,
        session: &CustomerSession,
        old: Option<&SessionId>,
    ) -> Result<bool, StoreError> {
        check_session(session)?;
        let expires = session.expires_at.timestamp_micros();
        let hash = self.peppers.hash(&session.token);
        let record = write_record(session);
        let score = expires.min(MAX_SCORE).to_string();
        let customer = to_json(&session.customer)?;
        let mut arguments = vec![
            session.id.as_str(),
            session.customer_id.as_str(),
            &hash,
            &record,
            &score,
            &customer,
        ];
        arguments.extend(old.map(SessionId::as_str));
        let context = || match old {
            None => format!("inserting session {}", session.id),
            Some(old) => format!("replacing session {old} with {}", session.id),
        };
        let outcome: String = self.run(script, &arguments, context).await?;
        match outcome.as_str() {
            "done" => Ok(true),
            "absent" => Ok(false),
            taken => Err(StoreError::conflict(format!(
                "{}: its {taken} is taken",
                context()
            ))),
        }
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let hashes: Vec<_> = self.peppers.hashes(token).collect();
        let arguments: Vec<_> = hashes.iter().map(String::as_str).collect();
        let context = || "looking a session up".to_owned();
        let find = &self.scripts.find;
        let found: Option<(usize, String, String, String)> =
            self.run(find, &arguments, context).await?;
        let Some((place, id, record, customer)) = found else {
            return Ok(None);
        };
        let customer: Customer = from_json(&customer).map_err(|why| {
            StoreError::corrupt(format!("session {id}: its customer is damaged: {why}"))
        })?;
        let summary = read_record(&id, customer.id.as_str(), &record)?;
        if let Some(old) = place.checked_sub(1).filter(|place| *place > 0) {
            // Should it fail, the next lookup tries again.
            let arguments = [&id, customer.id.as_str(), &hashes[0], &hashes[old]];
            let rewrite = &self.scripts.rewrite;
            let rewritten = self.run::<u64>(rewrite, &arguments, context);
            let _ = timeout(REWRITE_TIMEOUT, rewritten).await;
        }
        Ok(Some(summary.into_session(token.clone(), customer)))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

#[async_trait]
impl SessionRegistry for RedisStore {
    async fn insert(&self, session: &CustomerSession) -> Result<(), StoreError> {
        self.add(&self.scripts.insert, session, None).await?;
        Ok(())
    }

    async fn replace(&self, old: &SessionId, new: &CustomerSession) -> Result<bool, StoreError> {
        self.add(&self.scripts.replace, new, Some(old)).await
    }

    async fn revoke(&self, id: &SessionId) -> Result<bool, StoreError> {
        let context = || format!("revoking session {id}");
        let revoke = &self.scripts.revoke;
        let revoked: u64 = self.run(revoke, &[id.as_str()], context).await?;
        Ok(revoked > 0)
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let context = || format!("revoking customer {customer}");
        let revoke = &self.scripts.revoke_customer;
        self.run(revoke, &[customer.as_str()], context).await
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let context = || format!("listing customer {customer}");
        let list = &self.scripts.list;
        let records: Vec<(String, String)> = self.run(list, &[customer.as_str()], context).await?;
        let mut list = records
            .iter()
            .map(|(id, record)| read_record(id, customer.as_str(), record))
            .collect::<Result<Vec<_>, _>>()?;
        list.sort_by(|one, two| (one.created_at, &one.id).cmp(&(two.created_at, &two.id)));
        Ok(list)
    }

    async fn update_customer(&self, customer: &Customer) -> Result<u64, StoreError> {
        check_customer(customer)?;
        let data = to_json(customer)?;
        let context = || format!("updating customer {}", customer.id);
        let update = &self.scripts.update_customer;
        self.run(update, &[customer.id.as_str(), &data], context)
            .await
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
            let (due, removed): (u64, u64) =
                self.run(&self.scripts.purge, &arguments, context).await?;
            purged += removed;
            if removed == due || due < limit {
                return Ok(purged);
            }
        }
    }
}
