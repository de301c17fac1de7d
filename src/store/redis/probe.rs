//! A sign that a source hears what is published.

use std::{collections::HashSet, time::Instant};

use crate::random::random;

/// A message that was published on each connection, to see whether it comes back.
pub(super) struct Probe {
    pub(super) text: String,
    pub(super) asked_at: Instant,
    /// Places of the connections by which it has not come back.
    missing: HashSet<usize>,
    /// All servers were found fit for use.
    pub(super) is_answered: bool,
}

impl Probe {
    /// Makes a message for so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            text: format!("probe:{:016x}", random()),
            asked_at: Instant::now(),
            missing: (0..connections).collect(),
            is_answered: false,
        }
    }

    /// Records a message that has come by the connection at `place`.
    pub(super) fn note(&mut self, text: &str, place: usize) {
        let own = text
            .strip_prefix(&*self.text)
            .and_then(|text| text.strip_prefix(':'));
        // A cluster passes it on to the other connections, too.
        if own.is_some_and(|own| own == place.to_string()) {
            self.missing.remove(&place);
        }
    }

    pub(super) fn has_come_back(&self) -> bool {
        self.is_answered && self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_must_come_back_by_each_connection_itself() {
        let mut probe = Probe::new(2);
        let text = probe.text.clone();
        probe.is_answered = true;
        for (text, place) in [
            (format!("{text}:0"), 1),
            (format!("{text}:1"), 0),
            (text.clone(), 0),
            ("probe:".to_owned(), 0),
        ] {
            probe.note(&text, place);
            assert!(!probe.has_come_back(), "{text} by {place}");
        }
        for place in 0..2 {
            assert!(!probe.has_come_back());
            probe.note(&format!("{text}:{place}"), place);
        }
        assert!(probe.has_come_back());
        probe.is_answered = false;
        assert!(!probe.has_come_back());
    }
}
