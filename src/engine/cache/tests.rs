//! The rules of the front cache.

use std::{mem::size_of, sync::Arc};

use super::{
    entry::CachedSession,
    front::{Bucket, FrontCache},
    key::TokenHash64,
};
use crate::{customer::CustomerData, session::CustomerSession, token::TokenFormat};

/// Returns a session under this hash.
fn entry(hash: u64) -> Arc<CachedSession> {
    let customer = CustomerData::new("cus_1", "org_1");
    let token = TokenFormat::any().generate();
    let end = customer.created_at;
    let session = CustomerSession::new(hash.to_string(), token, customer, end);
    let mut entry = CachedSession::detached(session);
    entry.hash = TokenHash64(hash);
    Arc::new(entry)
}

fn has(front: &FrontCache, hash: u64) -> bool {
    let id = hash.to_string();
    front.get(TokenHash64(hash), |session| {
        Some(session.session.id.as_str() == id)
    }) == Some(true)
}

/// Hashes that all belong into one bucket of a small cache, some with the same tag.
fn crowd() -> impl Iterator<Item = u64> {
    (0..).map(|number| number * 64)
}

#[test]
fn a_bucket_is_a_cache_line_and_an_entry_little_more_than_its_session() {
    assert_eq!(size_of::<Bucket>(), 64);
    let beyond = size_of::<CachedSession>() - size_of::<CustomerSession>();
    assert_eq!(beyond, 72);
}

#[test]
fn one_more_than_fit_replaces_a_session_only_if_told_to() {
    let front = FrontCache::new(5);
    let hashes: Vec<u64> = crowd().take(8).collect();
    let (last, first) = hashes.split_last().expect("eight");
    for hash in &hashes {
        front.put(entry(*hash), |_| true, false);
    }
    assert!(first.iter().all(|hash| has(&front, *hash)));
    assert!(!has(&front, *last));
    front.put(entry(*last), |_| true, true);
    assert!(has(&front, *last));
    let left = first.iter().filter(|hash| has(&front, **hash));
    assert_eq!(left.count(), 6);
}

#[test]
fn a_session_that_comes_again_takes_its_own_slot() {
    let front = FrontCache::new(5);
    let hashes: Vec<u64> = crowd().take(7).collect();
    let mut old = Vec::new();
    for _ in 0..3 {
        for hash in &hashes {
            let session = entry(*hash);
            old.push(Arc::downgrade(&session));
            front.put(session, |_| false, true);
        }
    }
    assert!(hashes.iter().all(|hash| has(&front, *hash)));
    let held = old.iter().filter(|session| session.strong_count() > 0);
    assert_eq!(held.count(), 7);
}

#[test]
fn what_cannot_be_used_is_replaced_and_dropped() {
    let front = FrontCache::new(5);
    let hashes: Vec<u64> = crowd().take(8).collect();
    for hash in &hashes[..7] {
        front.put(entry(*hash), |_| true, false);
    }
    let is_usable = |other: &CachedSession| other.hash != TokenHash64(hashes[3]);
    front.put(entry(hashes[7]), is_usable, false);
    assert!(has(&front, hashes[7]) && !has(&front, hashes[3]));
    front.retain(|other| other.hash == TokenHash64(hashes[0]));
    let left = hashes.iter().filter(|hash| has(&front, **hash));
    assert_eq!(left.collect::<Vec<_>>(), [&hashes[0]]);
    front.remove(TokenHash64(hashes[0]));
    assert!(!has(&front, hashes[0]));
}

#[test]
fn what_the_first_bucket_has_no_slot_for_goes_into_the_second() {
    // Two buckets; these belong into the first and, by the second half of the hash, the second.
    let front = FrontCache::new(10);
    let hashes: Vec<u64> = (0..14).map(|number| 0x8000_0000 + number).collect();
    for hash in &hashes {
        front.put(entry(*hash), |_| true, false);
    }
    assert!(hashes.iter().all(|hash| has(&front, *hash)));
}

#[test]
fn nearly_all_that_are_cached_have_a_slot_whatever_the_capacity() {
    for capacity in [100, 1000, 3000, 5000] {
        let front = FrontCache::new(capacity);
        let mut hash = 1_u64;
        let hashes: Vec<u64> = (0..capacity)
            .map(|_| {
                // splitmix64
                hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            })
            .collect();
        for hash in &hashes {
            front.put(entry(*hash), |_| true, false);
        }
        let found = hashes.iter().filter(|hash| has(&front, **hash)).count();
        assert!(
            found as f64 >= 0.985 * capacity as f64,
            "{found} of {capacity}"
        );
    }
}

#[test]
fn without_a_capacity_nothing_is_held() {
    let front = FrontCache::new(0);
    front.put(entry(1), |_| true, true);
    front.remove(TokenHash64(1));
    assert!(!has(&front, 1));
}
