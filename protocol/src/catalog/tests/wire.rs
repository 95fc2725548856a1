//! Messages on the wire: what comes in is never trusted.

use proptest::prelude::*;

use super::net::content;
use crate::catalog::census::{Bucket, SPLIT};
use crate::catalog::message::{
    Claim, Compare, Compared, Cursor, Division, MAX_MESSAGE_BYTES, NamePart, Page, Pull, Push, Read, Request,
    Response,
};
use crate::catalog::seen::Seen;
use crate::time::UnixMillis;
use crate::version::{Context, Dot, Origin, Version};

fn version(sequence: u64) -> Version {
    let origin = Origin { node: "a".parse().unwrap(), generation: 3 };
    Version {
        name: "x/y".parse().unwrap(),
        dot: Dot { origin, sequence },
        context: Context::new((sequence > 1).then(|| Dot { origin, sequence: sequence - 1 })).unwrap(),
        count: sequence,
        content: Some(content(sequence)),
        created_at: UnixMillis(5),
    }
}

fn examples() -> (Vec<Request>, Vec<Response>) {
    let mut seen = Seen::default();
    for sequence in [1, 2, 4] {
        seen.insert(version(sequence).dot);
    }
    let name = version(1).name;
    let mut requests = vec![
        Request::Read(Read {
            roster: 2,
            name: name.clone(),
            known: vec![version(1).dot],
            offers: vec![version(2)],
        }),
        Request::Push(Push { roster: None, versions: vec![version(1), version(2)] }),
        Request::Pull(Pull {
            wanted: seen.clone(),
            after: Some(Cursor::Within(name.clone(), Some(version(9).dot))),
        }),
    ];
    let part =
        NamePart { name, holds: vec![version(2).dot], versions: vec![version(2)], stubs: vec![], last: true };
    let page = Page { database: None, closed: vec![], names: vec![part], next: None, ready: true };
    let bucket = Bucket::WHOLE.children().nth(3).unwrap();
    let claims = vec![Claim { bucket, digest: [7; 8] }];
    requests.push(Request::Compare(Compare { buckets: claims }));
    let compared = Response::Compared(Compared {
        database: None,
        answered: 1,
        splits: vec![Division { bucket, digests: vec![9; 8 * SPLIT] }],
        listed: vec![bucket],
        seen,
    });
    (requests, vec![Response::Page(page), compared, Response::Behind(7), Response::Done])
}

#[test]
fn messages_survive_the_wire() {
    let (requests, responses) = examples();
    for request in requests {
        assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
    }
    for response in responses {
        assert_eq!(Response::from_bytes(&response.to_bytes()), Ok(response));
    }
}

#[test]
fn implausible_messages_are_refused() {
    let mut own = version(3);
    own.dot.sequence = 2; // Supersedes itself.
    let zero = Version { count: 0, ..version(1) };
    let mut huge = version(1);
    huge.dot.sequence = u64::MAX;
    let mut typed = version(1);
    typed.content.as_mut().unwrap().content_type = Some("text/\u{7}".into());
    for version in [own, zero, huge, typed] {
        let push = Request::Push(Push { roster: Some(1), versions: vec![version.clone()] });
        assert!(Request::from_bytes(&push.to_bytes()).is_err(), "{version:?}");
    }
    let mut seen = Seen::default();
    seen.insert(Dot { sequence: u64::MAX, ..version(1).dot });
    let pull = Request::Pull(Pull { wanted: seen, after: None });
    assert!(Request::from_bytes(&pull.to_bytes()).is_err());
    assert!(Request::from_bytes(&vec![0; MAX_MESSAGE_BYTES + 1]).is_err());
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Request::from_bytes(&bytes);
        let _ = Response::from_bytes(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(which in 0usize..4, at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let (requests, responses) = examples();
        let mut bytes = requests[which].to_bytes();
        let place = at.index(bytes.len());
        bytes[place] = to;
        let _ = Request::from_bytes(&bytes);
        let mut bytes = responses[which].to_bytes();
        let place = at.index(bytes.len());
        bytes[place] = to;
        let _ = Response::from_bytes(&bytes);
    }
}
