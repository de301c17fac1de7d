//! Parameters and columns as SQLite has them: a time is microseconds since 1970, UTC.

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

    fn time(&mut self, time: Option<DateTime<Utc>>) {
        bind(self, time.map(|time| time.timestamp_micros()));
    }

    fn flag(&mut self, flag: bool) {
        bind(self, flag);
    }
}

pub(super) fn bind<'t, T>(to: &mut SqliteArguments, value: T)
where
    T: sqlx::Encode<'t, Sqlite> + sqlx::Type<Sqlite>,
{
    sqlx::Arguments::add(to, value).expect("texts, integers and flags can be encoded");
}

impl Columns for SqliteRow {
    fn text(&self, place: usize) -> Result<Option<String>, Error> {
        self.try_get(place)
    }

    fn time(&self, place: usize) -> Result<Option<DateTime<Utc>>, Error> {
        let micros: Option<i64> = self.try_get(place)?;
        let time = |micros| {
            DateTime::from_timestamp_micros(micros)
                .ok_or_else(|| Error::Decode(format!("{micros} microseconds are no time").into()))
        };
        micros.map(time).transpose()
    }

    fn flag(&self, place: usize) -> Result<bool, Error> {
        Ok(self.try_get::<i64, _>(place)? != 0)
    }
}
