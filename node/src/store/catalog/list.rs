//! Listings: a page of live names from the index, in the order of their bytes.
//!
//! A page costs O(log n) and its entries: a folded prefix is stepped over with one seek.

use kepler_protocol::catalog::storage::Survivor;
use kepler_protocol::name::Name;
use kepler_protocol::version::{Version, head};
use rusqlite::Connection;

use super::columns::{decode, name_at};
use crate::store::error::DatabaseError;

/// A live name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: Name,
    /// What a read of it returns.
    pub head: Version,
    /// Surviving versions beside the head that are not tombstones.
    pub conflicts: usize,
}

/// A page of live names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Names, in order.
    pub files: Vec<Listed>,
    /// What names were folded into, in order.
    pub prefixes: Vec<String>,
    /// Pass as `after` to go on; absent on the last page.
    pub next: Option<String>,
}

/// Where a walk begins: at this text, or just after it.
struct From {
    text: String,
    inclusive: bool,
}

/// Names that begin with `prefix`. With `delimiter`, names that hold it after the prefix are folded
/// into one entry that ends with it. Only entries after `after`; at most `limit` of them.
pub(crate) fn list(
    db: &Connection,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Page, DatabaseError> {
    let mut page = Page::default();
    let delimiter = delimiter.filter(|d| !d.is_empty());
    let mut last: Option<String> = None;
    let mut from = start(prefix, delimiter, after);
    while let Some(begin) = from.take() {
        let comparison = if begin.inclusive { ">=" } else { ">" };
        let sql = format!(
            "SELECT name, record FROM files WHERE deleted = 0 AND name {comparison} ?1 ORDER BY name"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query([&begin.text])?;
        let mut versions: Vec<Version> = Vec::new();
        loop {
            let row = rows.next()?;
            let name = row.map(|row| name_at(row, 0)).transpose()?;
            let name = name.filter(|name| name.as_str().starts_with(prefix));
            if let Some(first) = versions.first()
                && name.as_ref() != Some(&first.name)
            {
                last = Some(first.name.to_string());
                page.files.extend(listed(&mut versions));
            }
            let Some(name) = name else { return Ok(page) };
            if versions.is_empty() && page.files.len() + page.prefixes.len() >= limit {
                page.next = last;
                return Ok(page);
            }
            if let Some(folded) = fold(name.as_str(), prefix, delimiter) {
                from = successor(folded).map(|text| From { text, inclusive: true });
                last = Some(folded.to_owned());
                page.prefixes.push(folded.to_owned());
                break;
            }
            let survivor: Survivor = decode(row.expect("it has a name").get_ref(1)?)?;
            versions.push(survivor.version);
        }
    }
    Ok(page)
}

/// Nothing if all that could follow is folded into something that is not after `after`.
fn start(prefix: &str, delimiter: Option<&str>, after: Option<&str>) -> Option<From> {
    match after {
        Some(after) if after >= prefix => match fold(after, prefix, delimiter) {
            Some(folded) => successor(folded).map(|text| From { text, inclusive: true }),
            None => Some(From { text: after.to_owned(), inclusive: false }),
        },
        _ => Some(From { text: prefix.to_owned(), inclusive: true }),
    }
}

/// What `name` is folded into.
fn fold<'a>(name: &'a str, prefix: &str, delimiter: Option<&str>) -> Option<&'a str> {
    let delimiter = delimiter?;
    let rest = name.strip_prefix(prefix)?;
    let at = rest.find(delimiter)?;
    Some(&name[..prefix.len() + at + delimiter.len()])
}

/// The least text that sorts after everything that begins with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Surrogates are no characters, so the next one after U+D7FF is U+E000.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn listed(versions: &mut Vec<Version>) -> Option<Listed> {
    let head = head(versions.iter())?.clone();
    let conflicts = versions.len() - 1;
    versions.clear();
    Some(Listed { name: head.name.clone(), head, conflicts })
}
