//! What a store was trying to do when its driver failed.

use std::{borrow::Cow, error::Error, fmt};

/// Says what was tried; [`source`](Error::source) is the driver's own error.
#[derive(Debug)]
pub(super) struct Failure {
    tried: Cow<'static, str>,
    source: Box<dyn Error + Send + Sync>,
}

impl Failure {
    pub(super) fn new(
        tried: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            tried: tried.into(),
            source: source.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tried)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}
