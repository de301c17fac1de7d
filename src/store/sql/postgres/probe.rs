//! Messages that a listener sends to itself, to learn whether it still hears.
//!
//! They are sent over a connection of their own: hearing never waits for a question, nor a question
//! for what is heard. A pooler by transaction, which answers queries and passes no notification on,
//! is noticed too. Over the listener's own connection it would not be, since such a pooler passes
//! on what arrives while it has a query to answer.

use std::{future::pending, time::Instant};

use sqlx::{
    AssertSqlSafe, Connection as _, Error, PgConnection, Row as _, SqlSafeStr as _, SqlStr,
    postgres::PgConnectOptions,
};

use crate::{
    random::random,
    store::{
        error::{ContextError, StoreError},
        reconnect::{Question, TIME_LIMIT},
        sql::{error::store_error, schema_name::SchemaName},
    },
};

/// The error where a trigger is missing.
pub(super) const NO_TRIGGERS: &str = "triggers that announce changes are missing or switched off; drop \
     what is left of the tables and run `PostgresStore::migrate`, or create and enable the triggers \
     as `MIGRATIONS` does";

/// Returns what selects the channel on which changes are announced, if all triggers exist that
/// announce them.
pub(super) fn channel_query(schema: &SchemaName) -> SqlStr {
    let [sessions, customers] =
        ["customer_sessions", "customer_session_customers"].map(|name| schema.qualified(name));
    let query = format!(
        "SELECT 'customer_sessions_' || tables.sessions::oid::text \
         FROM (SELECT to_regclass('{sessions}') AS sessions, \
         to_regclass('{customers}') AS customers) AS tables \
         WHERE (SELECT count(*) FROM pg_trigger WHERE tgenabled IN ('O', 'A') \
         AND (tgrelid = tables.sessions AND tgname IN ('customer_sessions_deleted', \
         'customer_sessions_updated', 'customer_sessions_truncated') \
         OR tgrelid = tables.customers AND tgname IN ('customer_session_customers_deleted', \
         'customer_session_customers_updated', 'customer_session_customers_truncated'))) = 6"
    );
    AssertSqlSafe(query).into_sql_str()
}

/// The attempt that errors name. A pooler by transaction may pass the message on to the connection
/// that has sent it, which the driver does not expect.
const CONTEXT: &str = "sending a message to the listener itself, which works through no pooler by \
     transaction (connect to the server itself)";

/// Sends messages to one listener.
pub(super) struct Probe {
    /// Channel to which this listener alone listens.
    channel: String,
    /// Selects the channel on which changes are announced.
    channel_query: SqlStr,
    /// Connection over which messages are sent, while none is being sent.
    connection: Option<PgConnection>,
    message: Option<Message>,
}

/// A message under way.
struct Message {
    asked_at: Instant,
    payload: String,
    /// Resolves when the server has taken the message.
    sending: Option<Question<Result<Receipt, Error>>>,
    has_arrived: bool,
    /// Time by which the message must have arrived.
    deadline: tokio::time::Instant,
}

/// The server's answer to a message, with the connection that it came by.
struct Receipt {
    connection: PgConnection,
    /// Channel on which changes are announced now.
    announced_on: Option<String>,
}

impl Probe {
    /// Opens the connection over which messages are sent.
    pub(super) async fn connect(
        options: &PgConnectOptions,
        channel_query: SqlStr,
    ) -> Result<Self, Error> {
        Ok(Self {
            channel: format!("customer_sessions_probe_{:016x}", random()),
            channel_query,
            connection: Some(PgConnection::connect_with(options).await?),
            message: None,
        })
    }

    /// Returns the channel to which the listener must listen.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Returns the time by which the message under way must have arrived.
    pub(super) fn deadline(&self) -> Option<tokio::time::Instant> {
        self.message.as_ref().map(|message| message.deadline)
    }

    /// Returns `true` if no message is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.message.is_none()
    }

    /// Begins to send a message, unless one is under way. [`sent`](Self::sent) goes on with it.
    pub(super) fn start(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let payload = format!("{:016x}", random());
        // The message need not survive a crash, so it waits neither for the disk nor for a
        // synchronous replica.
        let statement = format!(
            "SELECT ({}), set_config('synchronous_commit', 'off', true), \
             pg_notify('{}', '{payload}')",
            self.channel_query.as_str(),
            self.channel
        );
        let sending = Question::new(async move {
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            let row = statement.fetch_one(&mut connection).await?;
            let announced_on = row.try_get(0)?;
            Ok(Receipt {
                connection,
                announced_on,
            })
        });
        self.message = Some(Message {
            asked_at: sending.asked_at,
            payload,
            sending: Some(sending),
            has_arrived: false,
            deadline: tokio::time::Instant::now() + TIME_LIMIT,
        });
    }

    /// Waits until the server has taken the message, and returns the channel on which it announces
    /// changes, if all triggers exist. Never resolves if no message is being sent. Cancel-safe.
    pub(super) async fn sent(&mut self) -> Result<Option<String>, StoreError> {
        let sending = self.message.as_mut();
        let Some(sending) = sending.and_then(|message| message.sending.as_mut()) else {
            return pending().await;
        };
        let answer = sending.answer().await;
        if let Some(message) = &mut self.message {
            message.sending = None;
        }
        let receipt = answer
            .map_err(|elapsed| StoreError::timeout(ContextError::new(CONTEXT, elapsed)))?
            .map_err(|error| store_error(CONTEXT, error))?;
        self.connection = Some(receipt.connection);
        Ok(receipt.announced_on)
    }

    /// Records a message that has arrived on [`channel`](Self::channel).
    pub(super) fn on_arrival(&mut self, payload: &str) {
        if let Some(message) = &mut self.message {
            message.has_arrived |= message.payload == payload;
        }
    }

    /// Records that something else has arrived, behind which the message may be.
    pub(super) fn on_backlog(&mut self) {
        if let Some(message) = &mut self.message {
            message.deadline = tokio::time::Instant::now() + TIME_LIMIT;
        }
    }

    /// Returns the time at which the message was sent, once it has arrived and the server's answer
    /// has come.
    pub(super) fn take_answer(&mut self) -> Option<Instant> {
        let message = self.message.as_ref();
        let answered = message.filter(|message| message.has_arrived && message.sending.is_none());
        let asked_at = answered?.asked_at;
        self.message = None;
        Some(asked_at)
    }
}
