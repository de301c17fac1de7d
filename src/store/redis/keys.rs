//! The names of keys, and identifiers as they are kept. `lua/common.lua` says what lies where.

use crate::{customer::CustomerId, session::SessionId, store::pepper::TokenHash};

/// Shards of what has no customer to go by. Their number is part of the names of keys.
pub(super) const SHARDS: [u8; 16] = *b"0123456789abcdef";

/// An identifier in few bytes: `u` and the 16 bytes of a UUID, or `=` and the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Packed(Vec<u8>);

/// The prefix of all keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Packed {
    fn new(id: &str) -> Self {
        let packed = match uuid::Uuid::try_parse(id) {
            // Other spellings of a UUID are other identifiers.
            Ok(uuid) if uuid.hyphenated().to_string() == id => {
                [b"u".as_slice(), uuid.as_bytes()].concat()
            }
            _ => [b"=", id.as_bytes()].concat(),
        };
        Self(packed)
    }

    /// Reads packed bytes; `None` if they are damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let packed = Self(bytes.to_vec());
        packed.unpack().is_some().then_some(packed)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn unpack(&self) -> Option<String> {
        match self.0.split_first()? {
            (b'u', bytes) => {
                let uuid = uuid::Uuid::from_slice(bytes).ok()?;
                Some(uuid.hyphenated().to_string())
            }
            (b'=', text) => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        }
    }

    /// Returns the text.
    pub(super) fn text(&self) -> String {
        self.unpack().unwrap_or_default()
    }

    /// Returns the shard that a customer belongs to.
    pub(super) fn shard(&self) -> u8 {
        SHARDS[crc32fast::hash(&self.0) as usize % SHARDS.len()]
    }
}

impl From<&SessionId> for Packed {
    fn from(id: &SessionId) -> Self {
        Self::new(id.as_str())
    }
}

impl From<&CustomerId> for Packed {
    fn from(id: &CustomerId) -> Self {
        Self::new(id.as_str())
    }
}

impl Keys {
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the channel on which changes are announced.
    pub(super) fn channel(&self) -> String {
        format!("{}changes", self.prefix)
    }

    pub(super) fn peppers(&self) -> Vec<u8> {
        self.key("peppers", &[])
    }

    pub(super) fn token(&self, hash: &TokenHash) -> Vec<u8> {
        self.key("t:", hash)
    }

    pub(super) fn id(&self, id: &Packed) -> Vec<u8> {
        self.key("i:", &id.0)
    }

    pub(super) fn customer(&self, customer: &Packed) -> Vec<u8> {
        self.tagged("c:", &customer.0, &[])
    }

    pub(super) fn sessions(&self, customer: &Packed) -> Vec<u8> {
        self.tagged("s:", &customer.0, &[])
    }

    pub(super) fn family(&self, customer: &Packed, first: &Packed) -> Vec<u8> {
        self.tagged("f:", &customer.0, &first.0)
    }

    /// Returns the key of ended sessions, and what it is listed by.
    pub(super) fn ended(&self, customer: &Packed, number: u64) -> (Vec<u8>, Vec<u8>) {
        let entry = self.entry(&customer.0, &number.to_be_bytes());
        (self.ended_by(&entry), entry)
    }

    /// Returns the key of ended sessions that an entry of a list names.
    pub(super) fn ended_by(&self, entry: &[u8]) -> Vec<u8> {
        self.key("g:", entry)
    }

    pub(super) fn epoch(&self, shard: u8) -> Vec<u8> {
        self.tagged("a:", &[shard], &[])
    }

    pub(super) fn expiry(&self, shard: u8) -> Vec<u8> {
        self.tagged("e:", &[shard], &[])
    }

    /// Returns the packed id of the customer whose set of sessions a key is.
    pub(super) fn customer_of(&self, sessions: &[u8]) -> Option<Packed> {
        let tagged = sessions.strip_prefix(self.key("s:{", &[]).as_slice())?;
        Packed::from_bytes(tagged.strip_suffix(b"}")?)
    }

    /// Returns a pattern for the sets of sessions.
    pub(super) fn sessions_pattern(&self) -> Vec<u8> {
        let mut pattern = Vec::new();
        for byte in self.key("s:{", &[]) {
            if br"\*?[]^-".contains(&byte) {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
        pattern.push(b'*');
        pattern
    }

    fn key(&self, kind: &str, rest: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), kind.as_bytes(), rest].concat()
    }

    /// Returns a key whose slot in a cluster goes by `tag`, which is not empty and does not begin with a
    /// brace.
    fn tagged(&self, kind: &str, tag: &[u8], rest: &[u8]) -> Vec<u8> {
        self.key(kind, &self.entry(tag, rest))
    }

    fn entry(&self, tag: &[u8], rest: &[u8]) -> Vec<u8> {
        [b"{".as_slice(), tag, b"}", rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_as_they_were_packed() {
        let uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        for id in [
            uuid,
            &uuid.to_uppercase(),
            "",
            "u",
            "=x",
            "a}b{",
            "ä",
            &uuid.replace('-', ""),
        ] {
            let packed = Packed::from(&SessionId::from(id));
            assert_eq!(packed.text(), id);
            assert_eq!(Packed::from_bytes(packed.as_bytes()), Some(packed.clone()));
            assert_eq!(packed.as_bytes().len() == 17, id == uuid, "{id}");
        }
        for damaged in [b"".as_slice(), b"u123", b"x", b"=\xff"] {
            assert_eq!(Packed::from_bytes(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn a_customer_is_read_from_the_key_of_the_sessions() {
        let keys = Keys::new("app[1]:");
        let customer = Packed::from(&CustomerId::from("}{*"));
        let key = keys.sessions(&customer);
        assert_eq!(keys.customer_of(&key), Some(customer.clone()));
        assert_eq!(keys.customer_of(&keys.customer(&customer)), None);
        assert_eq!(keys.sessions_pattern(), br"app\[1\]:s:{*");
        let (ended, entry) = keys.ended(&customer, 7);
        assert_eq!(keys.ended_by(&entry), ended);
    }
}
