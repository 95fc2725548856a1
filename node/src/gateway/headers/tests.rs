use kepler_protocol::time::UnixMillis;
use proptest::prelude::*;
use warp::http::HeaderValue;

use super::*;

fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

#[test]
fn lists_of_tags_are_read_as_one() {
    let name = header::IF_MATCH;
    let parse = |text: &str| Tags::parse(&headers(&[(name.clone(), text)]), name.clone());
    assert_eq!(parse("*").unwrap(), Some(Tags::Any));
    let two = Tags::List(vec![("a".to_owned(), false), ("b,c".to_owned(), true)]);
    assert_eq!(parse("\"a\" , W/\"b,c\"").unwrap(), Some(two.clone()));
    let split = headers(&[(name.clone(), "\"a\""), (name.clone(), "W/\"b,c\"")]);
    assert_eq!(Tags::parse(&split, name.clone()).unwrap(), Some(two.clone()));
    assert!(two.match_strongly("a") && !two.match_strongly("b,c") && two.match_weakly("b,c"));
    assert_eq!(Tags::parse(&HeaderMap::new(), name.clone()).unwrap(), None);
    for bad in ["a", "\"a", "\"a\"b", "\"a\" \"b\"", "w/\"a\"", "", ",", "*, \"a\""] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn dates_are_written_as_http_wants_them() {
    assert_eq!(http_date(UnixMillis(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(http_date(UnixMillis(784_111_777_999)), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(http_date(UnixMillis(u64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn dates_are_read_in_each_of_their_forms() {
    for text in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        " Sun, 06 Nov 1994 08:49:37 GMT ",
    ] {
        assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
    }
    for text in
        ["", "yesterday", "Sat, 31 Feb 2026 00:00:00 GMT", "Sun, 06 Nov 1994 24:00:00 GMT", "784111777"]
    {
        assert_eq!(parse_http_date(text), None, "{text}");
    }
}

#[test]
fn file_names_lose_what_deceives() {
    let cases = [
        ("a/b.txt", "attachment; filename=\"b.txt\""),
        ("a b", "attachment; filename=\"a b\""),
        ("x\u{202e}gpj.exe", "attachment; filename=\"xgpj.exe\""),
        ("q\"\\%.txt", "attachment; filename=\"q___.txt\"; filename*=UTF-8''q%22%5C%25.txt"),
        ("日本", "attachment; filename=\"__\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC"),
        ("\u{200f}", "attachment; filename=\"download\""),
        ("...", "attachment; filename=\"download\""),
    ];
    for (name, expected) in cases {
        assert_eq!(disposition(name, false), expected, "{name:?}");
    }
    assert_eq!(disposition("a", true), "inline; filename=\"a\"");
}

#[test]
fn media_types_are_checked_before_they_are_kept() {
    for good in ["text/plain", "text/plain; charset=utf-8", "application/vnd.a+b.c-d", "x/y;a=\"b c\""] {
        assert!(is_media_type(good), "{good}");
    }
    let long = format!("a/{}", "b".repeat(254));
    for bad in ["", "text", "/plain", "text/", "a b/c", "text/pläin", "text/plain\u{7f}", &long] {
        assert!(!is_media_type(bad), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_range_is_within_the_file_or_refused(text in "[a-z]{0,5}=?[0-9, -]{0,25}|\\PC{0,30}|bytes=[0-9]{0,22}-[0-9]{0,22}", size in prop_oneof![0..100u64, any::<u64>()]) {
        if let Wanted::Part(part) = range(&text, size) {
            prop_assert!(part.start < part.end && part.end <= size);
        }
    }

    #[test]
    fn a_range_selects_what_slicing_selects(size in 0..60u64, first in 0..70u64, last in 0..70u64) {
        let bytes: Vec<u64> = (0..size).collect();
        let pick = |text: String| match range(&text, size) {
            Wanted::Part(part) => bytes[part.start as usize..part.end as usize].to_vec(),
            Wanted::Whole => panic!("{text} is a range"),
            Wanted::Unsatisfiable => vec![],
        };
        let inside = |wanted: &dyn Fn(u64) -> bool| bytes.iter().copied().filter(|b| wanted(*b)).collect::<Vec<_>>();
        prop_assert_eq!(pick(format!("bytes={first}-{last}")), inside(&|b| b >= first && b <= last));
        prop_assert_eq!(pick(format!("bytes={first}-")), inside(&|b| b >= first));
        prop_assert_eq!(pick(format!("bytes=-{last}")), inside(&|b| b + last >= size));
    }

    #[test]
    fn dates_survive_the_way_there_and_back(seconds in 0..253_402_300_800u64) {
        prop_assert_eq!(parse_http_date(&http_date(UnixMillis(seconds * 1000))), Some(seconds));
    }

    #[test]
    fn no_date_makes_the_parser_panic(text in "[A-Z][a-z]{2}, [0-9]{1,3} (Jan|Feb|Dec|X) [0-9]{1,21} [0-9:]{0,12} GMT|\\PC{0,40}") {
        let _ = parse_http_date(&text);
    }

    #[test]
    fn any_disposition_is_a_header_and_hides_nothing(name in "\\PC{0,30}|[\u{0}-\u{ff}\u{200b}-\u{206f}]{0,30}", inline: bool) {
        let text = disposition(&name, inline);
        prop_assert!(HeaderValue::from_str(&text).is_ok() && text.is_ascii());
        prop_assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{}", text);
        // The quoted string ends where it should: nothing in a name can add a parameter.
        prop_assert_eq!(text.matches('"').count(), 2);
        prop_assert!(!text.contains('\\'));
    }
}

#[test]
fn no_bytes_harm_what_reads_headers() {
    let examples =
        ["bytes=0-1", "bytes=-18446744073709551615", "W/\"a\", \"b.0000000000000001.2\"", "text/plain; a=b"];
    let examples = examples.map(|text| text.as_bytes().to_vec());
    let (mut ranges, mut tags) = (0, 0);
    kepler_protocol::fuzz::bears_anything(&examples, 1 << 15, 2_000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        for size in [0, 1, 1 << 40, u64::MAX] {
            if let Wanted::Part(part) = range(&text, size) {
                assert!(part.start < part.end && part.end <= size, "{text:?} of {size}");
                ranges += 1;
            }
        }
        let _ = is_media_type(&text);
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            let headers = HeaderMap::from_iter([(header::IF_MATCH, value)]);
            if let Ok(Some(found)) = Tags::parse(&headers, header::IF_MATCH) {
                let _ = found.only_version();
                tags += 1;
            }
        }
    });
    assert!(ranges > 1_000 && tags > 100, "only {ranges} ranges and {tags} lists of tags were understood");
}
