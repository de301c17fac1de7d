//! Extractors for axum's handlers.
//!
//! They tell "nobody signed in" from "nobody looked": a route that has no layer is a mistake
//! of the service, answered with 500, never as anonymous.

use std::{ops::Deref, sync::Arc};

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE, request::Parts};

use super::{identity::Anonymous, rejection::RejectionKind};
use crate::{customer::Customer, observe, session::CustomerSession, sessions::SessionLifetime};

/// The session that the request's token opened, for handlers that need more of it than its
/// customer: to revoke it, say.
///
/// As with [`Customer`], a request without one is answered with 401, and
/// `Option<CurrentSession>` takes either.
///
/// ```
/// use axum::extract::State;
/// use customer_session::{CurrentSession, CustomerSessions, store::MemoryStore};
/// use http::StatusCode;
///
/// async fn sign_out(
///     State(sessions): State<CustomerSessions<MemoryStore>>,
///     session: CurrentSession,
/// ) -> StatusCode {
///     match sessions.revoke(&session.id).await {
///         Ok(_) => StatusCode::NO_CONTENT,
///         Err(_) => StatusCode::SERVICE_UNAVAILABLE,
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct CurrentSession(pub Arc<CustomerSession>);

impl Deref for CurrentSession {
    type Target = CustomerSession;

    fn deref(&self) -> &CustomerSession {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for Customer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        required(parts, parts.extensions.get().cloned(), "Customer")
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Customer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Response> {
        optional(parts, parts.extensions.get().cloned(), "Option<Customer>")
    }
}

impl<S: Sync> FromRequestParts<S> for CurrentSession {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        required(
            parts,
            parts.extensions.get().cloned().map(Self),
            "CurrentSession",
        )
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for CurrentSession {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Response> {
        let session = parts.extensions.get().cloned().map(Self);
        optional(parts, session, "Option<CurrentSession>")
    }
}

impl<S: Sync> FromRequestParts<S> for SessionLifetime {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        required(parts, Self::of(&parts.extensions), "SessionLifetime")
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for SessionLifetime {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Response> {
        optional(
            parts,
            Self::of(&parts.extensions),
            "Option<SessionLifetime>",
        )
    }
}

type Extracted<T> = Result<T, Response>;

#[expect(clippy::result_large_err, reason = "axum takes the response by value")]
fn required<T>(parts: &Parts, found: Option<T>, extractor: &str) -> Extracted<T> {
    match (found, parts.extensions.get::<Anonymous>()) {
        (Some(identity), _) => Ok(identity),
        (None, Some(Anonymous(config))) => Err(config
            .responses
            .respond(RejectionKind::MissingToken.into())
            .map(Body::from)),
        (None, None) => Err(layer_missing(extractor)),
    }
}

#[expect(clippy::result_large_err, reason = "axum takes the response by value")]
fn optional<T>(parts: &Parts, found: Option<T>, extractor: &str) -> Extracted<Option<T>> {
    match (found, parts.extensions.get::<Anonymous>()) {
        (Some(identity), _) => Ok(Some(identity)),
        (None, Some(_)) => Ok(None),
        (None, None) => Err(layer_missing(extractor)),
    }
}

fn layer_missing(extractor: &str) -> Response {
    observe::layer_missing(extractor);
    let problem = r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#;
    let mut response = Response::new(Body::from(Bytes::from_static(problem.as_bytes())));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}
