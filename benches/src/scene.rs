//! The sessions, tokens and requests that all stacks have in common.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{body::Body, extract::Request};
use chrono::{TimeDelta, Utc};
use customer_session::{
    CustomerData, CustomerSession, CustomerSessions, MetadataValue, Scopes, SessionStore,
    SessionToken, StoreError, TokenFormat, async_trait,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// A time longer than any run, so that nothing that is cached is looked up again.
pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The scope of all sessions.
pub const SCOPE: &str = "orders:read";

/// A store that knows every token but one. It makes sessions up from their tokens, so that a
/// million of them take no memory but that of the cache.
#[derive(Clone)]
pub struct MadeUp {
    absent: Arc<str>,
    metadata: usize,
    scopes: Scopes,
    lookups: Arc<AtomicU64>,
}

impl MadeUp {
    /// Returns the same store with a count of lookups of its own.
    pub fn with_own_count(&self) -> Self {
        Self {
            lookups: Arc::default(),
            ..self.clone()
        }
    }

    /// Returns the number of lookups so far.
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Relaxed)
    }

    /// Returns the session of a token.
    pub fn session(&self, token: &SessionToken) -> Option<CustomerSession> {
        let text = token.expose();
        if *text == *self.absent {
            return None;
        }
        let id = &text[4..30];
        let mut customer = CustomerData::new(format!("cus_{id}"), "org_1");
        customer.name = Some("Jane Doe".to_owned());
        customer.email = Some("jane@example.com".to_owned());
        customer.metadata = (0..self.metadata)
            .map(|n| (format!("key {n}"), MetadataValue::from("value")))
            .collect();
        let end = Utc::now() + TimeDelta::days(30);
        let id = format!("ses_{id}");
        let mut session = CustomerSession::new(id, token.clone(), customer, end);
        session.details.scopes = self.scopes.clone();
        Some(session)
    }
}

#[async_trait]
impl SessionStore for MadeUp {
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.lookups.fetch_add(1, Relaxed);
        Ok(self.session(token))
    }

    fn token_format(&self) -> TokenFormat {
        TokenFormat::new("cst_")
    }
}

/// Some tokens, and the store that knows them.
pub struct Scene {
    pub store: MadeUp,
    pub tokens: Arc<[SessionToken]>,
    /// A token that is well-formed, but unknown.
    pub absent: SessionToken,
}

impl Scene {
    /// Returns a scene of this many sessions.
    pub fn new(count: usize) -> Self {
        Self::with_metadata(count, 2)
    }

    /// Returns a scene in which each customer has this many entries of metadata.
    pub fn with_metadata(count: usize, metadata: usize) -> Self {
        let format = TokenFormat::new("cst_");
        let absent = format.generate();
        Self {
            store: MadeUp {
                absent: absent.expose().into(),
                metadata,
                scopes: Scopes::new([SCOPE]).expect("a scope"),
                lookups: Arc::default(),
            },
            tokens: (0..count).map(|_| format.generate()).collect(),
            absent,
        }
    }

    /// Returns the same sessions in a store with a count of lookups of its own.
    pub fn with_own_count(&self) -> Self {
        Self {
            store: self.store.with_own_count(),
            tokens: Arc::clone(&self.tokens),
            absent: self.absent.clone(),
        }
    }

    /// Returns the token of the session that is asked for again and again.
    pub fn hot(&self) -> &SessionToken {
        &self.tokens[self.tokens.len() / 2]
    }

    /// Returns a live token with one character changed: the garbage that is hardest to refuse.
    pub fn garbage(&self) -> String {
        let mut token = self.hot().expose().to_owned();
        let other = if &token[10..11] == "x" { "y" } else { "x" };
        token.replace_range(10..11, other);
        token
    }

    /// Returns the capacity of a cache that is to keep all of the sessions.
    pub fn capacity(&self) -> u64 {
        self.tokens.len() as u64 + 100
    }

    /// Returns our engine with an empty cache of this capacity.
    pub fn empty_sessions(&self, capacity: u64) -> CustomerSessions<MadeUp> {
        CustomerSessions::builder(self.store.clone())
            .cache_capacity(capacity)
            .cache_ttl(TTL)
            .negative_ttl(TTL)
            .build()
    }

    /// Returns our engine with all of the sessions cached.
    pub fn sessions(&self) -> CustomerSessions<MadeUp> {
        let sessions = self.empty_sessions(self.capacity());
        block_on(async {
            for token in &*self.tokens {
                sessions.authenticate(token).await.expect("known");
            }
            sessions
                .authenticate(&self.absent)
                .await
                .expect_err("unknown");
        });
        let lookups = sessions.statistics().lookups;
        assert_eq!(lookups, self.tokens.len() as u64 + 1);
        sessions
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// The headers of an ordinary request, without a credential.
pub const HEADERS: [(&str, &str); 7] = [
    ("host", "api.example.com"),
    ("user-agent", "bench/1.0"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, br"),
    ("content-type", "application/json"),
    ("x-request-id", "7c5b2a80-0f0e-4c5e-9d0a-0a4d5f6b7c8d"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
];

pub fn anonymous() -> HeaderMap {
    HEADERS
        .into_iter()
        .map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        })
        .collect()
}

pub fn with_bearer(token: &str) -> HeaderMap {
    let mut headers = anonymous();
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a value");
    headers.insert(header::AUTHORIZATION, value);
    headers
}

pub fn with_cookie(cookie: &str) -> HeaderMap {
    let mut headers = anonymous();
    let value = HeaderValue::try_from(cookie).expect("a value");
    headers.insert(header::COOKIE, value);
    headers
}

pub fn request(headers: HeaderMap) -> Request {
    let mut request = Request::new(Body::empty());
    *request.headers_mut() = headers;
    request
}
