//! Sessions in Redis or Valkey.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use redis::{
    Client, FromRedisValue, RedisError, Script,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use super::{
    SessionRegistry, SessionStore, StoreError,
    checked::Checked,
    failure::Failure,
    micros::{from_micros, to_micros},
    parts::Parts,
    pepper::Peppers,
    record::{check_customer, check_session, from_json, to_json},
    scripts::Scripts,
};
use crate::{
    customer::{Customer, CustomerId},
    session::{CustomerSession, SessionId, SessionSummary},
    token::{SessionToken, TokenFormat},
};

/// The oldest server that the scripts were written for; Valkey says that it is Redis 7.2.
const MIN_VERSION: (u32, u32) = (6, 2);

/// In braces, so that all keys are in one slot of a cluster.
pub(super) const PREFIX: &str = "{customer_sessions}:";

/// How long a lookup may take over keeping a session under another pepper.
const REWRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// The largest integer that a sorted set tells from its neighbours: a moment in the year 2255.
const MAX_SCORE: i64 = 1 << 53;

/// A script has the server to itself; this many sessions take about as long as some lookups.
const PURGED_AT_ONCE: u32 = 10;

/// Keeps sessions in Redis 6.2 or newer, or in Valkey: shared by several machines.
///
/// Every method is one script, which the server runs as a whole; purging is several short ones.
/// Before its first answer, and every ten seconds, the store checks the server and the [`Peppers`];
/// while something is amiss every method fails and says what to do. [`check`](Self::check) does
/// that at once. Clones share their connection,
/// which comes back by itself when it is lost.
///
/// How much survives a crash is the server's business: with `appendonly yes` and
/// `appendfsync always` every revocation that has returned does, with `everysec` those of the
/// last second may be undone, and without a file all sessions are gone.
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, RedisStore}};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let peppers = Peppers::new(std::env::var("SESSION_PEPPER")?);
/// let store = RedisStore::connect("redis://localhost", peppers).await?;
/// let sessions = CustomerSessions::builder(store).build();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    connection: ConnectionManager,
    prefix: Arc<str>,
    peppers: Arc<Peppers>,
    scripts: Arc<Scripts>,
    checked: Arc<Checked>,
}

impl RedisStore {
    /// Connects to `url`: `redis://:password@host:port/database`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is none, or if the server
    /// cannot be reached or refuses.
    pub async fn connect(url: &str, peppers: Peppers) -> Result<Self, StoreError> {
        let client = Client::open(url).map_err(|error| {
            let tried = "this is no URL of a Redis server; one looks like redis://host:6379";
            failed(tried, error)
        })?;
        let target = format!(
            "connecting to Redis at {}",
            client.get_connection_info().addr()
        );
        // A server that is down is reported soon, and tried again by the next request.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(2)
            .set_max_delay(Duration::from_millis(200))
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(2)));
        let connection = ConnectionManager::new_with_config(client, config).await;
        Ok(Self::new(
            connection.map_err(|error| failed(target, error))?,
            peppers,
        ))
    }

    /// Uses a connection. It should have a response timeout.
    pub fn new(connection: ConnectionManager, peppers: Peppers) -> Self {
        Self {
            connection,
            prefix: PREFIX.into(),
            peppers: peppers.into(),
            scripts: Scripts::new().into(),
            checked: Arc::default(),
        }
    }

    /// What the names of all keys begin with; `{customer_sessions}:` unless told. On a cluster
    /// it needs a part in braces, which keeps the keys together.
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into().into();
        self.checked = Arc::default();
        self
    }

    /// Checks the server and the peppers.
    ///
    /// # Errors
    ///
    /// What is amiss, and what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        let mut connection = self.connection.clone();
        check_server(&mut connection).await?;
        let key = format!("{}peppers", self.prefix);
        let known: Vec<String> = redis::cmd("SMEMBERS")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .map_err(|error| failed("reading the fingerprints of the peppers", error))?;
        if let Some(fingerprint) = self.peppers.verify(&known)? {
            let mut remember = redis::cmd("SADD");
            let remembered: Result<(), _> = remember
                .arg(&key)
                .arg(fingerprint)
                .query_async(&mut connection)
                .await;
            remembered.map_err(|error| failed("writing the fingerprint of a pepper", error))?;
        }
        Ok(())
    }

    /// Runs a script, once everything was found to be as it should.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        arguments: &[&str],
        tried: impl FnOnce() -> String,
    ) -> Result<T, StoreError> {
        let now = Instant::now();
        if self.checked.is_due(now) {
            let checked = self.check().await;
            self.checked.set(checked.is_ok().then_some(now));
            checked?;
        }
        let mut call = script.key(&*self.prefix);
        for argument in arguments {
            call.arg(*argument);
        }
        let answer = call.invoke_async(&mut self.connection.clone()).await;
        answer.map_err(|error| {
            // Whoever answers next may be another server.
            self.checked.set(None);
            failed(tried(), error)
        })
    }

    /// Runs `insert` or `replace`, and says what became of it.
    async fn add(
        &self,
        script: &Script,
        session: &CustomerSession,
        old: Option<&SessionId>,
    ) -> Result<bool, StoreError> {
        check_session(session)?;
        let expires = to_micros(session.expires_at);
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
        let tried = || match old {
            None => format!("inserting session {}", session.id),
            Some(old) => format!("replacing session {old} with {}", session.id),
        };
        let outcome: String = self.run(script, &arguments, tried).await?;
        match outcome.as_str() {
            "done" => Ok(true),
            "absent" => Ok(false),
            taken => Err(StoreError::conflict(format!(
                "{}: its {taken} is taken",
                tried()
            ))),
        }
    }
}

/// What of a session is kept behind the hash of its token.
fn write_record(session: &CustomerSession) -> String {
    let modified = session.modified_at.map(|time| to_micros(time).to_string());
    format!(
        " {} {} {}",
        to_micros(session.created_at),
        modified.as_deref().unwrap_or("-"),
        to_micros(session.expires_at)
    )
}

fn read_record(id: &str, customer: &str, record: &str) -> Result<SessionSummary, StoreError> {
    let damaged = || StoreError::corrupt(format!("session {id}: its record is damaged"));
    let time = |text: &str| text.parse().ok().and_then(|it| from_micros(it).ok());
    let mut fields = record.split_ascii_whitespace();
    let mut next = || fields.next().ok_or_else(damaged);
    let (created, modified, expires) = (next()?, next()?, next()?);
    Ok(SessionSummary {
        id: id.into(),
        customer_id: customer.into(),
        created_at: time(created).ok_or_else(damaged)?,
        modified_at: match modified {
            "-" => None,
            modified => Some(time(modified).ok_or_else(damaged)?),
        },
        expires_at: time(expires).ok_or_else(damaged)?,
    })
}

/// What an error of the driver means, met when the store tried to do something.
pub(super) fn failed(tried: impl Into<String>, error: RedisError) -> StoreError {
    let tried = tried.into();
    if error.is_timeout() {
        StoreError::timeout(Failure::new(tried, error))
    } else if matches!(error.code(), Some("WRONGTYPE" | "DAMAGED"))
        || error.kind() == redis::ErrorKind::UnexpectedReturnType
    {
        StoreError::corrupt(Failure::new(tried, error))
    } else {
        StoreError::unavailable(Failure::new(tried, error))
    }
}

/// Refuses a server that will not do.
pub(super) async fn check_server(connection: &mut impl ConnectionLike) -> Result<(), StoreError> {
    let tried = "asking Redis what it is (this needs the right to run INFO)";
    let info = redis::cmd("INFO").query_async::<String>(connection).await;
    check_info(&info.map_err(|error| failed(tried, error))?)
}

/// What `INFO` says that matters here.
fn check_info(info: &str) -> Result<(), StoreError> {
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
    };
    let Some(version) = field("redis_version") else {
        return Err(StoreError::unavailable("this is neither Redis nor Valkey"));
    };
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let found: Option<(u32, u32)> = numbers.next().zip(numbers.next());
    if found.is_none_or(|found| found < MIN_VERSION) {
        let (major, minor) = MIN_VERSION;
        return Err(StoreError::unavailable(format!(
            "this is Redis {version}; {major}.{minor} or newer is needed"
        )));
    }
    if field("role") == Some("slave") {
        return Err(StoreError::unavailable(
            "this server is a replica, which would bring revoked sessions back for as long as \
             it lags behind; connect to the primary",
        ));
    }
    match field("maxmemory_policy") {
        Some(policy) if policy.starts_with("allkeys") => Err(StoreError::unavailable(format!(
            "this server throws sessions away when its memory is full (maxmemory-policy is \
             {policy}); set it to noeviction, or to one of the volatile ones"
        ))),
        _ => Ok(()),
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("key_prefix", &self.prefix)
            .field("peppers", &self.peppers)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let hashes: Vec<_> = self.peppers.hashes(token).collect();
        let arguments: Vec<_> = hashes.iter().map(String::as_str).collect();
        let tried = || "looking a session up".to_owned();
        let find = &self.scripts.find;
        let found: Option<(usize, String, String, String)> =
            self.run(find, &arguments, tried).await?;
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
            let rewritten = self.run::<u64>(rewrite, &arguments, tried);
            let _ = timeout(REWRITE_TIMEOUT, rewritten).await;
        }
        Ok(Some(CustomerSession {
            id: summary.id,
            created_at: summary.created_at,
            modified_at: summary.modified_at,
            token: token.clone(),
            expires_at: summary.expires_at,
            customer_id: summary.customer_id,
            customer,
        }))
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
        let tried = || format!("revoking session {id}");
        let revoke = &self.scripts.revoke;
        let revoked: u64 = self.run(revoke, &[id.as_str()], tried).await?;
        Ok(revoked > 0)
    }

    async fn revoke_customer(&self, customer: &CustomerId) -> Result<u64, StoreError> {
        let tried = || format!("revoking customer {customer}");
        let revoke = &self.scripts.revoke_customer;
        self.run(revoke, &[customer.as_str()], tried).await
    }

    async fn list(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let tried = || format!("listing customer {customer}");
        let list = &self.scripts.list;
        let records: Vec<(String, String)> = self.run(list, &[customer.as_str()], tried).await?;
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
        let tried = || format!("updating customer {}", customer.id);
        let update = &self.scripts.update_customer;
        self.run(update, &[customer.id.as_str(), &data], tried)
            .await
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let before = to_micros(before).min(MAX_SCORE).to_string();
        let mut parts = Parts::new(limit, PURGED_AT_ONCE);
        while let Some(part) = parts.next().await {
            let tried = || "purging expired sessions".to_owned();
            let purge = &self.scripts.purge;
            let (due, purged) = self
                .run(purge, &[&before, &part.to_string()], tried)
                .await?;
            parts.add(due, purged);
        }
        Ok(parts.deleted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_will_not_do_is_refused() {
        let good = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\n\
                    maxmemory_policy:volatile-lru\r\n";
        assert!(check_info(good).is_ok());
        for (good_part, bad_part) in [
            ("redis_version:7.0.15", "redis_version:6.0.16"),
            ("redis_version:7.0.15", "dragonfly_version:1"),
            ("role:master", "role:slave"),
            ("volatile-lru", "allkeys-lru"),
        ] {
            let info = good.replace(good_part, bad_part);
            assert!(check_info(&info).is_err(), "{bad_part}");
        }
    }

    #[test]
    fn a_damaged_record_is_noticed() {
        assert!(read_record("ses_1", "cus_1", " 1 - 3").is_ok());
        for record in [
            "",
            " 1",
            " 1 -",
            " one - 3",
            " 1 two 3",
            " 1 - 99999999999999999999",
        ] {
            let error = read_record("ses_1", "cus_1", record).expect_err(record);
            assert!(format!("{error:?}").contains("ses_1"), "{record}");
        }
    }
}
