//! `/kepler/load/1`: what a member stores, for people who look at the cluster through another one.

use minicbor::{Decode, Encode};

/// The answer; the question has no body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Load {
    /// Bytes of chunks stored.
    #[n(0)]
    pub used: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_answer_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = minicbor::decode::<Load>(&bytes);
        }

        #[test]
        fn a_load_survives_the_wire(used in any::<u64>()) {
            let bytes = minicbor::to_vec(Load { used }).unwrap();
            prop_assert_eq!(minicbor::decode::<Load>(&bytes).unwrap(), Load { used });
        }
    }
}
