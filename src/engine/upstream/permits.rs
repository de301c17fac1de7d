//! Permits: how many lookups are in flight at once, and which may wait for their turn.
//!
//! Strangers and customers share the store. So unknown tokens never hold more than half of the
//! permits, and neither do background lookups; requests with known tokens may hold all, and wait in
//! line for one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::known::TokenClass;

pub(crate) struct Permits {
    /// `None`: no limit.
    limits: Option<Limits>,
    waiting: AtomicUsize,
}

struct Limits {
    /// Hands permits out in the order in which they were asked for.
    all: Arc<Semaphore>,
    unknown: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

/// Permission to be one of the lookups in flight. It is returned when it is dropped.
#[derive(Default)]
pub(crate) struct Permit {
    _one_of_all: Option<OwnedSemaphorePermit>,
    _share: Option<OwnedSemaphorePermit>,
}

/// The purpose of a lookup, with the share that it has of the lookups in the background.
#[derive(Clone)]
pub(crate) struct Purpose {
    pub(crate) kind: PurposeKind,
    _share: Option<Arc<OwnedSemaphorePermit>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PurposeKind {
    /// A request waits for it.
    Request,
    /// A stream checks its session.
    Stream,
    /// A session in use is looked up before its entry is too old. This can wait.
    Refresh,
}

impl Purpose {
    pub(crate) const REQUEST: Self = Self {
        kind: PurposeKind::Request,
        _share: None,
    };

    fn background(kind: PurposeKind, share: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            kind,
            _share: share.map(Arc::new),
        }
    }
}

impl Permits {
    /// Creates `max` permits; `None` is no limit.
    pub(crate) fn new(max: Option<usize>) -> Self {
        let limits = max.map(|max| {
            let max = max.clamp(1, Semaphore::MAX_PERMITS);
            let half = (max / 2).max(1);
            let semaphore = |permits| Arc::new(Semaphore::new(permits));
            Limits {
                all: semaphore(max),
                unknown: semaphore(half),
                background: semaphore(half),
            }
        });
        Self {
            limits,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Takes a permit for a token of this class, if there is one and no other lookup waits for it.
    pub(crate) fn try_acquire(&self, class: TokenClass) -> Option<Permit> {
        let Some(limits) = &self.limits else {
            return Some(Permit::default());
        };
        let share = match class {
            TokenClass::Known => None,
            TokenClass::Unknown => Some(take(&limits.unknown)?),
        };
        Some(Permit {
            _one_of_all: Some(take(&limits.all)?),
            _share: share,
        })
    }

    /// Waits in line for a permit for a known token.
    pub(crate) async fn acquire(&self) -> Permit {
        let Some(limits) = &self.limits else {
            return Permit::default();
        };
        self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        Permit {
            _one_of_all: open(Arc::clone(&limits.all).acquire_owned().await),
            _share: None,
        }
    }

    /// Takes a share of the background lookups for a refresh, if one is free.
    pub(crate) fn try_refresh(&self) -> Option<Purpose> {
        let share = match &self.limits {
            None => None,
            Some(limits) => Some(take(&limits.background)?),
        };
        Some(Purpose::background(PurposeKind::Refresh, share))
    }

    /// Waits in line for a share of the background lookups for a stream.
    pub(crate) async fn stream(&self) -> Purpose {
        let share = match &self.limits {
            None => None,
            Some(limits) => open(Arc::clone(&limits.background).acquire_owned().await),
        };
        Purpose::background(PurposeKind::Stream, share)
    }

    /// Returns the number of lookups that wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}

fn take(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(semaphore).try_acquire_owned().ok()
}

/// Returns the permit of a semaphore, none of which is ever closed.
fn open(permit: Result<OwnedSemaphorePermit, AcquireError>) -> Option<OwnedSemaphorePermit> {
    permit.ok()
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(permits: &Permits, class: TokenClass) -> Vec<Permit> {
        std::iter::from_fn(|| permits.try_acquire(class)).collect()
    }

    #[test]
    fn unknown_tokens_and_background_lookups_hold_half_and_known_tokens_all() {
        for (max, half) in [(8, 4), (3, 1), (2, 1), (1, 1)] {
            let permits = Permits::new(Some(max));
            let unknown = take_all(&permits, TokenClass::Unknown);
            assert_eq!(unknown.len(), half, "of {max}");
            let known = take_all(&permits, TokenClass::Known);
            assert_eq!(known.len(), max - half, "of {max}");
            drop(unknown);
            assert_eq!(
                take_all(&permits, TokenClass::Known).len(),
                half,
                "of {max}"
            );
            let shares: Vec<_> = std::iter::from_fn(|| permits.try_refresh()).collect();
            assert_eq!(shares.len(), half, "of {max}");
        }
        assert!(
            Permits::new(None)
                .try_acquire(TokenClass::Unknown)
                .is_some()
        );
        let most = Permits::new(Some(usize::MAX));
        assert!(most.try_acquire(TokenClass::Unknown).is_some());
        assert!(most.try_refresh().is_some());
    }

    #[tokio::test]
    async fn a_known_token_that_waits_comes_before_an_unknown_one_that_does_not() {
        let permits = Permits::new(Some(1));
        let taken = permits.try_acquire(TokenClass::Unknown).expect("free");
        let mut waiting = std::pin::pin!(permits.acquire());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert_eq!(permits.waiting(), 1);
        drop(taken);
        assert!(permits.try_acquire(TokenClass::Unknown).is_none());
        waiting.await;
        assert_eq!(permits.waiting(), 0);
        assert!(permits.try_acquire(TokenClass::Unknown).is_some());
    }
}
