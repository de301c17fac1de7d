//! Responses of handlers that fail because of the session or its store, and the cookie as a part of a
//! response.
//!
//! A failure is answered as the layer itself does, so that `?` works in a handler.

use std::{convert::Infallible, sync::LazyLock, time::Duration};

use axum_core::{
    body::Body,
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use bytes::Bytes;
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};

use super::{
    cookie::SetCookie,
    rejection::{Rejection, RejectionKind},
    rejection_responses::{DEFAULT_REALM, RejectionResponses, challenge, insufficient_scope},
};
use crate::{
    details::{InsufficientScope, Scopes},
    engine::AuthenticateError,
    store::{StoreError, StoreErrorKind},
    telemetry,
};

/// The responses of a layer with default settings.
static RESPONSES: LazyLock<RejectionResponses> = LazyLock::new(RejectionResponses::default);

/// Responds as the layer does: 503 with `Retry-After`; 409 for a
/// [`Conflict`](StoreErrorKind::Conflict), and 500 for what is [`Invalid`](StoreErrorKind::Invalid).
/// The error itself goes to the log, never to the client.
///
/// ```
/// use axum::extract::State;
/// use customer_session::{CurrentSession, CustomerSessions, StoreError, store::MemoryStore};
///
/// async fn sign_out(
///     State(sessions): State<CustomerSessions<MemoryStore>>,
///     session: CurrentSession,
/// ) -> Result<(), StoreError> {
///     sessions.revoke(&session.id).await?;
///     Ok(())
/// }
/// # axum::Router::new()
/// #     .route("/sign-out", axum::routing::post(sign_out))
/// #     .with_state::<()>(CustomerSessions::builder(MemoryStore::new()).build());
/// ```
impl IntoResponse for StoreError {
    fn into_response(self) -> Response {
        telemetry::handler_failed(&self);
        match self.kind() {
            StoreErrorKind::Conflict => problem(
                StatusCode::CONFLICT,
                r#"{"type":"about:blank","title":"Conflict","status":409}"#,
            ),
            StoreErrorKind::Invalid => problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#,
            ),
            _ => reject(AuthenticateError::Store(self)),
        }
    }
}

/// Responds as the layer does: 401 with a challenge for an invalid token, otherwise 503 with
/// `Retry-After`. The challenge has the default realm.
impl IntoResponse for AuthenticateError {
    fn into_response(self) -> Response {
        reject(self)
    }
}

/// Responds as the layer does: 403 with a challenge that names the scope (RFC 6750, section 3.1). The
/// challenge has the default realm. A text that is not a scope is not named.
///
/// ```
/// use axum::extract::Path;
/// use customer_session::{CurrentSession, InsufficientScope};
///
/// async fn export(
///     Path(kind): Path<String>,
///     session: CurrentSession,
/// ) -> Result<String, InsufficientScope> {
///     session.details.require(&format!("export:{kind}"))?;
///     Ok(format!("all of {kind}"))
/// }
/// # axum::Router::<()>::new().route("/export/{kind}", axum::routing::get(export));
/// ```
impl IntoResponse for InsufficientScope {
    fn into_response(self) -> Response {
        let mut response = RESPONSES.respond(RejectionKind::InsufficientScope.into());
        let scopes = Scopes::new([self.scope()]).unwrap_or_default();
        let challenge = challenge(DEFAULT_REALM, &insufficient_scope(&scopes));
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response.map(Body::from)
    }
}

/// Adds the cookie to a response, and makes the response `Cache-Control: no-store`.
///
/// ```
/// use axum::{extract::State, response::{IntoResponse, Redirect}};
/// use customer_session::{CurrentSession, DynCustomerSessions, SessionCookie, StoreError};
///
/// async fn sign_out(
///     State((sessions, cookie)): State<(DynCustomerSessions, SessionCookie)>,
///     session: CurrentSession,
/// ) -> Result<impl IntoResponse, StoreError> {
///     sessions.revoke(&session.id).await?;
///     Ok((cookie.clear(), Redirect::to("/")))
/// }
/// ```
impl IntoResponseParts for SetCookie {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        self.apply_to(parts.headers_mut());
        Ok(parts)
    }
}

fn reject(error: AuthenticateError) -> Response {
    let rejection = Rejection::new(error, Duration::ZERO);
    RESPONSES.respond(rejection).map(Body::from)
}

/// Returns a response with a problem document (RFC 9457) that no cache keeps.
pub(super) fn problem(status: StatusCode, body: &'static str) -> Response {
    let mut response = Response::new(Body::from(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/problem+json");
    headers.insert(CONTENT_TYPE, json);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
