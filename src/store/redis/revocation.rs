//! Revocation of sessions in Redis.

use redis::{Cmd, cmd};

use super::{
    RedisStore,
    connection::Request,
    keys::{Packed, SHARDS},
    lookup::{Location, life},
    record::read_member,
    score::Band,
};
use crate::{
    customer::CustomerId,
    invalidation::Invalidation,
    random::random,
    registry::{Revocation, Revoked},
    session::SessionId,
    store::{error::StoreError, messages::message},
};

impl RedisStore {
    /// Ends the sessions that `what` describes.
    pub(super) async fn end_sessions(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        self.ready().await?;
        let any = match what {
            Revocation::Session(session) => return self.end_one(session, None).await,
            Revocation::Owned { customer, session } => {
                return self.end_one(session, Some(customer)).await;
            }
            Revocation::Customer(customer) => self.end_customer(customer, None).await?,
            Revocation::Others { customer, keep } => {
                self.end_customer(customer, Some(keep)).await?
            }
            Revocation::CreatedBefore(time) => self.end_older(time.timestamp_micros()).await?,
            Revocation::All => self.end_all().await?,
        };
        Ok(Revoked::new(any, [what.invalidation()]))
    }

    /// Ends the session that `session` leads to, if it is the customer's.
    async fn end_one(
        &self,
        session: &SessionId,
        owner: Option<&CustomerId>,
    ) -> Result<Revoked, StoreError> {
        let context = &format!("revoking session {session}");
        let Some(place) = self.locate(session, context).await? else {
            return Ok(Revoked::of_session(session, None, None));
        };
        let (customer, member) = (&place.pointer.customer, place.member());
        if owner.is_some_and(|owner| Packed::from(owner) != *customer) {
            return Ok(Revoked::default());
        }
        let epoch = self.get(self.keys.epoch(customer.shard()), context).await?;
        let mut revoke = self.scripts.revoke.key(self.keys.customer(customer));
        revoke.key(self.keys.sessions(customer));
        revoke.key(self.keys.family(customer, place.family()));
        revoke.key(self.keys.children(customer));
        revoke.key(self.keys.uses(customer));
        revoke.arg(&member).arg(place.family().as_bytes());
        revoke.arg(epoch.unwrap_or_default());
        revoke.arg(self.keys.channel()).arg(session.as_str());
        let (was_live, current, is_family, children): (u64, Vec<u8>, u64, Vec<Vec<u8>>) =
            self.send(Request::Script(&revoke), context).await?;
        // It is over. What still leads to it leads nowhere, and expires.
        for ended in children.iter().chain([&current]) {
            let _ = self.forget_ended(customer, ended, context).await;
        }
        let ended = read_member(&current).filter(|_| was_live > 0);
        let ended = ended.map(|(id, _)| SessionId::from(id.text()));
        let is_replaced = is_family > 0 && current != member;
        let customer = is_replaced.then(|| CustomerId::from(customer.text()));
        let children = children.iter().filter_map(|child| read_member(child));
        let children = children.map(|(id, _)| SessionId::from(id.text()));
        Ok(Revoked::of_session(session, ended, customer).with_derived(children))
    }

    /// Ends all sessions of a customer by one script, however many there are.
    async fn end_customer(
        &self,
        id: &CustomerId,
        keep: Option<&SessionId>,
    ) -> Result<bool, StoreError> {
        let context = &format!("revoking customer {id}");
        let customer = &Packed::from(id);
        let kept = match keep {
            Some(keep) => self.locate(keep, context).await?,
            None => None,
        };
        let kept = kept.filter(|kept| kept.pointer.customer == *customer);
        let epoch = self.get(self.keys.epoch(customer.shard()), context).await?;
        let (ended, entry) = self.keys.ended(customer, random());
        let mut revoke = self
            .scripts
            .revoke_customer
            .key(self.keys.customer(customer));
        revoke.key(self.keys.sessions(customer)).key(ended);
        revoke.key(self.keys.children(customer));
        revoke.key(self.keys.uses(customer));
        revoke
            .arg(epoch.unwrap_or_default())
            .arg(self.keys.channel())
            .arg(id.as_str());
        if let Some(kept) = &kept {
            let parent = match kept.pointer.parent() {
                Some(parent) => self.locate(&parent.text().into(), context).await?,
                None => None,
            };
            let family = kept.pointer.parent().unwrap_or_else(|| kept.family());
            revoke.key(self.keys.family(customer, kept.family()));
            revoke.key(self.keys.family(customer, family));
            revoke.arg(kept.member()).arg(family.as_bytes());
            revoke.arg(parent.as_ref().map(Location::member).unwrap_or_default());
        }
        let (were_live, are_left): (u64, u64) =
            self.send(Request::Script(&revoke), context).await?;
        if are_left > 0 {
            self.schedule_removal(customer, &entry, life(0), context)
                .await;
        }
        Ok(were_live > 0)
    }

    /// Ends all sessions: those of each shard at once.
    async fn end_all(&self) -> Result<bool, StoreError> {
        let context = "revoking all sessions";
        let mut any = false;
        for shard in SHARDS {
            let lists = Cmd::exists(self.keys.expiry(shard));
            any |= self.send::<u64>(Request::Command(&lists), context).await? > 0;
        }
        let mut set = cmd("MSET");
        for shard in SHARDS {
            set.arg(self.keys.epoch(shard)).arg(&random().to_be_bytes());
        }
        let _: () = self.send(Request::Command(&set), context).await?;
        self.publish(&Invalidation::All, context).await?;
        Ok(any)
    }

    /// Ends the sessions that were created before a time, of one customer after another.
    async fn end_older(&self, micros: i64) -> Result<bool, StoreError> {
        let context = "revoking sessions by the time of their creation";
        let mut any = false;
        loop {
            let pattern = self.keys.sessions_pattern();
            let mut keys = self.connection.scan(pattern, context).await?;
            while let Some(batch) = keys.next(context).await? {
                for customer in batch.iter().filter_map(|key| self.keys.customer_of(key)) {
                    for band in Band::ALL {
                        any |= self.end_older_of(&customer, band, micros, context).await?;
                    }
                }
            }
            // A key that moved from one node to another meanwhile may have been missed on both.
            if keys.is_complete().await? {
                break;
            }
        }
        self.publish(&Invalidation::All, context).await?;
        Ok(any)
    }

    async fn end_older_of(
        &self,
        customer: &Packed,
        band: Band,
        micros: i64,
        context: &str,
    ) -> Result<bool, StoreError> {
        let epoch = self.get(self.keys.epoch(customer.shard()), context).await?;
        let mut revoke = self.scripts.revoke_older.key(self.keys.customer(customer));
        revoke.key(self.keys.sessions(customer));
        revoke.key(self.keys.children(customer));
        revoke.key(self.keys.uses(customer));
        // Below those that do not count are those whose place was taken a moment ago.
        match band {
            Band::Uncounted => revoke.arg("-inf"),
            Band::Sessions => revoke.arg(band.bounds()[0]),
        };
        revoke.arg(band.score(micros));
        revoke.arg(epoch.unwrap_or_default());
        revoke.arg(self.keys.channel()).arg(customer.text());
        let mut any = false;
        loop {
            let (more, were_live): (u64, u64) =
                self.send(Request::Script(&revoke), context).await?;
            any |= were_live > 0;
            if more == 0 {
                return Ok(any);
            }
        }
    }

    /// Tells the other nodes.
    pub(super) async fn publish(
        &self,
        invalidation: &Invalidation,
        context: &str,
    ) -> Result<(), StoreError> {
        let publish = Cmd::publish(self.keys.channel(), message(invalidation));
        let _: u64 = self.send(Request::Command(&publish), context).await?;
        Ok(())
    }
}
