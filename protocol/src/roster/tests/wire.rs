//! Messages on the wire: what comes in is never trusted.

use std::collections::BTreeMap;

use super::cluster;
use super::world::id;
use crate::catalog::seen::Seen;
use crate::fuzz;
use crate::identity::{ClusterId, DatabaseId};
use crate::roster::change::{Change, Decided, Reason};
use crate::roster::council::Peer;
use crate::roster::message::{
    Answer, MAX_MESSAGE_BYTES, MAX_REASON_BYTES, Mark, Question, RING_VERSION, Request, Response,
};
use crate::roster::paxos::{Ballot, Vote};
use crate::roster::{Constants, Entry, Roster};
use crate::version::{Dot, Origin};

fn entry() -> Entry {
    Entry { key: [3; 32], database: DatabaseId([4; 16]), zone: Some("eu".to_owned()), capacity: 1 << 40 }
}

fn asked(question: Question) -> Request {
    let cluster = Some(ClusterId([1; 16]));
    Request { number: 7, cluster, database: DatabaseId([4; 16]), mark: 9, question }
}

/// One of each kind, of a given roster.
fn examples(roster: Roster) -> (Vec<Request>, Vec<Response>) {
    let mut seen = Seen::default();
    for sequence in [1, 2, 4] {
        seen.insert(Dot { origin: Origin { node: id(1), generation: 5 }, sequence });
    }
    let constants = Some(roster.constants);
    let lost = BTreeMap::from([(id(5), entry())]);
    let decided = Decided { roster, changed: id(2), before: Some(entry()), reason: Reason::Lost, lost };
    let ballot = Ballot { counter: 6, node: id(1) };
    let change = Change { node: id(2), entry: Some(entry()), reason: Reason::Admitted };
    let (base, floor) = (3, Some(seen.clone()));
    let questions = vec![
        Question::Hello { nonce: u64::MAX },
        Question::Join { entry: entry(), replication_factor: 3, ring_version: RING_VERSION },
        Question::Learn,
        Question::Adopt { decided: decided.clone(), floor: floor.clone() },
        Question::Prepare { base, ballot, change: change.clone() },
        Question::Accept { base, ballot, change: change.clone(), fresh: true },
    ];
    let remembered = Some(Mark { database: DatabaseId([4; 16]), count: 8 });
    let answers = vec![
        Answer::Hello { nonce: 1, remembered },
        Answer::Later { why: "busy".to_owned() },
        Answer::Refused { why: "w".repeat(MAX_REASON_BYTES) },
        Answer::Learned { decided, floor },
        Answer::Adopted { confirmation: Some(seen), silent: vec![id(3), id(4)] },
        Answer::Promise { ballot, accepted: Some(Vote { ballot, change }) },
        Answer::Accepted { ballot },
        Answer::Outbid { ballot },
    ];
    let database = DatabaseId([4; 16]);
    let said = |answer| Response { number: 7, constants, members: 3, database, mark: 9, answer };
    (questions.into_iter().map(asked).collect(), answers.into_iter().map(said).collect())
}

/// The examples of a roster that nobody is on but its founder.
fn encoded() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let constants =
        Constants { cluster: ClusterId([1; 16]), reference_capacity: 1 << 40, replication_factor: 3 };
    let (requests, responses) =
        examples(Roster { number: 3, constants, members: BTreeMap::from([(id(0), entry())]) });
    for example in &requests {
        assert_eq!(Request::from_bytes(&example.to_bytes()).as_ref(), Ok(example));
    }
    for example in &responses {
        assert_eq!(Response::from_bytes(&example.to_bytes()).as_ref(), Ok(example));
    }
    (requests.iter().map(Request::to_bytes).collect(), responses.iter().map(Response::to_bytes).collect())
}

fn request(bytes: &[u8]) -> Option<Request> {
    Request::from_bytes(bytes).ok()
}

fn response(bytes: &[u8]) -> Option<Response> {
    Response::from_bytes(bytes).ok()
}

#[test]
fn no_bytes_harm_the_parsers() {
    let (requests, responses) = encoded();
    fuzz::harms_neither((&requests, request), (&responses, response), MAX_MESSAGE_BYTES);
}

#[test]
fn what_can_be_parsed_can_be_handled_whoever_it_comes_from() {
    let mut world = cluster(12, 3);
    let roster = world.council(0).roster().unwrap().clone();
    let requests: Vec<Vec<u8>> = examples(roster).0.iter().map(Request::to_bytes).collect();
    let mut handled = 0;
    for (seed, bytes) in fuzz::hostile(&requests, 300, 4_000) {
        if let Some(request) = request(&bytes) {
            let peer = Peer { node: id((seed % 4) as usize), key: [(seed / 4 % 4) as u8; 32] };
            world.step(0, |c, disk, now| c.handle_request(disk, now, peer, request).unwrap());
            handled += 1;
        }
    }
    assert!(handled > 1_000, "only {handled} damaged requests could be parsed");
}

#[test]
fn no_message_exceeds_its_limits() {
    let entry = Entry { zone: Some("z".repeat(64)), ..entry() };
    let join = asked(Question::Join { entry, replication_factor: 3, ring_version: RING_VERSION });
    assert!(Request::from_bytes(&join.to_bytes()).is_err());
    let (_, mut responses) = examples(cluster(12, 3).council(0).roster().unwrap().clone());
    responses[1].answer = Answer::Later { why: "w".repeat(MAX_REASON_BYTES + 1) };
    assert!(Response::from_bytes(&responses[1].to_bytes()).is_err());
}
