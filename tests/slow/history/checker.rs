//! The checker, which finds the broken promises in a history. It does not know how the history
//! came about.

use std::{collections::HashMap, time::Duration};

use super::record::{Answer, Event, Lag, What};

/// The promises to check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// The longest time for which another node may use what it read before a change that has
    /// returned. It is zero for the node that made the change.
    pub(crate) bound: Duration,
    /// The longest time that a request may take: the timeout of a lookup, and some slack.
    pub(crate) max_wait: Duration,
    /// The time by which what the store answers about a customer may lag behind a change.
    pub(crate) store_lag: Duration,
}

/// The violations found, each described in one line.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Let in by a session that had ended.
    pub(crate) stale: Vec<String>,
    /// Refused although no operation had begun to end the session.
    pub(crate) refused: Vec<String>,
    /// Waited for longer than promised.
    pub(crate) hung: Vec<String>,
    /// Saw a customer that had been replaced, or was never written.
    pub(crate) outdated: Vec<String>,
    /// Let in by a session that was not asked for.
    pub(crate) mistaken: Vec<String>,
    /// Requests that took too long, but no longer than their runtime was late by.
    pub(crate) excused: usize,
}

impl Findings {
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

/// The creation of a session, between two times.
#[derive(Clone, Copy)]
struct Birth {
    customer: u32,
    start: Duration,
    end: Duration,
}

/// An operation that has ended a session, or may have.
#[derive(Clone, Copy)]
struct Ending {
    node: usize,
    start: Duration,
    /// The time from which it was certain; `None` if it never was.
    sure: Option<Duration>,
    /// Set if the node that did it must refuse the session at once.
    marked: bool,
}

/// A version of a customer as it was written.
#[derive(Clone, Copy)]
struct Write {
    /// The node that must show no older version at once: the one that updated the customer. A node
    /// that issued a session to a customer whom the store had forgotten with their last session need
    /// not have heard of that session's end.
    marked_by: Option<usize>,
    version: i64,
    start: Duration,
    sure: Option<Duration>,
}

/// The changes in a history, by what they concern.
#[derive(Default)]
struct Changes {
    births: HashMap<u32, Birth>,
    endings: HashMap<u32, Vec<Ending>>,
    /// The revocations by a session's id, which end its successors too.
    revocations: HashMap<u32, Vec<Ending>>,
    /// The same by the first session of the family, which end also what was derived from the family.
    family_revocations: HashMap<u32, Vec<Ending>>,
    /// The session that each has replaced.
    replaced: HashMap<u32, u32>,
    /// The session that each was derived from.
    derived: HashMap<u32, u32>,
    /// Those of all sessions of a customer, or of all but those of one tree.
    of_customer: HashMap<u32, Vec<(Ending, Option<u32>)>>,
    writes: HashMap<u32, Vec<Write>>,
}

/// Finds where `history` breaks `promise`. `lags` are the delays of the runtimes.
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
                if event.end - event.start > promise.max_wait {
                    match is_excused(event, promise, lags) {
                        true => findings.excused += 1,
                        false => findings.hung.push(format!("{event:?}")),
                    }
                }
            }
            // They say that the session is not there; the last, that neither a successor is, nor a session
            // that ends with it.
            What::Rotate {
                session,
                new: Some(None),
            }
            | What::Derive {
                parent: session,
                child: Some(None),
            } => findings.refused.extend(changes.refused(event, *session)),
            What::Revoke {
                session,
                found: Some(false),
            } => {
                for session in changes.ended_with(*session, event.start) {
                    findings.refused.extend(changes.refused(event, session));
                }
            }
            _ => {}
        }
    }
    findings
}

/// Returns `true` if the delays of the runtime explain why the request took too long.
fn is_excused(event: &Event, promise: &Promise, lags: &[Lag]) -> bool {
    let late: Duration = lags
        .iter()
        .filter(|lag| lag.node == event.node)
        .filter(|lag| lag.span.start < event.end && event.start < lag.span.end)
        .map(|lag| lag.by)
        .sum();
    event.end - event.start <= promise.max_wait + late
}

impl Changes {
    fn of(history: &[Event]) -> Self {
        let mut changes = Self::default();
        for event in history {
            changes.note(event);
        }
        // Rotations and derivations name no customer: theirs is that of a session that came about before.
        let mut descents: Vec<&Event> = history.iter().collect();
        descents.sort_by_key(|event| event.end);
        for event in descents {
            let (new, from) = match event.what {
                What::Rotate {
                    session,
                    new: Some(Some(new)),
                } => {
                    changes.replaced.insert(new, session);
                    (new, session)
                }
                What::Derive {
                    parent,
                    child: Some(Some(child)),
                } => {
                    changes.derived.insert(child, parent);
                    (child, parent)
                }
                _ => continue,
            };
            if let Some(old) = changes.births.get(&from).copied() {
                let (customer, start, end) = (old.customer, event.start, event.end);
                let birth = Birth {
                    customer,
                    start,
                    end,
                };
                changes.births.insert(new, birth);
            }
        }
        for (session, revocations) in &changes.revocations {
            let family = changes.family(*session);
            let of_family = changes.family_revocations.entry(family).or_default();
            of_family.extend(revocations);
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
        let write = |marked_by: Option<usize>, version: i64, sure: bool| Write {
            marked_by,
            version,
            start: event.start,
            sure: sure.then_some(event.end),
        };
        match event.what {
            What::Authenticate { .. } | What::Derive { .. } => {}
            What::Issue {
                customer,
                version,
                session,
                is_new,
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
                // A customer that the store knew stays as it was.
                if is_new || session.is_none() {
                    let writes = self.writes.entry(customer).or_default();
                    writes.push(write(None, version, session.is_some()));
                }
            }
            What::Revoke { session, found } => {
                let ending = ending(found.is_some(), true);
                self.endings.entry(session).or_default().push(ending);
                self.revocations.entry(session).or_default().push(ending);
            }
            What::RevokeCustomer { customer, ended } => {
                let endings = self.of_customer.entry(customer).or_default();
                endings.push((ending(ended.is_some(), true), None));
            }
            What::RevokeOthers {
                customer,
                keep,
                ended,
            } => {
                let endings = self.of_customer.entry(customer).or_default();
                endings.push((ending(ended.is_some(), true), Some(keep)));
            }
            What::Rotate { session, new } => {
                // A rotation that lost has found the session ended, and ended nothing.
                let endings = self.endings.entry(session).or_default();
                endings.push(ending(new.is_some(), new != Some(None)));
            }
            What::Update {
                customer,
                version,
                known,
            } => {
                // A customer that was not known was not replaced.
                let sure = known == Some(true);
                let writes = self.writes.entry(customer).or_default();
                writes.push(write(Some(event.node), version, sure));
            }
        }
    }

    /// Returns the sessions that a session has replaced, the last one first.
    fn replaced_by(&self, session: u32) -> impl Iterator<Item = u32> {
        let replaced = |session: &u32| self.replaced.get(session).copied();
        std::iter::successors(replaced(&session), replaced)
    }

    /// Returns the first session of a session's family.
    fn family(&self, session: u32) -> u32 {
        self.replaced_by(session).last().unwrap_or(session)
    }

    /// Returns the first session of the family that a session's family was derived from.
    fn parent(&self, session: u32) -> Option<u32> {
        let parent = self.derived.get(&self.family(session))?;
        Some(self.family(*parent))
    }

    /// Returns the first session of the family that is not derived, which a session belongs to or was
    /// derived from.
    fn tree(&self, session: u32) -> u32 {
        self.parent(session).unwrap_or(self.family(session))
    }

    /// Returns the sessions that a revocation of `session` ends: that one, and its successors and those
    /// derived from its family that were there by `time`.
    fn ended_with(&self, session: u32, time: Duration) -> Vec<u32> {
        let family = self.family(session);
        let was_there = |new: &u32| self.births.get(new).is_some_and(|new| new.end < time);
        let ends = |new: &u32| {
            self.replaced_by(*new).any(|old| old == session) || self.parent(*new) == Some(family)
        };
        let came_about = self.replaced.keys().chain(self.derived.keys()).copied();
        let mut sessions: Vec<_> = came_about.filter(was_there).filter(ends).collect();
        sessions.push(session);
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// Returns the operations that may have ended a session; `true` with those on its customer.
    fn endings(&self, session: u32) -> impl Iterator<Item = (Ending, bool)> {
        let birth = self.births.get(&session);
        let own = self.endings.get(&session).into_iter().flatten();
        let of_family = self.replaced_by(session);
        let of_family = of_family.filter_map(|replaced| self.revocations.get(&replaced));
        let of_parent = self.parent(session);
        let of_parent = of_parent.and_then(|parent| self.family_revocations.get(&parent));
        let own = own.chain(of_family.flatten());
        let own = own.chain(of_parent.into_iter().flatten());
        let of_customer = birth.and_then(|birth| self.of_customer.get(&birth.customer));
        let of_customer = of_customer.into_iter().flatten();
        let of_customer =
            of_customer.filter_map(move |(ending, keep)| self.ending_but(*ending, *keep, session));
        own.map(|ending| (*ending, false))
            .chain(of_customer.map(|ending| (ending, true)))
    }

    /// Returns the ending of a session by an operation that keeps the tree of `keep`.
    fn ending_but(&self, ending: Ending, keep: Option<u32>, session: u32) -> Option<Ending> {
        let Some(keep) = keep.filter(|keep| self.tree(*keep) == self.tree(session)) else {
            return Some(ending);
        };
        // A derived session that was revoked leads to no tree: all that it was of may have ended.
        let keep = Some(self.family(keep)).filter(|keep| self.derived.contains_key(keep))?;
        let mut revocations = self.family_revocations.get(&keep)?.iter();
        let was_revoked = revocations.any(|by| ending.sure.is_none_or(|sure| by.start < sure));
        was_revoked.then_some(Ending {
            sure: None,
            ..ending
        })
    }

    /// Returns the start of the first operation that may have ended the session, leaving out
    /// those that were over before it was created.
    fn first_ending(&self, session: u32) -> Option<Duration> {
        let birth = self.births.get(&session)?;
        let over = |ending: &Ending| ending.sure.is_some_and(|sure| sure < birth.start);
        let endings = self.endings(session).map(|(ending, _)| ending);
        endings
            .filter(|ending| !over(ending))
            .map(|ending| ending.start)
            .min()
    }

    /// Describes a request that was let in later than the promise allows.
    fn stale(&self, event: &Event, session: u32, promise: &Promise) -> Option<String> {
        let issued = self.births.get(&self.tree(session))?;
        self.endings(session).find_map(|(ending, of_customer)| {
            let sure = ending.sure?;
            // One that was issued while all of the customer's sessions were ended may have survived. What
            // has taken its place since, or was derived from it, is of its time.
            if of_customer && ending.start < issued.end {
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

    /// Describes a request that was refused before an operation began to end its session.
    fn refused(&self, event: &Event, session: u32) -> Option<String> {
        let birth = self.births.get(&session)?;
        let own = |ending: &Ending| ending.start == event.start && ending.sure == Some(event.end);
        let in_doubt = self.endings(session).any(|(ending, of_customer)| {
            let over = of_customer && ending.sure.is_some_and(|sure| sure < birth.start);
            ending.start < event.end && !over && !own(&ending)
        });
        (!in_doubt).then(|| format!("{event:?}"))
    }

    /// Describes a request that saw a version which had been overwritten for too long.
    fn outdated(
        &self,
        event: &Event,
        session: u32,
        version: i64,
        promise: &Promise,
    ) -> Option<String> {
        let birth = self.births.get(&session)?;
        let writes = self.writes.get(&birth.customer)?;
        let Some(seen) = writes.iter().find(|write| write.version == version) else {
            return Some(format!("it was never written: {event:?}"));
        };
        // A write whose outcome is unknown may happen at any time later.
        let written = seen.sure?;
        writes.iter().find_map(|newer| {
            let sure = newer.sure.filter(|_| newer.start > written)?;
            // Nothing can have been read of a session that came later.
            let at_once = newer.marked_by == Some(event.node) || birth.start > sure;
            let bound = match at_once {
                true => promise.store_lag,
                false => promise.bound,
            };
            (event.start > sure + bound).then(|| {
                let late = event.start - sure;
                format!("{late:?} after {} was there: {event:?}", newer.version)
            })
        })
    }
}

/// The time after which another node followed an ending.
#[derive(Debug)]
pub(crate) struct Delay {
    /// The upper bound: the time until the first refusal after which it let no request in.
    pub(crate) at_most: Duration,
    pub(crate) node: usize,
    pub(crate) of: Event,
}

/// Returns the delays after which other nodes followed the endings that `counts` accepts,
/// shortest first. Left out are nodes that did not have the session cached, which is known from
/// requests within `warmth` before its end, and nodes without requests afterwards.
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

/// Returns the delay of one node, from its answers to the requests with one session.
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

/// Returns the sessions that an operation certainly ended.
fn ended(changes: &Changes, event: &Event) -> Vec<u32> {
    match event.what {
        What::Revoke {
            session,
            found: Some(true),
        } => changes.ended_with(session, event.start),
        What::Rotate {
            session,
            new: Some(Some(_)),
        } => vec![session],
        What::RevokeCustomer {
            customer,
            ended: Some(()),
        } => {
            let sessions = changes.births.iter();
            sessions
                .filter(|(_, birth)| birth.customer == customer && birth.end < event.start)
                .map(|(session, _)| *session)
                .collect()
        }
        What::RevokeOthers {
            customer,
            keep,
            ended: Some(()),
        } => {
            let kept = changes.tree(keep);
            let sessions = changes.births.iter();
            sessions
                .filter(|(_, birth)| birth.customer == customer && birth.end < event.start)
                .map(|(session, _)| *session)
                .filter(|session| changes.tree(*session) != kept)
                .collect()
        }
        _ => Vec::new(),
    }
}
