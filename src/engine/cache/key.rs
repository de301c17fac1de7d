//! Keyed hashes of tokens, the keys of the caches.

use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A keyed 128-bit hash of a token. The caches never hold an unknown token itself.
///
/// The hash is fast, not cryptographic: a session found by it is used only if its whole token is
/// the one that was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenHash128(pub(super) u128);

/// The first half of a [`TokenHash128`]: enough to find a session, whose token is then compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenHash64(pub(super) u64);

impl TokenHash128 {
    #[inline]
    pub(crate) fn half(self) -> TokenHash64 {
        TokenHash64((self.0 >> 64) as u64)
    }

    /// Returns bits that choose a shard.
    #[inline]
    pub(crate) fn shard_bits(self) -> usize {
        self.half().shard_bits()
    }
}

impl TokenHash64 {
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    #[cfg(test)]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns bits that choose a shard.
    #[inline]
    pub(crate) fn shard_bits(self) -> usize {
        self.0 as usize
    }

    /// Returns two places among `len`, each by another half of the hash.
    #[inline]
    pub(super) fn spread_over(self, len: usize) -> [usize; 2] {
        let scale = |half: u64| ((half * len as u64) >> 32) as usize;
        [scale(self.0 >> 32), scale(self.0 & u64::from(u32::MAX))]
    }

    /// Returns a byte which tells apart most hashes that share a place.
    #[inline]
    pub(super) fn tag(self) -> u8 {
        self.0 as u8
    }
}

impl Hash for TokenHash128 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// A hasher that returns its input, since the keys are keyed hashes already.
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
