//! One node's copies, hashed by itself and read page by page.

use std::collections::VecDeque;
use std::time::Duration;

use kepler_protocol::chunk::ChunkId;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::wire::operations::{Answer, Checked, MAX_CHUNKS, Page, Question};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::service::operations::Operator;
use crate::tasks::Tasks;

/// How long a page may take, waiting for a turn included.
const PAGE_WITHIN: Duration = Duration::from_secs(25);

/// How often a node is asked again for a page it did not give.
const ATTEMPTS: u32 = 3;

/// One node's copies in order, as far as they have arrived.
pub(super) struct Copies {
    pages: mpsc::Receiver<Page>,
    /// Each with its id as text, which is what orders them.
    pub arrived: VecDeque<(String, Checked)>,
    /// Whether its last page has arrived, or no further one will.
    ended: bool,
    /// Whether all of them did.
    pub whole: bool,
    _reader: AbortOnDropHandle<()>,
}

impl Copies {
    /// Begins to read them.
    pub fn of(node: NodeId, operator: Operator, tasks: &Tasks) -> Self {
        let (sender, pages) = mpsc::channel(1);
        let _reader = AbortOnDropHandle::new(tasks.spawn(read(operator, node, sender)));
        Self { pages, arrived: VecDeque::new(), ended: false, whole: false, _reader }
    }

    /// Waits until it is known which chunk comes next, if one does.
    pub async fn next(&mut self) {
        while self.arrived.is_empty() && !self.ended {
            match self.pages.recv().await {
                Some(page) => {
                    (self.ended, self.whole) = (page.last, page.last);
                    self.arrived.extend(page.chunks.into_iter().map(|c| (c.id.to_string(), c)));
                }
                None => self.ended = true,
            }
        }
    }
}

/// Reads one node's pages until the last one, or until it fails too often.
async fn read(operator: Operator, node: NodeId, pages: mpsc::Sender<Page>) {
    let mut after = None;
    let mut failed = 0;
    while failed < ATTEMPTS {
        let answer = operator.ask_one(node, &Question::Verify(after), PAGE_WITHIN).await;
        let Some(Answer::Page(page)) = answer.filter(|answer| is_in_order(answer, after)) else {
            failed += 1;
            continue;
        };
        failed = 0;
        after = page.chunks.last().map(|checked| checked.id).or(after);
        let last = page.last;
        if pages.send(page).await.is_err() || last {
            return;
        }
    }
}

/// Whether a page goes on after `after`, in order: what does not would have the merge go astray.
fn is_in_order(answer: &Answer, after: Option<ChunkId>) -> bool {
    let Answer::Page(page) = answer else { return false };
    let mut last = after.map(|id| id.to_string());
    let moves_on = page.last || !page.chunks.is_empty();
    moves_on
        && page.chunks.len() <= MAX_CHUNKS
        && page.chunks.iter().all(|checked| {
            let text = checked.id.to_string();
            let rises = last.as_ref().is_none_or(|last| *last < text);
            last = Some(text);
            rises
        })
}
