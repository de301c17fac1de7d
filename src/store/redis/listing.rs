//! Lists of a customer's sessions in Redis.

use futures_util::future::join;
use redis::cmd;

use super::{
    RedisStore,
    connection::Request,
    keys::Packed,
    record::{Pointer, Record, read_member},
    score::Band,
    uses::with_last_use,
};
use crate::{
    customer::CustomerId,
    page::{Page, SessionPage},
    session::SessionSummary,
    store::error::StoreError,
};

impl RedisStore {
    /// Lists a page of a customer's sessions.
    pub(super) async fn list_sessions(
        &self,
        id: &CustomerId,
        page: &Page,
    ) -> Result<SessionPage, StoreError> {
        self.ready().await?;
        let context = &format!("listing customer {id}");
        let customer = Packed::from(id);
        let mut sessions = Vec::new();
        for band in Band::ALL {
            sessions.extend(self.list_band(&customer, band, page, context).await?);
        }
        let (key, shard) = (self.keys.customer(&customer), customer.shard());
        let (customer, epoch) = join(
            self.get(key, context),
            self.get(self.keys.epoch(shard), context),
        )
        .await;
        let (customer, epoch) = (customer?, epoch?);
        // All sessions have been ended, or the customer was deleted by hand.
        let is_current =
            |customer: &Vec<u8>| epoch.is_some() && customer.get(1..9) == epoch.as_deref();
        if !customer.as_ref().is_some_and(is_current) {
            sessions.clear();
        }
        // As the set is ordered, so that the next page follows.
        sessions.sort_by_cached_key(|session| (session.created_at, Packed::from(&session.id)));
        Ok(SessionPage::cut(sessions, page))
    }

    /// Lists the first sessions of one part of the set that may be on a page, one more than it holds.
    async fn list_band(
        &self,
        customer: &Packed,
        band: Band,
        page: &Page,
        context: &str,
    ) -> Result<Vec<SessionSummary>, StoreError> {
        let wanted = page.size() as usize + 1;
        let mut sessions: Vec<SessionSummary> = Vec::new();
        let mut offset = 0;
        loop {
            let members = self.members(customer, band, page, offset, context).await?;
            offset += members.len();
            let last_score = members.last().map(|(_, score)| *score);
            let is_last = members.len() < wanted;
            let after = members
                .into_iter()
                .filter(|(member, score)| follows(member, *score, band, page));
            let after: Vec<_> = after.map(|(member, _)| member).collect();
            let records = self.records(customer, &after, context);
            let (records, uses) = join(records, self.last_uses(customer, &after, context)).await;
            let uses = uses?;
            for record in records? {
                let used_at = uses.get(&record.id).copied();
                sessions.push(with_last_use(record.summary()?, used_at)?);
            }
            // Those of one microsecond are in the order of their families, and not of their ids.
            let score =
                |session: &SessionSummary| band.score(session.created_at.timestamp_micros());
            let border = sessions
                .get(wanted - 1)
                .map(|session| score(session) as f64);
            if is_last || border.is_some_and(|border| last_score > Some(border)) {
                return Ok(sessions);
            }
        }
    }

    /// Reads sessions of a customer as members of the set, with their scores.
    async fn members(
        &self,
        customer: &Packed,
        band: Band,
        page: &Page,
        offset: usize,
        context: &str,
    ) -> Result<Vec<(Vec<u8>, f64)>, StoreError> {
        let [first, last] = band.bounds();
        let from = page
            .cursor()
            .map(|cursor| band.score(cursor.created_at.timestamp_micros()));
        let mut range = cmd("ZRANGEBYSCORE");
        range
            .arg(self.keys.sessions(customer))
            .arg(from.unwrap_or(first))
            .arg(last);
        range
            .arg("WITHSCORES")
            .arg("LIMIT")
            .arg(offset)
            .arg(page.size() + 1);
        self.read(Request::Command(&range), context).await
    }

    /// Reads the records of sessions. Leaves out those that were ended meanwhile.
    async fn records(
        &self,
        customer: &Packed,
        members: &[Vec<u8>],
        context: &str,
    ) -> Result<Vec<Record>, StoreError> {
        let corrupt = || StoreError::corrupt(format!("{context}: its record is corrupt"));
        let ids = members
            .iter()
            .map(|member| read_member(member).map(|(id, _)| self.keys.id(&id)));
        let ids: Option<Vec<_>> = ids.collect();
        let pointers = self.get_many(&ids.ok_or_else(corrupt)?, context).await?;
        let mut tokens = Vec::new();
        for pointer in pointers.into_iter().flatten() {
            let pointer = Pointer::from_bytes(&pointer).ok_or_else(corrupt)?;
            tokens.push(self.keys.token(&pointer.hash));
        }
        let mut records = Vec::new();
        for record in self.get_many(&tokens, context).await?.into_iter().flatten() {
            let record = Record::from_bytes(&record).ok_or_else(corrupt)?;
            if record.customer == *customer && members.contains(&record.member()) {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// Reads the values of keys, which may be on several servers.
    pub(super) async fn get_many(
        &self,
        keys: &[Vec<u8>],
        context: &str,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = cmd("MGET");
        get.arg(keys);
        self.read(Request::Command(&get), context).await
    }
}

/// Returns `true` if a session follows the cursor of a page.
fn follows(member: &[u8], score: f64, band: Band, page: &Page) -> bool {
    let Some(cursor) = page.cursor() else {
        return true;
    };
    let id = Packed::from(&cursor.id);
    let at = band.score(cursor.created_at.timestamp_micros()) as f64;
    score > at || read_member(member).is_none_or(|(member, _)| member > id)
}
