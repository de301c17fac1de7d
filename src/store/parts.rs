//! A large deletion in small parts, so that lookups and other writers get their turn.

use std::time::Instant;

/// How far a deletion has got.
pub(super) struct Parts {
    size: u32,
    /// How many may still be deleted; none once a part found fewer than it might have deleted.
    left: u32,
    deleted: u64,
    begun: Option<Instant>,
}

impl Parts {
    /// Of `size` each, together at most `limit`.
    pub(super) fn new(limit: u32, size: u32) -> Self {
        Self {
            size,
            left: limit,
            deleted: 0,
            begun: None,
        }
    }

    /// How many to delete next, once the others had as much time as the last part took.
    pub(super) async fn next(&mut self) -> Option<u32> {
        let part = self.size.min(self.left);
        if part == 0 {
            return None;
        }
        if let Some(begun) = self.begun {
            tokio::time::sleep(begun.elapsed()).await;
        }
        self.begun = Some(Instant::now());
        Some(part)
    }

    /// What became of the last part: so many were due, and so many of them were there.
    pub(super) fn add(&mut self, due: u64, deleted: u64) {
        self.deleted += deleted;
        let part = self.size.min(self.left);
        self.left = match due < u64::from(part) {
            true => 0,
            false => self.left - part,
        };
    }

    pub(super) fn deleted(&self) -> u64 {
        self.deleted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for in each part when there are `there` to delete.
    async fn asked(limit: u32, size: u32, mut there: u32) -> (Vec<u32>, u64) {
        let mut parts = Parts::new(limit, size);
        let mut asked = Vec::new();
        while let Some(part) = parts.next().await {
            asked.push(part);
            let gone = part.min(there);
            there -= gone;
            parts.add(gone.into(), gone.into());
        }
        (asked, parts.deleted())
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_limit_or_with_what_there_is() {
        assert_eq!(asked(0, 10, 5).await, (vec![], 0));
        assert_eq!(asked(25, 10, 99).await, (vec![10, 10, 5], 25));
        assert_eq!(asked(25, 10, 12).await, (vec![10, 10], 12));
        assert_eq!(asked(25, 10, 10).await, (vec![10, 10], 10));
        assert_eq!(asked(25, 10, 0).await, (vec![10], 0));
    }
}
