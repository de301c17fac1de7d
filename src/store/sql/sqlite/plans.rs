//! Tests that each statement of the SQLite store uses an index.

use super::{SqliteStore, customers, insertion, registry, uses};
use crate::store::{pepper::Peppers, sql};

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let store = SqliteStore::connect("sqlite::memory:", Peppers::none()).await;
    let store = store.expect("opened");
    store.migrate().await.expect("migrated");
    let find = sql::find_statement(2, &sql::schema_name::SchemaName::default());
    for statement in [
        find.as_str(),
        sql::LIST,
        sql::LIST_AFTER,
        sql::LIVE,
        sql::REVOKE,
        sql::REVOKE_OWNED,
        sql::DELETE,
        sql::ADD_EPOCH,
        sql::RAISE_EPOCH,
        sql::trees::KEEP,
        sql::trees::END_TREE,
        sql::HAS_ENDED,
        sql::REVOKE_CUSTOMER,
        registry::REHASH,
        registry::UPDATE_CUSTOMER,
        sql::REVOKE_FAMILY,
        sql::RESOLVE,
        sql::FAMILY,
        insertion::FIND_BY_HASH,
        registry::IS_DELETED,
        insertion::IS_REPLACED,
        registry::PURGE,
        registry::PURGE_ROTATIONS,
        registry::PURGE_REMAINS,
        registry::NOTE_NO_REMAINS,
        insertion::INSERT,
        insertion::SET_PARENT,
        insertion::KEEP_OVERLAPPING,
        insertion::END_OVERLAPS,
        sql::CUSTOMERS,
        customers::FORGET,
        customers::ERASE,
        uses::TOUCH,
    ] {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let pool = store.pool().await.expect("checked");
        let plan = sqlx::query(explain).fetch_all(pool).await.expect("a plan");
        let plan: Vec<String> = plan
            .iter()
            .map(|row| sqlx::Row::get(row, "detail"))
            .collect();
        assert!(
            !plan.is_empty() && !plan.iter().any(|step| reads_all(step)),
            "{statement}: {plan:?}"
        );
    }
}

/// Returns `true` if a step of a plan reads or sorts a whole table.
fn reads_all(step: &str) -> bool {
    step.contains("TEMP B-TREE")
        || (step.starts_with("SCAN")
            // Of `SELECT $1, ... WHERE`.
            && step != "SCAN CONSTANT ROW"
            // It holds only what is to be purged.
            && !step.ends_with("INDEX customer_session_epochs_with_remains"))
}
