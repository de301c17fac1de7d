//! Tokens among the subprotocols of a WebSocket.

use super::{Seen, add, request};
use test_support::one_session;
use tower::ServiceExt as _;

#[tokio::test]
async fn the_subprotocol_with_the_token_is_hidden_from_the_service() {
    let (_, sessions, session) = one_session().await;
    let token = format!("bearer.{}", session.token.expose());
    let layer = sessions.layer().token_from_websocket_protocol();
    for (lines, left) in [
        (vec![token.clone()], vec![]),
        (vec![format!("feed.v1, {token}")], vec!["feed.v1"]),
        (
            vec!["feed.v1".to_owned(), token.clone(), "a,b".to_owned()],
            vec!["feed.v1", "a, b"],
        ),
    ] {
        // By a lookup, then as a hit; an upgrade or not.
        for upgrade in [true, false] {
            let mut request = request("/feed");
            if upgrade {
                add(&mut request, "connection", "Upgrade");
                add(&mut request, "upgrade", "websocket");
            }
            for line in &lines {
                add(&mut request, "sec-websocket-protocol", line);
            }
            let seen = Seen::default();
            let response = seen.behind(&layer).oneshot(request).await;
            assert_eq!(response.expect("infallible").status(), 200);
            let (_, headers, _) = seen.last();
            let now: Vec<_> = headers.get_all("sec-websocket-protocol").iter().collect();
            assert_eq!(now, left);
        }
    }
}
