//! What a session carries beyond its identity and its times.

mod actor;
mod device;
mod invalid;
mod member;
mod scopes;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::{
    actor::Actor,
    device::Device,
    invalid::InvalidDetails,
    member::{Member, MemberRole},
    scopes::{InsufficientScope, Scopes},
};

use crate::session_id::SessionId;

/// Details of a session: until when rotations may extend it, what it may be used for, and where it
/// was opened.
///
/// They are not part of the JSON of a [`CustomerSession`](crate::CustomerSession), which has
/// exactly the fields of the API object. Their own JSON is for stores that keep them in one column:
/// empty fields are left out, and an unknown field is an error, since it may restrict the session in a
/// way that this release does not know.
///
/// ```
/// use customer_session::{Device, Scopes, SessionDetails};
///
/// let mut details = SessionDetails::default();
/// details.scopes = Scopes::new(["orders:write", "orders:read"])?;
/// details.device = Some(Device::new("Jane's phone"));
/// let json = serde_json::to_string(&details)?;
/// assert_eq!(
///     json,
///     r#"{"scopes":"orders:read orders:write","device":{"label":"Jane's phone"}}"#,
/// );
/// assert_eq!(serde_json::from_str::<SessionDetails>(&json)?, details);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionDetails {
    /// The absolute end of the session and of all that it is exchanged for: no
    /// [`rotate`](crate::CustomerSessions::rotate) goes past it.
    ///
    /// Sessions that [`issue`](crate::CustomerSessions::issue) has opened always have one. `None`
    /// means that `expires_at` is the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
    /// The last time at which the customer proved who they are.
    ///
    /// [`issue`](crate::CustomerSessions::issue) sets it, and
    /// [`reauthenticated`](crate::CustomerSessions::reauthenticated) moves it; nothing else does. A derived
    /// session has that of its parent.
    /// `None` if the store keeps no details.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticated_at: Option<DateTime<Utc>>,
    /// What the session may be used for. Without scopes, it is let in only where none is required.
    #[serde(skip_serializing_if = "Scopes::is_empty")]
    pub scopes: Scopes,
    /// The device on which the customer signed in, for the customer to recognize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Who acts in the customer's place, such as a member of the staff. `None` if it is the customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The member of the customer's team who uses the session. `None` if the customer does, or if the
    /// store knows no members. A derived session has that of its parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// `true` for a [one-time link](crate::CustomerSessions::link). It authenticates no request, whatever
    /// its token looks like.
    #[serde(skip_serializing_if = "is_false")]
    pub is_link: bool,
    /// The session that this one was [derived](crate::CustomerSessions::derive) from, by the id that it had
    /// then. It may have another id since, which [`rotate`](crate::CustomerSessions::rotate) has given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<SessionId>,
    /// `true` for a session that [`rotate_overlapping`](crate::CustomerSessions::rotate_overlapping) has replaced,
    /// and whose token is still accepted for a short time.
    #[serde(skip_serializing_if = "is_false")]
    pub is_replaced: bool,
    /// The last use that was recorded, if uses are
    /// [recorded](crate::CustomerSessionsBuilder::record_uses) and there was one since the session was
    /// created. In a request it is that of an earlier one. It is not in the JSON, since each use changes
    /// it.
    #[serde(skip)]
    pub last_used_at: Option<DateTime<Utc>>,
}

/// For serde, which hands in a reference.
fn is_false(flag: &bool) -> bool {
    !flag
}

impl SessionDetails {
    /// Requires a scope, for a handler that learns only from the request which one it needs. In front
    /// of a handler, [`CustomerSessionLayer::require_scope`](crate::CustomerSessionLayer::require_scope)
    /// does it.
    ///
    /// ```
    /// use customer_session::{Scopes, SessionDetails};
    ///
    /// let mut details = SessionDetails::default();
    /// details.scopes = Scopes::new(["orders:read"])?;
    /// assert!(details.require("orders:read").is_ok());
    /// assert!(details.require("orders:write").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the session does not have the scope. In axum the error is a response: 403 with the challenge of
    /// RFC 6750, section 3.1.
    pub fn require(&self, scope: &str) -> Result<(), InsufficientScope> {
        match self.scopes.contains(scope) {
            true => Ok(()),
            false => Err(InsufficientScope::new(scope)),
        }
    }

    /// Refuses what is too long to be kept.
    ///
    /// # Errors
    ///
    /// If a text of the device, the actor or the member is too long, or holds a control character.
    pub(crate) fn check(&self) -> Result<(), InvalidDetails> {
        self.device.as_ref().map_or(Ok(()), Device::check)?;
        self.actor.as_ref().map_or(Ok(()), Actor::check)?;
        self.member.as_ref().map_or(Ok(()), Member::check)
    }

    /// Returns `true` if the session counts for a [`SessionLimit`](crate::SessionLimit).
    pub(crate) fn counts_for_limits(&self) -> bool {
        !self.is_link && self.parent.is_none() && !self.is_replaced
    }

    /// Returns `true` if there is more than times.
    pub(crate) fn has_more_than_times(&self) -> bool {
        let times = Self {
            ends_at: self.ends_at,
            authenticated_at: self.authenticated_at,
            last_used_at: self.last_used_at,
            ..Self::default()
        };
        *self != times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_json(json: &str) -> Result<SessionDetails, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn details_that_this_release_does_not_know_are_an_error() {
        assert!(from_json("{}").is_ok_and(|details| details == SessionDetails::default()));
        for unknown in [
            r#"{"tenant":"x"}"#,
            r#"{"device":{"label":"x","color":"red"}}"#,
            r#"{"actor":{"id":"x","on":"y"}}"#,
            r#"{"member":{"id":"x","role":"owner","team":"y"}}"#,
        ] {
            assert!(from_json(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn details_out_of_bounds_are_an_error_in_json_too() {
        for (json, says) in [
            (r#"{"scopes":"a\nb"}"#, "RFC 6749"),
            (r#"{"device":{"user_agent":"a\nb"}}"#, "user agent"),
            (r#"{"actor":{"id":""}}"#, "an actor's id"),
            (r#"{"member":{"id":"","role":"owner"}}"#, "a member's id"),
        ] {
            let error = from_json(json).expect_err(json).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
