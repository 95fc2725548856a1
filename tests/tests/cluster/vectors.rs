//! Root CIDs equal those of an independent implementation, through a running node.

use anyhow::{Result, ensure};
use bytes::Bytes;
use kepler_tests::cluster::{Cluster, scaled};
use sha2::{Digest as _, Sha256};

const MIB: u64 = 1 << 20;

#[derive(serde::Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(serde::Deserialize)]
struct Vector {
    size: u64,
    chunk_size: u64,
    max_links: u64,
    root: String,
}

/// The block that every MiB of content repeats but for its number.
fn block() -> Vec<u8> {
    (0u64..32_768).flat_map(|i| Sha256::digest(i.to_le_bytes())).collect()
}

#[tokio::test]
async fn root_cids_equal_those_of_an_independent_implementation() -> Result<()> {
    let text = include_str!("../../vectors/unixfs.json");
    let vectors: Vectors = serde_json::from_str(text)?;
    let block = block();
    let (mut checked, mut skipped) = (0, 0);
    for chunk_mib in [1, 4] {
        let cluster = Cluster::start_with(1, &[("CHUNK_SIZE_MB", &chunk_mib.to_string())]).await?;
        for vector in
            vectors.vectors.iter().filter(|v| v.chunk_size == chunk_mib * MIB && v.max_links == 1024)
        {
            if vector.size > 300 * MIB && scaled(10) != 10 {
                skipped += 1;
                continue;
            }
            let (size, block) = (vector.size, block.clone());
            let pieces = (0..size.div_ceil(MIB)).map(move |n| {
                let mut piece = block.clone();
                piece[..8].copy_from_slice(&n.to_le_bytes());
                piece.truncate((size - n * MIB).min(MIB) as usize);
                Ok::<_, std::io::Error>(Bytes::from(piece))
            });
            let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
            let receipt = cluster.nodes[0].put(&format!("vector-{size}"), body).await?;
            ensure!(
                receipt.cid.to_string() == vector.root,
                "size {size}, chunks of {chunk_mib} MiB: {}",
                receipt.cid
            );
            checked += 1;
        }
    }
    ensure!(checked > 10, "only {checked} vectors apply");
    println!("UnixFS: {checked} vectors through a running node equal, {skipped} larger ones left to FULL=1");
    Ok(())
}
