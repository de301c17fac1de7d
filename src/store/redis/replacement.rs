//! How a session takes the place of another in Redis.

use super::{
    RedisStore,
    connection::Request,
    insertion::{MAX_SCORE, New},
    lookup::{Followed, life},
};
use crate::{
    session::{CustomerSession, SessionId},
    store::error::StoreError,
};

impl RedisStore {
    /// Puts a session in the place of another.
    pub(super) async fn replace_session(
        &self,
        old: &SessionId,
        session: &CustomerSession,
        context: &str,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.ready().await?;
        let new = self.new_session(session, context)?;
        let Some(place) = self.follow(old, context).await? else {
            return Ok(None);
        };
        if place.pointer.customer != new.record.customer {
            return Ok(None);
        }
        let new = New {
            record: new.record.with_family(place.family().clone()),
            ..new
        };
        let claimed = self.claim(&new).await?;
        let customer = self.commit_replacement(&new, &place, old).await;
        match &customer {
            Ok(Some(_)) => {
                // The old token opens nothing any more.
                self.delete(self.keys.token(&place.pointer.hash), context)
                    .await;
            }
            Ok(None) => self.undo(&new, claimed).await,
            Err(_) => {}
        }
        customer?
            .map(|customer| self.stored(&new, customer))
            .transpose()
    }

    /// Makes a session live in the place of another. Returns its customer as JSON, or `None` if the other
    /// one is gone.
    async fn commit_replacement(
        &self,
        new: &New<'_>,
        place: &Followed,
        old: &SessionId,
    ) -> Result<Option<String>, StoreError> {
        let (customer, context) = (&new.record.customer, new.context);
        let Some(epoch) = self.get(self.keys.epoch(customer.shard()), context).await? else {
            return Ok(None);
        };
        let (family_end, is_known) = new.record.family_end();
        let family_life = life(family_end);
        // The old id must lead to the family until that ends. If the end is not known from the beginning,
        // a later rotation may postpone it.
        let mut keep = self.scripts.keep.key(self.keys.id(&place.id));
        keep.arg(if is_known { family_life } else { -1 });
        let kept: u64 = self.send(Request::Script(&keep), context).await?;
        if kept == 0 {
            return Ok(None);
        }
        let mut replace = self.scripts.replace.key(self.keys.customer(customer));
        replace.key(self.keys.sessions(customer));
        replace.key(self.keys.family(customer, place.family()));
        replace.arg(place.member()).arg(new.record.member());
        replace.arg(new.record.created_at().clamp(-MAX_SCORE, MAX_SCORE));
        replace.arg(epoch).arg(new.life).arg(family_life);
        replace.arg(self.keys.channel()).arg(old.as_str());
        self.send(Request::Script(&replace), context).await
    }
}
