//! Parameters and columns of SQLite: a time is microseconds since 1970, UTC.

use chrono::{DateTime, Utc};
use sqlx::{
    Error, Row, Sqlite,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::store::sql::rows::{Columns, Parameters};

impl Parameters for SqliteArguments {
    fn text(&mut self, text: Option<&str>) {
        bind(self, text);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        bind(self, bytes);
    }

    fn time(&mut self, time: Option<DateTime<Utc>>) {
        bind(self, time.map(|time| time.timestamp_micros()));
    }

    fn flag(&mut self, flag: bool) {
        bind(self, flag);
    }

    fn count(&mut self, count: u32) {
        bind(self, i64::from(count));
    }
}

/// Appends a parameter of a type that can always be encoded.
pub(super) fn bind<'t, T>(parameters: &mut SqliteArguments, value: T)
where
    T: sqlx::Encode<'t, Sqlite> + sqlx::Type<Sqlite>,
{
    sqlx::Arguments::add(parameters, value).expect("texts, integers and flags can be encoded");
}

impl Columns for SqliteRow {
    fn text(&self, index: usize) -> Result<Option<String>, Error> {
        self.try_get(index)
    }

    fn bytes(&self, index: usize) -> Result<Vec<u8>, Error> {
        self.try_get(index)
    }

    fn time(&self, index: usize) -> Result<Option<DateTime<Utc>>, Error> {
        let micros: Option<i64> = self.try_get(index)?;
        let time = |micros| {
            let out_of_range = || format!("{micros} µs since 1970 is out of range");
            DateTime::from_timestamp_micros(micros)
                .ok_or_else(|| Error::Decode(out_of_range().into()))
        };
        micros.map(time).transpose()
    }

    fn flag(&self, index: usize) -> Result<bool, Error> {
        Ok(self.try_get::<i64, _>(index)? != 0)
    }

    fn number(&self, index: usize) -> Result<u32, Error> {
        let number: i64 = self.try_get(index)?;
        u32::try_from(number).map_err(|error| Error::Decode(error.into()))
    }
}
