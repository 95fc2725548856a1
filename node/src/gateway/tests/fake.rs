//! Files in memory: what the gateway is tested against.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use kepler_protocol::api;
use kepler_protocol::catalog::command::{Consistency, Precondition};
use kepler_protocol::chunk::{ChunkId, Codec};
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::time::UnixMillis;
use kepler_protocol::version::{Content, Context, Dot, Origin, Version};
use tokio::sync::{Notify, broadcast};

use crate::service::*;

/// When every file was written: Tue, 29 Feb 2000 12:34:56 GMT.
pub const WRITTEN: UnixMillis = UnixMillis(951_827_696_789);

pub struct Fake {
    files: Mutex<BTreeMap<Name, (Version, Bytes)>>,
    sequence: Mutex<u64>,
    /// Returned by the next write instead of doing it.
    pub fail_write: Mutex<Option<WriteError>>,
    /// Returned by the next read instead of doing it.
    pub fail_read: Mutex<Option<ReadError>>,
    /// Downloads fail after so many bytes.
    pub break_after: Mutex<Option<u64>>,
    /// What the answers to opens say beside the file.
    pub marks: Mutex<(usize, Consistency)>,
    /// Writes wait for it after they have read their body.
    pub hold: Mutex<Option<std::sync::Arc<Notify>>>,
    /// Why the node is not ready.
    pub waiting_for: Mutex<Option<String>>,
    pub puts: Mutex<Vec<PutRequest>>,
    /// Returned by the next operator's verb instead of doing it.
    pub fail_verb: Mutex<Option<OperatorError>>,
    /// What operators asked for.
    pub verbs: Mutex<Vec<String>>,
    pub events: broadcast::Sender<api::Event>,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            files: Mutex::default(),
            sequence: Mutex::default(),
            fail_write: Mutex::default(),
            fail_read: Mutex::default(),
            break_after: Mutex::default(),
            marks: Mutex::new((0, Consistency::Majority)),
            hold: Mutex::default(),
            waiting_for: Mutex::default(),
            puts: Mutex::default(),
            fail_verb: Mutex::default(),
            verbs: Mutex::default(),
            events: broadcast::channel(4).0,
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.files.lock().unwrap().keys().map(ToString::to_string).collect()
    }

    pub fn bytes(&self, name: &str) -> Option<Bytes> {
        self.files.lock().unwrap().get(name).map(|(_, bytes)| bytes.clone())
    }

    pub fn dot(sequence: u64) -> Dot {
        Dot { origin: Origin { node: "node-a".parse().unwrap(), generation: 0xab }, sequence }
    }

    fn check(&self, name: &Name, precondition: Precondition) -> Result<(), WriteError> {
        let head = self.files.lock().unwrap().get(name).map(|(v, _)| v.dot);
        let holds = match precondition {
            Precondition::None => true,
            Precondition::Head(dot) => head == Some(dot),
            Precondition::Absent => head.is_none(),
        };
        if holds { Ok(()) } else { Err(WriteError::PreconditionFailed { head }) }
    }

    fn store(
        &self,
        name: Name,
        bytes: Bytes,
        content_type: Option<String>,
        durability: api::Durability,
    ) -> api::Receipt {
        let dot = {
            let mut sequence = self.sequence.lock().unwrap();
            *sequence += 1;
            Self::dot(*sequence)
        };
        let root = ChunkId::of(Codec::Raw, &bytes);
        let size = bytes.len() as u64;
        let version = Version {
            name: name.clone(),
            dot,
            context: Context::default(),
            count: dot.sequence,
            content: Some(Content { root, size, chunks: 1, content_type }),
            created_at: WRITTEN,
        };
        self.files.lock().unwrap().insert(name.clone(), (version, bytes));
        api::Receipt {
            name,
            cid: root,
            size,
            chunks: 1,
            version: dot.to_string(),
            created_at: WRITTEN.to_string(),
            durability,
            replicas: api::Replicas { wanted: 3, acked: 3, nodes: vec![dot.origin.node], queued: vec![] },
        }
    }

    fn verb(&self, verb: String) -> Result<api::Accepted, OperatorError> {
        if let Some(error) = self.fail_verb.lock().unwrap().take() {
            return Err(error);
        }
        self.verbs.lock().unwrap().push(verb);
        let node = "node-a".parse().unwrap();
        Ok(api::Accepted { nodes: vec![api::Answered { node, accepted: true, detail: None }] })
    }

    fn get(&self, name: &Name) -> Result<(Version, Bytes), ReadError> {
        let found = self.files.lock().unwrap().get(name).cloned();
        found.ok_or_else(|| ReadError::NotFound(name.to_string()))
    }
}

#[async_trait::async_trait]
impl Files for Fake {
    async fn put(&self, request: PutRequest, mut body: Body) -> Result<api::Receipt, WriteError> {
        if let Some(error) = self.fail_write.lock().unwrap().take() {
            return Err(error);
        }
        let mut whole = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = piece?;
            assert!(!piece.is_empty() && piece.len() <= 256 << 10, "pieces are bounded");
            whole.extend_from_slice(&piece);
        }
        drop(body);
        let hold = self.hold.lock().unwrap().clone();
        if let Some(hold) = hold {
            hold.notified().await;
        }
        self.check(&request.name, request.precondition)?;
        self.puts.lock().unwrap().push(request.clone());
        Ok(self.store(request.name, whole.into(), request.content_type, request.durability))
    }

    async fn open(&self, name: &Name, version: Option<Dot>) -> Result<OpenFile, ReadError> {
        if let Some(error) = self.fail_read.lock().unwrap().take() {
            return Err(error);
        }
        let (found, bytes) = self.get(name)?;
        if version.is_some_and(|dot| dot != found.dot) {
            return Err(ReadError::NotFound(name.to_string()));
        }
        let break_after = *self.break_after.lock().unwrap();
        let (conflicts, consistency) = *self.marks.lock().unwrap();
        let read = move |range: Range<u64>| -> ByteStream {
            let part = bytes.slice(range.start as usize..range.end as usize);
            match break_after {
                None => Box::pin(stream::iter([Ok(part)])),
                Some(after) => {
                    let error = ReadError::ChunkUnavailable(ChunkId::of(Codec::Raw, b""));
                    Box::pin(stream::iter([Ok(part.slice(..after as usize)), Err(error)]))
                }
            }
        };
        Ok(OpenFile::new(found, conflicts, consistency, Box::new(read)))
    }

    async fn delete(
        &self,
        name: &Name,
        version: Option<Dot>,
        precondition: Precondition,
        _: api::Durability,
    ) -> Result<(), WriteError> {
        if let Some(error) = self.fail_write.lock().unwrap().take() {
            return Err(error);
        }
        self.check(name, precondition)?;
        let (found, _) = self.get(name).map_err(|_| WriteError::NotFound(name.to_string()))?;
        if version.is_some_and(|dot| dot != found.dot) {
            return Err(WriteError::NotFound(name.to_string()));
        }
        self.files.lock().unwrap().remove(name);
        Ok(())
    }

    async fn copy(&self, copy: Copy) -> Result<api::Receipt, WriteError> {
        let (bytes, content_type) = match copy.from {
            CopySource::Name(name, version) => {
                let (found, bytes) = self.get(&name).map_err(|_| WriteError::NotFound(name.to_string()))?;
                if version.is_some_and(|dot| dot != found.dot) {
                    return Err(WriteError::NotFound(name.to_string()));
                }
                (bytes, found.content.and_then(|c| c.content_type))
            }
            CopySource::Content { root, content_type } => {
                let files = self.files.lock().unwrap();
                let found = files.values().find(|(_, bytes)| ChunkId::of(Codec::Raw, bytes) == root);
                (found.ok_or(WriteError::Collected(root))?.1.clone(), content_type)
            }
        };
        self.check(&copy.to, copy.precondition)?;
        Ok(self.store(copy.to, bytes, content_type, copy.durability))
    }

    async fn rename(
        &self,
        from: Name,
        to: Name,
        durability: api::Durability,
    ) -> Result<api::Receipt, WriteError> {
        let source = CopySource::Name(from.clone(), None);
        let receipt =
            self.copy(Copy { from: source, to, precondition: Precondition::None, durability }).await?;
        self.files.lock().unwrap().remove(&from);
        Ok(receipt)
    }

    async fn stat(&self, name: &Name) -> Result<api::Stat, ReadError> {
        self.get(name)?;
        Ok(api::Stat {
            name: name.clone(),
            versions: vec![],
            chunks: vec![],
            consistency: "majority".to_owned(),
        })
    }

    async fn earlier(&self, name: &Name) -> Result<api::Earlier, ReadError> {
        if let Some(error) = self.fail_read.lock().unwrap().take() {
            return Err(error);
        }
        Ok(api::Earlier { name: name.clone(), versions: vec![] })
    }

    async fn recent(&self, all: bool, past: std::time::Duration) -> api::Recent {
        let node = "node-a".parse().unwrap();
        // What was asked for can be told from the answer.
        let cluster = all.then(Vec::new);
        api::Recent {
            node,
            interval_secs: past.as_secs(),
            samples: vec![],
            cluster,
            events: vec![],
            silent: vec![],
        }
    }

    async fn list(&self, query: ListQuery) -> Result<api::Listing, ReadError> {
        let files = self.files.lock().unwrap();
        let mut matching = files.values().filter(|(v, _)| {
            v.name.as_str().starts_with(&query.prefix)
                && query.after.as_ref().is_none_or(|after| v.name.as_str() > after.as_str())
        });
        let entry = |(v, _): &(Version, Bytes)| {
            let content = v.content.clone().unwrap();
            api::FileEntry {
                name: v.name.clone(),
                cid: content.root,
                size: content.size,
                content_type: content.content_type,
                created_at: v.created_at.to_string(),
                etag: format!("\"{}\"", v.dot),
                conflicts: 0,
            }
        };
        let files: Vec<_> = matching.by_ref().take(query.limit).map(entry).collect();
        let next = matching.next().and(files.last().map(|f| f.name.to_string()));
        Ok(api::Listing { files, prefixes: query.delimiter.into_iter().collect(), next })
    }

    async fn chunk(&self, id: ChunkId) -> Result<OpenChunk, ReadError> {
        if let Some(error) = self.fail_read.lock().unwrap().take() {
            return Err(error);
        }
        let files = self.files.lock().unwrap();
        let found = files.values().find(|(_, bytes)| ChunkId::of(Codec::Raw, bytes) == id);
        found
            .map(|(_, bytes)| {
                let bytes = bytes.clone();
                let size = bytes.len() as u64;
                let read = move |range: Range<u64>| -> ByteStream {
                    let part = bytes.slice(range.start as usize..range.end as usize);
                    Box::pin(futures::stream::iter([Ok(part)]))
                };
                OpenChunk::new(size, Box::new(read))
            })
            .ok_or_else(|| ReadError::NotFound(id.to_string()))
    }

    async fn locate(&self, name: &Name, if_down: Option<NodeId>) -> Result<api::Located, LocateError> {
        let (version, bytes) = self.get(name)?;
        if if_down.is_some_and(|node| node != version.dot.origin.node) {
            return Err(LocateError::NotAMember(if_down.unwrap()));
        }
        let node = version.dot.origin.node;
        let chunk = api::LocatedChunk {
            cid: ChunkId::of(Codec::Raw, &bytes),
            size: bytes.len() as u64,
            key: "0".repeat(16),
            tokens_walked: 1,
            walk: vec![],
            owners: vec![node],
            holders: vec![api::Holder { node, verified_at: None }],
            owners_if_down: if_down.map(|_| vec![]),
        };
        let version = version.dot.to_string();
        Ok(api::Located { name: name.clone(), version, replication_factor: 3, if_down, chunks: vec![chunk] })
    }

    async fn health(&self) -> api::Health {
        api::Health {
            status: api::HealthStatus::AtRisk,
            reasons: vec!["so".to_owned()],
            ..Default::default()
        }
    }

    async fn scrub(&self, request: api::ScrubRequest) -> api::Accepted {
        self.verb(format!("{request:?}")).unwrap_or_default()
    }

    async fn repair(&self, request: api::RepairRequest) -> api::Accepted {
        self.verb(format!("{request:?}")).unwrap_or_default()
    }

    async fn stay(&self) -> Result<api::Accepted, OperatorError> {
        Err(OperatorError::Conflict("this node is not leaving".to_owned()))
    }

    async fn leave(&self) -> Result<api::Accepted, OperatorError> {
        self.verb("leave".to_owned())
    }

    async fn forget(&self, nodes: BTreeSet<NodeId>, lost: bool) -> Result<api::Accepted, OperatorError> {
        self.verb(format!("forget {nodes:?} {lost}"))
    }

    fn verify(&self, all: bool) -> Result<VerifyStream, OperatorError> {
        self.verb(format!("verify {all}"))?;
        let total = api::VerifyTotal { ok: true, chunks: 1, ..Default::default() };
        let progress = api::VerifyLine::Progress { chunks: 1, copies: 1, bytes: 2 };
        Ok(Box::pin(stream::iter([progress, api::VerifyLine::Total(total)])))
    }

    async fn cluster(&self) -> api::Cluster {
        let ring = self.ring().ring;
        api::Cluster { members: vec![], ring, roster: None }
    }

    fn ring(&self) -> api::RingDump {
        let ring = api::RingInfo { version: "kepler-ring-v1".to_owned(), digest: "00".to_owned() };
        api::RingDump { ring, replication_factor: 3, tokens: vec![] }
    }

    async fn status(&self) -> Result<api::NodeStatus, ReadError> {
        Ok(api::NodeStatus {
            id: "node-a".parse().unwrap(),
            version: "0.1.0".to_owned(),
            uptime_secs: 1,
            ready: true,
            waiting_for: None,
            storage: api::StorageStatus::default(),
            queue: api::QueueStatus::default(),
            files: self.files.lock().unwrap().len() as u64,
            transfers: 0,
            healing: None,
            bandwidth: api::Bandwidth::default(),
        })
    }

    fn readiness(&self) -> Result<(), String> {
        self.waiting_for.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn events(&self) -> broadcast::Receiver<api::Event> {
        self.events.subscribe()
    }
}

/// Waits until `holds`, without a fixed pause.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
