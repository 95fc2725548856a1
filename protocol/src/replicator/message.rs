//! What replicators ask of each other, and the limits of it on the wire.
//!
//! An encoded message is at most [`MAX_MESSAGE_BYTES`]. Fields that a reader does not know are
//! ignored. Decoding checks every count, so a decoded message is safe to act upon.

use minicbor::{Decode, Encode};

use super::inventory::{Fingerprint, MAX_DEPTH, Prefix};
use crate::chunk::ChunkId;
use crate::version::Dot;

/// The longest encoded question or answer: [`MAX_DOTS`] dots of the longest node ids fit.
pub const MAX_MESSAGE_BYTES: usize = 512 << 10;

/// The most chunks asked after in one question.
pub const MAX_CHUNKS: usize = 1024;

/// The most references in one question; a chunk with more is vouched for in several.
pub const MAX_DOTS: usize = 4096;

/// The most fingerprints in one question.
pub const MAX_FINGERPRINTS: usize = 1024;

/// What one replicator asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Question {
    /// Of the chunks that both of us should hold: is what I hold under these prefixes what you hold?
    #[n(0)]
    Compare(#[n(0)] Compare),
    /// Which of these chunks do you hold?
    #[n(1)]
    Held(#[n(0)] Held),
    /// Adopt these references, and promise to keep the chunk.
    #[n(2)]
    Vouch(#[n(0)] Vouch),
}

/// Compares what two nodes hold of the chunks that both should hold.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Compare {
    /// Of what the asker holds; at most [`MAX_FINGERPRINTS`].
    #[n(0)]
    pub ranges: Vec<Range>,
}

/// A prefix with what the asker holds under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Range {
    /// The range.
    #[n(0)]
    pub prefix: Prefix,
    /// What is held in it.
    #[n(1)]
    pub fingerprint: Fingerprint,
}

/// Asks after chunks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Held {
    /// At most [`MAX_CHUNKS`].
    #[n(0)]
    pub chunks: Vec<Item>,
}

/// A chunk with a digest of the references that its holder knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Item {
    /// The chunk.
    #[n(0)]
    pub chunk: ChunkId,
    /// [`digest_of`](super::holding::digest_of) its references that have not ended.
    #[n(1)]
    pub references: u64,
}

/// Asks for a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Vouch {
    /// The chunk.
    #[n(0)]
    pub chunk: ChunkId,
    /// References that the asker holds: to be adopted. At most [`MAX_DOTS`].
    #[n(1)]
    pub dots: Vec<Dot>,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// To [`Question::Compare`]: the ranges in which something differs.
    #[n(0)]
    Differ(#[n(0)] Vec<Prefix>),
    /// To [`Question::Compare`]: what is held here is being counted; ask again.
    #[n(1)]
    Later,
    /// To [`Question::Held`]: one for each chunk, in the order asked.
    #[n(2)]
    Holds(#[n(0)] Vec<Holds>),
    /// To [`Question::Vouch`]: whether the promise was given. `true` is a receipt.
    #[n(3)]
    Vouched(#[n(0)] bool),
}

/// What a node has of a chunk that it was asked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Holds {
    /// The chunk, with the same references.
    #[n(0)]
    Same,
    /// The chunk, with other references.
    #[n(1)]
    Other,
    /// Not the chunk, and it should: it is an owner in its own rings.
    #[n(2)]
    Lacks,
    /// Not the chunk, and it is no owner in its own rings.
    #[n(3)]
    NotMine,
}

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replicator message: {0}")]
pub struct InvalidMessage(String);

fn invalid(why: impl ToString) -> InvalidMessage {
    InvalidMessage(why.to_string())
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, InvalidMessage> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(invalid("too long"));
    }
    minicbor::decode(bytes).map_err(invalid)
}

impl Question {
    /// The bytes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory cannot fail")
    }

    /// Reads and checks a question.
    ///
    /// # Errors
    /// If the bytes are too many, are no question, or ask for more than one may.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let question: Self = decode(bytes)?;
        let bounded = match &question {
            Self::Compare(compare) => {
                compare.ranges.len() <= MAX_FINGERPRINTS
                    && compare.ranges.iter().all(|range| range.prefix.depth() <= MAX_DEPTH)
            }
            Self::Held(held) => held.chunks.len() <= MAX_CHUNKS,
            Self::Vouch(vouch) => {
                vouch.dots.len() <= MAX_DOTS && vouch.dots.iter().all(|dot| dot.sequence > 0)
            }
        };
        if bounded { Ok(question) } else { Err(invalid("asks for too much")) }
    }
}

impl Answer {
    /// The bytes for the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory cannot fail")
    }

    /// Reads and checks an answer.
    ///
    /// # Errors
    /// If the bytes are too many, are no answer, or say more than was asked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let answer: Self = decode(bytes)?;
        let bounded = match &answer {
            Self::Differ(prefixes) => {
                prefixes.len() <= MAX_FINGERPRINTS
                    && prefixes.iter().all(|prefix| prefix.depth() <= MAX_DEPTH)
            }
            Self::Holds(holds) => holds.len() <= MAX_CHUNKS,
            Self::Later | Self::Vouched(_) => true,
        };
        if bounded { Ok(answer) } else { Err(invalid("says too much")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Codec;
    use crate::fuzz;
    use crate::version::Origin;

    fn question(bytes: &[u8]) -> Option<Question> {
        Question::from_bytes(bytes).ok()
    }

    fn answer(bytes: &[u8]) -> Option<Answer> {
        Answer::from_bytes(bytes).ok()
    }

    /// One of each kind.
    fn examples() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let chunk = ChunkId::of(Codec::Raw, b"a");
        let dot = Dot { origin: Origin { node: "eu.a".parse().unwrap(), generation: 7 }, sequence: 3 };
        let prefix = Prefix::of(u64::MAX, MAX_DEPTH);
        let fingerprint = Fingerprint::default();
        let questions = [
            Question::Compare(Compare { ranges: vec![Range { prefix: Prefix::ROOT, fingerprint }] }),
            Question::Held(Held { chunks: vec![Item { chunk, references: u64::MAX }] }),
            Question::Vouch(Vouch { chunk, dots: vec![dot, dot] }),
        ];
        let answers = [
            Answer::Differ(vec![Prefix::ROOT, prefix]),
            Answer::Later,
            Answer::Holds(vec![Holds::Same, Holds::Other, Holds::Lacks, Holds::NotMine]),
            Answer::Vouched(true),
        ];
        (questions.map(|q| q.to_bytes()).into(), answers.map(|a| a.to_bytes()).into())
    }

    #[test]
    fn no_bytes_make_a_replicators_parsers_panic_or_linger() {
        let (questions, answers) = examples();
        let both = [questions.clone(), answers.clone()].concat();
        fuzz::bears_anything(&both, MAX_MESSAGE_BYTES + 1, 2_000, |bytes| (question(bytes), answer(bytes)));
        fuzz::is_quick_with_much(&questions, MAX_MESSAGE_BYTES, question);
        fuzz::is_quick_with_much(&answers, MAX_MESSAGE_BYTES, answer);
    }

    #[test]
    fn a_replicator_reserves_nothing_by_a_declared_length() {
        let (questions, answers) = examples();
        fuzz::trusts_no_length(&questions, question);
        fuzz::trusts_no_length(&answers, answer);
    }

    #[test]
    fn a_replicator_ignores_fields_of_later_versions() {
        let (questions, answers) = examples();
        fuzz::ignores_later_fields(&questions, question);
        fuzz::ignores_later_fields(&answers, answer);
    }

    #[test]
    fn prefixes_deeper_than_the_tree_are_refused_in_questions_and_answers() {
        // {0: 200, 1: 0}, in place of {0: 3, 1: 4095}
        let deep = [0xa2, 0, 0x18, 200, 1, 0];
        let valid = minicbor::to_vec(Prefix::of(u64::MAX, MAX_DEPTH)).unwrap();
        let ranges =
            vec![Range { prefix: Prefix::of(u64::MAX, MAX_DEPTH), fingerprint: Fingerprint::default() }];
        let asked = Question::Compare(Compare { ranges }).to_bytes();
        let said = Answer::Differ(vec![Prefix::of(u64::MAX, MAX_DEPTH)]).to_bytes();
        let deepened = |bytes: &[u8]| {
            let at = bytes.windows(valid.len()).position(|part| part == valid).unwrap();
            [&bytes[..at], &deep, &bytes[at + valid.len()..]].concat()
        };
        assert!(question(&asked).is_some() && question(&deepened(&asked)).is_none());
        assert!(answer(&said).is_some() && answer(&deepened(&said)).is_none());
    }
}
