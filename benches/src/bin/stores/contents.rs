//! The sessions that are inserted and looked up.

use std::time::Instant;

use chrono::{SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    CustomerData, CustomerSession, MetadataValue, SessionRegistry, TokenFormat,
};
use customer_session_benches::measure::tasks::{Task, task};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::runtime::Runtime;

pub const PEPPER: [u8; 32] = [7; 32];

/// Sessions that are looked up, picked from all over the table.
const KNOWN: usize = 2000;
pub const BATCH: usize = 100;
pub const ROUNDS: usize = 40;

/// A session in the table, and the hash of its token.
pub type Known = (CustomerSession, Vec<u8>);

/// Returns a session like those of a service: a customer with a name, an address and a little
/// metadata.
pub fn session() -> CustomerSession {
    let id = TokenFormat::any().generate().expose()[4..30].to_owned();
    let now = Utc::now().trunc_subsecs(6);
    let mut customer = CustomerData::new(format!("cus_{id}"), "org_1");
    customer.name = Some("Jane Doe".to_owned());
    customer.email = Some("jane@example.com".to_owned());
    customer.metadata = [("plan", "pro".into()), ("seats", 12.into())]
        .map(|(key, value): (&str, MetadataValue)| (key.to_owned(), value))
        .into();
    let token = TokenFormat::new("cst_").generate();
    CustomerSession::new(
        format!("ses_{id}"),
        token,
        customer,
        now + TimeDelta::days(1),
    )
}

pub fn hash(session: &CustomerSession) -> Vec<u8> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(&PEPPER).expect("any length");
    hmac.update(session.token.expose().as_bytes());
    hmac.finalize().into_bytes().to_vec()
}

/// Inserts the sessions that will be looked up, and returns them with their hashes.
pub async fn known(store: &impl SessionRegistry) -> Vec<Known> {
    let mut known = Vec::with_capacity(KNOWN);
    for _ in 0..KNOWN {
        let session = session();
        store.insert(&session, None).await.expect("inserted");
        let hash = hash(&session);
        known.push((session, hash));
    }
    known
}

/// Measures the microseconds for each item of a batch, one after the other.
pub fn batch<'a, T, F: Future<Output = ()>>(
    runtime: &'a Runtime,
    items: impl Fn() -> Vec<T> + 'a,
    act: impl Fn(T) -> F + 'a,
) -> impl FnMut() -> f64 + 'a {
    move || {
        let items = items();
        let count = items.len() as f64;
        let begun = Instant::now();
        runtime.block_on(async {
            for item in items {
                act(item).await;
            }
        });
        begun.elapsed().as_secs_f64() * 1e6 / count
    }
}

/// Returns another part of the items each time.
pub fn some<T: Clone>(all: &[T]) -> impl Fn() -> Vec<T> + '_ {
    let next = std::cell::Cell::new(0);
    move || {
        let from = next.replace((next.get() + 7 * BATCH) % all.len());
        all.iter().cycle().skip(from).take(BATCH).cloned().collect()
    }
}

pub fn our_find<'a, S: SessionRegistry>(
    runtime: &'a Runtime,
    store: &'a S,
    known: &'a [Known],
) -> Task<'a> {
    task(
        "ours",
        batch(runtime, some(known), async |(session, _): Known| {
            let found = store.find(&session.token).await.expect("an answer");
            assert!(found.is_some());
        }),
    )
}

pub fn our_insert<'a, S: SessionRegistry>(runtime: &'a Runtime, store: &'a S) -> Task<'a> {
    task(
        "ours",
        batch(runtime, new_ones, async |(session, _): Known| {
            store.insert(&session, None).await.expect("inserted");
        }),
    )
}

pub fn new_ones() -> Vec<Known> {
    let sessions = (0..BATCH).map(|_| session());
    sessions
        .map(|session| (session.clone(), hash(&session)))
        .collect()
}
