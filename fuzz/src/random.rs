//! Random choices that a seed repeats, and what is done with them.

/// One target: it is made once, and called for each case.
pub type Target = Box<dyn FnMut(&mut Random)>;

/// A generator of random numbers: SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// Returns a number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    /// Returns `true` once in `count` times.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Returns a text of `parts`, at most `max` of them.
    pub fn text(&mut self, parts: &[&str], max: usize) -> String {
        (0..self.below(max + 1)).map(|_| self.pick(parts)).collect()
    }

    /// Changes `bytes` in a few places: inserts from `dictionary`, removes, repeats, replaces.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, dictionary: &[&str]) {
        for _ in 0..self.below(3) {
            let place = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => {
                    let word = self.pick(dictionary).bytes();
                    bytes.splice(place..place, word);
                }
                1 if place < bytes.len() => drop(bytes.remove(place)),
                2 => {
                    let end = place + self.below(bytes.len() - place + 1);
                    let part = bytes[place..end].to_vec();
                    bytes.splice(place..place, part);
                }
                _ if place < bytes.len() => bytes[place] = self.number() as u8,
                _ => {}
            }
        }
    }
}
