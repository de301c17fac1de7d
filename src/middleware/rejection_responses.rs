//! The responses to requests that are not let in.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri,
    header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    cache_headers::CacheHeaders,
    guards::Guards,
    rejection::{Rejection, RejectionKind},
};
use crate::{config_error::ConfigError, details::Scopes, telemetry};

/// The realm of a layer's challenges, unless it has another.
pub(super) const DEFAULT_REALM: &str = "customer";

/// A function of the application that makes the response to a refused request.
pub(super) type Responder = dyn Fn(&Rejection) -> Response<Bytes> + Send + Sync;

/// The responses of one layer to refused requests, with their headers made in advance.
#[derive(Clone)]
pub(super) struct RejectionResponses {
    realm: String,
    /// The scopes that the layer requires.
    scopes: Scopes,
    /// The greatest age of a sign-in that the layer accepts.
    max_age: Option<Duration>,
    cache_headers: CacheHeaders,
    responder: Option<Arc<Responder>>,
    /// The sign-in page, to which people are sent in place of a 401.
    redirect: Option<HeaderValue>,
    missing_token: HeaderMap,
    multiple_tokens: HeaderMap,
    invalid_token: HeaderMap,
    forbidden: HeaderMap,
    insufficient_scope: HeaderMap,
    not_recent: HeaderMap,
    unavailable: HeaderMap,
}

impl Default for RejectionResponses {
    fn default() -> Self {
        let mut responses = Self {
            realm: DEFAULT_REALM.to_owned(),
            scopes: Scopes::default(),
            max_age: None,
            cache_headers: CacheHeaders::default(),
            responder: None,
            redirect: None,
            missing_token: HeaderMap::new(),
            multiple_tokens: HeaderMap::new(),
            invalid_token: HeaderMap::new(),
            forbidden: HeaderMap::new(),
            insufficient_scope: HeaderMap::new(),
            not_recent: HeaderMap::new(),
            unavailable: HeaderMap::new(),
        };
        responses.build_headers();
        responses
    }
}

impl RejectionResponses {
    /// Sets the realm of the challenges. One with control characters could end the header and begin
    /// another.
    pub(super) fn set_realm(&mut self, realm: &str) -> Result<(), ConfigError> {
        if realm.contains(|character: char| character.is_ascii_control()) {
            return Err(ConfigError::new(
                "a realm must not hold control characters, such as a line break",
            ));
        }
        realm.clone_into(&mut self.realm);
        self.build_headers();
        Ok(())
    }

    pub(super) fn set_cache_headers(&mut self, cache_headers: CacheHeaders) {
        self.cache_headers = cache_headers;
        self.build_headers();
    }

    pub(super) fn set_guards(&mut self, guards: &Guards) {
        self.scopes = guards.scopes().clone();
        self.max_age = guards.max_age();
        self.build_headers();
    }

    pub(super) fn set_responder(&mut self, responder: Arc<Responder>) {
        self.responder = Some(responder);
    }

    /// Sets the sign-in page. A path with two slashes, or with a backslash, would lead to another host.
    pub(super) fn set_redirect(&mut self, location: &str) -> Result<(), ConfigError> {
        let is_path = location.starts_with('/') && !location.starts_with("//");
        let is_address = || {
            let uri: Option<Uri> = location.parse().ok();
            let scheme = uri.as_ref().and_then(Uri::scheme_str);
            scheme.is_some_and(|scheme| ["http", "https"].contains(&scheme))
        };
        let is_visible = location
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let value = HeaderValue::from_str(location).ok();
        self.redirect = Some(
            value
                .filter(|_| is_visible && (is_path || is_address()))
                .ok_or(ConfigError::new(
                    "a sign-in page must be a path that begins with one slash, as in /sign-in, or an \
                     address with http or https",
                ))?,
        );
        Ok(())
    }

    pub(super) fn has_redirect(&self) -> bool {
        self.redirect.is_some()
    }

    /// Returns the response to a refused request, which sends people to the sign-in page if they are
    /// not signed in, or not recently enough.
    pub(super) fn respond_or_redirect(
        &self,
        rejection: Rejection,
        redirects: bool,
    ) -> Response<Bytes> {
        let redirect = self.redirect.as_ref().filter(|_| redirects);
        match redirect.filter(|_| rejection.status() == StatusCode::UNAUTHORIZED) {
            None => self.respond(rejection),
            Some(location) => {
                telemetry::rejected(&rejection.kind());
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::SEE_OTHER;
                let headers = response.headers_mut();
                headers.insert(LOCATION, location.clone());
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                self.cache_headers.apply_to(headers);
                response.extensions_mut().insert(rejection);
                response
            }
        }
    }

    /// Returns the response to a request that was refused for this reason, and logs it.
    pub(super) fn respond(&self, rejection: Rejection) -> Response<Bytes> {
        telemetry::rejected(&rejection.kind());
        let with_longer_wait;
        let headers = match rejection.kind() {
            RejectionKind::MissingToken => &self.missing_token,
            RejectionKind::MultipleTokens => &self.multiple_tokens,
            RejectionKind::InvalidToken => &self.invalid_token,
            RejectionKind::CrossSite | RejectionKind::Forbidden => &self.forbidden,
            RejectionKind::InsufficientScope => &self.insufficient_scope,
            RejectionKind::NotRecent => &self.not_recent,
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                match rejection.retry_after() {
                    Some(after) if after > Duration::from_secs(1) => {
                        with_longer_wait = with_retry_after(&self.unavailable, after);
                        &with_longer_wait
                    }
                    _ => &self.unavailable,
                }
            }
        };
        let mut response = match &self.responder {
            Some(responder) => self.complete(responder(&rejection), &rejection, headers),
            None => {
                let body = Bytes::from_static(rejection.problem().as_bytes());
                let mut response = Response::new(body);
                *response.status_mut() = rejection.status();
                *response.headers_mut() = headers.clone();
                response
            }
        };
        response.extensions_mut().insert(rejection);
        response
    }

    /// Makes a refusal of a response that the application made.
    ///
    /// A status of another class than the refusal's is replaced: a success would let the client
    /// believe that it is signed in, and an outage must not sign it out. The challenge stands beside
    /// the application's own, `no-store` replaces what the application says, and its `Retry-After` is
    /// kept.
    fn complete(
        &self,
        mut response: Response<Bytes>,
        rejection: &Rejection,
        required: &HeaderMap,
    ) -> Response<Bytes> {
        let is_in_class = if rejection.status().is_server_error() {
            response.status().is_server_error()
        } else {
            response.status().is_client_error()
        };
        if !is_in_class {
            *response.status_mut() = rejection.status();
        }
        // RFC 9110, section 15.5.2: a 401 has a challenge.
        let needs_challenge = response.status() == StatusCode::UNAUTHORIZED;
        let challenge = required.get(WWW_AUTHENTICATE).or_else(|| {
            let plain = self.missing_token.get(WWW_AUTHENTICATE);
            plain.filter(|_| needs_challenge)
        });
        let headers = response.headers_mut();
        if let Some(challenge) = challenge {
            headers.append(WWW_AUTHENTICATE, challenge.clone());
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = required.get(RETRY_AFTER) {
            headers.entry(RETRY_AFTER).or_insert_with(|| after.clone());
        }
        self.cache_headers.apply_to(headers);
        response
    }

    /// Builds the headers of each kind of response.
    ///
    /// RFC 6750, section 3, allows each attribute once, and an `error_description` of plain ASCII.
    fn build_headers(&mut self) {
        let cache_headers = self.cache_headers;
        let problem = || {
            let mut headers = HeaderMap::with_capacity(4);
            let json = HeaderValue::from_static("application/problem+json");
            headers.insert(CONTENT_TYPE, json);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            cache_headers.apply_to(&mut headers);
            headers
        };
        let problem_with = |name: HeaderName, value: String| {
            let mut headers = problem();
            // Always a valid value, since neither the realm nor our words hold control characters.
            headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
            headers
        };
        let challenge = |error: &str| problem_with(WWW_AUTHENTICATE, challenge(&self.realm, error));
        self.missing_token = challenge("");
        self.multiple_tokens = challenge(
            r#", error="invalid_request", error_description="More than one credential was sent""#,
        );
        self.invalid_token =
            challenge(r#", error="invalid_token", error_description="The token is invalid""#);
        self.insufficient_scope = challenge(&insufficient_scope(&self.scopes));
        // RFC 9470, section 3.
        let max_age = self.max_age.map_or(0, |max_age| max_age.as_secs());
        self.not_recent = challenge(&format!(
            r#", error="insufficient_user_authentication", error_description="A more recent sign-in is required", max_age="{max_age}""#
        ));
        self.forbidden = problem();
        self.unavailable = problem_with(RETRY_AFTER, "1".to_owned());
    }
}

/// Returns a challenge with these attributes beside the realm.
pub(super) fn challenge(realm: &str, attributes: &str) -> String {
    let realm = realm.replace('\\', "\\\\").replace('"', "\\\"");
    format!("Bearer realm=\"{realm}\"{attributes}")
}

/// Returns the attributes of a challenge that names the scopes required (RFC 6750, section 3.1). A
/// scope has no character that would have to be escaped.
pub(super) fn insufficient_scope(scopes: &Scopes) -> String {
    let error = r#", error="insufficient_scope", error_description="The session does not have the required scope""#;
    match scopes.is_empty() {
        true => error.to_owned(),
        false => format!("{error}, scope=\"{scopes}\""),
    }
}

/// Sets `Retry-After` in whole seconds (RFC 9110, section 10.2.3), rounded up.
fn with_retry_after(headers: &HeaderMap, after: Duration) -> HeaderMap {
    let seconds = after.as_secs();
    let seconds = seconds.saturating_add(u64::from(after.subsec_nanos() > 0));
    let mut headers = headers.clone();
    headers.insert(RETRY_AFTER, seconds.into());
    headers
}
