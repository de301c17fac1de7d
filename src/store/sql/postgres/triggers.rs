//! The triggers that announce changes.

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use crate::store::sql::schema_name::SchemaName;

/// The error where a trigger is missing.
pub(super) const NO_TRIGGERS: &str = "triggers that announce changes are missing or switched off; drop \
     what is left of the tables and run `PostgresStore::migrate`, or create and enable the triggers \
     as `MIGRATIONS` does, or `MIGRATIONS_FOR_EXTERNAL_CUSTOMERS` for a store with \
     `.external_customers()`";

/// Endings of the names of the triggers, of a table whose rows change.
const OF_ROWS: &[&str] = &["deleted", "updated", "truncated"];

/// The tables with triggers, and the endings of their names.
const TRIGGERS: [(&str, &[&str]); 4] = [
    ("customer_sessions", OF_ROWS),
    ("customer_session_epochs", OF_ROWS),
    ("customer_session_changes", &["truncated"]),
    (CUSTOMERS, OF_ROWS),
];

/// A view if it is the application that has the customers; it then has no triggers.
const CUSTOMERS: &str = "customer_session_customers";

/// Returns an expression that is true if all triggers exist and are switched on.
pub(super) fn all_enabled(schema: &SchemaName) -> String {
    let tables = TRIGGERS.map(|(table, endings)| {
        let qualified = schema.qualified(table);
        let names: Vec<_> = endings
            .iter()
            .map(|ending| format!("'{table}_{ending}'"))
            .collect();
        format!(
            "tgrelid = to_regclass('{qualified}') AND tgname IN ({})",
            names.join(", ")
        )
    });
    let all: usize = TRIGGERS.iter().map(|(_, endings)| endings.len()).sum();
    let without_customers = all - OF_ROWS.len();
    let customers = schema.qualified(CUSTOMERS);
    format!(
        "(SELECT count(*) = CASE WHEN EXISTS (SELECT 1 FROM pg_class \
         WHERE oid = to_regclass('{customers}') AND relkind IN ('r', 'p')) \
         THEN {all} ELSE {without_customers} END \
         FROM pg_trigger WHERE tgenabled IN ('O', 'A') AND ({}))",
        tables.join(" OR ")
    )
}

/// Returns a statement that selects whether all triggers exist and are switched on.
pub(super) fn query(schema: &SchemaName) -> SqlStr {
    AssertSqlSafe(format!("SELECT {}", all_enabled(schema))).into_sql_str()
}
