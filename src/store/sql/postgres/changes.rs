//! The table in which changes are announced, and how a reader misses none of them.
//!
//! Rows become visible when their transaction is committed, in another order than numbers are given
//! out. So a reader remembers the *snapshot* in which it has read: next it reads what was not visible
//! in that one. It never waits for a transaction that is under way, however long that takes.

use std::{fmt::Write as _, num::ParseIntError, str::FromStr, time::Instant};

use sqlx::{AssertSqlSafe, Error, PgConnection, Row as _, postgres::PgRow};

use super::triggers;
use crate::{random::random, store::sql::schema_name::SchemaName};

/// Changes that are read at once. Of more, the reader only learns that they are more.
const MAX_CHANGES: usize = 10_000;

/// Rows that are deleted at once.
const PRUNED_AT_ONCE: usize = 1_000;

/// Marks what may be deleted now, and what may be when that has been visible to all for a minute.
/// A reader whose snapshot is older notices that by `pruned_below`, which is committed before anything is
/// deleted. Returns what was marked before.
const MARK: &str = "UPDATE customer_session_pruning p SET pruned_below = p.next_below, \
     next_below = pg_snapshot_xmin(pg_current_snapshot()), next_since = clock_timestamp() \
     FROM customer_session_pruning before \
     WHERE p.next_since < clock_timestamp() - interval '1 minute' \
     RETURNING before.pruned_below::text";

/// Marks nothing, if what was marked are transactions that are yet to come: the tables were restored
/// from another server.
const MARK_NOTHING: &str = "UPDATE customer_session_pruning \
     SET pruned_below = pg_snapshot_xmin(pg_current_snapshot()), \
     next_below = pg_snapshot_xmin(pg_current_snapshot()), next_since = clock_timestamp() \
     WHERE pruned_below > pg_snapshot_xmax(pg_current_snapshot())";

/// Begins a message that waits for no lock beyond the time limit of the source, which would open another
/// connection while the server process of the first one waits on.
const IN_TIME: &str = "SET LOCAL statement_timeout = '900ms'; ";

/// Begins a message whose commit waits neither for the disk nor for a replica. What it writes may be
/// lost by a crash, and then all is distrusted.
const WITHOUT_WAITING: &str = "SET LOCAL synchronous_commit = off; ";

/// Which transactions had ended at a moment: those before `xmax` but for those in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    /// All before it had ended.
    xmin: u64,
    /// None from it on had ended.
    xmax: u64,
    in_progress: Vec<u64>,
}

/// What a reader has read: all that was visible in a snapshot of a server.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// The start of the server, what a crash has left of it, and the identity of the table. Another one
    /// is another database, or the same as of another time. None if no reader has asked since a crash.
    origin: Option<String>,
    snapshot: Snapshot,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) position: Position,
    /// The messages that were not visible before; `None` if they are not known any more, or too many.
    pub(super) changes: Option<Vec<String>>,
    /// Transactions that are yet to come are marked as deleted.
    is_marked_ahead: bool,
}

/// A message that a reader writes, to see whether it reads what is written.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    message: String,
    pub(super) asked_at: Instant,
}

impl FromStr for Snapshot {
    type Err = ParseIntError;

    /// Parses `xmin:xmax:xid,xid`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let mut next = || parts.next().unwrap_or_default();
        let (xmin, xmax) = (next().parse()?, next().parse()?);
        let in_progress = next().split(',').filter(|xid| !xid.is_empty());
        let in_progress: Result<_, _> = in_progress.map(str::parse).collect();
        Ok(Self {
            xmin,
            xmax,
            in_progress: in_progress?,
        })
    }
}

impl Snapshot {
    /// Returns a query for the messages that are visible now and were not then. Two ranges of the
    /// index: no more is read than is new, even if the oldest transaction is very old.
    ///
    /// What a backup of another server has brought along may be of transactions that are yet to come
    /// here.
    fn unseen(&self) -> String {
        const MESSAGES: &str = "SELECT message FROM customer_session_changes WHERE xid";
        let mut query = format!("{MESSAGES} >= '{}'::xid8 AND xid < s.xmax", self.xmax);
        if let Some((first, others)) = self.in_progress.split_first() {
            let _ = write!(query, " UNION ALL {MESSAGES} IN ('{first}'::xid8");
            for xid in others {
                let _ = write!(query, ", '{xid}'::xid8");
            }
            query.push(')');
        }
        query
    }
}

impl Reading {
    /// Reads what has changed since `position`.
    pub(super) async fn new(
        connection: &mut PgConnection,
        schema: &SchemaName,
        position: Option<&Position>,
    ) -> Result<Self, Error> {
        let statement = Self::statement(position);
        let statement = AssertSqlSafe(schema.qualified(&statement));
        let rows = sqlx::raw_sql(statement).fetch_all(connection).await?;
        Self::read(&rows, position)
    }

    /// Returns one simple message, whose answer no pooler can mix up with another.
    ///
    /// The limit tells the planner, which knows nothing of a table of one row, that there is one: else
    /// it would take the statement for one that is worth compiling.
    fn statement(position: Option<&Position>) -> String {
        let unseen = position.map_or_else(
            || "SELECT NULL::text AS message WHERE false".to_owned(),
            |position| position.snapshot.unseen(),
        );
        format!(
            "{IN_TIME}WITH s AS MATERIALIZED (SELECT pg_current_snapshot()::text AS snapshot, \
             pg_snapshot_xmax(pg_current_snapshot()) AS xmax, \
             extract(epoch FROM pg_postmaster_start_time())::text || ' ' \
             || 'customer_session_changes'::regclass::oid::text || ' ' \
             || (SELECT number::text FROM customer_session_incarnation) AS origin, \
             pruned_below::text AS pruned_below FROM customer_session_pruning LIMIT 1) \
             SELECT s.snapshot, s.origin, s.pruned_below, c.message \
             FROM s LEFT JOIN LATERAL ({unseen} LIMIT {}) c ON true",
            MAX_CHANGES + 1
        )
    }

    fn read(rows: &[PgRow], position: Option<&Position>) -> Result<Self, Error> {
        let first = rows
            .first()
            .ok_or_else(|| Error::Protocol("customer_session_pruning has lost its row".into()))?;
        let number = |error: ParseIntError| Error::Decode(error.into());
        let snapshot: String = first.try_get(0)?;
        let pruned_below: String = first.try_get(2)?;
        let pruned_below: u64 = pruned_below.parse().map_err(number)?;
        let now = Position {
            snapshot: snapshot.parse().map_err(number)?,
            origin: first.try_get(1)?,
        };
        let is_complete = rows.len() <= MAX_CHANGES
            && position.is_some_and(|position| position.leads_to(&now, pruned_below));
        let messages = rows.iter().filter_map(|row| row.try_get(3).transpose());
        let messages: Vec<String> = messages.collect::<Result<_, Error>>()?;
        Ok(Self {
            is_marked_ahead: pruned_below > now.snapshot.xmax,
            position: now,
            changes: is_complete.then_some(messages),
        })
    }

    /// Puts right what makes every reading incomplete.
    pub(super) async fn repair(
        &self,
        connection: &mut PgConnection,
        schema: &SchemaName,
    ) -> Result<(), Error> {
        if self.is_marked_ahead {
            let statement = format!("{IN_TIME}{WITHOUT_WAITING}{MARK_NOTHING}");
            let statement = AssertSqlSafe(schema.qualified(&statement));
            sqlx::raw_sql(statement).execute(connection).await?;
        }
        Ok(())
    }
}

impl Position {
    /// Returns `true` if nothing is missing in what was read from here to `now`.
    fn leads_to(&self, now: &Self, pruned_below: u64) -> bool {
        self.origin.is_some() && self.origin == now.origin && self.snapshot.xmin >= pruned_below
    }
}

impl Probe {
    pub(super) fn new() -> Self {
        Self {
            message: format!("probe:{:016x}", random()),
            asked_at: Instant::now(),
        }
    }

    /// Writes the message, and the number that the next crash removes. Returns `false` if it has not
    /// written the message, because a trigger is missing.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        schema: &SchemaName,
    ) -> Result<bool, Error> {
        let insert = schema.qualified(&format!(
            "{IN_TIME}{WITHOUT_WAITING}WITH first AS (INSERT INTO customer_session_incarnation \
             DEFAULT VALUES ON CONFLICT DO NOTHING) \
             INSERT INTO customer_session_changes (message)"
        ));
        let statement = format!(
            "{insert} SELECT '{}' WHERE {}",
            self.message,
            triggers::all_enabled(schema)
        );
        let written = sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection);
        Ok(written.await?.rows_affected() > 0)
    }

    pub(super) fn is_among(&self, changes: &[String]) -> bool {
        changes.contains(&self.message)
    }
}

/// Marks what may be deleted, once a minute. Returns the transactions before which it was marked before,
/// for the one reader that has to delete it.
pub(super) async fn mark_prunable(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Option<u64>, Error> {
    let statement = schema.qualified(&format!("{IN_TIME}{WITHOUT_WAITING}{MARK}"));
    let marked = sqlx::raw_sql(AssertSqlSafe(statement)).fetch_optional(connection);
    marked.await?.as_ref().map(xid).transpose()
}

fn xid(row: &PgRow) -> Result<u64, Error> {
    let xid: String = row.try_get(0)?;
    xid.parse()
        .map_err(|error: ParseIntError| Error::Decode(error.into()))
}

/// Deletes some of what all readers have seen, of the transaction `from` and later ones. Returns the
/// transaction to go on with, or `None` at the end.
///
/// An old snapshot, such as that of a backup, keeps in the index what was deleted before `from`.
pub(super) async fn prune(
    connection: &mut PgConnection,
    schema: &SchemaName,
    from: u64,
) -> Result<Option<u64>, Error> {
    let statement = format!(
        "{IN_TIME}{WITHOUT_WAITING}DELETE FROM customer_session_changes WHERE ctid = ANY (ARRAY(\
         SELECT c.ctid FROM customer_session_changes c WHERE c.xid >= '{from}'::xid8 \
         AND c.xid < (SELECT pruned_below FROM customer_session_pruning) \
         ORDER BY c.xid, c.number LIMIT {PRUNED_AT_ONCE} FOR UPDATE SKIP LOCKED)) \
         RETURNING xid::text"
    );
    let statement = AssertSqlSafe(schema.qualified(&statement));
    let rows = sqlx::raw_sql(statement).fetch_all(connection).await?;
    if rows.len() < PRUNED_AT_ONCE {
        return Ok(None);
    }
    let xids: Result<Vec<_>, _> = rows.iter().map(xid).collect();
    Ok(xids?.into_iter().max())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(origin: &str, snapshot: &str) -> Position {
        Position {
            origin: Some(origin.to_owned()),
            snapshot: snapshot.parse().expect("a snapshot"),
        }
    }

    #[test]
    fn a_snapshot_is_read_as_the_server_writes_it() {
        let snapshot: Snapshot = "10:20:10,14,19".parse().expect("a snapshot");
        assert_eq!((snapshot.xmin, snapshot.xmax), (10, 20));
        assert_eq!(snapshot.in_progress, [10, 14, 19]);
        let idle: Snapshot = "18446744073709551615:18446744073709551615:"
            .parse()
            .expect("a snapshot");
        assert!(idle.in_progress.is_empty());
        for malformed in ["", "1", "1:2:x", "-1:2:", "1;2", "1:2:3'"] {
            assert!(malformed.parse::<Snapshot>().is_err(), "{malformed}");
        }
    }

    #[test]
    fn what_was_under_way_is_asked_for_by_name() {
        let unseen = |snapshot: &str| position("", snapshot).snapshot.unseen();
        assert!(!unseen("7:7:").contains("UNION"));
        assert!(unseen("7:7:").contains(">= '7'::xid8"));
        assert!(unseen("3:9:3,5").ends_with("IN ('3'::xid8, '5'::xid8)"));
    }

    #[test]
    fn a_reader_that_may_miss_something_knows() {
        let now = position("server 1", "30:30:");
        assert!(position("server 1", "10:20:10").leads_to(&now, 10));
        assert!(
            !position("server 1", "10:20:10").leads_to(&now, 11),
            "it was deleted"
        );
        assert!(
            !position("server 2", "10:20:10").leads_to(&now, 10),
            "another server"
        );
        assert!(
            !position("server 1 again", "30:30:").leads_to(&now, 0),
            "a restart"
        );
        let crashed = Position {
            origin: None,
            ..now.clone()
        };
        assert!(!now.leads_to(&crashed, 0) && !crashed.leads_to(&now, 0));
        assert!(!crashed.leads_to(&crashed, 0), "how many crashes ago?");
    }
}
