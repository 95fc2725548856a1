//! Audit: a slow pass over all names that finds what rot hid.
//!
//! Who has seen the same holds the same live versions; a row that a disk lost or brought back breaks
//! that and no exchange notices, for exchanges follow what was seen. So each node walks through its
//! names, a window at a time, and compares fingerprints of 16 ranges of it with a member that has
//! announced the same digest (range-based set reconciliation, A. Meyer 2023, with windows in place of
//! the upper levels, so that no step reads more than a window). Of a range that differs both say what
//! they hold.
//!
//! Which of two is right is not for two to say: every member that is here testifies. What most of
//! them hold, or half, is put back where it was lost; what most of all members know to be superseded
//! is dropped where it came back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::fingerprint::Fingerprint;
use super::message::{
    Audit, Check, MAX_CHECKED, MAX_RANGES, NamePart, Range, Recall, Recalled, Request, Response, Testimony,
    encoded_len,
};
use super::storage::{Result, Storage, published};
use super::{Catalog, Event, Purpose, Step, Unreachable};
use crate::name::Name;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::{Dot, Version};

/// Names in one window.
const WINDOW: usize = 512;

/// Names that an answer looks at in all: more than a window may have become of it, but not without end.
const MOST_NAMES: usize = 4 * WINDOW;

/// What an answer to a recall carries, in encoded bytes.
const RECALL_BYTES: usize = 256 << 10;

/// Versions that may be doubted at one time.
const MAX_DOUBTS: usize = 1024;

/// Names after one, up to another.
type Span = (Option<Name>, Option<Name>);

/// A version that this node and a peer disagree on.
#[derive(Debug)]
struct Doubt {
    name: Name,
    /// The version, where this node does not hold it.
    lost: Option<Version>,
    held: usize,
    gone: usize,
}

#[derive(Debug)]
enum Phase {
    /// Waits for which of these ranges differ.
    Comparing(Vec<Span>),
    /// Waits for what the peer holds of a range; these are left.
    Recalling(Vec<Span>),
    /// Waits for what the others have to say.
    Hearing,
}

#[derive(Debug)]
struct Round {
    peer: NodeId,
    requests: BTreeSet<u64>,
    phase: Phase,
    doubts: BTreeMap<Dot, Doubt>,
}

/// How far the pass came.
#[derive(Debug)]
pub(super) struct Auditor {
    after: Option<Name>,
    next: Instant,
    round: Option<Round>,
    passes: u64,
}

impl Auditor {
    pub const fn new(next: Instant) -> Self {
        Self { after: None, next, round: None, passes: 0 }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        // While a round is under way the driver reports every request at its deadline.
        self.round.is_none().then_some(self.next)
    }
}

/// The live versions of a name, as everybody who has seen the same holds them.
fn live(storage: &dyn Storage, name: &Name) -> Result<Vec<Version>> {
    Ok(published(storage, name)?.into_iter().filter(|version| !version.is_tombstone()).collect())
}

fn hash(salt: u64, version: &Version) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt.to_be_bytes());
    for text in [version.dot.origin.node.as_str(), version.name.as_str()] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(version.dot.origin.generation.to_be_bytes());
    hash.update(version.dot.sequence.to_be_bytes());
    hash.finalize().into()
}

/// The names of a span, no more than `limit`, and whether that is all of them.
fn names_of(storage: &dyn Storage, (after, until): &Span, limit: usize) -> Result<(Vec<Name>, bool)> {
    let mut names = storage.names(after.as_ref(), limit)?;
    let full = names.len() == limit;
    let within = names.partition_point(|name| until.as_ref().is_none_or(|until| name <= until));
    let all = !full || within < names.len();
    names.truncate(within);
    Ok((names, all))
}

impl Catalog {
    pub(super) fn audit_timeout(&mut self, step: &Step<'_>) -> Result<()> {
        if self.audit.round.is_some() || self.audit.next > step.now {
            return Ok(());
        }
        self.audit.next = step.now + self.config.audit_interval;
        let ours = self.knowledge.digest();
        let alike = self.collect.who_announced(ours).filter(|node| self.is_reachable(node)).collect();
        let Some(peer) = self.rng.choice::<Vec<NodeId>>(alike).filter(|_| step.electorate.is_intact()) else {
            return Ok(());
        };
        let names = step.storage.names(self.audit.after.as_ref(), WINDOW)?;
        let is_last = names.len() < WINDOW;
        let salt = self.rng.u64(..);
        let mut after = self.audit.after.clone();
        let (mut ranges, mut spans) = (Vec::new(), Vec::new());
        let pieces: Vec<&[Name]> = names.chunks(names.len().div_ceil(MAX_RANGES).max(1)).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let to_the_end = is_last && index + 1 == pieces.len();
            let until = piece.last().filter(|_| !to_the_end).cloned();
            let mut sum = Fingerprint::default();
            for name in *piece {
                live(&*step.storage, name)?.iter().for_each(|version| sum.add(&hash(salt, version)));
            }
            ranges.push(Range { until: until.clone(), digest: sum.digest() });
            spans.push((std::mem::replace(&mut after, until.clone()), until));
        }
        if pieces.is_empty() {
            ranges.push(Range { until: None, digest: Fingerprint::default().digest() });
            spans.push((after, None));
        }
        let question = Audit { salt, seen: ours, after: self.audit.after.take(), ranges };
        self.audit.after = names.last().filter(|_| !is_last).cloned();
        self.audit.passes += u64::from(is_last);
        self.audit.round = Some(Round {
            peer,
            requests: BTreeSet::new(),
            phase: Phase::Comparing(spans),
            doubts: BTreeMap::new(),
        });
        self.ask_auditor(step, peer, Request::Audit(question));
        Ok(())
    }

    fn ask_auditor(&mut self, step: &Step<'_>, to: NodeId, request: Request) {
        let deadline = step.now + self.config.request_timeout * 2;
        let id = self.request(to, request, deadline, Purpose::Audit);
        if let Some(round) = &mut self.audit.round {
            round.requests.insert(id);
        }
    }

    pub(super) fn audit_answer(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        request: u64,
        response: std::result::Result<Response, Unreachable>,
    ) -> Result<()> {
        let Some(mut round) = self.audit.round.take_if(|round| round.requests.remove(&request)) else {
            return Ok(());
        };
        match (response, std::mem::replace(&mut round.phase, Phase::Hearing)) {
            (Ok(Response::Audited(differ)), Phase::Comparing(spans)) => {
                let differ: BTreeSet<usize> = differ.into_iter().map(usize::from).collect();
                let spans = spans.into_iter().enumerate().filter(|(index, _)| differ.contains(index));
                self.recall(step, round, spans.map(|(_, span)| span).collect())
            }
            (Ok(Response::Recalled(recalled)), Phase::Recalling(mut spans)) => {
                let Some((_, until)) = spans.pop() else { return Ok(()) };
                if let Some(next) = recalled.next.clone() {
                    spans.push((Some(next), until));
                }
                self.doubt(step, &mut round, recalled)?;
                self.recall(step, round, spans)
            }
            (Ok(Response::Testified(testimony)), Phase::Hearing) => {
                for (dots, held) in [(testimony.held, true), (testimony.gone, false)] {
                    for dot in dots {
                        if let Some(doubt) = round.doubts.get_mut(&dot) {
                            if held { doubt.held += 1 } else { doubt.gone += 1 }
                        }
                    }
                }
                self.judge(step, round)
            }
            (_, Phase::Hearing) => self.judge(step, round),
            // It has learnt something since, or cannot be reached: another round finds the same.
            _ => {
                let _ = from;
                Ok(())
            }
        }
    }

    /// Asks what the peer holds of the next range that differs; of all that is doubted, the others.
    fn recall(&mut self, step: &mut Step<'_>, mut round: Round, spans: Vec<Span>) -> Result<()> {
        if let Some(span) = spans.last().filter(|_| round.doubts.len() < MAX_DOUBTS) {
            let mut holds = Vec::new();
            for name in names_of(&*step.storage, span, MOST_NAMES)?.0 {
                holds.extend(live(&*step.storage, &name)?.into_iter().map(|version| version.dot));
            }
            holds.truncate(MAX_CHECKED);
            let (after, until) = span.clone();
            let peer = round.peer;
            round.phase = Phase::Recalling(spans);
            self.audit.round = Some(round);
            self.ask_auditor(step, peer, Request::Recall(Recall { after, until, holds }));
            return Ok(());
        }
        if round.doubts.is_empty() {
            return Ok(());
        }
        let dots: Vec<Dot> = round.doubts.keys().copied().collect();
        let members = step.electorate.members().into_iter().map(|(node, _)| node);
        let others: Vec<NodeId> = members
            .filter(|node| *node != self.config.node && *node != round.peer && self.is_reachable(node))
            .collect();
        round.phase = Phase::Hearing;
        if others.is_empty() {
            return self.judge(step, round);
        }
        self.audit.round = Some(round);
        for node in others {
            self.ask_auditor(step, node, Request::Testify(Check { dots: dots.clone() }));
        }
        Ok(())
    }

    /// Notes what this node and the peer disagree on, both having seen it.
    fn doubt(&mut self, step: &mut Step<'_>, round: &mut Round, recalled: Recalled) -> Result<()> {
        for part in recalled.names {
            let ours = step.storage.survivors(&part.name)?;
            for version in part.versions {
                let is_known = ours
                    .iter()
                    .any(|s| s.version.dot == version.dot || s.version.context.contains(&version.dot));
                // A stub says why it is gone.
                if is_known || step.storage.stub(&version.dot)?.is_some() {
                    continue;
                }
                if !self.knowledge.contains(&version.dot) {
                    self.learn(step.storage, &version)?;
                    continue;
                }
                let (name, dot) = (version.name.clone(), version.dot);
                round.doubts.insert(dot, Doubt { name, lost: Some(version), held: 1, gone: 1 });
            }
        }
        for dot in recalled.gone {
            if let Some(survivor) = step.storage.survivor(&dot)?.filter(|survivor| survivor.published) {
                let name = survivor.version.name;
                round.doubts.insert(dot, Doubt { name, lost: None, held: 1, gone: 1 });
            }
        }
        Ok(())
    }

    /// Once everybody was heard: puts back what most hold, drops what most know to be superseded.
    fn judge(&mut self, step: &mut Step<'_>, round: Round) -> Result<()> {
        if !round.requests.is_empty() {
            self.audit.round = Some(round);
            return Ok(());
        }
        let members = step.electorate.members().len();
        for (dot, doubt) in round.doubts {
            match doubt.lost {
                Some(version) if doubt.held >= doubt.gone => {
                    if self.knowledge.restore(step.storage, &version)? {
                        self.written(step.storage, &version)?;
                        self.events.push_back(Event::Healed { name: version.name, dot, restored: true });
                    }
                }
                None if doubt.gone * 2 > members => {
                    self.knowledge.drop_superseded(step.storage, &doubt.name, dot)?;
                    self.events.push_back(Event::Healed { name: doubt.name, dot, restored: false });
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Which of a peer's ranges differ here.
    pub(super) fn audited(&self, step: &Step<'_>, audit: &Audit) -> Result<Response> {
        if audit.seen != self.knowledge.digest() || !step.electorate.is_intact() {
            return Ok(Response::Done);
        }
        let mut differ = Vec::new();
        let (mut after, mut left) = (audit.after.clone(), MOST_NAMES);
        for (index, range) in (0..).zip(&audit.ranges) {
            let span = (std::mem::replace(&mut after, range.until.clone()), range.until.clone());
            let (names, all) = names_of(&*step.storage, &span, left)?;
            left = left.saturating_sub(names.len()).max(1);
            let mut sum = Fingerprint::default();
            for name in &names {
                live(&*step.storage, name)?.iter().for_each(|version| sum.add(&hash(audit.salt, version)));
            }
            if !all || sum.digest() != range.digest {
                differ.push(index);
            }
        }
        Ok(Response::Audited(differ))
    }

    /// What this node holds of a range that a peer does not, and the other way round.
    pub(super) fn recalled(&self, step: &Step<'_>, recall: Recall) -> Result<Recalled> {
        let theirs: BTreeSet<Dot> = recall.holds.iter().copied().collect();
        let (names, all) = names_of(&*step.storage, &(recall.after, recall.until), MOST_NAMES)?;
        let mut answer = Recalled { gone: self.testify(step, &recall.holds)?.gone, ..Recalled::default() };
        let (mut room, mut last) = (RECALL_BYTES, None);
        for name in &names {
            let live = live(&*step.storage, name)?;
            let holds = live.iter().map(|version| version.dot).collect();
            let versions: Vec<Version> = live.into_iter().filter(|v| !theirs.contains(&v.dot)).collect();
            if !versions.is_empty() {
                let part = NamePart { name: name.clone(), holds, versions, stubs: Vec::new(), last: true };
                let bytes = encoded_len(&part);
                if bytes > room && !answer.names.is_empty() {
                    answer.next = last;
                    return Ok(answer);
                }
                room = room.saturating_sub(bytes);
                answer.names.push(part);
            }
            last = Some(name.clone());
        }
        answer.next = last.filter(|_| !all);
        Ok(answer)
    }

    /// What became of these versions here.
    pub(super) fn testify(&self, step: &Step<'_>, dots: &[Dot]) -> Result<Testimony> {
        let mut testimony = Testimony::default();
        for dot in dots.iter().take(MAX_CHECKED) {
            match step.storage.survivor(dot)? {
                Some(_) => testimony.held.push(*dot),
                None if self.knowledge.contains(dot) || step.storage.stub(dot)?.is_some() => {
                    testimony.gone.push(*dot);
                }
                None => {}
            }
        }
        Ok(testimony)
    }

    /// How often the pass over all names was completed since the start.
    pub fn audits(&self) -> u64 {
        self.audit.passes
    }
}

/// The usual time between two windows.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
