//! Where everything lies in a data directory.
//!
//! Invariant: below `chunks/` a name is a chunk's only if it parses as the canonical CID that
//! belongs in that very folder; names from the network never become paths.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use kepler_protocol::chunk::ChunkId;

/// The paths of one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("identity.key")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("kepler.db")
    }

    /// Exists after the database was found damaged while it was in use.
    pub(crate) fn suspect(&self) -> PathBuf {
        self.root.join("kepler.db.suspect")
    }

    pub(crate) fn chunks(&self) -> PathBuf {
        self.root.join("chunks")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// `chunks/ab/cd`: the first digit of the digest in hex, then its second byte (the CIDs of all chunks
    /// begin alike). 4,096 folders soon all exist; with 65,536, most small chunks of a young store each
    /// make a folder, which took a quarter to a hundred percent more CPU when it was measured.
    pub(crate) fn folder(&self, id: &ChunkId) -> PathBuf {
        self.root.join(Self::relative_folder(id))
    }

    pub(crate) fn chunk(&self, id: &ChunkId) -> PathBuf {
        self.root.join(Self::relative(id))
    }

    /// The chunk's path below the data directory.
    pub(crate) fn relative(id: &ChunkId) -> String {
        format!("{}/{id}", Self::relative_folder(id))
    }

    fn relative_folder(id: &ChunkId) -> String {
        let (outer, inner) = Self::folder_names(id);
        format!("chunks/{outer}/{inner}")
    }

    fn folder_names(id: &ChunkId) -> (String, String) {
        let [a, b, ..] = id.digest();
        (format!("{:02x}", a >> 4), format!("{b:02x}"))
    }

    /// The chunk that the file `name` in the folder `outer/inner` of `chunks/` holds.
    pub(crate) fn parse(outer: &OsStr, inner: &OsStr, name: &OsStr) -> Option<ChunkId> {
        let id: ChunkId = name.to_str()?.parse().ok()?;
        let (ours_outer, ours_inner) = Self::folder_names(&id);
        (outer == OsStr::new(&ours_outer) && inner == OsStr::new(&ours_inner)).then_some(id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use kepler_protocol::chunk::Codec;

    use super::*;

    #[test]
    fn only_a_cid_in_its_own_folder_is_a_chunk() {
        let id = ChunkId::of(Codec::Raw, b"kepler");
        let path = Layout::relative(&id);
        let parts: Vec<&OsStr> = path.split('/').skip(1).map(OsStr::new).collect();
        assert_eq!(Layout::parse(parts[0], parts[1], parts[2]), Some(id));
        assert_eq!(Layout::parse(parts[1], parts[0], parts[2]), None);
        let upper = path.to_uppercase();
        for bad in ["", ".", "x.tmp", "../../etc/passwd", &upper] {
            assert_eq!(Layout::parse(parts[0], parts[1], OsStr::new(bad)), None, "{bad}");
        }
    }
}
