//! The application, the same for every store.

use std::{error::Error, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, USER_AGENT},
    },
    response::{Html, IntoResponse, Response},
    routing::{delete, get, post},
};
use chrono::{DateTime, Utc};
use customer_session::{
    CurrentSession, Customer, CustomerData, CustomerSession, Device, DynCustomerSessions,
    NewSession, SessionCookie, SessionId, SessionSummary, StoreError, WhenFull,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, signal};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A session ends after a day, unless it is rotated; after a month in any case.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// The time for which a token that was exchanged for a new one is still accepted.
const OVERLAP: Duration = Duration::from_secs(30);

/// A payout demands that the customer has typed the password within this time.
const RECENT: Duration = Duration::from_secs(5 * 60);

/// A customer is signed in on so many devices at most; signing in on another ends the oldest session.
const MAX_DEVICES: u32 = 5;

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

/// The page to which people are sent who are not signed in.
const SIGN_IN_PAGE: &str = r#"<!doctype html>
<title>Sign in</title>
<form>
  <input name="email" value="jane@example.com">
  <input name="password" type="password">
  <button>Sign in</button>
</form>
<script>
  document.forms[0].onsubmit = async (event) => {
    event.preventDefault();
    const body = JSON.stringify(Object.fromEntries(new FormData(event.target)));
    const headers = { "content-type": "application/json" };
    const answer = await fetch("/browser/sign-in", { method: "POST", headers, body });
    if (answer.ok) location = "/me";
  };
</script>
"#;

/// Opens a session for a page. The browser keeps the token in the cookie, where no script reads it.
async fn sign_in_by_browser(
    State(sessions): State<DynCustomerSessions>,
    Extension(cookie): Extension<SessionCookie>,
    headers: HeaderMap,
    Json(credentials): Json<Credentials>,
) -> Result<Response, StoreError> {
    Ok(match open(&sessions, &headers, &credentials).await? {
        Some(session) => (cookie.set(&session)?, StatusCode::NO_CONTENT).into_response(),
        None => StatusCode::FORBIDDEN.into_response(),
    })
}

/// Hands a new token out by the way on which the old one came: to a program as JSON, to a browser in
/// the cookie.
fn new_token(
    headers: &HeaderMap,
    cookie: &SessionCookie,
    session: CustomerSession,
) -> Result<Response, StoreError> {
    // A script of the page must not get the token by adding a header of another scheme.
    let authorization = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let scheme = authorization.and_then(|value| value.get(..7));
    Ok(
        match scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer ")) {
            true => Json(session).into_response(),
            false => (cookie.set(&session)?, StatusCode::NO_CONTENT).into_response(),
        },
    )
}

/// Opens a session for a program. The answer holds the token.
async fn sign_in(
    State(sessions): State<DynCustomerSessions>,
    headers: HeaderMap,
    Json(credentials): Json<Credentials>,
) -> Result<Response, StoreError> {
    Ok(match open(&sessions, &headers, &credentials).await? {
        Some(session) => Json(session).into_response(),
        None => StatusCode::FORBIDDEN.into_response(),
    })
}

/// Opens a session, or returns `None` if the password is wrong.
async fn open(
    sessions: &DynCustomerSessions,
    headers: &HeaderMap,
    credentials: &Credentials,
) -> Result<Option<CustomerSession>, StoreError> {
    let Some(customer) = check(credentials) else {
        return Ok(None);
    };
    let new = new_session().device(device(headers));
    sessions.issue_with(customer, new).await.map(Some)
}

fn new_session() -> NewSession {
    NewSession::new(DAY)
        .max_lifetime(MONTH)
        .at_most(MAX_DEVICES, WhenFull::EndOldest)
}

/// Describes the device for the customer to recognize. Any client can claim anything, of any length.
fn device(headers: &HeaderMap) -> Device {
    let user_agent = headers
        .get(USER_AGENT)
        .map_or(&b"unknown"[..], |value| value.as_bytes());
    Device::default().user_agent_lossy(user_agent)
}

/// Checks the password. Yours compares a hash, or verifies a passkey or an OAuth answer.
fn check(credentials: &Credentials) -> Option<CustomerData> {
    (credentials.email == "jane@example.com" && credentials.password == "jane").then(jane)
}

fn jane() -> CustomerData {
    let mut customer = CustomerData::new("cus_jane", "org_acme");
    customer.name = Some("Jane Doe".into());
    customer.email = Some("jane@example.com".into());
    customer
}

/// Answers with the customer whom the layer has let in.
async fn me(customer: Customer) -> Json<Customer> {
    Json(customer)
}

/// A line of the page "where you are signed in".
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    session: SessionSummary,
    device: Option<Device>,
    /// The last use, to the minute or so.
    last_used_at: Option<DateTime<Utc>>,
    /// `true` for the session of this request.
    current: bool,
}

/// Lists where the customer is signed in. A summary holds no token. A session that was just rotated is shown by
/// its successor alone.
async fn list(
    State(sessions): State<DynCustomerSessions>,
    current: CurrentSession,
) -> Result<Json<Vec<Line>>, StoreError> {
    let sessions = sessions.list(&current.customer_id).await?;
    let shown = sessions
        .into_iter()
        .filter(|session| !session.details.is_replaced || session.id == current.id);
    let lines = shown.map(|session| Line {
        current: session.id == current.id,
        device: session.details.device.clone(),
        last_used_at: session.details.last_used_at,
        session,
    });
    Ok(Json(lines.collect()))
}

/// Exchanges the token for a new one, for another day, but not past the session's month. The old token is accepted
/// for a few more seconds, for requests in flight. If another request was first, that one has the new token.
async fn rotate(
    State(sessions): State<DynCustomerSessions>,
    Extension(cookie): Extension<SessionCookie>,
    headers: HeaderMap,
    session: CurrentSession,
) -> Result<Response, StoreError> {
    let new = sessions
        .rotate_overlapping(&session.token, DAY, OVERLAP)
        .await?;
    match new {
        Some(new) => new_token(&headers, &cookie, new),
        None => Ok(StatusCode::CONFLICT.into_response()),
    }
}

async fn sign_out(
    State(sessions): State<DynCustomerSessions>,
    Extension(cookie): Extension<SessionCookie>,
    session: CurrentSession,
) -> Result<impl IntoResponse, StoreError> {
    sessions.revoke(&session.id).await?;
    Ok((cookie.clear(), StatusCode::NO_CONTENT))
}

/// Signs one of the customer's devices out. The id comes from the client, so it may be that of
/// another customer's session: `revoke_owned` leaves that alone, and the answer is the same as for an
/// id that does not exist.
async fn sign_out_device(
    State(sessions): State<DynCustomerSessions>,
    customer: Customer,
    Path(session): Path<SessionId>,
) -> Result<StatusCode, StoreError> {
    Ok(match sessions.revoke_owned(&customer.id, &session).await? {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    })
}

/// Signs all other devices out.
async fn sign_out_others(
    State(sessions): State<DynCustomerSessions>,
    current: CurrentSession,
) -> Result<StatusCode, StoreError> {
    sessions
        .revoke_others(&current.customer_id, &current.id)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Checks the password again, and answers with a new token for routes that demand a recent sign-in.
async fn confirm_password(
    State(sessions): State<DynCustomerSessions>,
    Extension(cookie): Extension<SessionCookie>,
    headers: HeaderMap,
    current: CurrentSession,
    Json(credentials): Json<Credentials>,
) -> Result<Response, StoreError> {
    // The password must be that of the customer who is signed in.
    if check(&credentials).is_none_or(|customer| customer.id != current.customer_id) {
        return Ok(StatusCode::FORBIDDEN.into_response());
    }
    let confirmed = sessions.reauthenticated(&current.token, DAY).await?;
    match confirmed {
        Some(new) => new_token(&headers, &cookie, new),
        // Another request has rotated it: the client tries again with the new token.
        None => Ok(StatusCode::CONFLICT.into_response()),
    }
}

async fn payout(customer: Customer) -> String {
    format!("{} is paid out\n", customer.id)
}

async fn sign_out_everywhere(
    State(sessions): State<DynCustomerSessions>,
    Extension(cookie): Extension<SessionCookie>,
    customer: Customer,
) -> Result<impl IntoResponse, StoreError> {
    sessions.revoke_customer(&customer.id).await?;
    Ok((cookie.clear(), StatusCode::NO_CONTENT))
}

pub(crate) async fn serve(
    sessions: DynCustomerSessions,
    listener: TcpListener,
) -> Result<(), Box<dyn Error>> {
    // So that the printed lines have a token.
    let session = sessions.issue_with(jane(), new_session()).await?;

    // The name that the cookie has behind TLS. This example is served without.
    let cookie = SessionCookie::new("__Host-session")?.persistent();
    let cookie = cookie.insecure_for_development();
    let layer = sessions
        .layer()
        .token_from_cookie(&cookie)
        .redirect_to("/sign-in")?;

    let payouts = Router::new()
        .route("/payout", post(payout))
        .route_layer(layer.clone().require_recent(RECENT));

    // Another site must not sign its visitor in as the attacker.
    let browser = Router::new()
        .route("/browser/sign-in", post(sign_in_by_browser))
        .layer(layer.same_origin());

    let app = Router::new()
        .route("/me", get(me))
        .route("/sessions", get(list))
        .route("/sessions/{session}", delete(sign_out_device))
        .route("/rotate", post(rotate))
        .route("/sign-out", post(sign_out))
        .route("/sign-out-others", post(sign_out_others))
        .route("/sign-out-everywhere", post(sign_out_everywhere))
        .route("/confirm-password", post(confirm_password))
        .route_layer(layer) // protects the routes above it
        .merge(payouts)
        .merge(browser)
        .route("/sign-in", get(async || Html(SIGN_IN_PAGE)).post(sign_in))
        .layer(Extension(cookie))
        .with_state(sessions);

    print_requests(&listener, session.token.expose())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            // Without a handler, Ctrl-C would end the process and the requests under way.
            let _ = signal::ctrl_c().await;
        })
        .await?;
    println!("stopped");
    Ok(())
}

fn print_requests(listener: &TcpListener, token: &str) -> Result<(), Box<dyn Error>> {
    let here = format!("http://{}", listener.local_addr()?);
    let bearer = format!("-H 'Authorization: Bearer {token}'");
    println!("listening on {here}\n");
    println!("# in a browser: leads to the sign-in page\n{here}/me\n");
    println!("# no token: 401 and a challenge\ncurl -i {here}/me\n");
    println!("# with a token: prints the customer\ncurl -i {bearer} {here}/me\n");
    println!("# stop this with Ctrl-C, start it again: the same line still works\n");
    println!("# where Jane is signed in\ncurl -i {bearer} {here}/sessions\n");
    println!(
        "# sign a device out by its id in the list; another customer's is 404\n\
         curl -i -X DELETE {bearer} {here}/sessions/ses_of_another\n"
    );
    println!("# sign out: revokes the session\ncurl -i -X POST {bearer} {here}/sign-out\n");
    println!("# the same token again: refused\ncurl -i {bearer} {here}/me\n");
    println!(
        "# sign in: answers with a new token\n\
         curl -i -X POST -H 'Content-Type: application/json' \
         -d '{{\"email\":\"jane@example.com\",\"password\":\"jane\"}}' {here}/sign-in\n"
    );
    Ok(())
}
