//! Real histories: of correct nodes, and of nodes with a defect.
//!
//! `HISTORY_SECONDS=600 scripts/test --test slow history:: -- --nocapture` runs them for longer.

use std::{
    collections::BTreeMap,
    panic,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use super::{
    checker::{Delay, Findings, Promise, check, delays},
    cluster::{self, Kind, NODES, STORE_TIMEOUT},
    load::World,
    nemesis::{Fault, inject_faults},
    record::{Answer, Event, Lag, Span, What},
    store::{Defect, FAULT},
};
use test_support::rng::{Rng, env, seed};

/// The delay within which 99 of 100 nodes follow a revocation while there is no fault.
const P99_DELAY: Duration = Duration::from_millis(100);

/// The delay within which all of them do, on a machine that may be busy.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// The number of histories of which at least one must show a defect.
const RUNS: usize = 10;

/// A node that was asked for a session so shortly before its end has it cached.
const WARMTH: Duration = Duration::from_secs(1);

struct Run {
    kind: Kind,
    /// The faults that were to be injected.
    wanted: &'static [Fault],
    seed: u64,
    history: Vec<Event>,
    lags: Vec<Lag>,
    faults: Vec<(Fault, Span)>,
    panicked: u64,
}

/// Waits for this test's turn, and hides the panics of the stores.
fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    let turn = crate::ALONE.blocking_lock();
    // The faults' panics are caught by the engine; their backtraces would drown the output.
    panic::set_hook(Box::new(|info| {
        if info
            .payload()
            .downcast_ref::<String>()
            .is_none_or(|said| said != FAULT)
        {
            eprintln!("{info}");
        }
    }));
    turn
}

/// Runs a cluster for `length`. Returns `None`, and says so, if the server is not installed.
fn run(kind: Kind, defect: Defect, wanted: &'static [Fault], length: Duration) -> Option<Run> {
    let seed = seed("HISTORY_SEED");
    println!("HISTORY_SEED={seed}");
    let rng = Rng::new(seed);
    let (mut cluster, nodes, runtimes) = cluster::start(kind, defect, &rng)?;
    let world = Arc::new(World::new(nodes, Rng::new(rng.below(u64::MAX))));
    let first_runtime = world.nodes[0].runtime.clone();
    first_runtime.block_on(world.issue_all());

    let mut tasks = Vec::new();
    for node in &world.nodes {
        let (number, runtime) = (node.number, &node.runtime);
        tasks.push(runtime.spawn(Arc::clone(&world).watch(number)));
        tasks.push(runtime.spawn(Arc::clone(&world).requests(number)));
        tasks.push(runtime.spawn(Arc::clone(&world).changes(number)));
    }
    let until = world.now() + length;
    let faults = inject_faults(&mut cluster, &world, wanted, &rng, until);
    world.stop.store(true, SeqCst);
    for task in tasks {
        first_runtime.block_on(task).expect("no task panics");
    }
    let panicked = cluster
        .stores
        .iter()
        .map(|store| store.panicked.load(Relaxed))
        .sum();
    let (history, lags) = (world.history(), world.lags());
    runtimes.end();
    Some(Run {
        kind,
        wanted,
        seed,
        history,
        lags,
        faults,
        panicked,
    })
}

impl Run {
    fn check(&self, bound: Duration) -> Findings {
        self.check_these(&self.history, bound)
    }

    /// Finds what is broken while no fault is felt: then every node receives each message, or has
    /// noticed that it missed some.
    fn check_quiet(&self) -> Findings {
        let is_felt = |event: &Event| {
            matches!(event.what, What::Authenticate { .. }) && !self.is_quiet(event, Duration::ZERO)
        };
        let mut quiet = self.history.clone();
        quiet.retain(|event| !is_felt(event));
        self.check_these(&quiet, MAX_DELAY)
    }

    fn check_these(&self, history: &[Event], bound: Duration) -> Findings {
        let promise = Promise {
            bound,
            max_wait: STORE_TIMEOUT + Duration::from_millis(50),
            store_lag: Duration::ZERO,
        };
        check(history, &promise, &self.lags)
    }

    /// Returns `true` if no fault was felt during an operation, nor for `after` afterwards.
    fn is_quiet(&self, event: &Event, after: Duration) -> bool {
        let span = Span {
            start: event.start,
            end: event.end + after,
        };
        let overlaps = |fault: &Span| fault.start < span.end && span.start < fault.end;
        !self.faults.iter().any(|(_, fault)| overlaps(fault))
    }

    fn requests(&self) -> impl Iterator<Item = (&Event, Answer)> {
        self.history.iter().filter_map(|event| match event.what {
            What::Authenticate { answer, .. } => Some((event, answer)),
            _ => None,
        })
    }

    fn assert_clean(&self, findings: &Findings) {
        for (what, violations) in findings.all() {
            for violation in violations.iter().take(5) {
                println!("{what}: {violation}");
            }
        }
        let counts = findings.all().map(|(what, found)| (what, found.len()));
        let is_clean = counts.iter().all(|(_, found)| *found == 0);
        assert!(is_clean, "seed {}: {counts:?}", self.seed);
    }

    /// Prints a summary, and fails if there was too little load or too few faults.
    fn summarize(&self, findings: &Findings) {
        let count = |counts: &dyn Fn(&What) -> bool| {
            self.history
                .iter()
                .filter(|event| counts(&event.what))
                .count()
        };
        let ends = count(&|what| {
            matches!(
                what,
                What::Revoke {
                    found: Some(true),
                    ..
                } | What::RevokeCustomer {
                    ended: Some(()),
                    ..
                } | What::RevokeOthers {
                    ended: Some(()),
                    ..
                } | What::Rotate {
                    new: Some(Some(_)),
                    ..
                }
            )
        });
        let in_doubt = count(&|what| {
            matches!(
                what,
                What::Issue { session: None, .. }
                    | What::Revoke { found: None, .. }
                    | What::RevokeCustomer { ended: None, .. }
                    | What::RevokeOthers { ended: None, .. }
                    | What::Rotate { new: None, .. }
                    | What::Derive { child: None, .. }
                    | What::Update { known: None, .. }
            )
        });
        let updates = count(&|what| {
            matches!(
                what,
                What::Update {
                    known: Some(true),
                    ..
                }
            )
        });
        let derived = count(&|what| {
            matches!(
                what,
                What::Derive {
                    child: Some(Some(_)),
                    ..
                }
            )
        });
        let mut answers = BTreeMap::new();
        for (_, answer) in self.requests() {
            let answer = match answer {
                Answer::LetIn { .. } => "let in".to_owned(),
                other => format!("{other:?}").to_lowercase(),
            };
            *answers.entry(answer).or_insert(0) += 1;
        }
        let mut kinds = BTreeMap::new();
        for (fault, _) in &self.faults {
            *kinds.entry(*fault).or_insert(0) += 1;
        }
        let asked = self.requests().count();
        let longest = self
            .requests()
            .map(|(event, _)| event.end - event.start)
            .max();
        let late = self.lags.iter().map(|lag| lag.by).max();
        let quiet: Vec<_> = self
            .requests()
            .filter(|(event, _)| self.is_quiet(event, Duration::ZERO))
            .collect();
        let failed = quiet
            .iter()
            .filter(|(_, answer)| *answer == Answer::Failed)
            .count();
        let soon = delays(&self.history, WARMTH, |event| {
            self.is_quiet(event, Duration::from_millis(500))
        });
        let all = delays(&self.history, WARMTH, |_| true);
        println!(
            "{:?}, seed {}: {} operations, {asked} requests {answers:?}, {ends} endings, \
             {derived} derivations, {updates} updates, {in_doubt} changes of unknown outcome\n\
             faults {kinds:?}, {} panics; {} requests without a fault, {failed} of them failed\n\
             other nodes followed, without a fault: {}; always: {}\n\
             longest request {longest:?}, {} excused; the runtimes were late by {late:?} at most",
            self.kind,
            self.seed,
            self.history.len(),
            self.panicked,
            quiet.len(),
            percentiles(&soon),
            percentiles(&all),
            findings.excused,
        );

        let seconds = self
            .history
            .iter()
            .map(|event| event.end)
            .max()
            .map_or(0, |end| end.as_secs());
        let seconds = usize::try_from(seconds).expect("small");
        assert!(asked > 150 * NODES * seconds, "there were few requests");
        assert!(
            ends > 5 * seconds && updates > seconds && 2 * derived > seconds,
            "there were few changes"
        );
        assert!(
            failed * 200 < quiet.len(),
            "requests failed without a fault"
        );
        assert!(
            findings.excused * 1000 < asked,
            "the machine was too busy to tell"
        );
        assert_eq!(
            kinds.len(),
            self.wanted.len(),
            "not every fault was injected"
        );
        if seconds >= 55 {
            assert!(
                !self.wanted.contains(&Fault::StorePanics) || self.panicked > 0,
                "no store panicked"
            );
            assert!(
                in_doubt > 10 && answers["left"] > 50,
                "few calls were given up"
            );
        }
        assert!(
            soon.len() > seconds || seconds < 30,
            "few revocations without a fault"
        );
        if let Some(Delay { at_most, node, of }) = soon.get(soon.len() * 99 / 100) {
            let late = format!("seed {}: node {node}, {at_most:?} after {of:?}", self.seed);
            assert!(*at_most <= P99_DELAY, "{late}");
        }
    }
}

fn percentiles(delays: &[Delay]) -> String {
    match delays.len() {
        0 => "none".to_owned(),
        len => {
            let [p50, p99, max] =
                [len / 2, len * 99 / 100, len - 1].map(|rank| delays[rank].at_most);
            format!("{len}, p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}")
        }
    }
}

fn keeps_its_promises(kind: Kind) {
    let _alone = alone();
    let (faults, seconds) = match kind {
        Kind::Postgres | Kind::Redis => (Fault::OF_ONE_SERVER, 60),
        Kind::RedisSentinel | Kind::RedisCluster => (Fault::OF_REPLICAS, 16),
    };
    let length = Duration::from_secs(env("HISTORY_SECONDS", seconds));
    let Some(run) = run(kind, Defect::None, faults, length) else {
        return;
    };
    let findings = run.check(kind.bound());
    run.assert_clean(&findings);
    run.assert_clean(&run.check_quiet());
    run.summarize(&findings);
}

#[test]
fn three_nodes_on_postgres_keep_their_promises() {
    keeps_its_promises(Kind::Postgres);
}

#[test]
fn three_nodes_on_redis_keep_their_promises() {
    keeps_its_promises(Kind::Redis);
}

#[test]
fn three_nodes_on_redis_behind_sentinels_keep_their_promises() {
    keeps_its_promises(Kind::RedisSentinel);
}

#[test]
fn three_nodes_on_a_redis_cluster_keep_their_promises() {
    keeps_its_promises(Kind::RedisCluster);
}

/// Runs a cluster with a defect for a short time, and again until the defect is found: a random
/// history on a slow machine may not meet it. Returns what is found.
///
/// # Panics
///
/// After [`RUNS`] histories in which it is not found.
fn with(
    defect: Defect,
    faults: &'static [Fault],
    bound: Duration,
    is_found: fn(&Findings) -> bool,
) -> Option<Findings> {
    let _alone = alone();
    let length = Duration::from_secs(if faults.is_empty() { 3 } else { 8 });
    for _ in 0..RUNS {
        let run = run(Kind::Redis, defect, faults, length)?;
        let findings = run.check(bound);
        let counts = findings.all().map(|(what, found)| (what, found.len()));
        println!("{defect:?}: {counts:?} in {} operations", run.history.len());
        if is_found(&findings) {
            return Some(findings);
        }
    }
    panic!("{defect:?} is not found");
}

#[test]
fn a_cache_that_ignores_revocations_is_found() {
    let bound = Kind::Redis.cache_ttl();
    with(Defect::StaleCache, &[], bound, |found| {
        !found.stale.is_empty()
    });
}

#[test]
fn derived_sessions_that_outlive_their_parents_are_found() {
    let bound = Kind::Redis.cache_ttl();
    let findings = with(Defect::NoParents, &[], bound, |found| {
        !found.stale.is_empty()
    });
    if let Some(findings) = findings {
        assert!(findings.hung.is_empty() && findings.mistaken.is_empty());
    }
}

#[test]
fn nodes_that_do_not_listen_are_found() {
    let findings = with(Defect::NotListening, &[], P99_DELAY, |found| {
        !found.stale.is_empty() && !found.outdated.is_empty()
    });
    if let Some(findings) = findings {
        assert!(findings.refused.is_empty() && findings.hung.is_empty());
    }
}

#[test]
fn a_store_that_reports_an_outage_as_not_found_is_found() {
    let (defect, faults) = (Defect::OutageAsNotFound, &[Fault::NodeRefused]);
    // A rotation that is told so says that the session has ended, which other nodes still let in: no
    // claim is made about that.
    let findings = with(defect, faults, Kind::Redis.cache_ttl(), |found| {
        !found.refused.is_empty()
    });
    if let Some(findings) = findings {
        assert!(findings.hung.is_empty() && findings.mistaken.is_empty());
    }
}

#[test]
fn requests_that_take_too_long_are_found() {
    let bound = Kind::Redis.cache_ttl();
    let findings = with(Defect::SlowRequests, &[], bound, |found| {
        !found.hung.is_empty()
    });
    if let Some(findings) = findings {
        assert!(findings.stale.is_empty() && findings.refused.is_empty());
    }
}
