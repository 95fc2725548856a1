//! Verification: every copy on every node hashed again, and put side by side, chunk by chunk.
//!
//! Each node hashes what it holds in the order of the chunks' texts and answers in pages; the node
//! that was asked merges these streams, so that all copies of one chunk meet while only a few pages
//! of each node are in memory. What then looks wrong is asked about once more, for chunks come and go
//! meanwhile. At the end the files are walked: every chunk of every file must be somewhere.

mod copies;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use kepler_protocol::api::{VerifyLine, VerifyTotal};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::ring::Ring;
use kepler_protocol::version::{Dot, Version};
use kepler_protocol::wire::operations::{CopyState, MAX_CHUNKS};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::copies::Copies;
use super::download::Dag;
use super::files::Service;
use super::{OperatorError, ReadError, VerifyStream};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Findings looked at once more together.
const BATCH: usize = 256;

/// Names listed at a time.
const NAMES: usize = 256;

/// Chunks remembered as missing, so that they are counted once; beyond, they may be counted again.
const MOST_REMEMBERED: usize = 100_000;

const fn problem(state: CopyState) -> &'static str {
    match state {
        CopyState::Intact => "its bytes are what its name says",
        CopyState::Rotten => "its bytes are not what its name says: it was set aside",
        CopyState::FileMissing => "its file is gone",
        CopyState::Unreadable => "the disk does not give it",
    }
}

impl Service {
    /// Hashes everything on this node or, with `all`, on every member, and tells what is wrong. One at
    /// a time; ends when the stream is dropped.
    ///
    /// # Errors
    /// [`OperatorError::Busy`]; with `all`, before admission, [`OperatorError::NotReady`].
    pub(super) fn verification(&self, all: bool) -> Result<VerifyStream, OperatorError> {
        let operator = &self.operator;
        let turn = Arc::clone(&operator.verifying).try_acquire_owned().map_err(|_| OperatorError::Busy)?;
        if all && operator.parts.electors.borrow().roster().is_none() {
            return Err(OperatorError::NotReady(operator.parts.electors.borrow().reason()));
        }
        let (lines, receiver) = mpsc::channel(64);
        let service = self.clone();
        let run = self.tasks.spawn(async move {
            let _turn = turn;
            let stop = service.tasks.stop().clone();
            let mut run = Run::new(&service, all, lines);
            // Whoever left needs no reason; who was cut off sees that the total is missing.
            let _ = stop.run_until_cancelled(run.run()).await;
        });
        Ok(Box::pin(Lines { receiver, _run: AbortOnDropHandle::new(run) }))
    }
}

struct Lines {
    receiver: mpsc::Receiver<VerifyLine>,
    _run: AbortOnDropHandle<()>,
}

impl Stream for Lines {
    type Item = VerifyLine;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<VerifyLine>> {
        self.receiver.poll_recv(cx)
    }
}

/// Nobody listens any more.
struct Gone;

/// A chunk of which something is wrong at first sight.
struct Suspect {
    id: ChunkId,
    intact: BTreeSet<NodeId>,
    /// Whose copy is bad. They may say that they hold it until they have set it aside.
    bad: BTreeSet<NodeId>,
}

struct Run<'a> {
    service: &'a Service,
    all: bool,
    lines: mpsc::Sender<VerifyLine>,
    ring: Ring,
    wanted: usize,
    total: VerifyTotal,
    suspects: Vec<Suspect>,
    missing: BTreeSet<ChunkId>,
    /// Whose copies of these are bad; at most [`MOST_REMEMBERED`] chunks.
    bad: BTreeMap<ChunkId, BTreeSet<NodeId>>,
    told: Instant,
}

impl<'a> Run<'a> {
    fn new(service: &'a Service, all: bool, lines: mpsc::Sender<VerifyLine>) -> Self {
        let parts = &service.operator.parts;
        Self {
            service,
            all,
            lines,
            ring: parts.view.borrow().ring().clone(),
            wanted: parts.electors.borrow().replicas().map_or(1, |(wanted, _)| wanted),
            total: VerifyTotal::default(),
            suspects: Vec::new(),
            missing: BTreeSet::new(),
            bad: BTreeMap::new(),
            told: Instant::now(),
        }
    }

    async fn run(&mut self) -> Result<(), Gone> {
        let mut nodes = self.begin();
        self.merge(&mut nodes).await?;
        self.settle().await?;
        for (node, copies) in &nodes {
            if copies.whole {
                self.total.nodes.push(*node);
            } else {
                self.total.silent += 1;
                let problem = "it did not say what it has: its copies do not count".to_owned();
                self.tell(VerifyLine::Silent { node: *node, problem }).await?;
            }
        }
        if self.all {
            self.files().await?;
        }
        let total = &mut self.total;
        let bad = total.bad_copies + total.under_replicated + total.missing + total.damaged + total.silent;
        total.ok = bad == 0;
        let total = VerifyLine::Total(total.clone());
        self.tell(total).await
    }

    async fn tell(&self, line: VerifyLine) -> Result<(), Gone> {
        self.lines.send(line).await.map_err(|_| Gone)
    }

    async fn progress(&mut self) -> Result<(), Gone> {
        if self.told.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.told = Instant::now();
        let VerifyTotal { chunks, copies, bytes, .. } = self.total;
        self.tell(VerifyLine::Progress { chunks, copies, bytes }).await
    }

    /// Begins to read from all nodes at once.
    fn begin(&self) -> BTreeMap<NodeId, Copies> {
        let operator = &self.service.operator;
        let mut nodes = BTreeSet::from([operator.parts.me]);
        if self.all {
            let view = operator.parts.view.borrow().clone();
            nodes.extend(view.members().filter(|m| m.state.is_reachable()).map(|m| m.id));
        }
        let read = |node: NodeId| (node, Copies::of(node, operator.clone(), &self.service.tasks));
        nodes.into_iter().map(read).collect()
    }

    /// Takes all copies of the least chunk from all streams, again and again.
    async fn merge(&mut self, nodes: &mut BTreeMap<NodeId, Copies>) -> Result<(), Gone> {
        loop {
            for copies in nodes.values_mut() {
                // Hashing goes on at all nodes while one is waited for.
                while let Err(_still) = tokio::time::timeout(PROGRESS_EVERY, copies.next()).await {
                    self.progress().await?;
                }
            }
            let fronts = nodes.values().filter_map(|copies| copies.arrived.front());
            let Some(id) = fronts.min_by(|a, b| a.0.cmp(&b.0)).map(|(_, checked)| checked.id) else {
                return Ok(());
            };
            let mut suspect = Suspect { id, intact: BTreeSet::new(), bad: BTreeSet::new() };
            self.total.chunks += 1;
            for (node, copies) in nodes.iter_mut() {
                let front = copies.arrived.pop_front_if(|(_, checked)| checked.id == id);
                let Some((_, checked)) = front else { continue };
                self.total.copies += 1;
                self.total.bytes += checked.bytes;
                if checked.state == CopyState::Intact {
                    suspect.intact.insert(*node);
                    continue;
                }
                suspect.bad.insert(*node);
                self.total.bad_copies += 1;
                let problem = problem(checked.state).to_owned();
                self.tell(VerifyLine::BadCopy { cid: id, node: *node, problem }).await?;
            }
            if !suspect.bad.is_empty() && self.bad.len() < MOST_REMEMBERED {
                self.bad.insert(id, suspect.bad.clone());
            }
            self.judge(suspect).await?;
            self.progress().await?;
        }
    }

    async fn judge(&mut self, suspect: Suspect) -> Result<(), Gone> {
        if !self.all {
            return Ok(());
        }
        let owners = self.ring.owners(suspect.id.key(), self.wanted);
        if owners.iter().all(|owner| suspect.intact.contains(owner)) {
            self.total.surplus += (suspect.intact.len() - owners.len()) as u64;
            return Ok(());
        }
        self.suspects.push(suspect);
        if self.suspects.len() >= BATCH { self.settle().await } else { Ok(()) }
    }

    /// Looks at the suspects once more: they may have moved, or been deleted, meanwhile.
    async fn settle(&mut self) -> Result<(), Gone> {
        let suspects = std::mem::take(&mut self.suspects);
        if suspects.is_empty() {
            return Ok(());
        }
        let ids: Vec<ChunkId> = suspects.iter().map(|suspect| suspect.id).collect();
        // Whoever cannot be asked about what looks wrong can say nothing of the whole either.
        let holders = self.service.chunks.holders(&ids).await.map_err(|_| Gone)?;
        self.ring = self.service.operator.parts.view.borrow().ring().clone();
        for (suspect, mut holders) in suspects.into_iter().zip(holders) {
            // Whoever else holds it now either had it intact, or has stored it since and hashed it then.
            holders.retain(|node| !suspect.bad.contains(node));
            if holders.is_empty() {
                if !suspect.bad.is_empty() {
                    self.missing(suspect.id).await?;
                }
                continue;
            }
            let owners = self.ring.owners(suspect.id.key(), self.wanted);
            let lacking: Vec<NodeId> = owners.into_iter().filter(|node| !holders.contains(node)).collect();
            if lacking.is_empty() {
                continue;
            }
            self.total.under_replicated += 1;
            self.total.single_copy += u64::from(holders.len() == 1);
            let (intact, wanted) = (holders.len() as u64, self.wanted as u64);
            self.tell(VerifyLine::UnderReplicated { cid: suspect.id, intact, wanted, lacking }).await?;
        }
        Ok(())
    }

    async fn missing(&mut self, cid: ChunkId) -> Result<(), Gone> {
        if self.missing.contains(&cid) {
            return Ok(());
        }
        if self.missing.len() < MOST_REMEMBERED {
            self.missing.insert(cid);
        }
        self.total.missing += 1;
        self.tell(VerifyLine::Missing { cid }).await
    }

    /// Walks every file: each of its chunks must be somewhere.
    async fn files(&mut self) -> Result<(), Gone> {
        let mut batch: Vec<(Arc<Version>, ChunkId)> = Vec::new();
        let mut after = None;
        loop {
            let page = self.service.store.list(String::new(), None, after, NAMES).await;
            // Without a listing nothing can be said of the files; the total then never comes.
            let page = page.map_err(|_| Gone)?;
            for listed in page.files {
                let versions = match listed.conflicts {
                    0 => vec![listed.head],
                    _ => self.service.find(&listed.name).await.map_or(vec![listed.head], |f| f.survivors),
                };
                for version in versions {
                    self.file(Arc::new(version), &mut batch).await?;
                }
                self.progress().await?;
            }
            after = page.next;
            if after.is_none() {
                return self.look(&mut batch).await;
            }
        }
    }

    async fn file(
        &mut self,
        version: Arc<Version>,
        batch: &mut Vec<(Arc<Version>, ChunkId)>,
    ) -> Result<(), Gone> {
        let Some(content) = &version.content else { return Ok(()) };
        self.total.files += 1;
        let Ok(mut walk) = Dag::new(content, Some(version.dot)) else {
            return self.damaged(&version, content.root).await;
        };
        loop {
            match self.service.next_of(&mut walk).await {
                Ok(Some((id, _))) => batch.push((version.clone(), id)),
                Ok(None) => return Ok(()),
                // A manifest node that cannot be had: what it lists cannot be had either.
                Err(ReadError::ChunkUnavailable(id)) => {
                    if self.is_live(&version).await {
                        self.missing(id).await?;
                        self.damaged(&version, id).await?;
                    }
                    return Ok(());
                }
                Err(_) => return self.damaged(&version, content.root).await,
            }
            if batch.len() >= MAX_CHUNKS {
                self.look(batch).await?;
            }
        }
    }

    async fn look(&mut self, batch: &mut Vec<(Arc<Version>, ChunkId)>) -> Result<(), Gone> {
        let batch = std::mem::take(batch);
        let ids: Vec<ChunkId> = batch.iter().map(|(_, id)| *id).collect();
        let holders = self.service.chunks.holders(&ids).await.map_err(|_| Gone)?;
        let mut last: Option<Dot> = None;
        for ((version, id), mut holders) in batch.into_iter().zip(holders) {
            if let Some(bad) = self.bad.get(&id) {
                holders.retain(|node| !bad.contains(node));
            }
            // A file deleted since it was listed may have lost its chunks by right.
            if !holders.is_empty() || !self.is_live(&version).await {
                continue;
            }
            self.missing(id).await?;
            if last.replace(version.dot) != Some(version.dot) {
                self.damaged(&version, id).await?;
            }
        }
        Ok(())
    }

    async fn is_live(&self, version: &Version) -> bool {
        let found = self.service.find(&version.name).await;
        found.map_or_else(
            |error| !matches!(error, ReadError::NotFound(_)),
            |found| found.survivors.iter().any(|survivor| survivor.dot == version.dot),
        )
    }

    async fn damaged(&mut self, version: &Version, cid: ChunkId) -> Result<(), Gone> {
        self.total.damaged += 1;
        let (name, version) = (version.name.clone(), version.dot.to_string());
        self.tell(VerifyLine::Damaged { name, version, cid }).await
    }
}
