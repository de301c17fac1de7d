//! A request's credential, as one place or all of them present it.

use crate::token::SessionToken;

/// The credential of a request, in one place or in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential<T> {
    /// No credential, or one of another scheme.
    None,
    /// The text that stands where the token should. Its characters are not checked yet.
    Token(T),
    /// A place for a token without a token in it.
    Malformed,
    /// A cookie in a request that another site may have made the browser send.
    CrossSite,
    /// More than one credential (RFC 6750, section 2, forbids it).
    Multiple,
}

impl<T> Credential<T> {
    /// Combines two credentials from different places of one request.
    ///
    /// A malformed credential counts as one: ignoring it in favour of the other would be a
    /// choice between two.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (only, Credential::None) | (Credential::None, only) => only,
            _ => Credential::Multiple,
        }
    }

    fn as_ref(&self) -> Credential<&T> {
        match self {
            Credential::None => Credential::None,
            Credential::Token(token) => Credential::Token(token),
            Credential::Malformed => Credential::Malformed,
            Credential::CrossSite => Credential::CrossSite,
            Credential::Multiple => Credential::Multiple,
        }
    }

    /// Converts the token, if there is one.
    pub(super) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Credential<U> {
        match self {
            Credential::None => Credential::None,
            Credential::Token(token) => Credential::Token(convert(token)),
            Credential::Malformed => Credential::Malformed,
            Credential::CrossSite => Credential::CrossSite,
            Credential::Multiple => Credential::Multiple,
        }
    }
}

impl Credential<SessionToken> {
    /// Borrows the token as bytes.
    pub(super) fn as_bytes(&self) -> Credential<&[u8]> {
        self.as_ref().map(|token| token.expose().as_bytes())
    }
}
