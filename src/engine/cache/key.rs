//! The keys under which the engine remembers what it was told of a token.

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A keyed hash of a token; the caches never hold an unknown token itself. It is fast, not
/// cryptographic: whoever uses an answer compares the whole token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenKey(pub(super) u128);

/// The first half of a [`TokenKey`]: enough to find a session, whose token is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HalfKey(pub(super) u64);

impl TokenKey {
    pub(crate) fn half(self) -> HalfKey {
        HalfKey((self.0 >> 64) as u64)
    }

    /// Bits that are even over all keys, for choosing among stripes.
    pub(crate) fn spread(self) -> usize {
        self.half().spread()
    }
}

impl HalfKey {
    /// Bits that are even over all keys, for choosing among stripes.
    pub(crate) fn spread(self) -> usize {
        self.0 as usize
    }
}

impl Hash for TokenKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// Takes the key as it is: it is a keyed hash already.
#[derive(Clone, Default)]
pub(crate) struct AsItIs(u64);

pub(crate) type BuildAsItIs = BuildHasherDefault<AsItIs>;

impl Hasher for AsItIs {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
