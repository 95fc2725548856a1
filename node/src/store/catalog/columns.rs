//! What the catalog's columns hold, and how they are read.

use kepler_protocol::catalog::storage::{Stub, Survivor};
use kepler_protocol::name::Name;
use kepler_protocol::version::{Dot, Origin};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{CachedStatement, Params, Row, ToSql};

use crate::store::error::DatabaseError;

pub(super) fn survivor_at_0(row: &Row<'_>) -> std::result::Result<Survivor, DatabaseError> {
    decode(row.get_ref(0)?)
}

pub(super) fn stub_of(row: &Row<'_>) -> std::result::Result<Stub, DatabaseError> {
    let by: Option<String> = row.get(4)?;
    let by = by.map(|text| text.parse().map_err(|_| damaged("a stub's successor"))).transpose()?;
    let name = match row.get_ref(3)? {
        ValueRef::Null => None,
        _ => Some(name_at(row, 3)?),
    };
    Ok(Stub { dot: dot_at(row, 0)?, name, by })
}

pub(super) fn name_at(row: &Row<'_>, column: usize) -> std::result::Result<Name, DatabaseError> {
    let text = row.get_ref(column)?.as_str().map_err(|_| damaged("a name"))?;
    text.parse().map_err(|_| damaged("a name"))
}

pub(super) fn origin_at(row: &Row<'_>, column: usize) -> std::result::Result<Origin, DatabaseError> {
    let node = row.get_ref(column)?.as_str().map_err(|_| damaged("a node id"))?;
    let generation = row.get_ref(column + 1)?.as_str().map_err(|_| damaged("a generation"))?;
    Ok(Origin {
        node: node.parse().map_err(|_| damaged("a node id"))?,
        generation: u64::from_str_radix(generation, 16).map_err(|_| damaged("a generation"))?,
    })
}

pub(super) fn dot_at(row: &Row<'_>, column: usize) -> std::result::Result<Dot, DatabaseError> {
    let sequence = match row.get_ref(column + 2)? {
        ValueRef::Integer(number) => u64::try_from(number).map_err(|_| damaged("a sequence"))?,
        ValueRef::Blob(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| damaged("a sequence"))?),
        _ => return Err(damaged("a sequence")),
    };
    Ok(Dot { origin: origin_at(row, column)?, sequence })
}

/// A sequence number as its column keeps it, in its order.
pub(super) struct Sequence(pub u64);

impl ToSql for Sequence {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(match i64::try_from(self.0) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Blob(self.0.to_be_bytes().to_vec()),
        }))
    }
}

pub(super) fn generation(origin: &Origin) -> String {
    format!("{:016x}", origin.generation)
}

pub(super) fn dot_params(dot: &Dot) -> (&str, String, Sequence) {
    (dot.origin.node.as_str(), generation(&dot.origin), Sequence(dot.sequence))
}

/// What sorts just before everything that comes after `after`.
pub(super) fn after_params(after: Option<&Dot>) -> (&str, String, Sequence) {
    after.map_or(("", String::new(), Sequence(0)), dot_params)
}

pub(super) fn cap(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) fn saturate(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn encode<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("a vector takes all that is written")
}

pub(super) fn decode<'b, T: minicbor::Decode<'b, ()>>(
    value: ValueRef<'b>,
) -> std::result::Result<T, DatabaseError> {
    let bytes = value.as_blob().map_err(|_| damaged("a record"))?;
    minicbor::decode(bytes).map_err(|_| damaged("a record"))
}

pub(in crate::store) fn damaged(what: &str) -> DatabaseError {
    DatabaseError::Damaged(what.into())
}

pub(super) fn one<T>(
    statement: &mut CachedStatement<'_>,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> std::result::Result<T, DatabaseError>,
) -> std::result::Result<Option<T>, DatabaseError> {
    statement.query(params)?.next()?.map(read).transpose()
}

pub(in crate::store) fn all<T>(
    statement: &mut CachedStatement<'_>,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> std::result::Result<T, DatabaseError>,
) -> std::result::Result<Vec<T>, DatabaseError> {
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}
