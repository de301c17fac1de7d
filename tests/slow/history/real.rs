//! Real histories: of nodes that are as they should be, and of some that are not.

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
    cluster::{self, CACHE_TTL, Kind, NODES, STALE_IF_ERROR, STORE_TIMEOUT},
    load::World,
    nemesis::{Fault, haunt},
    record::{Answer, Event, Lag, Span, What},
    store::{FAULT, Planted},
};
use crate::rng::{Dice, env, seed};

/// How soon the other nodes follow a revocation while nothing is wrong: 99 of 100.
const SOON: Duration = Duration::from_millis(100);

/// All of them, on a machine that may be busy with something else.
const SURELY: Duration = Duration::from_millis(500);

struct Run {
    kind: Kind,
    seed: u64,
    history: Vec<Event>,
    lags: Vec<Lag>,
    faults: Vec<(Fault, Span)>,
    panicked: u64,
}

/// Waits for this test's turn.
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

/// `None`: there is no server; said aloud.
fn run(kind: Kind, planted: Planted, faults: &[Fault], length: Duration) -> Option<Run> {
    let seed = seed("HISTORY_SEED");
    println!("HISTORY_SEED={seed}");
    let dice = Dice::new(seed);
    let (mut grip, nodes, runtimes) = cluster::start(kind, planted, &dice)?;
    let world = Arc::new(World::new(nodes, Dice::new(dice.roll(u64::MAX))));
    let at_home = world.nodes[0].runtime.clone();
    at_home.block_on(world.settle_in());

    let mut tasks = Vec::new();
    for node in &world.nodes {
        let (number, runtime) = (node.number, &node.runtime);
        tasks.push(runtime.spawn(Arc::clone(&world).watch(number)));
        tasks.push(runtime.spawn(Arc::clone(&world).requests(number)));
        tasks.push(runtime.spawn(Arc::clone(&world).changes(number)));
    }
    let until = world.now() + length;
    let faults = haunt(&mut grip, &world, faults, &dice, until);
    world.stop.store(true, SeqCst);
    for task in tasks {
        at_home.block_on(task).expect("no task panics");
    }
    let panicked = grip.stores.iter().map(|it| it.panicked.load(Relaxed)).sum();
    let (history, lags) = (world.history(), world.lags());
    runtimes.end();
    Some(Run {
        kind,
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

    /// What is broken while all is well: then the other nodes are told, or have found out that
    /// they missed something.
    fn check_quiet(&self) -> Findings {
        let is_felt = |event: &Event| {
            matches!(event.what, What::Authenticate { .. }) && !self.is_quiet(event, Duration::ZERO)
        };
        let mut quiet = self.history.clone();
        quiet.retain(|event| !is_felt(event));
        self.check_these(&quiet, SURELY)
    }

    fn check_these(&self, history: &[Event], bound: Duration) -> Findings {
        let promise = Promise {
            bound,
            patience: STORE_TIMEOUT + Duration::from_millis(50),
        };
        check(history, &promise, &self.lags)
    }

    /// Whether nothing was wrong while an operation was under way, nor a while after it.
    fn is_quiet(&self, event: &Event, after: Duration) -> bool {
        let span = Span {
            start: event.start,
            end: event.end + after,
        };
        !self.faults.iter().any(|(_, fault)| fault.overlaps(&span))
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
        assert!(findings.is_clean(), "seed {}: {counts:?}", self.seed);
    }

    /// What it was like, and whether it was real.
    fn sum_up(&self, findings: &Findings) {
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
                    ended: Some(1..),
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
                    | What::Rotate { new: None, .. }
                    | What::Update { sessions: None, .. }
            )
        });
        let updates = count(&|what| {
            matches!(
                what,
                What::Update {
                    sessions: Some(1..),
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
        let soon = delays(&self.history, CACHE_TTL / 2, |event| {
            self.is_quiet(event, Duration::from_millis(500))
        });
        let all = delays(&self.history, CACHE_TTL / 2, |_| true);
        println!(
            "{:?}, seed {}: {} operations, {asked} requests {answers:?}, {ends} endings, \
             {updates} updates, {in_doubt} changes of unknown outcome\n\
             faults {kinds:?}, {} panics; {} requests while all was well, {failed} of them failed\n\
             other nodes followed, all well: {}; always: {}\n\
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
            .map(|it| it.end)
            .max()
            .map_or(0, |it| it.as_secs());
        let seconds = usize::try_from(seconds).expect("small");
        assert!(asked > 150 * NODES * seconds, "there were few requests");
        assert!(
            ends > 5 * seconds && updates > seconds,
            "there were few changes"
        );
        assert!(
            failed * 200 < quiet.len(),
            "requests failed though all was well"
        );
        assert!(
            findings.excused * 1000 < asked,
            "the machine was too busy to tell"
        );
        if seconds >= 55 {
            assert_eq!(kinds.len(), Fault::ALL.len(), "not everything went wrong");
            assert!(self.panicked > 0, "no store panicked");
            assert!(
                in_doubt > 10 && answers["left"] > 50,
                "few calls were given up"
            );
        }
        assert!(
            soon.len() > seconds || seconds < 30,
            "few revocations came while all was well"
        );
        if let Some(Delay { at_most, node, of }) = soon.get(soon.len() * 99 / 100) {
            let late = format!("seed {}: node {node}, {at_most:?} after {of:?}", self.seed);
            assert!(*at_most <= SOON, "{late}");
        }
    }
}

fn percentiles(delays: &[Delay]) -> String {
    match delays.len() {
        0 => "none".to_owned(),
        len => {
            let [p50, p99, max] = [len / 2, len * 99 / 100, len - 1].map(|it| delays[it].at_most);
            format!("{len}, p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}")
        }
    }
}

fn keeps_its_promises(kind: Kind) {
    let _alone = alone();
    let length = Duration::from_secs(env("HISTORY_SECONDS", 60));
    let Some(run) = run(kind, Planted::Nothing, Fault::ALL, length) else {
        return;
    };
    let findings = run.check(CACHE_TTL + STALE_IF_ERROR);
    run.assert_clean(&findings);
    run.assert_clean(&run.check_quiet());
    run.sum_up(&findings);
}

#[test]
fn three_nodes_on_postgres_keep_their_promises() {
    keeps_its_promises(Kind::Postgres);
}

#[test]
fn three_nodes_on_redis_keep_their_promises() {
    keeps_its_promises(Kind::Redis);
}

/// A short run with something wrong on purpose, and what is found.
fn with(planted: Planted, faults: &[Fault], bound: Duration) -> Option<Findings> {
    let _alone = alone();
    let length = Duration::from_secs(if faults.is_empty() { 3 } else { 8 });
    let run = run(Kind::Redis, planted, faults, length)?;
    let findings = run.check(bound);
    let counts = findings.all().map(|(what, found)| (what, found.len()));
    println!(
        "{planted:?}: {counts:?} in {} operations",
        run.history.len()
    );
    Some(findings)
}

#[test]
fn a_cache_that_ignores_revocations_is_found() {
    if let Some(findings) = with(Planted::Cache, &[], CACHE_TTL) {
        assert!(!findings.stale.is_empty());
    }
}

#[test]
fn nodes_that_do_not_listen_are_found() {
    if let Some(findings) = with(Planted::Deaf, &[], SOON) {
        assert!(!findings.stale.is_empty() && !findings.outdated.is_empty());
        assert!(findings.refused.is_empty() && findings.hung.is_empty());
    }
}

#[test]
fn a_store_that_reports_an_outage_as_not_found_is_found() {
    if let Some(findings) = with(Planted::Denial, &[Fault::NodeRefused], CACHE_TTL) {
        assert!(!findings.refused.is_empty());
        assert!(findings.stale.is_empty());
    }
}

#[test]
fn requests_that_take_too_long_are_found() {
    if let Some(findings) = with(Planted::Stall, &[], CACHE_TTL) {
        assert!(!findings.hung.is_empty());
        assert!(findings.stale.is_empty() && findings.refused.is_empty());
    }
}
