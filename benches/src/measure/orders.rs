//! The order in which sessions are asked for.

use std::sync::Arc;

/// A generator of random numbers that are the same in every run.
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Returns a number from 0 to 1.
    pub fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn shuffled(sessions: usize, rng: &mut Rng) -> Vec<u32> {
    let mut all: Vec<u32> = (0..sessions as u32).collect();
    for last in (1..sessions).rev() {
        all.swap(last, rng.below(last + 1));
    }
    all
}

/// Returns each session once, in random order.
pub fn uniform(sessions: usize) -> Arc<[u32]> {
    shuffled(sessions, &mut Rng(1)).into()
}

/// Returns an order in which the nth busiest session is asked for in proportion to 1 / n.
/// Neighbours in rank are not neighbours in memory.
pub fn zipf(sessions: usize, length: usize) -> Arc<[u32]> {
    let mut rng = Rng(2);
    let by_rank = shuffled(sessions, &mut rng);
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=sessions)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    (0..length)
        .map(|_| {
            let drawn = rng.part() * sum;
            let rank = sums.partition_point(|sum| *sum <= drawn);
            by_rank[rank.min(sessions - 1)]
        })
        .collect()
}
