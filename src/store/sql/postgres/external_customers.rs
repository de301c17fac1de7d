//! Customers that are the application's, and are read by a view.

use sqlx::{AssertSqlSafe, Error, PgConnection, Row as _, postgres::PgRow};

use crate::store::sql::schema_name::SchemaName;

/// Types of which a text is read.
const TEXT: &[&str] = &["text", "varchar", "bpchar", "name", "citext"];
const TIME: &[&str] = &["timestamptz"];
const FLAG: &[&str] = &["bool"];
const JSON: &[&str] = &["json", "jsonb", "text", "varchar"];

/// The columns that the view must have.
const COLUMNS: [(&str, &[&str]); 18] = [
    ("id", TEXT),
    ("organization_id", TEXT),
    ("created_at", TIME),
    ("modified_at", TIME),
    ("metadata", JSON),
    ("external_id", TEXT),
    ("email", TEXT),
    ("email_verified", FLAG),
    ("kind", TEXT),
    ("name", TEXT),
    ("billing_name", TEXT),
    ("billing_address", JSON),
    ("tax_id", JSON),
    ("locale", TEXT),
    ("default_payment_method_id", TEXT),
    ("deleted_at", TIME),
    ("first_user_event_at", TIME),
    ("avatar_url", TEXT),
];

/// Returns the name, the type and the kind of table of each column.
const ASK: &str = "SELECT a.attname::text, t.typname::text, c.relkind::text \
     FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid \
     WHERE a.attnum > 0 AND NOT a.attisdropped";

/// Epochs of the next customers, and whether there is nothing that could refer to them.
pub(super) const EPOCHS: &str = "SELECT e.customer_id, NOT EXISTS (SELECT 1 \
     FROM customer_sessions s WHERE s.customer_id = e.customer_id) \
     FROM customer_session_epochs e WHERE e.customer_id > $1 ORDER BY e.customer_id LIMIT $2";

/// Forgets the epochs of customers without sessions, of those that are locked.
pub(super) const FORGET_EPOCHS: &str = "DELETE FROM customer_session_epochs \
     WHERE customer_id = ANY($1) AND NOT EXISTS (SELECT 1 FROM customer_sessions s \
     WHERE s.customer_id = customer_session_epochs.customer_id)";

/// Returns what is wrong with the view, and what to do.
pub(super) async fn problem(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Option<String>, Error> {
    let name = schema.qualified("customer_session_customers");
    let ask = sqlx::raw_sql(AssertSqlSafe(format!(
        "{ASK} AND c.oid = to_regclass('{name}')"
    )));
    let rows = ask.fetch_all(connection).await?;
    let column = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let columns: Result<Vec<_>, Error> = rows.iter().map(column).collect();
    Ok(problem_of(&name, &columns?))
}

fn problem_of(name: &str, columns: &[(String, String, String)]) -> Option<String> {
    let Some((_, _, kind)) = columns.first() else {
        return Some(format!(
            "the view {name} is missing; define it over the application's own table of customers, as \
             the page `external_customers` of the guide shows"
        ));
    };
    if kind == "m" {
        return Some(format!(
            "{name} is a materialized view, which goes on showing customers as they were; define a \
             plain view"
        ));
    }
    for (column, types) in COLUMNS {
        let Some((_, found, _)) = columns.iter().find(|(found, ..)| found == column) else {
            return Some(format!(
                "the view {name} has no column {column}; add it, as a null of type {} if the \
                 application has nothing like it",
                types[0]
            ));
        };
        if !types.contains(&found.as_str()) {
            return Some(format!(
                "the column {column} of the view {name} is of type {found}; cast it to {}",
                types[0]
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_with(change: impl Fn(&mut Vec<(String, String, String)>)) -> String {
        let column =
            |(name, types): (&str, &[&str])| (name.to_owned(), types[0].to_owned(), "v".to_owned());
        let mut columns = COLUMNS.map(column).to_vec();
        change(&mut columns);
        problem_of("auth.customers", &columns).unwrap_or_default()
    }

    #[test]
    fn the_first_problem_of_a_view_is_named() {
        assert_eq!(problem_with(|_| {}), "");
        let missing = problem_with(|columns| columns.clear());
        assert!(missing.contains("auth.customers is missing"), "{missing}");
        let stale = problem_with(|columns| columns[0].2 = "m".to_owned());
        assert!(stale.contains("plain view"), "{stale}");
        let lacking = problem_with(|columns| drop(columns.remove(15)));
        assert!(lacking.contains("no column deleted_at"), "{lacking}");
        assert!(lacking.contains("null of type timestamptz"), "{lacking}");
        let other = problem_with(|columns| columns[0].1 = "int8".to_owned());
        assert!(other.contains("column id"), "{other}");
        assert!(other.contains("of type int8; cast it to text"), "{other}");
        assert_eq!(
            problem_with(|columns| columns[6].1 = "citext".to_owned()),
            ""
        );
    }
}
