//! A session and its customer as columns.

use chrono::{DateTime, Utc};
use sqlx::Error;

use crate::{
    customer::{Customer, CustomerData, CustomerKind},
    details::SessionDetails,
    page::{Page, SessionPage},
    session::{CustomerSession, SessionId, SessionSummary},
    store::{
        error::{ContextError, StoreError},
        json::{details_to_json, from_json, to_json},
        pepper::TokenHash,
    },
    token::SessionToken,
};

/// Appends the parameters of a statement, in order.
pub(super) trait Parameters {
    fn text(&mut self, text: Option<&str>);
    fn bytes(&mut self, bytes: &[u8]);
    fn time(&mut self, time: Option<DateTime<Utc>>);
    fn flag(&mut self, flag: bool);
    fn count(&mut self, count: u32);
}

/// The columns of a row, by their indexes.
pub(super) trait Columns {
    fn text(&self, index: usize) -> Result<Option<String>, Error>;
    fn bytes(&self, index: usize) -> Result<Vec<u8>, Error>;
    fn time(&self, index: usize) -> Result<Option<DateTime<Utc>>, Error>;
    fn flag(&self, index: usize) -> Result<bool, Error>;
    fn number(&self, index: usize) -> Result<u32, Error>;
}

/// Returns the parameters of a statement that takes texts alone.
pub(super) fn text_params<P: Parameters + Default>(texts: &[&str]) -> P {
    let mut parameters = P::default();
    for text in texts {
        parameters.text(Some(text));
    }
    parameters
}

/// Returns `$1` to `$18`: the columns of a customer.
pub(super) fn customer_params<P: Parameters + Default>(
    customer: &Customer,
) -> Result<P, StoreError> {
    let mut parameters = P::default();
    bind_customer(&mut parameters, customer)?;
    Ok(parameters)
}

/// Appends the next eighteen: the columns of a customer.
pub(super) fn bind_customer(
    parameters: &mut impl Parameters,
    customer: &Customer,
) -> Result<(), StoreError> {
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
    parameters.text(Some(id.as_str()));
    parameters.text(Some(organization_id.as_str()));
    parameters.time(Some(*created_at));
    parameters.time(*modified_at);
    parameters.text(Some(&to_json(metadata)?));
    parameters.text(external_id.as_deref());
    parameters.text(email.as_deref());
    parameters.flag(*email_verified);
    parameters.text(Some(&String::from(kind.clone())));
    parameters.text(name.as_deref());
    parameters.text(billing_name.as_deref());
    parameters.text(
        billing_address
            .as_ref()
            .map(to_json)
            .transpose()?
            .as_deref(),
    );
    parameters.text(tax_id.as_ref().map(to_json).transpose()?.as_deref());
    parameters.text(locale.as_deref());
    parameters.text(default_payment_method_id.as_deref());
    parameters.time(*deleted_at);
    parameters.time(*first_user_event_at);
    parameters.text(avatar_url.as_deref());
    Ok(())
}

/// Appends the next eight: id, hash, the five times of a session, and its other details.
pub(super) fn bind_session(
    parameters: &mut impl Parameters,
    session: &CustomerSession,
    hash: &TokenHash,
) -> Result<(), StoreError> {
    parameters.text(Some(session.id.as_str()));
    parameters.bytes(hash);
    parameters.time(Some(session.created_at));
    parameters.time(session.modified_at);
    parameters.time(Some(session.expires_at));
    parameters.time(session.details.ends_at);
    parameters.time(session.details.authenticated_at);
    parameters.text(details_to_json(&session.details)?.as_deref());
    Ok(())
}

/// Binds the end and the details of an overlapping session.
pub(super) fn bind_end(
    parameters: &mut impl Parameters,
    session: &CustomerSession,
) -> Result<(), StoreError> {
    parameters.time(Some(session.expires_at));
    parameters.text(details_to_json(&session.details)?.as_deref());
    Ok(())
}

/// Reads a row of [`find_statement`](super::find_statement): the session with its last use, and the hash
/// under which it is kept.
pub(super) fn found_session(
    row: &impl Columns,
    token: &SessionToken,
) -> Result<(CustomerSession, TokenHash), StoreError> {
    let (mut session, hash) = session(row, token)?;
    let reader = Reader::new(row, &session.id);
    session.details.last_used_at = reader.optional_time(26, "used_at")?;
    Ok((session, hash))
}

/// Reads a row that begins with the columns of a session and its customer: the session without its last
/// use, and the hash under which it is kept.
pub(super) fn session(
    row: &impl Columns,
    token: &SessionToken,
) -> Result<(CustomerSession, TokenHash), StoreError> {
    let id = session_id(row)?;
    let reader = Reader::new(row, &id);
    let customer = customer(&reader)?;
    let (created_at, expires_at) = (reader.time(2, "created_at")?, reader.time(4, "expires_at")?);
    let mut summary = SessionSummary::new(id, customer.id.clone(), created_at, expires_at);
    summary.modified_at = reader.optional_time(3, "modified_at")?;
    summary.details = reader.details(23)?;
    let hash = reader.hash(1, "token_hash")?;
    Ok((summary.into_session(token.clone(), customer), hash))
}

/// Reads the rows of [`LIST`](super::LIST) or [`LIST_AFTER`](super::LIST_AFTER).
pub(super) fn page(rows: &[impl Columns], page: &Page) -> Result<SessionPage, StoreError> {
    let sessions = rows.iter().map(summary).collect::<Result<_, _>>()?;
    Ok(SessionPage::cut(sessions, page))
}

/// Reads the columns of a session without its token and its customer.
pub(super) fn summary(row: &impl Columns) -> Result<SessionSummary, StoreError> {
    let id = session_id(row)?;
    let reader = Reader::new(row, &id);
    let customer_id = reader.text(1, "customer_id")?;
    let (created_at, expires_at) = (reader.time(2, "created_at")?, reader.time(4, "expires_at")?);
    let mut summary = SessionSummary::new(id, customer_id, created_at, expires_at);
    summary.modified_at = reader.optional_time(3, "modified_at")?;
    summary.details = reader.details(5)?;
    summary.details.last_used_at = reader.optional_time(8, "used_at")?;
    Ok(summary)
}

fn session_id(row: &impl Columns) -> Result<SessionId, StoreError> {
    let id = required(row.text(0)).map_err(|error| corrupt_column("a session", "id", error))?;
    Ok(id.into())
}

/// Reads the columns of the customer.
fn customer(reader: &Reader<'_, impl Columns>) -> Result<Customer, StoreError> {
    let mut data = CustomerData::new(
        reader.text(5, "customer.id")?,
        reader.text(6, "customer.organization_id")?,
    );
    data.created_at = reader.time(7, "customer.created_at")?;
    data.modified_at = reader.optional_time(8, "customer.modified_at")?;
    let metadata = reader.text(9, "customer.metadata")?;
    if metadata != "{}" {
        data.metadata = reader.json(&metadata, "customer.metadata")?;
    }
    data.external_id = reader.optional_text(10, "customer.external_id")?;
    data.email = reader.optional_text(11, "customer.email")?;
    data.email_verified = reader.flag(12, "customer.email_verified")?;
    data.kind = CustomerKind::from(reader.text(13, "customer.kind")?);
    data.name = reader.optional_text(14, "customer.name")?;
    data.billing_name = reader.optional_text(15, "customer.billing_name")?;
    data.billing_address = reader.optional_json(16, "customer.billing_address")?;
    data.tax_id = reader.optional_json(17, "customer.tax_id")?;
    data.locale = reader.optional_text(18, "customer.locale")?;
    data.default_payment_method_id =
        reader.optional_text(19, "customer.default_payment_method_id")?;
    data.deleted_at = reader.optional_time(20, "customer.deleted_at")?;
    data.first_user_event_at = reader.optional_time(21, "customer.first_user_event_at")?;
    data.avatar_url = reader.optional_text(22, "customer.avatar_url")?;
    Ok(data.into())
}

/// Reads columns; an error names the column and the session's id.
struct Reader<'a, R> {
    row: &'a R,
    record: String,
}

impl<'a, R: Columns> Reader<'a, R> {
    fn new(row: &'a R, id: &SessionId) -> Self {
        let record = format!("session {id}");
        Self { row, record }
    }

    fn text(&self, index: usize, name: &str) -> Result<String, StoreError> {
        required(self.row.text(index)).map_err(|error| self.corrupt(name, error))
    }

    fn hash(&self, index: usize, name: &str) -> Result<TokenHash, StoreError> {
        let bytes = self.row.bytes(index);
        let hash = bytes.and_then(|bytes| {
            let hash = TokenHash::try_from(bytes.as_slice());
            hash.map_err(|error| Error::Decode(error.into()))
        });
        hash.map_err(|error| self.corrupt(name, error))
    }

    fn optional_text(&self, index: usize, name: &str) -> Result<Option<String>, StoreError> {
        let text = self.row.text(index);
        text.map_err(|error| self.corrupt(name, error))
    }

    fn time(&self, index: usize, name: &str) -> Result<DateTime<Utc>, StoreError> {
        required(self.row.time(index)).map_err(|error| self.corrupt(name, error))
    }

    fn optional_time(&self, index: usize, name: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        let time = self.row.time(index);
        time.map_err(|error| self.corrupt(name, error))
    }

    fn flag(&self, index: usize, name: &str) -> Result<bool, StoreError> {
        let flag = self.row.flag(index);
        flag.map_err(|error| self.corrupt(name, error))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        text: &str,
        name: &str,
    ) -> Result<T, StoreError> {
        from_json(text).map_err(|error| self.corrupt(name, Error::Decode(error.into())))
    }

    fn optional_json<T: serde::de::DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<Option<T>, StoreError> {
        let text = self.optional_text(index, name)?;
        text.map(|text| self.json(&text, name)).transpose()
    }

    /// Reads three columns, of which the first is that of `ends_at`.
    fn details(&self, first: usize) -> Result<SessionDetails, StoreError> {
        let details = self.optional_json(first + 2, "details")?;
        let mut details: SessionDetails = details.unwrap_or_default();
        details.ends_at = self.optional_time(first, "ends_at")?;
        details.authenticated_at = self.optional_time(first + 1, "authenticated_at")?;
        Ok(details)
    }

    fn corrupt(&self, name: &str, error: Error) -> StoreError {
        corrupt_column(&self.record, name, error)
    }
}

fn required<T>(value: Result<Option<T>, Error>) -> Result<T, Error> {
    value?.ok_or_else(|| Error::Decode("it is NULL".into()))
}

fn corrupt_column(record: &str, column: &str, error: Error) -> StoreError {
    StoreError::corrupt(ContextError::new(
        format!("reading {record}: {column} is corrupt"),
        error,
    ))
}
