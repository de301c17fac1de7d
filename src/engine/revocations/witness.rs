//! Hears exactly what changes while a lookup goes alone.
//!
//! RevocationTable are shared, so under a storm of changes to others a lookup may be overtaken again and
//! again. One that goes alone is instead told each change by its identifier.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{invalidation::Invalidation, session::CustomerSession};

/// How many changes one lookup remembers.
const MOST_HEARD: usize = 1024;

#[derive(Default)]
pub(crate) struct Witnesses {
    /// Guards who listens and what each has heard. Held to write down or to read, never across
    /// an await.
    listening: Mutex<Listening>,
}

#[derive(Default)]
struct Listening {
    next: u64,
    heard: HashMap<u64, Vec<Invalidation>>,
}

impl Witnesses {
    /// Starts to listen; to be called before the lookup is stamped.
    pub(crate) fn listen(&self) -> Witness<'_> {
        let mut listening = self.lock();
        let number = listening.next;
        listening.next += 1;
        listening.heard.insert(number, Vec::new());
        Witness {
            witnesses: self,
            number,
        }
    }

    /// Tells everybody who listens of a change; to be called before the change returns.
    pub(crate) fn tell(&self, change: &Invalidation) {
        for heard in self.lock().heard.values_mut() {
            if heard.len() < MOST_HEARD {
                heard.push(change.clone());
            } else {
                // Too much to remember: anything may have changed.
                *heard = vec![Invalidation::All];
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listening> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens until it is dropped.
pub(crate) struct Witness<'a> {
    witnesses: &'a Witnesses,
    number: u64,
}

impl Witness<'_> {
    /// Whether anything that concerns `session` has changed since it began to listen.
    pub(crate) fn has_heard_of(&self, session: &CustomerSession) -> bool {
        let listening = self.witnesses.lock();
        let heard = listening.heard.get(&self.number);
        heard.into_iter().flatten().any(|change| match change {
            Invalidation::Session(id) => *id == session.id,
            Invalidation::Customer(id) => *id == session.customer_id,
            Invalidation::All => true,
        })
    }
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        self.witnesses.lock().heard.remove(&self.number);
    }
}
