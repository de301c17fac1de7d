//! The guards of a layer: what a request needs beyond a live session.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{credentials::RequestHead, rejection::RejectionKind};
use crate::{
    details::{InvalidDetails, Scopes},
    engine::{Authenticated, CacheStatus, Engine, LookupPolicy},
    session::CustomerSession,
    sessions::CurrentSession,
};

/// A function of the application that names the organization of a request.
pub(super) type OrganizationFn = dyn for<'a> Fn(&RequestHead<'a>) -> Option<&'a str> + Send + Sync;

/// A function of the application that allows or refuses a request.
pub(super) type PredicateFn = dyn Fn(&CurrentSession, &RequestHead<'_>) -> bool + Send + Sync;

/// The guards of a layer. Each only refuses: none lets in what the layer refuses without it.
#[derive(Clone, Default)]
pub(super) struct Guards {
    organizations: Vec<Arc<OrganizationFn>>,
    policy: LookupPolicy,
    max_age: Option<Duration>,
    scopes: Scopes,
    predicates: Vec<Arc<PredicateFn>>,
}

impl Guards {
    pub(super) fn add_organization(&mut self, organization: Arc<OrganizationFn>) {
        self.organizations.push(organization);
    }

    pub(super) fn forbid_stale(&mut self) {
        if self.policy == LookupPolicy::OrStale {
            self.policy = LookupPolicy::Shared;
        }
    }

    pub(super) fn forbid_cached(&mut self) {
        self.policy = LookupPolicy::Alone;
    }

    /// Requires an authentication of this age at most. The shortest age counts.
    pub(super) fn limit_age(&mut self, max_age: Duration) {
        let max_age = self.max_age.map_or(max_age, |others| others.min(max_age));
        self.max_age = Some(max_age);
    }

    /// Requires one more scope.
    ///
    /// # Errors
    ///
    /// If it is not a scope, or no session could have so many.
    pub(super) fn add_scope(&mut self, scope: &str) -> Result<(), InvalidDetails> {
        self.scopes = Scopes::new(self.scopes.iter().chain([scope]))?;
        Ok(())
    }

    pub(super) fn add_predicate(&mut self, predicate: Arc<PredicateFn>) {
        self.predicates.push(predicate);
    }

    /// Returns the scopes that a session must have.
    pub(super) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// Returns the greatest age of an authentication.
    pub(super) fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    /// Returns the lookup for requests that the cache does not decide.
    pub(super) fn policy(&self) -> LookupPolicy {
        self.policy
    }

    /// Returns `true` if the store is asked for each request, whatever is cached.
    #[inline]
    pub(super) fn forbids_cached(&self) -> bool {
        self.policy == LookupPolicy::Alone
    }

    /// Returns `true` if an anonymous request is refused, since there is a guard that looks at its
    /// session.
    pub(super) fn require_session(&self) -> bool {
        !self.organizations.is_empty()
            || self.max_age.is_some()
            || !self.scopes.is_empty()
            || !self.predicates.is_empty()
    }

    /// Checks an authenticated request, whether its session was cached or looked up.
    ///
    /// The organization comes first, so that the session of another one learns nothing from the
    /// other guards.
    ///
    /// # Errors
    ///
    /// The kind of the first guard that refuses.
    pub(super) fn check(
        &self,
        authenticated: &Authenticated,
        head: &RequestHead<'_>,
        engine: &Engine,
    ) -> Result<(), RejectionKind> {
        let session = &authenticated.session.session;
        let result = if !self.is_of_organization(session, head) {
            Err(match authenticated.cache_status {
                // While the store fails, this is the answer to an unknown token.
                CacheStatus::Stale => RejectionKind::StoreUnavailable,
                _ => RejectionKind::InvalidToken,
            })
        } else if self
            .max_age
            .is_some_and(|max_age| !is_recent(session, max_age, engine.now()))
        {
            Err(RejectionKind::NotRecent)
        } else if !self.scopes.is_subset_of(&session.details.scopes) {
            Err(RejectionKind::InsufficientScope)
        } else if !self.is_allowed(authenticated, head) {
            Err(RejectionKind::Forbidden)
        } else {
            Ok(())
        };
        if result.is_err() {
            engine.on_refused_by_guard();
        }
        result
    }

    fn is_of_organization(&self, session: &CustomerSession, head: &RequestHead<'_>) -> bool {
        let own = session.customer.organization_id.as_str();
        self.organizations
            .iter()
            .all(|organization| organization(head) == Some(own))
    }

    fn is_allowed(&self, authenticated: &Authenticated, head: &RequestHead<'_>) -> bool {
        if self.predicates.is_empty() {
            return true;
        }
        let session = CurrentSession::new(Arc::clone(&authenticated.session));
        self.predicates.iter().all(|allows| allows(&session, head))
    }
}

/// Difference between the clocks of two nodes up to which a sign-in may lie ahead.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);

/// Returns `true` if the customer proved who they are at most `max_age` before `now`.
fn is_recent(session: &CustomerSession, max_age: Duration, now: DateTime<Utc>) -> bool {
    let max_age = TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
    let age = |time| now.signed_duration_since(time);
    let authenticated_at = session.details.authenticated_at;
    authenticated_at.is_some_and(|time| (-MAX_CLOCK_SKEW..=max_age).contains(&age(time)))
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guards")
            .field("organizations", &self.organizations.len())
            .field("policy", &self.policy)
            .field("max_age", &self.max_age)
            .field("scopes", &self.scopes)
            .field("predicates", &self.predicates.len())
            .finish()
    }
}
