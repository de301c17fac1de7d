//! Certificates for TLS.

use std::fmt;

use zeroize::Zeroizing;

/// Certificates beside those that the system trusts, in PEM.
#[derive(Clone, Default)]
pub(in crate::store) struct Certificates {
    /// Those of the authorities that are trusted in place of the system's.
    pub(in crate::store) root: Option<Vec<u8>>,
    /// The client's own, with those that lead to its authority, and its private key.
    pub(in crate::store) client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl Certificates {
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.root.is_none() && self.client.is_none()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("root", &self.root.is_some())
            .field("client", &self.client.is_some())
            .finish()
    }
}
