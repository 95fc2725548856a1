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
    use crate::fuzz;
    use crate::wire::MAX_CALL_BYTES;

    #[test]
    fn any_answer_is_parsed_or_refused_and_later_fields_are_ignored() {
        let examples = [minicbor::to_vec(Load { used: u64::MAX }).unwrap()];
        let parse = |bytes: &[u8]| minicbor::decode::<Load>(bytes).ok();
        fuzz::bears_anything(&examples, MAX_CALL_BYTES, 2_000, parse);
        fuzz::trusts_no_length(&examples, parse);
        fuzz::is_quick_with_much(&examples, MAX_CALL_BYTES, parse);
        fuzz::ignores_later_fields(&examples, parse);
    }

    proptest! {
        #[test]
        fn a_load_survives_the_wire(used in any::<u64>()) {
            let bytes = minicbor::to_vec(Load { used }).unwrap();
            prop_assert_eq!(minicbor::decode::<Load>(&bytes).unwrap(), Load { used });
        }
    }
}
