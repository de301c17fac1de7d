//! Sources of invalidations that a test feeds.

use customer_session::{
    CustomerSessions, InvalidationSource, SessionStore, SourceEvent, async_trait,
};
use tokio::sync::mpsc;

/// A source of the events that are sent through a channel; it ends with the last sender.
pub struct ChannelSource(mpsc::UnboundedReceiver<SourceEvent>);

impl ChannelSource {
    pub fn new() -> (mpsc::UnboundedSender<SourceEvent>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }
}

#[async_trait]
impl InvalidationSource for ChannelSource {
    async fn recv(&mut self) -> Option<SourceEvent> {
        self.0.recv().await
    }
}

/// Applies `events` as a node does that receives them from another, and returns when it has.
pub async fn receive<S: SessionStore>(
    sessions: &CustomerSessions<S>,
    events: impl IntoIterator<Item = impl Into<SourceEvent>>,
) {
    let (sender, source) = ChannelSource::new();
    for event in events {
        sender.send(event.into()).expect("the source lives");
    }
    drop(sender);
    sessions.listen(source).await;
}
