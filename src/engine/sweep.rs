//! How what was revoked leaves memory: it is never used again, but it lies in the caches, its token and
//! its customer included, until something takes its place. So a while after a change the caches are
//! swept, on a thread where no request waits.

use std::{
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, task::spawn_blocking, time::sleep};

use super::Engine;

/// Time from a change to the sweep. One sweep is made for all changes in between.
const SWEEP_AFTER: Duration = Duration::from_secs(60);

/// Whether a sweep is to come.
pub(super) struct Sweep {
    is_due: AtomicBool,
    engine: Weak<Engine>,
}

/// A sweep that is to come. Dropped without it, if its runtime is shut down, the next change makes
/// another.
struct Scheduled(Weak<Engine>);

impl Sweep {
    pub(super) fn new(engine: Weak<Engine>) -> Self {
        Self {
            is_due: AtomicBool::new(false),
            engine,
        }
    }

    /// Sweeps a while from now, unless that is to come anyway. Outside a runtime it does nothing.
    pub(super) fn schedule(&self) {
        if self.is_due.load(Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.is_due.swap(true, Relaxed) {
            return;
        }
        let scheduled = Scheduled(Weak::clone(&self.engine));
        runtime.spawn(async move {
            sleep(SWEEP_AFTER).await;
            let engine = scheduled.0.upgrade();
            // Before the sweep: a change from here on may come too late for it.
            drop(scheduled);
            if let Some(engine) = engine {
                spawn_blocking(move || engine.run_pending_tasks());
            }
        });
    }
}

impl Drop for Scheduled {
    fn drop(&mut self) {
        if let Some(engine) = self.0.upgrade() {
            engine.sweep.is_due.store(false, Relaxed);
        }
    }
}
