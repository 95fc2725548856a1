//! A catalog whose disk has no room: whoever asks is refused at once, and nobody waits behind another.

use std::time::Instant as Wall;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::Precondition;
use kepler_protocol::catalog::storage::{self, Storage, Table};
use kepler_protocol::identity::DatabaseId;
use kepler_protocol::swim::Announcement;
use kepler_protocol::time::Instant;
use kepler_protocol::version::{Dot, Origin};

use super::*;
use crate::store::{Config, Resident, Store};

/// A machine that writes something for whatever it is told, and answers nothing.
struct Scribe;

impl Resident for Scribe {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, storage: &mut dyn Storage, _: Instant, _: Input) -> storage::Result<()> {
        storage.put_record(Table::Catalog, b"told", Some(b"something"))
    }

    fn handle_timeout(&mut self, _: &mut dyn Storage, _: Instant) -> storage::Result<()> {
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn before_commit(&mut self, _: &mut dyn Storage) -> storage::Result<()> {
        Ok(())
    }

    fn drain(&mut self, _: &mut Vec<Output>) {}
}

fn handle(store: &Store) -> CatalogHandle {
    let seat = store.install(|_, _| Ok(Scribe), |_: Vec<Output>| {}).unwrap();
    CatalogHandle { seat, waiting: Arc::default(), backlog: Backlog::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_a_catalog_without_room_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { data_dir: dir.path().join("data"), min_free: 0, node: "node-a".parse().unwrap() };
    let (store, _) = Store::open(config).unwrap();
    let catalog = handle(&store);
    store.plant_full(u64::MAX);
    let name: kepler_protocol::name::Name = "a".parse().unwrap();
    let begin = Command::Begin {
        name: name.clone(),
        precondition: Precondition::None,
        durability: Durability::Quorum,
    };
    let first = catalog.command(begin).await;
    assert!(matches!(first, Err(CommandError::Full)), "{first:?}");
    assert!(catalog.is_stuck());
    let begun = Wall::now();
    // More than wait at most: none of them takes the place of what has to end.
    for _ in 0..10_000 {
        let read = catalog.command(Command::Read { name: name.clone() }).await;
        assert!(matches!(read, Err(CommandError::Full)), "{read:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "refusing took {:?}", begun.elapsed());
    let me = "node-a".parse().unwrap();
    let announcement =
        Announcement { seen_digest: [0; 16], database: DatabaseId([1; 16]), mark: 1, roster: 1 };
    let news = Input::Announced { from: me, announcement };
    tokio::time::timeout(Duration::from_secs(1), catalog.tell(news))
        .await
        .expect("there is room for news of members")
        .unwrap();
    assert!(catalog.waiting.commands.lock().unwrap().len() <= 1, "only the first was handed over");
    // What ends something is handed over all the same: it is done once there is room.
    for sequence in 1..=50 {
        let before = catalog.waiting.commands.lock().unwrap().len();
        let dot = Dot { origin: Origin { node: me, generation: 1 }, sequence };
        let ended = catalog.command(Command::Abort { dot }).await;
        assert!(matches!(ended, Err(CommandError::Lost)), "{ended:?}");
        assert_eq!(catalog.waiting.commands.lock().unwrap().len(), before + 1, "an abort was left out");
    }
    store.close().await;
}
