//! `/kepler/operations/1`: what an operator asks of one node for all, and what people look at.
//!
//! Whoever holds the cluster key may ask it. A question that a node does not know is answered by an
//! error of the stream. An answer is bounded by what a call may carry; lists have caps of their own.

use minicbor::{Decode, Encode};

use crate::api::{Action, NodeHealth};
use crate::chunk::ChunkId;
use crate::time::UnixMillis;

/// The most chunks that a question or an answer lists.
pub const MAX_CHUNKS: usize = 1_024;

/// The most bytes of an explanation.
pub const MAX_DETAIL_BYTES: usize = 1_024;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Question {
    /// What it knows of its own chunks.
    #[n(0)]
    Health,
    /// To re-hash its disk now, or not.
    #[n(1)]
    Scrub(#[n(0)] Action),
    /// To hurry, pause or go on with repair, and from now on so many bytes a second of background
    /// traffic at most.
    #[n(2)]
    Repair(#[n(0)] Action, #[n(1)] Option<u64>),
    /// When it last hashed its copies of these; at most [`MAX_CHUNKS`].
    #[n(3)]
    Verified(#[n(0)] Vec<ChunkId>),
    /// To hash what follows this chunk in the order of their texts, for as long as a call may take.
    #[n(4)]
    Verify(#[n(0)] Option<ChunkId>),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Answer {
    /// To [`Question::Health`].
    #[n(0)]
    Health(#[n(0)] Box<NodeHealth>),
    /// It will be done.
    #[n(1)]
    Accepted,
    /// It will not be done, and why; at most [`MAX_DETAIL_BYTES`].
    #[n(2)]
    Refused(#[n(0)] String),
    /// To [`Question::Verified`]: in the order asked.
    #[n(3)]
    Verified(#[n(0)] Vec<Copied>),
    /// To [`Question::Verify`].
    #[n(4)]
    Page(#[n(0)] Page),
}

/// Whether a node has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Copied {
    /// Whether it holds it.
    #[n(0)]
    pub held: bool,
    /// When it last hashed it.
    #[n(1)]
    pub verified_at: Option<UnixMillis>,
}

/// Chunks of one node, just hashed, in the order of their texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Page {
    /// What was found; at most [`MAX_CHUNKS`].
    #[n(0)]
    pub chunks: Vec<Checked>,
    /// Whether nothing follows the last of them.
    #[n(1)]
    pub last: bool,
    /// How many chunks the node holds in all, for progress.
    #[n(2)]
    pub total: u64,
}

/// A chunk that was just hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Checked {
    /// The chunk.
    #[n(0)]
    pub id: ChunkId,
    /// Its bytes.
    #[n(1)]
    pub bytes: u64,
    /// How it is.
    #[n(2)]
    pub state: CopyState,
}

/// How a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum CopyState {
    /// Its bytes are what its name says.
    #[n(0)]
    Intact,
    /// They are not; it has been set aside.
    #[n(1)]
    Rotten,
    /// The node has it by its database, and there is no file.
    #[n(2)]
    FileMissing,
    /// The disk does not give it.
    #[n(3)]
    Unreadable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Codec;
    use crate::fuzz;
    use crate::wire::MAX_CALL_BYTES;

    fn examples() -> (Vec<Question>, Vec<Answer>) {
        let id = ChunkId::of(Codec::Raw, b"a");
        let questions = vec![
            Question::Health,
            Question::Scrub(Action::Pause),
            Question::Repair(Action::Start, Some(2)),
            Question::Verified(vec![id]),
            Question::Verify(None),
            Question::Verify(Some(id)),
        ];
        let mut health = NodeHealth::idle("a".parse().unwrap());
        health.scrub.progress = 0.5;
        let checked = Checked { id, bytes: 7, state: CopyState::Unreadable };
        let answers = vec![
            Answer::Health(Box::new(health)),
            Answer::Accepted,
            Answer::Refused("no".to_owned()),
            Answer::Verified(vec![Copied { held: true, verified_at: Some(UnixMillis(3)) }]),
            Answer::Page(Page { chunks: vec![checked], last: true, total: 1 }),
        ];
        (questions, answers)
    }

    fn encoded<T: Encode<()>>(messages: &[T]) -> Vec<Vec<u8>> {
        messages.iter().map(|message| minicbor::to_vec(message).unwrap()).collect()
    }

    fn question(bytes: &[u8]) -> Option<Question> {
        minicbor::decode(bytes).ok()
    }

    fn answer(bytes: &[u8]) -> Option<Answer> {
        minicbor::decode(bytes).ok()
    }

    #[test]
    fn questions_and_answers_survive_the_wire() {
        let (questions, answers) = examples();
        for (example, bytes) in questions.iter().zip(encoded(&questions)) {
            assert_eq!(question(&bytes).as_ref(), Some(example));
        }
        for (example, bytes) in answers.iter().zip(encoded(&answers)) {
            assert_eq!(answer(&bytes).as_ref(), Some(example));
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic_or_linger() {
        let (questions, answers) = examples();
        let (questions, answers) = (encoded(&questions), encoded(&answers));
        let both = [questions.clone(), answers.clone()].concat();
        fuzz::bears_anything(&both, MAX_CALL_BYTES, 1_000, |bytes| (question(bytes), answer(bytes)));
        fuzz::is_quick_with_much(&questions, MAX_CALL_BYTES, question);
        fuzz::is_quick_with_much(&answers, MAX_CALL_BYTES, answer);
    }

    #[test]
    fn nothing_is_reserved_by_a_declared_length() {
        let (questions, answers) = examples();
        fuzz::trusts_no_length(&encoded(&questions), question);
        fuzz::trusts_no_length(&encoded(&answers), answer);
    }

    #[test]
    fn fields_of_later_versions_are_ignored() {
        // No question has a struct in it.
        fuzz::ignores_later_fields(&encoded(&examples().1), answer);
    }

    #[test]
    fn the_longest_answers_fit_into_a_call() {
        let id = ChunkId::of(Codec::Raw, b"a");
        let checked = Checked { id, bytes: u64::MAX, state: CopyState::Unreadable };
        let page = Answer::Page(Page { chunks: vec![checked; MAX_CHUNKS], last: false, total: u64::MAX });
        assert!(minicbor::to_vec(&page).unwrap().len() < 1 << 20);
    }
}
