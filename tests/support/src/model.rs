//! Sessions against a model of when they end: at the earliest of `expires_at`, the end that no rotation
//! moves, and the last use and the idle timeout together; or by a revocation or a limit, which end derived
//! sessions with their parent.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use customer_session::{
    AuthenticateError, Clock as _, CustomerId, CustomerSession, CustomerSessions, NewSession,
    SessionId, SessionRegistry, StoreErrorKind, WhenFull, testing::ManualClock,
};

use crate::{HOUR, customer, rng::Rng};

const IDLE_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Longer than the engine waits before it records a use.
const RECORDED_WITHIN: Duration = Duration::from_millis(1100);

/// Random steps with the sessions of one customer.
pub struct Walk<'a, S> {
    /// The nodes that share the store.
    nodes: Vec<CustomerSessions<Arc<S>>>,
    node: usize,
    clock: ManualClock,
    rng: &'a Rng,
    customer: CustomerId,
    sessions: Vec<Expected>,
    /// What was done, for the message of a failure.
    steps: Vec<String>,
}

/// A session as it should be.
struct Expected {
    session: CustomerSession,
    family: Family,
    /// The family that it was derived from.
    parent: Option<Family>,
    is_ended: bool,
    /// Another one has its place, and its token is still accepted.
    is_replaced: bool,
    last_used_at: Option<DateTime<Utc>>,
}

/// A session and those that it was rotated into, by the place of the first one.
type Family = usize;

impl Expected {
    fn new(session: CustomerSession, family: Family, parent: Option<Family>) -> Self {
        Self {
            session,
            family,
            parent,
            is_ended: false,
            is_replaced: false,
            last_used_at: None,
        }
    }

    /// Returns `true` if it is of a family, or was derived from it.
    fn ends_with(&self, family: Family) -> bool {
        self.family == family || self.parent == Some(family)
    }

    fn is_live(&self, now: DateTime<Utc>) -> bool {
        let last_use = self.last_used_at.unwrap_or(self.session.created_at);
        let end = self.session.details.ends_at.expect("issued with one");
        let idle_end = last_use + IDLE_TIMEOUT;
        !self.is_ended && now < self.session.expires_at.min(end).min(idle_end)
    }
}

/// Walks once, and fails if a session is let in, refused, or listed otherwise than in the model.
///
/// With several nodes the time of tokio must be paused: a node waits until its uses are recorded
/// before another one goes on.
pub async fn agrees_with_the_model<S: SessionRegistry>(
    store: Arc<S>,
    customer: &str,
    nodes: usize,
    steps: usize,
    rng: &Rng,
) {
    // In the past, since a database takes no use from the future.
    let start: DateTime<Utc> = "2020-01-01T00:00:00Z".parse().expect("a time");
    let clock = ManualClock::new(start);
    let node = || {
        let builder = CustomerSessions::builder(Arc::clone(&store)).clock(clock.clone());
        // Each request asks the store, so that what is let in is exact.
        let builder = builder.cache_ttl(Duration::ZERO).idle_timeout(IDLE_TIMEOUT);
        builder.expect("it keeps uses").build()
    };
    let mut walk = Walk {
        nodes: (0..nodes).map(|_| node()).collect(),
        node: 0,
        clock,
        rng,
        customer: customer.into(),
        sessions: Vec::new(),
        steps: Vec::new(),
    };
    for _ in 0..steps {
        walk.step().await;
    }
    walk.sessions()
        .revoke_customer(&walk.customer)
        .await
        .expect("revoked");
}

impl<S: SessionRegistry> Walk<'_, S> {
    fn sessions(&self) -> &CustomerSessions<Arc<S>> {
        &self.nodes[self.node]
    }

    fn note(&mut self, step: String) {
        self.steps.push(step);
    }

    async fn step(&mut self) {
        match self.rng.below(24) {
            0..6 => self.let_time_pass(),
            6 | 7 => self.issue().await,
            8 | 9 => self.derive().await,
            10 => self.rotate().await,
            11 => self.rotate_overlapping().await,
            12 => self.revoke().await,
            13 => self.revoke_owned().await,
            14 => self.revoke_others().await,
            15 => self.list().await,
            16 if self.nodes.len() > 1 => {
                tokio::time::sleep(RECORDED_WITHIN).await;
                self.node = self.rng.below(self.nodes.len() as u64) as usize;
                self.note(format!("node {}", self.node));
            }
            _ => self.authenticate().await,
        }
    }

    fn let_time_pass(&mut self) {
        let seconds = match self.rng.below(8) {
            // To the last microsecond of a session, or the first after it.
            0 if !self.sessions.is_empty() => {
                let known = &self.sessions[self.rng.below(self.sessions.len() as u64) as usize];
                let last_use = known.last_used_at.unwrap_or(known.session.created_at);
                let end = known.session.expires_at.min(last_use + IDLE_TIMEOUT);
                let left =
                    end - self.clock.now() - TimeDelta::microseconds(self.rng.below(2) as i64);
                left.to_std().unwrap_or_default()
            }
            1 => IDLE_TIMEOUT * 2,
            _ => Duration::from_secs(self.rng.below(IDLE_TIMEOUT.as_secs())),
        };
        self.clock.advance(seconds);
        self.note(format!("{seconds:?} pass"));
    }

    async fn issue(&mut self) {
        let ttl = Duration::from_secs(self.rng.below(2 * HOUR.as_secs()));
        let max = Duration::from_secs(self.rng.below(3 * HOUR.as_secs()));
        let mut new = NewSession::new(ttl).max_lifetime(max);
        let limit = self.limit().await;
        if let Some((max, when_full)) = limit {
            new = new.at_most(max, when_full);
        }
        let issued = self
            .sessions()
            .issue_with(customer(self.customer.as_str()), new)
            .await;
        let id = issued.as_ref().ok().map(|session| &session.id);
        self.steps.push(format!(
            "issue {id:?} for {ttl:?} and {max:?}, limit {limit:?}"
        ));
        let surplus = self.surplus(limit.map(|(max, _)| max));
        if !surplus.is_empty() && limit.is_some_and(|(_, full)| full == WhenFull::Refuse) {
            let error = issued.map(drop).expect_err("there are too many");
            assert_eq!(error.kind(), StoreErrorKind::Conflict, "{}", self.said());
            return;
        }
        for known in &mut self.sessions {
            known.is_ended |= surplus.iter().any(|family| known.ends_with(*family));
        }
        let session = issued.expect("issued");
        let now = self.clock.now().trunc_subsecs(6);
        assert_eq!(session.expires_at, now + ttl.min(max), "{}", self.said());
        let family = self.sessions.len();
        self.sessions.push(Expected::new(session, family, None));
    }

    /// Returns a limit for the next session, now and then. Uses are recorded by then, which count for it.
    async fn limit(&self) -> Option<(u32, WhenFull)> {
        if self.nodes.len() < 2 || self.rng.below(2) == 0 {
            return None;
        }
        tokio::time::sleep(RECORDED_WITHIN).await;
        let when_full = match self.rng.below(3) {
            0 => WhenFull::Refuse,
            _ => WhenFull::EndOldest,
        };
        Some((1 + self.rng.below(3) as u32, when_full))
    }

    /// Returns the families of the sessions that are too many if one is added, oldest first.
    fn surplus(&self, max: Option<u32>) -> Vec<Family> {
        let Some(max) = max else { return Vec::new() };
        let now = self.clock.now();
        let counts = |known: &&Expected| known.parent.is_none() && !known.is_replaced;
        let counted = self.sessions.iter().filter(counts);
        let mut live: Vec<_> = counted.filter(|known| known.is_live(now)).collect();
        live.sort_by_key(|known| (known.session.created_at, known.session.id.clone()));
        let surplus = (live.len() + 1).saturating_sub(max as usize);
        let surplus = live.into_iter().take(surplus);
        surplus.map(|known| known.family).collect()
    }

    async fn derive(&mut self) {
        let Some(index) = self.any() else { return };
        let ttl = Duration::from_secs(self.rng.below(2 * HOUR.as_secs()));
        let max = Duration::from_secs(self.rng.below(3 * HOUR.as_secs()));
        let new = NewSession::new(ttl).max_lifetime(max);
        let token = self.sessions[index].session.token.clone();
        let derived = self.sessions().derive(&token, new).await;
        let (known, now) = (&self.sessions[index], self.clock.now().trunc_subsecs(6));
        let is_live = known.is_live(self.clock.now());
        self.steps.push(format!(
            "derive from {} for {ttl:?} and {max:?}: {:?}",
            known.session.id,
            derived
                .as_ref()
                .ok()
                .and_then(Option::as_ref)
                .map(|child| &child.id)
        ));
        if is_live && known.parent.is_some() && !known.is_replaced {
            let error = derived.map(drop).expect_err("it was derived itself");
            assert_eq!(error.kind(), StoreErrorKind::Invalid, "{}", self.said());
            return;
        }
        let child = derived.expect("an answer");
        let is_current = is_live && !known.is_replaced;
        assert_eq!(child.is_some(), is_current, "{}", self.said());
        let (Some(child), parent) = (child, &known.session) else {
            return;
        };
        let end = parent.expires_at.min(now + max);
        assert_eq!(child.details.ends_at, Some(end), "{}", self.said());
        assert_eq!(child.expires_at, end.min(now + ttl), "{}", self.said());
        assert_eq!(child.details.parent.as_ref(), Some(&parent.id));
        assert_eq!(
            child.details.authenticated_at,
            parent.details.authenticated_at
        );
        let (family, parent) = (self.sessions.len(), Some(known.family));
        self.sessions.push(Expected::new(child, family, parent));
    }

    async fn rotate(&mut self) {
        let Some(index) = self.any() else { return };
        let ttl = Duration::from_secs(self.rng.below(2 * HOUR.as_secs()));
        let proves = self.rng.below(2) == 0;
        let token = self.sessions[index].session.token.clone();
        let new = match proves {
            true => self.sessions().reauthenticated(&token, ttl).await,
            false => self.sessions().rotate(&token, ttl).await,
        };
        let new = new.expect("an answer");
        let (known, now) = (&mut self.sessions[index], self.clock.now().trunc_subsecs(6));
        let is_live = known.is_live(self.clock.now());
        self.steps
            .push(format!("rotate {} for {ttl:?}", known.session.id));
        let is_current = is_live && !known.is_replaced;
        assert_eq!(new.is_some(), is_current, "{:#?}", self.steps);
        let Some(new) = new else { return };
        let old = &known.session;
        known.is_ended = true;
        assert_eq!(new.details.ends_at, old.details.ends_at);
        assert_eq!(
            Some(new.expires_at),
            new.details.ends_at.map(|end| end.min(now + ttl))
        );
        let authenticated_at = match proves {
            true => Some(now),
            false => old.details.authenticated_at,
        };
        assert_eq!(new.details.authenticated_at, authenticated_at);
        assert_eq!(new.details.parent, old.details.parent);
        let new = Expected::new(new, known.family, known.parent);
        for known in &mut self.sessions {
            known.is_ended |= known.is_replaced && known.family == new.family;
        }
        self.sessions.push(new);
    }

    async fn rotate_overlapping(&mut self) {
        let Some(index) = self.any() else { return };
        let ttl = Duration::from_secs(self.rng.below(2 * HOUR.as_secs()));
        let overlap = Duration::from_secs(1 + self.rng.below(300));
        let token = self.sessions[index].session.token.clone();
        let new = self
            .sessions()
            .rotate_overlapping(&token, ttl, overlap)
            .await;
        let (known, now) = (&mut self.sessions[index], self.clock.now().trunc_subsecs(6));
        let is_current = known.is_live(self.clock.now()) && !known.is_replaced;
        self.steps.push(format!(
            "rotate {} for {ttl:?}, and accept it for {overlap:?}: {:?}",
            known.session.id,
            new.as_ref()
                .ok()
                .and_then(Option::as_ref)
                .map(|new| &new.id)
        ));
        if is_current && known.parent.is_some() {
            let error = new.map(drop).expect_err("it was derived");
            assert_eq!(error.kind(), StoreErrorKind::Invalid, "{}", self.said());
            return;
        }
        let new = new.expect("an answer");
        assert_eq!(new.is_some(), is_current, "{:#?}", self.steps);
        let Some(new) = new else { return };
        let old = &mut known.session;
        assert_eq!(new.details.ends_at, old.details.ends_at);
        let end = new.details.ends_at.map(|end| end.min(now + ttl));
        assert_eq!(Some(new.expires_at), end);
        old.expires_at = old.expires_at.min(now + overlap).min(new.expires_at);
        old.details.ends_at = Some(old.expires_at);
        known.is_replaced = true;
        let new = Expected::new(new, known.family, None);
        self.sessions.push(new);
    }

    async fn revoke(&mut self) {
        let Some(index) = self.any() else { return };
        let id = self.sessions[index].session.id.clone();
        let found = self.sessions().revoke(&id).await.expect("an answer");
        self.note(format!("revoke {id}"));
        self.end_family(self.sessions[index].family, found);
    }

    async fn revoke_owned(&mut self) {
        let Some(index) = self.any() else { return };
        let id = self.sessions[index].session.id.clone();
        let is_owner = self.rng.below(3) > 0;
        let customer = match is_owner {
            true => self.customer.clone(),
            false => format!("not {}", self.customer).into(),
        };
        let found = self.sessions().revoke_owned(&customer, &id).await;
        let found = found.expect("an answer");
        self.note(format!("revoke {id} of {customer:?}"));
        match is_owner {
            true => self.end_family(self.sessions[index].family, found),
            false => assert!(!found, "{}", self.said()),
        }
    }

    /// Ends a family and what was derived from it. `found` is the answer of the store, which may have
    /// forgotten what has expired.
    fn end_family(&mut self, family: Family, found: bool) {
        let now = self.clock.now();
        let mut ended = self.sessions.iter().filter(|known| known.ends_with(family));
        match found {
            true => assert!(ended.any(|known| !known.is_ended), "{}", self.said()),
            false => assert!(!ended.any(|known| known.is_live(now)), "{}", self.said()),
        }
        for known in &mut self.sessions {
            known.is_ended |= known.ends_with(family);
        }
    }

    async fn revoke_others(&mut self) {
        let Some(index) = self.any() else { return };
        let (keep, kept) = match self.rng.below(4) {
            0 => (SessionId::from("unknown"), None),
            _ => (
                self.sessions[index].session.id.clone(),
                self.tree(self.sessions[index].family),
            ),
        };
        let customer = self.customer.clone();
        let ended = self.sessions().revoke_others(&customer, &keep).await;
        ended.expect("an answer");
        self.note(format!("revoke all but {keep}"));
        for known in &mut self.sessions {
            known.is_ended |= !kept.is_some_and(|root| known.ends_with(root));
        }
    }

    /// Returns the family at the root of the tree that a family belongs to, or `None` if it was revoked.
    fn tree(&self, family: Family) -> Option<Family> {
        let current = self.sessions.iter().rfind(|known| known.family == family)?;
        (!current.is_ended).then(|| current.parent.unwrap_or(family))
    }

    async fn authenticate(&mut self) {
        let Some(index) = self.any() else { return };
        let token = self.sessions[index].session.token.clone();
        let answer = self.sessions().authenticate(&token).await;
        let now = self.clock.now();
        let known = &mut self.sessions[index];
        let is_live = known.is_live(now);
        self.steps
            .push(format!("use {} ({is_live})", known.session.id));
        match answer {
            Ok(session) => {
                assert!(is_live, "let in: {:#?}", self.steps);
                let ends =
                    |session: &CustomerSession| (session.expires_at, session.details.ends_at);
                assert_eq!(ends(&session), ends(&known.session), "a use moves no end");
                assert_eq!(session.details.is_replaced, known.is_replaced);
                known.last_used_at = known.last_used_at.max(Some(now.trunc_subsecs(6)));
            }
            Err(AuthenticateError::InvalidToken) => {
                assert!(!is_live, "refused: {:#?}", self.steps);
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn list(&mut self) {
        let listed = self
            .sessions()
            .list(&self.customer)
            .await
            .expect("an answer");
        let mut listed: Vec<_> = listed
            .into_iter()
            .map(|session| (session.id, session.details.last_used_at))
            .collect();
        let live = self
            .sessions
            .iter()
            .filter(|known| known.is_live(self.clock.now()));
        let mut live: Vec<_> = live
            .map(|known| (known.session.id.clone(), known.last_used_at))
            .collect();
        listed.sort();
        live.sort();
        assert_eq!(listed, live, "{}", self.said());
    }

    fn any(&self) -> Option<usize> {
        let count = self.sessions.len() as u64;
        // Rather a late one: the first have ended long since.
        let from_end = self.rng.below(count.clamp(1, 6));
        (count > 0).then(|| (count - 1 - from_end) as usize)
    }

    fn said(&self) -> String {
        format!("{:#?}", self.steps)
    }
}
