//! Each statement of the SQLite store has its index.

use super::{pepper::Peppers, sqlite::SqliteStore, statements};

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let store = SqliteStore::connect("sqlite::memory:", Peppers::none()).await;
    let store = store.expect("opened");
    store.migrate().await.expect("migrated");
    let find = statements::find(2);
    for statement in [
        find.as_str(),
        statements::LIST,
        statements::REVOKE,
        statements::REVOKE_CUSTOMER,
        statements::REWRITE,
        statements::sqlite::PUT_CUSTOMER_IF_KNOWN,
        statements::sqlite::IS_THERE,
        statements::sqlite::COUNT,
        statements::sqlite::PURGE,
    ] {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let plan = sqlx::query(explain)
            .fetch_all(store.pool().await.expect("checked"))
            .await;
        let plan = plan.expect("a plan");
        let plan: Vec<String> = plan
            .iter()
            .map(|row| sqlx::Row::get(row, "detail"))
            .collect();
        // Without arguments a table of one row is no table.
        let reads_all = |step: &String| {
            step.contains("TEMP B-TREE")
                || (step.starts_with("SCAN") && step != "SCAN CONSTANT ROW")
        };
        assert!(
            !plan.is_empty() && !plan.iter().any(reads_all),
            "{statement}: {plan:?}"
        );
    }
}
