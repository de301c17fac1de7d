//! Verification of Polar's webhooks: a delivery comes from Polar, is recent, and is the first.

pub(super) mod event;
mod secret;
pub(super) mod service;

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use constant_time_eq::constant_time_eq;
use hmac::{Hmac, Mac};
use http::{HeaderMap, StatusCode};
use sha2::Sha256;

use self::{event::Event, secret::signing_keys};
use crate::{
    clock::{Clock, SystemClock},
    config_error::ConfigError,
};

/// Deliveries that are remembered; reached at 300 a second.
const MAX_REMEMBERED: usize = 100_000;

/// Signatures in a header that are compared, and the longest id that is accepted.
const MAX_SIGNATURES: usize = 16;
const MAX_ID_LEN: usize = 256;

/// Verifies the deliveries of Polar's webhooks.
///
/// Polar signs as Standard Webhooks describes. For secrets created before September 2026 the key is
/// the whole secret as it is shown, prefix included, not what its base64 stands for. Both kinds are
/// accepted; an older secret is not valid base64, so it has one key only.
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
    seen: Arc<Seen>,
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
        let event = Event::read(id, body).ok_or(WebhookError::Unreadable)?;
        self.seen.record(id, sent + self.tolerance, now)?;
        Ok(event)
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
        let given = signatures.split(' ').take(MAX_SIGNATURES);
        let given: Vec<_> = given
            .filter_map(|signature| signature.strip_prefix("v1,"))
            .collect();
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
            .finish_non_exhaustive()
    }
}

/// The accepted deliveries.
#[derive(Default)]
struct Seen {
    /// Guards the deliveries by id. Never held across an await.
    deliveries: Mutex<HashMap<String, Delivery>>,
}

struct Delivery {
    remembered_until: DateTime<Utc>,
    is_applied: bool,
}

impl Seen {
    /// Records a delivery, if it is the first with this id.
    fn record(
        &self,
        id: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), WebhookError> {
        let mut seen = self.lock();
        // After that time its timestamp is refused.
        match seen
            .get(id)
            .filter(|delivery| delivery.remembered_until >= now)
        {
            Some(delivery) if delivery.is_applied => return Err(WebhookError::Replayed),
            Some(_) => return Err(WebhookError::NotApplied),
            None => {}
        }
        if seen.len() >= seen.capacity().min(MAX_REMEMBERED) {
            seen.retain(|_, delivery| delivery.remembered_until >= now);
        }
        if seen.len() >= MAX_REMEMBERED {
            return Err(WebhookError::TooMany);
        }
        let delivery = Delivery {
            remembered_until: until,
            is_applied: false,
        };
        seen.insert(id.to_owned(), delivery);
        Ok(())
    }

    fn applied(&self, id: &str) {
        if let Some(delivery) = self.lock().get_mut(id) {
            delivery.is_applied = true;
        }
    }

    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Delivery>> {
        self.deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason why a delivery is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebhookError {
    /// A header that every delivery has is missing.
    MissingHeader(&'static str),
    /// A header is there twice, or its value is not valid.
    UnusableHeader(&'static str),
    /// None of its signatures was made with one of the secrets.
    WrongSignature,
    /// It was sent too long ago, or one of the clocks is wrong.
    OutOfTime,
    /// It was accepted before.
    Replayed,
    /// Its body cannot be read.
    Unreadable,
    /// It is longer than 1 MiB.
    TooLong,
    /// More deliveries were accepted recently than can be remembered.
    TooMany,
    /// It is genuine, but it was not applied: no listener is running, or it did not answer in time.
    NotApplied,
}

impl WebhookError {
    /// Returns the status to answer with. Polar repeats what is not answered with a success, up to ten
    /// times; a delivery that was accepted before is therefore answered with 200, and has no effect.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingHeader(_) | Self::UnusableHeader(_) | Self::Unreadable => {
                StatusCode::BAD_REQUEST
            }
            Self::WrongSignature | Self::OutOfTime => StatusCode::FORBIDDEN,
            Self::Replayed => StatusCode::OK,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany | Self::NotApplied => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for WebhookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingHeader(name) => return write!(f, "the header {name} is missing"),
            Self::UnusableHeader(name) => return write!(f, "the header {name} is not valid"),
            Self::WrongSignature => "the signature is wrong",
            Self::OutOfTime => "the timestamp is too far from now",
            Self::Replayed => "the delivery was accepted before",
            Self::Unreadable => "the body cannot be read",
            Self::TooLong => "the body is too long",
            Self::TooMany => "too many deliveries were accepted recently",
            Self::NotApplied => {
                "the delivery was not applied: check that `CustomerSessions::listen` is running"
            }
        })
    }
}

impl Error for WebhookError {}
