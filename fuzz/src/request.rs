//! A layer in front of a store that knows every token, and what becomes of a request.

use std::convert::Infallible;

use bytes::Bytes;
use chrono::DateTime;
use customer_session::{
    CurrentSession, CustomerData, CustomerSession, CustomerSessionLayer, CustomerSessions,
    Rejection, RejectionKind, SessionStore, SessionToken, StoreError, async_trait,
};
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::Empty;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer as _, ServiceExt as _};

/// Longest token, by RFC 6750's grammar and the layer's documentation.
pub const MAX_TOKEN: usize = 4096;

/// Longest header that is searched, in bytes.
pub const MAX_HEADER: usize = 64 * 1024;

/// The credential of a request, as the layer or the reference has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    None,
    Token(String),
    Invalid,
    CrossSite,
    Multiple,
}

impl Read {
    /// Combines credentials: RFC 6750, section 2, allows one.
    pub fn one_of(mut all: Vec<Read>) -> Read {
        all.retain(|read| *read != Read::None);
        match all.len() {
            0 => Read::None,
            1 => all.remove(0),
            _ => Read::Multiple,
        }
    }

    /// Reads what stands where a token should be, by the grammar of RFC 6750, section 2.1:
    /// `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
    pub fn token(text: &[u8]) -> Read {
        let body = text
            .iter()
            .rposition(|byte| *byte != b'=')
            .map_or(0, |last| last + 1);
        let is_body = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
        if body == 0 || text.len() > MAX_TOKEN || !text[..body].iter().all(is_body) {
            return Read::Invalid;
        }
        Read::Token(String::from_utf8(text.to_vec()).expect("ASCII"))
    }
}

/// A store in which every token opens a session of its own.
struct Open;

#[async_trait]
impl SessionStore for Open {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        let customer = CustomerData::new("cus_1", "org_1");
        let end = DateTime::from_timestamp(7_258_118_400, 0).expect("the year 2200");
        let id = token.expose();
        Ok(Some(CustomerSession::new(id, token.clone(), customer, end)))
    }
}

/// A layer, and the runtime that its lookups need.
pub struct Edge {
    layer: CustomerSessionLayer,
    runtime: Runtime,
}

/// What became of a request: its credential and, if the service behind the layer was called, the
/// URI and the headers that it saw.
pub struct Outcome {
    pub read: Read,
    pub seen: Option<(Uri, HeaderMap)>,
}

impl Edge {
    pub fn new(configure: impl FnOnce(CustomerSessionLayer) -> CustomerSessionLayer) -> Self {
        let sessions = CustomerSessions::builder(Open).cache_capacity(64).build();
        Self {
            layer: configure(sessions.layer().optional()),
            runtime: Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime"),
        }
    }

    pub fn send(&self, request: Request<Empty<Bytes>>) -> Outcome {
        let service =
            self.layer
                .layer(tower::service_fn(async |request: Request<Empty<Bytes>>| {
                    let (parts, _) = request.into_parts();
                    let session = CurrentSession::from_extensions(&parts.extensions);
                    let token = session.map(|session| session.token.expose().to_owned());
                    let mut response = Response::new(Empty::<Bytes>::new());
                    response
                        .extensions_mut()
                        .insert((token, parts.uri, parts.headers));
                    Ok::<_, Infallible>(response)
                }));
        let response = self
            .runtime
            .block_on(service.oneshot(request))
            .expect("infallible");
        let mut extensions = response.extensions().clone();
        if let Some(rejection) = extensions.get::<Rejection>() {
            let (read, status) = match rejection.kind() {
                RejectionKind::InvalidToken => (Read::Invalid, 401),
                RejectionKind::MultipleTokens => (Read::Multiple, 400),
                RejectionKind::CrossSite => (Read::CrossSite, 403),
                kind => panic!("{kind:?} in front of a store that always answers"),
            };
            assert_eq!(response.status(), status);
            return Outcome { read, seen: None };
        }
        assert_eq!(response.status(), 200);
        let seen: (Option<String>, Uri, HeaderMap) = extensions.remove().expect("the service's");
        Outcome {
            read: seen.0.map_or(Read::None, Read::Token),
            seen: Some((seen.1, seen.2)),
        }
    }
}

/// Removes spaces and tabs at both ends.
pub fn trimmed(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(start, |last| last + 1);
    &text[start..end]
}
