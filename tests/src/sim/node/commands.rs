//! Commands to the catalog: what each was given for, and what follows from its outcome.

use std::collections::BTreeMap;

use kepler_protocol::api::Durability;
use kepler_protocol::catalog::command::{Command, CommandId, Consistency, Outcome};
use kepler_protocol::catalog::storage::StorageError;
use kepler_protocol::chunk::ChunkId;
use kepler_protocol::replica;
use kepler_protocol::time::Instant;
use kepler_protocol::version::Dot;

use super::Node;
use super::room::Room;
use crate::sim::process::{Answer, Ask, Clocks, Output};

/// A client's write that has its dot.
#[derive(Clone, Copy)]
pub(super) struct Upload {
    pub(super) operation: u64,
    pub(super) dot: Dot,
    pub(super) value: ChunkId,
    pub(super) durability: Durability,
}

/// What a command was given for.
pub(super) enum Issued {
    Begin { operation: u64, value: ChunkId, durability: Durability, hit: bool },
    Last { operation: u64 },
    Abort { operation: u64 },
    Nothing,
}

/// The commands whose outcome is still to come.
#[derive(Default)]
pub(super) struct Commands {
    issued: BTreeMap<CommandId, Issued>,
    last: u64,
}

impl Node {
    pub(super) fn command(
        &mut self,
        room: &mut Room,
        now: Instant,
        command: Command,
        issued: Issued,
    ) -> Result<(), StorageError> {
        self.commands.last += 1;
        let id = CommandId(self.commands.last);
        self.commands.issued.insert(id, issued);
        self.replica.handle(&mut room.db, now, replica::Input::Command(id, command))
    }

    pub(super) fn client(
        &mut self,
        room: &mut Room,
        clocks: Clocks,
        operation: u64,
        ask: Ask,
    ) -> Result<(), StorageError> {
        let (command, issued) = match ask {
            Ask::Get { name } => (Command::Read { name }, Issued::Last { operation }),
            Ask::Delete { name, only, precondition } => {
                let durability = Durability::Quorum;
                let created_at = clocks.wall;
                let command = Command::Delete { name, version: only, precondition, durability, created_at };
                (command, Issued::Last { operation })
            }
            Ask::Put { name, value, precondition, durability, hit } => (
                Command::Begin { name, precondition, durability },
                Issued::Begin { operation, value, durability, hit },
            ),
        };
        self.command(room, clocks.now, command, issued)
    }

    /// A command is answered.
    pub(super) fn completed(&mut self, room: &mut Room, clocks: Clocks, id: CommandId, outcome: Outcome) {
        let Some(issued) = self.commands.issued.remove(&id) else { return };
        let (operation, answer) = match (issued, outcome) {
            (Issued::Begin { operation, value, durability, hit }, Outcome::Begun { dot }) => {
                let upload = Upload { operation, dot, value, durability };
                if hit {
                    return self.copy(room, clocks.now, upload);
                }
                return self.upload(room, clocks.now, upload);
            }
            (Issued::Abort { operation }, _) => (operation, Answer::NoOwners),
            (Issued::Nothing, _) => return,
            (Issued::Last { operation } | Issued::Begin { operation, .. }, outcome) => match outcome {
                Outcome::Published { version, .. } => (operation, Answer::Written(version)),
                Outcome::Read { survivors, consistency } => {
                    let local = consistency == Consistency::Local;
                    self.read(room, clocks.now, operation, survivors, local);
                    return;
                }
                Outcome::Refused(refusal) => (operation, Answer::Refused(refusal)),
                Outcome::Begun { .. } | Outcome::Done => return,
            },
        };
        self.outputs.push_back(Output::Answer { operation, answer });
    }
}
