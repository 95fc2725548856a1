//! Where the chunks of a file belong and why, and who has them.

use kepler_protocol::api;
use kepler_protocol::chunk::{ChunkId, Codec};
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::placement::Explainer;
use kepler_protocol::wire::operations::MAX_CHUNKS;

use super::ReadError;
use super::download::Dag;
use super::files::Service;

/// The most leaves of a file whose chunks are located: the answer is built in memory.
const MAX_LOCATED: u64 = 16_384;

/// Why a file was not located.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The node in question is no member.
    #[error("{0} is no member of the cluster: `kepler cluster members` lists them")]
    NotAMember(NodeId),
}

impl Service {
    /// The chunks of a version: leaves in file order, then manifest nodes, with their sizes.
    pub(super) async fn chunks_of(
        &self,
        version: &kepler_protocol::version::Version,
        most: u64,
    ) -> Result<Vec<(ChunkId, u64)>, ReadError> {
        let content =
            version.content.as_ref().ok_or_else(|| ReadError::NotFound(version.name.to_string()))?;
        if content.chunks > most {
            return Err(ReadError::TooManyChunks { chunks: content.chunks, most });
        }
        let (mut leaves, mut nodes) = (Vec::new(), Vec::new());
        let mut walk = Dag::new(content, Some(version.dot))?;
        while let Some((id, size)) = self.next_of(&mut walk).await.map_err(|e| e.of_file(&version.name))? {
            match id.codec() {
                Codec::Raw => leaves.push((id, size)),
                Codec::DagPb => nodes.push((id, size)),
            }
        }
        leaves.append(&mut nodes);
        Ok(leaves)
    }

    pub(super) async fn located(
        &self,
        name: &Name,
        if_down: Option<NodeId>,
    ) -> Result<api::Located, LocateError> {
        let view = self.chunks.view();
        if let Some(node) = if_down
            && view.member(&node).is_none()
        {
            return Err(LocateError::NotAMember(node));
        }
        let (reference_capacity, wanted) = {
            let electors = self.electors.borrow();
            let roster = electors.roster().ok_or_else(|| ReadError::NotReady(electors.reason()))?;
            (roster.constants.reference_capacity, roster.replicas())
        };
        let (head, _) = self.head(name, None).await?;
        let list = self.chunks_of(&head, MAX_LOCATED).await?;
        let now = Explainer::new(&view, reference_capacity, None);
        let down = if_down.map(|node| Explainer::new(&view, reference_capacity, Some(node)));
        let mut chunks = Vec::with_capacity(list.len());
        for batch in list.chunks(MAX_CHUNKS) {
            let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
            let copies = self.operator.verified(&ids).await;
            for (at, (id, size)) in batch.iter().enumerate() {
                let explained = now.explain(id.key(), wanted);
                let holders = copies.iter().filter(|(_, copies)| copies[at].held).map(|(node, copies)| {
                    let verified_at = copies[at].verified_at.map(|at| at.to_string());
                    api::Holder { node: *node, verified_at }
                });
                chunks.push(api::LocatedChunk {
                    cid: *id,
                    size: *size,
                    key: format!("{:016x}", id.key()),
                    tokens_walked: explained.tokens_walked,
                    walk: explained.walk.into_iter().map(step).collect(),
                    owners: explained.owners,
                    holders: holders.collect(),
                    owners_if_down: down.as_ref().map(|down| down.explain(id.key(), wanted).owners),
                });
            }
        }
        Ok(api::Located {
            name: name.clone(),
            version: head.dot.to_string(),
            replication_factor: wanted,
            if_down,
            chunks,
        })
    }
}

fn step(step: kepler_protocol::placement::Step) -> api::WalkStep {
    api::WalkStep {
        token: format!("{:016x}", step.token),
        node: step.node,
        zone: step.zone,
        owner: step.why.is_owner(),
        why: step.why.to_string(),
    }
}
