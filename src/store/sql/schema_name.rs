//! The schema that the tables are in.

use std::{fmt, sync::Arc};

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use crate::store::error::StoreError;

/// Longest name that PostgreSQL keeps whole, in bytes.
const MAX_LEN: usize = 63;

/// The prefix of all our tables, functions and triggers, and then comes `s` or `_`. The settings are
/// named `customer_session.…`, and are in no schema.
const PREFIX: &str = "customer_session";

/// The name of a schema, or none: then the tables are in the first one of the search path.
#[derive(Clone, Default)]
pub(super) struct SchemaName {
    /// Quoted.
    quoted: Option<Arc<str>>,
}

impl SchemaName {
    /// # Errors
    ///
    /// It is not a name that PostgreSQL keeps as it is, or one with quotes.
    pub(super) fn new(name: &str) -> Result<Self, StoreError> {
        let is_odd =
            |character: char| character.is_control() || matches!(character, '"' | '\'' | '\\');
        if name.is_empty() || name.len() > MAX_LEN || name.contains(is_odd) {
            return Err(StoreError::unavailable(
                "a schema's name has one to 63 bytes, without quotes, backslashes and control \
                 characters",
            ));
        }
        let quoted = Some(format!("\"{name}\"").into());
        Ok(Self { quoted })
    }

    /// Returns the name in quotes.
    pub(super) fn quoted(&self) -> Option<&str> {
        self.quoted.as_deref()
    }

    /// Puts the schema in front of all our names in a statement: the words that begin with
    /// `customer_session`.
    pub(super) fn qualify(&self, statement: &'static str) -> SqlStr {
        match &self.quoted {
            None => SqlStr::from_static(statement),
            Some(_) => AssertSqlSafe(self.qualified(statement)).into_sql_str(),
        }
    }

    /// Does what [`qualify`](Self::qualify) does with a text of any origin.
    pub(super) fn qualified(&self, statement: &str) -> String {
        let Some(quoted) = &self.quoted else {
            return statement.to_owned();
        };
        let mut qualified = String::with_capacity(statement.len() + 64);
        for (index, character) in statement.char_indices() {
            let rest = &statement[index..];
            let begins_word = !statement[..index].ends_with(is_part_of_word);
            let is_ours = rest
                .strip_prefix(PREFIX)
                .is_some_and(|rest| rest.starts_with(['s', '_']));
            if begins_word && is_ours {
                qualified.push_str(quoted);
                qualified.push('.');
            }
            qualified.push(character);
        }
        qualified
    }
}

fn is_part_of_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$' | '.')
}

impl fmt::Debug for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.quoted, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql;

    #[test]
    fn each_name_of_ours_gets_the_schema() {
        let auth = SchemaName::new("auth").expect("a name");
        for (statement, qualified) in [
            (
                "SELECT s.id FROM customer_sessions s WHERE s.customer_id = $1",
                "SELECT s.id FROM \"auth\".customer_sessions s WHERE s.customer_id = $1",
            ),
            (
                "DELETE FROM(customer_sessions)",
                "DELETE FROM(\"auth\".customer_sessions)",
            ),
            ("no_customer_sessions", "no_customer_sessions"),
            ("'customer_session.silent'", "'customer_session.silent'"),
            ("", ""),
        ] {
            assert_eq!(auth.qualified(statement), qualified);
            assert_eq!(SchemaName::default().qualified(statement), statement);
        }
        // Twice in one statement, and in a nested one.
        let keep = auth.qualified(sql::trees::KEEP);
        assert_eq!(keep.matches("\"auth\".").count(), 11);
    }

    #[test]
    fn a_name_that_would_not_stay_one_name_is_refused() {
        for name in ["", "a\"b", "a'b", "a\\b", "a\0", &"x".repeat(64)] {
            assert!(SchemaName::new(name).is_err(), "{name}");
        }
        for name in ["auth", "Auth-2", "ünïcode", &"x".repeat(63)] {
            assert!(SchemaName::new(name).is_ok(), "{name}");
        }
    }
}
