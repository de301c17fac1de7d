//! The cost of a hit while other sessions are revoked: a thousand a second, from another core, by
//! `CustomerSessions::revoke`.
//!
//! Two engines hold as many sessions each and take turns. One is quiet. In the other, sessions that
//! are cached and not asked for are revoked during its turns, and only then. A session that shares
//! its stripe of the revocation table with one of them is looked up again, so that requests are
//! answered in a runtime.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use customer_session::{
    CustomerData, CustomerSessions, SessionId, SessionToken, store::MemoryStore,
};
use customer_session_benches::{
    full_or_quick,
    measure::{cores, orders, rounds::batch_in},
    results::{Storm, save},
    scene::{TTL, block_on, with_bearer},
    stacks::{Contender, always, in_turn, stack_of},
    statistics::{median, ratio},
};
use http::StatusCode;
use tokio::runtime::Builder;

/// Time between two revocations.
const PAUSE: Duration = Duration::from_millis(1);

/// Time of a turn.
const TURN: Duration = Duration::from_millis(40);

struct Node {
    sessions: CustomerSessions<MemoryStore>,
    /// Those that are asked for.
    tokens: Arc<[SessionToken]>,
    /// Those that are cached, and may be revoked.
    victims: Vec<(SessionId, SessionToken)>,
}

impl Node {
    fn new(tokens: usize, victims: usize) -> Self {
        let sessions = CustomerSessions::builder(MemoryStore::new())
            .cache_capacity(2 * (tokens + victims) as u64)
            .cache_ttl(TTL)
            .build();
        let mut all = block_on(async {
            let mut all = Vec::new();
            for n in 0..tokens + victims {
                let customer = CustomerData::new(format!("cus_{n}"), "org_1");
                let session = sessions.issue(customer, TTL).await.expect("issued");
                let authenticated = sessions.authenticate(&session.token).await;
                authenticated.expect("live");
                all.push((session.id, session.token));
            }
            all
        });
        let victims = all.split_off(tokens);
        Self {
            sessions,
            tokens: all.into_iter().map(|(_, token)| token).collect(),
            victims,
        }
    }

    fn contender(&self, order: Option<&Arc<[u32]>>) -> Contender {
        let headers = match order {
            Some(order) => in_turn(&self.tokens, order),
            None => always(with_bearer(self.tokens[self.tokens.len() / 2].expose())),
        };
        Contender::new("ours", stack_of(&self.sessions, StatusCode::OK), headers)
    }
}

/// A thread that revokes sessions while it is told to.
#[derive(Default)]
struct Revoker {
    raging: AtomicBool,
    finished: AtomicBool,
    revoked: AtomicU64,
}

impl Revoker {
    fn run(&self, node: &Node) {
        cores::pin_thread(1);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut next = Instant::now();
        for (id, _) in &node.victims {
            while !self.raging.load(Acquire) {
                if self.finished.load(Acquire) {
                    return;
                }
                // Asleep, so that the quiet turns are quiet.
                thread::park();
                next = Instant::now();
            }
            let revoked = runtime.block_on(node.sessions.revoke(id));
            assert!(revoked.expect("the store answers"), "nothing to revoke");
            self.revoked.fetch_add(1, Relaxed);
            next += PAUSE;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn rage(&self, raging: bool, thread: &Thread) {
        self.raging.store(raging, Release);
        thread.unpark();
    }
}

/// Ends the revoker's thread when it is dropped, in a panic too.
struct Finish<'a> {
    revoker: &'a Revoker,
    thread: Thread,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.revoker.finished.store(true, Release);
        self.thread.unpark();
    }
}

fn main() -> std::io::Result<()> {
    cores::pin_thread(0);
    let tokens = full_or_quick(10_000, 1000);
    let order = orders::uniform(tokens);
    let results = [
        measure("one hot session", tokens, None),
        measure(
            full_or_quick("10,000 sessions, uniform", "1,000 sessions, uniform"),
            tokens,
            Some(&order),
        ),
    ];
    println!(
        "{:<28} {:>8} {:>8} {:>8} {:>14} {:>8}",
        "hits", "quiet", "storm", "x quiet", "revocations/s", "lookups"
    );
    for Storm {
        name,
        quiet,
        storm,
        rate,
        lookups,
    } in &results
    {
        println!(
            "{name:<28} {:>8.0} {:>8.0} {:>8.3} {rate:>14.0} {lookups:>8}",
            median(quiet),
            median(storm),
            ratio(storm, quiet)
        );
    }
    save("storm", &results)
}

fn measure(name: &str, tokens: usize, order: Option<&Arc<[u32]>>) -> Storm {
    let rounds = full_or_quick(150, 5);
    let per_turn = TURN.as_millis() / PAUSE.as_millis();
    let victims = 2 * (rounds + 1) * per_turn as usize;
    let [calm, stormy] = [(); 2].map(|()| Node::new(tokens, victims));
    let mut contenders = [calm.contender(order), stormy.contender(order)];
    let revoker = Revoker::default();
    let mut times = [const { Vec::new() }; 2];
    let mut raged = Duration::ZERO;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let before = stormy.sessions.statistics().lookups;
    thread::scope(|scope| {
        let thread = scope.spawn(|| revoker.run(&stormy)).thread().clone();
        let _finish = Finish {
            revoker: &revoker,
            thread: thread.clone(),
        };
        for round in 0..=rounds {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                if which == 1 {
                    revoker.rage(true, &thread);
                }
                let begun = Instant::now();
                let time = batch_in(&runtime, &mut contenders[which], |count| {
                    count == 0 || begun.elapsed() < TURN
                });
                if which == 1 {
                    raged += begun.elapsed();
                    revoker.rage(false, &thread);
                }
                // The first round warms up.
                if round > 0 {
                    times[which].push(time);
                }
            }
        }
    });
    let revoked = revoker.revoked.load(Relaxed);
    let lookups = stormy.sessions.statistics().lookups - before;
    let (_, token) = &stormy.victims[0];
    assert!(block_on(stormy.sessions.authenticate(token)).is_err());
    let [quiet, storm] = times;
    Storm {
        name: name.to_owned(),
        quiet,
        storm,
        rate: revoked as f64 / raged.as_secs_f64(),
        lookups,
    }
}
