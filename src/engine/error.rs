//! Why a token does not authenticate.

use std::{error::Error, fmt};

use crate::store::StoreError;

/// The reason why a token does not authenticate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The token opens no live session: it is malformed, unknown, expired or revoked, or its
    /// customer was deleted. Which of these is not told apart.
    InvalidToken,
    /// The store was not asked, because as many lookups as allowed for such tokens are in flight. See
    /// [`max_concurrent_lookups`](crate::CustomerSessionsBuilder::max_concurrent_lookups).
    Overloaded,
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for AuthenticateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidToken => "the token opens no live session",
            Self::Overloaded => "too many session lookups are in flight",
            Self::Store(_) => "the token could not be checked",
        })
    }
}

impl Error for AuthenticateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for AuthenticateError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
