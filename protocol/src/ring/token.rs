//! Tokens: the positions on the ring that a node's id and capacity give it.

use sha2::{Digest, Sha256};

use crate::node_id::NodeId;

/// Names the algorithm; part of every token, so that another algorithm is another ring.
const DOMAIN: &[u8] = b"kepler-ring-v1";

/// Tokens of a node of the reference capacity.
///
/// So many keep the mean of max/mean replica load below 1.10 up to 1,000 equal nodes (measured:
/// 1.04, 1.065 and 1.087 at 10, 100 and 1,000).
pub const REFERENCE_TOKENS: u64 = 512;

/// The fewest tokens of any node: fewer would make its share a matter of luck.
pub const MIN_TOKENS: u32 = 32;

/// The most tokens of any node: they bound the ring's memory.
pub const MAX_TOKENS: u32 = 4096;

/// How many tokens a node of `capacity` bytes has: 512 x capacity / reference, rounded (halves up),
/// 32 to 4,096.
///
/// The reference is a constant of the cluster, never a mean of the members: a change of one member
/// must not move the others' tokens.
pub fn count(capacity: u64, reference_capacity: u64) -> u32 {
    let reference = u128::from(reference_capacity.max(1));
    let doubled = 2 * u128::from(REFERENCE_TOKENS) * u128::from(capacity);
    let rounded = (doubled + reference) / (2 * reference);
    u32::try_from(rounded).unwrap_or(MAX_TOKENS).clamp(MIN_TOKENS, MAX_TOKENS)
}

/// The first `count` tokens of `node`, in the order of their index.
///
/// Token i does not depend on `count`: a node that grows keeps the tokens it has.
pub fn of(node: &NodeId, count: u32) -> impl Iterator<Item = u64> {
    let prefix =
        Sha256::new().chain_update(DOMAIN).chain_update([0]).chain_update(node.as_str()).chain_update([0]);
    (0..count).map(move |index| {
        let mut decimal = [0; 10];
        let digest = prefix.clone().chain_update(write_decimal(index, &mut decimal)).finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    })
}

/// `number` in decimal, without an allocation for each of half a million tokens.
fn write_decimal(mut number: u32, buffer: &mut [u8; 10]) -> &[u8] {
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_decides_the_number_of_tokens_within_its_bounds() {
        let gib = 1 << 30;
        for (capacity, tokens) in [
            (100 * gib, 512),
            (50 * gib, 256),
            (0, 32),
            (u64::MAX, 4096),
            (800 * gib, 4096),
            (200 * gib, 1024),
        ] {
            assert_eq!(count(capacity, 100 * gib), tokens, "{capacity}");
        }
        assert_eq!(count(1001, 10_000), 51, "51.25 is rounded down");
        assert_eq!(count(101, 1024), 51, "50.5 is rounded up");
        assert_eq!(count(0, 0), 32, "a reference of nothing is no division by zero");
    }

    #[test]
    fn decimals_are_written_like_the_standard_library_does() {
        for number in [0, 1, 9, 10, 511, 4095, u32::MAX] {
            assert_eq!(write_decimal(number, &mut [0; 10]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_node_that_grows_keeps_its_tokens() {
        let node: NodeId = "node-a".parse().unwrap();
        let small: Vec<u64> = of(&node, 32).collect();
        let large: Vec<u64> = of(&node, 64).collect();
        assert_eq!(small, large[..32]);
        assert_eq!(large.len(), 64);
    }
}
