//! Names and parameters as URLs spell them.
//!
//! A path is percent-decoded once, segment by segment: `+` is literal and `%2F` is refused, so a
//! name has no second spelling. In queries `+` is a blank, as forms and URL libraries write it.

use std::borrow::Cow;

use kepler_protocol::name::Name;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::error::Failure;

/// What stays as it is in a path segment: RFC 3986 unreserved, and sub-delims that nobody mistakes.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b',')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'+');

/// Parses the part of a path after `/v1/files/`.
///
/// # Errors
/// `bad-name`: what is wrong and what to write instead.
pub fn decode(raw: &str) -> Result<Name, Failure> {
    if raw.ends_with('/') {
        return Err(Failure::bad_name("the name ends with a slash: remove it, there are no folders"));
    }
    let mut text = String::with_capacity(raw.len());
    for (i, segment) in raw.split('/').enumerate() {
        if i > 0 {
            text.push('/');
        }
        let decoded = percent_decode(segment).ok_or_else(|| {
            Failure::bad_name("the name has a % that two hex digits do not follow, or is not UTF-8")
        })?;
        if decoded.contains('/') {
            return Err(Failure::bad_name("the name has %2F: a slash separates segments, write it as /"));
        }
        text.push_str(&decoded);
    }
    parse(&text)
}

/// Parses a name that is plain text.
///
/// # Errors
/// `bad-name`.
pub fn parse(text: &str) -> Result<Name, Failure> {
    text.parse().map_err(|error: kepler_protocol::name::InvalidName| Failure::bad_name(error.to_string()))
}

/// The path of a file: what `Location` says.
pub fn location(name: &Name) -> String {
    let mut out = String::from("/v1/files");
    for segment in name.as_str().split('/') {
        out.push('/');
        out.extend(utf8_percent_encode(segment, SEGMENT));
    }
    out
}

/// Strict: every `%` begins two hex digits and the result is UTF-8.
fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let whole = bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'%')
        .all(|(i, _)| bytes.get(i + 1..i + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)));
    if !whole {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
}

/// The parameters of a query, each known and given at most once.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a raw query string.
    ///
    /// # Errors
    /// `bad-parameter` for a parameter that is not in `known` (a misspelt one must not be ignored:
    /// it may be the durability), given twice, or not percent-encoded UTF-8.
    pub fn parse(raw: &str, known: &[&str]) -> Result<Self, Failure> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| percent_decode(&text.replace('+', " ")).map(Cow::into_owned);
            let (Some(key), Some(value)) = (plain(key), plain(value)) else {
                return Err(Failure::bad_parameter("the query is not percent-encoded UTF-8"));
            };
            if !known.contains(&key.as_str()) {
                let shown: String = key.chars().take(40).collect();
                let takes = if known.is_empty() { "no parameters".to_owned() } else { known.join(", ") };
                return Err(Failure::bad_parameter(format!(
                    "there is no parameter {shown:?}: this call takes {takes}"
                )));
            }
            if pairs.iter().any(|(k, _)| *k == key) {
                return Err(Failure::bad_parameter(format!("the parameter {key} is given twice")));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// A parameter's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A parameter that is not empty, parsed.
    ///
    /// # Errors
    /// `bad-parameter` with `expected`.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str, expected: &str) -> Result<Option<T>, Failure> {
        let parse = |text: &str| {
            text.parse().map_err(|_| Failure::bad_parameter(format!("the parameter {key} is not {expected}")))
        };
        self.get(key).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_decoded_once_a_segment() {
        let cases = [
            ("a", "a"),
            ("a/b.txt", "a/b.txt"),
            ("a+b", "a+b"),
            ("a%2Bb", "a+b"),
            ("a%20b", "a b"),
            ("a%2520b", "a%20b"),
            ("%E6%97%A5/%e6%9c%ac", "日/本"),
            ("%61", "a"),
        ];
        for (raw, name) in cases {
            assert_eq!(decode(raw).unwrap().as_str(), name, "{raw}");
        }
        let bad = [
            "", "/", "a/", "/a", "a//b", "a%2Fb", "a%2fb", "%", "%4", "%zz", "%+1", "%ff", "..", "%2e%2e",
            "a/./b", "a%00", "a%0A", "%C2%85",
        ];
        for raw in bad {
            assert_eq!(decode(raw).unwrap_err().kind(), "bad-name", "{raw:?}");
        }
    }

    #[test]
    fn a_query_takes_what_is_known_and_nothing_else() {
        let query = Query::parse("prefix=a+b%2B&limit=3&", &["prefix", "limit"]).unwrap();
        assert_eq!((query.get("prefix"), query.get("after")), (Some("a b+"), None));
        assert_eq!(query.parsed::<usize>("limit", "a number").unwrap(), Some(3));
        for bad in ["x=1", "limit=1&limit=1", "limit=%", "limit=%ff", "Limit=1"] {
            assert_eq!(Query::parse(bad, &["limit"]).unwrap_err().kind(), "bad-parameter", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_finds_its_way_through_a_url(text in "\\PC{1,40}(/\\PC{1,20}){0,3}") {
            if let Ok(name) = text.parse::<Name>() {
                let path = location(&name);
                prop_assert!(path.is_ascii());
                let raw = path.strip_prefix("/v1/files/").unwrap();
                prop_assert_eq!(decode(raw).unwrap(), name);
            }
        }

        #[test]
        fn no_path_or_query_makes_the_parsers_panic(raw in "[a-z%/+.0-9A-F]{0,40}|\\PC{0,40}") {
            if let Ok(name) = decode(&raw) {
                prop_assert_eq!(decode(location(&name).strip_prefix("/v1/files/").unwrap()).unwrap(), name);
            }
            let _ = Query::parse(&raw, &["a"]);
        }
    }
}
