//! Where Polar sends its webhooks, and who hears of them.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tower_service::Service;

use super::{WebhookError, Webhooks, event::Event};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    telemetry,
};

/// Polar's own deliveries have a few KiB.
const LONGEST_BODY: usize = 1 << 20;

/// Polar waits ten seconds for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many deliveries wait to be applied; the next ones wait for a place.
const MOST_WAITING: usize = 256;

impl Webhooks {
    /// A service for the route that Polar sends to, and the source of the invalidations that come
    /// in there.
    ///
    /// A delivery is answered when what it tells has been applied: then whoever asks finds the
    /// customer changed, or is refused.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use customer_session::{CustomerSessions, polar::{PolarStore, Webhooks}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (token, secret) = ("polar_oat_example", "whsec_0123456789abcdef");
    /// let sessions = CustomerSessions::builder(PolarStore::builder(token).build()?).build();
    /// let (webhooks, invalidations) = Webhooks::new(secret)?.service();
    /// tokio::spawn(sessions.listen(invalidations));
    /// let app: Router = Router::new()
    ///     .route("/me", get(async || "hello"))
    ///     .layer(sessions.layer())
    ///     // After the layer: Polar has no session.
    ///     .route_service("/webhooks/polar", webhooks);
    /// # Ok(())
    /// # }
    /// ```
    pub fn service(self) -> (WebhookService, PolarInvalidations) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        let service = WebhookService {
            webhooks: self,
            sender,
        };
        let source = PolarInvalidations {
            has_begun: false,
            receiver,
            taken: None,
        };
        (service, source)
    }
}

/// An invalidation, and whom to tell when it has been applied.
struct Delivery {
    invalidation: Invalidation,
    applied: oneshot::Sender<()>,
}

/// Receives Polar's webhooks: for [`Router::route_service`] in axum, or anything that takes a
/// Tower service.
///
/// It answers 200 when a delivery has been applied, was applied before, or tells nothing that
/// concerns sessions; else the [status](WebhookError::status) of what is wrong. Clones share
/// everything.
///
/// [`Router::route_service`]: https://docs.rs/axum/latest/axum/struct.Router.html#method.route_service
#[derive(Clone)]
pub struct WebhookService {
    webhooks: Webhooks,
    sender: mpsc::Sender<Delivery>,
}

impl WebhookService {
    /// Verifies a delivery and has what it tells applied, in a handler of your own that has
    /// further use for the event. Should that fail, call [`forget`](Self::forget) and answer with
    /// an error: Polar comes again with the same delivery.
    ///
    /// # Errors
    ///
    /// [`WebhookError`]: answer with its [status](WebhookError::status).
    pub async fn receive(&self, headers: &HeaderMap, body: &[u8]) -> Result<Event, WebhookError> {
        let event = self.webhooks.verify_under_way(headers, body)?;
        let Some(invalidation) = event.invalidation() else {
            self.webhooks.applied(&event);
            return Ok(event);
        };
        // Also if the caller gives up half-way.
        let unless_applied = ForgetOnDrop {
            webhooks: &self.webhooks,
            event: Some(&event),
        };
        match timeout(PATIENCE, self.apply(invalidation)).await {
            Ok(Some(())) => {
                unless_applied.disarm();
                self.webhooks.applied(&event);
                Ok(event)
            }
            Ok(None) | Err(_) => Err(WebhookError::NotApplied),
        }
    }

    /// Lets a delivery come again that [`receive`](Self::receive) has accepted.
    pub fn forget(&self, event: &Event) {
        self.webhooks.forget(event);
    }

    async fn apply(&self, invalidation: Invalidation) -> Option<()> {
        let (applied, is_applied) = oneshot::channel();
        let delivery = Delivery {
            invalidation,
            applied,
        };
        self.sender.send(delivery).await.ok()?;
        is_applied.await.ok()
    }

    async fn answer<B>(self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if request.method() != Method::POST {
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, String::new());
            let allowed = HeaderValue::from_static("POST");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        let (head, body) = request.into_parts();
        let received = async {
            Webhooks::check_head(&head.headers)?;
            let body = timeout(PATIENCE, Limited::new(body, LONGEST_BODY).collect()).await;
            match body.map_err(|_| WebhookError::Unreadable)? {
                Ok(body) => self.receive(&head.headers, &body.to_bytes()).await,
                Err(error) if error.is::<LengthLimitError>() => Err(WebhookError::TooLong),
                Err(_) => Err(WebhookError::Unreadable),
            }
        };
        match received.await {
            Ok(_) => answer(StatusCode::OK, String::new()),
            Err(error) => {
                telemetry::webhook_refused(&error);
                answer(error.status(), error.to_string())
            }
        }
    }
}

fn answer(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Lets a delivery come again that was not applied.
struct ForgetOnDrop<'a> {
    webhooks: &'a Webhooks,
    event: Option<&'a Event>,
}

impl ForgetOnDrop<'_> {
    fn disarm(mut self) {
        self.event = None;
    }
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(event) = self.event {
            self.webhooks.forget(event);
        }
    }
}

impl<B> Service<Request<B>> for WebhookService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

impl fmt::Debug for WebhookService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookService")
            .field("webhooks", &self.webhooks)
            .finish_non_exhaustive()
    }
}

/// What comes in at a [`WebhookService`]. Hand it to
/// [`CustomerSessions::listen`](crate::CustomerSessions::listen), and spawn that: while nobody
/// listens, deliveries are answered with 503, and Polar sends them again later.
pub struct PolarInvalidations {
    has_begun: bool,
    receiver: mpsc::Receiver<Delivery>,
    /// Whom to tell when the next is asked for: then the last has been applied.
    taken: Option<oneshot::Sender<()>>,
}

#[async_trait]
impl InvalidationSource for PolarInvalidations {
    async fn recv(&mut self) -> Option<SourceEvent> {
        if let Some(applied) = self.taken.take() {
            // Whoever waited for it may have given up.
            let _ = applied.send(());
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(Invalidation::All.into());
        }
        let Delivery {
            invalidation,
            applied,
        } = self.receiver.recv().await?;
        self.taken = Some(applied);
        Some(invalidation.into())
    }
}

impl fmt::Debug for PolarInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolarInvalidations").finish_non_exhaustive()
    }
}
