//! The access token of an organization.

use http::HeaderValue;
use zeroize::Zeroizing;

use crate::config_error::ConfigError;

/// The beginning of the access tokens that Polar makes for an organization.
const PREFIX: &str = "polar_oat_";

/// Returns the header's value, marked as sensitive.
///
/// The token of a person reads the customers of all organizations of that person, so that they would
/// all be let in.
pub(super) fn credential(
    access_token: &str,
    is_any_accepted: bool,
) -> Result<HeaderValue, ConfigError> {
    const UNUSABLE: ConfigError = ConfigError::new(
        "the organization access token contains a space, a line end or another character that no \
         token has; copy it again from Polar's settings",
    );
    if access_token.is_empty() {
        return Err(ConfigError::new(
            "the organization access token is empty; create one in Polar's settings",
        ));
    }
    if !access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UNUSABLE);
    }
    if !access_token.starts_with(PREFIX) && !is_any_accepted {
        return Err(of_another_kind(access_token));
    }
    let credential = Zeroizing::new(format!("Bearer {access_token}"));
    let mut credential = HeaderValue::from_str(&credential).map_err(|_| UNUSABLE)?;
    credential.set_sensitive(true);
    Ok(credential)
}

fn of_another_kind(token: &str) -> ConfigError {
    let kinds = [
        (
            "polar_pat_",
            "this is a personal access token, which would let in the customers of all organizations \
             of that person; create an organization access token, which begins with polar_oat_, in \
             the settings of the organization",
        ),
        (
            "polar_cst_",
            "this is the token of a customer's session, not the organization access token, which \
             begins with polar_oat_",
        ),
        (
            "polar_mst_",
            "this is the token of a member's session, not the organization access token, which \
             begins with polar_oat_",
        ),
        (
            "whsec_",
            "this is the secret of a webhook endpoint, not the organization access token, which \
             begins with polar_oat_; are the two swapped?",
        ),
        (
            "polar_whs_",
            "this is the secret of a webhook endpoint, not the organization access token, which \
             begins with polar_oat_; are the two swapped?",
        ),
    ];
    let kind = kinds.iter().find(|(prefix, _)| token.starts_with(prefix));
    ConfigError::new(kind.map_or(
        "an organization access token begins with polar_oat_; if a proxy of yours takes tokens of \
         its own, call `accept_any_access_token`",
        |(_, problem)| *problem,
    ))
}
