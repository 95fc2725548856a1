//! Settings of the C library's allocator.

/// Keeps buffers of a few MiB on the heap and the heap's end with the process.
///
/// By default glibc maps every large buffer anew and gives it back at once, so that each chunk
/// pays for page faults and zeroing: 1.5 to 1.9 times the throughput of transfers was measured
/// without that.
///
/// Two arenas serve all threads: each arena keeps what its threads once needed, and chunks are made on
/// one thread and dropped on another, so that with glibc's eight arenas a core the same transfers
/// took twice the memory (165 against 84 MiB for a put of 1 GiB) and no less time.
#[allow(unsafe_code)]
pub fn tune() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator; called before any thread is started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 << 20);
        libc::mallopt(libc::M_TOP_PAD, 4 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
