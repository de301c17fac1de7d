//! The route that Polar sends its webhooks to, and the source of their invalidations.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
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

use super::{
    Webhooks,
    error::WebhookError,
    event::{Event, EventKind},
    listening::Listening,
};
use crate::{
    invalidation::{Invalidation, InvalidationSource, SourceEvent},
    newest_changes::NewestChanges,
    telemetry,
};

/// Longest body that is read. Polar's deliveries have a few KiB.
const MAX_BODY_LEN: usize = 1 << 20;

/// Time limit of reading a body, and of applying an event. Polar waits ten seconds for an answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Deliveries that may wait to be applied; more of them wait for a place.
const MAX_QUEUED: usize = 256;

/// Time for which it is remembered which changes of customers were applied.
const CHANGE_REMEMBERED_FOR: TimeDelta = TimeDelta::days(1);

impl Webhooks {
    /// Returns a service for the route that Polar sends to, and the source of the invalidations that
    /// arrive there.
    ///
    /// A delivery is answered after its event was applied: requests that start later see the changed
    /// customer, or are refused.
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
        let (sender, receiver) = mpsc::channel(MAX_QUEUED);
        let listening = Arc::new(Listening::new());
        let service = WebhookService {
            webhooks: self,
            sender,
            listening: Arc::clone(&listening),
            applied_changes: Arc::default(),
        };
        let source = PolarInvalidations {
            listening,
            receiver,
            unreported: None,
        };
        (service, source)
    }
}

/// An invalidation, and the channel that reports that it was applied.
struct Delivery {
    invalidation: Invalidation,
    applied: oneshot::Sender<()>,
}

/// Receives Polar's webhooks: for [`Router::route_service`] in axum, or anything that takes a
/// Tower service.
///
/// It answers 200 if a delivery was applied (and announced, with
/// [`announce_through`](Webhooks::announce_through)), was applied before, or does not concern sessions;
/// otherwise the [status](WebhookError::status) of the error. Clones share everything.
///
/// [`Router::route_service`]: https://docs.rs/axum/latest/axum/struct.Router.html#method.route_service
#[derive(Clone)]
pub struct WebhookService {
    webhooks: Webhooks,
    sender: mpsc::Sender<Delivery>,
    listening: Arc<Listening>,
    /// Recorded after the change was applied, never earlier.
    applied_changes: Arc<NewestChanges<DateTime<Utc>>>,
}

impl WebhookService {
    /// Verifies a delivery and applies its event, in a handler of your own that needs the event too.
    /// If your own handling fails, call [`forget`](Self::forget) and answer with an error, so that
    /// Polar sends the delivery again.
    ///
    /// # Errors
    ///
    /// [`WebhookError`]: answer with its [status](WebhookError::status).
    pub async fn receive(&self, headers: &HeaderMap, body: &[u8]) -> Result<Event, WebhookError> {
        let event = self.webhooks.verify_under_way(headers, body)?;
        let Some(invalidation) = self.invalidation(&event) else {
            self.webhooks.applied(&event);
            return Ok(event);
        };
        // This also happens if the caller drops the future.
        let unless_applied = ForgetOnDrop {
            webhooks: &self.webhooks,
            event: Some(&event),
        };
        let patience = self.patience().ok_or(WebhookError::NotApplied)?;
        // Whatever becomes of one, the other does no harm.
        let (applied, announced) = tokio::join!(
            self.apply(invalidation.clone(), patience),
            self.announce(invalidation)
        );
        applied?;
        announced?;
        unless_applied.disarm();
        self.note_applied(&event);
        Ok(event)
    }

    /// Lets a delivery come again that [`receive`](Self::receive) has accepted.
    pub fn forget(&self, event: &Event) {
        self.webhooks.forget(event);
    }

    /// Returns what is to be applied, if anything.
    ///
    /// Polar sends `customer.state_changed` at each change of a meter, too, which changes nothing that is
    /// cached. It is told from others by the time of the customer's last change, if that was applied here.
    fn invalidation(&self, event: &Event) -> Option<Invalidation> {
        let invalidation = event.invalidation()?;
        let is_known = event.kind == EventKind::CustomerStateChanged && self.was_applied(event);
        (!is_known).then_some(invalidation)
    }

    /// Returns `true` if the customer's last change, or a newer one, was applied before.
    fn was_applied(&self, event: &Event) -> bool {
        let (Some(id), Some(changed_at)) = (&event.customer_id, event.changed_at()) else {
            return false;
        };
        let newest = self.applied_changes.newest(id, self.webhooks.now());
        newest.is_some_and(|(newest, _)| changed_at <= newest)
    }

    fn note_applied(&self, event: &Event) {
        if let (Some(id), Some(changed_at)) = (&event.customer_id, event.changed_at()) {
            let now = self.webhooks.now();
            let until = now + CHANGE_REMEMBERED_FOR;
            self.applied_changes.record(id, changed_at, until, now);
        }
        self.webhooks.applied(event);
    }

    /// Returns the time of the last delivery of Polar's that has arrived here, or at a clone: genuine,
    /// recent, and of any kind. `None` if there was none.
    ///
    /// Polar disables an endpoint after ten failed deliveries in a row. From then on changes are noticed
    /// only when what is cached is too old. If your customers change often, let a monitor look at this.
    pub fn last_delivery_at(&self) -> Option<DateTime<Utc>> {
        self.webhooks.last_delivery_at()
    }

    /// Returns how long a delivery may wait to be applied; `None` if nothing listens.
    fn patience(&self) -> Option<Duration> {
        let patience = self.listening.patience(TIME_LIMIT);
        let patience = patience.filter(|_| !self.sender.is_closed());
        if patience.is_none() {
            self.listening.warn();
        }
        patience
    }

    /// Has the listener apply an invalidation.
    async fn apply(
        &self,
        invalidation: Invalidation,
        patience: Duration,
    ) -> Result<(), WebhookError> {
        let applied = timeout(patience, self.hand_over(invalidation)).await;
        applied.ok().flatten().ok_or(WebhookError::NotApplied)
    }

    async fn hand_over(&self, invalidation: Invalidation) -> Option<()> {
        let (applied, is_applied) = oneshot::channel();
        let delivery = Delivery {
            invalidation,
            applied,
        };
        self.sender.send(delivery).await.ok()?;
        is_applied.await.ok()
    }

    /// Tells the other nodes of a change, if they are to be told.
    async fn announce(&self, invalidation: Invalidation) -> Result<(), WebhookError> {
        let Some(announcer) = &self.webhooks.announcer else {
            return Ok(());
        };
        let announced = timeout(TIME_LIMIT, announcer.announce(invalidation)).await;
        announced
            .unwrap_or_else(|elapsed| Err(elapsed.into()))
            .map_err(|error| {
                telemetry::webhook_not_announced(&*error);
                WebhookError::NotAnnounced
            })
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
            let body = timeout(TIME_LIMIT, Limited::new(body, MAX_BODY_LEN).collect()).await;
            match body.map_err(|_| WebhookError::Unreadable)? {
                Ok(body) => self.receive(&head.headers, &body.to_bytes()).await,
                Err(error) if error.is::<LengthLimitError>() => Err(WebhookError::TooLong),
                Err(_) => Err(WebhookError::Unreadable),
            }
        };
        match received.await {
            Ok(_) => answer(StatusCode::OK, String::new()),
            Err(error) => {
                match error {
                    WebhookError::Replayed => telemetry::webhook_repeated(),
                    // Any client can send such requests, as often as it likes.
                    WebhookError::MissingHeader(_) => telemetry::webhook_is_none(&error),
                    // It has been logged with its cause.
                    WebhookError::NotAnnounced => {}
                    _ => telemetry::webhook_refused(&error),
                }
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

/// Lets a delivery that was not applied come again.
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

/// The invalidations that arrive at a [`WebhookService`]. Pass it to
/// [`CustomerSessions::listen`](crate::CustomerSessions::listen), and spawn that: without a running
/// listener deliveries are answered with 503, and Polar sends them again later. The first delivery that
/// finds no listener is logged.
pub struct PolarInvalidations {
    listening: Arc<Listening>,
    receiver: mpsc::Receiver<Delivery>,
    /// Reports that the last invalidation was applied, when the next one is received.
    unreported: Option<oneshot::Sender<()>>,
}

#[async_trait]
impl InvalidationSource for PolarInvalidations {
    async fn recv(&mut self) -> Option<SourceEvent> {
        if let Some(applied) = self.unreported.take() {
            // The request that waited for it may be gone.
            let _ = applied.send(());
        }
        if self.listening.begin() {
            return Some(Invalidation::All.into());
        }
        let Delivery {
            invalidation,
            applied,
        } = self.receiver.recv().await?;
        self.unreported = Some(applied);
        Some(invalidation.into())
    }
}

impl fmt::Debug for PolarInvalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolarInvalidations").finish_non_exhaustive()
    }
}
