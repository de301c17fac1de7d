//! Sessions that are kept elsewhere and ended here: the list of what was ended, on two nodes.

use std::{
    error::Error as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use customer_session::{
    AuthenticateError, Clock as _, CustomerId, CustomerSession, CustomerSessions, Inserted,
    Invalidation, Keeps, NewSession, Page, SessionLimit, SessionPage, SessionRegistry,
    SessionStore as _, SessionToken, SourceEvent, StoreError, StoreErrorKind, TokenFormat,
    async_trait,
    store::{MemoryStore, Revocable},
    testing::{Fault, FaultyStore, ManualClock},
};
use test_support::{
    ChannelSource, HOUR, ProbeStore, RegistryExt as _, StoreWrapper, Wrapped, clock, customer,
};
use tokio::sync::{mpsc, watch};

use crate::fixture::{settle, without_details};

/// A registry that tells its nodes what is announced.
struct Shared {
    records: Mutex<MemoryStore>,
    nodes: Mutex<Vec<mpsc::UnboundedSender<SourceEvent>>>,
    inner: MemoryStore,
    /// Lists wait for this after they have read.
    is_open: watch::Sender<bool>,
    has_listed: watch::Sender<usize>,
}

#[async_trait]
impl StoreWrapper for Shared {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.inner
    }

    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        self.records().find(token).await
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        self.records().insert(session, limit).await
    }

    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError> {
        let listed = self.records().list(customer, page).await;
        self.has_listed.send_modify(|lists| *lists += 1);
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
        listed
    }

    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        for node in &*self.nodes.lock().expect("no panic") {
            node.send(invalidation.clone().into()).expect("it listens");
        }
        Ok(())
    }
}

impl Shared {
    fn records(&self) -> MemoryStore {
        self.records.lock().expect("no panic").clone()
    }
}

type List = FaultyStore<Arc<Wrapped<Shared>>>;
type Node = CustomerSessions<Revocable<Arc<ProbeStore>, List>>;

/// Two nodes over one store that is kept elsewhere, and one list.
struct Fixture {
    elsewhere: Arc<ProbeStore>,
    shared: Arc<Wrapped<Shared>>,
    list: List,
    clock: ManualClock,
    here: Node,
    there: Node,
}

impl Fixture {
    async fn new() -> Self {
        let inner = MemoryStore::new();
        let shared = Arc::new(Wrapped(Shared {
            records: Mutex::new(inner.clone()),
            inner,
            nodes: Mutex::default(),
            is_open: watch::Sender::new(true),
            has_listed: watch::Sender::new(0),
        }));
        let (elsewhere, list) = (Arc::default(), FaultyStore::new(Arc::clone(&shared)));
        let clock = clock();
        let node = || {
            let store = Revocable::new(Arc::clone(&elsewhere), list.clone());
            let store = store.max_lifetime(HOUR).clock(clock.clone());
            let sessions = CustomerSessions::builder(store);
            let sessions = sessions.clock(clock.clone()).cache_capacity(100).build();
            let (sender, source) = ChannelSource::new();
            tokio::spawn(sessions.listen(source));
            shared.nodes.lock().expect("no panic").push(sender);
            sessions
        };
        let (here, there) = (node(), node());
        Self {
            elsewhere,
            shared,
            list,
            clock,
            here,
            there,
        }
    }

    /// Has another service create a session of an hour, and both nodes cache it.
    async fn session(&self, id: &str, owner: &str) -> CustomerSession {
        let session = self.uncached(id, owner, TimeDelta::hours(1)).await;
        for node in [&self.here, &self.there] {
            node.authenticate(&session.token).await.expect("live");
        }
        session
    }

    /// Has another service create a session.
    async fn uncached(&self, id: &str, owner: &str, ttl: TimeDelta) -> CustomerSession {
        let (now, token) = (self.clock.now(), TokenFormat::new("cst_").generate());
        let mut session = CustomerSession::new(id, token, customer(owner), now + ttl);
        session.created_at = now;
        let added = self.elsewhere.inner.add(&session).await;
        added.expect("created elsewhere")
    }

    /// Fails unless both nodes agree that the session is live, or that it is not, at once and when they
    /// look it up again.
    async fn assert_live(&self, session: &CustomerSession, is_live: bool) {
        settle().await;
        for round in ["at once", "looked up again"] {
            for (place, node) in [("here", &self.here), ("there", &self.there)] {
                let found = node.authenticate(&session.token).await;
                let id = &session.id;
                assert_eq!(found.is_ok(), is_live, "{id} {place}, {round}: {found:?}");
                if !is_live {
                    let error = found.expect_err("refused");
                    assert!(matches!(error, AuthenticateError::InvalidToken), "{error}");
                }
            }
            self.clock.advance(Duration::from_secs(61));
        }
    }

    async fn cutoffs_of(&self, owner: &str) -> usize {
        let owner = CustomerId::from(owner);
        let records = self.shared.records();
        records.summaries(&owner).await.expect("listed").len()
    }
}

fn kind(error: &AuthenticateError) -> Option<StoreErrorKind> {
    match error {
        AuthenticateError::Store(error) => Some(error.kind()),
        _ => None,
    }
}

/// Returns the store's own words.
fn words<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    let error = outcome.expect_err("an error");
    error.source().expect("its reason").to_string()
}

#[tokio::test]
async fn a_session_that_was_ended_on_one_node_is_refused_on_all() {
    let fixture = Fixture::new().await;
    let ended = fixture.session("ses_1", "cus_1").await;
    let other = fixture.session("ses_2", "cus_1").await;
    assert!(fixture.here.revoke(&ended.id).await.expect("ended"));
    fixture.assert_live(&ended, false).await;
    fixture.assert_live(&other, true).await;
    let again = fixture.there.revoke(&ended.id).await;
    assert!(!again.expect("an answer"), "it was on the list");

    assert!(
        fixture
            .there
            .revoke_token(&other.token)
            .await
            .expect("ended")
    );
    fixture.assert_live(&other, false).await;
    let again = fixture.here.revoke_token(&other.token).await;
    assert!(!again.expect("an answer"), "it opens nothing any more");
}

#[tokio::test]
async fn a_session_is_ended_while_the_store_that_keeps_it_is_down() {
    let fixture = Fixture::new().await;
    let session = fixture.session("ses_1", "cus_1").await;
    fixture.elsewhere.fault(test_support::Fault::Fail);
    assert!(fixture.here.revoke(&session.id).await.expect("ended"));
    fixture.elsewhere.fault(None);
    fixture.assert_live(&session, false).await;
}

#[tokio::test]
async fn a_customer_ends_no_session_of_another() {
    let fixture = Fixture::new().await;
    let theirs = fixture.session("ses_1", "cus_1").await;
    let foreign = fixture.here.revoke_owned(&"cus_2".into(), &theirs.id).await;
    foreign.expect("an answer");
    settle().await;
    // Nor is a copy of it given up, which may be all there is in an outage.
    for node in [&fixture.here, &fixture.there] {
        let before = node.statistics().hits;
        node.authenticate(&theirs.token).await.expect("live");
        assert_eq!(node.statistics().hits, before + 1);
    }
    fixture.assert_live(&theirs, true).await;
    let own = fixture.here.revoke_owned(&"cus_1".into(), &theirs.id).await;
    assert!(own.expect("ended"));
    fixture.assert_live(&theirs, false).await;
}

#[tokio::test]
async fn revoking_a_customer_ends_what_was_created_until_then_and_a_leeway() {
    let fixture = Fixture::new().await;
    let other = fixture.session("ses_2", "cus_2").await;
    let session = fixture.session("ses_1", "cus_1").await;
    let owner = &session.customer_id;
    fixture.here.revoke_customer(owner).await.expect("done");
    // The clock of the other service may be ahead.
    fixture.clock.advance(Duration::from_secs(1));
    let hour = TimeDelta::hours(1);
    let too_early = fixture.uncached("ses_3", "cus_1", hour).await;
    fixture.clock.advance(Duration::from_secs(2));
    let later = fixture.session("ses_4", "cus_1").await;
    fixture.assert_live(&session, false).await;
    fixture.assert_live(&too_early, false).await;
    fixture.assert_live(&later, true).await;
    fixture.assert_live(&other, true).await;
}

#[tokio::test]
async fn revoking_the_others_keeps_one_and_brings_none_back() {
    let fixture = Fixture::new().await;
    let [first, kept, foreign] = [("ses_1", "cus_1"), ("ses_2", "cus_1"), ("ses_3", "cus_2")];
    let first = fixture.session(first.0, first.1).await;
    let kept = fixture.session(kept.0, kept.1).await;
    let foreign = fixture.session(foreign.0, foreign.1).await;
    let owner = &kept.customer_id;
    let done = fixture.here.revoke_others(owner, &kept.id).await;
    done.expect("done");
    fixture.assert_live(&first, false).await;
    fixture.assert_live(&kept, true).await;
    fixture.assert_live(&foreign, true).await;

    fixture.here.revoke_customer(owner).await.expect("done");
    let done = fixture.there.revoke_others(owner, &kept.id).await;
    done.expect("done");
    fixture.assert_live(&kept, false).await;
}

#[tokio::test]
async fn all_sessions_end_or_those_created_before_a_time() {
    let fixture = Fixture::new().await;
    let old = fixture.session("ses_1", "cus_1").await;
    fixture.clock.advance(Duration::from_secs(10));
    let time = fixture.clock.now();
    fixture.clock.advance(Duration::from_secs(10));
    let new = fixture.session("ses_2", "cus_2").await;
    let done = fixture.here.revoke_created_before(time).await;
    done.expect("done");
    fixture.assert_live(&old, false).await;
    fixture.assert_live(&new, true).await;
    // A time to come ends nothing that has yet to be created.
    let far = fixture.clock.now() + TimeDelta::days(300);
    let done = fixture.here.revoke_created_before(far).await;
    done.expect("done");
    fixture.assert_live(&new, false).await;
    let newest = fixture.session("ses_3", "cus_3").await;
    fixture.assert_live(&newest, true).await;
    fixture.there.revoke_all().await.expect("done");
    fixture.assert_live(&newest, false).await;
}

#[tokio::test]
async fn a_list_that_cannot_be_read_lets_nothing_in() {
    let fixture = Fixture::new().await;
    let cached = fixture.session("ses_1", "cus_1").await;
    let cold = fixture
        .uncached("ses_2", "cus_1", TimeDelta::hours(1))
        .await;
    fixture.list.fail_with(Fault::Error);
    let refused = fixture.here.authenticate(&cold.token).await;
    let error = refused.expect_err("unknown");
    assert_eq!(kind(&error), Some(StoreErrorKind::Unavailable));
    let found = fixture.here.authenticate(&cached.token).await;
    found.expect("the cache is used, as in any outage");
    let ended = fixture.here.revoke(&cached.id).await;
    assert_eq!(words(ended), "told to fail");
    // It may have been put on the list, so the cache is not used any more.
    assert!(fixture.here.authenticate(&cached.token).await.is_err());
    fixture.list.recover();
    fixture.assert_live(&cold, true).await;
    fixture.assert_live(&cached, true).await;
}

#[tokio::test]
async fn a_lookup_that_has_read_the_list_before_a_revocation_lets_nothing_in() {
    let fixture = Fixture::new().await;
    let hour = TimeDelta::hours(1);
    let session = fixture.uncached("ses_1", "cus_1", hour).await;
    fixture.shared.is_open.send_replace(false);
    let (node, token) = (fixture.here.clone(), session.token.clone());
    let lookup = tokio::spawn(async move { node.authenticate(&token).await });
    let mut lists = fixture.shared.has_listed.subscribe();
    lists.wait_for(|lists| *lists >= 2).await.expect("it reads");
    // Of one session, so that the list is not read meanwhile.
    assert!(fixture.here.revoke(&session.id).await.expect("ended"));
    fixture.shared.is_open.send_replace(true);
    let found = lookup.await.expect("no panic");
    found.expect_err("it was overtaken");
    fixture.assert_live(&session, false).await;
}

#[tokio::test]
async fn an_entry_stays_until_its_session_has_ended() {
    let fixture = Fixture::new().await;
    let session = fixture.session("ses_1", "cus_1").await;
    assert!(fixture.here.revoke(&session.id).await.expect("ended"));
    let owner = &session.customer_id;
    fixture.here.revoke_customer(owner).await.expect("done");
    let purge = async |before: DateTime<Utc>| {
        let store = Revocable::new(MemoryStore::new(), fixture.list.clone());
        store.purge_expired(before, 100).await.expect("purged")
    };
    assert_eq!(purge(session.expires_at).await, 0);
    fixture.assert_live(&session, false).await;
    let slack = TimeDelta::minutes(10);
    assert_eq!(purge(session.expires_at + slack).await, 2);
    assert_eq!(
        format!("{:?}", fixture.shared.records()),
        "MemoryStore { sessions: 0 }"
    );
}

#[tokio::test]
async fn a_list_that_is_lost_brings_sessions_back_until_their_end() {
    let fixture = Fixture::new().await;
    let session = fixture.session("ses_1", "cus_1").await;
    assert!(fixture.here.revoke(&session.id).await.expect("ended"));
    fixture.assert_live(&session, false).await;
    *fixture.shared.records.lock().expect("no panic") = MemoryStore::new();
    fixture.clock.advance(Duration::from_secs(61));
    fixture.assert_live(&session, true).await;
    // The way out that the documentation names.
    fixture.here.revoke_all().await.expect("done");
    fixture.assert_live(&session, false).await;
}

#[tokio::test]
async fn a_session_that_could_outlive_its_entry_is_refused_with_advice() {
    let fixture = Fixture::new().await;
    let hour = TimeDelta::hours(1);
    // Clocks differ.
    let bit_longer = fixture.uncached("ses_1", "cus_1", hour + TimeDelta::minutes(4));
    fixture.assert_live(&bit_longer.await, true).await;
    let longer = fixture.uncached("ses_2", "cus_1", hour * 2).await;
    // The other service has prolonged it, and its entry would be gone by now.
    let mut prolonged = fixture.uncached("ses_5", "cus_1", hour).await;
    prolonged.id = "ses_6".into();
    prolonged.token = TokenFormat::new("cst_").generate();
    prolonged.created_at -= hour;
    let added = fixture.elsewhere.inner.add(&prolonged).await;
    added.expect("created elsewhere");
    let mut of_the_future = fixture.uncached("ses_3", "cus_1", hour).await;
    of_the_future.id = "ses_4".into();
    of_the_future.token = TokenFormat::new("cst_").generate();
    of_the_future.created_at += TimeDelta::seconds(3);
    let added = fixture.elsewhere.inner.add(&of_the_future).await;
    added.expect("created elsewhere");
    for (session, says) in [
        (longer, "raise the maximum"),
        (prolonged, "raise the maximum"),
        (of_the_future, "in the future"),
    ] {
        let refused = fixture.here.authenticate(&session.token).await;
        let Err(AuthenticateError::Store(error)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        let words = words::<()>(Err(error));
        assert!(
            words.contains(says) && words.contains(session.id.as_str()),
            "{words}"
        );
    }
}

#[tokio::test]
async fn the_list_of_a_customer_does_not_grow_with_every_revocation() {
    let fixture = Fixture::new().await;
    let session = fixture.session("ses_1", "cus_1").await;
    let owner = &session.customer_id;
    // A lookup may be reading the list in steps, and must find one of them.
    for entries in 1..=3 {
        fixture.here.revoke_customer(owner).await.expect("done");
        let there = fixture.cutoffs_of("customer-session:ended-of:cus_1").await;
        assert_eq!(there, entries);
        fixture.clock.advance(Duration::from_secs(1));
    }
    let kept = "ses_9".into();
    for _ in 0..8 {
        // At the same time too: entries that are alike must not remove each other.
        let both = tokio::join!(
            fixture.here.revoke_customer(owner),
            fixture.there.revoke_customer(owner)
        );
        assert!(both.0.is_ok() && both.1.is_ok());
        let kept = fixture.here.revoke_others(owner, &kept).await;
        kept.expect("done");
        fixture.clock.advance(Duration::from_secs(6 * 60));
    }
    let entries = fixture.cutoffs_of("customer-session:ended-of:cus_1").await;
    assert!((1..=6).contains(&entries), "{entries}");
    fixture.assert_live(&session, false).await;
}

#[tokio::test]
async fn entries_of_one_moment_do_not_remove_each_other() {
    let fixture = Fixture::new().await;
    let session = fixture.session("ses_1", "cus_1").await;
    let owner = &session.customer_id;
    for node in [&fixture.here, &fixture.there, &fixture.here] {
        node.revoke_customer(owner).await.expect("done");
    }
    fixture.clock.advance(Duration::from_secs(6 * 60));
    // This one covers neither of them.
    let others = fixture.here.revoke_others(owner, &session.id).await;
    others.expect("done");
    fixture.assert_live(&session, false).await;
    let entries = fixture.cutoffs_of("customer-session:ended-of:cus_1").await;
    assert_eq!(entries, 2);
}

#[tokio::test]
async fn an_entry_opens_nothing_where_other_sessions_are_kept_beside_it() {
    let registry = MemoryStore::new();
    let elsewhere = Arc::new(ProbeStore::default());
    let store = Revocable::new(Arc::clone(&elsewhere), registry.clone());
    let ended = CustomerSessions::builder(store).build();
    assert!(ended.revoke(&"ses_1".into()).await.expect("ended"));
    let entry = SessionToken::new("(ended-session ses_1)");
    let record = registry.find(&entry).await.expect("an answer");
    let record = record.expect("the entry has this token");
    for format in [TokenFormat::any(), TokenFormat::new("(ended-session ses_1")] {
        let direct = CustomerSessions::builder(registry.clone()).token_format(format);
        let direct = direct.build();
        let found = direct.authenticate(&entry).await;
        found.expect_err("an entry is no session");
        let revoked = direct.revoke_token(&entry).await.expect("an answer");
        assert!(!revoked);
        let rotated = direct.rotate(&entry, HOUR).await.expect("an answer");
        assert!(rotated.is_none());
        let opened = direct.exchange(&entry, NewSession::new(HOUR)).await;
        assert!(opened.expect("an answer").is_none());
        let listed = direct.list(&record.customer_id).await.expect("listed");
        assert_eq!(listed, []);
    }
    assert!(registry.find(&entry).await.expect("an answer").is_some());
}

#[tokio::test]
async fn calls_that_only_the_owner_of_the_sessions_could_answer_say_so() {
    let fixture = Fixture::new().await;
    let session = fixture.session("ses_1", "cus_1").await;
    let (node, hour) = (&fixture.here, HOUR);
    let texts = [
        words(node.issue(session.customer.clone(), hour).await),
        words(node.rotate(&session.token, hour).await),
        words(node.update_customer(&session.customer).await),
        words(node.list(&session.customer_id).await),
    ];
    for text in texts {
        assert!(text.contains("are kept elsewhere"), "{text}");
    }
    let idle = CustomerSessions::builder(Revocable::new(MemoryStore::new(), MemoryStore::new()));
    assert!(idle.record_uses().is_err());
    fixture.assert_live(&session, true).await;
}

/// A registry with a fault that would make the list useless.
#[derive(Default)]
struct Useless {
    inner: MemoryStore,
    refuses: AtomicBool,
}

#[async_trait]
impl StoreWrapper for Useless {
    fn inner(&self) -> &dyn SessionRegistry {
        &self.inner
    }

    /// Refuses tokens of another format without a look.
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
        match self.inner.token_format().matches(token.expose()) {
            true => self.inner.find(token).await,
            false => Ok(None),
        }
    }

    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError> {
        match self.refuses.load(Relaxed) {
            true => Err(StoreError::conflict("unknown customer")),
            false => self.inner.insert(session, limit).await,
        }
    }

    async fn list(&self, _: &CustomerId, _: &Page) -> Result<SessionPage, StoreError> {
        Ok(SessionPage::default())
    }
}

#[tokio::test]
async fn a_registry_that_cannot_keep_the_list_is_an_error_and_not_a_revocation() {
    let useless = Arc::new(Wrapped(Useless::default()));
    let store = Revocable::new(MemoryStore::new(), Arc::clone(&useless));
    let node = CustomerSessions::builder(store).build();
    for refuses in [false, true] {
        useless.refuses.store(refuses, Relaxed);
        let says = match refuses {
            true => "unknown customer",
            false => "does not find what it was just given",
        };
        let one = words(node.revoke(&"ses_1".into()).await);
        assert!(one.contains(says), "{one}");
        let many = words(node.revoke_customer(&"cus_1".into()).await);
        assert!(many.contains(says), "{many}");
    }

    let without = without_details(MemoryStore::new());
    assert_eq!(without.keeps(), Keeps::default());
    let store = Revocable::new(MemoryStore::new(), without);
    assert!(words(store.check().await).contains("details"));
    let node = CustomerSessions::builder(store).build();
    assert!(words(node.revoke(&"ses_1".into()).await).contains("details"));
}
