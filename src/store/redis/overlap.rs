//! Replacement of sessions in Redis after which the old token is still accepted for a while.
//!
//! The script that puts the new session in place leaves the old one in the customer's set, with a score that holds
//! the end of the overlap, and adds it a second time, as a child of its own family. Then the old record and
//! pointer are rewritten to lead to that child, and the first entry is removed. So the old token opens a session
//! all the time. After an interruption at any point, it does so until the end of the overlap and no longer.

use super::{
    RedisStore,
    claim::minute_of,
    connection::Request,
    derivation::check_ids_of_child,
    insertion::New,
    lookup::{Location, life},
    record::{Pointer, Record},
};
use crate::{
    session::CustomerSession,
    store::{
        error::{StoreError, child_does_not_overlap},
        validation::check_overlap,
    },
};

impl RedisStore {
    /// Puts a session in the place of another, which is kept as given.
    pub(super) async fn replace_with_overlap(
        &self,
        old: &CustomerSession,
        session: &CustomerSession,
        context: &str,
    ) -> Result<Option<CustomerSession>, StoreError> {
        check_overlap(old, session)?;
        self.ready().await?;
        let new = self.new_session(session, context)?;
        let Some(place) = self.locate(&old.id, context).await? else {
            return Ok(None);
        };
        if place.pointer.customer != new.record.customer || place.is_replaced() {
            return Ok(None);
        }
        if place.pointer.parent().is_some() {
            return Err(child_does_not_overlap(&old.id));
        }
        let family = place.family().clone();
        check_ids_of_child(&place.id, &family)?;
        let Some(before) = self.record(&place.pointer.hash, context).await? else {
            return Ok(None);
        };
        let new = New {
            record: new.record.with_family(family.clone()),
            ..new
        };
        let overlapping = match family == place.id {
            true => Record::new(old)?,
            false => Record::new(old)?.with_family(family.clone()),
        };
        let overlapping = overlapping.with_parent(Some(family));
        let end = overlapping.expires_at();
        // If this fails, the keys expire.
        let _ = self
            .schedule(
                place.pointer.customer.shard(),
                minute_of(end),
                &overlapping.member(),
                life(end),
                context,
            )
            .await;
        let replaced = self
            .commit_replacement(&new, &place, None, Some(&overlapping))
            .await?;
        let Some(replaced) = replaced else {
            return Ok(None);
        };
        // If this fails, the score ends it in time.
        let _ = self.rewrite(&new, &place, &before, &overlapping).await;
        self.stored(&new, replaced.customer).map(Some)
    }

    /// Leads the token and the id of a replaced session to the child that it has become, and then removes the
    /// entry of before.
    async fn rewrite(
        &self,
        new: &New<'_>,
        place: &Location,
        before: &Record,
        overlapping: &Record,
    ) -> Result<(), StoreError> {
        let (context, hash) = (new.context, place.pointer.hash);
        let token = self.keys.token(&hash);
        let [before_bytes, after] = [before, overlapping].map(Record::to_bytes);
        let token_life = Some(life(overlapping.expires_at()));
        if !self
            .swap(token, &before_bytes, &after, token_life, context)
            .await?
        {
            // Another pepper is in use since, and another key.
            return Ok(());
        }
        let pointers = [&place.pointer, &Pointer::new(overlapping, hash)].map(Pointer::to_bytes);
        let id = self.keys.id(&place.id);
        if !self
            .swap(id, &pointers[0], &pointers[1], None, context)
            .await?
        {
            return Ok(());
        }
        let sessions = self.keys.sessions(&overlapping.customer);
        let mut forget = self.scripts.forget_overlap.key(sessions);
        forget.key(self.keys.children(&overlapping.customer));
        forget.arg(place.member()).arg(place.family().as_bytes());
        let _: u64 = self.send(Request::Script(&forget), context).await?;
        Ok(())
    }
}
