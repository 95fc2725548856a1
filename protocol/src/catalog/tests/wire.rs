//! Messages on the wire: what comes in is never trusted.

use super::net::content;
use crate::catalog::census::{Bucket, SPLIT};
use crate::catalog::message::{
    Audit, Base, Check, Claim, Compare, Compared, Cursor, Division, MAX_MESSAGE_BYTES, NamePart, Page, Pull,
    Push, Pushed, Range, Read, Recall, Recalled, Relay, Release, Request, Reserve, Response, Survivors,
    Testimony, Vote,
};
use crate::catalog::seen::Seen;
use crate::catalog::storage::Stub;
use crate::fuzz;
use crate::identity::DatabaseId;
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

/// One of each kind at least.
fn examples() -> (Vec<Request>, Vec<Response>) {
    let mut seen = Seen::default();
    for sequence in [1, 2, 4] {
        seen.insert(version(sequence).dot);
    }
    let Version { name, dot, .. } = version(1);
    let (dots, versions) = (vec![dot, version(2).dot], vec![version(1), version(2)]);
    let bucket = Bucket::WHOLE.children().nth(3).unwrap();
    let (until, after) = (Some(name.clone()), Some(name.clone()));
    let base = Base::Version(dot);
    let ranges =
        vec![Range { until: until.clone(), digest: [1; 16] }, Range { until: None, digest: [2; 16] }];
    let requests = vec![
        Request::Read(Read { roster: 2, name: name.clone(), known: vec![dot], offers: vec![version(2)] }),
        Request::Push(Push { roster: None, versions: versions.clone() }),
        Request::Push(Push { roster: Some(3), versions: vec![Version { content: None, ..version(2) }] }),
        Request::Reserve(Reserve {
            roster: 2,
            name: name.clone(),
            attempt: dot,
            base,
            offers: versions.clone(),
        }),
        Request::Reserve(Reserve {
            roster: 2,
            name: name.clone(),
            attempt: dot,
            base: Base::Absent,
            offers: vec![],
        }),
        Request::Vote(Vote { roster: 2, version: version(2) }),
        Request::Release(Release { name: name.clone(), attempt: dot }),
        Request::Pull(Pull {
            wanted: seen.clone(),
            after: Some(Cursor::Within(name.clone(), Some(version(9).dot))),
        }),
        Request::Pull(Pull { wanted: Seen::default(), after: Some(Cursor::Closed(dot)) }),
        Request::Relay(Relay { versions: versions.clone(), until: "b".parse().unwrap() }),
        Request::Check(Check { dots: dots.clone() }),
        Request::Compare(Compare { buckets: vec![Claim { bucket, digest: [7; 8] }] }),
        Request::Audit(Audit { salt: 9, seen: [3; 16], after: after.clone(), ranges }),
        Request::Recall(Recall { after: after.clone(), until, holds: dots.clone() }),
        Request::Testify(Check { dots: dots.clone() }),
    ];
    let stub = Stub { dot, name: Some(name.clone()), by: Some(version(2).dot) };
    let part = NamePart {
        name: name.clone(),
        holds: vec![version(2).dot],
        versions: vec![Version { name: name.clone(), ..version(2) }],
        stubs: vec![stub],
        last: true,
    };
    let survivors =
        Survivors { holds: dots.clone(), versions: versions.clone(), superseded: vec![version(3).dot] };
    let database = Some(DatabaseId([5; 16]));
    let responses = vec![
        Response::Read(survivors.clone()),
        Response::Pushed(Pushed { refused: dots.clone() }),
        Response::Reserved,
        Response::Held,
        Response::Gone(survivors),
        Response::Voted,
        Response::Unvoted,
        Response::Done,
        Response::Page(Page {
            database,
            closed: dots.clone(),
            names: vec![part.clone()],
            next: Some(Cursor::Name(name)),
            ready: true,
        }),
        Response::NotReady("joining".to_owned()),
        Response::Behind(7),
        Response::Ahead(u64::MAX),
        Response::Invalid("no".to_owned()),
        Response::Superseded(dots.clone()),
        Response::Compared(Compared {
            database,
            answered: 1,
            splits: vec![Division { bucket, digests: vec![9; 8 * SPLIT] }],
            listed: vec![bucket],
            seen,
        }),
        Response::Audited(vec![0, 15]),
        Response::Recalled(Recalled { names: vec![part], gone: dots.clone(), next: after }),
        Response::Testified(Testimony { held: dots.clone(), gone: dots }),
    ];
    (requests, responses)
}

fn encoded() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (requests, responses) = examples();
    (requests.iter().map(Request::to_bytes).collect(), responses.iter().map(Response::to_bytes).collect())
}

fn request(bytes: &[u8]) -> Option<Request> {
    Request::from_bytes(bytes).ok()
}

fn response(bytes: &[u8]) -> Option<Response> {
    Response::from_bytes(bytes).ok()
}

/// The number of the variant is the second byte: every one up to the last has an example, and what
/// follows the last is no message.
#[test]
fn there_is_an_example_of_every_kind() {
    let (requests, responses) = encoded();
    for (messages, kinds) in [(&requests, 12), (&responses, 18)] {
        let of: std::collections::BTreeSet<u8> = messages.iter().map(|bytes| bytes[1]).collect();
        assert_eq!(of, (0..kinds).collect());
    }
    let unknown =
        |kind| minicbor::decode::<Request>(&[0x82, kind, 0x81, 0xa0]).unwrap_err().is_unknown_variant();
    assert!(!unknown(11) && unknown(12));
    let unknown =
        |kind| minicbor::decode::<Response>(&[0x82, kind, 0x81, 0xa0]).unwrap_err().is_unknown_variant();
    assert!(!unknown(17) && unknown(18));
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

#[test]
fn no_bytes_harm_the_parsers() {
    let (requests, responses) = encoded();
    fuzz::harms_neither((&requests, request), (&responses, response), MAX_MESSAGE_BYTES);
}
