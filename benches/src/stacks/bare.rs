//! No layer at all: what everything is compared with in the end.

use axum::{Router, routing::get};
use http::StatusCode;

use super::{BARE, Contender, always, answer, served};
use crate::scene::{Scene, with_bearer};

pub struct Bare;

impl Bare {
    pub fn hit(scene: &Scene) -> Contender {
        let service = tower::service_fn(async |request: axum::extract::Request| {
            drop(request);
            Ok(answer(Some("nobody")))
        });
        Contender::new(
            BARE,
            served(service, StatusCode::OK),
            always(with_bearer(scene.hot().expose())),
        )
    }

    pub fn router() -> Router {
        Router::new().route("/me", get(async || "hello"))
    }
}
