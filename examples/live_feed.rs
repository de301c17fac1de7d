//! A WebSocket and a stream of events that end with the session that opened them, also when it
//! is revoked on another machine.
//!
//! `cargo run --example live_feed --features postgres,redis`, then open the page it prints and
//! paste the line that revokes. To see it from another node, start it twice with `PORT=3000` and
//! `PORT=3001`, both with `STORE=redis://host` or `STORE=postgres://user:password@host/database`,
//! and revoke on the other one.

#[path = "common/server.rs"]
mod server;
#[path = "common/shared_store.rs"]
mod shared_store;

use std::{error::Error, process::ExitCode, time::Duration};

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    http::StatusCode,
    response::{
        Html, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use customer_session::{
    CurrentSession, CustomerData, CustomerSessions, DynCustomerSessions, SessionEnd,
    SessionLifetime, StoreError, store::MemoryStore,
};
use futures_util::{Stream, stream};
use tokio::time::interval;

const HOUR: Duration = Duration::from_secs(3600);

/// The page shows both streams. Its token is behind the `#`, which no browser sends.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>live feed</title>
<style>body { font: 16px sans-serif; display: flex; gap: 4em }</style>
<div><h2>WebSocket</h2><p id="socket">connecting</p></div>
<div><h2>EventSource</h2><p id="events">connecting</p></div>
<script>
const token = location.hash.slice(1);
const say = (id, text) => { document.getElementById(id).textContent = text };
const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
const socket = new WebSocket(`${scheme}://${location.host}/socket`, ['feed.v1', 'bearer.' + token]);
socket.onmessage = (message) => say('socket', message.data);
socket.onclose = (close) => say('socket', `closed: ${close.reason || 'not let in'} (${close.code})`);
const events = new EventSource('/events?access_token=' + encodeURIComponent(token));
events.onmessage = (message) => say('events', message.data);
// It asks again by itself, and is refused.
events.onerror = () => { if (events.readyState === EventSource.CLOSED) say('events', 'refused') };
</script>"#;

async fn socket(upgrade: WebSocketUpgrade, lifetime: SessionLifetime) -> Response {
    upgrade
        .protocols(["feed.v1"])
        .on_upgrade(move |socket| feed(socket, lifetime))
}

async fn feed(mut socket: WebSocket, lifetime: SessionLifetime) {
    let mut ended = std::pin::pin!(lifetime.ended());
    let mut clock = interval(Duration::from_millis(500));
    for news in 1.. {
        let sent = tokio::select! {
            biased;
            end = &mut ended => {
                let frame = CloseFrame {
                    // From 4000 on they are the application's own (RFC 6455, section 7.4.2).
                    code: 4401,
                    reason: reason(end).into(),
                };
                let _ = socket.send(Message::Close(Some(frame))).await;
                return;
            }
            message = socket.recv() => match message {
                Some(Ok(_)) => Ok(()),
                _ => return,
            },
            _ = clock.tick() => socket.send(Message::text(format!("news {news}"))).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn reason(end: SessionEnd) -> &'static str {
    match end {
        SessionEnd::Expired => "the session has expired",
        SessionEnd::Revoked => "the session was revoked",
        _ => "the session could not be confirmed",
    }
}

async fn events(lifetime: SessionLifetime) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    let news = stream::unfold(
        (interval(Duration::from_millis(500)), 1),
        async |(mut clock, n)| {
            clock.tick().await;
            Some((
                Ok(Event::default().data(format!("news {n}"))),
                (clock, n + 1),
            ))
        },
    );
    Sse::new(lifetime.limit(news))
}

async fn sign_out(
    State(sessions): State<DynCustomerSessions>,
    session: CurrentSession,
) -> Result<StatusCode, StoreError> {
    sessions.revoke(&session.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main]
async fn main() -> ExitCode {
    server::exit_code(run().await)
}

async fn run() -> Result<(), Box<dyn Error>> {
    let sessions = match std::env::var("STORE") {
        Ok(url) => shared_store::open(&url).await?,
        Err(_) => {
            let store = MemoryStore::new();
            let sessions = CustomerSessions::builder(store).build().into_dyn();
            tokio::spawn(sessions.purge(Duration::from_secs(600)));
            sessions
        }
    };
    let customer = CustomerData::new("cus_jane", "org_acme");
    let session = sessions.issue(customer, HOUR).await?;

    // Each route reads the token only where its client can put it.
    let app = Router::new()
        .route("/socket", get(socket))
        .layer(sessions.layer().token_from_websocket_protocol())
        .merge(
            Router::new()
                .route("/events", get(events))
                .layer(sessions.layer().token_from_query()),
        )
        .merge(
            Router::new()
                .route("/sign-out", post(sign_out))
                .layer(sessions.layer()),
        )
        .route("/", get(async || Html(PAGE)))
        .with_state(sessions);

    let listener = server::bind().await?;
    let (here, token) = (listener.local_addr()?, session.token.expose());
    println!("open http://{here}/#{token}\n\nthen revoke, here or on another node:");
    println!("curl -i -X POST -H 'Authorization: Bearer {token}' http://{here}/sign-out");
    axum::serve(listener, app).await?;
    Ok(())
}
