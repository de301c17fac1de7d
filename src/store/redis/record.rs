//! A session's times as text, kept behind the hash of its token.

use chrono::DateTime;

use crate::{
    session::{CustomerSession, SessionSummary},
    store::error::StoreError,
};

/// Writes the times of a session.
pub(super) fn write_record(session: &CustomerSession) -> String {
    let modified = session
        .modified_at
        .map(|time| time.timestamp_micros().to_string());
    let ends = session
        .details
        .ends_at
        .map(|time| time.timestamp_micros().to_string());
    format!(
        " {} {} {} {}",
        session.created_at.timestamp_micros(),
        modified.as_deref().unwrap_or("-"),
        session.expires_at.timestamp_micros(),
        ends.as_deref().unwrap_or("-")
    )
}

/// Reads what [`write_record`] has written.
pub(super) fn read_record(
    id: &str,
    customer: &str,
    record: &str,
) -> Result<SessionSummary, StoreError> {
    let corrupt = || StoreError::corrupt(format!("session {id}: its record is corrupt"));
    let time = |text: &str| text.parse().ok().and_then(DateTime::from_timestamp_micros);
    let mut fields = record.split_ascii_whitespace();
    let mut next = || fields.next().ok_or_else(corrupt);
    let (created, modified, expires) = (next()?, next()?, next()?);
    // Older records have none.
    let ends = next().unwrap_or("-");
    let created_at = time(created).ok_or_else(corrupt)?;
    let expires_at = time(expires).ok_or_else(corrupt)?;
    let mut summary = SessionSummary::new(id, customer, created_at, expires_at);
    if modified != "-" {
        summary.modified_at = Some(time(modified).ok_or_else(corrupt)?);
    }
    if ends != "-" {
        summary.details.ends_at = Some(time(ends).ok_or_else(corrupt)?);
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_record_is_noticed() {
        let older = read_record("ses_1", "cus_1", " 1 - 3").expect("a record");
        assert_eq!(older.details.ends_at, None);
        let record = read_record("ses_1", "cus_1", " 1 - 3 4").expect("a record");
        assert_eq!(record.details.ends_at, DateTime::from_timestamp_micros(4));
        for record in [
            "",
            " 1",
            " 1 -",
            " one - 3",
            " 1 two 3",
            " 1 - 99999999999999999999",
            " 1 - 3 four",
        ] {
            let error = read_record("ses_1", "cus_1", record).expect_err(record);
            assert!(format!("{error:?}").contains("ses_1"), "{record}");
        }
    }
}
