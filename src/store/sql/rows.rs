//! A session and its customer as columns.

use chrono::{DateTime, Utc};
use sqlx::Error;

use crate::{
    customer::{Customer, CustomerData, CustomerKind},
    session::{CustomerSession, SessionSummary},
    store::{
        error::{Failure, StoreError},
        pepper::TokenHash,
        validation::{from_json, to_json},
    },
    token::SessionToken,
};

/// The parameters of a statement, in order.
pub(super) trait Parameters {
    fn text(&mut self, text: Option<&str>);
    fn time(&mut self, time: Option<DateTime<Utc>>);
    fn flag(&mut self, flag: bool);
}

/// The columns of a row, by their places.
pub(super) trait Columns {
    fn text(&self, place: usize) -> Result<Option<String>, Error>;
    fn time(&self, place: usize) -> Result<Option<DateTime<Utc>>, Error>;
    fn flag(&self, place: usize) -> Result<bool, Error>;
}

pub(super) fn texts<P: Parameters + Default>(texts: &[&str]) -> P {
    let mut parameters = P::default();
    for text in texts {
        parameters.text(Some(text));
    }
    parameters
}

/// `$1` to `$18`: the columns of a customer.
pub(super) fn customer<P: Parameters + Default>(customer: &Customer) -> Result<P, StoreError> {
    let CustomerData {
        id,
        created_at,
        modified_at,
        metadata,
        external_id,
        email,
        email_verified,
        kind,
        name,
        billing_name,
        billing_address,
        tax_id,
        locale,
        organization_id,
        default_payment_method_id,
        deleted_at,
        first_user_event_at,
        avatar_url,
    } = &**customer;
    let mut to = P::default();
    to.text(Some(id.as_str()));
    to.text(Some(organization_id.as_str()));
    to.time(Some(*created_at));
    to.time(*modified_at);
    to.text(Some(&to_json(metadata)?));
    to.text(external_id.as_deref());
    to.text(email.as_deref());
    to.flag(*email_verified);
    to.text(Some(&String::from(kind.clone())));
    to.text(name.as_deref());
    to.text(billing_name.as_deref());
    to.text(
        billing_address
            .as_ref()
            .map(to_json)
            .transpose()?
            .as_deref(),
    );
    to.text(tax_id.as_ref().map(to_json).transpose()?.as_deref());
    to.text(locale.as_deref());
    to.text(default_payment_method_id.as_deref());
    to.time(*deleted_at);
    to.time(*first_user_event_at);
    to.text(avatar_url.as_deref());
    Ok(to)
}

/// The next five: id, hash, and the three times of a session.
pub(super) fn bind_session(to: &mut impl Parameters, session: &CustomerSession, hash: &TokenHash) {
    to.text(Some(session.id.as_str()));
    to.text(Some(hash));
    to.time(Some(session.created_at));
    to.time(session.modified_at);
    to.time(Some(session.expires_at));
}

/// A row of [`find_statement`](super::find_statement), and the hash that it was found by.
pub(super) fn session(
    row: &impl Columns,
    token: &SessionToken,
) -> Result<(CustomerSession, TokenHash), StoreError> {
    let id = needed(row.text(0)).map_err(|why| damaged("a session", "id", why))?;
    let what = format!("session {id}");
    let read = Reader { row, what: &what };
    let customer_id = read.text(5, "customer.id")?;
    let mut data = CustomerData::new(
        customer_id.clone(),
        read.text(6, "customer.organization_id")?,
    );
    data.created_at = read.time(7, "customer.created_at")?;
    data.modified_at = read.some_time(8, "customer.modified_at")?;
    let metadata = read.text(9, "customer.metadata")?;
    if metadata != "{}" {
        data.metadata = read.json(&metadata, "customer.metadata")?;
    }
    data.external_id = read.some_text(10, "customer.external_id")?;
    data.email = read.some_text(11, "customer.email")?;
    data.email_verified = row
        .flag(12)
        .map_err(|why| damaged(&what, "customer.email_verified", why))?;
    data.kind = CustomerKind::from(read.text(13, "customer.kind")?);
    data.name = read.some_text(14, "customer.name")?;
    data.billing_name = read.some_text(15, "customer.billing_name")?;
    data.billing_address = read.some_json(16, "customer.billing_address")?;
    data.tax_id = read.some_json(17, "customer.tax_id")?;
    data.locale = read.some_text(18, "customer.locale")?;
    data.default_payment_method_id = read.some_text(19, "customer.default_payment_method_id")?;
    data.deleted_at = read.some_time(20, "customer.deleted_at")?;
    data.first_user_event_at = read.some_time(21, "customer.first_user_event_at")?;
    data.avatar_url = read.some_text(22, "customer.avatar_url")?;
    let hash = read.text(1, "token_hash")?;
    let mut summary = SessionSummary::new(
        id.as_str(),
        customer_id,
        read.time(2, "created_at")?,
        read.time(4, "expires_at")?,
    );
    summary.modified_at = read.some_time(3, "modified_at")?;
    Ok((summary.into_session(token.clone(), data.into()), hash))
}

/// A row of [`LIST`](super::LIST).
pub(super) fn summary(row: &impl Columns) -> Result<SessionSummary, StoreError> {
    let id = needed(row.text(0)).map_err(|why| damaged("a session", "id", why))?;
    let what = format!("session {id}");
    let read = Reader { row, what: &what };
    let mut summary = SessionSummary::new(
        id.as_str(),
        read.text(1, "customer_id")?,
        read.time(2, "created_at")?,
        read.time(4, "expires_at")?,
    );
    summary.modified_at = read.some_time(3, "modified_at")?;
    Ok(summary)
}

/// Reads columns; what cannot be read is named with the row's id.
struct Reader<'a, R> {
    row: &'a R,
    what: &'a str,
}

impl<R: Columns> Reader<'_, R> {
    fn text(&self, place: usize, name: &str) -> Result<String, StoreError> {
        needed(self.row.text(place)).map_err(|why| damaged(self.what, name, why))
    }

    fn some_text(&self, place: usize, name: &str) -> Result<Option<String>, StoreError> {
        let text = self.row.text(place);
        text.map_err(|why| damaged(self.what, name, why))
    }

    fn time(&self, place: usize, name: &str) -> Result<DateTime<Utc>, StoreError> {
        needed(self.row.time(place)).map_err(|why| damaged(self.what, name, why))
    }

    fn some_time(&self, place: usize, name: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        let time = self.row.time(place);
        time.map_err(|why| damaged(self.what, name, why))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        text: &str,
        name: &str,
    ) -> Result<T, StoreError> {
        from_json(text).map_err(|why| damaged(self.what, name, Error::Decode(why.into())))
    }

    fn some_json<T: serde::de::DeserializeOwned>(
        &self,
        place: usize,
        name: &str,
    ) -> Result<Option<T>, StoreError> {
        let text = self.some_text(place, name)?;
        text.map(|text| self.json(&text, name)).transpose()
    }
}

fn needed<T>(value: Result<Option<T>, Error>) -> Result<T, Error> {
    value?.ok_or_else(|| Error::Decode("it is null".into()))
}

fn damaged(what: &str, column: &str, why: Error) -> StoreError {
    StoreError::corrupt(Failure::new(format!("{what}: {column} is damaged"), why))
}
