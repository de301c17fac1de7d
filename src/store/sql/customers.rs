//! Customers without sessions, which both SQL stores keep until they are purged.

use sqlx::Error;

use super::rows::{Columns, Parameters};
use crate::customer::CustomerId;

/// The customers that one call looks at.
pub(super) struct CustomerPage {
    /// Those of whom there is something to forget.
    pub(super) idle: Vec<String>,
    /// The last one, unless it is the last of all.
    pub(super) next: Option<CustomerId>,
}

impl CustomerPage {
    /// Reads the rows of [`CUSTOMERS`](super::CUSTOMERS), of which there are `limit` unless the end is
    /// reached.
    pub(super) fn read(rows: &[impl Columns], limit: u32) -> Result<Self, Error> {
        let mut page = Self {
            idle: Vec::new(),
            next: None,
        };
        for row in rows {
            let id = row.text(0)?.unwrap_or_default();
            if row.flag(1)? {
                page.idle.push(id.clone());
            }
            page.next = Some(id.into());
        }
        if rows.len() < limit as usize {
            page.next = None;
        }
        Ok(page)
    }

    /// Returns the parameters of [`CUSTOMERS`](super::CUSTOMERS).
    pub(super) fn parameters<P: Parameters + Default>(after: Option<&CustomerId>, limit: u32) -> P {
        let mut parameters = P::default();
        parameters.text(Some(after.map_or("", CustomerId::as_str)));
        parameters.count(limit);
        parameters
    }
}
