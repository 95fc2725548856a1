//! `/kepler/operations/1`: what an operator asks of one node for all, and what people look at.
//!
//! Whoever holds the cluster key may ask it. A question that a node does not know is answered by an
//! error of the stream. An answer is bounded by what a call may carry; lists have caps of their own.

use minicbor::{Decode, Encode};

use crate::api::{Action, NodeHealth};
use crate::chunk::ChunkId;
use crate::name::Name;
use crate::recent::Sample;
use crate::time::UnixMillis;
use crate::version::{Content, Dot};

/// The most chunks that a question or an answer lists.
pub const MAX_CHUNKS: usize = 1_024;

/// The most bytes of an explanation.
pub const MAX_DETAIL_BYTES: usize = 1_024;

/// The most replaced versions of a name that an answer lists.
pub const MAX_REPLACED: usize = 64;

/// The most bytes of events in an answer.
pub const MAX_EVENT_BYTES: usize = 512 << 10;

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
    /// What it remembers of versions of this name that do not survive.
    #[n(5)]
    Replaced(#[n(0)] Name),
    /// What it measured and what happened in the last so many milliseconds.
    #[n(6)]
    Recent(#[n(0)] u64),
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
    /// To [`Question::Replaced`]: at most [`MAX_REPLACED`].
    #[n(5)]
    Replaced(#[n(0)] Vec<Replaced>),
    /// To [`Question::Recent`].
    #[n(6)]
    Recent(#[n(0)] Recent),
}

/// What a version had that does not survive.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Replaced {
    /// Which version it was.
    #[n(0)]
    pub dot: Dot,
    /// The file.
    #[n(1)]
    pub content: Content,
    /// When it was written, by the writer's wall clock.
    #[n(2)]
    pub created_at: UnixMillis,
    /// When this node learnt that it was superseded, by its own.
    #[n(3)]
    pub gone_at: UnixMillis,
}

/// What a node remembers of the last hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Recent {
    /// What it measured; at most [`crate::recent::MOST_SAMPLES`].
    #[n(0)]
    pub samples: Vec<Sample>,
    /// What happened; at most [`MAX_EVENT_BYTES`], the latest.
    #[n(1)]
    pub events: Vec<Told>,
}

/// An event as text: one of a kind that a node does not know is left out, not the answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Told {
    /// When, by the node's wall clock.
    #[n(0)]
    pub at: UnixMillis,
    /// Its place among the events of that process.
    #[n(1)]
    pub number: u64,
    /// [`crate::api::Event`] as JSON.
    #[n(2)]
    pub event: String,
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
            Question::Replaced("a/b".parse().unwrap()),
            Question::Recent(3_600_000),
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
            Answer::Replaced(vec![replaced(None)]),
            Answer::Recent(Recent {
                samples: vec![Sample { at: UnixMillis(9), queue: 3, ..Sample::default() }],
                events: vec![Told { at: UnixMillis(9), number: 1, event: "{}".to_owned() }],
            }),
        ];
        (questions, answers)
    }

    fn replaced(content_type: Option<String>) -> Replaced {
        let root = ChunkId::of(Codec::Raw, b"a");
        Replaced {
            dot: "a.0123456789abcdef.7".parse().unwrap(),
            content: Content { root, size: u64::MAX, chunks: 1, content_type },
            created_at: UnixMillis(u64::MAX),
            gone_at: UnixMillis(u64::MAX),
        }
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
        let mut health = crate::api::NodeHealth::idle("a".parse().unwrap());
        (health.lost, health.fetching) = (vec![id; crate::api::MAX_LISTED], vec![id; crate::api::MAX_LISTED]);
        assert!(minicbor::to_vec(Answer::Health(Box::new(health))).unwrap().len() < 1 << 20);
        let longest = replaced(Some("a".repeat(crate::version::MAX_CONTENT_TYPE_BYTES)));
        let answer = Answer::Replaced(vec![longest; MAX_REPLACED]);
        assert!(minicbor::to_vec(&answer).unwrap().len() < 1 << 20);
        let wide = u64::MAX;
        let sample = Sample {
            at: UnixMillis(wide),
            received: wide,
            sent: wide,
            queue: wide,
            under_replicated: wide,
            moving: wide,
        };
        let told = Told { at: UnixMillis(wide), number: wide, event: "e".repeat(MAX_EVENT_BYTES / 500) };
        let recent = Recent { samples: vec![sample; crate::recent::MOST_SAMPLES], events: vec![told; 500] };
        assert!(minicbor::to_vec(Answer::Recent(recent)).unwrap().len() < 1 << 20);
    }
}
