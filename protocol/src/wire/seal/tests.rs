use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn sealer(name: &str, key: u8) -> Sealer {
    Sealer::new(id(name), KeyRing::new(&[[key; 32]]).unwrap(), 7, [9; 8])
}

#[test]
fn what_one_seals_the_other_opens() {
    let mut a = sealer("a", 1);
    for receiver in [None, Some(id("b"))] {
        let datagram = a.seal(receiver.as_ref(), b"hello");
        let (header, plain) = sealer("b", 1).open(&datagram).unwrap();
        assert_eq!(plain, b"hello");
        assert_eq!((header.sender, header.receiver, header.epoch), (id("a"), receiver, 7));
        assert_eq!(header.counter, a.counter());
    }
}

#[test]
fn the_largest_payload_makes_exactly_the_largest_datagram() {
    let long = id(&"x".repeat(63));
    let mut a = Sealer::new(long, KeyRing::open_to_all(), 1, [0; 8]);
    for receiver in [None, Some(&long)] {
        let datagram = a.seal(receiver, &vec![0; a.room(receiver)]);
        assert_eq!(datagram.len(), MAX_DATAGRAM);
        assert!(a.open(&datagram).is_ok());
        let longer = [&datagram[..], &[0]].concat();
        assert_eq!(a.open(&longer), Err(OpenError::Malformed));
    }
}

#[test]
fn keys_are_rotated_by_accepting_both_before_switching() {
    let (old, new) = ([1; 32], [2; 32]);
    let ring = |keys: &[[u8; 32]]| Sealer::new(id("a"), KeyRing::new(keys).unwrap(), 1, [0; 8]);
    let (mut before, mut between, mut after) = (ring(&[old, new]), ring(&[new, old]), ring(&[new]));
    let datagrams = [before.seal(None, b"x"), between.seal(None, b"x"), after.seal(None, b"x")];
    assert!(datagrams.iter().all(|d| before.open(d).is_ok() && between.open(d).is_ok()));
    assert_eq!(after.open(&datagrams[0]), Err(OpenError::UnknownKey));
    assert!(after.open(&datagrams[1]).is_ok());
    assert!(KeyRing::new(&[]).is_err() && KeyRing::new(&[[0; 32]; 9]).is_err());
}

#[test]
fn a_foreign_key_and_every_altered_byte_are_refused() {
    let datagram = sealer("a", 1).seal(Some(&id("b")), b"some plain bytes");
    assert_eq!(sealer("b", 2).open(&datagram), Err(OpenError::UnknownKey));
    let b = sealer("b", 1);
    for at in 0..datagram.len() {
        for flip in [1, 0x80, 0xff] {
            let mut altered = datagram.clone();
            altered[at] ^= flip;
            assert!(b.open(&altered).is_err(), "byte {at} ^ {flip:#x}");
        }
        assert!(b.open(&datagram[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn keys_cannot_be_printed() {
    assert_eq!(format!("{:?}", KeyRing::new(&[[7; 32]]).unwrap()), "KeyRing(1 keys)");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_open(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        prop_assert!(sealer("b", 1).open(&bytes).is_err());
    }

    #[test]
    fn a_plausible_header_before_garbage_never_opens(
        tail in prop::collection::vec(any::<u8>(), 0..200), sender in 0u8..70, receiver in 0u8..70) {
        let mut bytes = sealer("a", 1).seal(None, b"")[..9].to_vec();
        bytes.push(sender);
        bytes.extend(std::iter::repeat_n(b'a', usize::from(sender)));
        bytes.push(receiver);
        bytes.extend(std::iter::repeat_n(b'b', usize::from(receiver)));
        bytes.extend(tail);
        prop_assert!(sealer("b", 1).open(&bytes).is_err());
    }

    #[test]
    fn a_window_accepts_each_counter_once(counters in prop::collection::vec(0u64..1200, 0..600)) {
        let (mut window, mut heard, mut greatest) = (Window::default(), BTreeSet::new(), 0);
        for counter in counters {
            greatest = greatest.max(counter);
            let fresh = counter > 0 && greatest - counter < Window::SIZE && !heard.contains(&counter);
            prop_assert_eq!(window.accept(counter), fresh, "{}", counter);
            heard.insert(counter);
        }
        prop_assert_eq!(window.greatest(), greatest);
    }
}

#[test]
fn a_window_survives_the_greatest_counter() {
    let mut window = Window::default();
    assert!(window.accept(1) && window.accept(u64::MAX) && window.accept(u64::MAX - 255));
    assert!(!window.accept(u64::MAX) && !window.accept(u64::MAX - 256) && !window.accept(1));
}
