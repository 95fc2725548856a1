//! What a store keeps about its chunks, in memory, for tests and simulation: rows, references, grace
//! marks and promises, each method one transaction that is durable when it returns.
//!
//! Files are the caller's: a chunk marked gone is to be unlinked and then [`Shelf::forget`]-ed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::holding::{Holding, Note, PAGE, Page, Surplus, digest_of};
use super::message::{Holds, Item};
use super::rules::{self, Claim, Facts, Kept, PROMISE, Reference};
use super::{Faults, Scrubbed};
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::time::Instant;
use crate::version::Dot;

/// A chunk's row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Bytes.
    pub size: u64,
    /// References, ended ones too.
    pub dots: BTreeSet<Dot>,
    /// Whether references may have been lost.
    pub recovered: bool,
    /// Whether it is being deleted.
    pub gone: bool,
    /// Whether it failed its hash and was set aside: no copy any more, but what it was kept for is known still.
    pub aside: bool,
    /// Since when, in running time, all references have ended.
    pub unreferenced: Option<Duration>,
    /// Since when it is superfluous, and who owned it then.
    pub surplus: Option<(Vec<NodeId>, Duration)>,
    /// Planted: it was set aside and counts as held.
    #[doc(hidden)]
    pub still_held: bool,
    /// Whether it was promised, and the promise not yet found to be over.
    pub promised: bool,
}

impl Row {
    /// Whether it is a copy.
    pub fn is_here(&self) -> bool {
        !self.gone && !self.aside
    }
}

/// What a transaction has to know beside the rows.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// What a reference is worth.
    pub worth: &'a dyn Fn(&Dot) -> Reference,
    /// The process's clock.
    pub now: Instant,
    /// As [`Replicator::breaker`](super::Replicator::breaker).
    pub breaker: bool,
    /// Whether the catalog is ready.
    pub ready: bool,
    /// `GC_GRACE_SECS`.
    pub gc_grace: Duration,
    /// Planted bugs.
    #[doc(hidden)]
    pub faults: Faults,
}

/// All rows of one store.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    rows: BTreeMap<ChunkId, Row>,
    /// Running time of earlier processes, and of this one as far as a transaction has told.
    before: Duration,
    told: Instant,
    cursor: Option<ChunkId>,
    /// Of this process: until when chunks are promised.
    promised_until: BTreeMap<ChunkId, Instant>,
}

impl Shelf {
    /// A copy failed its hash, or its file is gone: it is none from now on, and its references hold again once it
    /// is fetched anew. The caller sets the file aside.
    pub fn set_aside(&mut self, chunk: &ChunkId, faults: Faults) {
        if let Some(row) = self.rows.get_mut(chunk) {
            (row.aside, row.still_held) = (!faults.quarantined_is_held, faults.quarantined_is_held);
        }
    }

    /// A process opens the store: promises count anew. Returns what is marked gone: to be unlinked.
    pub fn open(&mut self, now: Instant, faults: Faults) -> Vec<ChunkId> {
        self.told = now;
        if faults.promise_not_durable {
            self.rows.values_mut().for_each(|row| row.promised = false);
        }
        if faults.grace_not_durable {
            self.rows.values_mut().for_each(|row| row.surplus = None);
        }
        let promised = self.rows.iter().filter(|(_, row)| row.promised);
        self.promised_until = promised.map(|(chunk, _)| (*chunk, now + PROMISE)).collect();
        self.rows.iter().filter(|(_, row)| row.gone).map(|(chunk, _)| *chunk).collect()
    }

    /// Running time as it stands.
    fn running(&mut self, now: Instant) -> Duration {
        self.before += now.since(self.told);
        self.told = now;
        self.before
    }

    /// Time passed in which no process ran. It counts for nothing, but for a planted bug.
    pub fn pass_down(&mut self, time: Duration, faults: Faults) {
        if faults.downtime_counts {
            self.before += time;
        }
    }

    /// This database was found to be behind what it once was: references may have been lost.
    pub fn doubt(&mut self) {
        self.rows.values_mut().for_each(|row| row.recovered = true);
    }

    /// Rows, by chunk.
    pub fn rows(&self) -> impl Iterator<Item = (&ChunkId, &Row)> {
        self.rows.iter()
    }

    /// A row.
    pub fn row(&self, chunk: &ChunkId) -> Option<&Row> {
        self.rows.get(chunk)
    }

    /// Whether a chunk is here: neither marked gone nor set aside.
    pub fn has(&self, chunk: &ChunkId) -> bool {
        self.rows.get(chunk).is_some_and(Row::is_here)
    }

    /// A chunk's file is durable: its row, with references. Refused while it is marked gone: it is to be
    /// unlinked first.
    pub fn enter(
        &mut self,
        chunk: ChunkId,
        size: u64,
        dots: &[Dot],
        recovered: bool,
        faults: Faults,
    ) -> bool {
        if let Some(row) = self.rows.get(&chunk) {
            if row.gone {
                return faults.gone_is_a_hit;
            }
            if faults.hit_without_reference {
                return true;
            }
        }
        let row = self.rows.entry(chunk).or_default();
        (row.size, row.aside, row.still_held) = (size, false, false);
        row.recovered |= recovered;
        row.dots.extend(dots);
        if !dots.is_empty() {
            row.unreferenced = None;
        }
        true
    }

    /// The file was unlinked: the row goes.
    pub fn forget(&mut self, chunk: &ChunkId) {
        self.rows.remove(chunk);
        self.promised_until.remove(chunk);
    }

    /// The database is lost and rebuilt from these files.
    pub fn rebuild(&mut self, files: impl IntoIterator<Item = (ChunkId, u64)>) {
        *self = Self::default();
        for (chunk, size) in files {
            self.rows.insert(chunk, Row { size, recovered: true, ..Row::default() });
        }
    }

    /// Carries out [`Action::Page`](super::Action::Page).
    pub fn page(
        &mut self,
        judge: &Judge<'_>,
        after: Option<ChunkId>,
        file: impl Fn(&ChunkId) -> bool,
    ) -> Page {
        let running = self.running(judge.now);
        let rows = self.rows.range(after.unwrap_or(ChunkId::LEAST)..);
        let rows = rows.filter(|(chunk, row)| Some(**chunk) != after && !row.gone);
        let rows = rows.filter_map(|(chunk, row)| {
            let alive = row.dots.iter().filter(|dot| (judge.worth)(dot) != Reference::Ended);
            let alive: Vec<&Dot> = alive.collect();
            // What was set aside is looked for only where something needs it.
            (!row.aside || !alive.is_empty()).then_some((chunk, row, alive))
        });
        let mut holdings: Vec<Holding> = rows
            .take(PAGE + 1)
            .map(|(chunk, row, alive)| {
                if row.aside {
                    let references = digest_of(alive);
                    return Holding {
                        chunk: *chunk,
                        size: 0,
                        file: false,
                        kept: true,
                        references,
                        unreferenced_for: None,
                        surplus: None,
                    };
                }
                Holding {
                    chunk: *chunk,
                    size: row.size,
                    file: row.still_held || file(chunk),
                    kept: row.recovered || !alive.is_empty(),
                    references: digest_of(alive),
                    unreferenced_for: row.unreferenced.map(|since| running.saturating_sub(since)),
                    surplus: row.surplus.as_ref().map(|(owners, since)| Surplus {
                        owners: owners.clone(),
                        held_for: running.saturating_sub(*since),
                    }),
                }
            })
            .collect();
        let more = holdings.len() > PAGE;
        holdings.truncate(PAGE);
        Page { holdings, more }
    }

    /// Carries out [`Action::Note`](super::Action::Note).
    pub fn note(&mut self, now: Instant, note: Note) {
        let running = self.running(now);
        for (chunk, owners) in note.surplus {
            if let Some(row) = self.rows.get_mut(&chunk) {
                row.surplus = Some((owners, running));
            }
        }
        for chunk in note.wanted {
            if let Some(row) = self.rows.get_mut(&chunk) {
                row.surplus = None;
            }
        }
        for chunk in note.unreferenced {
            if let Some(row) = self.rows.get_mut(&chunk) {
                row.unreferenced.get_or_insert(running);
            }
        }
        for chunk in note.referenced {
            if let Some(row) = self.rows.get_mut(&chunk) {
                row.unreferenced = None;
            }
        }
    }

    /// Carries out [`Action::Look`](super::Action::Look).
    pub fn look(
        &self,
        worth: &dyn Fn(&Dot) -> Reference,
        items: &[Item],
        file: impl Fn(&ChunkId) -> bool,
    ) -> Vec<Holds> {
        let of = |item: &Item| match self.rows.get(&item.chunk) {
            Some(row) if row.is_here() && (row.still_held || file(&item.chunk)) => {
                let alive = row.dots.iter().filter(|dot| worth(dot) != Reference::Ended);
                if digest_of(alive) == item.references { Holds::Same } else { Holds::Other }
            }
            _ => Holds::Lacks,
        };
        items.iter().map(of).collect()
    }

    /// Carries out [`Action::Promise`](super::Action::Promise), the file being whole.
    pub fn promise(&mut self, now: Instant, chunk: ChunkId, dots: &[Dot], faults: Faults) -> bool {
        let Some(row) = self.rows.get_mut(&chunk) else { return false };
        if !rules::promise(!row.aside, row.gone, faults) {
            return false;
        }
        row.promised = true;
        row.dots.extend(dots);
        if !dots.is_empty() {
            row.unreferenced = None;
        }
        self.promised_until.insert(chunk, now + PROMISE);
        true
    }

    /// Carries out [`Action::References`](super::Action::References).
    pub fn references(&self, worth: &dyn Fn(&Dot) -> Reference, chunk: &ChunkId) -> Option<Vec<Dot>> {
        let row = self.rows.get(chunk).filter(|row| row.is_here())?;
        Some(row.dots.iter().filter(|dot| worth(dot) != Reference::Ended).copied().collect())
    }

    fn facts(&mut self, judge: &Judge<'_>, chunk: &ChunkId) -> Facts {
        let running = self.running(judge.now);
        let promised_until = self.promised_until.get(chunk).copied();
        let row = self.rows.get(chunk);
        Facts {
            here: row.is_some_and(Row::is_here),
            promised_until,
            references: row
                .map(|row| row.dots.iter().map(|dot| (*dot, (judge.worth)(dot))).collect())
                .unwrap_or_default(),
            recovered: row.is_some_and(|row| row.recovered),
            unreferenced_for: row.and_then(|row| row.unreferenced).map(|since| running.saturating_sub(since)),
        }
    }

    fn mark(&mut self, chunk: &ChunkId) -> u64 {
        let Some(row) = self.rows.get_mut(chunk) else { return 0 };
        row.gone = true;
        row.size
    }

    /// The transaction of [`Action::Release`](super::Action::Release): the file is then to be unlinked.
    ///
    /// # Errors
    /// Why the copy stays.
    pub fn release(&mut self, judge: &Judge<'_>, claim: &Claim) -> Result<u64, Kept> {
        let facts = self.facts(judge, &claim.chunk);
        rules::release(claim, &facts, judge.now, judge.breaker, judge.faults)?;
        Ok(self.mark(&claim.chunk))
    }

    /// The transaction of [`Action::Collect`](super::Action::Collect): what is then to be unlinked.
    pub fn collect(&mut self, judge: &Judge<'_>, chunks: &[ChunkId]) -> Vec<(ChunkId, u64)> {
        let mut marked = Vec::new();
        for chunk in chunks {
            let facts = self.facts(judge, chunk);
            let Judge { now, gc_grace, ready, breaker, faults, .. } = *judge;
            if rules::collect(&facts, now, gc_grace, ready, breaker, faults).is_ok() {
                marked.push((*chunk, self.mark(chunk)));
            }
        }
        marked
    }

    /// Carries out [`Action::Scrub`](super::Action::Scrub); `whole` hashes a file. What is bad is to be
    /// set aside by the caller: [`Shelf::set_aside`].
    pub fn scrub(&mut self, restart: bool, limit: usize, whole: impl Fn(&ChunkId) -> bool) -> Scrubbed {
        let after = if restart { None } else { self.cursor };
        let rows = self.rows.range(after.unwrap_or(ChunkId::LEAST)..);
        let some: Vec<ChunkId> = rows
            .filter(|(chunk, row)| Some(**chunk) != after && row.is_here())
            .map(|(chunk, _)| *chunk)
            .take(limit)
            .collect();
        let finished = some.len() < limit;
        self.cursor = if finished { None } else { some.last().copied() };
        let bad = some.iter().filter(|chunk| !whole(chunk)).copied().collect();
        Scrubbed { checked: some.len() as u64, bad, finished }
    }
}
