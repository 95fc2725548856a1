//! Generators, one for each part of a run, all drawn from its seed.
//!
//! A part has a generator of its own so that drawing more in one does not change what happens in
//! the others: a shrunk schedule stays close to the one it came from.

use sha2::{Digest, Sha256};

/// The generator of the part called `part`, number `index`, of the run of `seed`.
pub fn stream(seed: u64, part: &str, index: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(word(seed, part, index))
}

/// 64 bits that depend on all three.
pub fn word(seed: u64, part: &str, index: u64) -> u64 {
    let digest = Sha256::new()
        .chain_update(seed.to_be_bytes())
        .chain_update(part.as_bytes())
        .chain_update([0])
        .chain_update(index.to_be_bytes())
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// 32 bytes that depend on all three: keys and ids.
pub fn bytes(seed: u64, part: &str, index: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (at, piece) in bytes.chunks_mut(8).enumerate() {
        piece.copy_from_slice(&word(seed, part, index * 4 + at as u64).to_be_bytes());
    }
    bytes
}

/// Whether something of this probability happens; the probability is given in parts per million.
pub fn chance(random: &mut fastrand::Rng, parts_per_million: u32) -> bool {
    parts_per_million > 0 && random.u32(0..1_000_000) < parts_per_million
}
