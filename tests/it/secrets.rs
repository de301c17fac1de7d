//! No token in any log, error, `Debug` or answer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use customer_session::{
    AuthenticateError, CurrentSession, Customer, CustomerSession, CustomerSessions, Rejection,
    SessionStore, SessionSummary, SessionToken, StoreError, TokenFormat, async_trait,
    store::MemoryStore,
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tower::{Layer as _, ServiceExt as _};
use tower_http::trace::TraceLayer;

use crate::log::Log;
use test_support::{Fault, HOUR, ProbeStore, customer};

/// Returns `true` if one of the tokens, or the beginning of one, was logged.
fn leaks(log: &Log, tokens: &[SessionToken]) -> bool {
    let text = log.text();
    tokens
        .iter()
        .any(|token| text.contains(&token.expose()[..20]))
}

/// A store that puts the token into its error, against its contract.
struct Leaking;

#[async_trait]
impl SessionStore for Leaking {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let query = format!("no such column: {}", token.expose());
        Err(StoreError::corrupt(std::io::Error::other(query)))
    }
}

/// A store that answers with the session of another token.
struct Mixed(CustomerSession);

#[async_trait]
impl SessionStore for Mixed {
    async fn find(&self, _: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        Ok(Some(self.0.clone()))
    }
}

async fn request(layer: customer_session::CustomerSessionLayer, token: &str) -> String {
    let service = tower::ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(layer)
        .service_fn(async |request: Request<Full<Bytes>>| {
            tracing::info!(
                headers = ?request.headers(),
                extensions = ?request.extensions(),
                "in the handler"
            );
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        });
    let request = Request::get("/")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())
        .expect("a request");
    let response = service.oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let shown = format!("{parts:?} {:?}", parts.extensions.get::<Rejection>());
    let body = body.collect().await.expect("a body").to_bytes();
    format!("{shown} {body:?}")
}

#[tokio::test(start_paused = true)]
async fn no_path_of_the_engine_or_the_layer_logs_a_token() {
    let log = Log::default();
    let _guard = log.listen();
    let mut tokens = Vec::new();
    let mut shown = String::new();

    // Hit, unknown, screened; failing, hanging and panicking; overloaded.
    let store = Arc::new(ProbeStore::default());
    let sessions = CustomerSessions::builder(Arc::clone(&store))
        .max_concurrent_lookups(1)
        .build();
    let live = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    tokens.push(live.token.clone());
    for _ in 0..2 {
        shown += &request(sessions.layer(), live.token.expose()).await;
    }
    let unknown = TokenFormat::new("cst_").generate();
    let screened = TokenFormat::new("other_").generate();
    for token in [&unknown, &screened] {
        shown += &request(sessions.layer(), token.expose()).await;
        shown += &request(sessions.layer(), &format!("{} x", token.expose())).await;
        tokens.push(token.clone());
    }
    for fault in [Fault::Fail, Fault::Hang, Fault::Panic] {
        store.fault(fault);
        let token = TokenFormat::new("cst_").generate();
        shown += &request(sessions.layer(), token.expose()).await;
        shown += &format!("{:?}", sessions.authenticate(&token).await);
        tokens.push(token);
    }
    store.fault(Fault::Hang);
    let (one, two) = (
        TokenFormat::new("cst_").generate(),
        TokenFormat::new("cst_").generate(),
    );
    let (first, second) = tokio::join!(sessions.authenticate(&one), sessions.authenticate(&two));
    assert!(matches!(second, Err(AuthenticateError::Overloaded)));
    shown += &format!("{first:?} {second:?}");
    tokens.extend([one, two]);
    store.fault(None);

    // Revocation and rotation.
    let rotated = sessions.rotate(&live.token, HOUR).await.expect("rotated");
    let rotated = rotated.expect("live");
    shown += &format!("{rotated:?} {:?}", sessions.revoke(&rotated.id).await);
    tokens.push(rotated.token.clone());

    // Stores that break their contract.
    let token = TokenFormat::new("cst_").generate();
    let leaking = CustomerSessions::builder(Leaking).build();
    let answer = request(leaking.layer(), token.expose()).await;
    assert!(answer.contains("503"), "{answer}");
    shown += &answer;
    let error = leaking.authenticate(&token).await.expect_err("it fails");
    let cause = std::error::Error::source(&error).and_then(std::error::Error::source);
    shown += &format!("{error} {error:?} {cause:?}");
    tokens.push(token.clone());
    let mixed = CustomerSessions::builder(Mixed(rotated.clone())).build();
    let answer = request(mixed.layer(), token.expose()).await;
    assert!(
        answer.contains("503"),
        "no request is let in as another customer"
    );
    shown += &answer;

    // A missing layer.
    let app: Router = Router::new()
        .route("/", get(async |_: Customer, _: CurrentSession| ()))
        .layer(TraceLayer::new_for_http());
    let missing = Request::get("/")
        .header("authorization", format!("Bearer {}", token.expose()))
        .body(Body::empty())
        .expect("a request");
    let response = app.oneshot(missing).await.expect("infallible");
    assert_eq!(response.status(), 500);

    let text = log.text();
    for event in [
        "session lookup failed",
        "the session store did not answer in time",
        "the store panicked",
        "no such column: [token]",
        "does not carry the token it was looked up by",
        "request refused",
        "CustomerSessionLayer::new(store)",
        "in the handler",
    ] {
        assert!(text.contains(event), "no log of: {event}\n{text}");
    }
    assert!(!leaks(&log, &tokens), "{text}");
    for token in &tokens {
        assert!(!shown.contains(&token.expose()[..20]), "{shown}");
    }

    // The search finds what it looks for.
    tracing::trace!(planted = token.expose(), "a leak");
    assert!(leaks(&log, &tokens));
}

#[tokio::test]
async fn no_debug_output_holds_a_token() {
    let store = MemoryStore::new();
    let sessions = CustomerSessions::builder(store.clone())
        .cache_ttl(Duration::from_secs(1))
        .build();
    let session = sessions
        .issue(customer("cus_1"), HOUR)
        .await
        .expect("issued");
    let found = sessions.authenticate(&session.token).await.expect("live");
    let layer = sessions.layer();
    let service = layer.layer(());
    let shown = [
        format!("{session:?}"),
        format!("{found:?}"),
        format!("{:?}", session.token),
        format!("{:#?}", found),
        format!("{:?}", SessionSummary::from(&session)),
        format!("{store:?}"),
        format!("{sessions:?}"),
        format!("{:?}", CustomerSessions::builder(store)),
        format!("{layer:?}"),
        format!("{:?}", sessions.statistics()),
        format!("{service:?}"),
    ];
    for shown in shown {
        assert!(!shown.contains(session.token.expose()), "{shown}");
    }
}
