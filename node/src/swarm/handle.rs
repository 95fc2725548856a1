//! The way into a swarm: calls, chunks, and what may go wrong with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kepler_protocol::chunk::{Chunk, ChunkId};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::version::Dot;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::counters::{Counters, Stats};
use super::error::{CallError, TransferError};
use super::lane::{Command, Lane, Open, OpenError, Protocol};
use super::limits::Limits;
use super::line::{self, LINE_BYTES, LINE_DOTS, Line, Question};
use super::proof::ClusterKeys;
use super::transfer::How;
use super::{MAX_BODY_BYTES, MAX_DOTS, MAX_IDS, Refusal, Service, calls, transfer};
use crate::throttle::Pace;

/// The way into a running swarm; cheap to clone.
///
/// Requests beyond what [`Limits`] allows at once wait for their turn, within their deadline.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    commands: mpsc::Sender<Command>,
    limits: Limits,
    counters: Arc<Counters>,
    keys: ClusterKeys,
    turns: Mutex<BTreeMap<NodeId, Turns>>,
    lines: Mutex<BTreeMap<NodeId, Line>>,
    stop: CancellationToken,
    driver: OnceLock<tokio::sync::Mutex<Option<JoinHandle<()>>>>,
}

/// How long libp2p is given to notice that a connection has ended, before the next attempt.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];

/// Peers above which those without requests are forgotten.
const MOST_TURNS: usize = 4096;

/// What may be under way to one peer.
#[derive(Clone)]
struct Turns {
    chunks: Arc<Semaphore>,
    background: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    /// Bytes of chunks that it gave.
    given: Arc<AtomicU64>,
}

impl Turns {
    fn in_use(&self) -> bool {
        [&self.chunks, &self.background, &self.calls].iter().any(|turns| Arc::strong_count(turns) > 1)
    }
}

impl Handle {
    pub(super) fn new(
        node: NodeId,
        commands: mpsc::Sender<Command>,
        limits: Limits,
        counters: Arc<Counters>,
        keys: ClusterKeys,
        stop: CancellationToken,
    ) -> Self {
        let (turns, lines) = (Mutex::default(), Mutex::default());
        let driver = OnceLock::new();
        Self { inner: Arc::new(Inner { node, commands, limits, counters, keys, turns, lines, stop, driver }) }
    }

    /// Uses these cluster keys for every connection made from now on: the first is proved, each is
    /// accepted. Connections that stand go on.
    pub fn set_cluster_keys(&self, keys: Vec<[u8; 32]>) {
        self.inner.keys.replace(keys);
    }

    pub(super) fn set_driver(&self, driver: JoinHandle<()>) {
        let _ = self.inner.driver.set(tokio::sync::Mutex::new(Some(driver)));
    }

    /// Asks a member and waits for its answer, connecting first if need be.
    ///
    /// Where a connection breaks before the answer came, the call is made again on another one: a service
    /// may see a call twice, and must not mind.
    ///
    /// # Errors
    /// See [`CallError`]. Only [`CallError::TooLarge`] says that the peer did not act.
    pub async fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(CallError::TooLarge(body.len()));
        }
        let calling = async {
            let _turn = turn(self.turns(to).calls).await;
            let _busy = self.inner.counters.asking();
            if body.len() <= LINE_BYTES {
                let (status, answer) = self.on_line(to, Question::call(service, body)).await?;
                return match status {
                    calls::ANSWERED => Ok(answer),
                    refused => Err(CallError::Refused(Refusal::from_code(refused))),
                };
            }
            let broke = |e: &CallError| matches!(e, CallError::Unreachable(_));
            let (body, limits) = (&body[..], &self.inner.limits);
            let ask = |lane: Lane| async move {
                let Lane { stream, _load } = lane;
                calls::call(stream, body, limits).await
            };
            self.attempt(to, Protocol::Call(service), ask, broke).await
        };
        tokio::time::timeout(deadline, calling).await.unwrap_or(Err(CallError::TimedOut))
    }

    /// Puts a chunk and its references on a member's disk. If it has the chunk, no byte of it is sent.
    ///
    /// The time allowed grows with the chunk's size. References beyond [`MAX_DOTS`] go in further offers.
    ///
    /// # Errors
    /// See [`TransferError`]; after [`TransferError::Unreachable`] and [`TransferError::TimedOut`] the
    /// peer may have stored it all the same.
    pub async fn push(&self, to: NodeId, chunk: Chunk, dots: &[Dot]) -> Result<(), TransferError> {
        self.push_at(to, chunk, dots, How::default()).await.map(drop)
    }

    /// The same as background traffic: each piece waits for the throttle, here and at the receiver, and
    /// no client waits for it. Where references of the chunk may have been lost (`recovered`), the
    /// receiver does not collect it for want of one either. Says whether bytes were sent.
    ///
    /// # Errors
    /// As [`Handle::push`].
    pub async fn push_background(
        &self,
        to: NodeId,
        chunk: Chunk,
        dots: &[Dot],
        pace: Pace,
        recovered: bool,
    ) -> Result<bool, TransferError> {
        self.push_at(to, chunk, dots, How { pace: Some(pace), recovered }).await
    }

    async fn push_at(&self, to: NodeId, chunk: Chunk, dots: &[Dot], how: How) -> Result<bool, TransferError> {
        let (first, rest) = dots.split_at(dots.len().min(MAX_DOTS));
        let sent = self.push_page(to, &chunk, first, how).await?;
        for page in rest.chunks(MAX_DOTS) {
            self.push_page(to, &chunk, page, how).await?;
        }
        Ok(sent)
    }

    async fn push_page(
        &self,
        to: NodeId,
        chunk: &Chunk,
        dots: &[Dot],
        how: How,
    ) -> Result<bool, TransferError> {
        // A line has no pace, and says nothing of lost references.
        let plain = how.pace.is_none() && !how.recovered;
        if plain && chunk.bytes().len() <= LINE_BYTES && dots.len() <= LINE_DOTS {
            return self.push_on_line(to, chunk, dots).await.map(|()| true);
        }
        let (limits, counters) = (&self.inner.limits, &*self.inner.counters);
        self.transfer(to, chunk.bytes().len() as u64, how.pace.is_some(), |lane| async move {
            let Lane { stream, _load } = lane;
            transfer::push(stream, chunk, dots, how, limits, counters).await
        })
        .await
    }

    /// Pushes a chunk that is too small to ask first.
    async fn push_on_line(&self, to: NodeId, chunk: &Chunk, dots: &[Dot]) -> Result<(), TransferError> {
        let pushing = async {
            let _turn = turn(self.turns(to).calls).await;
            let _busy = self.inner.counters.asking();
            let (status, _) = self.on_line(to, Question::push(chunk, dots)).await?;
            if status != calls::ANSWERED {
                return Err(Refusal::from_code(status).into());
            }
            self.inner.counters.chunk_went(chunk.bytes().len() as u64);
            Ok(())
        };
        let limits = &self.inner.limits;
        let allowed = limits.transfer(chunk.bytes().len() as u64) + limits.answer;
        tokio::time::timeout(allowed, pushing).await.unwrap_or(Err(TransferError::TimedOut))
    }

    /// Adds references to a chunk if a member has it, which hashes its copy again, and says whether it
    /// does. No byte of the chunk is sent.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn adopt(&self, at: NodeId, id: ChunkId, dots: &[Dot]) -> Result<bool, TransferError> {
        let limits = &self.inner.limits;
        let (first, rest) = dots.split_at(dots.len().min(MAX_DOTS));
        for page in std::iter::once(first).chain(rest.chunks(MAX_DOTS)) {
            let adopting = self.transfer(
                at,
                kepler_protocol::chunk::MAX_CHUNK_BYTES as u64,
                false,
                async |lane: Lane| transfer::adopt(lane.stream, id, page, limits).await,
            );
            if !adopting.await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gets a chunk from a member; what is returned has been verified.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn fetch(&self, from: NodeId, id: ChunkId) -> Result<Chunk, TransferError> {
        self.fetch_at(from, id, None).await
    }

    /// The same as background traffic; see [`Handle::push_background`].
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn fetch_background(
        &self,
        from: NodeId,
        id: ChunkId,
        pace: Pace,
    ) -> Result<Chunk, TransferError> {
        self.fetch_at(from, id, Some(pace)).await
    }

    async fn fetch_at(&self, from: NodeId, id: ChunkId, pace: Option<Pace>) -> Result<Chunk, TransferError> {
        let (limits, counters) = (&self.inner.limits, &*self.inner.counters);
        let most = kepler_protocol::chunk::MAX_CHUNK_BYTES as u64;
        let given = &*self.turns(from).given;
        self.transfer(from, most, pace.is_some(), |lane| async move {
            let Lane { stream, _load } = lane;
            let moved = |bytes| {
                counters.chunk_came(bytes);
                given.fetch_add(bytes, Ordering::Relaxed);
            };
            transfer::fetch(stream, id, pace, limits, moved).await
        })
        .await
    }

    /// Bytes of chunks that a member has given so far: whether it is at work at all.
    pub fn given_by(&self, node: NodeId) -> u64 {
        self.turns(node).given.load(Ordering::Relaxed)
    }

    /// Asks a member which of these chunks it has; the answers are in the order asked.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn held(&self, at: NodeId, ids: Vec<ChunkId>) -> Result<Vec<bool>, TransferError> {
        let limits = &self.inner.limits;
        let mut present = Vec::with_capacity(ids.len());
        for page in ids.chunks(MAX_IDS) {
            let answer = self.transfer(at, 0, false, |lane| async move {
                let Lane { stream, _load } = lane;
                transfer::held(stream, page, limits).await
            });
            present.extend(answer.await?);
        }
        Ok(present)
    }

    /// Whether a member answers on a stream within `deadline`. It waits for no turn.
    pub async fn ping(&self, to: NodeId, deadline: Duration) -> bool {
        let pinging = async {
            let ask = |lane: Lane| async move {
                let Lane { stream, _load } = lane;
                Ok(calls::ping(stream).await?)
            };
            let broke = |e: &CallError| matches!(e, CallError::Unreachable(_));
            self.attempt(to, Protocol::Ping, ask, broke).await
        };
        matches!(tokio::time::timeout(deadline, pinging).await, Ok(Ok(())))
    }

    /// Ends the swarm: takes nothing new, lets requests of peers finish, closes all connections; within
    /// seconds. Requests of this node fail from now on. Further calls wait for the first.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        if let Some(driver) = self.inner.driver.get() {
            let mut driver = driver.lock().await;
            if let Some(task) = driver.take() {
                // It catches no panics of its own, and there is nobody left to tell.
                let _ = task.await;
            }
        }
    }

    /// Waits until the swarm has ended or is ending, by [`Handle::shutdown`] or by a fault.
    pub async fn closed(&self) {
        self.inner.commands.closed().await;
    }

    /// What the swarm has done and does.
    pub fn stats(&self) -> Stats {
        self.inner.counters.read()
    }

    /// Runs one transfer of `bytes` in its turn and within the time its size allows.
    async fn transfer<T, F: Future<Output = Result<T, TransferError>>>(
        &self,
        to: NodeId,
        bytes: u64,
        background: bool,
        run: impl Fn(Lane) -> F,
    ) -> Result<T, TransferError> {
        let limits = &self.inner.limits;
        let turns = self.turns(to);
        let queued = turn(if background { turns.background } else { turns.chunks });
        // Those before it may each take their time, as long as they move.
        let patience = limits.allowance(background, bytes.max(64 << 20));
        let _turn = tokio::time::timeout(patience, queued).await.map_err(|_| TransferError::TimedOut)?;
        let _busy = self.inner.counters.asking();
        let broke = |e: &TransferError| matches!(e, TransferError::Unreachable(_));
        let running = self.attempt(to, Protocol::Transfer, run, broke);
        let allowed = limits.allowance(background, bytes) + limits.answer;
        tokio::time::timeout(allowed, running).await.unwrap_or(Err(TransferError::TimedOut))
    }

    /// Opens a stream and talks on it, again if the connection turns out to be one that is just ending:
    /// closed as idle by the other end, or not admitted by a peer whose view is behind.
    async fn attempt<T, E: From<OpenError>, F: Future<Output = Result<T, E>>>(
        &self,
        to: NodeId,
        protocol: Protocol,
        talk: impl Fn(Lane) -> F,
        broke: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        for pause in RETRY_AFTER {
            match self.open(to, protocol).await {
                Ok(lane) => match talk(lane).await {
                    Err(error) if broke(&error) => {}
                    done => return done,
                },
                Err(OpenError::Stream(_)) => {}
                Err(unreachable) => return Err(unreachable.into()),
            }
            tokio::time::sleep(pause).await;
        }
        talk(self.open(to, protocol).await?).await
    }

    /// Asks on the line to a member, again if that one turns out to have ended.
    async fn on_line(&self, to: NodeId, question: Question) -> Result<line::Answer, OpenError> {
        for pause in RETRY_AFTER {
            match self.line(to).ask(question.clone()).await {
                Err(OpenError::Stream(_)) => tokio::time::sleep(pause).await,
                done => return done,
            }
        }
        self.line(to).ask(question).await
    }

    fn line(&self, to: NodeId) -> Line {
        let mut lines = self.inner.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&to).filter(|line| !line.is_closed()) {
            return line.clone();
        }
        if lines.len() >= MOST_TURNS {
            lines.retain(|_, line| !line.is_closed());
        }
        let handle = self.clone();
        // Dropped once it is open: a line keeps no swarm alive.
        let opening = async move { handle.open(to, Protocol::Line).await };
        let line = Line::open(opening, self.inner.stop.clone(), &self.inner.limits);
        lines.insert(to, line.clone());
        line
    }

    async fn open(&self, to: NodeId, protocol: Protocol) -> Result<Lane, OpenError> {
        let inner = &self.inner;
        let gone = || OpenError::Dial("this node is stopping".into());
        if to == inner.node {
            return Err(OpenError::Dial("it is this node itself".into()));
        }
        if inner.stop.is_cancelled() {
            return Err(gone());
        }
        let (reply, opened) = oneshot::channel();
        let opening = async {
            let command = Command { to, open: Open { protocol, reply } };
            inner.commands.send(command).await.map_err(|_| gone())?;
            opened.await.unwrap_or_else(|_| Err(OpenError::Stream("the connection ended".into())))
        };
        let late = || OpenError::Dial(format!("no connection within {:?}", inner.limits.connect));
        tokio::time::timeout(inner.limits.connect, opening).await.unwrap_or_else(|_| Err(late()))
    }

    fn turns(&self, node: NodeId) -> Turns {
        let limits = &self.inner.limits;
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Turns {
            chunks: semaphore(limits.chunks_per_peer),
            background: semaphore(limits.background_per_peer),
            calls: semaphore(limits.calls_per_peer),
            given: Arc::default(),
        };
        if turns.len() >= MOST_TURNS {
            turns.retain(|_, turns| turns.in_use());
        }
        turns.entry(node).or_insert_with(fresh).clone()
    }
}

/// Waits for a turn.
async fn turn(turns: Arc<Semaphore>) -> OwnedSemaphorePermit {
    turns.acquire_owned().await.expect("turns are never closed")
}
