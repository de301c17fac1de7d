//! Parameters and columns of PostgreSQL.

use chrono::{DateTime, Utc};
use sqlx::{
    Error, Row,
    postgres::{PgArguments, PgRow},
};

use crate::store::sql::rows::{Columns, Parameters};

impl Parameters for PgArguments {
    fn text(&mut self, text: Option<&str>) {
        bind(self, text);
    }

    fn time(&mut self, time: Option<DateTime<Utc>>) {
        bind(self, time);
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
    T: sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::Arguments::add(parameters, value).expect("texts, times and flags can be encoded");
}

impl Columns for PgRow {
    fn text(&self, index: usize) -> Result<Option<String>, Error> {
        self.try_get(index)
    }

    fn time(&self, index: usize) -> Result<Option<DateTime<Utc>>, Error> {
        self.try_get(index)
    }

    fn flag(&self, index: usize) -> Result<bool, Error> {
        self.try_get(index)
    }
}
