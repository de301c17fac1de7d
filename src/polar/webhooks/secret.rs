//! Secrets that webhooks are signed with.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, KeyInit};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::config_error::ConfigError;

/// Prefixes of Polar's secrets; they are the same for every endpoint.
const PREFIXES: [&str; 2] = ["whsec_", "polar_whs_"];

/// Characters that a secret must have after its prefix. Polar's have 32 or more.
const MIN_LEN: usize = 16;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the keys that a delivery may be signed with under `secret`: the secret as it is shown,
/// and what its base64 stands for.
pub(super) fn signing_keys(secret: &str) -> Result<Vec<Hmac<Sha256>>, ConfigError> {
    check(secret)?;
    let base64 = secret.strip_prefix(PREFIXES[0]);
    let decoded = base64.and_then(|base64| BASE64.decode(base64).ok().map(Zeroizing::new));
    let keys = [
        Some(secret.as_bytes()),
        decoded.as_ref().map(|key| &key[..]),
    ];
    let keys = keys.into_iter().flatten();
    // Never an error: HMAC takes keys of any length.
    Ok(keys
        .filter_map(|key| Hmac::new_from_slice(key).ok())
        .collect())
}

/// Refuses what cannot be a secret of Polar's. With an empty one any client could sign.
fn check(secret: &str) -> Result<(), ConfigError> {
    let problem = if secret.is_empty() {
        "the webhook secret is empty; set it to the secret that Polar shows for the endpoint"
    } else if secret.trim() != secret {
        "the webhook secret has white space or a line end around it; remove that"
    } else if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        "the webhook secret contains a space or another character that Polar's secrets do not \
         have; copy it again"
    } else if PREFIXES.contains(&secret) {
        "the webhook secret is only a prefix; copy the whole secret that Polar shows"
    } else if without_prefix(secret).len() < MIN_LEN {
        "the webhook secret is too short: it must have at least 16 characters after its prefix; \
         copy the whole secret that Polar shows"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(problem))
}

fn without_prefix(secret: &str) -> &str {
    let rest = PREFIXES
        .iter()
        .find_map(|prefix| secret.strip_prefix(prefix));
    rest.unwrap_or(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_cannot_be_right_is_an_error_that_says_what_to_do() {
        for (secret, says) in [
            ("", "is empty"),
            ("whsec_", "only a prefix"),
            ("polar_whs_", "only a prefix"),
            ("whsec_0123456789", "too short"),
            ("polar_whs_0123456789abcde", "too short"),
            ("0123456789abcde", "too short"),
            (" whsec_0123456789abcdef", "white space"),
            ("whsec_0123456789abcdef\n", "line end"),
            ("whsec_0123456789 abcdef", "contains a space"),
            ("whsec_0123456789abcdéf", "another character"),
        ] {
            let error = signing_keys(secret).expect_err(secret).to_string();
            assert!(error.contains(says), "{secret:?}: {error}");
            assert!(!error.contains("0123456789"), "it repeats the secret");
        }
    }

    #[test]
    fn a_secret_in_base64_has_two_keys() {
        let keys = |secret| signing_keys(secret).expect("a secret").len();
        assert_eq!(keys("whsec_0123456789abcdef"), 2);
        assert_eq!(keys("whsec_c2VjcmV0IG9mIGEgdGVzdA=="), 2);
        assert_eq!(keys("whsec_c2VjcmV0IG9mIGEgdGVzdA"), 2);
        assert_eq!(
            keys("whsec_c2VjcmV0IG9mIGEgdGVzdA="),
            2,
            "half of the padding"
        );
        assert_eq!(keys("whsec_c2VjcmV0IG9mIGEgdGVzd"), 1, "no base64");
        assert_eq!(keys("whsec_0123456789abcdef-"), 1);
        assert_eq!(keys("polar_whs_0123456789abcdef"), 1);
    }
}
