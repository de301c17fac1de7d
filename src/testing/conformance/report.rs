//! The result of a conformance check.

use std::fmt;

use super::harness::RuleResult;

/// The result of each rule of the contract.
#[derive(Clone, Debug, Default)]
#[must_use = "call `assert_passed`, or look at `failures`"]
pub struct Conformance {
    rules: Vec<(&'static str, Result<(), String>)>,
}

impl Conformance {
    /// Returns every rule by name, in the order in which they were checked, with what went wrong.
    pub fn rules(&self) -> impl Iterator<Item = (&'static str, Result<(), &str>)> {
        self.rules
            .iter()
            .map(|(rule, result)| (*rule, result.as_ref().copied().map_err(String::as_str)))
    }

    /// Returns the names of the rules that the store breaks.
    pub fn failures(&self) -> Vec<&'static str> {
        self.rules()
            .filter(|(_, result)| result.is_err())
            .map(|(rule, _)| rule)
            .collect()
    }

    /// Panics if the store breaks a rule: for use in a test.
    ///
    /// # Panics
    ///
    /// If a rule is broken, with the whole report.
    pub fn assert_passed(&self) {
        assert!(
            self.failures().is_empty(),
            "the store breaks its contract\n{self}"
        );
    }

    pub(super) fn add(&mut self, rule: &'static str, result: RuleResult) {
        self.rules
            .push((rule, result.map_err(|violation| violation.0)));
    }
}

impl fmt::Display for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rule, result) in self.rules() {
            match result {
                Ok(()) => writeln!(f, "passed  {rule}")?,
                Err(why) => writeln!(f, "FAILED  {rule}: {why}")?,
            }
        }
        Ok(())
    }
}
