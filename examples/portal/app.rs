//! The application, the same for every store.

use std::{error::Error, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use customer_session::{
    CurrentSession, Customer, CustomerData, DynCustomerSessions, NewSession, SessionId,
    SessionSummary, StoreError,
};
use serde::Deserialize;
use tokio::{net::TcpListener, signal};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A session ends after a day, unless it is rotated; after a month in any case.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

/// Opens a session. This is the only answer that holds the token.
async fn sign_in(
    State(sessions): State<DynCustomerSessions>,
    Json(credentials): Json<Credentials>,
) -> Result<Response, StoreError> {
    let Some(customer) = check(&credentials) else {
        return Ok(StatusCode::FORBIDDEN.into_response());
    };
    let new = NewSession::new(DAY).max_lifetime(MONTH);
    let session = sessions.issue_with(customer, new).await?;
    Ok(Json(session).into_response())
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

/// Lists where the customer is signed in. A summary holds no token.
async fn list(
    State(sessions): State<DynCustomerSessions>,
    customer: Customer,
) -> Result<Json<Vec<SessionSummary>>, StoreError> {
    Ok(Json(sessions.list(&customer.id).await?))
}

/// Exchanges the token for a new one, for another day, but not past the session's month. The old
/// token is refused from then on.
async fn rotate(
    State(sessions): State<DynCustomerSessions>,
    session: CurrentSession,
) -> Result<Response, StoreError> {
    Ok(match sessions.rotate(&session.token, DAY).await? {
        Some(new) => Json(new).into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    })
}

async fn sign_out(
    State(sessions): State<DynCustomerSessions>,
    session: CurrentSession,
) -> Result<StatusCode, StoreError> {
    sessions.revoke(&session.id).await?;
    Ok(StatusCode::NO_CONTENT)
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

async fn sign_out_everywhere(
    State(sessions): State<DynCustomerSessions>,
    customer: Customer,
) -> Result<StatusCode, StoreError> {
    sessions.revoke_customer(&customer.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn serve(
    sessions: DynCustomerSessions,
    listener: TcpListener,
) -> Result<(), Box<dyn Error>> {
    // So that the printed lines have a token.
    let new = NewSession::new(DAY).max_lifetime(MONTH);
    let session = sessions.issue_with(jane(), new).await?;

    let app = Router::new()
        .route("/me", get(me))
        .route("/sessions", get(list))
        .route("/sessions/{session}", delete(sign_out_device))
        .route("/rotate", post(rotate))
        .route("/sign-out", post(sign_out))
        .route("/sign-out-everywhere", post(sign_out_everywhere))
        .route_layer(sessions.layer()) // protects the routes above it
        .route("/sign-in", post(sign_in))
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
