//! The text in which stores announce changes to other nodes: identifiers, and nothing of a token.

use chrono::DateTime;

use crate::invalidation::{Invalidation, SourceEvent};

/// Returns the message that [`event`] reads.
pub(super) fn message(invalidation: &Invalidation) -> String {
    match invalidation {
        Invalidation::Session(id) => format!("session:{id}"),
        Invalidation::Customer(id) => format!("customer:{id}"),
        Invalidation::CustomerChanged { id, modified_at } => {
            format!("changed:{}:{id}", modified_at.timestamp_micros())
        }
        Invalidation::All => "all".to_owned(),
    }
}

/// Reads a message; `None` for that of a probe.
pub(super) fn event(message: &str) -> Option<SourceEvent> {
    Some(match message.split_once(':') {
        Some(("session", id)) => Invalidation::Session(id.into()).into(),
        Some(("customer", id)) => Invalidation::Customer(id.into()).into(),
        Some(("changed", change)) => {
            changed(change).map_or(SourceEvent::Malformed, SourceEvent::from)
        }
        Some(("probe", _)) => return None,
        None if message == "all" => Invalidation::All.into(),
        _ => SourceEvent::Malformed,
    })
}

/// Reads microseconds since 1970 and the id of a customer.
fn changed(change: &str) -> Option<Invalidation> {
    let (micros, id) = change.split_once(':')?;
    Some(Invalidation::CustomerChanged {
        id: id.into(),
        modified_at: DateTime::from_timestamp_micros(micros.parse().ok()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_events_and_probes_are_none() {
        let changed = |id: &str, micros| Invalidation::CustomerChanged {
            id: id.into(),
            modified_at: DateTime::from_timestamp_micros(micros).expect("a time"),
        };
        for (text, invalidation) in [
            ("session:a:b", Invalidation::Session("a:b".into())),
            ("customer:", Invalidation::Customer("".into())),
            (
                "changed:1893456000000001:a:b",
                changed("a:b", 1_893_456_000_000_001),
            ),
            ("changed:-1:", changed("", -1)),
            ("all", Invalidation::All),
        ] {
            assert_eq!(message(&invalidation), text);
            assert_eq!(event(text), Some(invalidation.into()));
        }
        assert_eq!(event("probe:0"), None);
        for malformed in [
            "",
            "session",
            "sessions:x",
            "ALL",
            "all:",
            "{}",
            "changed:cus_1",
            "changed::cus_1",
            "changed:9223372036854775807:cus_1",
        ] {
            assert_eq!(
                event(malformed),
                Some(SourceEvent::Malformed),
                "{malformed}"
            );
        }
    }
}
