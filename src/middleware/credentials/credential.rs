//! What a request presents as its credential.

use crate::token::SessionToken;

/// What a request presents as its credential, in one place or in all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Credential<T> {
    /// Nothing, or a credential of another scheme.
    None,
    /// What stands where the token should: its characters are not checked yet.
    Token(T),
    /// The place of a token without one in it.
    Malformed,
    /// A browser's credential with a request that another site may have made it send.
    CrossSite,
    /// More than one credential (RFC 6750, section 2: a client must not).
    Multiple,
}

impl<T> Credential<T> {
    /// What this credential and another, from elsewhere in the request, are together. One that
    /// is malformed counts: dropping it in favour of the other would be a choice between two.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (one, Credential::None) | (Credential::None, one) => one,
            _ => Credential::Multiple,
        }
    }
}

impl Credential<SessionToken> {
    pub(crate) fn as_bytes(&self) -> Credential<&[u8]> {
        match self {
            Credential::None => Credential::None,
            Credential::Token(token) => Credential::Token(token.expose().as_bytes()),
            Credential::Malformed => Credential::Malformed,
            Credential::CrossSite => Credential::CrossSite,
            Credential::Multiple => Credential::Multiple,
        }
    }
}
