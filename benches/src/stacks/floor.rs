//! The least cost of any layer that hands over an identity: one `Arc` is put into the extensions
//! and read.

use axum::extract::Request;
use http::StatusCode;
use tower::ServiceBuilder;

use super::{
    contender::{Contender, always},
    names::FLOOR,
    service::{reads_customer, served},
};
use crate::scene::{Scene, with_bearer};

pub struct Floor;

impl Floor {
    pub fn hit(scene: &Scene) -> Contender {
        let session = scene.store.session(scene.hot()).expect("known");
        let service = ServiceBuilder::new()
            .map_request(move |mut request: Request| {
                request.extensions_mut().insert(session.customer.clone());
                request
            })
            .service_fn(reads_customer);
        Contender::new(
            FLOOR,
            served(service, StatusCode::OK),
            always(with_bearer(scene.hot().expose())),
        )
    }
}
