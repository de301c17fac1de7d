//! tower-sessions with its store in memory; the service reads one value of the session.

use std::{convert::Infallible, sync::Arc};

use axum::{extract::Request, response::Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tower::Layer as _;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

use super::{
    contender::{Contender, always},
    service::{answer, served},
};
use crate::scene::{Scene, block_on, with_cookie};

const KEY: &str = "identity";

#[derive(Serialize, Deserialize)]
struct Identity {
    customer: String,
    organization: String,
}

pub struct TowerSessions;

impl TowerSessions {
    pub fn hit(scene: &Scene) -> Contender {
        let store = MemoryStore::default();
        let ids: Vec<_> = block_on(async {
            let mut ids = Vec::new();
            for token in &*scene.tokens {
                let known = scene.store.session(token).expect("known");
                let session = Session::new(None, Arc::new(store.clone()), None);
                let identity = Identity {
                    customer: known.customer_id.to_string(),
                    organization: known.customer.organization_id.to_string(),
                };
                session.insert(KEY, identity).await.expect("a value");
                session.save().await.expect("saved");
                ids.push(session.id().expect("saved"));
            }
            ids
        });
        let layer = SessionManagerLayer::new(store);
        Contender::new(
            "tower-sessions, one value read",
            served(
                layer.layer(tower::service_fn(reads_session)),
                StatusCode::OK,
            ),
            always(with_cookie(&format!("id={}", ids[ids.len() / 2]))),
        )
    }
}

async fn reads_session(request: Request) -> Result<Response, Infallible> {
    let Some(session) = request.extensions().get::<Session>() else {
        return Ok(answer(None));
    };
    let identity: Option<Identity> = session.get(KEY).await.ok().flatten();
    Ok(answer(
        identity.as_ref().map(|identity| identity.customer.as_str()),
    ))
}
