//! Parameters and rows that are the same in both databases.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgRow, PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Column, Decode, Encode, Postgres, Row as _, Sqlite, Type, TypeInfo, ValueRef};

use super::JoinError;

/// A parameter or a column's value. Integers of every width are `I64`; Postgres' `numeric` is `I64` when it is whole and
/// fits, else `F64` (rounded); its `json`, `jsonb`, `uuid` and times are `Text`, a time in RFC 3339. SQLite has no
/// booleans: they come back as `I64`, which [`Row::get`] takes for a `bool`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    I64(i64),
    F64(f64),
    Text(String),
    Bytes(Bytes),
}

macro_rules! value_from {
    ($($kind:ty => |$it:ident| $made:expr;)+) => {$(
        impl From<$kind> for Value {
            fn from($it: $kind) -> Self {
                $made
            }
        }
    )+};
}

value_from! {
    bool => |it| Self::Bool(it);
    i64 => |it| Self::I64(it);
    i32 => |it| Self::I64(it.into());
    u32 => |it| Self::I64(it.into());
    i16 => |it| Self::I64(it.into());
    u8 => |it| Self::I64(it.into());
    f64 => |it| Self::F64(it);
    &str => |it| Self::Text(it.to_owned());
    String => |it| Self::Text(it);
    &String => |it| Self::Text(it.clone());
    Vec<u8> => |it| Self::Bytes(it.into());
    &[u8] => |it| Self::Bytes(Bytes::copy_from_slice(it));
    Bytes => |it| Self::Bytes(it);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(it: Option<T>) -> Self {
        it.map_or(Self::Null, Into::into)
    }
}

/// What a column can be read as.
pub trait FromValue: Sized {
    /// `None` when the value is of another kind.
    fn from_value(value: &Value) -> Option<Self>;
}

impl FromValue for i64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::I64(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::F64(number) => Some(*number),
            // Exact up to 2^53, which is what asking for an f64 means.
            #[allow(clippy::cast_precision_loss)]
            Value::I64(number) => Some(*number as f64),
            _ => None,
        }
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(fact) => Some(*fact),
            Value::I64(number @ (0 | 1)) => Some(*number == 1),
            _ => None,
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes.to_vec()),
            _ => None,
        }
    }
}

impl FromValue for Value {
    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// Says which column is meant: its place from 0, or its name.
pub trait ColumnIndex: std::fmt::Display {
    fn place(&self, names: &[String]) -> Option<usize>;
}

impl ColumnIndex for usize {
    fn place(&self, names: &[String]) -> Option<usize> {
        (*self < names.len()).then_some(*self)
    }
}

impl ColumnIndex for &str {
    fn place(&self, names: &[String]) -> Option<usize> {
        names.iter().position(|name| name == self)
    }
}

/// A row of a query's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    names: Arc<[String]>,
    values: Vec<Value>,
}

impl Row {
    /// The column's value as a type: `i64`, `f64`, `bool`, `String`, `Vec<u8>`, [`Value`], or an `Option` of one.
    ///
    /// # Errors
    /// [`JoinError::Column`] when there is no such column or its value is of another type.
    pub fn get<T: FromValue>(&self, column: impl ColumnIndex) -> Result<T, JoinError> {
        let fault = |problem| JoinError::Column { column: column.to_string(), problem };
        let place = column.place(&self.names).ok_or_else(|| fault("there is no such column"))?;
        let value = self.values.get(place).ok_or_else(|| fault("there is no such column"))?;
        T::from_value(value).ok_or_else(|| fault("its value is of another type"))
    }

    /// Every value, in the order of the columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The columns' names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// A null whose type the server infers from where it stands.
struct Untyped;

impl Type<Postgres> for Untyped {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Untyped {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::Yes)
    }
}

pub(super) type PgQuery<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;
pub(super) type SqliteQuery<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

pub(super) fn pg_query<'q>(sql: &str, params: &[Value]) -> PgQuery<'q> {
    params.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())), |query, value| match value {
        Value::Null => query.bind(Untyped),
        Value::Bool(fact) => query.bind(*fact),
        Value::I64(number) => query.bind(*number),
        Value::F64(number) => query.bind(*number),
        Value::Text(text) => query.bind(text.clone()),
        Value::Bytes(bytes) => query.bind(bytes.to_vec()),
    })
}

pub(super) fn sqlite_query<'q>(sql: &str, params: &[Value]) -> SqliteQuery<'q> {
    params.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())), |query, value| match value {
        Value::Null => query.bind(None::<i64>),
        Value::Bool(fact) => query.bind(*fact),
        Value::I64(number) => query.bind(*number),
        Value::F64(number) => query.bind(*number),
        Value::Text(text) => query.bind(text.clone()),
        Value::Bytes(bytes) => query.bind(bytes.to_vec()),
    })
}

pub(super) fn pg_rows(rows: &[PgRow]) -> Result<Vec<Row>, JoinError> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let names: Arc<[String]> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    let read = |row: &PgRow| {
        let values = (0..names.len()).map(|place| {
            let fault = |problem| JoinError::Column { column: names.get(place).cloned().unwrap_or_default(), problem };
            let value = row.try_get_raw(place).map_err(|_| fault("there is no such column"))?;
            pg_value(value).map_err(|_| fault("its type cannot be read; cast it to text"))
        });
        Ok(Row { names: Arc::clone(&names), values: values.collect::<Result<_, JoinError>>()? })
    };
    rows.iter().map(read).collect()
}

fn pg_value(value: PgValueRef<'_>) -> Result<Value, BoxDynError> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let kind = value.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "BOOL" => Value::Bool(Decode::<Postgres>::decode(value)?),
        "INT2" => Value::I64(<i16 as Decode<Postgres>>::decode(value)?.into()),
        "INT4" => Value::I64(<i32 as Decode<Postgres>>::decode(value)?.into()),
        "INT8" => Value::I64(Decode::<Postgres>::decode(value)?),
        "FLOAT4" => Value::F64(<f32 as Decode<Postgres>>::decode(value)?.into()),
        "FLOAT8" => Value::F64(Decode::<Postgres>::decode(value)?),
        "BYTEA" => Value::Bytes(<Vec<u8> as Decode<Postgres>>::decode(value)?.into()),
        "NUMERIC" => numeric(value.as_bytes()?).ok_or("a number is out of range")?,
        "TIMESTAMPTZ" => {
            let at = <crate::postgres::Instant as Decode<Postgres>>::decode(value)?;
            Value::Text(at.0.to_string())
        }
        "UUID" => Value::Text(uuid::Uuid::from_slice(value.as_bytes()?)?.to_string()),
        // The binary form is the text behind a version byte.
        "JSONB" => match value.as_bytes()?.split_first() {
            Some((1, text)) => Value::Text(std::str::from_utf8(text)?.to_owned()),
            _ => return Err("unknown version".into()),
        },
        "TEXT" | "VARCHAR" | "CHAR" | "\"CHAR\"" | "NAME" | "JSON" | "BPCHAR" | "UNKNOWN" => {
            Value::Text(std::str::from_utf8(value.as_bytes()?)?.to_owned())
        }
        "VOID" => Value::Null,
        _ => return Err("unknown type".into()),
    })
}

/// Reads Postgres' binary `numeric`: count of base-10,000 digits, weight of the first, sign, scale, digits.
fn numeric(bytes: &[u8]) -> Option<Value> {
    let word = |at: usize| Some(i16::from_be_bytes(bytes.get(at * 2..at * 2 + 2)?.try_into().ok()?));
    let (count, weight, sign) = (usize::try_from(word(0)?).ok()?, word(1)?, word(2)?);
    let negative = match sign {
        0 => false,
        0x4000 => true,
        _ => return Some(Value::F64(f64::NAN)),
    };
    let digits: Vec<i16> = (0..count).map(|n| word(4 + n)).collect::<Option<_>>()?;
    let whole = i64::from(weight) + 1 >= i64::try_from(count).ok()?;
    if whole && weight < 5 {
        // Digits up to the weight, missing ones are zero.
        let places = usize::try_from(i32::from(weight) + 1).unwrap_or(0);
        let sum = (0..places).try_fold(0i64, |sum, n| {
            let digit = i64::from(digits.get(n).copied().unwrap_or(0));
            // Gathered as a negative number, whose range is the larger.
            sum.checked_mul(10_000)?.checked_sub(digit)
        });
        if let Some(number) = sum.and_then(|sum| if negative { Some(sum) } else { sum.checked_neg() }) {
            return Some(Value::I64(number));
        }
    }
    let size = digits
        .iter()
        .zip(0i32..)
        .fold(0.0, |sum, (digit, n)| sum + f64::from(*digit) * 10_000f64.powi(i32::from(weight) - n));
    Some(Value::F64(if negative { -size } else { size }))
}

pub(super) fn sqlite_rows(rows: &[SqliteRow]) -> Result<Vec<Row>, JoinError> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let names: Arc<[String]> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    let read = |row: &SqliteRow| {
        let values = (0..names.len()).map(|place| {
            sqlite_value(row, place).map_err(|_| JoinError::Column {
                column: names.get(place).cloned().unwrap_or_default(),
                problem: "its type cannot be read",
            })
        });
        Ok(Row { names: Arc::clone(&names), values: values.collect::<Result<_, JoinError>>()? })
    };
    rows.iter().map(read).collect()
}

fn sqlite_value(row: &SqliteRow, place: usize) -> sqlx::Result<Value> {
    let kind = {
        let value = row.try_get_raw(place)?;
        if value.is_null() {
            return Ok(Value::Null);
        }
        value.type_info().name().to_owned()
    };
    Ok(match kind.as_str() {
        "REAL" => Value::F64(row.try_get_unchecked(place)?),
        "TEXT" => Value::Text(row.try_get_unchecked(place)?),
        "BLOB" => Value::Bytes(row.try_get_unchecked::<Vec<u8>, _>(place)?.into()),
        _ => Value::I64(row.try_get_unchecked(place)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(words: &[i16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_whole_numeric_is_an_integer() {
        assert_eq!(numeric(&words(&[0, 0, 0, 0])), Some(Value::I64(0)));
        assert_eq!(numeric(&words(&[1, 0, 0, 0, 42])), Some(Value::I64(42)));
        assert_eq!(numeric(&words(&[2, 1, 0x4000, 0, 1, 2345])), Some(Value::I64(-12_345)));
        // 10,000 is stored without its zero digit.
        assert_eq!(numeric(&words(&[1, 1, 0, 0, 1])), Some(Value::I64(10_000)));
    }

    #[test]
    fn another_numeric_is_a_float() {
        assert_eq!(numeric(&words(&[2, 0, 0, 2, 1, 5000])), Some(Value::F64(1.5)));
        assert_eq!(numeric(&[0, 1]), None);
    }
}
