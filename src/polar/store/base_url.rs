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
    if let Some(error) = of_another_service(&url) {
        return Err(error);
    }
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

/// Returns the error of a URL that leads to Polar, but not to where the API begins.
fn of_another_service(url: &Url) -> Option<ConfigError> {
    match url.host_str() {
        Some("polar.sh" | "www.polar.sh") => Some(ConfigError::new(
            "the base URL is that of Polar's dashboard; its API is at https://api.polar.sh \
             (`PolarStore::PRODUCTION`)",
        )),
        Some("sandbox.polar.sh") => Some(ConfigError::new(
            "the base URL is that of the dashboard of Polar's sandbox; its API is at \
             https://sandbox-api.polar.sh (`PolarStore::SANDBOX`)",
        )),
        _ if url.path().trim_end_matches('/').ends_with("/v1") => Some(ConfigError::new(
            "the base URL must not end with /v1, which the store adds itself: https://api.polar.sh is \
             the whole of Polar's, a proxy's is what comes before /v1",
        )),
        _ => None,
    }
}

/// Returns `true` if the URL leads to this machine.
pub(super) fn is_local(url: &Url) -> bool {
    is_loopback(url.host_str().unwrap_or_default())
}
