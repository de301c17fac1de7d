//! Customers that are the application's, and are read by a view.

use sqlx::{AssertSqlSafe, Error, PgConnection, Row as _, postgres::PgRow};

use crate::store::sql::schema_name::SchemaName;

/// The table of the customers, or the application's view of its own.
const CUSTOMERS: &str = "customer_session_customers";

/// Types of identifiers. Those of fixed length are filled up with blanks when they are read, but not
/// when they are compared.
const ID: &[&str] = &["text", "varchar", "name"];
/// Types that are read as text. The driver has to ask the server for any type that is not built in, such
/// as `citext`, between the messages of a statement: behind a pooler in transaction mode it then fails.
const TEXT: &[&str] = &["text", "varchar", "bpchar", "name"];
const TIME: &[&str] = &["timestamptz"];
const FLAG: &[&str] = &["bool"];
const JSON: &[&str] = &["json", "jsonb", "text", "varchar"];

/// Collations of an identifier that can be compared with ours, which is "C".
const COLLATIONS: [&str; 2] = ["C", "default"];

/// The columns that the view must have.
const COLUMNS: [(&str, &[&str]); 18] = [
    ("id", ID),
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

/// Returns the name, the type and the collation of each column.
const ASK: &str = "SELECT a.attname::text, t.typname::text, coalesce((SELECT l.collname::text \
     FROM pg_collation l WHERE l.oid = a.attcollation), '') \
     FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid \
     WHERE a.attnum > 0 AND NOT a.attisdropped";

/// Epochs of the next customers, and whether there is nothing that could refer to them.
pub(super) const EPOCHS: &str = concat!(
    "SELECT e.customer_id, ",
    has_no_session!("e.customer_id"),
    " FROM customer_session_epochs e WHERE e.customer_id > $1 ORDER BY e.customer_id LIMIT $2"
);

/// Forgets the epochs of customers without sessions, of those that are locked.
pub(super) const FORGET_EPOCHS: &str = "DELETE FROM customer_session_epochs \
     WHERE customer_id = ANY($1) AND NOT EXISTS (SELECT 1 FROM customer_sessions s \
     WHERE s.customer_id = customer_session_epochs.customer_id)";

/// Returns what is wrong with the kind of table that the customers are in, and what to do. The two kinds
/// of stores have the same tables otherwise: a store of the wrong kind would purge the application's own
/// customers, through the view.
pub(super) async fn kind_problem(
    connection: &mut PgConnection,
    schema: &SchemaName,
    external_customers: bool,
    is_applied: bool,
) -> Result<Option<String>, Error> {
    let name = schema.qualified(CUSTOMERS);
    // Unless a schema is named, a table further down the search path is another service's.
    let any_schema = external_customers || schema.quoted().is_some();
    let ask = sqlx::raw_sql(AssertSqlSafe(format!(
        "SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = to_regclass('{name}') AND ({any_schema} OR n.nspname = current_schema())"
    )));
    let row = ask.fetch_optional(connection).await?;
    let kind: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
    Ok(match external_customers {
        true => problem_of_external(&name, kind.as_deref()),
        false => problem_of_own(&name, kind.as_deref(), is_applied),
    })
}

/// Ordinary tables and partitioned ones.
fn is_table(kind: Option<&str>) -> bool {
    matches!(kind, Some("r" | "p"))
}

fn problem_of_own(name: &str, kind: Option<&str>, is_applied: bool) -> Option<String> {
    let problem = match kind {
        None if is_applied => "is missing",
        Some(_) if !is_table(kind) => {
            "is not a table, but a view of the application's own customers"
        }
        _ => return None,
    };
    Some(format!(
        "{name} {problem}: build this store with `.external_customers()`, if the tables were made by \
         `MIGRATIONS_FOR_EXTERNAL_CUSTOMERS`; otherwise it needs a schema of its own, and the tables \
         that `MIGRATIONS` creates"
    ))
}

fn problem_of_external(name: &str, kind: Option<&str>) -> Option<String> {
    if is_table(kind) {
        return Some(format!(
            "{name} is a table, and this store was built with `.external_customers()`, which reads a \
             view: leave that setting out, if the tables were made by `MIGRATIONS`; otherwise choose \
             another schema, define the view there, and apply `MIGRATIONS_FOR_EXTERNAL_CUSTOMERS`"
        ));
    }
    (kind == Some("m")).then(|| {
        format!(
            "{name} is a materialized view, which goes on showing customers as they were; define a \
             plain view"
        )
    })
}

/// Returns what is wrong with the view, and what to do.
pub(super) async fn problem(
    connection: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Option<String>, Error> {
    let name = schema.qualified(CUSTOMERS);
    let ask = sqlx::raw_sql(AssertSqlSafe(format!(
        "{ASK} AND c.oid = to_regclass('{name}')"
    )));
    let rows = ask.fetch_all(connection).await?;
    let column = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let columns: Result<Vec<_>, Error> = rows.iter().map(column).collect();
    Ok(problem_of(&name, &columns?))
}

fn problem_of(name: &str, columns: &[(String, String, String)]) -> Option<String> {
    if columns.is_empty() {
        return Some(format!(
            "the view {name} is missing; define it over the application's own table of customers, as \
             the page `external_customers` of the guide shows"
        ));
    }
    for (column, types) in COLUMNS {
        let Some((_, found, collation)) = columns.iter().find(|(found, ..)| found == column) else {
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
        if column == "id" && !COLLATIONS.contains(&collation.as_str()) {
            return Some(format!(
                "the column id of the view {name} has the collation {collation}, and identifiers are \
                 compared byte by byte; add COLLATE \"C\" to it, and to the index that it is found by"
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
            |(name, types): (&str, &[&str])| (name.to_owned(), types[0].to_owned(), "C".to_owned());
        let mut columns = COLUMNS.map(column).to_vec();
        change(&mut columns);
        problem_of("auth.customers", &columns).unwrap_or_default()
    }

    #[test]
    fn the_first_problem_of_a_view_is_named() {
        assert_eq!(problem_with(|_| {}), "");
        let missing = problem_with(|columns| columns.clear());
        assert!(missing.contains("auth.customers is missing"), "{missing}");
        let fixed = problem_with(|columns| columns[0].1 = "bpchar".to_owned());
        assert!(fixed.contains("of type bpchar; cast it to text"), "{fixed}");
        let sorted = problem_with(|columns| columns[0].2 = "en-x-icu".to_owned());
        assert!(sorted.contains("collation en-x-icu"), "{sorted}");
        assert!(sorted.contains("add COLLATE \"C\""), "{sorted}");
        let of_others = problem_with(|columns| columns[6].2 = "en-x-icu".to_owned());
        assert_eq!(of_others, "");
        let lacking = problem_with(|columns| drop(columns.remove(15)));
        assert!(lacking.contains("no column deleted_at"), "{lacking}");
        assert!(lacking.contains("null of type timestamptz"), "{lacking}");
        let other = problem_with(|columns| columns[0].1 = "int8".to_owned());
        assert!(other.contains("column id"), "{other}");
        assert!(other.contains("of type int8; cast it to text"), "{other}");
        for column in [0, 6] {
            let extension = problem_with(|columns| columns[column].1 = "citext".to_owned());
            assert!(extension.contains("citext; cast it to text"), "{extension}");
        }
    }

    #[test]
    fn each_kind_of_store_refuses_the_customers_of_the_other() {
        for kind in [Some("r"), Some("p")] {
            assert_eq!(problem_of_own("customers", kind, true), None);
            let refused = problem_of_external("customers", kind).expect("a table");
            assert!(refused.contains("is a table"), "{refused}");
        }
        for kind in [Some("v"), Some("f"), None] {
            assert_eq!(problem_of_external("customers", kind), None);
            let refused = problem_of_own("customers", kind, true).expect("no table");
            assert!(refused.contains("`.external_customers()`"), "{refused}");
        }
        assert_eq!(problem_of_own("customers", None, false), None);
        let stale = problem_of_external("customers", Some("m")).expect("a copy");
        assert!(stale.contains("plain view"), "{stale}");
    }
}
