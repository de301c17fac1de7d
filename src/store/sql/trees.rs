//! Statements about sessions and those that were derived from them.
//!
//! A child's `parent` is the family of its parent, so that a rotation of the parent changes no child.
//! `is_parent` is set in the row of a session that has, or had, children, and goes over to those that take
//! its place: what ends a session without children looks for none.
//!
//! An overlapping session, which was replaced and is still accepted, is a child of its own family.

use super::rows::{self, Columns, Parameters};
use crate::{
    session::{SessionId, SessionSummary},
    store::error::StoreError,
};

/// Ends a session and its children, and returns the children as [`summary`](rows::summary) reads them,
/// without the last use.
pub(super) const END_TREE: &str = "DELETE FROM customer_sessions WHERE id = $1 \
     OR parent = coalesce((SELECT s.family FROM customer_sessions s WHERE s.id = $1), $1) \
     RETURNING id, customer_id, created_at, modified_at, expires_at, ends_at, authenticated_at, details, \
     CASE WHEN id IS NULL THEN created_at END";

/// The family that the id `$2` leads to.
macro_rules! named_family {
    () => {
        "coalesce((SELECT family FROM customer_session_rotations WHERE id = $2), $2)"
    };
}

/// The family at the root of the tree that the id `$2` belongs to.
macro_rules! root_family {
    () => {
        concat!(
            "coalesce((SELECT coalesce(s.parent, s.family, s.id) FROM customer_sessions s \
             WHERE s.id = $2 OR s.family = ",
            named_family!(),
            " LIMIT 1), ",
            named_family!(),
            ")"
        )
    };
}

/// Takes the tree of a session over into the epoch that has just begun. The session may be a child, and
/// be named by one that it has replaced. The comparison with the customer takes no index, by which SQLite
/// would look at all sessions of the customer.
pub(super) const KEEP: &str = concat!(
    "UPDATE customer_sessions SET epoch = epoch + 1 WHERE (id = ",
    root_family!(),
    " OR family = ",
    root_family!(),
    " OR parent = ",
    root_family!(),
    ") AND customer_id || '' = $1 AND epoch = \
     (SELECT e.epoch FROM customer_session_epochs e WHERE e.customer_id = $1) - 1"
);

/// Removes the children of sessions that were created before a time.
pub(super) const DELETE_CHILDREN_CREATED_BEFORE: &str = "DELETE FROM customer_sessions \
     WHERE parent IN (SELECT coalesce(s.family, s.id) FROM customer_sessions s \
     WHERE s.is_parent AND s.parent IS NULL AND s.created_at < $1)";

/// The sessions that a revocation of a family has ended.
#[derive(Default)]
pub(super) struct EndedTree {
    /// The live session of the family.
    pub(super) session: Option<SessionId>,
    pub(super) children: Vec<SessionId>,
}

/// Reads the rows of [`REVOKE_FAMILY`](super::REVOKE_FAMILY).
pub(super) fn ended(rows: &[impl Columns]) -> Result<EndedTree, sqlx::Error> {
    let mut ended = EndedTree::default();
    for row in rows {
        let Some(id) = row.text(1)?.filter(|_| matches!(row.flag(0), Ok(true))) else {
            continue;
        };
        match row.flag(2)? {
            true => ended.children.push(id.into()),
            false => ended.session = Some(id.into()),
        }
    }
    Ok(ended)
}

/// Reads the rows of [`END_TREE`]: the ended session, and then its children, oldest first.
pub(super) fn ended_by_limit(
    session: SessionSummary,
    rows: &[impl Columns],
) -> Result<Vec<SessionSummary>, StoreError> {
    let children = rows.iter().map(rows::summary);
    let mut ended = children.collect::<Result<Vec<_>, _>>()?;
    ended.retain(|ended| ended.id != session.id);
    ended.sort_by(|one, two| (one.created_at, &one.id).cmp(&(two.created_at, &two.id)));
    ended.insert(0, session);
    Ok(ended)
}

/// Returns the parameters of [`END_TREE`].
pub(super) fn end_tree_params<P: Parameters + Default>(session: &SessionId) -> P {
    rows::text_params(&[session.as_str()])
}
