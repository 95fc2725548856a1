//! What the world needs of a node's process, so that the harness can be tried on a toy too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::{Precondition, Refusal};
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::identity::DatabaseId;
use kepler_protocol::name::Name;
use kepler_protocol::node_id::NodeId;
use kepler_protocol::relocation;
use kepler_protocol::time::{Instant, UnixMillis};
use kepler_protocol::version::{Dot, Version};

use super::disk::Disk;
use super::network::Place;

/// What time a process believes it is.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// Monotonic, from an origin of this run of the process.
    pub now: Instant,
    /// The wall clock: anything.
    pub wall: UnixMillis,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Stores a value under a name.
    Put {
        /// The name.
        name: Name,
        /// The value.
        value: ChunkId,
        /// What must hold.
        precondition: Precondition,
        /// What 200 promises.
        durability: Durability,
        /// The client has no bytes: the value is what another name holds.
        hit: bool,
    },
    /// Deletes a name or one version of it.
    Delete {
        /// The name.
        name: Name,
        /// Only this version.
        only: Option<Dot>,
        /// What must hold.
        precondition: Precondition,
    },
    /// Reads a name.
    Get {
        /// The name.
        name: Name,
    },
}

impl Ask {
    /// The name asked about.
    pub fn name(&self) -> &Name {
        match self {
            Self::Put { name, .. } | Self::Delete { name, .. } | Self::Get { name } => name,
        }
    }
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 or 204.
    Written(Version),
    /// 200 or 404: the survivors, tombstones included.
    Read {
        /// By dot.
        survivors: Vec<Version>,
        /// No majority answered.
        local: bool,
        /// A chunk of the head that no member that answered has.
        lacking: Option<ChunkId>,
    },
    /// Certainly not done.
    Refused(Refusal),
    /// Not done, for a reason of the harness's own: too few chunk owners answered.
    NoOwners,
}

/// What an operator asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// To leave for good; it ends with [`Output::Exit`].
    Leave,
    /// To stay after all.
    Stay,
    /// To have a member forgotten.
    Forget(Place),
    /// To send in the background at most so many bytes a second.
    Cap(u64),
    /// To have these places forgotten, and a majority with them.
    ForgetLost(u64),
}

/// What happens to a process.
#[derive(Clone, Debug)]
pub enum Input<P: Process> {
    /// An operator asks.
    Operator(Word),
    /// A datagram came.
    Datagram {
        /// The node that sent it; its address is what the process sees.
        from: Place,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A peer asks.
    Request {
        /// Who.
        from: Place,
        /// Names the request for [`Output::Response`]; never reused.
        token: u64,
        /// What.
        request: P::Request,
    },
    /// A peer answered, or the deadline of a request has passed.
    Response {
        /// Who was asked.
        from: Place,
        /// The id in [`Output::Request`].
        id: u64,
        /// What was answered, if anything.
        response: Option<P::Response>,
    },
    /// A client asks.
    Client {
        /// Names the operation.
        operation: u64,
        /// What.
        ask: Ask,
    },
    /// The instant that the process asked for has come.
    Timeout,
}

/// What a process wants done.
#[derive(Clone, Debug)]
pub enum Output<P: Process> {
    /// It has left the cluster and ends.
    Exit,
    /// Send a datagram.
    Datagram {
        /// To whom.
        to: Place,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Ask a peer. Answered by exactly one [`Input::Response`], or more where messages are doubled.
    Request {
        /// Whom.
        to: Place,
        /// Comes back with the answer; never reused by this run of the process.
        id: u64,
        /// What.
        request: P::Request,
        /// When to give up.
        deadline: Instant,
    },
    /// Answer a peer.
    Response {
        /// The request's token.
        token: u64,
        /// What.
        response: P::Response,
    },
    /// Answer a client.
    Answer {
        /// The operation.
        operation: u64,
        /// What.
        answer: Answer,
    },
}

/// A chunk that a node decided to delete: it is marked gone, its file still to be unlinked.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The chunk.
    pub chunk: ChunkId,
    /// The references recorded with it.
    pub dots: BTreeSet<Dot>,
    /// Because nothing refers to it; else because others own it.
    pub collected: bool,
    /// How many others must have it: N, as the node has it, and of who leaves N as it will be without those who leave.
    pub replicas: usize,
}

/// Who a node is, whatever happens to its disk.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its place in the cluster.
    pub place: Place,
    /// Its id.
    pub id: NodeId,
    /// All ids, by place.
    pub ids: Vec<NodeId>,
    /// Counts its starts; part of the seed of the process's own generator.
    pub run: u64,
    /// The seed of the whole run.
    pub seed: u64,
}

/// A step could not be made durable: the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What a kill leaves of a node, and what may happen to it.
pub trait Durable {
    /// The power failed: what was not synced may be gone.
    fn power_cut(&mut self, random: &mut fastrand::Rng);
    /// The chunk files.
    fn disk(&mut self) -> &mut Disk;
    /// Puts a copy of the database aside.
    fn back_up(&mut self);
    /// Replaces the database by the copy, or by nothing where there is none.
    fn restore(&mut self);
    /// Deletes the database.
    fn lose_database(&mut self);
    /// Makes the next commit fail.
    fn fail_commit(&mut self);
    /// Sets how long commits take.
    fn set_commit_time(&mut self, commit: Duration);

    /// Versions stored since this was asked last.
    fn take_stored(&mut self) -> Vec<Version>;
    /// Whether a version, or what supersedes it, is durable here.
    fn knows(&self, version: &Version) -> bool;
    /// Whether a chunk would be here after a power cut.
    fn holds(&self, chunk: &ChunkId) -> bool;
    /// All published survivors, by dot.
    fn survivors(&self) -> Vec<Version>;

    /// All survivors, by dot, those too that are not published.
    fn known(&self) -> Vec<Version> {
        self.survivors()
    }
    /// The most that it sent in the background within a second, in percent of its cap.
    fn busiest(&self) -> u64 {
        0
    }
    /// How many copies it delivered that uploads still owed.
    fn delivered(&self) -> u64 {
        0
    }
    /// How many copies uploads still owe.
    fn owed(&self) -> usize {
        0
    }
    /// How many members it was asked to have forgotten and agreed to.
    fn forgotten(&self) -> u64 {
        0
    }

    /// The references recorded with a chunk.
    fn references(&self, chunk: &ChunkId) -> BTreeSet<Dot> {
        let _ = chunk;
        BTreeSet::new()
    }
    /// The chunks that the database knows of.
    fn shelved(&self) -> Vec<ChunkId> {
        Vec::new()
    }
    /// What was decided to be deleted since this was asked last.
    fn take_deleted(&mut self) -> Vec<Deleted> {
        Vec::new()
    }
    /// What the node itself found to be broken, by invariant.
    fn take_broken(&mut self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// How many copies it ever set aside because they were rotten or gone.
    fn set_aside(&self) -> u64 {
        0
    }
    /// How many copies it ever sent in the background.
    fn pushed(&self) -> u64 {
        0
    }
}

/// A node's process: everything that a kill loses. Its effects leave it through [`Process::poll`]
/// only, after the step that made them is durable.
pub trait Process: Sized + 'static {
    /// What a kill leaves.
    type Durable: Durable;
    /// How the process is set up; the same for all nodes.
    type Config: Clone;
    /// A question to a peer.
    type Request: Clone + Debug;
    /// An answer to a peer.
    type Response: Clone + Debug;

    /// What a node has that never ran.
    fn blank(config: &Self::Config, seat: &Seat) -> Self::Durable;
    /// Starts on what is durable.
    ///
    /// # Errors
    /// The disk does not answer.
    fn start(
        config: &Self::Config,
        seat: Seat,
        durable: &mut Self::Durable,
        clocks: Clocks,
    ) -> Result<Self, Broken>;
    /// One step; what it wrote is durable when it returns.
    ///
    /// # Errors
    /// It could not be made durable: nothing of it may leave, and the process is gone.
    fn handle(
        &mut self,
        durable: &mut Self::Durable,
        clocks: Clocks,
        input: Input<Self>,
    ) -> Result<(), Broken>;
    /// What the step wants done.
    fn poll(&mut self) -> Option<Output<Self>>;
    /// When it wants [`Input::Timeout`].
    fn poll_timeout(&self) -> Option<Instant>;
    /// How long the last step's commit took.
    fn commit_time(&self, durable: &Self::Durable) -> Duration;
    /// Whether it serves clients; else why not.
    fn ready(&self) -> Result<(), String>;
    /// A fingerprint of what it believes of the members: states and incarnations.
    fn membership(&self) -> u64 {
        0
    }
    /// Its state in a few words, for whoever looks into a failure.
    fn describe(&self) -> String {
        String::new()
    }
    /// The home replicas of a name: each list must have a majority.
    fn homes(&self, name: &Name) -> Vec<Vec<Place>> {
        let _ = name;
        Vec::new()
    }
    /// The number of its roster.
    fn roster(&self) -> Option<u64> {
        None
    }
    /// The members by its roster.
    fn members(&self) -> BTreeSet<Place> {
        BTreeSet::new()
    }
    /// The members by its roster, with the databases that it binds.
    fn databases(&self) -> BTreeMap<Place, DatabaseId> {
        BTreeMap::new()
    }
    /// Whether it is on its way out for good.
    fn is_leaving(&self) -> bool {
        false
    }
    /// N, as its roster has it.
    fn replicas(&self) -> usize;
    /// Who owns a chunk, as it sees it.
    fn owners(&self, chunk: &ChunkId) -> Vec<Place> {
        let _ = chunk;
        Vec::new()
    }
    /// What is planted in its moves.
    fn relocation(&self) -> relocation::Faults {
        relocation::Faults::default()
    }
    /// Dots of uploads under way here.
    fn uploading(&self) -> Vec<Dot> {
        Vec::new()
    }
    /// Whether something may still refer to a chunk, as far as the node knows.
    fn keeps(&self, durable: &Self::Durable, chunk: &ChunkId) -> bool {
        let _ = (durable, chunk);
        true
    }
}
