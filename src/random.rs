//! Random numbers for pauses and names. Secrets come from the operating system instead.

use std::hash::{BuildHasher as _, RandomState};

/// Returns a random number. The standard library keys its hashes at random.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Returns a random number from 0 to 1.
pub(crate) fn random_fraction() -> f64 {
    random() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_and_fractions_are_in_range() {
        let mut numbers: Vec<u64> = (0..100).map(|_| random()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 100);
        assert!((0..100).all(|_| (0.0..=1.0).contains(&random_fraction())));
    }
}
