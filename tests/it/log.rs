//! A record of the log, at every level.

use std::{
    io::{Result, Write},
    sync::{Arc, LazyLock, Mutex},
};

use tracing::{Dispatch, Level, Subscriber, subscriber::DefaultGuard};

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Subscribers that live as long as the process. While there is only one in a process, `tracing`
/// asks the thread that reaches an event first whether it is of interest, and remembers a "no"
/// for all threads: what another test does then hides events from this one.
static PERMANENT: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(subscriber(&Log::default()))));

fn subscriber(log: &Log) -> impl Subscriber + Send + Sync + 'static {
    let log = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(move || log.clone())
        .finish()
}

impl Log {
    /// Records what this thread logs for as long as the guard lives.
    pub(crate) fn listen(&self) -> DefaultGuard {
        LazyLock::force(&PERMANENT);
        tracing::subscriber::set_default(subscriber(self))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
    }
}
