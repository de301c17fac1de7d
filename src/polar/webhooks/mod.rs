//! Whether a delivery comes from Polar, now, and for the first time.

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

/// So many deliveries are remembered. Polar would have to send 300 a second to get there.
const MOST_REMEMBERED: usize = 100_000;

/// A header with more signatures than that, or a longer identifier, is not Polar's.
const MOST_SIGNATURES: usize = 16;
const LONGEST_ID: usize = 256;

/// Verifies the deliveries of Polar's webhooks.
///
/// Polar signs as the Standard Webhooks describe it, but for secrets that were made before September
/// 2026: with these the key is the whole secret as it is shown, prefix included, not what its base64
/// stands for. Both are accepted; the older secrets are not valid base64, and so have one key only.
///
/// Give [`service`](Self::service) a route, or verify in a handler of your own:
///
/// ```
/// use customer_session::polar::{Event, WebhookError, Webhooks};
/// use http::HeaderMap;
///
/// fn receive(webhooks: &Webhooks, headers: &HeaderMap, body: &[u8]) -> Result<Event, WebhookError> {
///     webhooks.verify(headers, body) // the body as it came, not parsed and written anew
/// }
/// ```
///
/// Clones share what they remember.
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

    /// By how much a delivery's time may differ from ours; 5 minutes by default, and to the second.
    /// For as long its identifier is remembered.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        let longest = TimeDelta::days(1);
        self.tolerance = TimeDelta::from_std(tolerance).map_or(longest, |it| it.min(longest));
        self
    }

    /// Where the time comes from; [`SystemClock`] by default.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What a delivery tells, if Polar sent it, not long ago, and it was not accepted before.
    ///
    /// `body` must be what came over the network, byte for byte.
    ///
    /// # Errors
    ///
    /// [`WebhookError`]. Nothing that has failed is remembered, but what has succeeded is: should
    /// what you do with it fail, call [`forget`](Self::forget), and Polar may send it again.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<Event, WebhookError> {
        let event = self.verify_under_way(headers, body)?;
        self.applied(&event);
        Ok(event)
    }

    /// What can be said before the body is there.
    pub(super) fn check_head(headers: &HeaderMap) -> Result<(), WebhookError> {
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        names
            .into_iter()
            .try_for_each(|name| header(headers, name).map(drop))
    }

    /// [`verify`](Self::verify), but until [`applied`](Self::applied) it is under way.
    pub(super) fn verify_under_way(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Event, WebhookError> {
        let id = header(headers, "webhook-id")?;
        let timestamp = header(headers, "webhook-timestamp")?;
        let signatures = header(headers, "webhook-signature")?;
        if id.is_empty() || id.len() > LONGEST_ID {
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
        self.seen.note(id, sent + self.tolerance, now)?;
        Ok(event)
    }

    pub(super) fn applied(&self, event: &Event) {
        self.seen.applied(&event.id);
    }

    /// Lets a delivery come again that was verified, but could not be worked off.
    pub fn forget(&self, event: &Event) {
        self.seen.forget(&event.id);
    }

    /// Whether one of the signatures is that of one of our keys. All are tried, so that the time
    /// it takes tells nothing.
    fn is_signed(&self, head: &[&str; 2], body: &[u8], signatures: &str) -> bool {
        let given = signatures.split(' ').take(MOST_SIGNATURES);
        let given: Vec<_> = given.filter_map(|it| it.strip_prefix("v1,")).collect();
        let mut is_signed = false;
        for key in &self.keys {
            let mut mac = key.clone();
            for part in head {
                mac.update(part.as_bytes());
                mac.update(b".");
            }
            mac.update(body);
            let right = STANDARD.encode(mac.finalize().into_bytes());
            for signature in &given {
                is_signed |= constant_time_eq(signature.as_bytes(), right.as_bytes());
            }
        }
        is_signed
    }
}

/// The one value of a header.
fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, WebhookError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(WebhookError::MissingHeader(name))?;
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(value),
        _ => Err(WebhookError::UnusableHeader(name)),
    }
}

/// Whole seconds since 1970, in digits alone.
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

/// The deliveries that were accepted.
#[derive(Default)]
struct Seen {
    /// Guards what is known of each. Held to look or to write, never across an await.
    deliveries: Mutex<HashMap<String, Delivery>>,
}

struct Delivery {
    remembered_until: DateTime<Utc>,
    is_applied: bool,
}

impl Seen {
    /// Writes a delivery down, if it is the first with this identifier.
    fn note(&self, id: &str, until: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), WebhookError> {
        let mut seen = self.lock();
        // Later its timestamp refuses it.
        match seen.get(id).filter(|it| it.remembered_until >= now) {
            Some(it) if it.is_applied => return Err(WebhookError::Replayed),
            Some(_) => return Err(WebhookError::NotApplied),
            None => {}
        }
        if seen.len() >= seen.capacity().min(MOST_REMEMBERED) {
            seen.retain(|_, it| it.remembered_until >= now);
        }
        if seen.len() >= MOST_REMEMBERED {
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

/// Why a delivery is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebhookError {
    /// A header that each delivery has is not there.
    MissingHeader(&'static str),
    /// A header is there twice, or holds what it cannot.
    UnusableHeader(&'static str),
    /// None of its signatures was made with one of our secrets.
    WrongSignature,
    /// It was sent too long ago, or its clock or ours is wrong.
    OutOfTime,
    /// It was accepted before.
    Replayed,
    /// What it tells cannot be read.
    Unreadable,
    /// It is longer than 1 MiB.
    TooLong,
    /// More deliveries were accepted than can be remembered.
    TooMany,
    /// It is right, but nobody listens to what it tells, or not in time, or not yet.
    NotApplied,
}

impl WebhookError {
    /// What to answer. Whatever is not a success, Polar sends again, ten times in all; so what was
    /// accepted before is none, and has no effect.
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
            Self::UnusableHeader(name) => return write!(f, "the header {name} is unusable"),
            Self::WrongSignature => "the signature is wrong",
            Self::OutOfTime => "the timestamp is too far from now",
            Self::Replayed => "it was accepted before",
            Self::Unreadable => "the body cannot be read",
            Self::TooLong => "the body is too long",
            Self::TooMany => "too many deliveries were accepted lately",
            Self::NotApplied => "nobody listens to what it tells",
        })
    }
}

impl Error for WebhookError {}
