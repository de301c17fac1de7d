//! A walk over the keys of all servers.

use std::collections::VecDeque;

use redis::cmd;

use super::{
    endpoint::{Endpoint, Primaries},
    link::Link,
    server::store_error,
};
use crate::store::error::StoreError;

/// Keys that a server looks at for one answer.
const BATCH: usize = 1000;

/// A walk over the keys that match a pattern. It comes by each key that is there from the beginning to the
/// end, perhaps more than once.
pub(super) struct Scan {
    links: VecDeque<Link>,
    pattern: Vec<u8>,
    cursor: u64,
    /// The servers, if they are those of a cluster.
    primaries: Option<(Endpoint, Primaries)>,
}

impl Scan {
    pub(super) fn new(
        links: Vec<Link>,
        pattern: Vec<u8>,
        primaries: Option<(Endpoint, Primaries)>,
    ) -> Self {
        Self {
            links: links.into(),
            pattern,
            cursor: 0,
            primaries,
        }
    }

    /// Returns `true` if each slot is still where it was at the beginning.
    pub(super) async fn is_complete(&self) -> Result<bool, StoreError> {
        match &self.primaries {
            None => Ok(true),
            Some((endpoint, before)) => Ok(endpoint.primaries().await?.have_slots_of(before)),
        }
    }

    /// Returns the next keys, which may be none; `None` at the end.
    pub(super) async fn next(&mut self, context: &str) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
        let Some(link) = self.links.front_mut() else {
            return Ok(None);
        };
        let mut scan = cmd("SCAN");
        scan.arg(self.cursor)
            .arg("MATCH")
            .arg(&self.pattern)
            .arg("COUNT")
            .arg(BATCH);
        let answer = scan.query_async(link).await;
        let (cursor, keys) = answer.map_err(|error| store_error(context, error))?;
        self.cursor = cursor;
        if cursor == 0 {
            self.links.pop_front();
        }
        Ok(Some(keys))
    }
}
