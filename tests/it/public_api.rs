//! The public API as other programs use it: what compiles here must go on compiling.

use std::{fmt::Debug, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use customer_session::{
    Actor, Address, AuthenticateError, CacheStatus, Clock, ConfigError, CurrentSession, Customer,
    CustomerData, CustomerId, CustomerKind, CustomerRejection, CustomerSession,
    CustomerSessionLayer, CustomerSessionService, CustomerSessions, CustomerSessionsBuilder,
    Device, DynCustomerSessions, Inserted, InsufficientScope, InvalidCursor, InvalidDetails,
    Invalidation, InvalidationSource, Keeps, Member, MemberRole, Metadata, MetadataValue,
    NewSession, OrganizationId, Page, PageCursor, Rejection, RejectionKind, RequestHead,
    ResponseBody, Revocation, Revoked, SameOriginLayer, SameOriginService, Scopes, SessionCookie,
    SessionDetails, SessionId, SessionLimit, SessionPage, SessionRegistry, SessionStore,
    SessionSummary, SessionToken, SetCookie, SourceEvent, Statistics, StoreError, StoreErrorKind,
    SystemClock, TaxId, TokenFormat, WhenFull, async_trait,
    store::{MemoryStore, Revocable},
    testing::ManualClock,
};
use http::{Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use tower::Layer as _;

fn plain<T: Clone + Debug + Send + Sync + 'static>() {}
fn id<T>()
where
    T: From<&'static str> + From<String> + std::fmt::Display + Eq + std::hash::Hash + Ord,
    T: Clone + Debug + Serialize + DeserializeOwned,
{
}
fn json<T: Serialize + DeserializeOwned>() {}
fn sent<T: Send>(value: T) -> T {
    value
}
fn spawned<T: Send + 'static>(value: T) -> T {
    value
}

/// Neither `Clone` nor `Debug`, as a store may be.
struct Mine;

#[async_trait]
impl SessionStore for Mine {
    async fn find(&self, _: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        Ok(None)
    }
}

struct Never;

#[async_trait]
impl InvalidationSource for Never {
    async fn recv(&mut self) -> Option<SourceEvent> {
        None
    }
}

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }
}

fn of_header<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    head.headers.get("x-organization")?.to_str().ok()
}

#[test]
fn every_public_type_has_its_traits() {
    plain::<CustomerSession>();
    plain::<(SessionDetails, NewSession, Keeps)>();
    plain::<(Scopes, Device, Actor, Member, MemberRole)>();
    plain::<(InsufficientScope, InvalidDetails)>();
    json::<(SessionDetails, Scopes, Device, Actor, Member, MemberRole)>();
    plain::<(Revocation, Revoked, Inserted, SessionLimit, WhenFull)>();
    plain::<(Page, PageCursor, SessionPage, InvalidCursor)>();
    plain::<Customer>();
    plain::<CustomerData>();
    plain::<(Address, TaxId, Metadata, MetadataValue, CustomerKind)>();
    plain::<(SessionToken, TokenFormat, SessionSummary)>();
    plain::<(StoreError, StoreErrorKind, Invalidation, SourceEvent)>();
    let _: SourceEvent = Invalidation::All.into();
    let _ = Invalidation::CustomerChanged {
        id: CustomerId::from("cus_1"),
        modified_at: DateTime::UNIX_EPOCH,
    };
    let asked_at = std::time::Instant::now();
    let _ = SourceEvent::Alive { asked_at };
    plain::<CustomerSessionLayer>();
    plain::<CustomerSessionService<()>>();
    plain::<CustomerSessionsBuilder<MemoryStore>>();
    plain::<(Rejection, RejectionKind, AuthenticateError)>();
    plain::<(Statistics, SystemClock, ManualClock, CurrentSession)>();
    plain::<ResponseBody<Bytes>>();
    plain::<(CacheStatus, ConfigError, CustomerRejection, SessionCookie)>();
    plain::<(MemoryStore, Revocable<MemoryStore, MemoryStore>)>();
    plain::<(SetCookie, SameOriginLayer)>();
    plain::<SameOriginService<()>>();
    id::<SessionId>();
    id::<CustomerId>();
    id::<OrganizationId>();
    json::<CustomerSession>();
    json::<Customer>();
    json::<(SessionToken, SessionSummary)>();
    // For every store, whatever it can do itself.
    plain::<CustomerSessions<Mine>>();
    let _: Box<dyn SessionStore> = Box::new(Arc::new(Mine) as Arc<dyn SessionStore>);
    let _: Arc<dyn SessionRegistry> =
        Arc::new(Box::new(MemoryStore::default()) as Box<dyn SessionRegistry>);
    for kind in [StoreErrorKind::Conflict, StoreErrorKind::Corrupt] {
        match kind {
            StoreErrorKind::Conflict
            | StoreErrorKind::Corrupt
            | StoreErrorKind::Timeout
            | StoreErrorKind::Unavailable => {}
            other => panic!("{other:?} was not asked for"),
        }
    }
}

#[tokio::test]
async fn every_public_call_has_its_signature() {
    let _: CustomerSessionLayer = CustomerSessionLayer::new(Mine);
    let _ = CustomerSessionLayer::new(Arc::new(Mine) as Arc<dyn SessionStore>);
    let sessions: CustomerSessions<MemoryStore> = CustomerSessions::builder(MemoryStore::default())
        .cache_ttl(Duration::from_secs(60))
        .cache_capacity(1000_u64)
        .negative_ttl(Duration::from_secs(5))
        .store_timeout(Duration::from_secs(2))
        .stale_if_error(Duration::from_secs(60))
        .stale_after(Duration::from_millis(250))
        .max_concurrent_lookups(100_usize)
        .token_format(TokenFormat::new("acme_cst_").or("other_"))
        .clock(Fixed)
        .build();
    let layer: Result<CustomerSessionLayer, ConfigError> = sessions.layer().optional().realm("app");
    let layer =
        layer
            .expect("a realm")
            .rejection_response(|rejection: &Rejection| -> Response<Bytes> {
                let _: (RejectionKind, StatusCode) = (rejection.kind(), rejection.status());
                Response::new(Bytes::new())
            });
    let cookie: Result<SessionCookie, ConfigError> = SessionCookie::new("session");
    let cookie = cookie.expect("a name");
    assert_eq!(cookie.name(), "session");
    let changed: Result<SessionCookie, ConfigError> = cookie.clone().domain("shop.example");
    let changed: Result<SessionCookie, ConfigError> = changed.expect("a domain").path("/app");
    let changed: SessionCookie = changed.expect("a path").persistent().strict();
    let _: SetCookie = changed.insecure_for_development().clear();
    let layer: Result<CustomerSessionLayer, ConfigError> = layer
        .token_from_cookie(&cookie)
        .token_from_query()
        .token_from_websocket_protocol()
        .token_from_fn(|_: &RequestHead<'_>| -> Option<SessionToken> { None })
        .cache_status_on_hits()
        .trusted_origin("https://app.example.com");
    let layer: Result<CustomerSessionLayer, ConfigError> =
        layer.expect("an origin").redirect_to("/sign-in");
    let same_origin: SameOriginLayer = layer.as_ref().expect("a path").same_origin();
    let request = http::Request::new(());
    let checked: Result<(), Rejection> =
        same_origin.check(request.method(), request.uri(), request.headers());
    checked.expect("a safe method");
    let layer: Result<CustomerSessionLayer, ConfigError> = layer.map(|layer| {
        layer
            .require_scope("orders:read")
            .require(|session: &CurrentSession, head: &RequestHead<'_>| {
                head.method.is_safe() || session.details.actor.is_none()
            })
            .organization(|head: &RequestHead<'_>| head.uri.host())
            .organization(of_header)
            .require_recent(Duration::from_secs(300))
            .without_stale()
            .verified()
    });
    let mut service: CustomerSessionService<u8> = layer.expect("an origin").layer(1);
    let _: (&u8, &mut u8) = (&1, service.get_mut());
    let _: &u8 = service.get_ref();
    let _: u8 = service.into_inner();
    let label: &'static str = CacheStatus::Hit.as_str();
    assert_eq!(label, "hit");
    assert_eq!(CacheStatus::Miss.as_str(), "miss");
    assert_eq!(CacheStatus::Stale.as_str(), "stale");

    let hour = Duration::from_secs(3600);
    let data = CustomerData::new("cus_1", "org_1");
    let session: CustomerSession = sent(sessions.issue(data, hour)).await.expect("issued");
    let new = NewSession::new(hour)
        .max_lifetime(24 * hour)
        .scopes(["orders:read"])
        .device(Device::new("phone").user_agent("x").ip([127, 0, 0, 1]))
        .actor(Actor::new("staff:ann").because("ticket 71"))
        .member(Member::new("mem_1", MemberRole::Owner))
        .at_most(5, WhenFull::EndOldest);
    let longer: Result<CustomerSession, StoreError> =
        sent(sessions.issue_with(session.customer.clone(), new)).await;
    let longer = longer.expect("issued");
    assert_eq!(longer.details.ends_at, Some(longer.created_at + 24 * hour));
    let required: Result<(), InsufficientScope> = longer.details.require("orders:write");
    assert_eq!(
        required.expect_err("it has another").scope(),
        "orders:write"
    );
    let proved: Result<Option<CustomerSession>, StoreError> =
        sent(sessions.reauthenticated(&longer.token, hour)).await;
    assert!(proved.expect("exchanged").is_some());
    assert!(sessions.revoke(&longer.id).await.expect("revoked"));
    let link: Result<CustomerSession, StoreError> =
        sent(sessions.link(session.customer.clone(), hour)).await;
    let link = link.expect("made");
    let opened: Result<Option<CustomerSession>, StoreError> =
        sent(sessions.exchange(&link.token, NewSession::new(hour))).await;
    assert!(opened.expect("exchanged").is_some());
    assert!(sessions.revoke(&link.id).await.expect("revoked"));
    let found: Result<CurrentSession, AuthenticateError> =
        sent(sessions.authenticate(&session.token)).await;
    found.expect("live");
    let CustomerSession {
        id,
        created_at: _,
        modified_at: _,
        token,
        expires_at: _,
        customer_id,
        customer,
        details: _,
        ..
    } = session;
    let listed: Vec<SessionSummary> = sent(sessions.list(&customer_id)).await.expect("listed");
    assert_eq!(listed.len(), 1);
    let page: Result<SessionPage, StoreError> =
        sent(sessions.list_page(&customer_id, &Page::default())).await;
    assert!(page.expect("listed").next.is_none());
    let updated: Result<bool, StoreError> = sent(sessions.update_customer(&customer)).await;
    assert!(updated.expect("updated"));
    let rotated: Result<Option<CustomerSession>, StoreError> =
        sent(sessions.rotate(&token, hour)).await;
    assert!(rotated.expect("rotated").is_some());
    let revoked: Result<bool, StoreError> = sent(sessions.revoke(&id)).await;
    assert!(revoked.expect("its successor is there"));
    let revoked: Result<bool, StoreError> = sent(sessions.revoke_owned(&customer_id, &id)).await;
    assert!(!revoked.expect("gone already"));
    let revoked: Result<bool, StoreError> = sent(sessions.revoke_token(&token)).await;
    assert!(!revoked.expect("gone already"));
    let done: Result<(), StoreError> = sent(sessions.revoke_others(&customer_id, &id)).await;
    done.expect("revoked");
    let done: Result<(), StoreError> = sent(sessions.revoke_customer(&customer_id)).await;
    done.expect("revoked");
    let done: Result<(), StoreError> =
        sent(sessions.revoke_created_before(DateTime::UNIX_EPOCH)).await;
    done.expect("revoked");
    let done: Result<(), StoreError> = sent(sessions.revoke_all()).await;
    done.expect("revoked");
    let sessions: DynCustomerSessions = sessions.into_dyn();
    let listening = spawned(sessions.listen(Never));
    let Statistics {
        hits: _,
        lookups,
        screened: _,
        rejected: _,
        store_errors: _,
        overloaded: _,
        ..
    } = sessions.statistics();
    assert!(lookups > 0);
    drop(sessions);
    listening.await;

    let revocable: Revocable<Mine, Arc<dyn SessionRegistry>> = Revocable::new(
        Mine,
        Arc::new(MemoryStore::new()) as Arc<dyn SessionRegistry>,
    )
    .max_lifetime(hour)
    .leeway(Duration::ZERO)
    .clock(Fixed);
    let revocable: DynCustomerSessions = CustomerSessions::builder(revocable).build().into_dyn();
    assert!(revocable.revoke(&id).await.expect("on the list"));

    let errors: [StoreError; 4] = [
        StoreError::conflict("text"),
        StoreError::corrupt(std::io::Error::other("an error")),
        StoreError::timeout(String::from("text")),
        StoreError::unavailable("text"),
    ];
    assert!(
        errors
            .iter()
            .all(|error| std::error::Error::source(error).is_some())
    );
    let clock = ManualClock::new(DateTime::UNIX_EPOCH);
    clock.clone().advance(hour);
    assert_eq!(clock.now(), DateTime::UNIX_EPOCH + hour);
    clock.set(DateTime::UNIX_EPOCH);
    assert_eq!(
        TokenFormat::polar(),
        TokenFormat::new("polar_cst_").or("polar_mst_")
    );
    assert_eq!(SessionToken::new("a").expose(), "a");
    assert_ne!(TokenFormat::any().generate(), TokenFormat::any().generate());
}

#[cfg(feature = "polar")]
#[test]
fn a_polar_store_has_its_settings() {
    use customer_session::polar::{PolarStore, PolarStoreBuilder};

    plain::<PolarStore>();
    let builder: PolarStoreBuilder = PolarStore::builder("polar_oat_1")
        .base_url(PolarStore::SANDBOX)
        .organization("org_1")
        .timeout(Duration::from_secs(2))
        .session_ttl(Duration::from_secs(3600))
        .foreign_customer_calls_per_minute(60)
        .token_format(TokenFormat::polar().or("polar_xst_"))
        .clock(SystemClock);
    let store: Result<PolarStore, ConfigError> = builder.build();
    let store = store.expect("built");
    let any = PolarStore::builder("proxy").accept_any_access_token();
    any.build().expect("built");
    drop(sent(store.check()));
}

#[cfg(feature = "polar")]
#[tokio::test]
async fn the_public_calls_of_webhooks_have_their_signatures() {
    use customer_session::polar::{Event, WebhookError, WebhookService, Webhooks};

    plain::<(Webhooks, WebhookService, WebhookError, Event)>();
    let webhooks: Result<Webhooks, ConfigError> = Webhooks::new("whsec_0123456789abcdef");
    let webhooks: Webhooks = webhooks
        .and_then(|webhooks| webhooks.or("whsec_fedcba9876543210"))
        .expect("two secrets")
        .tolerance(Duration::from_secs(60))
        .clock(Fixed)
        .announce_with(async |_: Invalidation| Ok::<_, std::io::Error>(()))
        .announce_through(MemoryStore::default());
    let (service, source) = webhooks.service();
    spawned(source);
    let _: Option<DateTime<Utc>> = service.last_delivery_at();
    let received: Result<Event, WebhookError> =
        sent(service.receive(&http::HeaderMap::new(), b"")).await;
    let refused = received.expect_err("it is empty");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        WebhookError::NotAnnounced.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}
