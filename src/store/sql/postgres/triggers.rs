//! The triggers that announce changes.

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use crate::store::sql::schema_name::SchemaName;

/// The error where a trigger is missing.
pub(super) const NO_TRIGGERS: &str = "triggers that announce changes are missing or switched off; drop \
     what is left of the tables and run `PostgresStore::migrate`, or create and enable the triggers \
     as `MIGRATIONS` does";

/// The tables with triggers, and what the names of these end with.
const TRIGGERS: [(&str, &[&str]); 3] = [
    ("customer_sessions", &["deleted", "updated", "truncated"]),
    (
        "customer_session_customers",
        &["deleted", "updated", "truncated"],
    ),
    ("customer_session_changes", &["truncated"]),
];

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
    let count: usize = TRIGGERS.iter().map(|(_, endings)| endings.len()).sum();
    format!(
        "(SELECT count(*) = {count} FROM pg_trigger WHERE tgenabled IN ('O', 'A') AND ({}))",
        tables.join(" OR ")
    )
}

/// Returns a statement that selects whether all triggers exist and are switched on.
pub(super) fn query(schema: &SchemaName) -> SqlStr {
    AssertSqlSafe(format!("SELECT {}", all_enabled(schema))).into_sql_str()
}
