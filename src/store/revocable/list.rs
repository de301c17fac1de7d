//! The list of what was ended, in a registry.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    any::{Question, any},
    entry::{Cutoff, cutoffs_of, record_of, token_of},
};
use crate::{
    customer::CustomerId,
    page::Page,
    registry::Revocation,
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::{StoreError, StoreErrorKind},
        traits::SessionRegistry,
    },
    token::SessionToken,
};

/// The list of what was ended. Its entries are records of `registry` that open nothing.
#[derive(Clone)]
pub(super) struct RevocationList<R> {
    registry: R,
}

impl<R> RevocationList<R> {
    pub(super) fn new(registry: R) -> Self {
        Self { registry }
    }

    pub(super) fn registry(&self) -> &R {
        &self.registry
    }
}

impl<R: SessionRegistry> RevocationList<R> {
    /// Returns `true` if the session has ended.
    ///
    /// An entry counts for as long as it is there: what it has ended does not come back.
    pub(super) async fn has_ended(
        &self,
        session: &CustomerSession,
        leeway: TimeDelta,
    ) -> Result<bool, StoreError> {
        let customer = Some(&session.customer_id);
        let of_session = |customer| -> Question<'_> {
            Box::pin(async move { self.has(&token_of(customer, &session.id)).await })
        };
        let of_many = |customer| -> Question<'_> {
            Box::pin(async move {
                let records = self.cutoff_records(&cutoffs_of(customer)).await?;
                let mut cutoffs = records.iter().map(Cutoff::of);
                Ok(cutoffs.any(|cutoff| cutoff.ends(session, leeway)))
            })
        };
        any([
            of_session(None),
            of_session(customer),
            of_many(customer),
            of_many(None),
        ])
        .await
    }

    /// Puts a session on the list, or only a session of `customer`. Returns `true` if it was not there.
    pub(super) async fn put_session(
        &self,
        customer: Option<&CustomerId>,
        session: &SessionId,
        end: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        self.check_details()?;
        let record = record_of(customer, session, end)?;
        let refusal = match self.registry.insert(&record, None).await {
            Ok(_) => None,
            // Its token is there already, or the registry takes no such records.
            Err(error) if error.kind() == StoreErrorKind::Conflict => Some(error),
            Err(error) => return Err(error),
        };
        match self.has(&record.token).await? {
            true => Ok(refusal.is_none()),
            false => Err(refusal.unwrap_or_else(finds_no_entry)),
        }
    }

    /// Puts an end of many sessions on the list: those of `customer`, or all. Returns `true`: it is not
    /// known whether there were any.
    pub(super) async fn put_cutoff(
        &self,
        customer: Option<&CustomerId>,
        cutoff: Cutoff,
    ) -> Result<bool, StoreError> {
        self.check_details()?;
        let record = cutoff.record(customer)?;
        self.registry.insert(&record, None).await?;
        let records = self.cutoff_records(&record.customer_id).await?;
        if !records.iter().any(|there| there.id == record.id) {
            return Err(finds_no_entry());
        }
        // So that lookups read few. One that makes another needless comes after it in an order, so that
        // concurrent calls never remove the last.
        let is_needless = |there: &&SessionSummary| {
            let other = Cutoff::of(there);
            let is_alike = other.covers(&cutoff);
            cutoff.covers(&other) && (!is_alike || there.id < record.id)
        };
        for there in records.iter().filter(is_needless) {
            let what = Revocation::Session(there.id.clone());
            // It does no harm where it is.
            let _ = self.registry.revoke(&what).await;
        }
        Ok(true)
    }

    /// Checks that the registry can keep the list.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        self.check_details()?;
        self.registry.check().await
    }

    /// Refuses a registry that would not keep that an entry is a link.
    fn check_details(&self) -> Result<(), StoreError> {
        match self.registry.keeps().details {
            true => Ok(()),
            false => Err(StoreError::invalid(
                "the registry for the list of ended sessions does not keep details; use one that does",
            )),
        }
    }

    async fn has(&self, token: &SessionToken) -> Result<bool, StoreError> {
        Ok(self.registry.find(token).await?.is_some())
    }

    /// Returns all records of cutoffs that `owner` has.
    async fn cutoff_records(&self, owner: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let mut records = Vec::new();
        let mut page = Page::default();
        loop {
            let read = self.registry.list(owner, &page).await?;
            records.extend(read.sessions);
            match read.next {
                Some(cursor) => page = Page::after(cursor).with_size(Page::MAX_SIZE),
                None => return Ok(records),
            }
        }
    }
}

/// Returns the error of an entry that would end nothing.
fn finds_no_entry() -> StoreError {
    StoreError::invalid(
        "the registry for the list of ended sessions does not find what it was just given; \
         it may refuse tokens of another format",
    )
}
