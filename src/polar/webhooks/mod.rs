//! Verification of Polar's webhooks: a delivery comes from Polar, is recent, and is the first.

mod announcement;
mod deliveries;
pub(super) mod error;
pub(super) mod event;
mod listening;
mod secret;
pub(super) mod service;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use constant_time_eq::constant_time_eq;
use hmac::{Hmac, Mac};
use http::HeaderMap;
use sha2::Sha256;

use self::{
    announcement::Announcer, deliveries::Deliveries, error::WebhookError, event::Event,
    secret::signing_keys,
};
use crate::{
    clock::{Clock, SystemClock},
    config_error::ConfigError,
    invalidation::Invalidation,
    store::SessionRegistry,
};

/// Signatures of version 1 in a header that are compared, and the longest id that is accepted.
const MAX_SIGNATURES: usize = 16;
const MAX_ID_LEN: usize = 256;

/// Verifies the deliveries of Polar's webhooks.
///
/// Polar signs as Standard Webhooks describes. The key is what the base64 after `whsec_` stands for,
/// padded or not. For secrets created before 8 September 2026, and for those that the merchant has chosen,
/// it is the whole secret as it is shown, prefix included. A delivery signed either way is accepted.
///
/// Give [`service`](Self::service) a route, or verify in a handler of your own:
///
/// ```
/// use customer_session::polar::{Event, WebhookError, Webhooks};
/// use http::HeaderMap;
///
/// fn receive(webhooks: &Webhooks, headers: &HeaderMap, body: &[u8]) -> Result<Event, WebhookError> {
///     webhooks.verify(headers, body) // the bytes of the body as they arrived
/// }
/// ```
///
/// Clones share the deliveries that they remember.
#[derive(Clone)]
pub struct Webhooks {
    keys: Vec<Hmac<Sha256>>,
    tolerance: TimeDelta,
    clock: Arc<dyn Clock>,
    seen: Arc<Deliveries>,
    announcer: Option<Announcer>,
}

impl Webhooks {
    /// Accepts deliveries signed with `secret`, as Polar shows it: `whsec_...`.
    ///
    /// # Errors
    ///
    /// If the secret cannot be one of Polar's: it is empty, only a prefix, too short, or has white
    /// space around it.
    pub fn new(secret: impl AsRef<str>) -> Result<Self, ConfigError> {
        Ok(Self {
            keys: signing_keys(secret.as_ref())?,
            tolerance: TimeDelta::minutes(5),
            clock: Arc::new(SystemClock),
            seen: Arc::default(),
            announcer: None,
        })
    }

    /// Accepts one more secret: the old one, while it is being replaced.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn or(mut self, secret: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.keys.extend(signing_keys(secret.as_ref())?);
        Ok(self)
    }

    /// Sets by how much a delivery's time may differ from the clock's; 5 minutes by default, at most a
    /// day. The ids of deliveries are remembered as long.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        let longest = TimeDelta::days(1);
        self.tolerance =
            TimeDelta::from_std(tolerance).map_or(longest, |tolerance| tolerance.min(longest));
        self
    }

    /// Sets the clock; [`SystemClock`] by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Has the [service](Self::service) tell the other nodes of each change, too: a delivery reaches one
    /// node only. It does so with [`announce`](SessionRegistry::announce), as `PostgresStore` and
    /// `RedisStore` can; the other nodes listen to the source of `invalidations` of such a store.
    /// `MemoryStore` and `SqliteStore` tell no other node, and report that as success.
    ///
    /// A delivery is answered with success once it was announced and applied here. If it could not be
    /// announced, Polar is told to send it again. At most one of this and
    /// [`announce_with`](Self::announce_with) is in force, the last.
    ///
    /// Each node remembers the deliveries that it has accepted itself. If Polar repeats one and it reaches
    /// another node, that one applies and announces it once more: sessions of that customer are looked up
    /// again, and nothing else happens.
    ///
    /// ```
    /// use customer_session::{CustomerSessions, polar::{PolarStore, Webhooks}, SessionRegistry};
    ///
    /// # async fn start(
    /// #     polar: PolarStore, bus: impl SessionRegistry,
    /// #     source: impl customer_session::InvalidationSource + 'static, secret: String,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// // `bus` is a `PostgresStore` or a `RedisStore`, and `source` is its `invalidations()`.
    /// let sessions = CustomerSessions::builder(polar).build();
    /// let (webhooks, invalidations) = Webhooks::new(secret)?.announce_through(bus).service();
    /// tokio::spawn(sessions.listen(invalidations));
    /// tokio::spawn(sessions.listen(source));
    /// # let _ = webhooks;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn announce_through(mut self, registry: impl SessionRegistry) -> Self {
        self.announcer = Some(Announcer::through(registry));
        self
    }

    /// Has the [service](Self::service) tell the other nodes of each change over a message bus of the
    /// application: as [`announce_through`](Self::announce_through), with a function that resolves once
    /// the bus has taken the message. The other nodes listen to the bus with an
    /// [`InvalidationSource`](crate::InvalidationSource).
    ///
    /// ```
    /// use customer_session::{Invalidation, polar::Webhooks};
    /// use tokio::sync::broadcast;
    ///
    /// # fn start(secret: String) -> Result<(), Box<dyn std::error::Error>> {
    /// let (bus, _) = broadcast::channel::<Invalidation>(1000);
    /// let webhooks = Webhooks::new(secret)?.announce_with(move |invalidation| {
    ///     let sent = bus.send(invalidation).map(drop);
    ///     async move { sent }
    /// });
    /// # let _ = webhooks;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn announce_with<F, A, E>(mut self, announce: F) -> Self
    where
        F: Fn(Invalidation) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.announcer = Some(Announcer::new(announce));
        self
    }

    /// Returns the event of a delivery that Polar has sent recently and that was not accepted before.
    ///
    /// `body` must be the body as it arrived, byte for byte.
    ///
    /// # Errors
    ///
    /// [`WebhookError`]. An accepted delivery is remembered. If your own handling of it fails, call
    /// [`forget`](Self::forget), so that Polar may send it again.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Event, WebhookError> {
        let event = self.verify_under_way(headers, body)?;
        self.applied(&event);
        Ok(event)
    }

    /// Checks the headers, before the body is read.
    pub(super) fn check_head(headers: &HeaderMap) -> Result<(), WebhookError> {
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        names
            .into_iter()
            .try_for_each(|name| header(headers, name).map(drop))
    }

    /// Verifies a delivery that is under way until [`applied`](Self::applied) is called.
    pub(super) fn verify_under_way(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Event, WebhookError> {
        let id = header(headers, "webhook-id")?;
        let timestamp = header(headers, "webhook-timestamp")?;
        let signatures = header(headers, "webhook-signature")?;
        if id.is_empty() || id.len() > MAX_ID_LEN {
            return Err(WebhookError::UnusableHeader("webhook-id"));
        }
        let sent = seconds(timestamp).ok_or(WebhookError::UnusableHeader("webhook-timestamp"))?;
        if !self.is_signed(&[id, timestamp], body, signatures) {
            return Err(WebhookError::WrongSignature);
        }
        let now = self.clock.now();
        if (now - sent).abs() > self.tolerance {
            return Err(WebhookError::OutOfTime);
        }
        self.seen.note_genuine(now);
        let event = Event::read(id, body).ok_or(WebhookError::Unreadable)?;
        self.seen.record(id, sent + self.tolerance, now)?;
        Ok(event)
    }

    pub(super) fn last_delivery_at(&self) -> Option<DateTime<Utc>> {
        self.seen.last_genuine_at()
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub(super) fn applied(&self, event: &Event) {
        self.seen.applied(&event.id);
    }

    /// Lets a delivery come again that was verified, but could not be handled.
    pub fn forget(&self, event: &Event) {
        self.seen.forget(&event.id);
    }

    /// Returns `true` if one of the signatures was made with one of the keys. All are compared, so
    /// that the time this takes reveals nothing.
    fn is_signed(&self, head: &[&str; 2], body: &[u8], signatures: &str) -> bool {
        let given = signatures.split(' ');
        let given = given.filter_map(|signature| signature.strip_prefix("v1,"));
        let given: Vec<_> = given.take(MAX_SIGNATURES).collect();
        let mut is_signed = false;
        for key in &self.keys {
            let mut mac = key.clone();
            for part in head {
                mac.update(part.as_bytes());
                mac.update(b".");
            }
            mac.update(body);
            let expected = STANDARD.encode(mac.finalize().into_bytes());
            for signature in &given {
                is_signed |= constant_time_eq(signature.as_bytes(), expected.as_bytes());
            }
        }
        is_signed
    }
}

/// Returns the only value of a header.
fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, WebhookError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(WebhookError::MissingHeader(name))?;
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(value),
        _ => Err(WebhookError::UnusableHeader(name)),
    }
}

/// Reads whole seconds since 1970, written in digits alone.
fn seconds(timestamp: &str) -> Option<DateTime<Utc>> {
    let is_plain = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = timestamp.parse().ok().filter(|_| is_plain)?;
    DateTime::from_timestamp(seconds, 0)
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("secrets", &self.keys.len())
            .field("tolerance", &self.tolerance)
            .field("announces", &self.announcer.is_some())
            .finish_non_exhaustive()
    }
}
