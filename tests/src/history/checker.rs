//! Judges a history in polynomial time.
//!
//! What an operation on a name *knew* is a set X of versions of that name. A history is right if
//! every operation that ended well can be given an X such that
//!
//! - X holds every write of a majority acknowledged before the operation began (I1, read after
//!   write), unless it is a read that says it was answered locally, or a `fast` write;
//! - X holds what an earlier operation through the same run of the same node knew, and that
//!   operation's own version (I14);
//! - X holds nothing that had not begun when the operation ended, and nothing that failed;
//! - a read's live survivors are exactly the versions of X that are neither tombstones nor
//!   superseded by another of X (I6); where only the head is known, nothing in X supersedes it;
//! - every live version of X is in the context of an unconditional write, or superseded by another
//!   of X or by a write under way at the same time (I9); naming more than that does no harm (a
//!   `fast` write names what it will supersede, and so does what follows it before it is published);
//!   A read that was answered locally may show beside them what only a version that the node has
//!   never met superseded;
//! - the base of a conditional write survives in X; for `If-None-Match: *` nothing live does.
//!
//! Superseding is transitive. Beside that, a version token means one name, value and context for
//! ever (I22), and no token has two successful conditional writers (I21); of two successful
//! creations of a name one knew the other.
//!
//! Why this is polynomial: the sets that explain one operation, the demands from below left aside,
//! are closed under union, so there is a greatest one, found by striking out. Taking the greatest
//! for each operation, later ones of a session first and each within all that follow it, makes
//! every set as great as any explanation could; only then are the demands from below checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Action, History, Malformed, Operation, Phase, Token};
use kepler_protocol::api::Durability;

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The invariant of `RELIABILITY` that is broken.
    pub invariant: &'static str,
    /// The name concerned.
    pub name: String,
    /// The operations concerned.
    pub operations: Vec<u64>,
    /// What happened, for a person.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {:?}, operations {:?}: {}", self.invariant, self.name, self.operations, self.detail)
    }
}

/// Judges a history. An empty list means that nothing is wrong with it.
///
/// # Errors
/// Lines that do not pair up.
pub fn check(history: &History) -> Result<Vec<Violation>, Malformed> {
    Ok(check_operations(&history.operations()?))
}

/// Judges operations of any names.
pub fn check_operations(operations: &[Operation]) -> Vec<Violation> {
    let mut names: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        names.entry(&operation.name).or_default().push(operation);
    }
    let mut violations = one_meaning(operations);
    for (name, operations) in names {
        let register = Register::new(&operations);
        violations.extend(register.check(name));
    }
    violations
}

/// I22: a token means one name, value and context for ever.
fn one_meaning(operations: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut meanings: BTreeMap<&Token, &Operation> = BTreeMap::new();
    let writes_first =
        operations.iter().filter(|o| o.is_write()).chain(operations.iter().filter(|o| !o.is_write()));
    for operation in writes_first {
        let Some(token) = &operation.version else { continue };
        let Some(known) = meanings.insert(token, operation) else { continue };
        meanings.insert(token, known);
        let same_name = known.name == operation.name;
        let same_value = known.cid.is_none() || operation.cid.is_none() || known.cid == operation.cid;
        let same_kind = !operation.is_write() || known.action == operation.action;
        if !(same_name && same_value && same_kind) || (known.is_write() && operation.is_write()) {
            violations.push(Violation {
                invariant: "I22",
                name: operation.name.clone(),
                operations: vec![known.id, operation.id],
                detail: format!("{token} names two versions"),
            });
        }
    }
    violations
}

/// A version of the name: a write that may have happened, and what it supersedes.
#[derive(Debug)]
pub(super) struct Written {
    pub id: u64,
    pub token: Token,
    pub tombstone: bool,
    pub failed: bool,
    pub acknowledged: bool,
    pub start: u64,
    pub end: u64,
    /// By index: what its context names, where that is known.
    pub direct: BTreeSet<usize>,
    /// By index; transitive. With an unknown context: what it is bound to supersede.
    pub surely: BTreeSet<usize>,
    /// By index; transitive. With an unknown context: what it may supersede.
    pub perhaps: BTreeSet<usize>,
}

/// All operations on one name.
pub(super) struct Register<'a> {
    pub operations: Vec<&'a Operation>,
    pub versions: Vec<Written>,
    pub by_token: BTreeMap<Token, usize>,
    /// The version that an operation wrote.
    pub own: BTreeMap<u64, usize>,
}

/// What an operation's knowledge must look like.
pub(super) enum Shape {
    /// Exactly these live versions survive.
    Exactly(BTreeSet<usize>),
    /// The same, but for what is superseded through versions that are not known.
    Locally(BTreeSet<usize>),
    /// Everything live that survives is among these.
    Within(BTreeSet<usize>),
    /// This version survives.
    Holds(usize),
    /// Nothing can be said.
    Free,
    /// No set can be right, and why.
    Impossible(String),
}

impl<'a> Register<'a> {
    pub fn new(operations: &[&'a Operation]) -> Self {
        // A version whose writer got no answer is known by its value, once a read has shown it.
        let mut token_of_value: BTreeMap<&str, &Token> = BTreeMap::new();
        for read in operations.iter().filter(|o| !o.is_write()) {
            if let (Some(cid), Some(token)) = (&read.cid, &read.version) {
                token_of_value.insert(cid, token);
            }
        }
        let mut versions = Vec::new();
        let mut by_token = BTreeMap::new();
        let mut own = BTreeMap::new();
        let mut contexts = Vec::new();
        for operation in operations.iter().filter(|o| o.is_write()) {
            let shown = operation.cid.as_deref().and_then(|cid| token_of_value.get(cid).copied());
            let token = operation.version.as_ref().or(shown);
            if token.is_none() && operation.phase == Phase::Fail {
                continue;
            }
            let token = token.cloned().unwrap_or_else(|| format!("operation {}", operation.id));
            own.insert(operation.id, versions.len());
            by_token.entry(token.clone()).or_insert(versions.len());
            contexts.push(known_context(operation));
            versions.push(Written {
                id: operation.id,
                token,
                tombstone: operation.action == Action::Delete,
                failed: operation.phase == Phase::Fail,
                acknowledged: operation.is_acknowledged(),
                start: operation.start,
                end: operation.end,
                direct: BTreeSet::new(),
                surely: BTreeSet::new(),
                perhaps: BTreeSet::new(),
            });
        }
        let mut register = Self { operations: operations.to_vec(), versions, by_token, own };
        register.relate(&contexts);
        register
    }

    /// Fills in who supersedes whom, transitively.
    fn relate(&mut self, contexts: &[Option<Vec<Token>>]) {
        let count = self.versions.len();
        for (index, context) in contexts.iter().enumerate() {
            let operation_of = &self.versions[index];
            let (surely, perhaps) = match context {
                Some(context) => {
                    let known: BTreeSet<usize> =
                        context.iter().filter_map(|t| self.by_token.get(t).copied()).collect();
                    (known.clone(), known)
                }
                None => {
                    let before = |w: &Written| {
                        w.acknowledged && w.end < operation_of.start && operation_of.acknowledged
                    };
                    let surely = (0..count).filter(|i| *i != index && before(&self.versions[*i])).collect();
                    let perhaps = (0..count)
                        .filter(|i| *i != index && self.versions[*i].start < operation_of.end)
                        .collect();
                    (surely, perhaps)
                }
            };
            self.versions[index].direct = surely.clone();
            self.versions[index].surely = surely;
            self.versions[index].perhaps = perhaps;
        }
        close(&mut self.versions, |v| &mut v.surely);
        close(&mut self.versions, |v| &mut v.perhaps);
    }

    fn check(&self, name: &str) -> Vec<Violation> {
        let mut violations = self.thin_air(name);
        let sets = self.greatest(&mut violations, name);
        for (at, operation) in self.operations.iter().enumerate() {
            let Some(set) = &sets[at] else { continue };
            let demanded = self.demanded(operation);
            for lost in demanded.difference(set) {
                let version = &self.versions[*lost];
                violations.push(Violation {
                    invariant: self.invariant_of(operation, version),
                    name: name.into(),
                    operations: vec![version.id, operation.id],
                    detail: format!("{} cannot have been known to {}", version.token, describe(operation)),
                });
            }
        }
        violations.extend(self.fenced(name, &sets));
        violations
    }

    fn invariant_of(&self, operation: &Operation, lost: &Written) -> &'static str {
        if lost.tombstone {
            "I6"
        } else if operation.is_write() {
            "I9"
        } else if lost.acknowledged && !operation.local {
            "I1"
        } else {
            "I14"
        }
    }

    /// Reads return what was written, and never what failed.
    fn thin_air(&self, name: &str) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut complain = |operation: &Operation, detail: String| {
            violations.push(Violation {
                invariant: "I9",
                name: name.into(),
                operations: vec![operation.id],
                detail,
            });
        };
        for operation in self.operations.iter().filter(|o| o.phase == Phase::Ok) {
            let shown = operation.survivors.iter().flatten().chain(operation.version.iter());
            for token in shown.filter(|_| !operation.is_write()) {
                match self.by_token.get(token) {
                    None => complain(operation, format!("{token} was read and never written")),
                    Some(index) if self.versions[*index].failed => {
                        complain(operation, format!("{token} was read and its write had failed"));
                    }
                    Some(_) => {}
                }
            }
            for token in operation.context.iter().flatten() {
                if self.by_token.get(token).is_some_and(|index| self.versions[*index].failed) {
                    complain(operation, format!("{token} was superseded and its write had failed"));
                }
            }
        }
        violations
    }

    /// The greatest set that explains each operation that ended well, by position.
    fn greatest(&self, violations: &mut Vec<Violation>, name: &str) -> Vec<Option<BTreeSet<usize>>> {
        let mut order: Vec<usize> = (0..self.operations.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse((self.operations[*at].start, self.operations[*at].id)));
        let mut sets: Vec<Option<BTreeSet<usize>>> = vec![None; self.operations.len()];
        for at in order {
            let operation = self.operations[at];
            if operation.phase != Phase::Ok {
                continue;
            }
            let mut bound = self.possible(operation);
            for (later, set) in self.operations.iter().zip(&sets) {
                if let Some(set) = set
                    && follows(operation, later)
                {
                    bound.retain(|v| set.contains(v));
                }
            }
            let (shape, mut detail) = (self.shape(operation), String::new());
            let wanted = match &shape {
                Shape::Exactly(live) | Shape::Locally(live) => live.clone(),
                Shape::Holds(base) => BTreeSet::from([*base]),
                Shape::Free | Shape::Within(_) => BTreeSet::new(),
                Shape::Impossible(why) => {
                    detail.clone_from(why);
                    BTreeSet::new()
                }
            };
            let set = self.strike_out(&shape, bound);
            for missing in wanted.difference(&set) {
                detail = format!("{} cannot have survived", self.versions[*missing].token);
            }
            if !detail.is_empty() {
                violations.push(Violation {
                    invariant: if operation.is_write() { "I9" } else { "I14" },
                    name: name.into(),
                    operations: vec![operation.id],
                    detail: format!("{detail} in what {} knew", describe(operation)),
                });
            }
            sets[at] = Some(set);
        }
        sets
    }

    /// What an operation can have known at most.
    pub fn possible(&self, operation: &Operation) -> BTreeSet<usize> {
        let own = self.own.get(&operation.id);
        let begun = |v: &Written| !v.failed && v.start <= operation.end;
        (0..self.versions.len()).filter(|v| Some(v) != own && begun(&self.versions[*v])).collect()
    }

    /// What an operation must have known, sessions aside from their own writes.
    pub fn demanded(&self, operation: &Operation) -> BTreeSet<usize> {
        let majority =
            !operation.local && (!operation.is_write() || operation.durability != Durability::Fast);
        let mut demanded: BTreeSet<usize> = (0..self.versions.len())
            .filter(|v| majority && self.versions[*v].acknowledged && self.versions[*v].end < operation.start)
            .collect();
        for earlier in self.operations.iter().filter(|o| o.phase == Phase::Ok && follows(o, operation)) {
            demanded.extend(self.own.get(&earlier.id));
        }
        demanded
    }

    pub fn shape(&self, operation: &Operation) -> Shape {
        let index = |token: &Token| self.by_token.get(token).copied();
        let live = |tokens: &[Token]| -> BTreeSet<usize> {
            tokens.iter().filter_map(index).filter(|v| !self.versions[*v].tombstone).collect()
        };
        if operation.is_write() {
            let base = operation.if_match.as_ref().or(operation.only.as_ref());
            return match (base, &operation.context) {
                (Some(base), _) => match index(base) {
                    // To delete what is superseded already, if only by a `fast` write, does no harm.
                    Some(_) if operation.only.is_some() => Shape::Free,
                    Some(base) => Shape::Holds(base),
                    None => Shape::Impossible(format!("the base {base} was never written")),
                },
                (None, _) if operation.if_absent => Shape::Exactly(BTreeSet::new()),
                (None, Some(context)) => {
                    let covered = self.superseded_meanwhile(operation);
                    Shape::Within(live(context).union(&covered).copied().collect())
                }
                (None, None) => Shape::Free,
            };
        }
        match (&operation.survivors, &operation.version) {
            (Some(survivors), _) if operation.local => Shape::Locally(live(survivors)),
            (Some(survivors), _) => Shape::Exactly(live(survivors)),
            (None, Some(head)) => index(head).map_or(Shape::Free, Shape::Holds),
            (None, None) => Shape::Exactly(BTreeSet::new()),
        }
    }

    /// What writes under way at the same time superseded. The node may have met one of them, which no majority has yet:
    /// it is left beside the new version as a conflict, and what it superseded is gone all the same.
    fn superseded_meanwhile(&self, operation: &Operation) -> BTreeSet<usize> {
        let own = self.own.get(&operation.id);
        let meanwhile = |(index, v): &(usize, &Written)| {
            Some(index) != own
                && !v.failed
                && v.start <= operation.end
                && !(v.acknowledged && v.end < operation.start)
        };
        let writes = self.versions.iter().enumerate().filter(meanwhile);
        writes.flat_map(|(_, v)| v.surely.iter().copied()).collect()
    }

    /// The greatest part of `bound` that has the shape, the wanted survivors aside.
    fn strike_out(&self, shape: &Shape, bound: BTreeSet<usize>) -> BTreeSet<usize> {
        let mut set = bound;
        let wanted = match shape {
            Shape::Exactly(live) | Shape::Locally(live) | Shape::Within(live) => live.clone(),
            Shape::Holds(base) => BTreeSet::from([*base]),
            Shape::Free | Shape::Impossible(_) => return set,
        };
        match shape {
            Shape::Within(_) => {}
            Shape::Locally(_) => set.retain(|v| self.versions[*v].direct.is_disjoint(&wanted)),
            _ => set.retain(|v| self.versions[*v].surely.is_disjoint(&wanted)),
        }
        if matches!(shape, Shape::Holds(_)) {
            return set;
        }
        loop {
            let superseded: BTreeSet<usize> =
                set.iter().flat_map(|v| self.versions[*v].perhaps.iter().copied()).collect();
            let before = set.len();
            set.retain(|v| self.versions[*v].tombstone || wanted.contains(v) || superseded.contains(v));
            if set.len() == before {
                return set;
            }
        }
    }

    /// I21: one successful conditional writer a token, and creations that know of one another.
    fn fenced(&self, name: &str, sets: &[Option<BTreeSet<usize>>]) -> Vec<Violation> {
        let mut violations = Vec::new();
        let winners: Vec<usize> = (0..self.operations.len())
            .filter(|at| self.operations[*at].phase == Phase::Ok && self.operations[*at].is_write())
            .collect();
        for (position, first) in winners.iter().enumerate() {
            for second in &winners[position + 1..] {
                let (a, b) = (self.operations[*first], self.operations[*second]);
                let same_base = a.if_match.is_some() && a.if_match == b.if_match;
                let knew = |at: usize, other: &Operation| match (self.own.get(&other.id), &sets[at]) {
                    (Some(version), Some(set)) => set.contains(version),
                    _ => true,
                };
                let strangers = a.if_absent && b.if_absent && !knew(*first, b) && !knew(*second, a);
                if same_base || strangers {
                    violations.push(Violation {
                        invariant: "I21",
                        name: name.into(),
                        operations: vec![a.id, b.id],
                        detail: "two conditional writes of one base succeeded".into(),
                    });
                }
            }
        }
        violations
    }
}

/// Whether `later` is bound to know what `earlier` knew.
pub(super) fn follows(earlier: &Operation, later: &Operation) -> bool {
    earlier.session == later.session && earlier.end < later.start
}

/// A conditional write and the deletion of one version say themselves what they supersede.
fn known_context(operation: &Operation) -> Option<Vec<Token>> {
    operation.context.clone().or_else(|| {
        let base = operation.if_match.as_ref().or(operation.only.as_ref())?;
        Some(vec![base.clone()])
    })
}

fn close(versions: &mut [Written], field: impl Fn(&mut Written) -> &mut BTreeSet<usize>) {
    loop {
        let mut grew = false;
        for index in 0..versions.len() {
            let direct = field(&mut versions[index]).clone();
            let mut reach = direct.clone();
            for next in &direct {
                reach.extend(field(&mut versions[*next]).iter().copied());
            }
            reach.remove(&index);
            grew |= reach.len() > direct.len();
            *field(&mut versions[index]) = reach;
        }
        if !grew {
            return;
        }
    }
}

fn describe(operation: &Operation) -> String {
    let Operation { session: (node, run), start, end, action, .. } = operation;
    let how = if operation.local { "local " } else { "" };
    format!("the {how}{action:?} through {node} (run {run}) from {start} to {end}")
}
