use proptest::prelude::*;

use super::*;

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn statement(name: &str, key: &SigningKey) -> Statement {
    Statement {
        id: id(name),
        incarnation: 1 << 16,
        state: State::Alive,
        metadata: Metadata {
            key: key.verifying_key().to_bytes(),
            addr: "10.0.0.1".parse().unwrap(),
            gossip_port: 4000,
            transfer_port: 5000,
            http_port: 3000,
            zone: Some("z".repeat(63)),
            capacity: u64::MAX,
            version: "v".repeat(31),
        },
    }
}

fn packet() -> Packet {
    Packet {
        message: Message::PingReq { nonce: u64::MAX, target: id(&"t".repeat(63)) },
        cluster: Some(ClusterId([7; 16])),
        announcement: Some(Announcement {
            seen_digest: [1; 16],
            database: DatabaseId([2; 16]),
            mark: u64::MAX,
            roster: u64::MAX,
        }),
        health: 8,
        challenge: Some(u64::MAX),
        newcomer: true,
        unknown: true,
        latest: 7,
    }
}

#[test]
fn signatures_are_deterministic_and_bind_every_byte() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let record = Record::sign(&key, statement("a", &key));
    assert_eq!(record, Record::sign(&key, statement("a", &key)));
    let bytes = record.to_bytes();
    assert_eq!(Record::from_bytes(&bytes).unwrap(), record);
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        assert!(Record::from_bytes(&altered).is_err(), "byte {at}");
    }
}

#[test]
fn nobody_speaks_with_anothers_key() {
    let (key, other) = (SigningKey::from_bytes(&[5; 32]), SigningKey::from_bytes(&[6; 32]));
    let forged = Record::sign(&other, statement("a", &key));
    assert_eq!(Record::from_bytes(&forged.to_bytes()), Err(InvalidMessage::BadSignature));
}

#[test]
fn fields_out_of_bounds_are_refused() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let with = |change: fn(&mut Statement)| {
        let mut altered = statement("a", &key);
        change(&mut altered);
        Record::from_bytes(&Record::sign(&key, altered).to_bytes())
    };
    assert!(with(|_| {}).is_ok());
    assert_eq!(with(|s| s.state = State::Suspect), Err(InvalidMessage::Malformed));
    assert_eq!(with(|s| s.incarnation = MAX_INCARNATION + 1), Err(InvalidMessage::Malformed));
    assert_eq!(with(|s| s.metadata.zone = Some("z".repeat(64))), Err(InvalidMessage::Malformed));
    assert_eq!(with(|s| s.metadata.version = "v".repeat(32)), Err(InvalidMessage::Malformed));
}

#[test]
fn a_full_packet_with_the_longest_names_leaves_room_for_two_statements() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let long = "n".repeat(63);
    let record = Record::sign(&key, statement(&long, &key));
    let accusation = Accusation {
        subject: id(&long),
        key: u64::MAX,
        incarnation: MAX_INCARNATION,
        verdict: State::Dead,
        accusers: vec![id(&long); MAX_ACCUSERS],
    };
    let mut bytes = packet().to_bytes();
    Update::Accusation(accusation.clone()).encode_to(&mut bytes);
    Update::Claim(record.claim().clone()).encode_to(&mut bytes);
    Update::Claim(record.claim().clone()).encode_to(&mut bytes);
    let sealer =
        crate::wire::seal::Sealer::new(id(&long), crate::wire::seal::KeyRing::open_to_all(), 1, [0; 8]);
    let room = sealer.room(Some(&id(&long)));
    assert!(bytes.len() - record.to_bytes().len() <= room, "{} > {room}", bytes.len());
    let (head, updates) = Packet::decode(&bytes).unwrap();
    assert_eq!(head, packet());
    assert_eq!(updates[0], Update::Accusation(accusation));
    assert_eq!(updates[1], Update::Claim(record.claim().clone()));
}

#[test]
fn kinds_of_later_versions_are_skipped() {
    let mut bytes = packet().to_bytes();
    // {9: "later"}
    bytes.extend([0xa1, 9, 0x65, b'l', b'a', b't', b'e', b'r']);
    assert_eq!(Packet::decode(&bytes).unwrap().1, [Update::Unknown]);
    let many = [packet().to_bytes(), [0xa0; MAX_UPDATES + 1].to_vec()].concat();
    assert_eq!(Packet::decode(&many), Err(InvalidMessage::Malformed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_and_mutated_bytes_never_panic(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), end in any::<prop::sample::Index>()) {
        let _ = Packet::decode(&noise);
        let _ = ExchangeHead::decode(&noise);
        let _ = Record::from_bytes(&noise);
        let key = SigningKey::from_bytes(&[5; 32]);
        let record = Record::sign(&key, statement("a", &key));
        let mut bytes = packet().to_bytes();
        Update::Claim(record.claim().clone()).encode_to(&mut bytes);
        for (at, byte) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((_, updates)) = Packet::decode(&bytes) {
            prop_assert!(updates.len() <= MAX_UPDATES);
            for update in updates {
                if let Update::Claim(claim) = update { let _ = claim.statement().map(|s| claim.clone().verify(s)); }
            }
        }
        let cut = end.index(bytes.len());
        let _ = Packet::decode(&bytes[..cut]);
    }

    #[test]
    fn a_declared_length_allocates_nothing(len in any::<u64>()) {
        let mut bytes = vec![0xa1, 0, 0x5b];
        bytes.extend(len.to_be_bytes());
        prop_assert!(minicbor::decode::<Claim>(&bytes).is_err());
        let mut accusers = vec![0xa1, 1, 0xa1, 4, 0x9b];
        accusers.extend(len.to_be_bytes());
        prop_assert!(Update::decode(&mut Decoder::new(&accusers)).is_err());
    }
}
