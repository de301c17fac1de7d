//! The answers to a request that is not let in.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    caching::Caching,
    rejection::{Rejection, RejectionKind},
};
use crate::observe;

pub(super) type Responder = dyn Fn(&Rejection) -> Response<Bytes> + Send + Sync;

/// How a layer answers those it refuses. The headers are made beforehand.
#[derive(Clone)]
pub(super) struct Answers {
    realm: String,
    caching: Caching,
    responder: Option<Arc<Responder>>,
    missing_token: HeaderMap,
    multiple_tokens: HeaderMap,
    invalid_token: HeaderMap,
    cross_site: HeaderMap,
    unavailable: HeaderMap,
}

impl Default for Answers {
    fn default() -> Self {
        let mut answers = Self {
            realm: "customer".to_owned(),
            caching: Caching::default(),
            responder: None,
            missing_token: HeaderMap::new(),
            multiple_tokens: HeaderMap::new(),
            invalid_token: HeaderMap::new(),
            cross_site: HeaderMap::new(),
            unavailable: HeaderMap::new(),
        };
        answers.prepare();
        answers
    }
}

impl Answers {
    pub(super) fn set_caching(&mut self, caching: Caching) {
        self.caching = caching;
        self.prepare();
    }

    /// Puts `realm` into the challenges, unless it holds what cannot stand in a header.
    pub(super) fn set_realm(&mut self, realm: &str) {
        if realm.contains(|it: char| it.is_ascii_control()) {
            observe::realm_refused();
        } else {
            realm.clone_into(&mut self.realm);
            self.prepare();
        }
    }

    pub(super) fn set_responder(&mut self, responder: Arc<Responder>) {
        self.responder = Some(responder);
    }

    /// RFC 6750, section 3: each attribute once, `error_description` in plain ASCII.
    fn prepare(&mut self) {
        let caching = self.caching;
        let realm = self.realm.replace('\\', "\\\\").replace('"', "\\\"");
        let plain = || {
            let mut headers = HeaderMap::with_capacity(4);
            let json = HeaderValue::from_static("application/problem+json");
            headers.insert(CONTENT_TYPE, json);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            caching.tell(&mut headers);
            headers
        };
        let headers = |name: HeaderName, value: String| {
            let mut headers = plain();
            // Never an error: neither the realm nor our own words hold control characters.
            headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
            headers
        };
        let challenge =
            |error: &str| headers(WWW_AUTHENTICATE, format!("Bearer realm=\"{realm}\"{error}"));
        self.missing_token = challenge("");
        self.multiple_tokens = challenge(
            r#", error="invalid_request", error_description="More than one credential was sent""#,
        );
        self.invalid_token =
            challenge(r#", error="invalid_token", error_description="The token is invalid""#);
        self.cross_site = plain();
        self.unavailable = headers(RETRY_AFTER, "1".to_owned());
    }

    pub(super) fn answer(&self, rejection: Rejection) -> Response<Bytes> {
        observe::rejected(&rejection.kind());
        let later;
        let headers = match rejection.kind() {
            RejectionKind::MissingToken => &self.missing_token,
            RejectionKind::MultipleTokens => &self.multiple_tokens,
            RejectionKind::InvalidToken => &self.invalid_token,
            RejectionKind::CrossSite => &self.cross_site,
            RejectionKind::Overloaded | RejectionKind::StoreUnavailable => {
                match rejection.retry_after() {
                    Some(after) if after > Duration::from_secs(1) => {
                        later = retry_after(&self.unavailable, after);
                        &later
                    }
                    _ => &self.unavailable,
                }
            }
        };
        let mut response = match &self.responder {
            Some(responder) => armed(responder(&rejection), headers, self.caching),
            None => {
                let body = Bytes::from_static(rejection.problem().as_bytes());
                let mut response = Response::new(body);
                *response.status_mut() = rejection.status();
                *response.headers_mut() = headers.clone();
                response
            }
        };
        response.extensions_mut().insert(rejection.verdict());
        response.extensions_mut().insert(rejection);
        response
    }
}

/// RFC 9110, section 10.2.3: whole seconds, here rounded up.
fn retry_after(headers: &HeaderMap, after: Duration) -> HeaderMap {
    let seconds = after.as_secs();
    let seconds = seconds.saturating_add(u64::from(after.subsec_nanos() > 0));
    let mut headers = headers.clone();
    headers.insert(RETRY_AFTER, seconds.into());
    headers
}

/// A user's own answer, with what it must have: our challenge beside its own, `no-store` in
/// place of its own, `Retry-After` unless it has one.
fn armed(mut response: Response<Bytes>, ours: &HeaderMap, caching: Caching) -> Response<Bytes> {
    let headers = response.headers_mut();
    for (name, value) in ours {
        match *name {
            WWW_AUTHENTICATE => {
                headers.append(name, value.clone());
            }
            CACHE_CONTROL => {
                headers.insert(name, value.clone());
            }
            RETRY_AFTER => {
                headers.entry(name).or_insert_with(|| value.clone());
            }
            _ => {}
        }
    }
    caching.tell(headers);
    response
}
