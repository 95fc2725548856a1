use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::chunker::{ChunkSize, Chunker};

/// A file in memory: its manifest nodes and leaves by id.
struct File {
    root: ChunkId,
    bytes: Vec<u8>,
    nodes: BTreeMap<ChunkId, Chunk>,
    leaves: BTreeMap<ChunkId, Chunk>,
}

fn build(bytes: Vec<u8>, chunk_size: usize, max_links: usize) -> File {
    let mut chunker = Chunker::new(ChunkSize::from_bytes(chunk_size).unwrap());
    let mut builder = Builder::new(max_links);
    let (mut nodes, mut leaves) = (Vec::new(), BTreeMap::new());
    let mut piece = Bytes::from(bytes.clone());
    let mut cut = Vec::new();
    while let Some(leaf) = chunker.cut(&mut piece) {
        cut.push(leaf);
    }
    cut.extend(chunker.finish());
    for leaf in cut {
        let chunk = leaf.into_chunk();
        nodes.extend(builder.push(chunk.id(), chunk.bytes().len()).unwrap());
        leaves.insert(chunk.id(), chunk);
    }
    let finished = builder.finish();
    assert_eq!(finished.size, bytes.len() as u64);
    nodes.extend(finished.nodes);
    let nodes = nodes.into_iter().map(|node| (node.id(), node)).collect();
    File { root: finished.root, bytes, nodes, leaves }
}

/// Reads a range and counts the nodes loaded.
fn read(file: &File, range: std::ops::Range<u64>) -> Result<(Vec<u8>, usize), WalkError> {
    let start = range.start;
    let mut walk = Walk::new(file.root, file.bytes.len() as u64, range)?;
    let (mut read, mut loaded) = (Vec::new(), 0);
    while !walk.is_done() {
        let mut idle = true;
        while let Some(id) = walk.poll_wanted() {
            walk.handle_node(&file.nodes[&id])?;
            loaded += 1;
            idle = false;
        }
        while let Some(leaf) = walk.poll_leaf() {
            assert_eq!(leaf.offset + leaf.skip - start, read.len() as u64, "file order");
            read.extend_from_slice(&leaf.slice(&file.leaves[&leaf.id])?);
            idle = false;
        }
        assert!(!idle, "the walk came to a halt");
    }
    Ok((read, loaded))
}

mod vectors {
    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    const MIB: usize = 1 << 20;

    /// The vectors' content: block n is one pattern of a MiB with n in its first 8 bytes.
    struct Content {
        pattern: Vec<u8>,
        /// Hashes of whole leaves, by the leaf size and the bytes that tell them apart.
        known: BTreeMap<(usize, u64, usize), ChunkId>,
        hashed: usize,
    }

    impl Content {
        fn new() -> Self {
            let pattern = (0..32_768u64).flat_map(|i| Sha256::digest(i.to_le_bytes())).collect();
            Self { pattern, known: BTreeMap::new(), hashed: 0 }
        }

        /// The id of the bytes from `start` on. Leaves within a block that do not touch its number
        /// are alike in every block, and full leaves occur in several vectors: hashed once.
        fn leaf(&mut self, start: usize, len: usize, full: usize) -> ChunkId {
            let within = start % MIB;
            let alike = if within > 0 && within + len <= MIB { 0 } else { start as u64 };
            let key = (full, alike, within);
            if let Some(id) = self.known.get(&key).filter(|_| len == full) {
                return *id;
            }
            let mut hash = Sha256::new();
            let mut at = start;
            while at < start + len {
                let (block, from) = ((at / MIB) as u64, at % MIB);
                let to = MIB.min(from + start + len - at);
                let number = block.to_le_bytes();
                hash.update(&number[from.min(8)..to.min(8)]);
                hash.update(&self.pattern[from.max(8)..to.max(8)]);
                at += to - from;
            }
            self.hashed += len;
            let id = ChunkId::from_digest(Codec::Raw, hash.finalize().into());
            if len == full {
                self.known.insert(key, id);
            }
            id
        }
    }

    #[test]
    fn roots_are_those_of_an_independent_implementation() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/unixfs.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        let mut content = Content::new();
        for vector in vectors {
            let number = |field: &str| vector[field].as_u64().unwrap() as usize;
            let (size, full) = (number("size"), number("chunk_size"));
            let context = format!("{size} bytes in {full}, {} links", number("max_links"));
            let mut builder = Builder::new(number("max_links"));
            let (mut nodes, mut start) = (Vec::new(), 0);
            while start < size || start == 0 {
                let len = full.min(size - start);
                nodes.extend(builder.push(content.leaf(start, len, full), len).unwrap());
                start += full;
            }
            let finished = builder.finish();
            nodes.extend(finished.nodes);
            assert_eq!(finished.root.to_string(), vector["root"].as_str().unwrap(), "{context}");
            assert_eq!(finished.size as usize, size, "{context}");
            assert_eq!(nodes.len(), number("dagpb_nodes"), "{context}");
            assert_eq!(finished.leaves as usize + nodes.len(), number("blocks_put"), "{context}");
            let total = size + nodes.iter().map(|node| node.bytes().len()).sum::<usize>();
            assert_eq!(total, number("sum_block_bytes"), "{context}");
            if let Some(hex) = vector["root_block_hex"].as_str() {
                assert_eq!(hex::encode(nodes.last().unwrap().bytes()), hex, "{context}");
            }
            if let Some(root) = nodes.last() {
                let links = Node::decode(root.bytes()).unwrap().into_links().len();
                assert_eq!(links, number("root_links"), "{context}");
            }
        }
        println!("{} vectors, {} MiB hashed", vectors.len(), content.hashed / MIB);
        assert_eq!(vectors.len(), 58);
    }
}

#[test]
fn the_empty_file_is_the_empty_leaf() {
    let file = build(vec![], 4, 2);
    assert_eq!(file.root, ChunkId::of(Codec::Raw, b""));
    assert_eq!(Builder::default().finish().root, file.root);
    assert_eq!(read(&file, 0..0), Ok((vec![], 0)));
}

#[test]
fn a_file_of_one_leaf_is_that_leaf() {
    let file = build(vec![7; 4], 4, 2);
    assert_eq!(file.root, ChunkId::of(Codec::Raw, &[7; 4]));
    assert!(file.nodes.is_empty());
    assert_eq!(read(&file, 1..3), Ok((vec![7; 2], 0)));
}

#[test]
fn a_builder_refuses_what_no_file_has() {
    let leaf = ChunkId::of(Codec::Raw, b"x");
    let node = ChunkId::of(Codec::DagPb, b"x");
    let mut builder = Builder::new(2);
    assert_eq!(builder.push(node, 1), Err(BuildError::NoLeaf(node)));
    assert_eq!(builder.push(leaf, MAX_CHUNK_BYTES + 1), Err(BuildError::LeafSize(MAX_CHUNK_BYTES + 1)));
    builder.push(leaf, 1).unwrap();
    assert_eq!(builder.push(leaf, 0), Err(BuildError::LeafSize(0)));
    (1..1 << 16).for_each(|_| drop(builder.push(leaf, 1).unwrap()));
    assert_eq!(builder.push(leaf, 1), Err(BuildError::TooLarge), "deeper than any walk goes");
    assert_eq!(builder.finish().leaves, 1 << 16);
}

#[test]
fn a_builder_holds_no_more_than_a_node_a_level() {
    let mut builder = Builder::new(3);
    for leaf in 0..10_000u32 {
        builder.push(ChunkId::of(Codec::Raw, &leaf.to_be_bytes()), 4).unwrap();
        assert!(builder.levels.iter().all(|links| links.len() < 3));
    }
}

#[test]
fn a_range_in_the_middle_loads_one_node_a_level() {
    let bytes: Vec<u8> = (0..4096u32).flat_map(u32::to_be_bytes).collect();
    let file = build(bytes, 4, 8); // 4,096 leaves, four levels of nodes
    assert_eq!(read(&file, 8000..8004).unwrap().1, 4);
    assert_eq!(read(&file, 0..16_384).unwrap(), (file.bytes.clone(), file.nodes.len()));
}

#[test]
fn a_walk_asks_only_a_little_ahead() {
    let bytes: Vec<u8> = (0..40_000u32).flat_map(u32::to_be_bytes).collect();
    let file = build(bytes, 4, 1024);
    let mut walk = Walk::new(file.root, 160_000, 0..160_000).unwrap();
    let mut wanted: std::collections::VecDeque<_> = walk.poll_wanted().into_iter().collect();
    let mut most = 0;
    while let Some(id) = wanted.pop_front() {
        walk.handle_node(&file.nodes[&id]).unwrap();
        wanted.extend(std::iter::from_fn(|| walk.poll_wanted()));
        assert!(wanted.len() <= 2);
        most = most.max(walk.held().0);
    }
    // Nobody read a leaf, so it stopped.
    assert!(most <= 2048 && !walk.is_done(), "{most} leaves are held");
    let mut leaves = 0;
    while !walk.is_done() {
        while let Some(id) = walk.poll_wanted() {
            walk.handle_node(&file.nodes[&id]).unwrap();
        }
        leaves += u64::from(walk.poll_leaf().is_some());
        assert!(walk.held().0 <= 2048);
    }
    assert_eq!(leaves, 40_000);
}

#[test]
fn nodes_may_arrive_in_any_order_twice_or_unasked() {
    let bytes: Vec<u8> = (0..512u32).flat_map(u32::to_be_bytes).collect();
    let file = build(bytes, 4, 2);
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut walk = Walk::new(file.root, 2048, 100..1999).unwrap();
        let (mut under_way, mut read) = (Vec::new(), Vec::new());
        while !walk.is_done() {
            under_way.extend(std::iter::from_fn(|| walk.poll_wanted()));
            if !under_way.is_empty() {
                let id = under_way.swap_remove(random.usize(..under_way.len()));
                walk.handle_node(&file.nodes[&id]).unwrap();
                walk.handle_node(&file.nodes[&id]).unwrap();
            }
            walk.handle_node(random.choice(file.nodes.values()).unwrap()).unwrap();
            while let Some(leaf) = walk.poll_leaf() {
                read.extend_from_slice(&leaf.slice(&file.leaves[&leaf.id]).unwrap());
            }
        }
        assert_eq!(read, file.bytes[100..1999], "seed {seed}");
    }
}

#[test]
fn a_file_of_equal_parts_loads_equal_nodes_together() {
    let file = build(vec![0; 4096], 1, 8);
    let (bytes, loaded) = read(&file, 0..4096).unwrap();
    assert_eq!(bytes, file.bytes);
    assert!(loaded < 512, "{loaded} loads of {} distinct nodes", file.nodes.len());
}

#[test]
fn a_range_outside_the_file_is_refused() {
    let file = build(vec![7; 100], 10, 4);
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..101, 5..4, 200..300, u64::MAX..u64::MAX] {
        assert!(matches!(Walk::new(file.root, 100, range), Err(WalkError::Range { .. })));
    }
    assert!(Walk::new(file.root, 100, 100..100).unwrap().is_done());
    let leaf = ChunkId::of(Codec::Raw, b"");
    assert!(matches!(Walk::new(leaf, u64::MAX, 0..1), Err(WalkError::LeafSize { .. })));
}

#[test]
fn a_manifest_that_contradicts_its_version_or_itself_is_refused() {
    let file = build((0..100).collect(), 10, 4);
    let mut walk = Walk::new(file.root, 99, 0..99).unwrap();
    let root = &file.nodes[&walk.poll_wanted().unwrap()];
    let refused = walk.handle_node(root);
    assert_eq!(refused, Err(WalkError::NodeSize { id: file.root, expected: 99, actual: 100 }));
    assert_eq!((walk.handle_node(root), walk.poll_wanted()), (refused, None), "it is over");

    // A parent that announces other sizes than its child has.
    let links = Node::decode(root.bytes()).unwrap().into_links();
    for (size, tsize) in [(1, 0), (0, 1)] {
        let mut lying = links.clone();
        lying[0].size += size;
        lying[0].tsize += size + tsize;
        let liar = Chunk::new(Codec::DagPb, Node::new(lying).unwrap().encode().into());
        let mut walk = Walk::new(liar.id(), 100 + size, 0..100).unwrap();
        assert_eq!(walk.poll_wanted(), Some(liar.id()));
        walk.handle_node(&liar).unwrap();
        let child = walk.poll_wanted().unwrap();
        assert!(matches!(walk.handle_node(&file.nodes[&child]), Err(WalkError::NodeSize { .. })));
    }
}

#[test]
fn a_leaf_of_another_size_than_announced_is_refused() {
    let leaf = Chunk::new(Codec::Raw, Bytes::from_static(b"four"));
    let mut walk = Walk::new(leaf.id(), 5, 0..5).unwrap();
    let read = walk.poll_leaf().unwrap();
    assert_eq!(read.slice(&leaf), Err(WalkError::LeafSize { id: leaf.id(), expected: 5, actual: 4 }));
    let other = Chunk::new(Codec::Raw, Bytes::from_static(b"other"));
    assert_eq!(read.slice(&other), Err(WalkError::Unexpected(other.id())));
}

#[test]
fn a_chain_of_nodes_is_not_followed_for_ever() {
    let leaf = Chunk::new(Codec::Raw, Bytes::from_static(b"x"));
    let mut link = Link { id: leaf.id(), size: 1, tsize: 1 };
    let mut nodes = BTreeMap::new();
    for _ in 0..100 {
        let node = Node::new(vec![link]).unwrap();
        let chunk = Chunk::new(Codec::DagPb, node.encode().into());
        link = Link { id: chunk.id(), size: 1, tsize: node.tsize() + chunk.bytes().len() as u64 };
        nodes.insert(chunk.id(), chunk);
    }
    let mut walk = Walk::new(link.id, 1, 0..1).unwrap();
    let mut levels = 0;
    let error = loop {
        let id = walk.poll_wanted().unwrap();
        if let Err(error) = walk.handle_node(&nodes[&id]) {
            break error;
        }
        levels += 1;
    };
    assert!(matches!(error, WalkError::TooDeep(_)) && levels == MAX_DEPTH, "{error} at {levels}");
}

#[test]
fn a_bomb_of_equal_nodes_costs_no_more_than_its_depth() {
    let leaf = Chunk::new(Codec::Raw, Bytes::from_static(b"x"));
    let mut link = Link { id: leaf.id(), size: 1, tsize: 1 };
    let mut nodes = BTreeMap::new();
    for _ in 0..4 {
        let node = Node::new(vec![link; MAX_LINKS]).unwrap();
        let chunk = Chunk::new(Codec::DagPb, node.encode().into());
        link = Link { id: chunk.id(), size: node.size(), tsize: node.tsize() + chunk.bytes().len() as u64 };
        nodes.insert(chunk.id(), chunk);
    }
    assert_eq!(link.size, 1 << 52);
    for start in [0, 12_345_678_901_234, (1 << 52) - 20_000] {
        let mut walk = Walk::new(link.id, link.size, start..link.size).unwrap();
        let (mut loaded, mut leaves) = (0, 0);
        while leaves < 20_000 && !walk.is_done() {
            while let Some(id) = walk.poll_wanted() {
                walk.handle_node(&nodes[&id]).unwrap();
                loaded += 1;
            }
            leaves += u64::from(walk.poll_leaf().is_some());
            let (ready, rest) = walk.held();
            assert!(ready <= 1024 + MAX_LINKS && rest <= 4 * MAX_LINKS, "{ready}, {rest}");
        }
        assert_eq!(leaves, 20_000);
        assert!(loaded < 16, "{loaded} loads for 20,000 leaves");
    }
}

#[test]
fn nodes_in_another_form_are_refused() {
    let file = build((0..40).collect(), 10, 4);
    let good = file.nodes[&file.root].bytes().to_vec();
    let node = Node::decode(&good).unwrap();
    assert_eq!(node.encode(), good);
    let data_at = 4 * (good[1] as usize + 2);
    let data_first = [&good[data_at..], &good[..data_at]].concat();
    let trailing = [&good[..], &[0]].concat();
    let mut directory = good.clone();
    directory[data_at + 3] = 1;
    for bad in [data_first, trailing, directory, vec![], good[..data_at].to_vec(), good[data_at..].to_vec()] {
        assert!(Node::decode(&bad).is_err(), "{}", hex::encode(bad));
    }
    let leaf = node.links()[0];
    let inner = Link { id: file.root, size: 10, tsize: 20 };
    assert_eq!(Node::new(vec![leaf, inner]), Err(DecodeError::MixedLevels));
    assert_eq!(Node::new(vec![]), Err(DecodeError::Links(0)));
    assert_eq!(Node::new(vec![leaf; MAX_LINKS + 1]), Err(DecodeError::Links(MAX_LINKS + 1)));
    assert!(Node::decode(&Node::new(vec![leaf; MAX_LINKS]).unwrap().encode()).is_ok());
    for (size, tsize) in [(0, 0), (10, 11), (1 << 40, 1 << 40)] {
        assert_eq!(Node::new(vec![Link { size, tsize, ..leaf }]), Err(DecodeError::Sizes));
    }
    let huge = Link { size: u64::MAX / 3, tsize: u64::MAX / 3 + 1, ..inner };
    assert_eq!(Node::new(vec![huge; 2]), Err(DecodeError::Sizes));
    assert_eq!(Node::new(vec![huge; 4]), Err(DecodeError::Sizes), "no overflow");
}

proptest! {
    #[test]
    fn any_range_of_any_file_reads_as_its_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..3000), chunk_size in 1usize..200, max_links in 2usize..9,
        from: prop::sample::Index, to: prop::sample::Index,
    ) {
        prop_assume!(bytes.len() / chunk_size < 1000);
        let (a, b) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
        let (start, end) = (a.min(b), a.max(b));
        let file = build(bytes, chunk_size, max_links);
        let (read, _) = read(&file, start as u64..end as u64).unwrap();
        prop_assert_eq!(&read, &file.bytes[start..end]);
    }

    #[test]
    fn arbitrary_bytes_never_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(node) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), bytes);
        }
    }

    #[test]
    fn mutated_nodes_never_panic_the_decoder_or_the_walk(
        count in 1usize..40,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
        claimed in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        let file = build((0..count * 4).map(|i| i as u8).collect(), 4, 5);
        for node in file.nodes.values() {
            let mut bytes = node.bytes().to_vec();
            for (at, value, kind) in &edits {
                if bytes.is_empty() { break }
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = *value,
                    1 => bytes.insert(at, *value),
                    _ => drop(bytes.remove(at)),
                }
            }
            let mutated = Node::decode(&bytes);
            if let Ok(node) = &mutated {
                prop_assert_eq!(node.encode(), bytes.clone());
            }
            // Under its own hash it is what a liar would serve.
            let chunk = Chunk::new(Codec::DagPb, bytes.into());
            let size = claimed.unwrap_or_else(|| mutated.map_or(9, |node| node.size()));
            let mut walk = Walk::new(chunk.id(), size, 0..size).unwrap();
            let mut steps = 0;
            while let Some(id) = walk.poll_wanted() {
                let next = if id == chunk.id() { Some(&chunk) } else { file.nodes.get(&id) };
                let Some(next) = next else { break };
                if walk.handle_node(next).is_err() { break }
                while walk.poll_leaf().is_some() {}
                steps += 1;
                prop_assert!(steps < 1000);
            }
        }
    }
}
