//! The steps in which an SQLite file takes a session up.

use sqlx::sqlite::SqliteArguments;

use super::transaction::WriteTransaction;
use crate::{
    customer::CustomerId,
    registry::SessionLimit,
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::{StoreError, id_is_taken},
        pepper::TokenHash,
        sql::{
            self,
            error::store_error,
            limits,
            rows::{self, Columns as _, Parameters as _},
            trees,
        },
    },
    token::SessionToken,
};

pub(super) const INSERT: &str = "INSERT INTO customer_sessions \
     (customer_id, id, token_hash, created_at, modified_at, expires_at, ends_at, authenticated_at, \
     details, family, parent, is_parent, epoch) \
     SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, nullif($12, 0), epoch FROM customer_session_epochs \
     WHERE customer_id = $1";

pub(super) const INSERT_ROTATION: &str = "INSERT INTO customer_session_rotations \
     (id, family, customer_id, ends_at) VALUES ($1, $2, $3, $4)";

/// Notes that something was derived from a session.
pub(super) const SET_PARENT: &str =
    "UPDATE customer_sessions SET is_parent = 1 WHERE id = $1 AND is_parent IS NULL";

/// Keeps a replaced session as an overlapping one.
pub(super) const KEEP_OVERLAPPING: &str = concat!(keep_overlapping!("$1", "$2"), "$3");

/// Ends the replaced sessions of the family `$1` whose tokens are still accepted.
pub(super) const END_OVERLAPS: &str =
    "DELETE FROM customer_sessions WHERE parent = $1 AND parent = coalesce(family, id)";

/// The statement that selects the session of one hash.
pub(super) const FIND_BY_HASH: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM ",
    live_sessions!(),
    " WHERE s.token_hash = $1"
);

/// An id that leads to a family leads to no other session.
pub(super) const IS_REPLACED: &str =
    "SELECT count(*) FROM customer_session_rotations WHERE id = $1";

/// The relatives of a session.
#[derive(Default)]
pub(super) struct Place {
    /// The first session of its family, if it is not this one.
    pub(super) family: Option<String>,
    /// The family of its parent.
    pub(super) parent: Option<String>,
    pub(super) is_parent: bool,
}

impl WriteTransaction<'_> {
    /// Adds a session.
    pub(super) async fn add(
        &mut self,
        session: &CustomerSession,
        hash: &TokenHash,
        place: &Place,
    ) -> Result<(), StoreError> {
        if self.count(IS_REPLACED, &[session.id.as_str()]).await? > 0 {
            return Err(id_is_taken(&session.id));
        }
        let mut parameters: SqliteArguments = rows::text_params(&[session.customer_id.as_str()]);
        rows::bind_session(&mut parameters, session, hash)?;
        parameters.text(place.family.as_deref());
        parameters.text(place.parent.as_deref());
        parameters.flag(place.is_parent);
        self.execute(INSERT, parameters).await?;
        Ok(())
    }

    /// Ends sessions of a customer until `new` fits in the place of `replaced`, and returns them, oldest
    /// first.
    pub(super) async fn make_room(
        &mut self,
        new: &CustomerSession,
        replaced: Option<&SessionId>,
        limit: Option<&SessionLimit>,
    ) -> Result<Vec<SessionSummary>, StoreError> {
        let Some(limit) = limit else {
            return Ok(Vec::new());
        };
        let parameters: SqliteArguments = limits::live_params(new, limit);
        let live = self.fetch_all(sql::LIVE, parameters).await?;
        let ended = limits::surplus(&live, new, replaced, limit)?;
        let mut trees = Vec::new();
        for session in ended {
            let id = trees::end_tree_params(&session.id);
            let rows = self.fetch_all(trees::END_TREE, id).await?;
            trees.extend(trees::ended_by_limit(session, &rows)?);
        }
        Ok(trees)
    }

    /// Records that `new` has taken the place of `old`.
    pub(super) async fn add_rotation(
        &mut self,
        old: &SessionId,
        place: &Place,
        new: &CustomerSession,
    ) -> Result<(), StoreError> {
        let family = place.family.as_deref().unwrap_or(old.as_str());
        let ids = [old.as_str(), family, new.customer_id.as_str()];
        let mut parameters: SqliteArguments = rows::text_params(&ids);
        parameters.time(Some(SessionSummary::from(new).family_end()));
        self.execute(INSERT_ROTATION, parameters).await?;
        Ok(())
    }

    /// Returns the place of a live session of a customer, or `None` if there is no such session.
    pub(super) async fn place(
        &mut self,
        id: &SessionId,
        customer: &CustomerId,
    ) -> Result<Option<Place>, StoreError> {
        let ids = rows::text_params(&[id.as_str(), customer.as_str()]);
        let rows = self.fetch_all(sql::FAMILY, ids).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let read = || {
            Ok(Place {
                family: row.text(0)?,
                parent: row.text(1)?,
                is_parent: row.flag(2)?,
            })
        };
        let corrupt = |error| store_error(format!("reading session {id}"), error);
        read().map(Some).map_err(corrupt)
    }

    /// Reads back what was added under `hash`.
    pub(super) async fn stored(
        &mut self,
        hash: &TokenHash,
        token: &SessionToken,
    ) -> Result<CustomerSession, StoreError> {
        let mut parameters = SqliteArguments::default();
        parameters.bytes(hash);
        let rows = self.fetch_all(FIND_BY_HASH, parameters).await?;
        let row = rows.first();
        let row = row.ok_or_else(|| StoreError::corrupt("what was inserted is not there"))?;
        Ok(rows::session(row, token)?.0)
    }
}
