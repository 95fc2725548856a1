//! What a peer has not seen, found without reading what it has.
//!
//! A walk by dot seeks over each origin's prefix that the peer has, so it costs what is unseen, plus
//! a seek an origin. Where very much is unseen, names are read in their order instead: then a page is
//! full after a few rows.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use kepler_protocol::catalog::seen::Seen;
use kepler_protocol::name::Name;
use kepler_protocol::version::{Dot, Origin};
use rusqlite::{Connection, params};

use super::columns::{after_params, damaged, dot_at, name_at};
use crate::store::error::DatabaseError;

type Result<T> = std::result::Result<T, DatabaseError>;

/// Rows that a walk by dot reads before the walk by name is tried.
const SPARSE: usize = 16_384;

/// Names after `after`, in order, at most `limit`, with a survivor or a stub that `theirs` lacks.
pub(super) fn names(db: &Connection, theirs: &Seen, after: Option<&Name>, limit: usize) -> Result<Vec<Name>> {
    names_within(db, theirs, after, limit, SPARSE)
}

fn names_within(
    db: &Connection,
    theirs: &Seen,
    after: Option<&Name>,
    limit: usize,
    sparse: usize,
) -> Result<Vec<Name>> {
    let mut found = BTreeSet::new();
    let mut read = 0;
    for sql in [FILES, STUBS] {
        let done = walk(db, sql, theirs, None, |name, _| {
            read += 1;
            if let Some(name) = name
                && after.is_none_or(|after| name > *after)
            {
                found.insert(name);
                if found.len() > limit {
                    found.pop_last();
                }
            }
            if read > sparse { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if done.is_break() {
            return by_name(db, theirs, after, limit);
        }
    }
    Ok(found.into_iter().collect())
}

/// Closed dots after `after`, in order, at most `limit`, that `theirs` lacks.
pub(super) fn closed(db: &Connection, theirs: &Seen, after: Option<&Dot>, limit: usize) -> Result<Vec<Dot>> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let _full = walk(db, CLOSED, theirs, after, |_, dot| {
        found.push(dot);
        if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

pub(super) const FILES: &str = "SELECT owner_node, generation, sequence, name FROM files
    WHERE (owner_node, generation, sequence) > (?1, ?2, ?3) ORDER BY owner_node, generation, sequence";
pub(super) const STUBS: &str = "SELECT owner_node, generation, sequence, name FROM stubs
    WHERE (owner_node, generation, sequence) > (?1, ?2, ?3) ORDER BY owner_node, generation, sequence";
pub(super) const CLOSED: &str = "SELECT owner_node, generation, sequence, NULL FROM stubs
    WHERE name IS NULL AND (owner_node, generation, sequence) > (?1, ?2, ?3)
    ORDER BY owner_node, generation, sequence";

pub(super) const BY_NAME: &str =
    "SELECT name, owner_node, generation, sequence FROM files WHERE deleted = 0 AND name > ?1
         UNION ALL SELECT name, owner_node, generation, sequence FROM files WHERE deleted = 1 AND name > ?1
         UNION ALL SELECT name, owner_node, generation, sequence FROM stubs WHERE name > ?1
         ORDER BY 1";

/// Visits what `theirs` lacks, by dot.
fn walk(
    db: &Connection,
    sql: &str,
    theirs: &Seen,
    after: Option<&Dot>,
    mut visit: impl FnMut(Option<Name>, Dot) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut cursor = after.copied();
    // The origin whose seen prefix was already skipped.
    let mut skipped: Option<Origin> = None;
    'seek: loop {
        let (node, generation, sequence) = after_params(cursor.as_ref());
        let mut rows = statement.query(params![node, generation, sequence])?;
        while let Some(row) = rows.next()? {
            let dot = dot_at(row, 0)?;
            let prefix = theirs.origin(&dot.origin).map_or(0, |set| set.prefix());
            if dot.sequence <= prefix && skipped != Some(dot.origin) {
                skipped = Some(dot.origin);
                cursor = Some(Dot { origin: dot.origin, sequence: prefix });
                continue 'seek;
            }
            if theirs.contains(&dot) {
                continue;
            }
            let name = match row.get_ref(3)? {
                rusqlite::types::ValueRef::Null => None,
                _ => Some(name_at(row, 3)?),
            };
            if visit(name, dot).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        return Ok(ControlFlow::Continue(()));
    }
}

/// The same as [`names`], by reading all names after `after` in order.
fn by_name(db: &Connection, theirs: &Seen, after: Option<&Name>, limit: usize) -> Result<Vec<Name>> {
    let mut statement = db.prepare_cached(BY_NAME)?;
    let mut rows = statement.query([after.map_or("", Name::as_str)])?;
    let mut found: Vec<Name> = Vec::new();
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        let text = row.get_ref(0)?.as_str().map_err(|_| damaged("a name"))?;
        if found.last().is_some_and(|last| last.as_str() == text) || theirs.contains(&dot_at(row, 1)?) {
            continue;
        }
        found.push(name_at(row, 0)?);
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {

    use kepler_protocol::catalog::storage::{Storage as _, Stub};

    use super::*;
    use crate::store::catalog::SqlStorage;
    use crate::store::room::Journal;
    use crate::store::schema;

    #[test]
    fn both_walks_find_the_same_names() {
        let mut db = schema::open_writer(std::path::Path::new(":memory:")).unwrap();
        schema::migrate(&mut db).unwrap();
        let mut theirs = Seen::default();
        let journal = Journal::default();
        let mut storage = SqlStorage::new(&db, &journal);
        for number in 0..400_u64 {
            let origin = Origin {
                node: ["a", "a-b", "c"][number as usize % 3].parse().unwrap(),
                generation: number % 2,
            };
            let dot = Dot { origin, sequence: number / 6 + 1 };
            let name = Some(format!("n{:03}", number * 7 % 300).parse().unwrap());
            storage.put_stub(&Stub { dot, name, by: None }).unwrap();
            if number % 5 < 3 || number < 150 {
                theirs.insert(dot);
            }
        }
        for limit in [1, 10, 1000] {
            let after: Name = "n100".parse().unwrap();
            for after in [None, Some(&after)] {
                let sparse = names_within(&db, &theirs, after, limit, usize::MAX).unwrap();
                let dense = names_within(&db, &theirs, after, limit, 0).unwrap();
                assert!(!sparse.is_empty());
                assert_eq!(sparse, dense, "limit {limit} after {after:?}");
            }
        }
    }
}
