//! The names of keys, and identifiers as they are kept. `lua/common.lua` says what lies where.

use crate::{
    customer::CustomerId,
    session::SessionId,
    store::pepper::{Peppers, TokenHash},
    token::SessionToken,
};

/// Shards of what has no customer to go by. Their number is part of the names of keys.
pub(super) const SHARDS: [u8; 16] = *b"0123456789abcdef";

/// An identifier in few bytes. Many end in a UUID, or in 32 hexadecimal digits: then it is `u` or `h`, 16
/// bytes, and the text before them. Any other is `=` and the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Packed(Vec<u8>);

/// As much of the hash of a token as is kept: 128 bits of it, the least that RFC 2104, section 5 allows.
/// Each session has it in two keys.
pub(super) type ShortHash = [u8; 16];

/// Returns the hash under which `token` is kept from now on.
pub(super) fn short_hash(peppers: &Peppers, token: &SessionToken) -> ShortHash {
    shortened(peppers.hash(token))
}

/// Returns all hashes under which `token` may be kept, the current one first.
pub(super) fn short_hashes(peppers: &Peppers, token: &SessionToken) -> Vec<ShortHash> {
    peppers.hashes(token).map(shortened).collect()
}

fn shortened(hash: TokenHash) -> ShortHash {
    hash.first_chunk().copied().unwrap_or_default()
}

/// The prefix of all keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Packed {
    fn new(id: &str) -> Self {
        let compact = [(b'u', 36), (b'h', 32)]
            .into_iter()
            .find_map(|(kind, len)| {
                let (prefix, digits) = id.split_at_checked(id.len().checked_sub(len)?)?;
                let uuid = uuid::Uuid::try_parse(digits).ok()?;
                let packed = [&[kind], uuid.as_bytes().as_slice(), prefix.as_bytes()].concat();
                // Other spellings are other identifiers.
                unpack(&packed).filter(|text| text == id).map(|_| packed)
            });
        Self(compact.unwrap_or_else(|| [b"=", id.as_bytes()].concat()))
    }

    /// Reads packed bytes; `None` if they are damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let packed = Self(bytes.to_vec());
        unpack(&packed.0).is_some().then_some(packed)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text.
    pub(super) fn text(&self) -> String {
        unpack(&self.0).unwrap_or_default()
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

    pub(super) fn token(&self, hash: &ShortHash) -> Vec<u8> {
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

    /// Returns the hash of the times at which a customer's sessions were last used.
    pub(super) fn uses(&self, customer: &Packed) -> Vec<u8> {
        self.tagged("u:", &customer.0, &[])
    }

    pub(super) fn family(&self, customer: &Packed, first: &Packed) -> Vec<u8> {
        self.tagged("f:", &customer.0, &first.0)
    }

    /// Returns the set of what is derived from a customer's sessions.
    pub(super) fn children(&self, customer: &Packed) -> Vec<u8> {
        self.tagged("d:", &customer.0, &[])
    }

    /// Returns the list of the ids in a family that others have replaced.
    pub(super) fn members(&self, customer: &Packed, first: &Packed) -> Vec<u8> {
        self.tagged("m:", &customer.0, &first.0)
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

    /// Returns the list of a minute, or of what was ended (`g`).
    pub(super) fn listed(&self, shard: u8, minute: &str) -> Vec<u8> {
        self.tagged("e:", &[shard], minute.as_bytes())
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

/// Returns the text of a packed identifier; `None` if it is damaged.
fn unpack(packed: &[u8]) -> Option<String> {
    let (kind, bytes) = packed.split_first()?;
    if *kind == b'=' {
        return String::from_utf8(bytes.to_vec()).ok();
    }
    let (bytes, prefix) = bytes.split_first_chunk()?;
    let uuid = uuid::Uuid::from_bytes(*bytes);
    let prefix = std::str::from_utf8(prefix).ok()?;
    match kind {
        b'u' => Some(format!("{prefix}{}", uuid.hyphenated())),
        b'h' => Some(format!("{prefix}{}", uuid.simple())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_as_they_were_packed() {
        let uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
        let digits = uuid.replace('-', "");
        let upper = uuid.to_uppercase();
        for (id, len) in [
            (uuid, 17),
            (&format!("cus_{uuid}"), 21),
            (&digits, 17),
            (&format!("ä{digits}"), 19),
            (&upper, 37),
            (&format!("{{{uuid}}}"), 39),
            ("", 1),
            ("u", 2),
            ("=x", 3),
            ("a}b{", 5),
        ] {
            let packed = Packed::from(&SessionId::from(id));
            assert_eq!(packed.text(), id);
            assert_eq!(Packed::from_bytes(packed.as_bytes()), Some(packed.clone()));
            assert_eq!(packed.as_bytes().len(), len, "{id}");
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
