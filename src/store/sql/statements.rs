//! How statements are sent to the database.

use sqlx::{
    Connection, Database, Error, IntoArguments, SqlSafeStr, Transaction,
    database::HasStatementCache, query::Query,
};

/// How a store sends its statements.
///
/// The driver parses a statement in one exchange, and binds and executes it in the next. A pooler in
/// transaction mode may give each exchange another connection of the server. A statement that was
/// parsed under a name is then missing there, or is another client's, and an unnamed one may be
/// replaced in between. Only a transaction keeps the exchanges together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatementMode {
    /// The connection keeps each statement under a name, parsed.
    Prepared,
    /// Each statement is parsed without a name, in a transaction.
    Unnamed,
}

/// What statements run on: a connection, or a transaction on it. Dropped without
/// [`end`](Self::end), the transaction is rolled back.
pub(super) enum Scope<'c, DB: Database> {
    Connection(&'c mut DB::Connection),
    Transaction(Transaction<'c, DB>),
}

impl StatementMode {
    /// Returns a statement with its parameters. It must run in a [`Scope`] or in a transaction.
    pub(super) fn query<DB>(
        self,
        statement: impl SqlSafeStr,
        parameters: DB::Arguments,
    ) -> Query<'static, DB, DB::Arguments>
    where
        DB: Database + HasStatementCache,
        DB::Arguments: IntoArguments<DB>,
    {
        sqlx::query_with(statement, parameters).persistent(self == Self::Prepared)
    }

    /// Begins what one or more statements run in: a transaction where they must not be parted.
    pub(super) async fn begin<DB: Database>(
        self,
        connection: &mut DB::Connection,
    ) -> Result<Scope<'_, DB>, Error> {
        Ok(match self {
            Self::Prepared => Scope::Connection(connection),
            Self::Unnamed => Scope::Transaction(connection.begin().await?),
        })
    }
}

impl<DB: Database> Scope<'_, DB> {
    /// Returns the connection itself.
    pub(super) fn as_mut(&mut self) -> &mut DB::Connection {
        match self {
            Self::Connection(connection) => connection,
            Self::Transaction(transaction) => transaction,
        }
    }

    /// Commits what ran in a transaction. The connection then waits for no answer.
    pub(super) async fn end(self) -> Result<(), Error> {
        match self {
            Self::Connection(_) => Ok(()),
            Self::Transaction(transaction) => transaction.commit().await,
        }
    }
}
