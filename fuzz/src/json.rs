//! The JSON of a session: what is written is read back, and what is read can be written.

use chrono::{DateTime, Utc};
use customer_session::{CustomerData, CustomerSession, MetadataValue, SessionToken};
use serde_json::Value;

use crate::random::{Random, Target};

const WORDS: &[&str] = &[
    "a",
    "\"",
    "\\",
    "\n",
    "\u{0}",
    "\u{1f511}",
    "\u{2028}",
    "e\u{301}",
    "id",
    "null",
    "0",
    "{",
    "}",
];

const MUTATIONS: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "1e400",
    "\"\"",
    "[]",
    "{}",
    ",",
    ":",
    "\"id\":",
    "\"expiresAt\":",
    "9007199254740993",
    "0.1",
    "2030-01-01T00:00:00Z",
    "\\ud800",
];

const KEYS: [(&str, &str); 7] = [
    ("id", "id"),
    ("created_at", "createdAt"),
    ("modified_at", "modifiedAt"),
    ("token", "token"),
    ("expires_at", "expiresAt"),
    ("customer_id", "customerId"),
    ("customer", "customer"),
];

pub fn target() -> Target {
    Box::new(|random| {
        let session = session(random);
        let text = serde_json::to_string(&session).expect("written");
        assert_eq!(read(text.as_bytes()).as_ref(), Some(&session), "{text}");

        let Ok(Value::Object(fields)) = serde_json::from_str(&text) else {
            panic!("not an object: {text}");
        };
        let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
        let mut expected = KEYS.map(|(name, _)| name);
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);

        // Names in camelCase, in another order, among unknown fields.
        let mut renamed = serde_json::Map::new();
        renamed.insert(format!("unknown{}", random.below(9)), Value::Null);
        for (name, camel) in KEYS {
            let new_name = if random.one_in(2) { name } else { camel };
            renamed.insert(new_name.to_owned(), fields[name].clone());
        }
        let renamed = Value::Object(renamed).to_string();
        assert_eq!(
            read(renamed.as_bytes()).as_ref(),
            Some(&session),
            "{renamed}"
        );

        let mut mutated = text.into_bytes();
        random.mutate(&mut mutated, MUTATIONS);
        if let Some(read_back) = read(&mutated) {
            let again = serde_json::to_vec(&read_back).expect("written");
            let shown = String::from_utf8_lossy(&mutated);
            assert_eq!(read(&again), Some(read_back), "{shown}");
        }
    })
}

fn read(text: &[u8]) -> Option<CustomerSession> {
    serde_json::from_slice(text).ok()
}

fn session(random: &mut Random) -> CustomerSession {
    let id = random.text(WORDS, 4);
    let mut customer = CustomerData::new(random.text(WORDS, 4), random.text(WORDS, 2));
    customer.created_at = time(random);
    customer.modified_at = maybe(random, time);
    customer.deleted_at = maybe(random, time);
    customer.email = maybe(random, |random| random.text(WORDS, 4));
    customer.name = maybe(random, |random| random.text(WORDS, 4));
    customer.external_id = maybe(random, |random| random.text(WORDS, 4));
    customer.email_verified = random.one_in(2);
    for _ in 0..random.below(4) {
        let key = random.text(WORDS, 3);
        let value: MetadataValue = match random.below(4) {
            0 => random.text(WORDS, 3).into(),
            1 => (random.number() as i64).into(),
            2 => float(random).into(),
            _ => random.one_in(2).into(),
        };
        customer.metadata.insert(key, value);
    }
    let token = SessionToken::new(random.text(WORDS, 5));
    let mut session = CustomerSession::new(id, token, customer, time(random));
    session.created_at = time(random);
    session.modified_at = maybe(random, time);
    session
}

/// Returns a number that JSON can carry.
fn float(random: &mut Random) -> f64 {
    let float = f64::from_bits(random.number());
    if float.is_finite() { float } else { 0.5 }
}

fn time(random: &mut Random) -> DateTime<Utc> {
    let micros = (random.number() % 8_000_000_000_000_000) as i64;
    DateTime::from_timestamp_micros(micros).expect("before the year 2300")
}

fn maybe<T>(random: &mut Random, make: fn(&mut Random) -> T) -> Option<T> {
    random.one_in(2).then(|| make(random))
}
