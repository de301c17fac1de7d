//! Which sessions end by a limit.

use super::rows::{self, Columns, Parameters};
use crate::{
    registry::SessionLimit,
    session::{CustomerSession, SessionId, SessionSummary},
    store::error::{StoreError, limit_is_reached},
};

/// Returns those of the `live` sessions that must end before `new` is added in the place of `replaced`,
/// oldest first.
pub(super) fn surplus(
    live: &[impl Columns],
    new: &CustomerSession,
    replaced: Option<&SessionId>,
    limit: &SessionLimit,
) -> Result<Vec<SessionSummary>, StoreError> {
    // It takes the place of a child.
    if new.details.parent.is_some() {
        return Ok(Vec::new());
    }
    let is_replaced = |session: &SessionSummary| Some(&session.id) == replaced;
    let mut counted = Vec::new();
    for row in live {
        let session = rows::summary(row)?;
        if session.details.counts_for_limits() && !is_replaced(&session) {
            counted.push(session);
        }
    }
    let surplus = limit.surplus(counted.len());
    counted.truncate(surplus.ok_or_else(|| limit_is_reached(&new.id))?);
    Ok(counted)
}

/// Returns the parameters of [`LIVE`](super::LIVE).
pub(super) fn live_params<P: Parameters + Default>(
    new: &CustomerSession,
    limit: &SessionLimit,
) -> P {
    let mut parameters: P = rows::text_params(&[new.customer_id.as_str()]);
    parameters.time(Some(new.created_at));
    parameters.time(limit.used_since);
    parameters
}
