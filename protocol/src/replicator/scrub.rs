//! When which chunks are hashed again.
