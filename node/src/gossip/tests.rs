use std::collections::BTreeMap;
use std::time::Duration;

use kepler_protocol::identity::ClusterId;
use kepler_protocol::view::Metadata;
use kepler_protocol::wire::seal::KeyRing;

use super::*;

fn config(name: &str, key: u8, seeds: Vec<SocketAddr>) -> Config {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Config {
        swim: swim::Config {
            id: name.parse().unwrap(),
            identity: swim::SigningKey::from_bytes(&[key; 32]),
            metadata: Metadata {
                key: [0; 32],
                addr: loopback.ip(),
                gossip_port: 0,
                transfer_port: 1,
                http_port: 2,
                zone: None,
                capacity: 1 << 30,
                version: "test".into(),
            },
            keys: KeyRing::open_to_all(),
            epoch: 1,
            // A fifth of the product's, so that the test is quick.
            period: Duration::from_millis(100),
            seeds,
            peers: Vec::new(),
            constants: Some(Constants {
                cluster: ClusterId([1; 16]),
                reference_capacity: 1 << 30,
                replication_factor: 3,
            }),
        },
        bind: loopback,
        seed: u64::from(key),
    }
}

/// Plays the composition root and the swarm of several nodes.
async fn carry(me: NodeId, mut inbox: Inbox, nodes: Arc<tokio::sync::Mutex<BTreeMap<NodeId, Handle>>>) {
    while let Some(event) = inbox.recv().await {
        let handle = |nodes: &BTreeMap<NodeId, Handle>, id: &NodeId| nodes.get(id).cloned();
        match event {
            Event::PushPull { to, payload } => {
                let (own, other) = {
                    let nodes = nodes.lock().await;
                    (handle(&nodes, &me), handle(&nodes, &to))
                };
                if let (Some(own), Some(other)) = (own, other)
                    && let Ok(Some(answer)) = other.push_pull(payload).await
                {
                    let _ = own.push_pull_answer(answer).await;
                }
            }
            Event::StreamProbe { to, token } => {
                let (own, there) = {
                    let nodes = nodes.lock().await;
                    (handle(&nodes, &me), nodes.contains_key(&to))
                };
                if let Some(own) = own {
                    let _ = own.stream_probed(token, there).await;
                }
            }
            _ => {}
        }
    }
}

async fn until(handle: &Handle, what: &str, wanted: impl Fn(&View) -> bool) {
    let mut view = handle.view();
    let waited = tokio::time::timeout(Duration::from_secs(20), view.wait_for(|v| wanted(v))).await;
    let seen: Vec<_> = handle.view().borrow().members().map(|m| (m.id, m.state)).collect();
    assert!(matches!(waited, Ok(Ok(_))), "{what}: {seen:?}");
}

fn alive(view: &View) -> usize {
    view.members().filter(|m| m.state == State::Alive).count()
}

fn state_of(view: &View, id: NodeId) -> Option<State> {
    view.member(&id).map(|m| m.state)
}

#[tokio::test]
async fn three_nodes_find_each_other_and_notice_a_death_and_a_goodbye() {
    let nodes = Arc::new(tokio::sync::Mutex::new(BTreeMap::new()));
    let mut handles = Vec::new();
    let mut seeds = Vec::new();
    for (name, key) in [("a", 1), ("b", 2), ("c", 3)] {
        let (handle, inbox) = start(config(name, key, seeds.clone())).unwrap();
        seeds = vec![handle.local_addr()];
        let id: NodeId = name.parse().unwrap();
        nodes.lock().await.insert(id, handle.clone());
        tokio::spawn(carry(id, inbox, nodes.clone()));
        handle.set_ready(true).await.unwrap();
        handles.push((id, handle));
    }
    for (_, handle) in &handles {
        until(handle, "three are alive", |v| alive(v) == 3).await;
    }
    let (c, handle) = handles.pop().unwrap();
    nodes.lock().await.remove(&c);
    drop(handle);
    for (_, handle) in &handles {
        until(handle, "c is found dead", |v| state_of(v, c) == Some(State::Dead)).await;
    }
    let (b, handle) = handles.pop().unwrap();
    handle.announce_dead().await.unwrap();
    let (_, a) = &handles[0];
    until(a, "b said goodbye", |v| state_of(v, b) == Some(State::Dead)).await;
    let (counters, _) = a.counters().await.unwrap();
    assert_eq!((counters.unopened, counters.malformed), (0, 0));
    assert!(counters.accepted > 0);
}

#[tokio::test]
async fn a_taken_node_id_is_refused_and_the_newcomer_is_told() {
    let (holder, _inbox) = start(config("a", 1, Vec::new())).unwrap();
    let (other, _other_inbox) = start(config("b", 2, vec![holder.local_addr()])).unwrap();
    holder.set_ready(true).await.unwrap();
    until(&other, "b knows a", |v| alive(v) == 1).await;
    let (_thief, mut inbox) = start(config("a", 9, vec![other.local_addr()])).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(event) = inbox.recv().await {
            if matches!(event, Event::IdInUse { .. }) {
                return true;
            }
        }
        false
    });
    assert!(told.await.unwrap());
    let key = other.view().borrow().member(&"a".parse().unwrap()).unwrap().metadata.key;
    assert_eq!(key, swim::SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes());
}
