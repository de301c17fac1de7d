//! The error of a setting.

use std::{error::Error, fmt, sync::Arc};

/// A setting that cannot be right.
///
/// It is found when the setting is made, before anything runs. `Display` says what is wrong and
/// what to do. It never repeats the value, which may be a secret.
///
/// ```
/// use customer_session::{CustomerSessionLayer, store::MemoryStore};
///
/// let layer = CustomerSessionLayer::new(MemoryStore::new());
/// let error = layer.trusted_origin("https://app.example.com/cart").expect_err("it has a path");
/// assert_eq!(
///     error.to_string(),
///     "a trusted origin must be a scheme, a host and perhaps a port, as in \
///      https://app.example.com, without a path",
/// );
/// ```
#[derive(Clone, Debug)]
pub struct ConfigError {
    problem: &'static str,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl ConfigError {
    /// Creates an error from a sentence that says what is wrong and what to do.
    pub(crate) const fn new(problem: &'static str) -> Self {
        Self {
            problem,
            source: None,
        }
    }

    /// Adds the error that led to this one.
    #[allow(dead_code, reason = "for settings of clients that features bring")]
    pub(crate) fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            source: Some(Arc::new(source)),
            ..self
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.problem)
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}
