//! Frames and offers that come from a peer.

use futures::executor::block_on;
use futures::io::Cursor;
use proptest::prelude::*;

use super::*;
use crate::swarm::transfer::tests::server;

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(bodies in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..20_000), 0..20)) {
        let mut bytes = Vec::new();
        for (id, body) in bodies.iter().enumerate() {
            put_frame(&mut bytes, id as u64, 7, &body[..body.len() / 2], &body[body.len() / 2..]);
        }
        let (mut io, mut frames) = (Cursor::new(&bytes), Frames::default());
        for (id, body) in bodies.iter().enumerate() {
            let frame = block_on(frames.next(&mut io)).unwrap().unwrap();
            prop_assert_eq!((frame.id, frame.kind), (id as u64, 7));
            prop_assert_eq!(&frame.body[..], &body[..]);
        }
        prop_assert!(block_on(frames.next(&mut io)).unwrap().is_none());
    }

    #[test]
    fn no_bytes_make_a_line_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let (mut io, mut frames) = (Cursor::new(&bytes), Frames::default());
        while let Ok(Some(frame)) = block_on(frames.next(&mut io)) {
            prop_assert!(frame.body.len() <= bytes.len());
        }
    }
}

#[test]
fn no_offer_on_a_line_harms_a_node_or_stores_other_bytes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (server, store) = server();
    let chunk = Chunk::new(kepler_protocol::chunk::Codec::Raw, Bytes::from_static(b"kepler"));
    let origin = kepler_protocol::version::Origin { node: "a".parse().expect("an id"), generation: 1 };
    let pushed = |chunk: &Chunk, dots: usize| {
        let question = Question::push(chunk, &vec![Dot { origin, sequence: 1 }; dots]);
        [&question.head[..], &question.tail].concat()
    };
    let take = |bytes: &[u8]| runtime.block_on(take(Bytes::copy_from_slice(bytes), &server));
    let whole = pushed(&chunk, 2);
    assert_eq!(take(&whole), Ok(()));
    let stored = || store.finished.load(std::sync::atomic::Ordering::SeqCst);
    let mut taken = 0;
    kepler_protocol::fuzz::bears_anything(&[whole], 1 << 16, 3_000, |bytes| {
        let before = stored();
        let result = take(bytes);
        // What is stored ends with the very bytes that the id names: references alone may have changed.
        assert_eq!(result.is_ok(), stored() > before);
        assert!(result.is_err() || bytes.ends_with(b"kepler"), "{result:?}");
        taken += usize::from(result.is_ok());
    });
    assert!(taken > 0, "no damaged offer was understood");
    let large = Chunk::new(kepler_protocol::chunk::Codec::Raw, vec![7; LINE_BYTES + 1].into());
    assert_eq!(take(&pushed(&large, 1)), Err(Refusal::TooLarge));
    assert_eq!(take(&pushed(&chunk, LINE_DOTS + 1)), Err(Refusal::TooLarge));
    assert_eq!(take(&pushed(&chunk, LINE_DOTS)), Ok(()));
}

#[test]
fn a_length_above_its_bound_ends_the_line_before_a_byte_of_it_is_kept() {
    let mut bytes = u32::MAX.to_be_bytes().to_vec();
    bytes.extend([0; 100]);
    let read = block_on(Frames::default().next(&mut Cursor::new(bytes)));
    assert!(matches!(read, Err(StreamError::TooLarge { .. })));
}
