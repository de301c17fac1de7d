//! How a session takes the place of another in Redis.

use super::{
    RedisStore,
    connection::Request,
    insertion::{MAX_ATTEMPTS, MAX_SCORE, New, is_certain},
    lookup::{Followed, life},
    record::Pointer,
};
use crate::{
    session::{CustomerSession, SessionId, SessionSummary},
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
        if place.customer != new.record.customer {
            return Ok(None);
        }
        let new = New {
            record: new.record.with_family(place.family.clone()),
            ..new
        };
        let claimed = self.claim(&new).await?;
        match self.take_place(&new, old, place).await {
            Ok(Some(customer)) => self.stored(&new, customer).map(Some),
            Ok(None) => {
                self.undo(&new, claimed).await;
                Ok(None)
            }
            Err(error) => {
                if is_certain(&error) {
                    self.undo(&new, claimed).await;
                }
                Err(error)
            }
        }
    }

    /// Makes a session live in the place of another. Returns its customer as JSON, or `None` if the other
    /// one is gone.
    async fn take_place(
        &self,
        new: &New<'_>,
        old: &SessionId,
        mut place: Followed,
    ) -> Result<Option<String>, StoreError> {
        let (context, key) = (new.context, self.keys.id(&old.into()));
        let family_end = SessionSummary::from(new.session).family_end();
        let family_life = life(family_end.timestamp_micros());
        for _ in 0..MAX_ATTEMPTS {
            let before = place.pointer.to_bytes();
            // From here on the old id leads to the family, and to the old session while there is none.
            let redirect = Pointer::Replaced {
                hash: place.hash,
                customer: place.customer.clone(),
                member: place.member.clone(),
                family: place.family.clone(),
            };
            let redirect = redirect.to_bytes();
            if self
                .swap(key.clone(), &before, &redirect, family_life, context)
                .await?
            {
                let customer = self
                    .commit_replacement(new, &place, old, family_life)
                    .await?;
                match &customer {
                    Some(_) => self.delete(self.keys.token(&place.hash), context).await,
                    // The session has ended, so that its id is free again.
                    None if place.record.is_some() => {
                        let _ = self.swap(key, &redirect, b"", 0, context).await?;
                    }
                    None => {}
                }
                return Ok(customer);
            }
            match self.follow(old, context).await? {
                Some(other) => place = other,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Makes a session live in the place of another. Returns its customer as JSON, or `None` if the other
    /// one is gone.
    async fn commit_replacement(
        &self,
        new: &New<'_>,
        place: &Followed,
        old: &SessionId,
        family_life: i64,
    ) -> Result<Option<String>, StoreError> {
        let customer = &new.record.customer;
        let Some(epoch) = self
            .get(self.keys.epoch(customer.shard()), new.context)
            .await?
        else {
            return Ok(None);
        };
        let mut replace = self.scripts.replace.key(self.keys.customer(customer));
        replace.key(self.keys.sessions(customer));
        replace.key(self.keys.family(customer, &place.family));
        replace.arg(&place.member).arg(new.record.member());
        replace.arg(new.record.created_at().clamp(-MAX_SCORE, MAX_SCORE));
        replace.arg(epoch).arg(new.life).arg(family_life);
        replace.arg(self.keys.channel()).arg(old.as_str());
        self.send(Request::Script(&replace), new.context).await
    }
}
