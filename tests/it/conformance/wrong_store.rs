//! A store with one mistake of each kind.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    Customer, CustomerData, CustomerId, CustomerSession, Inserted, Keeps, Page, Revocation,
    Revoked, Scopes, SessionId, SessionLimit, SessionPage, SessionRegistry, SessionStore,
    SessionSummary, SessionToken, SessionUse, StoreError, TokenFormat, async_trait,
    store::MemoryStore,
};

/// Ways to get a store wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mistake {
    ForgetsExpiry,
    RevokesLazily,
    LosesConcurrentInsertions,
    ReplacesTheCustomer,
    MixesUpCustomers,
    ReplaysAfterRotation,
    LetsManyRotationsWin,
    RotationUndoesUpdate,
    TruncatesMicroseconds,
    SwallowsErrors,
    ForgetsTheToken,
    IgnoresCase,
    PurgesWithoutLimit,
    PurgesTooLate,
    RevokesOneOfACustomer,
    UpdatesNobody,
    ListsNewestFirst,
    LeaksTokensThroughList,
    StripsText,
    RevokesForeignSessions,
    RevokesTheKeptSession,
    RevokesTooMuchByTime,
    HidesWhatItEnded,
    IgnoresTheLimit,
    LosesDetails,
    ReplacesWithoutDetails,
    KeepsTheOldDetails,
    CountsBeforeItWaits,
    RepeatsItself,
    ChangesTheCustomer,
    AcceptsDeletedCustomers,
    FoldsIdentifiers,
    AddsCustomers,
    ForgetsDeletedCustomers,
    ForgetsTheEnd,
    IgnoresFamilies,
    KeepsNoSuccessor,
    EndsForeignSuccessors,
    HidesTheSuccessor,
    RotatesPastRevocations,
    RotatesIntoTheNewEpoch,
    ForgetsFamiliesTooEarly,
    ReusesReplacedIds,
    RevivesByReplacing,
    ForgetsCustomersInUse,
    UsesGoBack,
    LosesUsesInBatches,
    UsesReviveSessions,
    InheritsUses,
    CountsUnusedSessions,
    CountsLinks,
    IgnoresTheLimitOfReplacements,
    CountsWhatIsReplaced,
    ReplacesWhatIsRefused,
    ReplacesBeforeItCounts,
    DerivesFromNothing,
    LeavesChildren,
    HidesChildren,
    EndsParentsToo,
    KeepsNoTree,
    EndsChildrenOfReplaced,
    CountsChildren,
    DerivesPastRevocations,
    EndsReplacedAtOnce,
    KeepsTheEndOfReplaced,
    ReplacesOverlapping,
    ReplacesWithoutEndingOverlaps,
    EndsOverlapsAlone,
    KeepsNoOverlap,
    CountsOverlaps,
    OverlapsPastRevocations,
    ComparesLoosely(Method),
}

/// A method that takes identifiers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Method {
    Revoke,
    RevokeOwned,
    RevokeOthers,
    RevokeCustomer,
    Replace,
    List,
    Update,
}

/// A right store with one mistake.
#[derive(Clone)]
pub(crate) struct Wrong {
    inner: MemoryStore,
    mistake: Mistake,
    last: Arc<Mutex<Option<CustomerSession>>>,
    replaced: Arc<Mutex<Vec<CustomerSession>>>,
    /// Replaced sessions that are still accepted.
    overlapping: Arc<Mutex<Vec<CustomerSession>>>,
    /// Deleted customers, as they were before.
    deleted: Arc<Mutex<Vec<Customer>>>,
    /// Customers all of whose sessions were revoked.
    revoked: Arc<Mutex<Vec<CustomerId>>>,
    pub(crate) all: Arc<Mutex<Vec<CustomerSession>>>,
}

impl Wrong {
    pub(crate) fn new(mistake: Mistake) -> Self {
        Self {
            inner: MemoryStore::new(),
            mistake,
            last: Arc::default(),
            replaced: Arc::default(),
            overlapping: Arc::default(),
            deleted: Arc::default(),
            revoked: Arc::default(),
            all: Arc::default(),
        }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }
}

#[async_trait]
impl SessionStore for Wrong {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        use Mistake::*;
        let mut found = self.inner.find(token).await?;
        if found.is_none() && self.is(IgnoresCase) {
            let all = self.all.lock().expect("no panic").clone();
            let same = |session: &&CustomerSession| {
                session.token.expose().eq_ignore_ascii_case(token.expose())
            };
            if let Some(other) = all.iter().find(same) {
                found = self.inner.find(&other.token).await?;
            }
        }
        if found.is_none() && self.is(ReplaysAfterRotation) {
            let replaced = self.replaced.lock().expect("no panic");
            found = replaced
                .iter()
                .find(|session| session.token == *token)
                .cloned();
        }
        let was_replaced = |token: &SessionToken| {
            let replaced = self.replaced.lock().expect("no panic");
            !replaced.is_empty() && replaced.iter().all(|session| session.token != *token)
        };
        if found.is_none()
            && (self.is(EndsOverlapsAlone)
                || self.is(ReplacesWithoutEndingOverlaps) && was_replaced(token))
        {
            let overlapping = self.overlapping.lock().expect("no panic");
            found = overlapping
                .iter()
                .find(|session| session.token == *token)
                .cloned();
        }
        if let Some(session) = &mut found {
            match self.mistake {
                ForgetsExpiry => session.expires_at = Utc::now() + TimeDelta::days(365),
                TruncatesMicroseconds => {
                    session.created_at = session.created_at.trunc_subsecs(3);
                    session.expires_at = session.expires_at.trunc_subsecs(3);
                }
                ForgetsTheEnd => session.details = Default::default(),
                ForgetsTheToken => session.token = SessionToken::new("forgotten"),
                MixesUpCustomers => {
                    if let Some(last) = &*self.last.lock().expect("no panic") {
                        session.customer = last.customer.clone();
                        session.customer_id = last.customer_id.clone();
                    }
                }
                StripsText => {
                    let mut data = (*session.customer).clone();
                    data.name = data.name.map(|name| name.trim().replace('\n', " "));
                    session.customer = data.into();
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn token_format(&self) -> TokenFormat {
        self.inner.token_format()
    }
}

/// As a database compares text whose collation ignores case.
fn folded(id: &str) -> String {
    id.trim_end().to_lowercase()
}

/// As a column of type `uuid` compares text.
fn same_uuid(one: &str, other: &str) -> bool {
    let bare = |id: &str| {
        id.trim_matches([' ', '{', '}'])
            .replace('-', "")
            .to_lowercase()
    };
    bare(one) == bare(other)
}

impl Wrong {
    /// Returns the session id that `id` is another spelling of, if this method compares loosely.
    fn session_like(&self, id: &SessionId, method: Method) -> SessionId {
        let all = self.all.lock().expect("no panic");
        let mut ids = all.iter().map(|session| &session.id);
        match self.is(Mistake::ComparesLoosely(method)) {
            true => ids
                .rfind(|other| same_uuid(other.as_str(), id.as_str()))
                .unwrap_or(id)
                .clone(),
            false => id.clone(),
        }
    }

    /// Returns `true` if a session was replaced, and was still accepted.
    fn is_overlapping(&self, id: &SessionId) -> bool {
        let overlapping = self.overlapping.lock().expect("no panic");
        overlapping.iter().any(|session| session.id == *id)
    }

    /// Returns the customer id that `id` is another spelling of, if this method compares loosely.
    fn customer_like(&self, id: &CustomerId, method: Method) -> CustomerId {
        let all = self.all.lock().expect("no panic");
        let mut ids = all.iter().map(|session| &session.customer_id);
        match self.is(Mistake::ComparesLoosely(method)) {
            true => ids
                .find(|other| same_uuid(other.as_str(), id.as_str()))
                .unwrap_or(id)
                .clone(),
            false => id.clone(),
        }
    }

    /// Returns `what` with the identifiers that its own are other spellings of.
    fn loosely(&self, what: &Revocation) -> Revocation {
        match what {
            Revocation::Session(session) => {
                Revocation::Session(self.session_like(session, Method::Revoke))
            }
            Revocation::Owned { customer, session } => Revocation::Owned {
                customer: self.customer_like(customer, Method::RevokeOwned),
                session: self.session_like(session, Method::RevokeOwned),
            },
            Revocation::Others { customer, keep } => Revocation::Others {
                customer: self.customer_like(customer, Method::RevokeOthers),
                keep: self.session_like(keep, Method::RevokeOthers),
            },
            Revocation::Customer(customer) => {
                Revocation::Customer(self.customer_like(customer, Method::RevokeCustomer))
            }
            other => other.clone(),
        }
    }

    /// Returns `true` if a session was replaced.
    fn was_replaced(&self, id: &SessionId) -> bool {
        let replaced = self.replaced.lock().expect("no panic");
        replaced.iter().any(|session| session.id == *id)
    }

    /// Restores deleted customers whose sessions are gone, as if they had been forgotten.
    async fn forget_deleted_customers(&self) -> Result<(), StoreError> {
        let deleted = self.deleted.lock().expect("no panic").clone();
        for customer in deleted {
            if self.of(&customer.id).await?.is_empty() {
                self.inner.update_customer(&customer).await?;
            }
        }
        Ok(())
    }

    /// Returns `true` if the customer of a session is deleted.
    async fn is_deleted(&self, session: &CustomerSession) -> Result<bool, StoreError> {
        let of_customer = |other: &&CustomerSession| other.customer_id == session.customer_id;
        let all = self.all.lock().expect("no panic").clone();
        let Some(first) = all.iter().find(of_customer) else {
            return Ok(false);
        };
        let found = self.inner.find(&first.token).await?;
        Ok(found.is_some_and(|found| found.customer.deleted_at.is_some()))
    }

    /// The sessions of a customer.
    async fn of(&self, customer: &CustomerId) -> Result<Vec<SessionSummary>, StoreError> {
        let page = Page::default().with_size(Page::MAX_SIZE);
        Ok(self.inner.list(customer, &page).await?.sessions)
    }

    /// Writes down what is inserted. `false`: another insertion came in between.
    async fn note(&self, session: &CustomerSession) -> bool {
        if self.is(Mistake::LosesConcurrentInsertions) {
            // Reads, awaits, writes back what it has read.
            let before = self.all.lock().expect("no panic").len();
            tokio::task::yield_now().await;
            if self.all.lock().expect("no panic").len() != before {
                return false;
            }
        }
        self.all.lock().expect("no panic").push(session.clone());
        *self.last.lock().expect("no panic") = Some(session.clone());
        true
    }

    /// Makes room in one step, and inserts in another.
    async fn insert_racily(
        &self,
        session: &CustomerSession,
        limit: &SessionLimit,
    ) -> Result<Inserted, StoreError> {
        let live = self.of(&session.customer_id).await?;
        tokio::task::yield_now().await;
        let Some(surplus) = limit.surplus(live.len()) else {
            return Err(StoreError::conflict("the limit is reached"));
        };
        let mut ended = live;
        ended.truncate(surplus);
        for summary in &ended {
            let what = Revocation::Session(summary.id.clone());
            self.inner.revoke(&what).await?;
        }
        let mut inserted = self.inner.insert(session, None).await?;
        inserted.ended = ended;
        Ok(inserted)
    }
}

impl Wrong {
    /// Replaces a session under a limit.
    async fn replace_limited(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: &SessionLimit,
    ) -> Result<Option<Inserted>, StoreError> {
        let mut limit = *limit;
        match self.mistake {
            Mistake::CountsWhatIsReplaced => {
                limit.max = limit.max.saturating_sub(1);
            }
            Mistake::ReplacesWhatIsRefused => {
                // Removes the old session, then asks for room.
                let ended = self.inner.replace(old, new, Some(&limit)).await;
                if ended.is_err() {
                    self.inner.revoke(&Revocation::Session(old.clone())).await?;
                }
                return ended;
            }
            Mistake::ReplacesBeforeItCounts => {
                let live = self.of(&new.customer_id).await?;
                let counts = |live: &SessionSummary| {
                    live.id != *old && !live.details.is_link && live.expires_at > new.created_at
                };
                let live: Vec<_> = live.into_iter().filter(counts).collect();
                tokio::task::yield_now().await;
                let Some(surplus) = limit.surplus(live.len()) else {
                    return Err(StoreError::conflict("the limit is reached"));
                };
                let Some(mut replaced) = self.inner.replace(old, new, None).await? else {
                    return Ok(None);
                };
                for ended in live.into_iter().take(surplus) {
                    let what = Revocation::Session(ended.id.clone());
                    self.inner.revoke(&what).await?;
                    replaced.ended.push(ended);
                }
                return Ok(Some(replaced));
            }
            _ => {}
        }
        self.inner.replace(old, new, Some(&limit)).await
    }
}

#[async_trait]
impl SessionRegistry for Wrong {
    fn keeps(&self) -> Keeps {
        self.inner.keeps()
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        let mut session = session.clone();
        if !self.note(&session).await {
            return Ok(Inserted::new(session));
        }
        let limit = limit.filter(|_| !self.is(Mistake::IgnoresTheLimit));
        let counts_all = limit.copied().map(|mut limit| {
            limit.used_since = None;
            limit
        });
        let limit = match self.is(Mistake::CountsUnusedSessions) {
            true => counts_all.as_ref(),
            false => limit,
        };
        if self.is(Mistake::LosesDetails) {
            session.details.actor = None;
        }
        if self.is(Mistake::ReusesReplacedIds) && self.was_replaced(&session.id) {
            return Ok(Inserted::new(session));
        }
        match (self.mistake, limit) {
            (
                Mistake::CountsLinks | Mistake::CountsChildren | Mistake::CountsOverlaps,
                Some(limit),
            ) => {
                return self.insert_racily(&session, limit).await;
            }
            (Mistake::CountsBeforeItWaits, Some(limit)) => {
                return self.insert_racily(&session, limit).await;
            }
            (Mistake::ReplacesTheCustomer, _) => {
                let id = session.customer_id.clone();
                session.customer = CustomerData::new(id, "org").into();
            }
            (Mistake::ChangesTheCustomer, _) => {
                self.inner.update_customer(&session.customer).await?;
            }
            (Mistake::FoldsIdentifiers, _) => {
                session.id = folded(session.id.as_str()).into();
            }
            _ => {}
        }
        let inserted = self.inner.insert(&session, limit).await;
        let is_swallowed = self.is(Mistake::SwallowsErrors)
            || self.is(Mistake::AcceptsDeletedCustomers) && self.is_deleted(&session).await?;
        if is_swallowed {
            Ok(inserted.unwrap_or_else(|_| Inserted::new(session)))
        } else {
            inserted
        }
    }

    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError> {
        let old = &self.session_like(old, Method::Replace);
        let mut changed = new.clone();
        if self.is(Mistake::ReplacesWithoutDetails) {
            changed.details.scopes = Scopes::default();
        }
        if self.is(Mistake::KeepsTheOldDetails) {
            let list = self.of(&new.customer_id).await?;
            if let Some(old) = list.into_iter().find(|session| session.id == *old) {
                changed.details = old.details;
            }
        }
        let new = &changed;
        self.all.lock().expect("no panic").push(new.clone());
        let all = self.all.lock().expect("no panic").clone();
        let replaced = all.into_iter().find(|session| session.id == *old);
        self.replaced.lock().expect("no panic").extend(replaced);
        if self.is(Mistake::LetsManyRotationsWin) {
            // Two statements where one transaction was needed.
            let list = self.of(&new.customer_id).await?;
            let there = list.iter().any(|session| session.id == *old);
            tokio::task::yield_now().await;
            if !there {
                return Ok(None);
            }
            let inserted = self.inner.insert(new, None).await?;
            self.inner.revoke(&Revocation::Session(old.clone())).await?;
            return Ok(Some(inserted));
        }
        if self.is(Mistake::RotatesPastRevocations) {
            // Reads, awaits, and writes whatever has become of it.
            let list = self.of(&new.customer_id).await?;
            if !list.iter().any(|session| session.id == *old) {
                return Ok(None);
            }
            tokio::task::yield_now().await;
            if self.inner.replace(old, new, limit).await?.is_none() {
                self.inner.insert(new, None).await?;
            }
            return Ok(Some(Inserted::new(new.clone())));
        }
        if self.is(Mistake::RotatesIntoTheNewEpoch) {
            // Of two reads, the second takes the epoch for that of the session.
            let list = self.of(&new.customer_id).await?;
            if !list.iter().any(|session| session.id == *old) {
                return Ok(None);
            }
            tokio::task::yield_now().await;
            let replaced = self.inner.replace(old, new, limit).await?;
            let is_revoked = (self.revoked.lock().expect("no panic")).contains(&new.customer_id);
            if replaced.is_none() && is_revoked {
                self.inner.insert(new, None).await?;
                return Ok(Some(Inserted::new(new.clone())));
            }
            return Ok(replaced);
        }
        if self.is(Mistake::EndsChildrenOfReplaced) {
            for child in self.of(&new.customer_id).await? {
                if child.details.parent.as_ref() == Some(old) {
                    self.inner.revoke(&Revocation::Session(child.id)).await?;
                }
            }
        }
        if self.is(Mistake::RevivesByReplacing) && self.of(&new.customer_id).await?.len() == 1 {
            // Removes first: a customer without a session is forgotten, and added again.
            self.inner.revoke(&Revocation::Session(old.clone())).await?;
            self.inner.update_customer(&new.customer).await?;
            return Ok(Some(self.inner.insert(new, None).await?));
        }
        let limit = limit.filter(|_| !self.is(Mistake::IgnoresTheLimitOfReplacements));
        if let Some(limit) = limit {
            return self.replace_limited(old, new, limit).await;
        }
        let replaced = self.inner.replace(old, new, None).await?;
        if replaced.is_none() && self.is(Mistake::ReplacesOverlapping) && self.is_overlapping(old) {
            return Ok(Some(self.inner.insert(new, None).await?));
        }
        if let Some(at) = new
            .details
            .last_used_at
            .filter(|_| self.is(Mistake::InheritsUses))
        {
            let used = SessionUse::new(new.id.clone(), new.customer_id.clone(), at);
            self.inner.touch(&[used]).await?;
        }
        if self.is(Mistake::RotationUndoesUpdate) {
            self.inner.update_customer(&new.customer).await?;
        }
        Ok(replaced)
    }

    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let mut kept = old.clone();
        match self.mistake {
            Mistake::EndsReplacedAtOnce => {
                let replaced = self.inner.replace(&old.id, new, None).await?;
                return Ok(replaced.map(|replaced| replaced.session));
            }
            Mistake::KeepsTheEndOfReplaced => {
                let list = self.of(&old.customer_id).await?;
                if let Some(before) = list.iter().find(|session| session.id == old.id) {
                    kept.expires_at = before.expires_at;
                }
            }
            Mistake::OverlapsPastRevocations => {
                // Reads, awaits, and writes whatever has become of it.
                let list = self.of(&old.customer_id).await?;
                let was_there = list.iter().any(|session| session.id == old.id);
                tokio::task::yield_now().await;
                let replaced = self.inner.replace_overlapping(old, new).await?;
                if replaced.is_none() && was_there {
                    self.inner.insert(new, None).await?;
                }
                return Ok(replaced);
            }
            _ => {}
        }
        let replaced = self.inner.replace_overlapping(&kept, new).await?;
        if replaced.is_some() {
            self.overlapping.lock().expect("no panic").push(kept);
        }
        Ok(replaced)
    }

    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        self.all.lock().expect("no panic").push(child.clone());
        let mut orphan = child.clone();
        orphan.details.parent = None;
        let is_there = |list: &[SessionSummary]| list.iter().any(|live| live.id == *parent);
        match self.mistake {
            Mistake::LeavesChildren if is_there(&self.of(&child.customer_id).await?) => {
                self.inner.insert(&orphan, None).await?;
                return Ok(Some(child.clone()));
            }
            Mistake::DerivesPastRevocations => {
                // Reads, awaits, and writes whatever has become of it.
                let was_there = is_there(&self.of(&child.customer_id).await?);
                tokio::task::yield_now().await;
                let derived = self.inner.derive(parent, child).await?;
                if derived.is_none() && was_there {
                    self.inner.insert(&orphan, None).await?;
                }
                return Ok(derived);
            }
            _ => {}
        }
        let derived = self.inner.derive(parent, child).await?;
        if derived.is_none() && self.is(Mistake::DerivesFromNothing) {
            return Ok(Some(self.inner.insert(&orphan, None).await?.session));
        }
        Ok(derived)
    }

    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError> {
        let mut what = self.loosely(what);
        if let (true, Revocation::Session(session)) = (self.is(Mistake::EndsParentsToo), &what) {
            let all = self.all.lock().expect("no panic").clone();
            let named = all.iter().rfind(|named| named.id == *session);
            if let Some(parent) = named.and_then(|named| named.details.parent.clone()) {
                self.inner.revoke(&Revocation::Session(parent)).await?;
                return Ok(Revoked::new(true, [what.invalidation()]));
            }
        }
        if let (true, Revocation::Others { customer, keep }) =
            (self.is(Mistake::KeepsNoTree), &what)
        {
            for child in self.of(customer).await? {
                if child.details.parent.as_ref() == Some(keep) {
                    self.inner.revoke(&Revocation::Session(child.id)).await?;
                }
            }
        }
        match (self.mistake, &what) {
            (Mistake::RotatesIntoTheNewEpoch, Revocation::Customer(customer)) => {
                let mut revoked = self.revoked.lock().expect("no panic");
                revoked.push(customer.clone());
            }
            (
                Mistake::IgnoresFamilies,
                Revocation::Session(session) | Revocation::Owned { session, .. },
            ) if self.was_replaced(session) => {
                return Ok(Revoked::new(false, [what.invalidation()]));
            }
            (Mistake::ForgetsFamiliesTooEarly, Revocation::Session(session))
                if self.was_replaced(session) =>
            {
                let replaced = self.replaced.lock().expect("no panic").clone();
                let long_ago = DateTime::UNIX_EPOCH + TimeDelta::days(1);
                let old = |old: &CustomerSession| old.id == *session && old.expires_at <= long_ago;
                if replaced.iter().any(old) {
                    return Ok(Revoked::new(false, [what.invalidation()]));
                }
            }
            (Mistake::KeepsNoSuccessor, Revocation::Others { customer, keep })
                if self.was_replaced(keep) =>
            {
                what = Revocation::Customer(customer.clone());
            }
            (Mistake::KeepsNoOverlap, Revocation::Others { customer, keep })
                if self.is_overlapping(keep) =>
            {
                what = Revocation::Customer(customer.clone());
            }
            (Mistake::EndsForeignSuccessors, Revocation::Owned { session, .. })
                if self.was_replaced(session) =>
            {
                what = Revocation::Session(session.clone());
            }
            (Mistake::RevokesLazily, _) => {
                let (inner, named) = (self.inner.clone(), what.invalidation());
                tokio::spawn(async move { inner.revoke(&what).await });
                return Ok(Revoked::new(true, [named]));
            }
            (Mistake::RevokesOneOfACustomer, Revocation::Customer(customer)) => {
                let list = self.of(customer).await?;
                for session in list.iter().take(1) {
                    let one = Revocation::Session(session.id.clone());
                    self.inner.revoke(&one).await?;
                }
                return Ok(Revoked::new(!list.is_empty(), [what.invalidation()]));
            }
            (Mistake::RevokesForeignSessions, Revocation::Owned { session, .. }) => {
                what = Revocation::Session(session.clone());
            }
            (Mistake::RevokesTheKeptSession, Revocation::Others { customer, .. }) => {
                what = Revocation::Customer(customer.clone());
            }
            (Mistake::RevokesTooMuchByTime, Revocation::CreatedBefore(time)) => {
                what = Revocation::CreatedBefore(*time + TimeDelta::microseconds(1));
            }
            (Mistake::FoldsIdentifiers, Revocation::Session(session)) => {
                what = Revocation::Session(folded(session.as_str()).into());
            }
            _ => {}
        }
        let mut revoked = self.inner.revoke(&what).await?;
        match self.mistake {
            Mistake::HidesWhatItEnded => revoked.invalidations.clear(),
            Mistake::HidesTheSuccessor | Mistake::HidesChildren => {
                revoked.invalidations.truncate(1);
            }
            Mistake::ForgetsDeletedCustomers => self.forget_deleted_customers().await?,
            _ => {}
        }
        Ok(revoked)
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        if self.is(Mistake::LosesUsesInBatches) && uses.len() > 100 {
            return self.inner.touch(&uses[..100]).await;
        }
        for used in uses {
            let of_customer = self.of(&used.customer).await?;
            let known = of_customer.iter().find(|known| known.id == used.session);
            let all = self.all.lock().expect("no panic").clone();
            let session = all.iter().find(|session| session.id == used.session);
            let Some(session) = session.cloned() else {
                continue;
            };
            let goes_back = |known: &SessionSummary| known.details.last_used_at > Some(used.at);
            match self.mistake {
                // An upsert of the session's row.
                Mistake::UsesReviveSessions if known.is_none() => {
                    self.inner.insert(&session, None).await?;
                }
                Mistake::UsesGoBack if known.is_some_and(goes_back) => {
                    self.inner
                        .revoke(&Revocation::Session(session.id.clone()))
                        .await?;
                    self.inner.insert(&session, None).await?;
                }
                _ => {}
            }
        }
        self.inner.touch(uses).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        let page = match self.mistake {
            Mistake::RepeatsItself => Page::default().with_size(page.size()),
            _ => page.clone(),
        };
        let customer = &self.customer_like(customer, Method::List);
        let mut list = self.inner.list(customer, &page).await?;
        if self.is(Mistake::ListsNewestFirst) {
            list.sessions.reverse();
        }
        if self.is(Mistake::LeaksTokensThroughList) {
            let all = self.all.lock().expect("no panic");
            for summary in &mut list.sessions {
                if let Some(session) = all.iter().find(|session| session.id == summary.id) {
                    summary.id = session.token.expose().into();
                }
            }
        }
        Ok(list)
    }

    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError> {
        let like = self.customer_like(&customer.id, Method::Update);
        let mut like_this = CustomerData::clone(customer);
        like_this.id = like;
        if customer.deleted_at.is_some() {
            let mut before = like_this.clone();
            before.deleted_at = None;
            self.deleted.lock().expect("no panic").push(before.into());
        }
        let is_known = self.inner.update_customer(&like_this.into()).await?;
        if !is_known && self.is(Mistake::AddsCustomers) {
            // An upsert where an update was needed.
            let end = Utc::now() + TimeDelta::hours(1);
            let token = self.token_format().generate();
            let id = format!("of {}", customer.id);
            let added = CustomerSession::new(id, token, customer.clone(), end);
            self.inner.insert(&added, None).await?;
        }
        Ok(match self.mistake {
            Mistake::UpdatesNobody => false,
            _ => is_known,
        })
    }

    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        match self.mistake {
            Mistake::PurgesWithoutLimit => self.inner.purge_expired(before, u32::MAX).await,
            Mistake::PurgesTooLate => {
                let before = before - TimeDelta::microseconds(1);
                self.inner.purge_expired(before, limit).await
            }
            _ => self.inner.purge_expired(before, limit).await,
        }
    }

    async fn purge_customers(
        &self,
        _after: Option<&CustomerId>,
        _limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        if self.is(Mistake::ForgetsCustomersInUse) {
            // As if the look at their sessions had come before a sign-in.
            self.inner.revoke(&Revocation::All).await?;
        }
        Ok(None)
    }
}
