//! Derivation of sessions in Redis.

use chrono::Utc;

use super::{
    RedisStore,
    connection::Request,
    insertion::{Committed, New, is_certain},
    keys::Packed,
    lookup::Location,
};
use crate::{
    session::{CustomerSession, SessionId},
    store::{
        error::{StoreError, id_is_taken, parent_is_child},
        validation::check_is_child,
    },
};

/// Live children of one family: so many are ended by one script.
const MAX_CHILDREN: u32 = 100;

/// Length of the longest identifiers of a parent and its child, in bytes: a child is kept with both.
const MAX_ID_LEN_IN_TREE: usize = 8 * 1024;

/// Refuses identifiers that are too long to be kept together.
pub(super) fn check_ids_of_child(child: &Packed, family: &Packed) -> Result<(), StoreError> {
    let is_long = |id: &&Packed| id.as_bytes().len() > MAX_ID_LEN_IN_TREE;
    match [child, family].iter().any(is_long) {
        false => Ok(()),
        true => Err(StoreError::invalid(format!(
            "an identifier is longer than {MAX_ID_LEN_IN_TREE} bytes"
        ))),
    }
}

impl RedisStore {
    /// Adds a child of the session `parent`.
    pub(super) async fn derive_session(
        &self,
        parent: &SessionId,
        session: &CustomerSession,
        context: &str,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_is_child(session, parent)?;
        self.ready().await?;
        let new = self.new_session(session, context)?;
        let Some(place) = self.locate(parent, context).await? else {
            return Ok(None);
        };
        if place.pointer.customer != new.record.customer || place.is_replaced() {
            return Ok(None);
        }
        if place.pointer.parent().is_some() {
            return Err(parent_is_child(parent));
        }
        check_ids_of_child(&new.record.id, place.family())?;
        let new = New {
            record: new.record.with_parent(Some(place.family().clone())),
            ..new
        };
        let claimed = self.claim(&new).await?;
        let customer = match self.commit_derivation(&new, &place).await {
            Ok(Some(Committed::Done(customer))) => customer,
            // A call of ours whose answer was lost, or one that derives the same.
            Ok(Some(Committed::WasThere(customer))) if claimed.is_whole() => customer,
            Ok(Some(Committed::WasThere(_))) => return Err(id_is_taken(&session.id)),
            Ok(None) => {
                self.undo(&new, claimed).await;
                return Ok(None);
            }
            Err(error) => {
                if is_certain(&error) {
                    self.undo(&new, claimed).await;
                }
                return Err(error);
            }
        };
        self.check_pointer(&new).await?;
        self.stored(&new, customer).map(Some)
    }

    /// Makes a child live. Returns `None` if its parent is gone.
    async fn commit_derivation(
        &self,
        new: &New<'_>,
        place: &Location,
    ) -> Result<Option<Committed>, StoreError> {
        let (customer, context) = (&new.record.customer, new.context);
        let Some(epoch) = self.get(self.keys.epoch(customer.shard()), context).await? else {
            return Ok(None);
        };
        let mut derive = self.scripts.derive.key(self.keys.customer(customer));
        derive.key(self.keys.sessions(customer));
        derive.key(self.keys.children(customer));
        derive.arg(place.member()).arg(place.family().as_bytes());
        derive.arg(new.record.member()).arg(new.score);
        derive.arg(epoch).arg(new.life);
        derive.arg(Utc::now().timestamp_micros()).arg(MAX_CHILDREN);
        let answer: Vec<Vec<u8>> = self.send(Request::Script(&derive), context).await?;
        let corrupt = || StoreError::corrupt(format!("{context}: the answer is corrupt"));
        let text = |text: &[u8]| String::from_utf8(text.to_vec()).map_err(|_| corrupt());
        match answer.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
            [b"done", customer] => text(customer).map(Committed::Done).map(Some),
            [b"there", customer] => text(customer).map(Committed::WasThere).map(Some),
            [b"gone"] => Ok(None),
            [b"full"] => Err(StoreError::conflict(format!(
                "{context}: its parent has {MAX_CHILDREN} live sessions that were derived from it"
            ))),
            _ => Err(corrupt()),
        }
    }
}
