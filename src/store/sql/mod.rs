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
         c.default_payment_method_id, c.deleted_at, c.first_user_event_at, c.avatar_url, \
         s.ends_at, s.authenticated_at, s.details"
    };
}

/// The time at which a session `s` was last used, or null. It is a subquery and not a join, so that the
/// index is taken, whatever PostgreSQL believes of the tables.
macro_rules! used_at {
    () => {
        "(SELECT u.used_at FROM customer_session_uses u WHERE u.session_id = s.id)"
    };
}

/// Sessions `s` of their customers' current epochs, and the customers `c`.
macro_rules! live_sessions {
    () => {
        "customer_sessions s JOIN customer_session_epochs e ON e.customer_id = s.customer_id \
         AND e.epoch = s.epoch JOIN customer_session_customers c ON c.id = s.customer_id"
    };
}

/// True for a customer without sessions.
macro_rules! without_sessions {
    () => {
        "NOT EXISTS (SELECT 1 FROM customer_sessions s \
         WHERE s.customer_id = customer_session_customers.id)"
    };
}

/// True for a customer of a page who has no session. Of `NOT EXISTS`, PostgreSQL may make a table of all
/// sessions, which a page of a few customers does not pay for. The order has it take the index.
macro_rules! has_no_session {
    ($customer:literal) => {
        concat!(
            "(SELECT s.epoch FROM customer_sessions s WHERE s.customer_id = ",
            $customer,
            " ORDER BY s.epoch LIMIT 1) IS NULL"
        )
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

/// True for a session that was not replaced. An overlapping one is a child of its own family.
macro_rules! is_current {
    () => {
        "(parent IS NULL OR parent <> coalesce(family, id))"
    };
}

/// Begins a statement that keeps a replaced session as an overlapping one. `is_parent` is set, so that a
/// revocation of it looks for the others of its family.
macro_rules! keep_overlapping {
    ($ends_at:literal, $details:literal) => {
        concat!(
            "UPDATE customer_sessions SET expires_at = ",
            $ends_at,
            ", ends_at = ",
            $ends_at,
            ", details = ",
            $details,
            ", parent = coalesce(family, id), is_parent = true WHERE id = "
        )
    };
}

mod customers;
mod error;
mod idle_connections;
mod limits;
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
mod trees;

use self::{
    rows::{Columns, Parameters},
    schema_name::SchemaName,
};
use crate::{customer::CustomerId, page::Page, registry::Revocation, session::SessionId};

/// The current epoch of the customer `$1`.
macro_rules! epoch_of_customer {
    () => {
        "(SELECT e.epoch FROM customer_session_epochs e WHERE e.customer_id = $1)"
    };
}

/// The columns of [`summary`](rows::summary), of a customer's live and expired sessions.
macro_rules! sessions_of_customer {
    () => {
        concat!(
            "SELECT s.id, s.customer_id, s.created_at, s.modified_at, s.expires_at, s.ends_at, \
             s.authenticated_at, s.details, ",
            used_at!(),
            " FROM customer_sessions s WHERE s.customer_id = $1 AND s.epoch = ",
            epoch_of_customer!()
        )
    };
}

const LIST: &str = concat!(sessions_of_customer!(), " ORDER BY created_at, id LIMIT $2");
const LIST_AFTER: &str = concat!(
    sessions_of_customer!(),
    " AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4"
);
/// The sessions that expire after `$2`, and have been used since `$3`, if there is such a time, without
/// children, oldest first: those that count for a limit, and links.
const LIVE: &str = concat!(
    sessions_of_customer!(),
    " AND parent IS NULL AND expires_at > $2 AND ($3 IS NULL OR created_at > $3 OR ",
    used_at!(),
    " > $3) ORDER BY created_at, id"
);
/// Adds the first epoch of a customer who is there and not deleted.
const ADD_EPOCH: &str = "INSERT INTO customer_session_epochs (customer_id) \
     SELECT id FROM customer_session_customers WHERE id = $1 AND deleted_at IS NULL \
     ON CONFLICT DO NOTHING";
/// Returns the family of a live session, if it is the customer's and no other has taken its place, and its
/// `parent` and `is_parent`. While the customer's epoch is locked, it stays the one of that session.
const FAMILY: &str = concat!(
    "SELECT coalesce(family, id), parent, is_parent IS NOT NULL FROM customer_sessions s \
     WHERE id = $1 AND customer_id = $2 AND ",
    is_current!(),
    " AND epoch = (SELECT e.epoch FROM customer_session_epochs e WHERE e.customer_id = s.customer_id)"
);
/// Removes a session that another has taken the place of.
#[cfg_attr(
    not(feature = "sqlite"),
    allow(dead_code, reason = "PostgreSQL does it in one statement")
)]
const DELETE: &str = "DELETE FROM customer_sessions WHERE id = $1";

/// Returns `true` if the session that was deleted was of its customer's current epoch. While the
/// statement waited, the session may have got an epoch that is newer than the one that the statement
/// sees; no session has an epoch that its customer has not reached.
macro_rules! was_current {
    () => {
        "coalesce(epoch >= (SELECT e.epoch FROM customer_session_epochs e \
         WHERE e.customer_id = customer_sessions.customer_id), false)"
    };
}

/// Ends a session that never had children.
const REVOKE: &str = concat!(
    "DELETE FROM customer_sessions WHERE id = $1 AND is_parent IS NULL RETURNING ",
    was_current!()
);
const REVOKE_OWNED: &str = concat!(
    "DELETE FROM customer_sessions WHERE id = $1 AND customer_id = $2 AND is_parent IS NULL RETURNING ",
    was_current!()
);
/// Ends the live session of a family, and its children. Also returns the id that ended, and `true` for a
/// child.
const REVOKE_FAMILY: &str = concat!(
    "DELETE FROM customer_sessions WHERE id = $1 OR family = $1 OR parent = $1 RETURNING ",
    was_current!(),
    ", id, parent IS NOT NULL AND parent = $1"
);

/// Ends all sessions of a customer. They are removed by [`purge_expired`](crate::SessionRegistry::purge_expired).
macro_rules! raise_epoch {
    () => {
        "UPDATE customer_session_epochs SET epoch = epoch + 1, has_remains = true \
         WHERE customer_id = $1"
    };
}

/// Returns `true` if there was a session. The order has the planner take the index, also if a large
/// part of the table is this customer's.
const REVOKE_CUSTOMER: &str = concat!(
    raise_epoch!(),
    " RETURNING coalesce((SELECT true FROM customer_sessions s WHERE s.customer_id = $1 \
     AND s.epoch = customer_session_epochs.epoch - 1 ORDER BY s.created_at LIMIT 1), false)"
);
const RAISE_EPOCH: &str = raise_epoch!();
/// Returns `true` if a session of the epoch before is left.
const HAS_ENDED: &str = concat!(
    "SELECT coalesce((SELECT true FROM customer_sessions WHERE customer_id = $1 AND epoch = ",
    epoch_of_customer!(),
    " - 1 ORDER BY created_at LIMIT 1), false)"
);

/// Returns the customer of a session, and its family if the session was replaced or has children.
const RESOLVE: &str = "SELECT customer_id, family FROM customer_session_rotations WHERE id = $1 \
     UNION ALL SELECT customer_id, CASE WHEN is_parent THEN coalesce(family, id) END \
     FROM customer_sessions WHERE id = $1";

/// Returns `true` if there is a session of a current epoch.
macro_rules! any_current {
    ($condition:literal) => {
        concat!(
            "SELECT EXISTS (SELECT 1 FROM customer_sessions s JOIN customer_session_epochs e \
             ON e.customer_id = s.customer_id AND e.epoch = s.epoch",
            $condition,
            ")"
        )
    };
}

const ANY_CREATED_BEFORE: &str = any_current!(" WHERE s.created_at < $1");
const DELETE_CREATED_BEFORE: &str = "DELETE FROM customer_sessions WHERE created_at < $1";
const ANY: &str = any_current!("");
const DELETE_ALL: &str = "DELETE FROM customer_sessions";
/// Returns the ids of some customers, and for each of them whether there is something to forget.
const CUSTOMERS: &str = concat!(
    "SELECT c.id, (c.deleted_at IS NULL OR c.organization_id <> '' \
     OR c.created_at <> c.deleted_at) AND ",
    has_no_session!("c.id"),
    " FROM customer_session_customers c WHERE c.id > $1 ORDER BY c.id LIMIT $2"
);
/// The peppers in use so far, oldest first.
const PEPPERS: &str =
    "SELECT fingerprint, used_since FROM customer_session_peppers ORDER BY generation";
/// Adds a pepper after the one with the fingerprint `$3`, or as the first. Does nothing if another
/// one has come after that one meanwhile: its generation is taken.
const ADD_PEPPER: &str = "INSERT INTO customer_session_peppers \
     (generation, fingerprint, used_since) VALUES (coalesce(\
     (SELECT generation FROM customer_session_peppers WHERE fingerprint = $3), 0) + 1, $1, $2) \
     ON CONFLICT DO NOTHING";

/// Returns the statement that ends a session by its own id, if it is the customer's, and its
/// parameters.
fn revocation_of_one<P: Parameters + Default>(
    session: &SessionId,
    customer: Option<&CustomerId>,
) -> (&'static str, P) {
    match customer {
        None => (REVOKE, rows::text_params(&[session.as_str()])),
        Some(customer) => {
            let ids = [session.as_str(), customer.as_str()];
            (REVOKE_OWNED, rows::text_params(&ids))
        }
    }
}

/// Returns the statements that end the sessions of a revocation of many, in their order, and their
/// parameters. One of them returns `true` if a session has ended.
fn revocation_of_many<P: Parameters + Default>(what: &Revocation) -> Vec<(&'static str, P)> {
    let ids = |ids: &[&str]| rows::text_params(ids);
    match what {
        Revocation::Customer(customer) => vec![(REVOKE_CUSTOMER, ids(&[customer.as_str()]))],
        Revocation::Others { customer, keep } => {
            let customer = customer.as_str();
            vec![
                (RAISE_EPOCH, ids(&[customer])),
                (trees::KEEP, ids(&[customer, keep.as_str()])),
                (HAS_ENDED, ids(&[customer])),
            ]
        }
        Revocation::CreatedBefore(time) => [
            ANY_CREATED_BEFORE,
            trees::DELETE_CHILDREN_CREATED_BEFORE,
            DELETE_CREATED_BEFORE,
        ]
        .map(|statement| {
            let mut parameters = P::default();
            parameters.time(Some(*time));
            (statement, parameters)
        })
        .into(),
        Revocation::All => [ANY, DELETE_ALL]
            .map(|statement| (statement, P::default()))
            .into(),
        Revocation::Session(_) | Revocation::Owned { .. } => Vec::new(),
    }
}

/// A session as [`RESOLVE`] finds it.
struct Resolved {
    customer: CustomerId,
    /// The family of a session that was replaced, or has children.
    family: Option<String>,
}

/// Reads the rows of [`RESOLVE`]. There are two for an overlapping session, which lead to one family.
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

/// Returns the statement that selects the session of any of `hashes` hashes and its customer, in
/// the order in which [`rows::found_session`] reads them.
fn find_statement(hashes: usize, schema: &SchemaName) -> String {
    let hashes: Vec<_> = (1..=hashes).map(|number| format!("${number}")).collect();
    let statement = format!(
        concat!(
            "SELECT ",
            session_columns!(),
            ", ",
            used_at!(),
            " FROM ",
            live_sessions!(),
            " WHERE s.token_hash IN ({})"
        ),
        hashes.join(", ")
    );
    schema.qualified(&statement)
}
