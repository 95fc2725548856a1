//! A file gets another name: what is copied, when the old name ends, and which version of it.
//!
//! Invariant: the file is under the old or the new name at any time, whichever single node is lost for good. So the
//! old name ends only once a majority knows the new one, and of the old name only the version that was copied: what
//! was written there meanwhile stays.

use crate::api::Durability;
use crate::version::{Dot, Version, head};

/// Bugs to plant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The old name ends as soon as the new one is as durable as the client asked, if that is one node.
    pub tombstone_early: bool,
}

/// Why a name is not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is there.
    #[error("there is no such file")]
    NotFound,
    /// It has conflicts: one version would be left behind, or lost.
    #[error("the name has conflicts")]
    Conflicted,
}

/// A move whose old name was read. First [`Relocation::version`] is written under the new name, each chunk being a
/// hit, as durably as [`Relocation::durability`] says; once that is acknowledged, and not before,
/// [`Relocation::ended`] is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    version: Version,
    durability: Durability,
    same: bool,
}

impl Relocation {
    /// Decides on a move by what survives under the old name. `same`: the new name is the old one.
    ///
    /// # Errors
    /// There is no live version, or more than one.
    pub fn new(
        survivors: &[Version],
        same: bool,
        durability: Durability,
        faults: Faults,
    ) -> Result<Self, Refusal> {
        let version = head(survivors).ok_or(Refusal::NotFound)?.clone();
        if survivors.iter().filter(|version| !version.is_tombstone()).count() > 1 {
            return Err(Refusal::Conflicted);
        }
        // The old name ends on every member at once, so a `fast` move waits for a majority too.
        let durability = match durability {
            Durability::Fast if !faults.tombstone_early => Durability::Quorum,
            other => other,
        };
        Ok(Self { version, durability, same })
    }

    /// What is copied.
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// What the copy must reach, and the end of the old name.
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// What ends under the old name, and nothing else, now that the copy is acknowledged; nothing where the name
    /// stays the same.
    pub fn ended(self) -> Option<Dot> {
        (!self.same).then_some(self.version.dot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkId, Codec};
    use crate::time::UnixMillis;
    use crate::version::{Content, Context};

    fn version(dot: &str, lives: bool) -> Version {
        let root = ChunkId::of(Codec::Raw, dot.as_bytes());
        Version {
            name: "a".parse().unwrap(),
            dot: dot.parse().unwrap(),
            context: Context::default(),
            count: 1,
            content: lives.then_some(Content { root, size: 1, chunks: 1, content_type: None }),
            created_at: UnixMillis(0),
        }
    }

    fn a() -> Version {
        version("a.0000000000000001.1", true)
    }

    fn decided(survivors: &[Version], durability: Durability) -> Result<Relocation, Refusal> {
        Relocation::new(survivors, false, durability, Faults::default())
    }

    #[test]
    fn a_fast_move_waits_for_a_majority_before_the_old_name_ends() {
        let durability = |asked| decided(&[a()], asked).unwrap().durability();
        assert_eq!(durability(Durability::Fast), Durability::Quorum);
        assert_eq!(durability(Durability::Quorum), Durability::Quorum);
        assert_eq!(durability(Durability::All), Durability::All);
    }

    #[test]
    fn exactly_what_was_copied_ends_and_nothing_where_the_name_stays() {
        let moved = decided(&[a()], Durability::Quorum).unwrap();
        assert_eq!(moved.version(), &a());
        assert_eq!(moved.ended(), Some(a().dot));
        let same = Relocation::new(&[a()], true, Durability::Quorum, Faults::default()).unwrap();
        assert_eq!(same.ended(), None);
    }

    #[test]
    fn a_name_with_conflicts_or_without_a_file_is_not_moved() {
        let (other, tombstone) =
            (version("b.0000000000000001.1", true), version("c.0000000000000001.1", false));
        assert_eq!(decided(&[a(), other], Durability::Quorum), Err(Refusal::Conflicted));
        assert_eq!(decided(std::slice::from_ref(&tombstone), Durability::Quorum), Err(Refusal::NotFound));
        assert_eq!(decided(&[], Durability::Quorum), Err(Refusal::NotFound));
        // A delete that did not see the file is no conflict: only the file moves.
        assert_eq!(decided(&[a(), tombstone], Durability::Quorum).unwrap().version(), &a());
    }
}
