//! Invalidations from PostgreSQL: what any client has changed in its tables.

use std::{collections::VecDeque, fmt, time::Duration};

use async_trait::async_trait;
use sqlx::{Error, PgConnection};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::{
    PostgresStore,
    changes::{Position, Probe, Reading},
    connector::Connector,
    questions::{PruneFrom, answer, prune, read},
    server,
    triggers::NO_TRIGGERS,
};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    random::random,
    store::{
        error::StoreError,
        messages::event,
        reconnect::{Heartbeat, Question, TIME_LIMIT},
        sql::schema_name::SchemaName,
    },
};

/// Time from one reading to the next, unless it is set otherwise.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// The range of that time.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(500)];

/// Time from one look for what may be deleted to the next.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10);

/// Time limit of beginning to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The error of a source that does not read what it writes.
const NOT_READ: &str = "what the source has written it cannot read; connect to the primary, and not by \
     a pooler that sends queries to replicas";

/// Receives what any client changes in the tables of a [`PostgresStore`].
///
/// Triggers, which [`migrate`](PostgresStore::migrate) creates, write each change into a table, in the
/// transaction that makes it, so that a row deleted by hand counts too. What is written while triggers
/// are off (`session_replication_role = replica`, logical replication) is not announced.
///
/// The source has a connection of its own, by which it reads that table every 25 ms, or
/// [as often as you say](Self::poll_interval). Once a second it writes a message there, and reports that
/// it is [`Alive`](SourceEvent::Alive) when it has read it. If an answer does not arrive within a second,
/// the source reports that it is [`Disconnected`](SourceEvent::Disconnected), and reconnects by itself.
/// Then it reads what was written meanwhile and reports that it has
/// [`Resumed`](SourceEvent::Resumed). If that is not there any more, after more than a minute, or if the
/// server was started again or is another one, it reports [`Invalidation::All`]. Dropping the source
/// closes its connection.
///
/// ```no_run
/// use customer_session::{CustomerSessions, store::{Peppers, PostgresStore}};
///
/// # async fn start(url: &str, peppers: Peppers) -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::connect(url, peppers).await?;
/// store.migrate().await?;
/// let source = store.invalidations().await?;
/// let sessions = CustomerSessions::builder(store).build();
/// tokio::spawn(sessions.listen(source));
/// # Ok(())
/// # }
/// ```
///
/// It works behind a pooler in transaction mode too: it sends nothing but simple queries.
pub struct PostgresInvalidations {
    connector: Connector,
    schema: SchemaName,
    poll_interval: Duration,
    link: Option<Link>,
    /// What has been read, and not lost with a connection.
    position: Option<Position>,
    /// The next connection begins with what was missed for good.
    has_missed: bool,
    /// What was read and not reported yet.
    events: VecDeque<SourceEvent>,
    heartbeat: Heartbeat,
    /// Dropping a connection takes a runtime.
    runtime: Handle,
}

/// The connection of a source. Dropping it closes it.
struct Link {
    work: Work,
    /// Its first probe was read.
    is_heard: bool,
    /// A probe is due.
    must_ask: bool,
    probe: Option<Probe>,
    read_at: Instant,
    prune_at: Instant,
    prune_from: PruneFrom,
}

/// What a connection is doing. It goes on when a call of `recv` is dropped.
enum Work {
    Connecting(Question<Result<PgConnection, Error>>),
    /// For the time of the next reading.
    Waiting(Option<PgConnection>),
    Reading(Question<Result<(PgConnection, Option<Reading>), Error>>),
    Pruning(Question<Result<(PgConnection, Option<u64>), Error>>),
}

impl PostgresInvalidations {
    /// Begins to listen on the server at `url`, which is as for
    /// [`PostgresStore::connect`](PostgresStore::connect). If there is a store in the same
    /// process, [`PostgresStore::invalidations`](PostgresStore::invalidations) repeats
    /// nothing, and knows the schema.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::StoreErrorKind::Unavailable) if the URL is not one of PostgreSQL, if it
    /// leads over a network without TLS, if the server cannot be reached or refuses, if tables or
    /// triggers are missing, or if a message that the source writes cannot be read.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let connector = Connector::new(server::options(url)?, false, None);
        Self::listen(connector, SchemaName::default()).await
    }

    pub(super) async fn listen(
        connector: Connector,
        schema: SchemaName,
    ) -> Result<Self, StoreError> {
        let mut source = Self {
            connector,
            schema,
            poll_interval: POLL_INTERVAL,
            link: None,
            position: None,
            has_missed: true,
            events: VecDeque::new(),
            heartbeat: Heartbeat::connected(Invalidation::All, std::time::Instant::now()),
            runtime: Handle::current(),
        };
        let until = Instant::now() + LISTEN_TIMEOUT;
        while !source.link.as_ref().is_some_and(|link| link.is_heard) {
            if Instant::now() > until {
                return Err(StoreError::unavailable(NOT_READ));
            }
            source.advance().await?;
        }
        Ok(source)
    }

    /// Sets the time from one reading of the changes to the next, from 1 ms to 500 ms; 25 ms by default.
    /// It is what a change takes to be heard, and what listening costs the database: forty short queries a
    /// second for each node by default.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = within_range(interval);
        self
    }

    /// Goes one step on. Cancel-safe.
    async fn advance(&mut self) -> Result<(), StoreError> {
        let Some(link) = &mut self.link else {
            self.heartbeat.wait_for_retry().await;
            self.link = Some(Link::connecting(&self.connector)?);
            return Ok(());
        };
        match &mut link.work {
            Work::Connecting(connection) => {
                let connection = answer(&self.connector, connection).await?;
                link.work = Work::Waiting(Some(connection));
            }
            Work::Waiting(connection) => {
                sleep_until(link.read_at.min(self.heartbeat.ask_at())).await;
                let lost = || StoreError::unavailable("the connection is lost");
                let connection = connection.take().ok_or_else(lost)?;
                link.must_ask |= self.heartbeat.is_due();
                // Without a position, the reading only says where to begin.
                let asks = link.must_ask && link.probe.is_none() && self.position.is_some();
                if asks {
                    link.must_ask = false;
                    link.probe = Some(Probe::new());
                }
                let probe = link.probe.clone().filter(|_| asks);
                let reading = read(
                    connection,
                    self.schema.clone(),
                    probe,
                    self.position.clone(),
                );
                link.work = Work::Reading(Question::new(reading));
            }
            Work::Reading(reading) => {
                let (connection, reading) = answer(&self.connector, reading).await?;
                let Some(reading) = reading else {
                    self.has_missed = true;
                    return Err(StoreError::unavailable(NO_TRIGGERS));
                };
                link.read_at = Instant::now() + self.poll_interval;
                link.work = match link.next_pruning() {
                    None => Work::Waiting(Some(connection)),
                    Some(from) => {
                        let pruning = prune(connection, self.schema.clone(), from);
                        Work::Pruning(Question::new(pruning))
                    }
                };
                self.take(reading)?;
            }
            Work::Pruning(pruning) => {
                let (connection, next) = answer(&self.connector, pruning).await?;
                link.work = Work::Waiting(Some(connection));
                link.prune_from = next.map_or(PruneFrom::Mark, PruneFrom::Xid);
            }
        }
        Ok(())
    }

    /// Queues what a reading says.
    fn take(&mut self, reading: Reading) -> Result<(), StoreError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        self.position = Some(reading.position);
        let Some(changes) = &reading.changes else {
            // The probe, too, is not among them.
            link.probe = None;
            link.must_ask = true;
            if link.is_heard {
                self.events.push_back(Invalidation::All.into());
            } else {
                self.has_missed = true;
            }
            return Ok(());
        };
        let events = changes.iter().filter_map(|message| event(message));
        self.events.extend(events);
        let Some(probe) = &link.probe else {
            return Ok(());
        };
        let asked_at = probe.asked_at;
        if !probe.is_among(changes) {
            return match asked_at.elapsed() < TIME_LIMIT {
                true => Ok(()),
                false => Err(StoreError::unavailable(NOT_READ)),
            };
        }
        link.probe = None;
        if link.is_heard {
            self.events.push_back(SourceEvent::Alive { asked_at });
        } else {
            link.is_heard = true;
            let first = match std::mem::take(&mut self.has_missed) {
                true => Invalidation::All.into(),
                false => SourceEvent::Resumed,
            };
            self.heartbeat = Heartbeat::connected(first, asked_at);
        }
        Ok(())
    }

    fn on_lost(&mut self) {
        let link = self.link.take();
        if link.is_some_and(|link| link.is_heard) {
            self.heartbeat.on_disconnect();
        } else {
            self.heartbeat.on_failed_attempt();
        }
    }
}

impl PostgresStore {
    /// Begins to listen to what any client changes in the tables of this store, with the store's own
    /// connection options and schema, and with the password that it would use itself. Over a pool of the
    /// application's own, each new connection has the options that the pool has at that time.
    ///
    /// # Errors
    ///
    /// Those of [`PostgresInvalidations::connect`].
    pub async fn invalidations(&self) -> Result<PostgresInvalidations, StoreError> {
        let schema = self.sql.schema.clone();
        PostgresInvalidations::listen(self.connector.clone(), schema).await
    }
}

impl Link {
    fn connecting(connector: &Connector) -> Result<Self, StoreError> {
        // Forty statements a second are not for the log.
        let connecting = connector.connect_silently()?;
        Ok(Self {
            work: Work::Connecting(Question::new(connecting)),
            is_heard: false,
            must_ask: true,
            probe: None,
            read_at: Instant::now(),
            prune_at: Instant::now() + jitter(),
            prune_from: PruneFrom::Beginning,
        })
    }

    /// Returns where to prune from, if that is due.
    fn next_pruning(&mut self) -> Option<PruneFrom> {
        let now = Instant::now();
        if !matches!(self.prune_from, PruneFrom::Xid(_)) {
            if !self.is_heard || now < self.prune_at {
                return None;
            }
            self.prune_at = now + PRUNE_INTERVAL + jitter();
        }
        Some(self.prune_from)
    }
}

fn within_range(interval: Duration) -> Duration {
    let [min, max] = POLL_INTERVALS;
    interval.clamp(min, max)
}

/// Keeps nodes out of step.
fn jitter() -> Duration {
    Duration::from_millis(random() % 1_000)
}

#[async_trait]
impl InvalidationSource for PostgresInvalidations {
    async fn recv(&mut self) -> Option<SourceEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some(event) = self.heartbeat.take_pending() {
                return Some(event);
            }
            if self.advance().await.is_err() {
                self.on_lost();
            }
        }
    }
}

/// The source may be dropped outside a runtime, or after its runtime has ended.
impl Drop for PostgresInvalidations {
    fn drop(&mut self) {
        let _there = self.runtime.enter();
        self.link = None;
    }
}

impl fmt::Debug for PostgresInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_connected = self.link.as_ref().is_some_and(|link| link.is_heard);
        f.debug_struct("PostgresInvalidations")
            .field("poll_interval", &self.poll_interval)
            .field("connected", &is_connected)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_interval_stays_within_its_range() {
        let millis = Duration::from_millis;
        for (set, used) in [
            (Duration::ZERO, millis(1)),
            (millis(40), millis(40)),
            (Duration::MAX, millis(500)),
        ] {
            assert_eq!(within_range(set), used);
        }
    }
}
