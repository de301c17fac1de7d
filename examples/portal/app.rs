//! The application, whatever its sessions are kept in.

use std::{error::Error, process::ExitCode, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use customer_session::{
    CurrentSession, Customer, CustomerData, CustomerSession, CustomerSessions, SessionRegistry,
    SessionSummary, StoreError, store::Peppers,
};
use tokio::{net::TcpListener, signal};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The layer has let the request in: here is whose it is.
async fn me(customer: Customer) -> Json<Customer> {
    Json(customer)
}

type Answer<T> = Result<T, StatusCode>;

/// The store cannot say: the customer may try again.
fn try_again(_: StoreError) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

/// Where the customer is signed in. There are no tokens in it.
async fn list<S: SessionRegistry>(
    State(sessions): State<CustomerSessions<S>>,
    customer: Customer,
) -> Answer<Json<Vec<SessionSummary>>> {
    let list = sessions.list(&customer.id).await.map_err(try_again)?;
    Ok(Json(list))
}

/// A new token for the old one, which is refused from then on.
async fn rotate<S: SessionRegistry>(
    State(sessions): State<CustomerSessions<S>>,
    session: CurrentSession,
) -> Answer<Json<CustomerSession>> {
    let new = sessions.rotate(&session.token, DAY).await;
    new.map_err(try_again)?
        .map(Json)
        .ok_or(StatusCode::UNAUTHORIZED)
}

async fn sign_out<S: SessionRegistry>(
    State(sessions): State<CustomerSessions<S>>,
    session: CurrentSession,
) -> Answer<StatusCode> {
    sessions.revoke(&session.id).await.map_err(try_again)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn sign_out_everywhere<S: SessionRegistry>(
    State(sessions): State<CustomerSessions<S>>,
    customer: Customer,
) -> Answer<StatusCode> {
    let revoked = sessions.revoke_customer(&customer.id).await;
    revoked.map_err(try_again)?;
    Ok(StatusCode::NO_CONTENT)
}

/// From the environment, or one that everybody can read here.
pub(crate) fn peppers() -> Peppers {
    let pepper = std::env::var("SESSION_PEPPER");
    Peppers::new(pepper.unwrap_or_else(|_| "known to all, for trying out".to_owned()))
}

/// Says what failed, and why.
pub(crate) fn explain(error: &dyn Error) -> ExitCode {
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

pub(crate) async fn serve<S: SessionRegistry>(store: S) -> Result<(), Box<dyn Error>> {
    let sessions = CustomerSessions::builder(store).build();
    tokio::spawn(sessions.purge(Duration::from_secs(600)));

    // Wherever your customers sign in:
    let mut customer = CustomerData::new("cus_jane", "org_acme");
    customer.name = Some("Jane Doe".into());
    customer.email = Some("jane@example.com".into());
    let session = sessions.issue(customer, DAY).await?;

    let app = Router::new()
        .route("/me", get(me))
        .route("/sessions", get(list::<S>))
        .route("/rotate", post(rotate::<S>))
        .route("/sign-out", post(sign_out::<S>))
        .route("/sign-out-everywhere", post(sign_out_everywhere::<S>))
        .layer(sessions.layer())
        .with_state(sessions);

    let port: u16 = match std::env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| "PORT must be a number up to 65535")?,
        Err(_) => 3000,
    };
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| {
            format!("cannot listen on port {port} ({error}); choose another with PORT, or PORT=0")
        })?;
    let here = format!("http://{}", listener.local_addr()?);
    let bearer = format!("-H 'Authorization: Bearer {}'", session.token.expose());
    println!("listening on {here}\n");
    println!("# no token: 401 and a challenge\ncurl -i {here}/me\n");
    println!("# let in: prints the customer\ncurl -i {bearer} {here}/me\n");
    println!("# stop this with Ctrl-C, start it again: the same line is let in still\n");
    println!("# where Jane is signed in\ncurl -i {bearer} {here}/sessions\n");
    println!("# sign out: revokes the session\ncurl -i -X POST {bearer} {here}/sign-out\n");
    println!("# the same token again: refused\ncurl -i {bearer} {here}/me\n");

    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            // Without a handler for Ctrl-C the process would end all the same, less politely.
            let _ = signal::ctrl_c().await;
        })
        .await?;
    println!("stopped");
    Ok(())
}
