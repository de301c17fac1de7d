//! The session that authenticated a request.

use std::{any::Any, fmt, ops::Deref, sync::Arc};

use http::Extensions;

use super::SessionLifetime;
use crate::{
    customer::{Customer, SessionContext},
    engine::cache::entry::CachedSession,
    session::CustomerSession,
};

/// The session that the token of the request opened, for handlers that need more than its
/// customer, for example to revoke it: a handle of the cached session, whose fields are reached by
/// dereferencing. A clone costs one pointer.
///
/// In axum handlers it is an extractor: as with [`Customer`], an anonymous request is answered with
/// 401, and `Option<CurrentSession>` accepts it as `None`. Elsewhere
/// [`from_extensions`](Self::from_extensions) finds it in the extensions of an authenticated request,
/// and [`CustomerSessions::authenticate`](crate::CustomerSessions::authenticate) returns it.
///
/// ```
/// use axum::extract::State;
/// use customer_session::{CurrentSession, CustomerSessions, StoreError, store::MemoryStore};
///
/// async fn sign_out(
///     State(sessions): State<CustomerSessions<MemoryStore>>,
///     session: CurrentSession,
/// ) -> Result<(), StoreError> {
///     sessions.revoke(&session.id).await?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
#[doc(alias("current_user", "auth"))]
pub struct CurrentSession {
    cached: Arc<CachedSession>,
}

/// A customer for whom another one's session acts.
struct ActingFor {
    customer: Customer,
    session: Arc<CachedSession>,
}

impl CurrentSession {
    /// Returns a session that only its expiry ends, for tests of handlers.
    pub fn until_expiry(session: CustomerSession) -> Self {
        Self::new(Arc::new(CachedSession::detached(session)))
    }

    /// Returns the session that authenticated a request, from the extensions of the request; `None`
    /// if none did. The [`Customer`] that the layer has put there leads to it, or one from
    /// [`into_customer`](Self::into_customer) or [`acting_for`](Self::acting_for).
    pub fn from_extensions(extensions: &Extensions) -> Option<Self> {
        let customer: &Customer = extensions.get()?;
        customer.context().map(Self::new)
    }

    #[inline]
    pub(crate) fn new(cached: Arc<CachedSession>) -> Self {
        Self { cached }
    }

    /// Returns the lifetime of the session, for example for a WebSocket whose first message holds the
    /// token. In a handler behind the layer, [`SessionLifetime`] is an extractor.
    pub fn lifetime(&self) -> SessionLifetime {
        SessionLifetime::new(Arc::clone(&self.cached))
    }

    /// Returns a handle of `customer` that leads to this session. A middleware behind the layer inserts
    /// it in place of the [`Customer`] in the extensions, for instance while a member of staff acts for
    /// a customer.
    ///
    /// Handlers then get that customer, and [`CurrentSession`] and [`SessionLifetime`] stay those of
    /// this session. Whether it may act for them is for the application to decide; nothing is checked
    /// here, and a revocation of the other customer's sessions does not end this one.
    ///
    /// ```
    /// use customer_session::{CurrentSession, CustomerData};
    /// use http::Request;
    ///
    /// fn act_for<B>(customer: CustomerData, request: &mut Request<B>) {
    ///     if let Some(session) = CurrentSession::from_extensions(request.extensions()) {
    ///         request.extensions_mut().insert(session.acting_for(customer));
    ///     }
    /// }
    /// ```
    pub fn acting_for(&self, customer: impl Into<Customer>) -> Customer {
        Customer::in_session(Arc::new(ActingFor {
            customer: customer.into().detached(),
            session: Arc::clone(&self.cached),
        }))
    }

    /// Returns the session's customer, whose handle leads to this session: what the layer puts into the
    /// extensions of a request. A middleware of your own that authenticates by
    /// [`CustomerSessions::authenticate`](crate::CustomerSessions::authenticate) does the same, and the
    /// extractors work behind it.
    #[inline]
    pub fn into_customer(self) -> Customer {
        Customer::in_session(self.cached)
    }
}

impl Deref for CurrentSession {
    type Target = CustomerSession;

    fn deref(&self) -> &CustomerSession {
        &self.cached.session
    }
}

impl fmt::Debug for CurrentSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CurrentSession").field(&**self).finish()
    }
}

impl SessionContext for ActingFor {
    fn customer(&self) -> &Customer {
        &self.customer
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.session) as _
    }
}
