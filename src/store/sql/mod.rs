//! What SQL stores share: the statements that both databases understand, and the version of their
//! tables.
//!
//! Both databases take `$1` for a parameter. What only one of them understands stands beside the
//! code that binds it.

/// The columns of a customer, in the order in which [`rows::customer_params`] binds them.
macro_rules! customer_columns {
    () => {
        "id, organization_id, created_at, modified_at, metadata, external_id, email, \
         email_verified, kind, name, billing_name, billing_address, tax_id, locale, \
         default_payment_method_id, deleted_at, first_user_event_at, avatar_url"
    };
}

/// The columns of a session `s` and its customer `c`, in the order in which
/// [`session`](rows::session) reads them.
macro_rules! session_columns {
    () => {
        "s.id, s.token_hash, s.created_at, s.modified_at, s.expires_at, \
         c.id, c.organization_id, c.created_at, c.modified_at, \
         CAST(c.metadata AS text), c.external_id, c.email, c.email_verified, c.kind, c.name, \
         c.billing_name, CAST(c.billing_address AS text), CAST(c.tax_id AS text), c.locale, \
         c.default_payment_method_id, c.deleted_at, c.first_user_event_at, c.avatar_url, s.ends_at"
    };
}

/// True for a customer without sessions.
macro_rules! without_sessions {
    () => {
        "NOT EXISTS (SELECT 1 FROM customer_sessions s \
         WHERE s.customer_id = customer_session_customers.id)"
    };
}

/// Erases all of deleted customers but the id and the time of the deletion.
macro_rules! erase_customers {
    ($empty_json:literal, $not_verified:literal) => {
        concat!(
            "UPDATE customer_session_customers SET organization_id = '', created_at = deleted_at, \
             modified_at = NULL, metadata = ",
            $empty_json,
            ", external_id = NULL, email = NULL, email_verified = ",
            $not_verified,
            ", kind = 'individual', name = NULL, billing_name = NULL, billing_address = NULL, \
             tax_id = NULL, locale = NULL, default_payment_method_id = NULL, \
             first_user_event_at = NULL, avatar_url = NULL WHERE deleted_at IS NOT NULL AND ",
            without_sessions!()
        )
    };
}

mod customers;
mod error;
mod idle_connections;
#[cfg(feature = "postgres")]
pub(super) mod postgres;
mod rows;
mod schema;
#[cfg_attr(
    not(feature = "postgres"),
    allow(dead_code, reason = "SQLite has no schemas")
)]
mod schema_name;
#[cfg(feature = "sqlite")]
pub(super) mod sqlite;
#[cfg_attr(
    not(feature = "postgres"),
    allow(dead_code, reason = "SQLite has no poolers")
)]
mod statements;
mod store;

use self::{
    rows::{Columns, Parameters},
    schema_name::SchemaName,
};
use super::error::{StoreError, limit_is_reached};
use crate::{
    customer::CustomerId,
    registry::{Page, Revocation, SessionLimit},
    session::{CustomerSession, SessionSummary},
};

/// The columns of [`summary`](rows::summary), of a customer's sessions.
macro_rules! sessions_of_customer {
    () => {
        "SELECT id, customer_id, created_at, modified_at, expires_at, ends_at \
         FROM customer_sessions WHERE customer_id = $1"
    };
}

const LIST: &str = concat!(sessions_of_customer!(), " ORDER BY created_at, id LIMIT $2");
const LIST_AFTER: &str = concat!(
    sessions_of_customer!(),
    " AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4"
);
/// The sessions that count for a limit, oldest first.
const LIVE: &str = concat!(
    sessions_of_customer!(),
    " AND expires_at > $2 ORDER BY created_at, id"
);
const REVOKE: &str = "DELETE FROM customer_sessions WHERE id = $1";
const REVOKE_CUSTOMER: &str = "DELETE FROM customer_sessions WHERE customer_id = $1";
const REVOKE_OWNED: &str = "DELETE FROM customer_sessions WHERE id = $1 AND customer_id = $2";
/// The session to keep may be named by one that it has replaced.
const REVOKE_OTHERS: &str = "DELETE FROM customer_sessions \
     WHERE customer_id = $1 AND id <> $2 AND coalesce(family, id) <> coalesce(\
     (SELECT family FROM customer_session_rotations WHERE id = $2), $2)";
/// Returns the id that ended.
const REVOKE_FAMILY: &str = "DELETE FROM customer_sessions WHERE family = $1 RETURNING id";
/// Returns the customer of a session, and its family if the session was replaced.
const RESOLVE: &str = "SELECT customer_id, family FROM customer_session_rotations WHERE id = $1 \
     UNION ALL SELECT customer_id, NULL FROM customer_sessions WHERE id = $1";
const REVOKE_CREATED_BEFORE: &str = "DELETE FROM customer_sessions WHERE created_at < $1";
const REVOKE_ALL: &str = "DELETE FROM customer_sessions";
/// Returns the ids of some customers, and for each of them whether there is something to forget.
const CUSTOMERS: &str = concat!(
    "SELECT id, (deleted_at IS NULL OR organization_id <> '' OR created_at <> deleted_at) AND ",
    without_sessions!(),
    " FROM customer_session_customers WHERE id > $1 ORDER BY id LIMIT $2"
);
const REHASH: &str =
    "UPDATE customer_sessions SET token_hash = $1 WHERE id = $2 AND token_hash = $3";
/// The peppers in use so far, oldest first.
const PEPPERS: &str =
    "SELECT fingerprint, used_since FROM customer_session_peppers ORDER BY generation";
/// Adds a pepper after the one with the fingerprint `$3`, or as the first. Does nothing if another
/// one has come after that one meanwhile: its generation is taken.
const ADD_PEPPER: &str = "INSERT INTO customer_session_peppers \
     (generation, fingerprint, used_since) VALUES (coalesce(\
     (SELECT generation FROM customer_session_peppers WHERE fingerprint = $3), 0) + 1, $1, $2) \
     ON CONFLICT DO NOTHING";

/// Returns the statement that ends what a revocation describes, and its parameters.
fn revocation<P: Parameters + Default>(what: &Revocation) -> (&'static str, P) {
    match what {
        Revocation::Session(session) => (REVOKE, rows::text_params(&[session.as_str()])),
        Revocation::Owned { customer, session } => {
            let ids = [session.as_str(), customer.as_str()];
            (REVOKE_OWNED, rows::text_params(&ids))
        }
        Revocation::Others { customer, keep } => {
            let ids = [customer.as_str(), keep.as_str()];
            (REVOKE_OTHERS, rows::text_params(&ids))
        }
        Revocation::Customer(customer) => {
            (REVOKE_CUSTOMER, rows::text_params(&[customer.as_str()]))
        }
        Revocation::CreatedBefore(time) => {
            let mut parameters = P::default();
            parameters.time(Some(*time));
            (REVOKE_CREATED_BEFORE, parameters)
        }
        Revocation::All => (REVOKE_ALL, P::default()),
    }
}

/// A session as [`RESOLVE`] finds it.
struct Resolved {
    customer: CustomerId,
    /// The family of a session that was replaced.
    family: Option<String>,
}

/// Reads the rows of [`RESOLVE`]. A session that was replaced is not there any more.
fn resolved(rows: &[impl Columns]) -> Result<Option<Resolved>, sqlx::Error> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let customer = row.text(0)?.unwrap_or_default().into();
    let family = row.text(1)?;
    Ok(Some(Resolved { customer, family }))
}

/// Returns what a revocation attempts, for its error.
fn revoking(what: &Revocation) -> String {
    match what {
        Revocation::Session(session) | Revocation::Owned { session, .. } => {
            format!("revoking session {session}")
        }
        Revocation::Others { customer, .. } | Revocation::Customer(customer) => {
            format!("revoking customer {customer}")
        }
        Revocation::CreatedBefore(_) | Revocation::All => "revoking all sessions".to_owned(),
    }
}

/// Returns the statement that reads a page, and its parameters but the last, the number of rows.
fn list<P: Parameters + Default>(customer: &CustomerId, page: &Page) -> (&'static str, P) {
    let mut parameters: P = rows::text_params(&[customer.as_str()]);
    let Some(cursor) = page.cursor() else {
        return (LIST, parameters);
    };
    parameters.time(Some(cursor.created_at));
    parameters.text(Some(cursor.id.as_str()));
    (LIST_AFTER, parameters)
}

/// Returns those of the `live` sessions that must end before `new` is added, oldest first.
fn surplus(
    live: &[impl Columns],
    new: &CustomerSession,
    limit: &SessionLimit,
) -> Result<Vec<SessionSummary>, StoreError> {
    let surplus = limit.surplus(live.len());
    let surplus = surplus.ok_or_else(|| limit_is_reached(&new.id))?;
    live.iter().take(surplus).map(rows::summary).collect()
}

/// Returns the statement that selects the session of any of `hashes` hashes and its customer, in
/// the order in which [`rows::session`] reads them.
fn find_statement(hashes: usize, schema: &SchemaName) -> String {
    let hashes: Vec<_> = (1..=hashes).map(|number| format!("${number}")).collect();
    let statement = format!(
        concat!(
            "SELECT ",
            session_columns!(),
            " FROM customer_sessions s JOIN customer_session_customers c ON c.id = s.customer_id \
             WHERE s.token_hash IN ({})"
        ),
        hashes.join(", ")
    );
    schema.qualified(&statement)
}
