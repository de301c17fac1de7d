//! The keys under which the engine remembers what it was told of a token.

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A keyed hash of a token; the caches never hold an unknown token itself. It is fast, not
/// cryptographic: whoever uses an answer compares the whole token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenHash128(pub(super) u128);

/// The first half of a [`TokenHash128`]: enough to find a session, whose token is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenHash64(pub(super) u64);

impl TokenHash128 {
    pub(crate) fn half(self) -> TokenHash64 {
        TokenHash64((self.0 >> 64) as u64)
    }

    /// Bits that are even over all keys, for choosing among stripes.
    pub(crate) fn shard_bits(self) -> usize {
        self.half().shard_bits()
    }
}

impl TokenHash64 {
    /// Bits that are even over all keys, for choosing among stripes.
    pub(crate) fn shard_bits(self) -> usize {
        self.0 as usize
    }
}

impl Hash for TokenHash128 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// Takes the key as it is: it is a keyed hash already.
#[derive(Clone, Default)]
pub(crate) struct IdentityHasher(u64);

pub(crate) type BuildIdentityHasher = BuildHasherDefault<IdentityHasher>;

impl Hasher for IdentityHasher {
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
