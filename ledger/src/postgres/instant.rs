//! `timestamptz` as jiff's timestamp: on the wire it is microseconds since 2000-01-01 UTC.

use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;
/// The built-in type's number, fixed in Postgres' catalogue.
const TIMESTAMPTZ: Oid = Oid(1184);

/// A point in time of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instant(pub Timestamp);

impl Type<Postgres> for Instant {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl<'r> Decode<'r, Postgres> for Instant {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a time came in text form".into());
        }
        let micros = <i64 as Decode<Postgres>>::decode(value)?;
        let micros = micros.checked_add(EPOCH_2000_MICROS).ok_or("a time is out of range")?;
        Ok(Self(Timestamp::from_microsecond(micros)?))
    }
}

impl Encode<'_, Postgres> for Instant {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<Postgres>>::encode(self.0.as_microsecond() - EPOCH_2000_MICROS, buffer)
    }
}
