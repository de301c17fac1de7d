//! axum-login: a session in memory, and a backend whose users are a map in memory.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use ::axum_login::{
    AuthManagerLayer, AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend,
};
use axum::{Router, extract::Request, response::Response, routing::get};
use customer_session::Customer;
use http::{StatusCode, header};
use tower::{Layer as _, Service as _};
use tower_sessions_below::{MemoryStore, SessionManagerLayer};

use super::{
    contender::{Contender, always},
    names::AXUM_LOGIN,
    service::{answer, served},
};
use crate::scene::{Scene, anonymous, block_on, request, with_cookie};

#[derive(Clone, Debug)]
struct User {
    customer: Customer,
    /// Changes when the user's password does.
    hash: [u8; 32],
}

impl AuthUser for User {
    type Id = String;

    fn id(&self) -> String {
        self.customer.id.to_string()
    }

    fn session_auth_hash(&self) -> &[u8] {
        &self.hash
    }
}

#[derive(Clone)]
struct Backend {
    users: Arc<HashMap<String, User>>,
}

impl AuthnBackend for Backend {
    type User = User;
    type Credentials = String;
    type Error = Infallible;

    async fn authenticate(&self, id: String) -> Result<Option<User>, Infallible> {
        self.get_user(&id).await
    }

    async fn get_user(&self, id: &String) -> Result<Option<User>, Infallible> {
        Ok(self.users.get(id).cloned())
    }
}

pub struct AxumLogin {
    layer: AuthManagerLayer<Backend, MemoryStore>,
    cookie: String,
}

impl AxumLogin {
    /// Returns the stack with all of the scene's customers signed in.
    pub fn new(scene: &Scene) -> Self {
        let known = scene.tokens.iter().map(|token| {
            let session = scene.store.session(token).expect("known");
            let user = User {
                customer: session.customer,
                hash: [7; 32],
            };
            (user.id(), user)
        });
        let backend = Backend {
            users: Arc::new(known.collect()),
        };
        let sessions = SessionManagerLayer::new(MemoryStore::default());
        let layer = AuthManagerLayerBuilder::new(backend.clone(), sessions).build();
        let mut signing_in = layer.layer(tower::service_fn(sign_in));
        let cookies: Vec<_> = block_on(async {
            let mut cookies = Vec::new();
            for user in backend.users.values() {
                let mut request = request(anonymous());
                request.extensions_mut().insert(user.clone());
                let response = signing_in.call(request).await.expect("infallible");
                let cookie = response.headers()[header::SET_COOKIE].to_str();
                let (cookie, _) = cookie.expect("text").split_once(';').expect("attributes");
                cookies.push(cookie.to_owned());
            }
            cookies
        });
        Self {
            layer,
            cookie: cookies[cookies.len() / 2].clone(),
        }
    }

    pub fn hit(&self) -> Contender {
        Contender::new(
            AXUM_LOGIN,
            served(
                self.layer.layer(tower::service_fn(reads_user)),
                StatusCode::OK,
            ),
            always(with_cookie(&self.cookie)),
        )
    }

    /// Returns the cookie of a customer who is signed in.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    pub fn router(&self) -> Router {
        let me = async |session: AuthSession<Backend>| match session.user {
            Some(user) => {
                std::hint::black_box(user.customer);
                Ok("hello")
            }
            None => Err(StatusCode::UNAUTHORIZED),
        };
        Router::new()
            .route("/me", get(me))
            .layer(self.layer.clone())
    }
}

async fn sign_in(request: Request) -> Result<Response, Infallible> {
    let extensions = request.extensions();
    let session = extensions.get::<AuthSession<Backend>>();
    let mut session = session.expect("below the layer").clone();
    let user = extensions.get::<User>().expect("put there above");
    session.login(user).await.expect("signed in");
    Ok(answer(Some("signed in")))
}

async fn reads_user(request: Request) -> Result<Response, Infallible> {
    let session = request.extensions().get::<AuthSession<Backend>>();
    let user = session.and_then(|session| session.user.as_ref());
    Ok(answer(user.map(|user| user.customer.id.as_str())))
}
