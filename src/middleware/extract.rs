//! Extractors for axum's handlers.
//!
//! They tell an anonymous request from a route without the layer. A missing layer is a mistake in
//! the service: it is answered with 500, never treated as anonymous.

use std::{error::Error, fmt, sync::Arc};

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use super::{
    config::LayerConfig, identity::Anonymous, into_response::problem, rejection::RejectionKind,
};
use crate::{
    customer::Customer,
    sessions::{CurrentSession, SessionLifetime},
    telemetry,
};

/// The reason why [`Customer`], [`CurrentSession`] or
/// [`SessionLifetime`](crate::SessionLifetime) could not be extracted.
///
/// As a response it is the refusal of the layer for an anonymous request: 401 with its challenge, or
/// the [redirect](crate::CustomerSessionLayer::redirect_to).
/// For a route without the layer it is a bare 500; the log says how to correct that.
///
/// ```
/// use axum::response::{IntoResponse, Redirect, Response};
/// use customer_session::{Customer, CustomerRejection};
/// use http::StatusCode;
///
/// async fn home(customer: Result<Customer, CustomerRejection>) -> Response {
///     match customer {
///         Ok(customer) => format!("hello, {}", customer.id).into_response(),
///         Err(rejection) if rejection.status() == StatusCode::UNAUTHORIZED => {
///             Redirect::to("/sign-in").into_response()
///         }
///         Err(rejection) => rejection.into_response(),
///     }
/// }
/// # axum::Router::<()>::new().route("/", axum::routing::get(home));
/// ```
#[derive(Clone, Debug)]
pub struct CustomerRejection(Reason);

#[derive(Clone, Debug)]
enum Reason {
    /// The layer, and whether a person is to be sent to the sign-in page.
    Anonymous(Arc<LayerConfig>, bool),
    LayerMissing,
}

impl CustomerRejection {
    /// Returns the status of the response: 401 for an anonymous request, 500 for a route without
    /// the layer.
    pub fn status(&self) -> StatusCode {
        match self.0 {
            Reason::Anonymous(..) => StatusCode::UNAUTHORIZED,
            Reason::LayerMissing => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for CustomerRejection {
    fn into_response(self) -> Response {
        match self.0 {
            Reason::Anonymous(config, redirects) => config
                .responses
                .respond_or_redirect(RejectionKind::MissingToken.into(), redirects)
                .map(Body::from),
            Reason::LayerMissing => problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#,
            ),
        }
    }
}

impl fmt::Display for CustomerRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::Anonymous(..) => "the request is anonymous",
            Reason::LayerMissing => "the route has no customer session layer",
        })
    }
}

impl Error for CustomerRejection {}

impl<S: Sync> FromRequestParts<S> for Customer {
    type Rejection = CustomerRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CustomerRejection> {
        required(parts, customer(parts), "Customer")
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Customer {
    type Rejection = CustomerRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, CustomerRejection> {
        optional(parts, customer(parts), "Option<Customer>")
    }
}

impl<S: Sync> FromRequestParts<S> for CurrentSession {
    type Rejection = CustomerRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CustomerRejection> {
        required(parts, session(parts), "CurrentSession")
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for CurrentSession {
    type Rejection = CustomerRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, CustomerRejection> {
        optional(parts, session(parts), "Option<CurrentSession>")
    }
}

impl<S: Sync> FromRequestParts<S> for SessionLifetime {
    type Rejection = CustomerRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CustomerRejection> {
        required(
            parts,
            Self::from_extensions(&parts.extensions),
            "SessionLifetime",
        )
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for SessionLifetime {
    type Rejection = CustomerRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> Result<Option<Self>, CustomerRejection> {
        let lifetime = Self::from_extensions(&parts.extensions);
        optional(parts, lifetime, "Option<SessionLifetime>")
    }
}

fn customer(parts: &Parts) -> Option<Customer> {
    parts.extensions.get().cloned()
}

fn session(parts: &Parts) -> Option<CurrentSession> {
    CurrentSession::from_extensions(&parts.extensions)
}

/// Returns the value that was found, or the reason why there is none.
fn required<T>(parts: &Parts, found: Option<T>, extractor: &str) -> Result<T, CustomerRejection> {
    match (found, parts.extensions.get::<Anonymous>()) {
        (Some(identity), _) => Ok(identity),
        (None, Some(Anonymous(config))) => {
            let redirects = config.redirects(&parts.method, &parts.headers);
            let reason = Reason::Anonymous(Arc::clone(config), redirects);
            Err(CustomerRejection(reason))
        }
        (None, None) => Err(layer_missing(parts, extractor)),
    }
}

/// Returns the value that was found, or `None` if the request is anonymous.
fn optional<T>(
    parts: &Parts,
    found: Option<T>,
    extractor: &str,
) -> Result<Option<T>, CustomerRejection> {
    match (found, parts.extensions.get::<Anonymous>()) {
        (Some(identity), _) => Ok(Some(identity)),
        (None, Some(_)) => Ok(None),
        (None, None) => Err(layer_missing(parts, extractor)),
    }
}

/// Logs the mistake at once: a handler that takes a `Result` may drop the rejection.
fn layer_missing(parts: &Parts, extractor: &str) -> CustomerRejection {
    if customer(parts).is_some() {
        // The session alone is missing where there is a customer.
        telemetry::customer_replaced(extractor);
    } else {
        telemetry::layer_missing(extractor);
    }
    CustomerRejection(Reason::LayerMissing)
}
