//! This node's part of a verification: its copies hashed again, page by page.

use std::time::{Duration, Instant};

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::wire::operations::{Checked, CopyState, MAX_CHUNKS, Page};

use crate::service::healing::{Copy, Healing, Verified};
use crate::store::Store;

/// How long a node hashes for one page.
const PAGE_FOR: Duration = Duration::from_secs(2);

/// Chunks hashed between two looks at the clock.
const STEP: usize = 8;

/// Hashes this node's chunks after `after`, for a while. `None` where the database fails.
pub(super) async fn page(healing: &Healing, store: &Store, after: Option<ChunkId>) -> Option<Page> {
    let (mut chunks, mut after, begun) = (Vec::new(), after, Instant::now());
    loop {
        let found = healing.verify(after, STEP).await.ok()?;
        let last = found.is_empty();
        after = found.last().map(|verified| verified.id).or(after);
        chunks.extend(found.into_iter().map(checked));
        if last || chunks.len() + STEP > MAX_CHUNKS || begun.elapsed() >= PAGE_FOR {
            let total = store.usage().await.map_or(0, |usage| usage.chunks);
            return Some(Page { chunks, last, total });
        }
    }
}

const fn checked(Verified { id, size, copy }: Verified) -> Checked {
    let state = match copy {
        Copy::Intact => CopyState::Intact,
        Copy::Corrupt => CopyState::Rotten,
        Copy::Missing => CopyState::FileMissing,
        Copy::Unreadable => CopyState::Unreadable,
    };
    Checked { id, bytes: size, state }
}
