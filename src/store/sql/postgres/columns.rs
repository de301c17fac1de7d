//! Parameters and columns of PostgreSQL.

use chrono::{DateTime, Utc};
use sqlx::{
    Decode, Encode, Error, Postgres, Row, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{
        PgArgumentBuffer, PgArguments, PgHasArrayType, PgRow, PgTypeInfo, PgValueRef, types::Oid,
    },
};

use crate::store::sql::rows::{Columns, Parameters};

impl Parameters for PgArguments {
    fn text(&mut self, text: Option<&str>) {
        bind(self, text);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        bind(self, bytes);
    }

    fn time(&mut self, time: Option<DateTime<Utc>>) {
        bind(self, time.map(Timestamp));
    }

    fn flag(&mut self, flag: bool) {
        bind(self, flag);
    }

    fn count(&mut self, count: u32) {
        bind(self, i64::from(count));
    }
}

/// Appends a parameter of a type that can always be encoded.
pub(super) fn bind<'t, T>(parameters: &mut PgArguments, value: T)
where
    T: Encode<'t, Postgres> + Type<Postgres>,
{
    sqlx::Arguments::add(parameters, value).expect("texts, times and flags can be encoded");
}

/// Appends an array of times.
pub(super) fn bind_times(parameters: &mut PgArguments, times: impl Iterator<Item = DateTime<Utc>>) {
    let times: Vec<_> = times.map(Timestamp).collect();
    bind(parameters, times);
}

impl Columns for PgRow {
    fn text(&self, index: usize) -> Result<Option<String>, Error> {
        self.try_get(index)
    }

    fn bytes(&self, index: usize) -> Result<Vec<u8>, Error> {
        self.try_get(index)
    }

    fn time(&self, index: usize) -> Result<Option<DateTime<Utc>>, Error> {
        let time: Option<Timestamp> = self.try_get(index)?;
        Ok(time.map(|time| time.0))
    }

    fn flag(&self, index: usize) -> Result<bool, Error> {
        self.try_get(index)
    }

    fn number(&self, index: usize) -> Result<u32, Error> {
        let number: i32 = self.try_get(index)?;
        u32::try_from(number).map_err(|error| Error::Decode(error.into()))
    }
}

/// A `timestamptz`. The driver could convert it too, but with a feature for which Cargo would let no
/// other crate of the application link SQLite.
struct Timestamp(DateTime<Utc>);

impl Timestamp {
    const OID: Oid = Oid(1184);
    const OID_OF_ARRAY: Oid = Oid(1185);

    /// The beginning of PostgreSQL's time, the year 2000, in microseconds since 1970.
    const BEGINNING: i64 = 946_684_800_000_000;
}

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Self::OID)
    }

    fn compatible(found: &PgTypeInfo) -> bool {
        found.oid() == Some(Self::OID)
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Self::OID_OF_ARRAY)
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // The range of `DateTime` ends before that of 64 bits.
        let micros = self.0.timestamp_micros() - Self::BEGINNING;
        buffer.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        let time = micros
            .checked_add(Self::BEGINNING)
            .and_then(DateTime::from_timestamp_micros);
        Ok(Self(time.ok_or("the time is out of range")?))
    }
}
