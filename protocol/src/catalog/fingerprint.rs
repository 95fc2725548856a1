//! Fingerprints of sets: equal sets have equal ones, and members come and go one by one.
//!
//! The hashes of the members are added up modulo 2^256 beside their number, and what is compared is
//! a hash of both (A. Meyer, *Range-Based Set Reconciliation*, 2023, section 5). Plain XOR could be
//! cancelled out by whoever chooses members.

use sha2::{Digest, Sha256};

/// The sum and number of a set's hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Least significant first.
    sum: [u64; 4],
    count: u64,
}

impl Fingerprint {
    /// Counts a member in.
    pub fn add(&mut self, hash: &[u8; 32]) {
        self.merge(&Self::of(hash));
    }

    /// Takes a member out that was counted in.
    pub fn remove(&mut self, hash: &[u8; 32]) {
        let other = Self::of(hash);
        let mut borrow = false;
        for (limb, less) in self.sum.iter_mut().zip(other.sum) {
            let (difference, under) = limb.overflowing_sub(less);
            let (difference, again) = difference.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (difference, under || again);
        }
        self.count = self.count.wrapping_sub(1);
    }

    /// Counts the members of another, disjoint set in.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (limb, more) in self.sum.iter_mut().zip(other.sum) {
            let (sum, over) = limb.overflowing_add(more);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || again);
        }
        self.count = self.count.wrapping_add(other.count);
    }

    /// How many members were counted in.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What is compared.
    pub fn digest(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        self.sum.iter().for_each(|limb| hash.update(limb.to_be_bytes()));
        hash.update(self.count.to_be_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        digest
    }

    /// Half of [`Fingerprint::digest`], for ranges of which many are compared at once.
    pub fn short(&self) -> [u8; 8] {
        let mut short = [0; 8];
        short.copy_from_slice(&self.digest()[..8]);
        short
    }

    fn of(hash: &[u8; 32]) -> Self {
        let mut sum = [0; 4];
        for (limb, bytes) in sum.iter_mut().zip(hash.chunks_exact(8)) {
            *limb = u64::from_be_bytes(bytes.try_into().expect("chunks of eight"));
        }
        Self { sum, count: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_depends_on_the_members_and_not_on_how_they_came() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let mut hashes: Vec<[u8; 32]> = (0..9).map(|_| std::array::from_fn(|_| rng.u8(..))).collect();
            let mut whole = Fingerprint::default();
            hashes.iter().for_each(|hash| whole.add(hash));
            whole.remove(&hashes.pop().unwrap());
            rng.shuffle(&mut hashes);
            let (left, right) = hashes.split_at(3);
            let mut halves = [Fingerprint::default(); 2];
            left.iter().for_each(|hash| halves[0].add(hash));
            right.iter().for_each(|hash| halves[1].add(hash));
            let [mut one, other] = halves;
            one.merge(&other);
            assert_eq!((one, one.count()), (whole, 8));
            assert_ne!(one.digest(), other.digest());
            hashes.iter().for_each(|hash| whole.remove(hash));
            assert_eq!(whole, Fingerprint::default());
        }
    }
}
