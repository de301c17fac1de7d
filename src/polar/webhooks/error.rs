//! Why a delivery of a webhook is not accepted.

use std::{error::Error, fmt};

use http::StatusCode;

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
    /// It is genuine, but the other nodes may not have been told of it:
    /// [`announce_through`](crate::polar::Webhooks::announce_through) or
    /// [`announce_with`](crate::polar::Webhooks::announce_with) failed. The error is in the log.
    NotAnnounced,
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
            Self::TooMany | Self::NotApplied | Self::NotAnnounced => {
                StatusCode::SERVICE_UNAVAILABLE
            }
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
            Self::NotAnnounced => "the delivery could not be announced to the other nodes",
        })
    }
}

impl Error for WebhookError {}
