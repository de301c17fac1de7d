//! Outages of a real server, which is killed for a while, or paused.
//!
//! `OUTAGE_SECONDS` (10) may be set: the length of the pause.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use customer_session::{
    AuthenticateError, CustomerData, CustomerSession, CustomerSessions, InvalidationSource,
    SessionRegistry,
    store::{Peppers, PostgresInvalidations, PostgresStore, RedisInvalidations, RedisStore},
};
use tokio::{
    runtime::Handle,
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep},
};

use test_support::servers::{self, Server};

/// The time between two requests: 200 a second.
const REQUEST_INTERVAL: Duration = Duration::from_millis(5);
const SESSIONS: usize = 50;
const HOUR: Duration = Duration::from_secs(3600);

fn peppers() -> Peppers {
    Peppers::new("a pepper of the tests, 32 bytes.")
}

type Outcome = Result<(), AuthenticateError>;

/// A request: the number of its session, its start, its duration, its outcome.
type Request = (usize, Instant, Duration, Outcome);

/// Requests at a steady rate, one session after the other, whether or not earlier ones are done.
struct Load {
    requests: Arc<Mutex<Vec<Request>>>,
    sending: tokio::task::JoinHandle<()>,
}

impl Load {
    fn begin<S: SessionRegistry>(
        sessions: &CustomerSessions<S>,
        subjects: Vec<CustomerSession>,
    ) -> Self {
        let (sessions, done) = (sessions.clone(), Arc::<Mutex<Vec<Request>>>::default());
        let requests = Arc::clone(&done);
        let sending = tokio::spawn(async move {
            let mut turns = interval(REQUEST_INTERVAL);
            turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut running = JoinSet::new();
            for turn in 0.. {
                turns.tick().await;
                let which = turn % subjects.len();
                let (sessions, done) = (sessions.clone(), Arc::clone(&done));
                let token = subjects[which].token.clone();
                running.spawn(async move {
                    let begun = Instant::now();
                    let outcome = sessions.authenticate(&token).await.map(drop);
                    let request = (which, begun, begun.elapsed(), outcome);
                    done.lock().expect("no panic").push(request);
                });
                while running.try_join_next().is_some() {}
            }
        });
        Self { requests, sending }
    }

    async fn end(self) -> Vec<Request> {
        self.sending.abort();
        let _ = self.sending.await;
        std::mem::take(&mut *self.requests.lock().expect("no panic"))
    }
}

async fn issued<S: SessionRegistry>(
    sessions: &CustomerSessions<S>,
    n: usize,
) -> Vec<CustomerSession> {
    let mut issued = Vec::new();
    for number in 0..n {
        let customer = CustomerData::new(format!("cus_{number}"), "org_1");
        let session = sessions.issue(customer, HOUR).await.expect("issued");
        sessions.authenticate(&session.token).await.expect("live");
        issued.push(session);
    }
    issued
}

async fn survives_a_kill<S: SessionRegistry>(
    name: &str,
    mut server: Server,
    store: S,
    source: impl InvalidationSource + 'static,
) {
    let sessions = CustomerSessions::builder(store)
        .cache_ttl(Duration::from_secs(1))
        .stale_if_error(Duration::from_secs(60))
        .build();
    tokio::spawn(sessions.listen(source));
    let subjects = issued(&sessions, SESSIONS + 1).await;
    let revoked = subjects.len() - 1;
    sessions
        .revoke(&subjects[revoked].id)
        .await
        .expect("revoked");

    let load = Load::begin(&sessions, subjects);
    sleep(Duration::from_secs(1)).await;
    let mut server = spawn_blocking(move || {
        server.kill();
        server
    })
    .await
    .expect("killed");
    sleep(Duration::from_secs(5)).await;
    let during = sessions.statistics();
    assert!(
        during.breaker_open && during.sources_disconnected == 1,
        "{during:?}"
    );
    let server = spawn_blocking(move || {
        server.start();
        server
    })
    .await
    .expect("started");
    let back = Instant::now();
    let verified = sessions.statistics().verified;
    loop {
        let now = sessions.statistics();
        if now.verified > verified && now.sources_disconnected == 0 && !now.breaker_open {
            break;
        }
        assert!(back.elapsed() < Duration::from_secs(1), "{now:?}");
        sleep(Duration::from_millis(1)).await;
    }
    let recovery = back.elapsed();
    sleep(Duration::from_secs(1)).await;
    let requests = load.end().await;
    drop(server);

    let of_live = requests.iter().filter(|(which, ..)| *which != revoked);
    let (served, failed): (Vec<_>, Vec<_>) = of_live.partition(|(.., answer)| answer.is_ok());
    let wrong = requests.iter().filter(|(which, _, _, answer)| {
        *which == revoked && answer.is_ok()
            || *which != revoked && matches!(answer, Err(AuthenticateError::InvalidToken))
    });
    let wrong = wrong.count();
    println!(
        "{name} killed for 5 s: {} requests for live sessions served, {} of them stale, {} not; \
         {wrong} wrong answers; recovered {recovery:?} after it was back",
        served.len(),
        sessions.statistics().stale,
        failed.len(),
    );
    assert!(
        sessions.statistics().stale > 500,
        "{:?}",
        sessions.statistics()
    );
    assert_eq!(wrong, 0);
    assert!(failed.is_empty(), "{:?}", failed.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_sessions_are_served_while_postgres_is_down() {
    let _alone = crate::ALONE.lock().await;
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let store = PostgresStore::connect(&server.url(), peppers())
        .await
        .expect("connected");
    store.migrate().await.expect("migrated");
    let source = PostgresInvalidations::connect(&server.url())
        .await
        .expect("it listens");
    survives_a_kill("PostgreSQL", server, store, source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_sessions_are_served_while_redis_is_down() {
    let _alone = crate::ALONE.lock().await;
    let Some(server) = Server::redis() else {
        return servers::missing("Redis");
    };
    let store = RedisStore::connect(&server.url(), peppers())
        .await
        .expect("connected");
    let source = RedisInvalidations::connect(&server.url())
        .await
        .expect("it listens");
    survives_a_kill("Redis", server, store, source).await;
}

/// Counts the sockets of the whole process.
fn sockets() -> usize {
    let files = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

#[test]
fn a_paused_server_holds_no_request_up_for_long_and_leaves_nothing_behind() {
    let _alone = crate::ALONE.blocking_lock();
    let Some(server) = Server::postgres() else {
        return servers::missing("PostgreSQL");
    };
    let seconds =
        std::env::var("OUTAGE_SECONDS").map_or(10, |seconds| seconds.parse().expect("a number"));
    let timeout = Duration::from_secs(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (sockets_before, tasks_before) = (sockets(), runtime.metrics().num_alive_tasks());
    runtime.block_on(async {
        let store = PostgresStore::connect(&server.url(), peppers())
            .await
            .expect("connected");
        store.migrate().await.expect("migrated");
        let source = PostgresInvalidations::connect(&server.url())
            .await
            .expect("it listens");
        let sessions = CustomerSessions::builder(store)
            .cache_ttl(Duration::from_millis(500))
            .store_timeout(timeout)
            .build();
        let listening = tokio::spawn(sessions.listen(source));
        let subjects = issued(&sessions, SESSIONS).await;
        let load = Load::begin(&sessions, subjects);
        sleep(Duration::from_secs(1)).await;

        server.pause();
        let paused = Instant::now();
        let (mut first_timeout, mut opened) = (None, None);
        while paused.elapsed() < Duration::from_secs(seconds) {
            let now = sessions.statistics();
            if now.store_errors > 0 && first_timeout.is_none() {
                first_timeout = Some(Instant::now());
            }
            if now.breaker_opened > 0 && opened.is_none() {
                opened = Some(Instant::now());
            }
            sleep(Duration::from_millis(1)).await;
        }
        server.resume();
        let back = Instant::now();
        while sessions.statistics().breaker_open {
            assert!(
                back.elapsed() < Duration::from_secs(2),
                "{:?}",
                sessions.statistics()
            );
            sleep(Duration::from_millis(1)).await;
        }
        let recovery = back.elapsed();
        let requests = load.end().await;
        let mut during: Vec<_> = requests
            .iter()
            .filter(|(_, begun, ..)| *begun > paused && *begun < back)
            .map(|(_, _, took, _)| *took)
            .collect();
        during.sort();
        let p99 = during[during.len() * 99 / 100];
        let (first, opened) = (
            first_timeout.expect("a timeout"),
            opened.expect("it opened"),
        );
        println!(
            "PostgreSQL paused for {seconds} s: {} requests, p99 {p99:?}; the breaker opened \
             {:?} after the first timeout; answers again {recovery:?} after it was back",
            during.len(),
            opened - first,
        );
        assert!(p99 <= timeout + Duration::from_millis(10), "{p99:?}");
        assert!(
            opened - first <= Duration::from_secs(1),
            "{:?}",
            opened - first
        );
        listening.abort();
        let _ = listening.await;
        drop(sessions);
        let begun = Instant::now();
        let left = || (sockets(), Handle::current().metrics().num_alive_tasks());
        let is_left = |(sockets, tasks)| sockets > sockets_before || tasks > tasks_before;
        while is_left(left()) {
            let left = left();
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{left:?} are left"
            );
            sleep(Duration::from_millis(10)).await;
        }
    });
}
