//! tower-http's `AsyncRequireAuthorization`, with the hand-written lookup.

use axum::extract::Request;
use http::StatusCode;
use tower::Layer as _;
use tower_http::auth::AsyncRequireAuthorizationLayer;

use super::{
    by_hand::ByHand,
    contender::{Contender, always},
    service::{bearer, insert_customer, reads_customer, refusal, served},
};
use crate::scene::{Scene, with_bearer};

pub struct TowerHttp;

impl TowerHttp {
    pub fn hit(by_hand: &ByHand, scene: &Scene) -> Contender {
        let by_hand = by_hand.clone();
        let layer = AsyncRequireAuthorizationLayer::new(move |mut request: Request| {
            let by_hand = by_hand.clone();
            async move {
                let Some(token) = bearer(&request) else {
                    return Err(refusal());
                };
                let Some(session) = by_hand.session(token).await else {
                    return Err(refusal());
                };
                insert_customer(&mut request, &session);
                Ok(request)
            }
        });
        Contender::new(
            "tower-http `AsyncRequireAuthorization` + moka",
            served(
                layer.layer(tower::service_fn(reads_customer)),
                StatusCode::OK,
            ),
            always(with_bearer(scene.hot().expose())),
        )
    }
}
