//! The entry point of `/kepler/catalog/1`: what comes in is never trusted. Every kind of message has its
//! examples in the tests of catalog and roster; here are those whose checks the entry point has to call.

use super::*;
use crate::catalog::message::{Compared, NamePart, Page, Push};
use crate::fuzz;
use crate::roster;
use crate::roster::Entry;
use crate::roster::message::{Answer, Question, RING_VERSION};
use crate::time::UnixMillis;
use crate::version::{Context, Origin, Version};
use crate::wire::MAX_CALL_BYTES;

fn version(sequence: u64) -> Version {
    Version {
        name: "x/y".parse().unwrap(),
        dot: Dot { origin: Origin { node: "a".parse().unwrap(), generation: 3 }, sequence },
        context: Context::default(),
        count: 1,
        content: None,
        created_at: UnixMillis(5),
    }
}

fn pushed(version: Version) -> Request {
    Request::Catalog(catalog::message::Request::Push(Push { roster: Some(1), versions: vec![version] }))
}

fn joining(zone: &str) -> Request {
    let zone = Some(zone.to_owned());
    let entry = Entry { key: [3; 32], database: DatabaseId([4; 16]), zone, capacity: 1 };
    let question = Question::Join { entry, replication_factor: 3, ring_version: RING_VERSION };
    let database = DatabaseId([4; 16]);
    Request::Council(roster::message::Request { number: 7, cluster: None, database, mark: 9, question })
}

fn page(version: Version) -> Response {
    let (name, dot) = (version.name.clone(), version.dot);
    let part = NamePart { name, holds: vec![dot], versions: vec![version], stubs: vec![], last: true };
    let database = Some(DatabaseId([5; 16]));
    let page = Page { database, closed: vec![dot], names: vec![part], next: None, ready: true };
    Response::Catalog(catalog::message::Response::Page(page))
}

fn compared() -> Response {
    let mut seen = Seen::default();
    for sequence in [1, 2, 4] {
        seen.insert(version(sequence).dot);
    }
    let compared = Compared { database: None, answered: 1, splits: vec![], listed: vec![], seen };
    Response::Catalog(catalog::message::Response::Compared(compared))
}

fn later(why: &str) -> Response {
    let (database, answer) = (DatabaseId([4; 16]), Answer::Later { why: why.to_owned() });
    let response =
        roster::message::Response { number: 7, constants: None, members: 3, database, mark: 9, answer };
    Response::Council(response)
}

fn encoded() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let requests = [pushed(version(1)), joining("eu")];
    let responses = [page(version(1)), compared(), later("busy")];
    (requests.map(|r| r.to_bytes()).into(), responses.map(|r| r.to_bytes()).into())
}

fn request(bytes: &[u8]) -> Option<Request> {
    Request::from_bytes(bytes).ok()
}

fn response(bytes: &[u8]) -> Option<Response> {
    Response::from_bytes(bytes).ok()
}

#[test]
fn no_bytes_make_the_entry_point_panic_or_linger() {
    let (requests, responses) = encoded();
    let both = [requests.clone(), responses.clone()].concat();
    fuzz::bears_anything(&both, MAX_CALL_BYTES + 1, 2_000, |bytes| (request(bytes), response(bytes)));
    fuzz::is_quick_with_much(&requests, MAX_CALL_BYTES, request);
    fuzz::is_quick_with_much(&responses, MAX_CALL_BYTES, response);
}

#[test]
fn the_entry_point_reserves_nothing_by_a_declared_length() {
    let (requests, responses) = encoded();
    fuzz::trusts_no_length(&requests, request);
    fuzz::trusts_no_length(&responses, response);
}

#[test]
fn the_entry_point_ignores_fields_of_later_versions() {
    let (requests, responses) = encoded();
    fuzz::ignores_later_fields(&requests, request);
    fuzz::ignores_later_fields(&responses, response);
}

#[test]
fn the_entry_point_refuses_what_catalog_and_council_would() {
    let huge = version(u64::MAX);
    assert!(request(&pushed(huge.clone()).to_bytes()).is_none());
    assert!(request(&joining(&"z".repeat(64)).to_bytes()).is_none());
    assert!(response(&page(huge).to_bytes()).is_none());
    assert!(response(&later(&"w".repeat(513)).to_bytes()).is_none());
    assert!(request(&vec![0; MAX_CALL_BYTES + 1]).is_none());
}
