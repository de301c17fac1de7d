//! The member of a customer's team who uses a session.

use serde::{Deserialize, Serialize};

use super::invalid::{InvalidDetails, is_short_line};

/// The member of a customer who uses a session: all members of a team are one
/// [`Customer`](crate::Customer), with rights of their own.
///
/// `polar::PolarStore` fills it in for the tokens of members, and
/// [`NewSession::member`](crate::NewSession::member) for sessions that the service issues itself.
///
/// ```
/// use customer_session::{
///     CustomerSessionLayer, Member, MemberRole, SessionDetails, store::MemoryStore,
/// };
///
/// let member = Member::new("mem_1", MemberRole::BillingManager);
///
/// // A session without a member may be that of anyone in the team.
/// fn may_pay(details: &SessionDetails) -> bool {
///     let member = details.member.as_ref();
///     member.is_some_and(|member| matches!(member.role, MemberRole::Owner | MemberRole::BillingManager))
/// }
/// let mut details = SessionDetails::default();
/// details.member = Some(member);
/// assert!(may_pay(&details));
///
/// let paying = CustomerSessionLayer::new(MemoryStore::new())
///     .require(|session, _| may_pay(&session.details));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "MemberFields")]
#[non_exhaustive]
pub struct Member {
    /// Identifies the member.
    pub id: String,
    /// What the member may do for the customer.
    pub role: MemberRole,
    /// The member's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The member's e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// What a [`Member`] may do for the customer. The roles are Polar's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum MemberRole {
    /// `owner`
    Owner,
    /// `billing_manager`
    BillingManager,
    /// `member`
    Member,
    /// A role that this release does not know, by its name. It is empty if there is none.
    Other(String),
}

/// The fields before they are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberFields {
    id: String,
    role: MemberRole,
    name: Option<String>,
    email: Option<String>,
}

impl Member {
    /// The length of the longest id and of the longest role, in bytes.
    pub const MAX_ID_LEN: usize = 256;

    /// The length of the longest name and of the longest e-mail address, in bytes.
    pub const MAX_NAME_LEN: usize = 512;

    /// Creates a member without a name.
    ///
    /// An id that is empty, longer than [`MAX_ID_LEN`](Self::MAX_ID_LEN), or holds a control character,
    /// is refused when the session is issued. So is such a role, but it may be empty.
    pub fn new(id: impl Into<String>, role: MemberRole) -> Self {
        Self {
            id: id.into(),
            role,
            name: None,
            email: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), InvalidDetails> {
        if self.id.is_empty() || !is_short_line(&self.id, Self::MAX_ID_LEN) {
            return Err(InvalidDetails::new(
                "a member's id must be 1 to 256 bytes, without control characters",
            ));
        }
        if !is_short_line(self.role.as_str(), Self::MAX_ID_LEN) {
            return Err(InvalidDetails::new(
                "a member's role must be at most 256 bytes, without control characters",
            ));
        }
        let texts = [&self.name, &self.email];
        if !texts
            .into_iter()
            .flatten()
            .all(|text| is_short_line(text, Self::MAX_NAME_LEN))
        {
            return Err(InvalidDetails::new(
                "a member's name and e-mail address must be at most 512 bytes, without control \
                 characters",
            ));
        }
        Ok(())
    }
}

impl MemberRole {
    /// Returns the name of the role in Polar's API.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Owner => "owner",
            Self::BillingManager => "billing_manager",
            Self::Member => "member",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for MemberRole {
    fn from(name: String) -> Self {
        match name.as_str() {
            "owner" => Self::Owner,
            "billing_manager" => Self::BillingManager,
            "member" => Self::Member,
            _ => Self::Other(name),
        }
    }
}

impl From<MemberRole> for String {
    fn from(role: MemberRole) -> Self {
        match role {
            MemberRole::Other(name) => name,
            known => known.as_str().to_owned(),
        }
    }
}

impl TryFrom<MemberFields> for Member {
    type Error = InvalidDetails;

    fn try_from(fields: MemberFields) -> Result<Self, InvalidDetails> {
        let member = Self {
            id: fields.id,
            role: fields.role,
            name: fields.name,
            email: fields.email,
        };
        member.check()?;
        Ok(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_written_as_they_are_read() {
        for name in ["owner", "billing_manager", "member", "auditor", ""] {
            let role = MemberRole::from(name.to_owned());
            assert_eq!(role.as_str(), name);
            assert_eq!(String::from(role.clone()), name);
            assert_eq!(
                matches!(role, MemberRole::Other(_)),
                matches!(name, "auditor" | "")
            );
        }
    }

    #[test]
    fn a_member_has_bounds() {
        let other = |len: usize| MemberRole::Other("r".repeat(len));
        let mut at_most = Member::new("i".repeat(256), other(256));
        at_most.name = Some("n".repeat(512));
        at_most.email.clone_from(&at_most.name);
        assert_eq!(at_most.check(), Ok(()));
        let mut long = at_most.clone();
        long.name = Some("n".repeat(513));
        let mut lines = at_most;
        lines.email = Some("a\nb".to_owned());
        for (member, says) in [
            (Member::new("", MemberRole::Owner), "id"),
            (Member::new("i".repeat(257), MemberRole::Owner), "id"),
            (Member::new("a", other(257)), "role"),
            (long, "name"),
            (lines, "e-mail"),
        ] {
            let error = member.check().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
