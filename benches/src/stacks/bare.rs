//! A service without a layer, with which everything is compared.

use axum::{Router, routing::get};
use http::StatusCode;

use super::{
    contender::{Contender, always},
    names::BARE,
    service::{answer, served},
};
use crate::scene::{Scene, with_bearer};

pub struct Bare;

impl Bare {
    pub fn hit(scene: &Scene) -> Contender {
        let service = tower::service_fn(async |request: axum::extract::Request| {
            drop(request);
            Ok(answer(Some("no customer")))
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
