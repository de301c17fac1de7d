//! The family of a session, as far as its id tells: a session and those that it is rotated into share
//! a key, so that what concerns one of them is known to concern the others.
//!
//! A session that is derived from another has the key of its parent, and so have those that it is rotated
//! into. So one revocation of the parent, by any id that it had, overtakes the cached answers of the
//! derived sessions on every node, wakes their streams, and keeps them out of the cache while it is late;
//! the store ends them in the same transaction. A revocation of a derived session has the engine look the
//! parent and the others up once more. Nothing takes a key for that of one live session.

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid, Version};

/// Key of the family of a session, the first half of the UUIDs that [`new_id`](Self::new_id) makes.
///
/// Families that share a key by chance are told apart by the store; the engine looks their sessions up
/// once more than it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FamilyKey(u64);

impl FamilyKey {
    /// Returns the key of the session `id`, of all that it is rotated into, and of what is derived from
    /// them. An id of another form is that of a family's first session.
    pub(crate) fn of(id: &str) -> Self {
        let uuid = Uuid::try_parse(id).ok();
        let uuid = uuid.filter(|uuid| uuid.get_version() == Some(Version::Custom));
        Self::from_uuid(uuid.unwrap_or_else(|| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&Sha256::digest(id)[..16]);
            Builder::from_custom_bytes(bytes).into_uuid()
        }))
    }

    /// Returns an id for a new session: with the key of `relative`, which it takes the place of or is
    /// derived from, or else with a key of its own. It is a UUID of version 8 (RFC 9562, section 5.8).
    pub(crate) fn new_id(relative: Option<&str>, random: [u8; 16]) -> String {
        let mut bytes = random;
        if let Some(relative) = relative {
            bytes[..8].copy_from_slice(&Self::of(relative).0.to_be_bytes());
        }
        Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }

    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }

    fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid.as_u64_pair().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_and_its_successors_share_a_key_and_no_id() {
        let unrelated = FamilyKey::of(&FamilyKey::new_id(None, [1; 16]));
        let issued = FamilyKey::new_id(None, [2; 16]);
        for first in [
            &*issued,
            "ses_1",
            "",
            "01890a5d-ac96-774b-bcce-b302099a8057",
        ] {
            let second = FamilyKey::new_id(Some(first), [3; 16]);
            let third = FamilyKey::new_id(Some(&second), [4; 16]);
            assert_ne!(second, third);
            let key = FamilyKey::of(first);
            assert_eq!([&*second, &*third].map(FamilyKey::of), [key; 2], "{first}");
            assert_ne!(key, unrelated);
        }
    }

    #[test]
    fn ids_that_begin_alike_by_chance_have_keys_of_their_own() {
        let ids = ["00000000-0000-0000-0000-000000000001", "ses_1"];
        let others = ["00000000-0000-0000-0000-000000000002", "ses_10"];
        assert_ne!(ids.map(FamilyKey::of), others.map(FamilyKey::of));
        assert_ne!(FamilyKey::of(ids[0]), FamilyKey::of(others[0]));
    }
}
