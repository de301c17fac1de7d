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
    session::{CustomerSession, SessionId},
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
                let cutoffs = self.cutoffs(&cutoffs_of(customer)).await?;
                let mut cutoffs = cutoffs.iter();
                Ok(cutoffs.any(|(_, cutoff)| cutoff.ends(session, leeway)))
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
    /// known whether there were any. What has been needless since `long_ago` is removed.
    pub(super) async fn put_cutoff(
        &self,
        customer: Option<&CustomerId>,
        cutoff: Cutoff,
        long_ago: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        self.check_details()?;
        let record = cutoff.record(customer)?;
        self.registry.insert(&record, None).await?;
        let there = self.cutoffs(&record.customer_id).await?;
        // Another node may have removed the entry by now, since a later one covers it.
        if !there.iter().any(|(_, other)| other.covers(&cutoff)) {
            return Err(finds_no_entry());
        }
        self.remove_needless(&there, long_ago).await;
        Ok(true)
    }

    /// Removes entries that others cover, so that lookups read few.
    ///
    /// A lookup reads the list in several steps, and must not miss both the one that is removed and the one
    /// that covers it. So that one has been there for longer than a lookup takes. Entries that cover each
    /// other are ordered by their ids, so that concurrent calls do not remove them all.
    async fn remove_needless(&self, there: &[(SessionId, Cutoff)], long_ago: DateTime<Utc>) {
        let lasting: Vec<_> = there
            .iter()
            .filter(|(_, cutoff)| cutoff.is_there_since(long_ago))
            .collect();
        for (id, cutoff) in there {
            let is_needless = lasting.iter().any(|(other_id, other)| {
                other.covers(cutoff) && (!cutoff.covers(other) || other_id > id)
            });
            if is_needless {
                // It does no harm where it is.
                let _ = self.registry.revoke(&Revocation::Session(id.clone())).await;
            }
        }
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

    /// Returns the cutoffs that `owner` has, with their ids.
    async fn cutoffs(&self, owner: &CustomerId) -> Result<Vec<(SessionId, Cutoff)>, StoreError> {
        let mut cutoffs = Vec::new();
        let mut page = Page::default();
        loop {
            let read = self.registry.list(owner, &page).await?;
            let records = read.sessions.into_iter();
            cutoffs.extend(records.map(|record| (record.id.clone(), Cutoff::of(&record))));
            match read.next {
                Some(cursor) => page = Page::after(cursor).with_size(Page::MAX_SIZE),
                None => return Ok(cutoffs),
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
