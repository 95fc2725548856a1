//! What clients asked and saw, as lines of JSON, in simulated and in real runs alike.
//!
//! A history is a list of [`Line`]s: each operation has one `invoke` line and at most one line
//! that ends it (`ok`, `fail` or `unknown`). [`History::from_json_lines`] pairs them into [`Operation`]s,
//! which [`checker`] judges in polynomial time and [`brute`] by trying every explanation.
//!
//! Every written value is unique, so a CID names its write. Nothing here knows of the simulator.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kepler_protocol::api::Durability;
use serde::{Deserialize, Serialize};

pub mod brute;
pub mod checker;
#[cfg(feature = "cluster")]
pub mod recorder;

#[cfg(test)]
mod tests;

/// Names a version: `<node id>.<generation>.<sequence>`.
pub type Token = String;

/// What a line says of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The client sent it.
    Invoke,
    /// It was done.
    Ok,
    /// It was certainly not done and never will be.
    Fail,
    /// It may have been done, or may still be.
    Unknown,
}

/// What a client asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Writes a value.
    Put,
    /// Deletes a name, or one version of it.
    Delete,
    /// Reads a name.
    #[default]
    Get,
}

/// One line of a history. Fields that say nothing are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What the line says.
    #[serde(rename = "type")]
    pub phase: Phase,
    /// Pairs the lines of one operation.
    pub id: u64,
    /// On `invoke`: the node asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// On `invoke`: counts the runs of that node's process; promises to a session end with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub session: u64,
    /// On `invoke`: what is asked.
    #[serde(default)]
    pub action: Action,
    /// On `invoke`: the name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// On `invoke` of a write: what its 200 promises.
    #[serde(default)]
    pub durability: Durability,
    /// On `invoke` of a write: `If-Match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<Token>,
    /// On `invoke` of a write: `If-None-Match: *`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_absent: bool,
    /// On `invoke` of a delete: only this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Token>,
    /// The version written or read. A read that ends `ok` without one found nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Token>,
    /// What the written version supersedes, where the client can know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<Token>>,
    /// The value written or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// On `ok` of a read: every version that survives and is no tombstone, where the client asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survivors: Option<Vec<Token>>,
    /// On `ok` of a read: no majority answered (`Kepler-Consistency: local`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// On `invoke`: when, in microseconds of any clock that all lines of the history share.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start: u64,
    /// On the other lines: when.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub end: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Line {
    /// A line with nothing in it but what it says of which operation.
    pub fn new(phase: Phase, id: u64) -> Self {
        Self {
            phase,
            id,
            node: String::new(),
            session: 0,
            action: Action::Get,
            name: String::new(),
            durability: Durability::Quorum,
            if_match: None,
            if_absent: false,
            only: None,
            version: None,
            context: None,
            cid: None,
            survivors: None,
            local: false,
            start: 0,
            end: 0,
        }
    }
}

/// One operation, from `invoke` to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its id in the history.
    pub id: u64,
    /// The node asked and the run of its process.
    pub session: (String, u64),
    /// What was asked.
    pub action: Action,
    /// Of which name.
    pub name: String,
    /// What a 200 promises.
    pub durability: Durability,
    /// `If-Match`.
    pub if_match: Option<Token>,
    /// `If-None-Match: *`.
    pub if_absent: bool,
    /// Deletes this version alone.
    pub only: Option<Token>,
    /// How it ended; [`Phase::Unknown`] where no line says.
    pub phase: Phase,
    /// The version written or read.
    pub version: Option<Token>,
    /// What the written version supersedes, if known.
    pub context: Option<Vec<Token>>,
    /// The value written or read.
    pub cid: Option<String>,
    /// Live survivors a read returned, if it asked for them.
    pub survivors: Option<Vec<Token>>,
    /// The read was answered without a majority.
    pub local: bool,
    /// When it was sent.
    pub start: u64,
    /// When it was answered; the greatest number where it never was.
    pub end: u64,
}

impl Operation {
    /// Whether it writes a version.
    pub fn is_write(&self) -> bool {
        self.action != Action::Get
    }

    /// Whether its version is known to a majority from [`Operation::end`] on.
    pub fn is_acknowledged(&self) -> bool {
        self.is_write() && self.phase == Phase::Ok && self.durability != Durability::Fast
    }

    /// Whether it was to supersede all it saw, rather than one version.
    pub fn is_sweeping(&self) -> bool {
        self.if_match.is_none() && self.only.is_none()
    }
}

/// A list of lines that is no history.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

/// Lines in the order in which they happened.
#[derive(Clone, Debug, Default)]
pub struct History {
    lines: Vec<Line>,
}

impl History {
    /// Appends a line.
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// The lines.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// One JSON object a line.
    pub fn to_json_lines(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let json = serde_json::to_string(line).expect("plain fields always serialize");
            writeln!(text, "{json}").expect("writing to a string does not fail");
        }
        text
    }

    /// Reads what [`History::to_json_lines`] wrote; empty lines are skipped.
    ///
    /// # Errors
    /// A line that is no [`Line`].
    pub fn from_json_lines(text: &str) -> Result<Self, Malformed> {
        let mut lines = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            lines.push(serde_json::from_str(line).map_err(|e| Malformed(format!("line {}: {e}", at + 1)))?);
        }
        Ok(Self { lines })
    }

    /// Pairs the lines into operations, by id.
    ///
    /// # Errors
    /// An end without its `invoke`, or an id used twice.
    pub fn operations(&self) -> Result<Vec<Operation>, Malformed> {
        let mut operations: BTreeMap<u64, (Operation, bool)> = BTreeMap::new();
        for line in &self.lines {
            if line.phase == Phase::Invoke {
                if operations.insert(line.id, (invoked(line), false)).is_some() {
                    return Err(Malformed(format!("operation {} is invoked twice", line.id)));
                }
                continue;
            }
            let Some((operation, ended)) = operations.get_mut(&line.id) else {
                return Err(Malformed(format!("operation {} ends and was not invoked", line.id)));
            };
            if std::mem::replace(ended, true) {
                return Err(Malformed(format!("operation {} ends twice", line.id)));
            }
            end(operation, line);
        }
        Ok(operations.into_values().map(|(operation, _)| operation).collect())
    }
}

fn invoked(line: &Line) -> Operation {
    Operation {
        id: line.id,
        session: (line.node.clone(), line.session),
        action: line.action,
        name: line.name.clone(),
        durability: line.durability,
        if_match: line.if_match.clone(),
        if_absent: line.if_absent,
        only: line.only.clone(),
        phase: Phase::Unknown,
        version: line.version.clone(),
        context: line.context.clone(),
        cid: line.cid.clone(),
        survivors: None,
        local: false,
        start: line.start,
        end: u64::MAX,
    }
}

fn end(operation: &mut Operation, line: &Line) {
    operation.phase = line.phase;
    operation.version = line.version.clone().or(operation.version.take());
    operation.context = line.context.clone().or(operation.context.take());
    operation.cid = line.cid.clone().or(operation.cid.take());
    operation.survivors.clone_from(&line.survivors);
    operation.local = line.local;
    // What may still happen has no end: its version may appear at any later time.
    operation.end = if line.phase == Phase::Unknown { u64::MAX } else { line.end };
}
