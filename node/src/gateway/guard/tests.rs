use proptest::prelude::*;
use warp::http::HeaderValue;

use super::*;

fn check_one(version: Version, pairs: &[(&'static str, &str)], local: &str) -> Result<(), Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let uri = Uri::from_static("/v1/ring");
    let head = Head {
        method: &Method::GET,
        uri: &uri,
        version,
        headers: &headers,
        route: Some(Route::Ring),
        local: local.parse().unwrap(),
    };
    check(&head, &["kepler.example".parse().unwrap()], &Door::default(), 1 << 10)
}

#[test]
fn the_address_that_the_client_connected_to_is_ours() {
    let host = [("host", "192.0.2.7:3000")];
    assert!(check_one(Version::HTTP_11, &host, "192.0.2.7").is_ok());
    assert!(check_one(Version::HTTP_11, &host, "::ffff:192.0.2.7").is_ok());
    let foreign = check_one(Version::HTTP_11, &host, "192.0.2.8").unwrap_err();
    assert_eq!(foreign.kind(), "foreign-host");
}

#[test]
fn before_http_1_1_there_may_be_no_host_but_then_no_origin_is_ours() {
    assert!(check_one(Version::HTTP_10, &[], "127.0.0.1").is_ok());
    let page = check_one(Version::HTTP_10, &[("origin", "http://localhost")], "127.0.0.1");
    assert_eq!(page.unwrap_err().kind(), "foreign-origin");
}

proptest! {
    #[test]
    fn no_host_or_origin_gets_past_by_its_spelling(
        host in "[a-z0-9.:@\\[\\]/-]{0,20}",
        origin in "(https?://)?[a-z0-9.:@\\[\\]/-]{0,20}",
    ) {
        // The dot keeps it from being localhost or an address by chance.
        let foreign = format!("{host}.evil.test");
        prop_assert!(check_one(Version::HTTP_11, &[("host", &foreign)], "127.0.0.1").is_err());
        let pairs = [("host", "localhost"), ("origin", &origin)];
        let passed = check_one(Version::HTTP_11, &pairs, "127.0.0.1").is_ok();
        prop_assert!(!passed, "{}", origin);
    }
}
