//! The composition root: the only file that knows every part of a node.
//!
//! Start: doors are bound first, so that a taken port is known before anything else happens; then
//! store, gossip, swarm, replica, services, gateway. Stop: gateway, goodbye over gossip, tasks,
//! swarm, store; each with a deadline.

mod membership;
mod peers;
mod roads;
mod secrets;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use kepler_protocol::api;
use kepler_protocol::catalog;
use kepler_protocol::chunker::ChunkSize;
use kepler_protocol::identity::{ClusterId, DatabaseId};
use kepler_protocol::replica::{self, Output, Replica};
use kepler_protocol::replicator;
use kepler_protocol::roster::council::{self, Founding};
use kepler_protocol::swim;
use kepler_protocol::view::Metadata;
use tokio::net::TcpListener;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::gateway;
use crate::gossip;
use crate::replication::catalog::{Backlog, Driver};
use crate::replication::chunks::{self, Chunks};
use crate::replication::electorate::Electors;
use crate::replication::healer::{self, Healer};
use crate::replication::sender::Sender;
use crate::service::cluster::ClusterService;
use crate::service::files::{Parts, Service};
use crate::service::healing::Healing;
use crate::service::memory::{Memory, Recorder};
use crate::service::operations::{self, Operator};
use crate::store::{self, Store, durable};
use crate::swarm;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::throttle::Throttle;

/// The file that says which ports are in use: there from the first start on.
const ADDRESSES: &str = "addresses.json";

/// Events kept for a follower that is slow.
const EVENTS: usize = 1024;

pub use self::secrets::Secrets;

/// How long each part may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A running node.
pub struct Node {
    listener: TcpListener,
    gateway: gateway::Config,
    service: Service,
    metrics: Arc<Metrics>,
    gossip: gossip::Handle,
    swarm: swarm::Handle,
    store: Store,
    tasks: Tasks,
    /// Cancelled once this node has left the cluster.
    left: CancellationToken,
    stop: CancellationToken,
}

/// Random numbers that nobody else draws.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow!("draw random numbers: {e}"))?;
    Ok(bytes)
}

fn random_u64() -> Result<u64> {
    Ok(u64::from_le_bytes(random()?))
}

impl Node {
    /// Starts every part. It serves once [`Node::run`] is polled.
    ///
    /// # Errors
    /// A port or the data directory is in use, a disk fails: the error names the setting.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Self> {
        let id = config.node.id;
        let bind = config.network.bind;
        let advertised = advertised(&config).await?;
        let listener = TcpListener::bind((bind, config.network.http_port))
            .await
            .with_context(|| format!("HTTP_PORT: listen on {bind}:{}", config.network.http_port))?;
        let http_port = listener.local_addr()?.port();

        // Whoever has served before never founds, even if the database is lost: its cluster, which
        // knows where it lives, will contact it.
        let served_before = tokio::fs::try_exists(config.node.data_dir.join(ADDRESSES)).await.unwrap_or(true);
        let settings = store::Config {
            data_dir: config.node.data_dir.clone(),
            min_free: config.storage.min_free,
            node: id,
        };
        let (store, opened) = tokio::task::spawn_blocking(move || Store::open(settings))
            .await?
            .context("DATA_DIR: open the data directory")?;
        let usage = store.usage().await.context("measure the disk")?;
        let capacity = config.node.capacity.unwrap_or(usage.capacity);
        let remembered = peers::load(&store).await?;
        let seeds = resolve_seeds(&config).await?;
        let founds =
            seeds.is_empty() && config.network.seeds.is_empty() && remembered.is_empty() && !served_before;

        let identity = swim::SigningKey::from_bytes(&opened.identity);
        let key = identity.verifying_key().to_bytes();
        let cluster_keys: Vec<[u8; 32]> = config.security.cluster_keys.iter().map(|k| *k.expose()).collect();
        let keys = secrets::key_ring(&cluster_keys)?;

        // The transfer port is bound before gossip tells others of it.
        let (view_source, view) = watch::channel(Arc::new(kepler_protocol::view::View::new(0, 1, [])));
        let throttle = Throttle::new(config.storage.background_bytes_per_second);
        let (healer, healer_inbox) = healer::Handle::new(throttle.clone());
        let swarm_config = swarm::Config {
            node: id,
            identity: opened.identity,
            cluster_keys,
            listen: SocketAddr::new(bind, config.network.transfer_port),
            limits: swarm::Limits { throttle: throttle.clone(), ..swarm::Limits::default() },
        };
        let metrics = Arc::new(Metrics::new());
        let meters = store.meters().clone();
        metrics.register(|registry| {
            registry.register("database_commits", "Transactions committed", meters.commits);
            registry.register(
                "disk_sync_duration_seconds",
                "Time to make bytes durable",
                meters.sync_seconds,
            );
        });
        let chunk_store =
            Arc::new(roads::Doors { store: store.clone(), metrics: metrics.clone(), healer: healer.clone() });
        let (swarm, inbound, transfer_addr) = swarm::start(swarm_config, view.clone(), chunk_store)
            .context("TRANSFER_PORT: start the transfer port")?;

        let gossip_config = gossip::Config {
            swim: swim::Config {
                id,
                identity,
                metadata: Metadata {
                    key,
                    addr: advertised,
                    gossip_port: config.network.gossip_port,
                    transfer_port: transfer_addr.port(),
                    http_port,
                    zone: config.node.zone.clone(),
                    capacity,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                },
                keys,
                epoch: opened.epoch,
                period: config.timing.swim_period,
                seeds,
                peers: remembered,
                constants: None,
            },
            bind: SocketAddr::new(bind, config.network.gossip_port),
            seed: random_u64()?,
        };
        let (gossip, gossip_events) = gossip::start(gossip_config)
            .with_context(|| format!("GOSSIP_PORT: listen on UDP {bind}:{}", config.network.gossip_port))?;

        let round_trips = gossip.round_trips();
        metrics.register(|registry| {
            registry.register("gossip_round_trip_seconds", "Time from a probe to its answer", round_trips);
        });

        let replica = replica::Config {
            council: council::Config {
                node: id,
                key,
                zone: config.node.zone.clone(),
                capacity,
                replication_factor: config.storage.replication_factor,
                forget_after: config.timing.forget_after,
                founding: if founds {
                    Founding::Found { cluster: ClusterId(random()?) }
                } else {
                    Founding::Join
                },
                fresh_database: DatabaseId(random()?),
                seed: random_u64()?,
            },
            catalog: catalog::Config { ack_grace: config.timing.ack_grace, ..catalog::Config::new(id) },
            council_faults: council::Faults::default(),
            seed: random_u64()?,
            generation: random_u64()?,
        };
        let (outputs, replica_outputs) = mpsc::unbounded_channel();
        let backlog = Backlog::default();
        let (installing, growing) = (store.clone(), backlog.clone());
        let seat = tokio::task::spawn_blocking(move || {
            installing.install(
                move |storage, now| Replica::open(replica, storage, now).map(roads::Seated),
                move |batch: Vec<Output>| {
                    growing.grow(batch.len());
                    // Once nobody carries outputs out, the node is stopping.
                    let _ = outputs.send(batch);
                },
            )
        })
        .await?
        .context("open the catalog")?;

        let tasks = Tasks::default();
        let (electors_source, electors) = watch::channel(Electors::default());
        let (events, _) = broadcast::channel(EVENTS);
        let (driver, catalog) = Driver::new(
            seat,
            (replica_outputs, backlog),
            swarm.clone(),
            gossip.clone(),
            electors_source,
            events.clone(),
            tasks.clone(),
        );
        let chunks = Chunks::new(chunks::Parts {
            me: id,
            ack_grace: config.timing.ack_grace,
            chunk_bytes: config.storage.chunk_size,
            store: store.clone(),
            swarm: swarm.clone(),
            view: view.clone(),
            electors: electors.clone(),
            metrics: metrics.clone(),
            events: events.clone(),
            tasks: tasks.clone(),
        });
        let cluster = Arc::new(ClusterService::new(
            id,
            view.clone(),
            swarm.clone(),
            gossip.clone(),
            config.timing.forget_after,
        ));
        let queue_grew = Arc::new(Notify::new());

        // The replica's outputs are carried out until the store ends, after all other tasks.
        tasks.spawn_last("catalog", driver.run());
        tasks.spawn_vital(
            "views",
            membership::views(
                gossip.view(),
                view_source,
                catalog.clone(),
                metrics.clone(),
                tasks.stop().clone(),
            ),
        );
        let latest = Arc::new(membership::Latest::default());
        tasks.spawn_vital(
            "gossip",
            membership::GossipEvents {
                inbox: gossip_events,
                gossip: gossip.clone(),
                swarm: swarm.clone(),
                cluster: cluster.clone(),
                latest: latest.clone(),
                events: events.clone(),
                tasks: tasks.clone(),
            }
            .run(),
        );
        tasks.spawn_vital("news", latest.run(catalog.clone(), store.clone(), tasks.stop().clone()));
        let memory = Memory::default();
        let operator = Operator::new(operations::Parts {
            me: id,
            healing: Healing::new(
                healer.clone(),
                store.clone(),
                catalog.clone(),
                id,
                view.clone(),
                electors.clone(),
            ),
            store: store.clone(),
            swarm: swarm.clone(),
            view: view.clone(),
            electors: electors.clone(),
            memory: memory.clone(),
        });
        tasks.spawn_vital(
            "inbound",
            roads::inbound(
                inbound,
                gossip.clone(),
                catalog.clone(),
                healer.clone(),
                store.clone(),
                operator.clone(),
                tasks.clone(),
            ),
        );
        let recorder = Recorder {
            memory,
            store: store.clone(),
            healing: operator.healing().clone(),
            metrics: metrics.clone(),
            events: events.subscribe(),
            stop: tasks.stop().clone(),
        };
        tasks.spawn_vital("recorder", recorder.run());
        tasks.spawn_vital("health", operator.clone().watch(events.clone(), tasks.stop().clone()));
        let loads = roads::loads(
            id,
            store.clone(),
            swarm.clone(),
            view.clone(),
            cluster.clone(),
            tasks.stop().clone(),
        );
        tasks.spawn_vital("loads", loads);
        tasks.spawn_vital(
            "sender",
            Sender {
                store: store.clone(),
                chunks: chunks.clone(),
                catalog: catalog.clone(),
                electors: electors.clone(),
                view: view.clone(),
                grew: queue_grew.clone(),
                events: events.clone(),
                metrics: metrics.clone(),
                tasks: tasks.clone(),
            }
            .run(),
        );
        let left = CancellationToken::new();
        let timing = &config.timing;
        let healing = Healer::new(
            healer::Parts {
                config: replicator::Config {
                    repair_delay: timing.repair_delay,
                    handoff_grace: timing.handoff_grace,
                    gc_grace: timing.gc_grace,
                    inventory_interval: timing.inventory_interval,
                    scrub_interval: timing.scrub_interval,
                    ..replicator::Config::new(id)
                },
                store: store.clone(),
                chunks: chunks.clone(),
                catalog: catalog.clone(),
                swarm: swarm.clone(),
                gossip: gossip.clone(),
                view,
                electors: electors.clone(),
                events: events.clone(),
                metrics: metrics.clone(),
                tasks: tasks.clone(),
                left: left.clone(),
            },
            healer_inbox,
        );
        tasks.spawn_vital("healer", healing.run());
        tasks.spawn_vital(
            "measure",
            roads::measure(
                store.clone(),
                gossip.clone(),
                swarm.clone(),
                electors.clone(),
                metrics.clone(),
                tasks.stop().clone(),
            ),
        );

        let chunk_size =
            ChunkSize::from_bytes(config.storage.chunk_size).map_err(|e| anyhow!("CHUNK_SIZE_MB: {e}"))?;
        let service = Service::new(Parts {
            store: store.clone(),
            catalog,
            chunks,
            electors,
            cluster,
            operator,
            chunk_size,
            tasks: tasks.clone(),
            events,
            queue_grew,
        });
        let ports =
            Ports { http_port, gossip_port: gossip.local_addr().port(), transfer_port: transfer_addr.port() };
        write_addresses(&config, ports).await?;
        info!(node = %id, founds, http_port, gossip_port = ports.gossip_port, transfer_port = ports.transfer_port, "started");
        let gateway = gateway::Config::new(&config.network, &config.security);
        Ok(Self { listener, gateway, service, metrics, gossip, swarm, store, tasks, left, stop })
    }

    /// The way to give the running node other keys and tokens.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.gossip.clone(), self.swarm.clone(), self.gateway.access.clone())
    }

    /// Serves until told to stop, then stops every part in order.
    ///
    /// # Errors
    /// A part failed: a node that limps is worse than one that is gone.
    pub async fn run(self) -> Result<()> {
        let Self { listener, gateway, service, metrics, gossip, swarm, store, tasks, left, stop } = self;
        // Whatever the node cannot do without ends its service, and is its error in the end.
        let (watching, failure) = {
            let (store, swarm, tasks, stop) = (store.clone(), swarm.clone(), tasks.clone(), stop.clone());
            let left = left.clone();
            let (sender, failure) = watch::channel(None);
            let watching = tokio::spawn(async move {
                let reason = tokio::select! {
                    biased; // A failed database ends other parts too, and is the reason to tell.
                    () = left.cancelled() => return stop.cancel(),
                    reason = store.stopped() => {
                        format!("the database failed, and nothing more can be promised: {reason}")
                    }
                    reason = tasks.failed() => reason,
                    () = swarm.closed() => "the transfer port was closed".to_owned(),
                };
                sender.send_replace(Some(reason));
                stop.cancel();
            });
            (watching, failure)
        };
        let served = gateway::serve(listener, gateway, Arc::new(service), metrics, stop.clone()).await;
        watching.abort();
        let goodbye = async {
            // Who left takes its place on the roster along; who merely stops is expected back.
            if left.is_cancelled() { gossip.left().await } else { gossip.announce_dead().await }
        };
        if timeout(STOP_WITHIN, goodbye).await.is_err() {
            warn!("could not say goodbye");
        }
        if timeout(STOP_WITHIN, tasks.finish()).await.is_err() {
            warn!("some tasks did not finish in time");
        }
        if timeout(STOP_WITHIN, swarm.shutdown()).await.is_err() {
            warn!("the swarm did not close in time");
        }
        if timeout(STOP_WITHIN, store.close()).await.is_err() {
            warn!("the store did not close in time");
        }
        served.context("serve HTTP")?;
        let failure = failure.borrow().clone();
        match failure {
            Some(reason) => Err(anyhow!(reason)),
            None => {
                info!("stopped");
                Ok(())
            }
        }
    }
}

/// The ports in use, where 0 was asked.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Ports {
    http_port: u16,
    gossip_port: u16,
    transfer_port: u16,
}

async fn write_addresses(config: &Config, ports: Ports) -> Result<()> {
    let path = config.node.data_dir.join(ADDRESSES);
    let text = serde_json::to_vec(&ports)?;
    // That it was there once keeps a node from founding a cluster anew: it has to survive a crash.
    let write = {
        let path = path.clone();
        move || durable::replace(&path, 0o600, &text)
    };
    tokio::task::spawn_blocking(write).await?.with_context(|| format!("write {}", path.display()))
}

/// Where others reach this node.
async fn advertised(config: &Config) -> Result<IpAddr> {
    match &config.network.advertise {
        Some(host) => host.resolve().await.context("ADVERTISE_ADDR: look it up"),
        None => Ok(config.network.bind),
    }
}

async fn resolve_seeds(config: &Config) -> Result<Vec<SocketAddr>> {
    let mut seeds = Vec::new();
    for seed in &config.network.seeds {
        match seed.host.resolve().await {
            Ok(ip) => seeds.push(SocketAddr::new(ip, seed.port)),
            // One of several may be unknown for now; with none there is nobody to join through.
            Err(error) => warn!(seed = %seed.host, %error, "cannot look a seed up"),
        }
    }
    if seeds.is_empty() && !config.network.seeds.is_empty() {
        let names: Vec<String> = config.network.seeds.iter().map(|s| s.host.to_string()).collect();
        return Err(anyhow!("SEEDS: none of {} can be looked up", names.join(", ")));
    }
    Ok(seeds)
}

/// Told to everybody who follows events when a member changes.
fn member_event(node: kepler_protocol::node_id::NodeId, status: api::Status) -> api::Event {
    api::Event::Member { node, status }
}
