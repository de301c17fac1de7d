//! Reads a history and says where it breaks a promise. It knows nothing of how it came about.

use std::{collections::HashMap, time::Duration};

use super::record::{Answer, Event, Lag, What};

/// What is promised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// How long another node may go on with what it read before a change that has returned. For
    /// the node that made the change it is nothing.
    pub(crate) bound: Duration,
    /// How long a request may take: the limit for a lookup, and a little.
    pub(crate) patience: Duration,
}

/// What was found. Each violation is described in one line.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Let in by a session that had ended.
    pub(crate) stale: Vec<String>,
    /// Refused though nobody had begun to end the session.
    pub(crate) refused: Vec<String>,
    /// Waited for longer than promised.
    pub(crate) hung: Vec<String>,
    /// Saw a customer that had been replaced, or that nobody ever wrote.
    pub(crate) outdated: Vec<String>,
    /// Let in by a session that was not asked for.
    pub(crate) mistaken: Vec<String>,
    /// Requests that took too long, but no longer than their runtime was late by.
    pub(crate) excused: usize,
}

impl Findings {
    pub(crate) fn is_clean(&self) -> bool {
        self.all()
            .iter()
            .all(|(_, violations)| violations.is_empty())
    }

    pub(crate) fn all(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("let in after the end", &self.stale),
            ("refused though live", &self.refused),
            ("hung", &self.hung),
            ("saw an old customer", &self.outdated),
            ("let in by another session", &self.mistaken),
        ]
    }
}

/// A session's beginning: somewhere between these two.
#[derive(Clone, Copy)]
struct Birth {
    customer: u32,
    start: Duration,
    end: Duration,
}

/// An operation after which a session is dead, or may be.
#[derive(Clone, Copy)]
struct Ending {
    node: usize,
    start: Duration,
    /// When it was certain; `None`: it never was.
    sure: Option<Duration>,
    /// Whether the node that did it has forgotten the session.
    marked: bool,
}

/// A version of a customer as it was written.
#[derive(Clone, Copy)]
struct Write {
    node: usize,
    version: i64,
    start: Duration,
    sure: Option<Duration>,
}

/// Everything that changes something, by what it concerns.
#[derive(Default)]
struct Changes {
    births: HashMap<u32, Birth>,
    endings: HashMap<u32, Vec<Ending>>,
    of_customer: HashMap<u32, Vec<Ending>>,
    writes: HashMap<u32, Vec<Write>>,
}

/// Where `history` breaks `promise`. `lags` says when the runtimes were late.
pub(crate) fn check(history: &[Event], promise: &Promise, lags: &[Lag]) -> Findings {
    let changes = Changes::of(history);
    let mut findings = Findings::default();
    for event in history {
        match &event.what {
            What::Authenticate { session, answer } => {
                match answer {
                    Answer::LetIn { version } => {
                        findings
                            .stale
                            .extend(changes.stale(event, *session, promise));
                        let old = changes.outdated(event, *session, *version, promise);
                        findings.outdated.extend(old);
                    }
                    Answer::Mistaken => findings.mistaken.push(format!("{event:?}")),
                    Answer::Refused => {
                        findings.refused.extend(changes.refused(event, *session));
                    }
                    Answer::Failed | Answer::Left => {}
                }
                if event.end - event.start > promise.patience {
                    match excuse(event, promise, lags) {
                        true => findings.excused += 1,
                        false => findings.hung.push(format!("{event:?}")),
                    }
                }
            }
            // Both say that the session is not there.
            What::Rotate {
                session,
                new: Some(None),
            }
            | What::Revoke {
                session,
                found: Some(false),
            } => {
                findings.refused.extend(changes.refused(event, *session));
            }
            _ => {}
        }
    }
    findings
}

/// Whether the request took no longer than it would have if its runtime had been in time.
fn excuse(event: &Event, promise: &Promise, lags: &[Lag]) -> bool {
    let late: Duration = lags
        .iter()
        .filter(|lag| lag.node == event.node)
        .filter(|lag| lag.span.start < event.end && event.start < lag.span.end)
        .map(|lag| lag.by)
        .sum();
    event.end - event.start <= promise.patience + late
}

impl Changes {
    fn of(history: &[Event]) -> Self {
        let mut changes = Self::default();
        for event in history {
            changes.note(event);
        }
        // Rotations name no customer: theirs is the old session's, which came about before.
        let mut rotations: Vec<&Event> = history.iter().collect();
        rotations.sort_by_key(|event| event.end);
        for event in rotations {
            if let What::Rotate {
                session,
                new: Some(Some(new)),
            } = event.what
            {
                if let Some(old) = changes.births.get(&session).copied() {
                    let (customer, start, end) = (old.customer, event.start, event.end);
                    changes.births.insert(
                        new,
                        Birth {
                            customer,
                            start,
                            end,
                        },
                    );
                }
            }
        }
        changes
    }

    fn note(&mut self, event: &Event) {
        let ending = |sure: bool, marked: bool| Ending {
            node: event.node,
            start: event.start,
            sure: sure.then_some(event.end),
            marked,
        };
        let write = |version: i64, sure: bool| Write {
            node: event.node,
            version,
            start: event.start,
            sure: sure.then_some(event.end),
        };
        match event.what {
            What::Authenticate { .. } => {}
            What::Issue {
                customer,
                version,
                session,
            } => {
                if let Some(session) = session {
                    let (start, end) = (event.start, event.end);
                    self.births.insert(
                        session,
                        Birth {
                            customer,
                            start,
                            end,
                        },
                    );
                }
                let writes = self.writes.entry(customer).or_default();
                writes.push(write(version, session.is_some()));
            }
            What::Revoke { session, found } => {
                let endings = self.endings.entry(session).or_default();
                endings.push(ending(found.is_some(), true));
            }
            What::RevokeCustomer { customer, ended } => {
                let endings = self.of_customer.entry(customer).or_default();
                endings.push(ending(ended.is_some(), true));
            }
            What::Rotate { session, new } => {
                // Who loses a rotation has learned that the session is dead, and ended nothing.
                let endings = self.endings.entry(session).or_default();
                endings.push(ending(new.is_some(), new != Some(None)));
            }
            What::Update {
                customer,
                version,
                sessions,
            } => {
                // Without a session there was nothing to replace.
                let sure = sessions.is_some_and(|sessions| sessions > 0);
                self.writes
                    .entry(customer)
                    .or_default()
                    .push(write(version, sure));
            }
        }
    }

    /// The operations that may have ended a session, with those on all of its customer's.
    fn endings(&self, session: u32) -> impl Iterator<Item = (Ending, bool)> {
        let birth = self.births.get(&session);
        let own = self.endings.get(&session).into_iter().flatten();
        let of_customer = birth.and_then(|birth| self.of_customer.get(&birth.customer));
        let of_customer = of_customer.into_iter().flatten();
        own.map(|ending| (*ending, false))
            .chain(of_customer.map(|ending| (*ending, true)))
    }

    /// When anybody first began to end a session. What was over before it came about is not
    /// meant.
    fn first_ending(&self, session: u32) -> Option<Duration> {
        let birth = self.births.get(&session)?;
        let over = |ending: &Ending| ending.sure.is_some_and(|sure| sure < birth.start);
        let endings = self.endings(session).map(|(ending, _)| ending);
        endings
            .filter(|ending| !over(ending))
            .map(|it| it.start)
            .min()
    }

    /// Whether the session was let in later than any node may.
    fn stale(&self, event: &Event, session: u32, promise: &Promise) -> Option<String> {
        let birth = self.births.get(&session)?;
        self.endings(session).find_map(|(ending, of_customer)| {
            let sure = ending.sure?;
            // One that came while all of the customer's sessions were ended may have survived.
            if of_customer && ending.start < birth.end {
                return None;
            }
            let bound = match ending.marked && ending.node == event.node {
                true => Duration::ZERO,
                false => promise.bound,
            };
            (event.start > sure + bound).then(|| {
                let late = event.start - sure;
                format!(
                    "{late:?} after node {} had ended it: {event:?}",
                    ending.node
                )
            })
        })
    }

    /// Whether the session was refused before anybody began to end it.
    fn refused(&self, event: &Event, session: u32) -> Option<String> {
        let birth = self.births.get(&session)?;
        let own = |ending: &Ending| ending.start == event.start && ending.sure == Some(event.end);
        let in_doubt = self.endings(session).any(|(ending, of_customer)| {
            let over = of_customer && ending.sure.is_some_and(|sure| sure < birth.start);
            ending.start < event.end && !over && !own(&ending)
        });
        (!in_doubt).then(|| format!("{event:?}"))
    }

    /// Whether a version was seen that had been overwritten for longer than it may be seen.
    fn outdated(
        &self,
        event: &Event,
        session: u32,
        version: i64,
        promise: &Promise,
    ) -> Option<String> {
        let writes = self.writes.get(&self.births.get(&session)?.customer)?;
        let Some(seen) = writes.iter().find(|write| write.version == version) else {
            return Some(format!("nobody wrote it: {event:?}"));
        };
        // A write whose outcome is unknown may happen at any time later.
        let written = seen.sure?;
        writes.iter().find_map(|newer| {
            let sure = newer.sure.filter(|_| newer.start > written)?;
            let bound = match newer.node == event.node {
                true => Duration::ZERO,
                false => promise.bound,
            };
            (event.start > sure + bound).then(|| {
                let late = event.start - sure;
                format!("{late:?} after {} was there: {event:?}", newer.version)
            })
        })
    }
}

/// How long it took, at the most, until another node followed an ending.
#[derive(Debug)]
pub(crate) struct Delay {
    /// Until the first refusal after which it let nobody in any more: it knew by then.
    pub(crate) at_most: Duration,
    pub(crate) node: usize,
    pub(crate) of: Event,
}

/// How long the other nodes took to follow the endings that `counts` accepts, shortest first.
/// Nodes that had not let the session in within `warmth` before its end had nothing to forget, and
/// do not count; nor do those that nobody asked afterwards.
pub(crate) fn delays(
    history: &[Event],
    warmth: Duration,
    counts: impl Fn(&Event) -> bool,
) -> Vec<Delay> {
    let changes = Changes::of(history);
    let mut requests: HashMap<(u32, usize), Vec<(Duration, Answer)>> = HashMap::new();
    for event in history {
        if let What::Authenticate { session, answer } = event.what {
            let of_node = requests.entry((session, event.node)).or_default();
            of_node.push((event.start, answer));
        }
    }
    let mut delays = Vec::new();
    for event in history.iter().filter(|event| counts(event)) {
        for session in ended(&changes, event) {
            if changes.first_ending(session) != Some(event.start) {
                continue;
            }
            for (&(_, node), asked) in requests.iter().filter(|(key, _)| key.0 == session) {
                if node != event.node {
                    let at_most = delay(asked, event, warmth);
                    delays.extend(at_most.map(|at_most| Delay {
                        at_most,
                        node,
                        of: event.clone(),
                    }));
                }
            }
        }
    }
    delays.sort_by_key(|delay| delay.at_most);
    delays
}

/// From what one node answered to those who asked for a session.
fn delay(asked: &[(Duration, Answer)], ending: &Event, warmth: Duration) -> Option<Duration> {
    let let_in = asked.iter().filter_map(|(start, answer)| match answer {
        Answer::LetIn { .. } => Some(*start),
        _ => None,
    });
    let was_warm = let_in
        .clone()
        .any(|start| start < ending.start && start + warmth > ending.end);
    let last = let_in.max()?.max(ending.end);
    let refused = asked
        .iter()
        .filter(|(_, answer)| *answer == Answer::Refused);
    let refused = refused
        .map(|(start, _)| *start)
        .filter(|start| *start > last);
    let at_most = refused.min()? - ending.end;
    was_warm.then_some(at_most)
}

/// The sessions that an operation certainly ended.
fn ended(changes: &Changes, event: &Event) -> Vec<u32> {
    match event.what {
        What::Revoke {
            session,
            found: Some(true),
        }
        | What::Rotate {
            session,
            new: Some(Some(_)),
        } => vec![session],
        What::RevokeCustomer {
            customer,
            ended: Some(1..),
        } => {
            let sessions = changes.births.iter();
            sessions
                .filter(|(_, birth)| birth.customer == customer && birth.end < event.start)
                .map(|(session, _)| *session)
                .collect()
        }
        _ => Vec::new(),
    }
}
