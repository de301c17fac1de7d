//! The version of the tables: the migrations that were applied, those that are missing, and whether
//! this release can work with the tables.
//!
//! Each migration writes its own row, so that one that was applied by hand is known too. A release
//! knows the versions of its own migrations. It works with newer tables, as long as their
//! `oldest_reader` is a version that it knows: migrations first expand, so that the release before
//! goes on working, and contract in a later release.

use sha2::{Digest, Sha256};

use super::rows::Columns;
use crate::store::error::StoreError;

/// Selects the version, the oldest reader and the checksum of each migration that was applied.
pub(super) const APPLIED: &str =
    "SELECT version, oldest_reader, checksum FROM customer_session_schema ORDER BY version";

/// Writes the checksum of a migration.
pub(super) const SET_CHECKSUM: &str =
    "UPDATE customer_session_schema SET checksum = $1 WHERE version = $2";

/// The migrations of a store, oldest first.
#[derive(Clone, Copy)]
pub(super) struct Migrations {
    /// The constant that has them.
    pub(super) name: &'static str,
    pub(super) sql: &'static [&'static str],
}

/// A migration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) version: u32,
    pub(super) oldest_reader: u32,
    /// `None` if it was applied by hand.
    pub(super) checksum: Option<String>,
}

impl Applied {
    /// Reads a row of [`APPLIED`].
    pub(super) fn read(row: &impl Columns) -> Result<Self, sqlx::Error> {
        let [version, oldest_reader] = [0, 1].map(|index| row.number(index));
        Ok(Self {
            version: version?,
            oldest_reader: oldest_reader?,
            checksum: row.text(2)?,
        })
    }
}

/// Returns the migrations that have not been applied, with their versions.
///
/// # Errors
///
/// This release cannot work with the tables, whatever is applied.
pub(super) fn missing(
    migrations: &Migrations,
    applied: &[Applied],
) -> Result<Vec<(u32, &'static str)>, StoreError> {
    let known = migrations.sql.len();
    if let Some(newer) = applied
        .iter()
        .max_by_key(|applied| applied.oldest_reader)
        .filter(|newer| newer.oldest_reader as usize > known)
    {
        return Err(StoreError::unavailable(format!(
            "the tables are of version {}, which needs a release that knows version {}; this one \
             knows {known}: use a newer release of customer-session",
            newer.version, newer.oldest_reader
        )));
    }
    let mut missing = Vec::new();
    for (version, &sql) in (1..).zip(migrations.sql) {
        let Some(applied) = applied.iter().find(|applied| applied.version == version) else {
            missing.push((version, sql));
            continue;
        };
        if applied
            .checksum
            .as_ref()
            .is_some_and(|applied| *applied != checksum(sql))
        {
            return Err(StoreError::unavailable(format!(
                "version {version} of the tables was made by other SQL than this release has; \
                 compare the tables with `{}`, and set its checksum in customer_session_schema to \
                 null if they are alike",
                migrations.name
            )));
        }
    }
    Ok(missing)
}

/// Checks that all `migrations` have been applied, and that this release can work with the tables.
pub(super) fn check(migrations: &Migrations, applied: &[Applied]) -> Result<(), StoreError> {
    match missing(migrations, applied)?.first() {
        None => Ok(()),
        Some((version, _)) => Err(StoreError::unavailable(format!(
            "version {version} of the tables is missing; call `migrate()` when the service starts, \
             or apply the SQL in `{}` yourself",
            migrations.name
        ))),
    }
}

/// The table of uses, of which a check asks whether it is there.
pub(super) const USES: &str = "customer_session_uses";

/// Returns the error of tables that lack that of the uses. A version that was applied by hand does not say
/// what it was made of.
pub(super) fn lacks_uses(migrations: &Migrations) -> StoreError {
    StoreError::unavailable(format!(
        "the table {USES} is missing; create it as `{}` does",
        migrations.name
    ))
}

/// Returns the checksum of a migration.
pub(super) fn checksum(sql: &str) -> String {
    hex::encode(Sha256::digest(sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIGRATIONS: &Migrations = &Migrations {
        name: "TWO_MIGRATIONS",
        sql: &["one", "two"],
    };

    fn applied(version: u32, oldest_reader: u32) -> Applied {
        Applied {
            version,
            oldest_reader,
            checksum: None,
        }
    }

    fn versions(applied: &[Applied]) -> Option<Vec<u32>> {
        let missing = missing(MIGRATIONS, applied).ok()?;
        Some(missing.iter().map(|(version, _)| *version).collect())
    }

    #[test]
    fn what_is_missing_is_applied() {
        assert_eq!(versions(&[]), Some(vec![1, 2]));
        assert_eq!(versions(&[applied(1, 1)]), Some(vec![2]));
        assert_eq!(versions(&[applied(2, 1)]), Some(vec![1]));
        assert_eq!(versions(&[applied(1, 1), applied(2, 1)]), Some(vec![]));
        let refused = check(MIGRATIONS, &[applied(1, 1)]).expect_err("one is missing");
        let says = format!("{refused:?}");
        assert!(says.contains("`TWO_MIGRATIONS`"), "{says}");
        assert!(check(MIGRATIONS, &[applied(1, 1), applied(2, 2)]).is_ok());
    }

    #[test]
    fn newer_tables_are_used_if_they_allow_it() {
        let with = |oldest_reader| [applied(1, 1), applied(2, 1), applied(3, oldest_reader)];
        for oldest_reader in [1, 2] {
            assert!(check(MIGRATIONS, &with(oldest_reader)).is_ok());
        }
        let refused = check(MIGRATIONS, &with(3)).expect_err("too new");
        let says = format!("{refused:?}");
        assert!(says.contains("newer release"), "{says}");
        // A later version does not take back what an earlier one needs.
        let contracted = [applied(1, 1), applied(2, 1), applied(3, 3), applied(4, 1)];
        assert!(check(MIGRATIONS, &contracted).is_err());
    }

    #[test]
    fn other_sql_under_the_same_version_is_noticed() {
        let with = |sql| {
            let mut one = applied(1, 1);
            one.checksum = Some(checksum(sql));
            [one, applied(2, 1)]
        };
        assert!(check(MIGRATIONS, &with("one")).is_ok());
        let refused = check(MIGRATIONS, &with("won")).expect_err("other SQL");
        let says = format!("{refused:?}");
        assert!(says.contains("with `TWO_MIGRATIONS`"), "{says}");
    }
}
