//! The stacks that are compared. Each wraps the same trivial service, answers the same requests,
//! and hands the service an identity that it reads.

mod axum_login;
mod bare;
mod by_hand;
mod floor;
mod jwt;
mod ours;
mod plain_map;
mod tower_http;
mod tower_sessions;

use std::{
    convert::Infallible,
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use ::axum::{body::Body, extract::Request, response::Response};
use customer_session::{Customer, SessionToken};
use http::{HeaderMap, StatusCode};
use tower::Service;

use crate::scene::{Scene, with_bearer};

pub use self::{
    axum_login::AxumLogin, bare::Bare, by_hand::ByHand, floor::Floor, jwt::Jwt, ours::Ours,
    plain_map::PlainMap, tower_http::TowerHttp, tower_sessions::TowerSessions,
};

/// The names of those that something else refers to.
pub const BARE: &str = "bare service";
pub const FLOOR: &str = "floor: one `Arc` extension";
pub const OURS: &str = "ours: hit";
pub const OURS_AMONG_MANY: &str = "ours: hit, a million cached";
pub const PLAIN_MAP: &str = "plain sharded map";
pub const BY_HAND: &str = "hand-written `from_fn` + moka";
pub const AXUM_LOGIN: &str = "axum-login";
pub const HS256: &str = "jwt-authorizer HS256";

/// Something that answers requests, at once: nothing here waits.
pub trait Stack: Send {
    fn answer(&mut self, requests: &mut Vec<Request>);

    fn answer_one(&mut self, request: Request);
}

/// A stack and the requests it is to answer.
pub struct Contender {
    pub name: String,
    pub stack: Box<dyn Stack>,
    pub headers: Headers,
}

/// The headers of the next request.
pub type Headers = Box<dyn FnMut() -> HeaderMap + Send>;

impl Contender {
    pub fn new(name: impl Into<String>, stack: Box<dyn Stack>, headers: Headers) -> Self {
        Self {
            name: name.into(),
            stack,
            headers,
        }
    }
}

/// Every stack there is, with the sessions of `scene`; ours with those of `many` as well.
pub fn every_stack(scene: &Scene, many: &Scene) -> Vec<Contender> {
    let ours = Ours::new(scene);
    let by_hand = ByHand::new(scene);
    let mut all = vec![
        Bare::hit(scene),
        Floor::hit(scene),
        ours.one_hit(OURS, scene),
        Ours::new(many).one_hit(OURS_AMONG_MANY, many),
    ];
    all.extend(ours.refusals(scene));
    all.extend([
        TowerHttp::hit(&by_hand, scene),
        by_hand.one_hit(scene),
        TowerSessions::hit(scene),
        AxumLogin::new(scene).hit(),
        Jwt::hs256(scene),
        Jwt::ed25519(scene),
    ]);
    all
}

/// The same headers again and again.
pub fn always(headers: HeaderMap) -> Headers {
    Box::new(move || headers.clone())
}

/// The tokens in this order, over and over.
pub fn in_turn(tokens: &Arc<[SessionToken]>, order: &Arc<[u32]>) -> Headers {
    let (tokens, order, mut next) = (Arc::clone(tokens), Arc::clone(order), 0);
    Box::new(move || {
        let token = &tokens[order[next] as usize];
        next = (next + 1) % order.len();
        with_bearer(token.expose())
    })
}

/// A Tower service whose every answer is to have this status.
struct Served<S> {
    service: S,
    status: StatusCode,
}

fn served<S>(service: S, status: StatusCode) -> Box<dyn Stack>
where
    S: Service<Request, Error = Infallible, Response: Status> + Send + 'static,
{
    Box::new(Served { service, status })
}

impl<S> Stack for Served<S>
where
    S: Service<Request, Error = Infallible, Response: Status> + Send,
{
    fn answer(&mut self, requests: &mut Vec<Request>) {
        for request in requests.drain(..) {
            self.answer_one(request);
        }
    }

    #[inline]
    fn answer_one(&mut self, request: Request) {
        let mut context = Context::from_waker(Waker::noop());
        assert!(self.service.poll_ready(&mut context).is_ready());
        let mut response = pin!(self.service.call(request));
        loop {
            if let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut context) {
                assert_eq!(response.status(), self.status);
                black_box(response);
                break;
            }
        }
    }
}

trait Status {
    fn status(&self) -> StatusCode;
}

impl<B> Status for http::Response<B> {
    fn status(&self) -> StatusCode {
        http::Response::status(self)
    }
}

/// The trivial service: reads who is asking, and fails if nobody has been put there.
async fn reads_customer(request: Request) -> Result<Response, Infallible> {
    let customer = request.extensions().get::<Customer>();
    Ok(answer(customer.map(|customer| customer.id.as_str())))
}

fn answer(identity: Option<&str>) -> Response {
    let mut response = Response::new(Body::empty());
    if black_box(identity).is_none() {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

fn refusal() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

/// The token of a request, as one reads it by hand.
fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(http::header::AUTHORIZATION)?;
    value.to_str().ok()?.strip_prefix("Bearer ")
}
