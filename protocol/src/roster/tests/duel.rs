//! Proposers and acceptors alone, in any order of messages: thousands of schedules.

use super::world::id;
use crate::roster::change::{Change, Reason};
use crate::roster::paxos::{Acceptor, Progress, Proposer};
use crate::roster::paxos::{Ballot, Vote};
use crate::time::Instant;

#[derive(Clone, Debug)]
enum Message {
    Prepare(Ballot),
    Promise(Ballot, Option<Vote>),
    Accept(Ballot, Change),
    Accepted(Ballot),
}

/// One schedule of `members` that all propose; says what was decided, in order.
fn schedule(seed: u64, members: usize, durable: bool) -> Vec<Change> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut acceptors = vec![Acceptor::new(1); members];
    let mut proposers: Vec<Option<Proposer>> = vec![None; members];
    let mut counters = vec![0; members];
    let mut letters: Vec<(usize, usize, Message)> = Vec::new();
    let mut decided = Vec::new();
    for _ in 0..80 * members {
        if rng.u8(..12) == 0 || letters.is_empty() {
            let me = rng.usize(..members);
            let ballot = Ballot { counter: counters[me] + rng.u64(1..3), node: id(me) };
            counters[me] = ballot.counter;
            let change = Change { node: id(100 + me), entry: None, reason: Reason::Dead };
            let ids = (0..members).map(id).collect();
            proposers[me] = Some(Proposer::new(1, ballot, change, ids, Instant::ZERO));
            letters.extend((0..members).map(|to| (me, to, Message::Prepare(ballot))));
            continue;
        }
        if rng.u8(..20) == 0 {
            let crashed = rng.usize(..members);
            proposers[crashed] = None;
            if !durable {
                acceptors[crashed] = Acceptor::new(1);
            }
        }
        let at = rng.usize(..letters.len());
        let (from, to, message) = match rng.u8(..10) {
            0 => letters[at].clone(),
            _ => letters.swap_remove(at),
        };
        if rng.u8(..10) == 0 {
            continue;
        }
        let answer = match message {
            Message::Prepare(ballot) => match acceptors[to].prepare(ballot) {
                Ok(vote) => Some(Message::Promise(ballot, vote)),
                Err(higher) => {
                    counters[from] = counters[from].max(higher.counter);
                    None
                }
            },
            Message::Accept(ballot, change) => {
                acceptors[to].accept(ballot, change).ok().map(|()| Message::Accepted(ballot))
            }
            Message::Promise(ballot, vote) => {
                if let Some(proposer) = proposers[to].as_mut().filter(|p| p.ballot == ballot)
                    && proposer.handle_promise(id(from), vote) == Progress::Accept
                {
                    let change = proposer.change.clone();
                    letters.extend((0..members).map(|i| (to, i, Message::Accept(ballot, change.clone()))));
                }
                None
            }
            Message::Accepted(ballot) => {
                if let Some(proposer) = proposers[to].as_mut().filter(|p| p.ballot == ballot)
                    && proposer.handle_accepted(id(from)) == Progress::Decided
                {
                    decided.push(proposer.change.clone());
                }
                None
            }
        };
        letters.extend(answer.map(|message| (to, from, message)));
    }
    decided
}

fn agreed(decided: &[Change]) -> bool {
    decided.windows(2).all(|two| two[0] == two[1])
}

#[test]
fn whatever_is_decided_is_decided_once_in_thousands_of_schedules() {
    let mut decisions = 0;
    for seed in 0..6_000 {
        let members = 1 + seed as usize % 5;
        let decided = schedule(seed, members, true);
        assert!(agreed(&decided), "seed {seed}: {decided:?}");
        decisions += usize::from(!decided.is_empty());
    }
    assert!(decisions > 3_000, "only {decisions} schedules decided anything");
}

#[test]
fn acceptors_that_forget_are_found() {
    assert!((0..2_000).any(|seed| !agreed(&schedule(seed, 3, false))));
}
