//! Sessions in Redis: a throw-away server, or the one that TEST_REDIS_URL names.

use std::sync::{Arc, OnceLock};

use customer_session::{
    CustomerData, CustomerId, CustomerSession, Device, Invalidation, Revocation, SessionId,
    SessionRegistry as _, SessionStore as _, StoreErrorKind,
    store::{Peppers, RedisStore},
};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};

use crate::persistent_store::{
    self, Database, assert_error, assert_says, inserted, peppers, shared_tests, unique,
};
use test_support::{
    RegistryExt as _,
    servers::{self, Server},
};

/// Keys of its own on a server.
struct Keys {
    url: String,
    prefix: String,
}

impl Keys {
    fn on(url: String) -> Self {
        Self {
            url,
            prefix: format!("{}:", unique("tests")),
        }
    }

    async fn raw(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url.as_str()).expect("a URL");
        client
            .get_multiplexed_async_connection()
            .await
            .expect("connected")
    }

    /// Returns all keys, without the prefix.
    async fn keys(&self) -> Vec<Vec<u8>> {
        let all = format!("{}*", self.prefix);
        let keys: Vec<Vec<u8>> = self.raw().await.keys(all).await.expect("keys");
        let without = keys.iter().map(|key| key[self.prefix.len()..].to_vec());
        without.collect()
    }

    /// Returns the keys but for those that every database has: the peppers and the epochs.
    async fn keys_of_sessions(&self) -> Vec<Vec<u8>> {
        let mut keys = self.keys().await;
        keys.retain(|key| key != b"peppers" && !key.starts_with(b"a:"));
        keys
    }

    fn customer(&self, customer: &CustomerId) -> String {
        format!("{}c:{{={customer}}}", self.prefix)
    }

    /// Returns the keys of a kind.
    async fn keys_of(&self, kind: &str) -> Vec<Vec<u8>> {
        let keys = self.keys().await.into_iter();
        let keys = keys.filter(|key| key.starts_with(kind.as_bytes()));
        keys.map(|key| [self.prefix.as_bytes(), &key].concat())
            .collect()
    }
}

impl Database for Keys {
    type Store = RedisStore;

    async fn new() -> Option<Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        match std::env::var("TEST_REDIS_URL") {
            Ok(url) => Some(Self::on(url)),
            Err(_) => match SHARED.get_or_init(Server::redis) {
                Some(server) => Some(Self::on(server.url())),
                None => {
                    servers::missing("Redis");
                    None
                }
            },
        }
    }

    async fn open(&self) -> RedisStore {
        self.reopen(peppers()).await
    }

    async fn reopen(&self, peppers: Peppers) -> RedisStore {
        self.connect(peppers).await
    }

    async fn forget_peppers(&self) {
        let key = format!("{}peppers", self.prefix);
        let _: () = self.raw().await.del(key).await.expect("forgotten");
    }

    async fn connect(&self, peppers: Peppers) -> RedisStore {
        let store = RedisStore::connect(&self.url, peppers).await;
        store.expect("connected").key_prefix(self.prefix.as_str())
    }
}

shared_tests!(Keys);

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    persistent_store::keeps_the_contract(keys.open().await).await;
    // What outlives the sessions: who is deleted, and for a day what leads to what.
    let mut raw = keys.raw().await;
    for key in keys.keys_of_sessions().await {
        let whole = [keys.prefix.as_bytes(), &key].concat();
        let left: i64 = raw.pttl(&whole).await.expect("an answer");
        if key.starts_with(b"c:") && left < 0 {
            let value: Vec<u8> = raw.get(&whole).await.expect("there");
            assert_eq!(
                (value[0], value.len()),
                (b't', 9),
                "nothing of the customer"
            );
        } else {
            assert!(left > 0, "{} stays for ever", String::from_utf8_lossy(&key));
        }
    }
}

/// Revokes a session by an id, as the customer `owner`.
async fn revoke_owned(
    store: &RedisStore,
    owner: &CustomerId,
    session: &SessionId,
) -> (bool, Vec<Invalidation>) {
    let (customer, session) = (owner.clone(), session.clone());
    let what = Revocation::Owned { customer, session };
    let revoked = store.revoke(&what).await.expect("an answer");
    (revoked.any, revoked.invalidations)
}

/// Replaces a session by one that ends when it does.
async fn rotated(store: &RedisStore, old: &CustomerSession) -> CustomerSession {
    let mut new = persistent_store::session(store, old.customer_id.as_str());
    new.expires_at = old.expires_at;
    new.details = old.details.clone();
    let replaced = store.swap(&old.id, &new).await.expect("an answer");
    replaced.expect("it was live")
}

#[tokio::test]
async fn any_id_of_a_rotated_session_ends_it() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let first = inserted(&store).await;
    let second = rotated(&store, &first).await;
    let third = rotated(&store, &second).await;
    let owner = &first.customer_id;
    let foreign = revoke_owned(&store, &unique("cus").as_str().into(), &first.id).await;
    assert_eq!(foreign, (false, vec![]), "it is another customer's");
    let other = inserted(&store).await;
    let mut taken = persistent_store::session(&store, owner.as_str());
    for id in [&first.id, &second.id] {
        taken.id = id.clone();
        let conflict = StoreErrorKind::Conflict;
        assert_error(store.add(&taken).await, conflict, &["id", "taken"]);
    }

    let (any, invalidations) = revoke_owned(&store, owner, &first.id).await;
    let ended = [&first.id, &third.id].map(|id| Invalidation::Session(id.clone()));
    assert!(any);
    assert_eq!(invalidations, ended);
    assert_eq!(store.find(&third.token).await.expect("an answer"), None);
    // Another node may not know yet, and knows the session by an id that is unknown here.
    let (any, invalidations) = revoke_owned(&store, owner, &second.id).await;
    assert!(!any);
    let second = Invalidation::Session(second.id);
    assert_eq!(
        invalidations,
        [second, Invalidation::Customer(owner.clone())]
    );
    assert!(store.find(&other.token).await.expect("an answer").is_some());
}

#[tokio::test]
async fn a_rotated_session_is_kept_by_an_earlier_id() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let first = inserted(&store).await;
    let second = rotated(&store, &first).await;
    let other = persistent_store::session(&store, first.customer_id.as_str());
    store.add(&other).await.expect("inserted");
    let others = Revocation::Others {
        customer: first.customer_id.clone(),
        keep: first.id.clone(),
    };
    assert!(store.revoke(&others).await.expect("revoked").any);
    let kept = store.find(&second.token).await.expect("an answer");
    assert_eq!(kept, Some(second));
    assert_eq!(store.find(&other.token).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_deleted_customer_stays_deleted_when_all_sessions_are_gone() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let session = inserted(&store).await;
    let update = async |deleted_at| {
        let mut data = CustomerData::clone(&session.customer);
        data.deleted_at = deleted_at;
        data.name = Some("John Doe".to_owned());
        store
            .update_customer(&data.into())
            .await
            .expect("an answer")
    };
    assert!(update(Some(session.created_at)).await);
    assert!(store.end(&session.id).await.expect("an answer"));
    let next = persistent_store::session(&store, session.customer_id.as_str());
    let conflict = StoreErrorKind::Conflict;
    assert_error(store.add(&next).await, conflict, &["deleted"]);
    let value: Vec<u8> = keys
        .raw()
        .await
        .get(keys.customer(&session.customer_id))
        .await
        .expect("there");
    assert_eq!((value[0], value.len()), (b't', 9), "nothing else is kept");

    assert!(update(Some(session.expires_at)).await, "it is known");
    assert_error(store.add(&next).await, conflict, &["deleted"]);
    assert!(update(None).await);
    store.add(&next).await.expect("the customer is not deleted");
}

#[tokio::test]
async fn purging_goes_by_the_servers_clock_and_ends_with_families() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let live = inserted(&store).await;
    let mut old = persistent_store::session(&store, &unique("cus"));
    old.expires_at = chrono::DateTime::UNIX_EPOCH;
    let old = store.add(&old).await.expect("inserted");
    let next = rotated(&store, &rotated(&store, &old).await).await;
    let ahead = live.expires_at + chrono::TimeDelta::days(1);
    let purge = async |limit| store.purge_expired(ahead, limit).await.expect("purged");
    assert_eq!(purge(1).await, 1);
    assert_eq!(purge(1).await, 0);
    assert!(store.find(&live.token).await.expect("an answer").is_some());
    assert!(store.end(&live.id).await.expect("an answer"));
    assert!(!store.end(&next.id).await.expect("an answer"));
    for key in keys.keys_of_sessions().await {
        let key = String::from_utf8_lossy(&key).into_owned();
        // The ids of a family lead to it until it ends, which the sources of these lists say.
        let of_old = ["i:", "f:", "m:"].iter().any(|kind| key.starts_with(kind));
        assert!(of_old || key.starts_with("e:"), "{key} is left");
    }
}

#[tokio::test]
async fn no_token_is_on_the_server() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let session = inserted(&store).await;
    let mut raw = keys.raw().await;
    let mut seen = String::new();
    for key in keys.keys().await {
        let whole = [keys.prefix.as_bytes(), &key].concat();
        let dump: Vec<u8> = redis::cmd("DUMP")
            .arg(&whole)
            .query_async(&mut raw)
            .await
            .expect("dumped");
        seen.push_str(&String::from_utf8_lossy(&key));
        seen.push_str(&String::from_utf8_lossy(&dump));
    }
    assert!(seen.contains(session.id.as_str()));
    assert!(!seen.contains(session.token.expose()));
}

/// Without the key of the customer no other key opens a session.
#[tokio::test]
async fn a_customer_removed_by_hand_is_gone() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let session = inserted(&store).await;
    let key = keys.customer(&session.customer_id);
    let _: () = keys.raw().await.del(key).await.expect("deleted");
    assert_eq!(store.find(&session.token).await.expect("an answer"), None);
    assert!(!store.end(&session.id).await.expect("an answer"));
    let mut next = persistent_store::session(&store, session.customer_id.as_str());
    assert!(
        store
            .swap(&session.id, &next)
            .await
            .expect("an answer")
            .is_none()
    );
    next.id = session.id.clone();
    store.add(&next).await.expect("its id is free again");
    assert_eq!(store.find(&session.token).await.expect("an answer"), None);
}

#[tokio::test]
async fn purging_clears_what_is_left_of_customers_removed_by_hand() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let mut raw = keys.raw().await;
    for number in 0..50 {
        let mut expired = persistent_store::session(&store, &unique("cus"));
        expired.expires_at = chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(number);
        store.add(&expired).await.expect("inserted");
        if number < 40 {
            let key = keys.customer(&expired.customer_id);
            let _: () = raw.del(key).await.expect("deleted");
        }
    }
    let now = chrono::Utc::now();
    assert_eq!(store.purge_expired(now, 1000).await.expect("purged"), 50);
    assert_eq!(keys.keys_of_sessions().await, [b""; 0]);
}

/// A failover may turn the server into a replica.
#[tokio::test]
async fn a_server_that_becomes_a_replica_is_noticed() {
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let keys = Keys::on(server.url());
    let store = keys.open().await;
    let session = inserted(&store).await;
    let follow = redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).clone();
    let _: () = follow
        .query_async(&mut keys.raw().await)
        .await
        .expect("set");
    let unavailable = StoreErrorKind::Unavailable;
    // The first change shows it, or the next check.
    assert_error(
        store.end(&session.id).await,
        unavailable,
        &["read only replica"],
    );
    assert_error(store.find(&session.token).await, unavailable, &["replica"]);
}

#[tokio::test]
async fn a_damaged_record_is_named() {
    let Some(keys) = Keys::new().await else {
        return;
    };
    let store = keys.open().await;
    let session = inserted(&store).await;
    let mut raw = keys.raw().await;
    let corrupt = StoreErrorKind::Corrupt;
    let says = [session.id.as_str(), "corrupt"];

    let key = keys.customer(&session.customer_id);
    let customer: Vec<u8> = raw.get(&key).await.expect("there");
    let _: () = raw.set(&key, &customer[..20]).await.expect("damaged");
    assert_error(store.find(&session.token).await, corrupt, &says);
    let next = persistent_store::session(&store, session.customer_id.as_str());
    let inserting = [next.id.as_str(), "corrupt"];
    assert_error(store.add(&next).await, corrupt, &inserting);
    assert!(store.end(&next.id).await.expect("an answer"));
    let _: () = raw.set(&key, &customer[..5]).await.expect("damaged");
    let refused = store.find(&session.token).await;
    assert_eq!(refused.expect("an answer"), None, "without an epoch");
    let _: () = raw.set(&key, &customer).await.expect("repaired");

    for (kind, says) in [("t:", "its record is corrupt"), ("i:", "leads nowhere")] {
        let key = keys.keys_of(kind).await.remove(0);
        let value: Vec<u8> = raw.get(&key).await.expect("there");
        let _: () = raw.set(&key, &value[..20]).await.expect("damaged");
        match kind {
            "t:" => assert_error(store.find(&session.token).await, corrupt, &[says]),
            _ => assert_error(store.end(&session.id).await, corrupt, &[says]),
        }
        let listed = store.summaries(&session.customer_id).await;
        assert_error(listed, corrupt, &["corrupt"]);
        let _: () = raw.set(&key, &value).await.expect("repaired");
    }
    let found = store.find(&session.token).await.expect("an answer");
    assert_eq!(found, Some(session.clone()));

    // Details of a later release, and perhaps a restriction.
    let mut detailed = persistent_store::session(&store, "cus_detailed");
    detailed.details.device = Some(Device::new("a phone"));
    store.add(&detailed).await.expect("inserted");
    for key in keys.keys_of("t:").await {
        let value: Vec<u8> = raw.get(&key).await.expect("there");
        let text = b"\"device\"";
        let at = value.windows(text.len()).position(|part| part == text);
        if let Some(at) = at {
            let changed = [&value[..at], b"\"tenant\"", &value[at + text.len()..]].concat();
            let _: () = raw.set(&key, changed).await.expect("damaged");
        }
    }
    let says = [detailed.id.as_str(), "details are corrupt"];
    assert_error(store.find(&detailed.token).await, corrupt, &says);
    let _: () = raw.del(&key).await.expect("deleted");
    let _: () = raw.lpush(&key, "a list").await.expect("damaged");
    assert_error(store.find(&session.token).await, corrupt, &["WRONGTYPE"]);
}

#[tokio::test]
async fn an_unusable_database_is_named_in_the_error() {
    if Keys::new().await.is_none() {
        return;
    }
    let unavailable = StoreErrorKind::Unavailable;
    for url in [
        "",
        "localhost",
        "mysql://u:hunter2@localhost/app",
        "redis://u:hunter2@/x/y/z",
    ] {
        let outcome = RedisStore::connect(url, peppers()).await;
        let error = outcome.expect_err("no URL");
        assert!(!persistent_store::text(&error).contains("hunter2"), "{url}");
        assert_error::<()>(Err(error), unavailable, &["redis://host:6379"]);
    }
    let outcome = RedisStore::connect("redis://:hunter2@127.0.0.1:1", peppers()).await;
    assert_error(outcome, unavailable, &["127.0.0.1:1", "refused"]);
    if std::env::var_os("TEST_REDIS_URL").is_some() {
        return; // The rest changes the server's settings.
    }
    let Some(server) = Server::redis() else {
        return;
    };
    let keys = Keys::on(server.url());
    let store = keys.open().await;
    let policy = redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory-policy", "allkeys-lru"])
        .clone();
    let _: () = policy
        .query_async(&mut keys.raw().await)
        .await
        .expect("set");
    let session = persistent_store::session(&store, "cus_1");
    assert_error(store.add(&session).await, unavailable, &["noeviction"]);
}

#[tokio::test]
async fn a_server_of_another_kind_is_noticed() {
    let Some(postgres) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let url = format!("redis://127.0.0.1:{}", postgres.port);
    let outcome = RedisStore::connect(&url, peppers()).await;
    let error = outcome.expect_err("it is PostgreSQL");
    assert_says(&error, "connecting to Redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_heals_by_itself() {
    let Some(mut server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let keys = Keys::on(server.url());
    persistent_store::heals(keys.open().await, &mut server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_the_old_state_or_the_new() {
    let Some(mut server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let keys = Keys::on(server.url());
    persistent_store::kills_leave_no_half(keys.open().await, &mut server).await;
}
