//! Health: one word for a cluster, and why, in sentences that a person can act on.
//!
//! [`judge`] is a function of what the members said and of nothing else, so every face of the system
//! says the same. The worst finding names the word:
//!
//! | word | when |
//! | --- | --- |
//! | `unavailable` | chunks without a reachable copy; names whose home replicas have no majority that answers; no majority of the roster; the asked node is not admitted |
//! | `at-risk` | chunks with one reachable copy where there should be more; a cluster of one that should keep several |
//! | `degraded` | a member away, silent or not ready; an owner without its copy; fewer members than copies; copies owed for long; repair or scrub paused |
//! | `ok` | none of it. Chunks that move after a join or a farewell are no fault |
//!
//! A member counts as up if it answered the question, whatever the view says of it: that is what a
//! client's request would meet.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{Health, HealthStatus, NodeHealth};
use crate::chunk::ChunkId;
use crate::node_id::NodeId;
use crate::roster::Roster;
use crate::view::State;

/// Copies that are owed for less than this are on their way, and nothing to speak of.
const OWED_FOR_LONG_SECS: u64 = 60;

/// The most members that a sentence names.
const MOST_NAMED: usize = 8;

/// What is known of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The agreed list of members; `None` before admission.
    pub roster: Option<&'a Roster>,
    /// Members by the asked node's view.
    pub states: &'a BTreeMap<NodeId, State>,
    /// Whether the asked node serves, else what it waits for.
    pub standing: Result<(), &'a str>,
}

/// The members to be asked: all of the roster, and of the view those that are not gone.
pub fn members(roster: Option<&Roster>, states: &BTreeMap<NodeId, State>) -> BTreeSet<NodeId> {
    let roster = roster.into_iter().flat_map(|roster| roster.members.keys());
    let here = states.iter().filter(|(_, state)| !matches!(state, State::Dead | State::Left));
    roster.chain(here.map(|(node, _)| node)).copied().collect()
}

/// Sums up what the members said, and says in a word how the cluster is.
pub fn judge(facts: Facts<'_>, nodes: Vec<NodeHealth>) -> Health {
    let mut findings = Findings::default();
    let sum = |count: fn(&NodeHealth) -> u64| nodes.iter().map(count).fold(0_u64, u64::saturating_add);
    let (missing, fetching) = lost(&nodes);
    let health = Health {
        under_replicated: sum(|n| n.under_replicated.saturating_sub(n.fetching.len() as u64)) + fetching,
        single_copy: sum(|n| n.single_copy),
        missing,
        surplus: sum(|n| n.surplus),
        moving: sum(|n| n.moving),
        moving_bytes: sum(|n| n.moving_bytes),
        queue_depth: sum(|n| n.queue_depth),
        queue_oldest_secs: nodes.iter().filter_map(|n| n.queue_oldest_secs).max(),
        ..Health::default()
    };
    data(&facts, &health, &nodes, &mut findings);
    voting(&facts, &nodes, &mut findings);
    presence(&facts, &nodes, &mut findings);
    work(&nodes, &health, &mut findings);
    let (status, reasons) = findings.conclude();
    Health { status, reasons, nodes, ..health }
}

/// How many chunks nobody was found to have, and how many others are being fetched anew. Each owner that knows a
/// chunk looks for it, and an owner that took the place of a dead one may not know it: so no rule says which
/// owner counts it, and what they named is united instead. Of what is beyond the lists only the longest
/// counts: it is not known to differ from the others.
fn lost(nodes: &[NodeHealth]) -> (u64, u64) {
    let missing: BTreeSet<ChunkId> = nodes.iter().flat_map(|n| &n.lost).copied().collect();
    let fetching: BTreeSet<ChunkId> = nodes.iter().flat_map(|n| &n.fetching).copied().collect();
    let unlisted = nodes.iter().map(|n| n.missing.saturating_sub(n.lost.len() as u64)).max().unwrap_or(0);
    ((missing.len() as u64).saturating_add(unlisted), fetching.difference(&missing).count() as u64)
}

/// What was found, by how bad it is.
#[derive(Default)]
struct Findings(Vec<(HealthStatus, String)>);

impl Findings {
    fn add(&mut self, status: HealthStatus, reason: impl Into<String>) {
        self.0.push((status, reason.into()));
    }

    fn conclude(mut self) -> (HealthStatus, Vec<String>) {
        // Stable: among equals the order of finding is the order of weight.
        self.0.sort_by_key(|(status, _)| std::cmp::Reverse(*status));
        let worst = self.0.first().map_or(HealthStatus::Ok, |(status, _)| *status);
        (worst, self.0.into_iter().map(|(_, reason)| reason).collect())
    }
}

fn data(facts: &Facts<'_>, health: &Health, nodes: &[NodeHealth], findings: &mut Findings) {
    if health.missing > 0 {
        let (chunks, have) = (count(health.missing, "chunk"), verb(health.missing, "has", "have"));
        let away = |n: &NodeHealth| !n.answered || facts.states.get(&n.node) == Some(&State::Dead);
        let what = if nodes.iter().any(away) {
            "no copy that can be reached: start the nodes that are down; `kepler verify --all` names the files"
        } else {
            "no intact copy left on any node: `kepler verify --all` names the files; write those again, or delete them"
        };
        findings.add(HealthStatus::Unavailable, format!("{chunks} {have} {what}"));
    }
    if health.single_copy > 0 {
        let (chunks, have) = (count(health.single_copy, "chunk"), verb(health.single_copy, "has", "have"));
        findings.add(HealthStatus::AtRisk, format!("{chunks} {have} one copy left that can be reached"));
    }
    let others = health.under_replicated.saturating_sub(health.single_copy);
    if others > 0 {
        let (chunks, are) = (count(others, "chunk"), verb(others, "is", "are"));
        findings
            .add(HealthStatus::Degraded, format!("{chunks} {are} not on every node that should have a copy"));
    }
}

fn voting(facts: &Facts<'_>, nodes: &[NodeHealth], findings: &mut Findings) {
    let Some(roster) = facts.roster else {
        let why = facts.standing.err().unwrap_or("it has no roster");
        findings
            .add(HealthStatus::Unavailable, format!("the node asked is not admitted to a cluster: {why}"));
        return;
    };
    if let Err(why) = facts.standing {
        findings.add(HealthStatus::Degraded, format!("the node asked is not ready: {why}"));
    }
    let silent = silent_members(nodes, roster);
    let members = roster.members.len();
    if members - silent.len() <= members / 2 {
        findings.add(
            HealthStatus::Unavailable,
            format!(
                "{} of the {} of the roster {} not answer ({}): without a majority nobody joins, and nothing is \
                 forgotten by itself. Start one; if their disks are lost for good: kepler cluster forget --lost {}",
                silent.len(),
                count(members as u64, "member"),
                verb(silent.len() as u64, "does", "do"),
                listed(&silent),
                silent.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" "),
            ),
        );
    }
    let lost = names_without_majority(roster, &silent);
    if lost > 0.0 {
        findings.add(
            HealthStatus::Unavailable,
            format!(
                "for {} no majority of the home replicas answers ({} {} silent): they cannot be written, \
                 and are read as this node knows them, until one is back or has been forgotten",
                share_of_names(lost),
                listed(&silent),
                verb(silent.len() as u64, "is", "are"),
            ),
        );
    }
    let factor = usize::from(roster.constants.replication_factor);
    if members == 1 && factor > 1 {
        findings.add(
            HealthStatus::AtRisk,
            format!("the cluster has one member, so everything has one copy instead of {factor}: add nodes"),
        );
    } else if members < factor {
        findings.add(
            HealthStatus::Degraded,
            format!(
                "the cluster has {} for {factor} copies of everything: add nodes",
                count(members as u64, "member")
            ),
        );
    }
}

fn presence(facts: &Facts<'_>, nodes: &[NodeHealth], findings: &mut Findings) {
    let on_roster = |node: &NodeId| facts.roster.is_some_and(|roster| roster.members.contains_key(node));
    for node in nodes {
        let id = node.node;
        let state = facts.states.get(&id).copied();
        let bad = match (state, node.answered) {
            (Some(State::Dead), false) => format!("{id} is dead"),
            (Some(State::Left), _) => continue,
            (None, false) => format!("{id} is on the roster and nobody knows where it is"),
            (Some(State::Suspect), false) => format!("{id} is suspected to be dead"),
            (Some(State::Suspect), true) => format!(
                "{id} answers, but is suspected to be dead: it is slow or frozen, or its UDP does not arrive"
            ),
            (Some(State::Dead), true) => {
                format!("{id} answers, but is dead in the view: its UDP does not arrive")
            }
            (Some(_), false) => format!("{id} did not answer the question: its counts are missing"),
            (Some(State::Joining), true) if on_roster(&id) => format!("{id} is not ready yet"),
            (Some(State::Joining), true) => {
                findings.add(HealthStatus::Ok, format!("{id} is joining"));
                continue;
            }
            (Some(State::Leaving), true) => {
                findings.add(
                    HealthStatus::Ok,
                    format!("{id} is leaving: {} to bring elsewhere", count(node.surplus, "chunk")),
                );
                continue;
            }
            (Some(State::Alive) | None, true) => continue,
        };
        findings.add(HealthStatus::Degraded, bad);
    }
}

fn work(nodes: &[NodeHealth], health: &Health, findings: &mut Findings) {
    let named = |which: fn(&NodeHealth) -> bool| -> BTreeSet<NodeId> {
        nodes.iter().filter(|n| which(n)).map(|n| n.node).collect()
    };
    if let Some(oldest) = health.queue_oldest_secs.filter(|oldest| *oldest >= OWED_FOR_LONG_SECS) {
        findings.add(
            HealthStatus::Degraded,
            format!(
                "{} owed to nodes that should have them, the oldest for {oldest} s",
                count(health.queue_depth, "copy is|copies are")
            ),
        );
    }
    let breaker = named(|n| n.breaker);
    if !breaker.is_empty() {
        findings.add(
            HealthStatus::Degraded,
            format!("more than a third of the members is dead in the eyes of {}: no chunk is deleted there until they are back or forgotten", listed(&breaker)),
        );
    }
    let paused = named(|n| n.paused);
    if !paused.is_empty() {
        findings.add(
            HealthStatus::Degraded,
            format!("repair is paused on {}: kepler repair --resume --all", listed(&paused)),
        );
    }
    let unscrubbed = named(|n| n.scrub.paused);
    if !unscrubbed.is_empty() {
        findings.add(
            HealthStatus::Degraded,
            format!("scrubbing is paused on {}: kepler scrub --resume --all", listed(&unscrubbed)),
        );
    }
    if health.moving > 0 {
        let (chunks, are) = (count(health.moving, "chunk"), verb(health.moving, "is", "are"));
        findings.add(
            HealthStatus::Ok,
            format!("{chunks} ({} bytes) {are} on the way to new owners", health.moving_bytes),
        );
    }
    for node in nodes.iter().filter(|n| n.scrub.bad > 0) {
        findings.add(
            HealthStatus::Ok,
            format!(
                "the last scrub of {} found {} bad: copies are fetched from other nodes; watch that disk",
                node.node,
                count(node.scrub.bad, "chunk")
            ),
        );
    }
}

fn silent_members(nodes: &[NodeHealth], roster: &Roster) -> BTreeSet<NodeId> {
    let answered: BTreeSet<&NodeId> = nodes.iter().filter(|n| n.answered).map(|n| &n.node).collect();
    roster.members.keys().filter(|node| !answered.contains(node)).copied().collect()
}

/// The share of all names, 0 to 1, whose home replicas have no majority beside the `silent`.
pub fn names_without_majority(roster: &Roster, silent: &BTreeSet<NodeId>) -> f64 {
    let spare = roster.replicas() - roster.majority();
    if silent.len() <= spare {
        return 0.0;
    }
    let ring = roster.ring();
    let mut owners = Vec::new();
    let Some((mut previous, _)) = ring.tokens().last() else { return 0.0 };
    let mut lost = 0_u128;
    for (token, _) in ring.tokens() {
        ring.owners_into(token, roster.replicas(), &mut owners);
        if owners.iter().filter(|owner| silent.contains(owner)).count() > spare {
            lost += u128::from(token.wrapping_sub(previous));
        }
        previous = token;
    }
    lost as f64 / (1_u128 << 64) as f64
}

fn share_of_names(share: f64) -> String {
    if share >= 0.9995 {
        "all names".to_owned()
    } else {
        format!("{:.1} % of all names", (share * 100.0).max(0.1))
    }
}

/// `1 chunk`, `2 chunks`; irregular nouns as `singular|plural`.
fn count(n: u64, noun: &str) -> String {
    match noun.split_once('|') {
        Some((one, many)) => format!("{n} {}", verb(n, one, many)),
        None => format!("{n} {noun}{}", verb(n, "", "s")),
    }
}

const fn verb<'a>(n: u64, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

fn listed(nodes: &BTreeSet<NodeId>) -> String {
    let mut text = nodes.iter().take(MOST_NAMED).map(NodeId::as_str).collect::<Vec<_>>().join(", ");
    if nodes.len() > MOST_NAMED {
        text.push_str(&format!(" and {} more", nodes.len() - MOST_NAMED));
    }
    text
}

#[cfg(test)]
mod tests;
