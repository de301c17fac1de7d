//! The URL of Polar's API.

use reqwest::Url;

use crate::{config_error::ConfigError, loopback::is_loopback};

/// Returns the URL, if it can be right.
pub(super) fn base_url(url: &str) -> Result<Url, ConfigError> {
    const UNUSABLE: ConfigError = ConfigError::new(
        "the base URL must look like https://api.polar.sh, without a user, a query or a fragment",
    );
    let url = Url::parse(url).map_err(|_| UNUSABLE)?;
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    match url.scheme() {
        _ if !is_bare => Err(UNUSABLE),
        "https" => Ok(url),
        "http" if is_local(&url) => Ok(url),
        "http" => Err(ConfigError::new(
            "the base URL must be https, since tokens would cross the network in the clear; http \
             is accepted on this machine alone",
        )),
        _ => Err(UNUSABLE),
    }
}

/// Returns `true` if the URL leads to this machine.
pub(super) fn is_local(url: &Url) -> bool {
    is_loopback(url.host_str().unwrap_or_default())
}
