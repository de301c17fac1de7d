//! How the caches in front of one store, in one process, hear of each other's changes.

use std::{
    any::{TypeId, type_name},
    fmt, ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{invalidation::Invalidation, telemetry, unconfirmed_changes::UnconfirmedChanges};

/// The caches in this process that stand in front of one store: those of all
/// [`CustomerSessions`](crate::CustomerSessions) that were built over clones of it.
///
/// A store that keeps one, and returns it from
/// [`shared_caches`](crate::SessionStore::shared_caches), lets a revocation by one of them reach the
/// others before it returns. While a change by one of them is late, none of them caches what it may
/// affect. Clones are the same set of caches; the clones of a store must share it.
///
/// ```
/// use customer_session::{
///     CustomerSession, SessionStore, SessionToken, SharedCaches, StoreError, async_trait,
/// };
///
/// #[derive(Clone, Default)]
/// struct Upstream {
///     caches: SharedCaches,
///     // and a connection pool
/// }
///
/// #[async_trait]
/// impl SessionStore for Upstream {
///     async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
///         # let _ = token;
///         Ok(None)
///     }
///
///     fn shared_caches(&self) -> Option<&SharedCaches> {
///         Some(&self.caches)
///     }
/// }
/// ```
#[derive(Clone, Default)]
pub struct SharedCaches {
    /// Guards the list. Held to read or change it, never across an await.
    caches: Arc<Mutex<Vec<Weak<dyn SharedCache>>>>,
    unconfirmed: Arc<UnconfirmedChanges>,
}

/// A cache that hears of the changes of others.
pub(crate) trait SharedCache: Send + Sync {
    /// Applies a change that another one has made.
    fn apply(&self, invalidation: &Invalidation);
}

impl SharedCaches {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a cache, and forgets those that are gone.
    pub(crate) fn add(&self, cache: Weak<dyn SharedCache>) {
        let mut caches = self.lock();
        caches.retain(|cache| cache.strong_count() > 0);
        caches.push(cache);
    }

    /// Returns the changes that the store has not confirmed in time, by any of the caches.
    pub(crate) fn unconfirmed(&self) -> &Arc<UnconfirmedChanges> {
        &self.unconfirmed
    }

    /// Applies a change of `origin` to all others.
    pub(crate) fn tell_others(&self, origin: &impl SharedCache, invalidation: &Invalidation) {
        let origin: *const () = ptr::from_ref(origin).cast();
        let others: Vec<_> = {
            let caches = self.lock();
            let others = caches
                .iter()
                .filter(|cache| cache.as_ptr().cast() != origin);
            others.filter_map(Weak::upgrade).collect()
        };
        for other in others {
            other.apply(invalidation);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn SharedCache>>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caches in front of stores that do not know their caches, by the type of the store.
static SEPARATE: Mutex<Vec<(TypeId, Weak<dyn SharedCache>)>> = Mutex::new(Vec::new());

/// Warns, once for each type of store, if there is another cache in front of a store of the same type
/// which knows nothing of its caches: it may be the same store.
pub(crate) fn warn_of_another<S: 'static>(cache: Weak<dyn SharedCache>) {
    let store = TypeId::of::<S>();
    let mut separate = SEPARATE.lock().unwrap_or_else(PoisonError::into_inner);
    separate.retain(|(_, cache)| cache.strong_count() > 0);
    let others = separate.iter().filter(|(other, _)| *other == store);
    let others = others.count();
    separate.push((store, cache));
    drop(separate);
    if others == 1 {
        telemetry::separate_caches(type_name::<S>());
    }
}

impl fmt::Debug for SharedCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCaches")
            .field("len", &self.lock().len())
            .finish()
    }
}
