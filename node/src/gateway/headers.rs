//! Headers: entity tags, dates, ranges, preconditions and file names, in and out.
//!
//! Everything from a client is parsed into a type or refused; nothing here panics on any text.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use kepler_protocol::time::UnixMillis;
use kepler_protocol::version::{Dot, MAX_CONTENT_TYPE_BYTES};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use warp::http::header::{self, HeaderMap, HeaderName};

use super::error::Failure;

/// What a list of entity tags in `If-Match` or `If-None-Match` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`
    Any,
    /// Opaque tags without quotes, and whether each is weak.
    List(Vec<(String, bool)>),
}

impl Tags {
    /// Parses one header of the name, or several, which read as one list.
    ///
    /// # Errors
    /// `bad-parameter` where it is neither `*` nor quoted tags.
    pub fn parse(headers: &HeaderMap, name: HeaderName) -> Result<Option<Self>, Failure> {
        let mut texts = Vec::new();
        for value in headers.get_all(&name) {
            texts.push(value.to_str().map_err(|_| bad_tags(&name))?);
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let text = texts.join(",");
        if text.trim() == "*" {
            return Ok(Some(Self::Any));
        }
        parse_tags(&text).map(|tags| Some(Self::List(tags))).ok_or_else(|| bad_tags(&name))
    }

    /// Strong comparison (RFC 9110, section 8.8.3.2): what `If-Match` needs.
    pub fn match_strongly(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|(text, weak)| !weak && text == tag),
        }
    }

    /// Weak comparison: what `If-None-Match` needs.
    pub fn match_weakly(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|(text, _)| text == tag),
        }
    }

    /// The only tag, if it is a version's and strong.
    pub fn only_version(&self) -> Option<Dot> {
        match self {
            Self::List(tags) => match tags.as_slice() {
                [(text, false)] => text.parse().ok(),
                _ => None,
            },
            Self::Any => None,
        }
    }
}

fn bad_tags(name: &HeaderName) -> Failure {
    Failure::bad_parameter(format!("the header {name} is neither * nor a list of ETags in double quotes"))
}

fn parse_tags(text: &str) -> Option<Vec<(String, bool)>> {
    let mut tags = Vec::new();
    let mut rest = text.trim_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (tag, after) = quoted.strip_prefix('"')?.split_once('"')?;
        tags.push((tag.to_owned(), weak));
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    (!tags.is_empty()).then_some(tags)
}

/// Which bytes a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them: no range, a unit other than bytes, or several ranges, which RFC 9110
    /// (section 14.2) lets a server answer whole.
    Whole,
    /// These; not empty and within the file.
    Part(Range<u64>),
    /// None that there are, or the range is malformed.
    Unsatisfiable,
}

/// Reads a `Range` header against a file of `size` bytes.
pub fn range(text: &str, size: u64) -> Wanted {
    let Some((unit, set)) = text.split_once('=') else { return Wanted::Unsatisfiable };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    if set.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::Unsatisfiable };
    let (first, last) = (first.trim_end(), last.trim_start());
    let wanted = match (digits(first), digits(last)) {
        (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => Some(first..size),
        (None, Some(suffix)) if first.is_empty() => Some(size.saturating_sub(suffix)..size),
        _ => None,
    };
    match wanted {
        Some(range) if range.start < range.end => Wanted::Part(range),
        _ => Wanted::Unsatisfiable,
    }
}

/// A number of any length; beyond 64 bits it is the greatest there is.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// What conditional headers say to a GET or HEAD (RFC 9110, section 13.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer; whether `Range` counts.
    Serve {
        /// False where `If-Range` names another version.
        range: bool,
    },
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates the conditional headers of a read. `modified` is when the file was written.
///
/// # Errors
/// `bad-parameter` where a list of ETags is malformed. Malformed dates are ignored, as RFC 9110 asks.
pub fn condition(headers: &HeaderMap, tag: &str, modified: UnixMillis) -> Result<Verdict, Failure> {
    let seconds = modified.0 / 1000;
    let date = |name| headers.get(name).and_then(|v| v.to_str().ok()).and_then(parse_http_date);
    if let Some(tags) = Tags::parse(headers, header::IF_MATCH)? {
        if !tags.match_strongly(tag) {
            return Ok(Verdict::Failed);
        }
    } else if date(header::IF_UNMODIFIED_SINCE).is_some_and(|since| seconds > since) {
        return Ok(Verdict::Failed);
    }
    if let Some(tags) = Tags::parse(headers, header::IF_NONE_MATCH)? {
        if tags.match_weakly(tag) {
            return Ok(Verdict::NotModified);
        }
    } else if date(header::IF_MODIFIED_SINCE).is_some_and(|since| seconds <= since) {
        return Ok(Verdict::NotModified);
    }
    let range = match headers.get(header::IF_RANGE) {
        None => true,
        // A date is a weak validator here (two writes may share a second), so it never matches.
        Some(value) => value.to_str().is_ok_and(|text| text.trim() == format!("\"{tag}\"")),
    };
    Ok(Verdict::Serve { range })
}

/// A date as HTTP writes it, at the latest in the year 9999.
pub fn http_date(time: UnixMillis) -> String {
    let since = Duration::from_millis(time.0.min(MAX_DATE_MILLIS));
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since)
}

/// The last millisecond of the year 9999.
const MAX_DATE_MILLIS: u64 = 253_402_300_799_999;

/// Seconds since the epoch of a date in any of the forms that RFC 9110 names.
fn parse_http_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Checks the media type that a client gives a file.
///
/// # Errors
/// `bad-parameter` where it is not `type/subtype` of visible ASCII, or too long to be kept.
pub fn content_type(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text.is_empty() && value.is_empty() {
        return Ok(None);
    }
    if is_media_type(text) {
        Ok(Some(text.to_owned()))
    } else {
        Err(Failure::bad_parameter(format!(
            "the Content-Type is not a media type such as text/plain of at most {MAX_CONTENT_TYPE_BYTES} bytes"
        )))
    }
}

/// Whether `text` reads `type/subtype`, with any parameters in visible ASCII.
pub fn is_media_type(text: &str) -> bool {
    let token = |t: &str| {
        !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    text.len() <= MAX_CONTENT_TYPE_BYTES
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// Media types that a browser may show in place: none of them runs anything.
const INLINE: [&str; 19] = [
    "audio/aac",
    "audio/flac",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
    "audio/webm",
    "image/avif",
    "image/bmp",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
    "application/json",
    "text/csv",
    "text/plain",
    "video/mp4",
    "video/ogg",
    "video/webm",
];

/// Whether a file of this type may be shown in place. HTML, SVG, XML and PDF never are.
pub fn is_inline(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    INLINE.iter().any(|known| known.eq_ignore_ascii_case(essence))
}

/// RFC 8187 attr-char.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// `Content-Disposition` by RFC 6266 and 8187: the last segment of `name`, without control and
/// bidirectional characters, in ASCII and, where that loses something, in UTF-8 too.
pub fn disposition(name: &str, inline: bool) -> String {
    let kind = if inline { "inline" } else { "attachment" };
    let segment = name.rsplit('/').next().unwrap_or_default();
    let clean: String = segment.chars().filter(|c| !c.is_control() && !is_invisible(*c)).collect();
    let clean = if clean.trim_matches(['.', ' ']).is_empty() { "download".to_owned() } else { clean };
    let fallback: String = clean
        .chars()
        .map(|c| if (c.is_ascii_graphic() || c == ' ') && !"\"\\%/".contains(c) { c } else { '_' })
        .collect();
    if fallback == clean {
        format!("{kind}; filename=\"{fallback}\"")
    } else {
        let encoded = utf8_percent_encode(&clean, ATTR_CHAR);
        format!("{kind}; filename=\"{fallback}\"; filename*=UTF-8''{encoded}")
    }
}

/// Characters that reorder or hide text: marks, embeddings, overrides, isolates, zero widths.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
