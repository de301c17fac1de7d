//! What errors of the driver mean.

use sqlx::{Error, error::DatabaseError};

use crate::store::error::{ContextError, StoreError};

/// Converts an error of the driver; `context` says what was attempted.
pub(super) fn store_error(context: impl Into<String>, error: Error) -> StoreError {
    let mut context = context.into();
    match &error {
        Error::ColumnDecode { .. } | Error::Decode(_) => {
            return StoreError::corrupt(ContextError::new(context, error));
        }
        // The driver's text would contain the hash of a token.
        Error::Database(cause) if cause.is_unique_violation() => {
            return StoreError::conflict(format!("{context}: its id or its token is taken"));
        }
        Error::Database(cause) => match cause.code().as_deref() {
            Some("57014") => return StoreError::timeout(ContextError::new(context, error)),
            Some(code) if is_refused_value(code) => {
                return StoreError::corrupt(ContextError::new(context, error));
            }
            code => context.push_str(advice(code, &**cause)),
        },
        Error::PoolTimedOut => context.push_str(
            ": no connection is available; either the database is down, or all connections of \
             the pool are in use",
        ),
        _ => {}
    }
    StoreError::unavailable(ContextError::new(context, error))
}

/// Returns `true` for PostgreSQL's codes of values that it cannot hold, that a constraint
/// refuses, or that are too long.
fn is_refused_value(code: &str) -> bool {
    let classes = ["22", "23514", "54"];
    code.len() == 5 && classes.iter().any(|class| code.starts_with(class))
}

/// Returns what to do about an error, to be appended to its context.
fn advice(code: Option<&str>, cause: &dyn DatabaseError) -> &'static str {
    match code {
        Some("42P07" | "42723") => {
            ": some of the tables or functions exist already; create what is missing of \
             `MIGRATIONS` by hand, or choose another schema with `PostgresStore::builder`"
        }
        Some("3F000") => {
            ": the schema does not exist; create it first, as its owner or with CREATE SCHEMA"
        }
        Some("42501") => {
            ": the role lacks a privilege; `migrate()` needs a role that may create tables, and the \
             rest one that may read and write their rows"
        }
        code if code == Some("42P01") || cause.message().starts_with("no such table") => {
            ": a table is missing; call `migrate()` when the service starts, or apply the SQL in \
             `MIGRATIONS` yourself"
        }
        _ => "",
    }
}
