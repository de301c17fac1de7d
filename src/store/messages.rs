//! The text in which stores announce changes to other nodes: identifiers, and nothing of a token.

use crate::invalidation::{Invalidation, SourceEvent};

/// Returns the message that [`event`] reads.
pub(super) fn message(invalidation: &Invalidation) -> String {
    match invalidation {
        Invalidation::Session(id) => format!("session:{id}"),
        Invalidation::Customer(id) => format!("customer:{id}"),
        Invalidation::All => "all".to_owned(),
    }
}

/// Reads a message; `None` for that of a probe.
pub(super) fn event(message: &str) -> Option<SourceEvent> {
    Some(match message.split_once(':') {
        Some(("session", id)) => Invalidation::Session(id.into()).into(),
        Some(("customer", id)) => Invalidation::Customer(id.into()).into(),
        Some(("probe", _)) => return None,
        None if message == "all" => Invalidation::All.into(),
        _ => SourceEvent::Malformed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_events_and_probes_are_none() {
        for (text, invalidation) in [
            ("session:a:b", Invalidation::Session("a:b".into())),
            ("customer:", Invalidation::Customer("".into())),
            ("all", Invalidation::All),
        ] {
            assert_eq!(message(&invalidation), text);
            assert_eq!(event(text), Some(invalidation.into()));
        }
        assert_eq!(event("probe:0"), None);
        for malformed in ["", "session", "sessions:x", "ALL", "all:", "{}"] {
            assert_eq!(
                event(malformed),
                Some(SourceEvent::Malformed),
                "{malformed}"
            );
        }
    }
}
