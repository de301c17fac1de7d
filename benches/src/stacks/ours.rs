//! customer-session.

use axum::{Extension, Router, routing::get};
use customer_session::{Customer, CustomerSessions, SessionStore};
use http::StatusCode;
use tower::Layer as _;

use super::{
    contender::{Contender, Headers, Stack, always},
    names::OURS_WITH_SCOPE,
    service::{reads_customer, served},
};
use crate::scene::{MadeUp, SCOPE, Scene, anonymous, with_bearer};

pub struct Ours {
    sessions: CustomerSessions<MadeUp>,
}

impl Ours {
    /// Returns the stack with all of the scene's sessions cached.
    pub fn new(scene: &Scene) -> Self {
        Self {
            sessions: scene.sessions(),
        }
    }

    /// Returns the stack with an empty cache of this capacity.
    pub fn empty(scene: &Scene, capacity: u64) -> Self {
        Self {
            sessions: scene.empty_sessions(capacity),
        }
    }

    pub fn hit(&self, name: &str, headers: Headers) -> Contender {
        Contender::new(name, self.stack(StatusCode::OK), headers)
    }

    pub fn one_hit(&self, name: &str, scene: &Scene) -> Contender {
        self.hit(name, always(with_bearer(scene.hot().expose())))
    }

    /// Returns a hit behind a layer that requires a scope.
    pub fn scope_hit(&self, scene: &Scene) -> Contender {
        let layer = self.sessions.layer().require_scope(SCOPE);
        let service = layer.layer(tower::service_fn(reads_customer));
        Contender::new(
            OURS_WITH_SCOPE,
            served(service, StatusCode::OK),
            always(with_bearer(scene.hot().expose())),
        )
    }

    /// Returns the three kinds of request that are refused.
    pub fn refusals(&self, scene: &Scene) -> [Contender; 3] {
        [
            ("ours: garbage, screened", with_bearer(&scene.garbage())),
            (
                "ours: unknown, remembered",
                with_bearer(scene.absent.expose()),
            ),
            ("ours: no credential", anonymous()),
        ]
        .map(|(name, headers)| {
            Contender::new(name, self.stack(StatusCode::UNAUTHORIZED), always(headers))
        })
    }

    fn stack(&self, status: StatusCode) -> Box<dyn Stack> {
        stack_of(&self.sessions, status)
    }

    /// Returns the number of lookups in the store.
    pub fn lookups(&self) -> u64 {
        self.sessions.statistics().lookups
    }

    pub fn router(&self) -> Router {
        let me = async |Extension(customer): Extension<Customer>| {
            std::hint::black_box(customer);
            "hello"
        };
        Router::new()
            .route("/me", get(me))
            .layer(self.sessions.layer())
    }
}

/// Returns the stack of any engine, whose every response must have this status.
pub fn stack_of<S: SessionStore>(
    sessions: &CustomerSessions<S>,
    status: StatusCode,
) -> Box<dyn Stack> {
    let service = sessions.layer().layer(tower::service_fn(reads_customer));
    served(service, status)
}
