//! Who acts in the place of a customer.

use serde::{Deserialize, Serialize};

use super::invalid::{InvalidDetails, is_short_line};

/// A person or a program that acts as the customer, such as a member of the staff (RFC 8693,
/// section 4.1, `act`).
///
/// ```
/// use customer_session::Actor;
///
/// let actor = Actor::new("staff:ann").because("ticket 71");
/// assert_eq!(actor.id, "staff:ann");
/// assert_eq!(actor.reason.as_deref(), Some("ticket 71"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "ActorFields")]
#[non_exhaustive]
pub struct Actor {
    /// The id that the application knows them by.
    pub id: String,
    /// Why they act, for those who read it later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The fields before they are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActorFields {
    id: String,
    reason: Option<String>,
}

impl Actor {
    /// The length of the longest id, in bytes.
    pub const MAX_ID_LEN: usize = 256;

    /// The length of the longest reason, in bytes.
    pub const MAX_REASON_LEN: usize = 512;

    /// Creates an actor by the id that the application knows them by.
    ///
    /// An id that is empty, longer than [`MAX_ID_LEN`](Self::MAX_ID_LEN), or holds a control character,
    /// is refused when the session is issued.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            reason: None,
        }
    }

    /// Sets why they act, for those who read it later.
    ///
    /// A reason that is longer than [`MAX_REASON_LEN`](Self::MAX_REASON_LEN), or holds a control
    /// character, is refused when the session is issued.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    pub(super) fn check(&self) -> Result<(), InvalidDetails> {
        if self.id.is_empty() || !is_short_line(&self.id, Self::MAX_ID_LEN) {
            return Err(InvalidDetails::new(
                "an actor's id must be 1 to 256 bytes, without control characters",
            ));
        }
        if !is_short_line(
            self.reason.as_deref().unwrap_or_default(),
            Self::MAX_REASON_LEN,
        ) {
            return Err(InvalidDetails::new(
                "an actor's reason must be at most 512 bytes, without control characters",
            ));
        }
        Ok(())
    }
}

impl TryFrom<ActorFields> for Actor {
    type Error = InvalidDetails;

    fn try_from(fields: ActorFields) -> Result<Self, InvalidDetails> {
        let actor = Self {
            id: fields.id,
            reason: fields.reason,
        };
        actor.check()?;
        Ok(actor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_has_bounds() {
        let at_most = Actor::new("i".repeat(256)).because("r".repeat(512));
        assert_eq!(at_most.check(), Ok(()));
        for (actor, says) in [
            (Actor::new(""), "id"),
            (Actor::new("i".repeat(257)), "id"),
            (Actor::new("a\0"), "id"),
            (Actor::new("a").because("r".repeat(513)), "reason"),
            (Actor::new("a").because("a\nb"), "reason"),
        ] {
            let error = actor.check().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
