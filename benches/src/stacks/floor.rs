//! The least cost of any layer that hands over an identity: one `Arc` is put into the extensions
//! and read. It checks nothing and looks nothing up.

use axum::{Extension, Router, extract::Request, routing::get};
use customer_session::Customer;
use http::StatusCode;
use tower::{Layer as _, util::MapRequestLayer};

use super::{
    contender::{Contender, always},
    names::FLOOR,
    service::{insert_customer, reads_customer, served},
};
use crate::scene::{Scene, with_bearer};

pub struct Floor;

impl Floor {
    pub fn hit(scene: &Scene) -> Contender {
        let service = Self::layer(scene).layer(tower::service_fn(reads_customer));
        Contender::new(
            FLOOR,
            served(service, StatusCode::OK),
            always(with_bearer(scene.hot().expose())),
        )
    }

    pub fn router(scene: &Scene) -> Router {
        let me = async |Extension(customer): Extension<Customer>| {
            std::hint::black_box(customer);
            "hello"
        };
        Router::new()
            .route("/me", get(me))
            .layer(Self::layer(scene))
    }

    fn layer(
        scene: &Scene,
    ) -> MapRequestLayer<impl Fn(Request) -> Request + Clone + Send + Sync + use<>> {
        let session = scene.store.session(scene.hot()).expect("known");
        MapRequestLayer::new(move |mut request: Request| {
            insert_customer(&mut request, &session);
            request
        })
    }
}
