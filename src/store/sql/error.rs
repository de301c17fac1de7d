//! What errors of the driver mean.

use std::{borrow::Cow, fmt};

use sqlx::{Error, error::DatabaseError};

use crate::store::error::{ContextError, StoreError};

/// Converts an error of the driver; `context` says what was attempted.
pub(super) fn store_error(context: impl Into<String>, error: Error) -> StoreError {
    let mut context = context.into();
    match error {
        Error::Database(cause) => return database_error(context, &*cause),
        Error::ColumnDecode { .. } | Error::Decode(_) => {
            return StoreError::corrupt(ContextError::new(context, error));
        }
        Error::PoolTimedOut => context.push_str(
            ": no connection is available; either the database is down, or all connections of \
             the pool are in use",
        ),
        Error::Tls(ref cause) => context.push_str(tls_advice(&cause.to_string())),
        // The driver's TLS reports a certificate so.
        Error::Io(ref cause) if cause.to_string().contains("certificate") => {
            context.push_str(tls_advice(""));
        }
        _ => {}
    }
    StoreError::unavailable(ContextError::new(context, error))
}

/// Returns `true` if the error is that of a connection, not of what was asked: it was lost, or what it
/// has prepared does not fit any more. Another connection may answer.
pub(super) fn is_of_connection(error: &Error) -> bool {
    match error {
        Error::Io(_) => true,
        Error::Database(cause) => cause
            .code()
            .is_some_and(|code| is_code_of_connection(&code)),
        _ => false,
    }
}

/// Returns `true` for PostgreSQL's codes of lost connections and of statements that were prepared
/// before a table was altered, or that something else has forgotten or has prepared.
fn is_code_of_connection(code: &str) -> bool {
    // A plan whose result would change its type has no code of its own: 0A000.
    let whole = ["57P01", "57P02", "57P05", "0A000", "26000", "42P05"];
    code.len() == 5 && (code.starts_with("08") || whole.contains(&code))
}

/// Converts an error that the database reports.
fn database_error(mut context: String, cause: &dyn DatabaseError) -> StoreError {
    // The constraint is that of an id, or of a token's hash.
    if cause.is_unique_violation() {
        return StoreError::conflict(format!("{context}: its id or its token is taken"));
    }
    let error = ReportedError::new(cause);
    match cause.code().as_deref() {
        Some("57014") => StoreError::timeout(ContextError::new(context, error)),
        Some(code) if is_refused_value(code) => {
            StoreError::corrupt(ContextError::new(context, error))
        }
        code => {
            context.push_str(advice(code, cause));
            StoreError::unavailable(ContextError::new(context, error))
        }
    }
}

/// An error of a database without the values of a row. The driver's error also has a detail, a hint and
/// a place, which may show the whole row of a customer. A trigger of the application that raises a code
/// of PostgreSQL's own, with a text of its own, is taken for PostgreSQL.
#[derive(Debug)]
struct ReportedError {
    code: Option<String>,
    message: Option<String>,
    table: Option<String>,
    constraint: Option<String>,
}

impl ReportedError {
    fn new(cause: &dyn DatabaseError) -> Self {
        let code = cause.code().map(Cow::into_owned);
        let shows_values = code
            .as_deref()
            .is_none_or(|code| may_show_values(code, cause.table()));
        Self {
            code,
            message: (!shows_values).then(|| cause.message().to_owned()),
            table: cause.table().map(str::to_owned),
            constraint: cause.constraint().map(str::to_owned),
        }
    }
}

impl fmt::Display for ReportedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or(
            "the database refuses it, in words that may show a customer's data and are left out",
        ))?;
        let names = [
            ("code", &self.code),
            ("table", &self.table),
            ("constraint", &self.constraint),
        ];
        let mut separator = " (";
        for (name, value) in names {
            if let Some(value) = value {
                write!(f, "{separator}{name} {value}")?;
                separator = ", ";
            }
        }
        f.write_str(if separator == ", " { ")" } else { "" })
    }
}

impl std::error::Error for ReportedError {}

/// Returns `true` if the message of an error with this code may show values of a row.
fn may_show_values(code: &str, table: Option<&str>) -> bool {
    // Codes of SQLite are numbers. This one is that of a trigger with a text of its own.
    if code.len() != 5 {
        return code == "1811";
    }
    match &code[..2] {
        // A violated constraint: PostgreSQL's own messages name the table, and only names. Those
        // of a trigger or a function name none.
        "23" | "44" => table.is_none(),
        "08" | "0A" | "25" | "26" | "28" | "3D" | "3F" | "40" | "42" | "53" | "54" | "55"
        | "57" | "58" | "XX" => false,
        // Values out of range ("22"), texts of triggers and functions ("P0", "38"), and others.
        _ => true,
    }
}

/// Returns `true` for PostgreSQL's codes of values that it cannot hold, that a constraint
/// refuses, or that are too long.
fn is_refused_value(code: &str) -> bool {
    let classes = ["22", "23514", "54"];
    code.len() == 5 && classes.iter().any(|class| code.starts_with(class))
}

/// Returns what to do about an error of TLS, to be appended to its context.
fn tls_advice(cause: &str) -> &'static str {
    if cause.contains("built without TLS") {
        ": TLS is not compiled in; enable the feature `postgres-rustls` of customer-session"
    } else if cause.contains("does not support TLS") {
        ": the server has no TLS; switch it on there (ssl = on)"
    } else {
        ": the server's certificate is not accepted; name its authority with ?sslrootcert=, and the \
         host as the certificate does"
    }
}

/// Returns what to do about an error, to be appended to its context.
fn advice(code: Option<&str>, cause: &dyn DatabaseError) -> &'static str {
    match code {
        Some("42P07" | "42723") => {
            ": some of the tables or functions exist already; create what is missing of \
             `MIGRATIONS` by hand, or choose another schema with `PostgresStore::builder`"
        }
        Some("3F000") => {
            ": there is no such schema; create it first with CREATE SCHEMA, or name another one with \
             `PostgresStore::builder`"
        }
        Some("42501") => {
            ": the role lacks a privilege; `migrate()` needs a role that may create tables, and the \
             rest one with USAGE on the schema that may read and write the rows of our tables"
        }
        Some("25006") => {
            ": nothing can be written here, by the server's settings or the role's, or because it is a \
             replica; connect to the primary, by a role that may write"
        }
        Some("28P01") => {
            ": the server refuses the password; check that of the URL, or what \
             `PostgresStoreBuilder::password_provider` returns"
        }
        Some("3D000") => ": there is no such database; create it first, or name another in the URL",
        Some("53300") => {
            ": the server has no connection left; raise its max_connections, or lower that of \
             `PostgresStore::builder` on each machine"
        }
        Some("28000") => {
            ": the server lets this role in from here by no rule of its pg_hba.conf; if it demands \
             TLS, add ?sslmode=verify-full (or require) to the URL"
        }
        Some("55P03") => {
            ": another machine migrates, or holds a lock on the tables; try again later"
        }
        // The first byte of SQLite's codes is 5: it is busy.
        Some("5" | "261" | "517" | "773") => {
            ": another process or pool writes to the file for longer than the busy timeout; end its \
             transaction, or wait longer by `busy_timeout` of `SqliteStore::builder`"
        }
        code if code == Some("42P01") || cause.message().starts_with("no such table") => {
            ": a table is missing; call `migrate()` when the service starts, or apply the SQL in \
             `MIGRATIONS` yourself"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_kept_only_if_it_shows_no_value() {
        for (code, table, shows_values) in [
            ("23514", Some("customers"), false),
            ("23514", None, true),
            ("22P02", Some("customers"), true),
            ("P0001", None, true),
            ("ZZ001", None, true),
            ("42P01", None, false),
            ("57014", None, false),
            ("275", None, false),
            ("1811", None, true),
        ] {
            assert_eq!(may_show_values(code, table), shows_values, "{code}");
        }
    }

    #[test]
    fn what_another_connection_may_answer_is_told_by_the_code() {
        for code in ["57P01", "57P05", "08006", "0A000", "26000"] {
            assert!(is_code_of_connection(code), "{code}");
        }
        // A statement that took too long, a table that is missing, a server that starts, SQLite's.
        for code in ["57014", "42P01", "57P03", "23505", "08", "8", ""] {
            assert!(!is_code_of_connection(code), "{code}");
        }
    }

    #[test]
    fn tls_that_is_not_compiled_in_is_told_from_what_the_server_lacks() {
        let error = |cause: &'static str| store_error("connecting", Error::Tls(cause.into()));
        let text = |error: &StoreError| std::error::Error::source(error).expect("one").to_string();
        let missing = "TLS upgrade required by connect options but SQLx was built without TLS \
             support enabled";
        assert!(text(&error(missing)).contains("feature `postgres-rustls`"));
        assert!(text(&error("server does not support TLS")).contains("ssl = on"));
        assert!(text(&error("UnknownIssuer")).contains("sslrootcert"));
    }

    #[test]
    fn a_report_lists_what_it_has() {
        let mut error = ReportedError {
            code: Some("23502".to_owned()),
            message: Some("null value".to_owned()),
            table: Some("customers".to_owned()),
            constraint: None,
        };
        assert_eq!(
            error.to_string(),
            "null value (code 23502, table customers)"
        );
        error.message = None;
        assert!(error.to_string().contains("left out (code 23502"));
    }
}
