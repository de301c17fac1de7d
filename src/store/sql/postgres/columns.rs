//! Parameters and columns as PostgreSQL has them.

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
}

pub(super) fn bind<'t, T>(to: &mut PgArguments, value: T)
where
    T: sqlx::Encode<'t, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::Arguments::add(to, value).expect("texts, times and flags can be encoded");
}

impl Columns for PgRow {
    fn text(&self, place: usize) -> Result<Option<String>, Error> {
        self.try_get(place)
    }

    fn time(&self, place: usize) -> Result<Option<DateTime<Utc>>, Error> {
        self.try_get(place)
    }

    fn flag(&self, place: usize) -> Result<bool, Error> {
        self.try_get(place)
    }
}
