//! `MemoryStore` against plain maps: any sequence of operations has the same answers.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use customer_session::{
    Customer, CustomerData, CustomerSession, Page, Revocation, SessionId, SessionLimit,
    SessionRegistry as _, SessionStore as _, SessionToken, StoreErrorKind, store::MemoryStore,
};
use tokio::runtime::{Builder, Runtime};

use crate::random::{Random, Target};

const CUSTOMERS: [&str; 3] = ["c", "C", "c "];
const SESSIONS: [&str; 8] = ["s", "S", "s ", "1", "2", "3", "4", "5"];
const TOKENS: [&str; 8] = ["t", "T", "u", "v", "w", "x", "y", "z"];

pub fn target() -> Target {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    Box::new(move |random| {
        let mut pair = Pair {
            runtime: &runtime,
            store: MemoryStore::new(),
            model: Model::default(),
            log: Vec::new(),
        };
        for _ in 0..random.below(30) {
            pair.step(random);
            pair.compare();
        }
    })
}

#[derive(Clone, Debug, PartialEq)]
struct Live {
    token: &'static str,
    customer: &'static str,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

/// A customer with a session, or a deleted one.
#[derive(Clone, Debug, PartialEq)]
struct Account {
    name: Option<String>,
    is_deleted: bool,
}

#[derive(Default)]
struct Model {
    live: BTreeMap<&'static str, Live>,
    /// The last session of the family of each member, where there is more than one.
    current: BTreeMap<&'static str, &'static str>,
    /// The end of the family of each current session.
    ends: BTreeMap<&'static str, DateTime<Utc>>,
    customers: BTreeMap<&'static str, Account>,
}

impl Model {
    fn resolve(&self, id: &'static str) -> &'static str {
        self.current.get(id).copied().unwrap_or(id)
    }

    fn is_taken(&self, id: &str, token: &str) -> bool {
        self.live.contains_key(id)
            || self.current.contains_key(id)
            || self.live.values().any(|live| live.token == token)
    }

    /// Returns the sessions of a customer, oldest first.
    fn of(&self, customer: &str) -> Vec<&'static str> {
        let mut ids: Vec<_> = self
            .live
            .iter()
            .filter(|(_, live)| live.customer == customer)
            .map(|(id, live)| (live.created_at, *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn remove(&mut self, ids: &[&'static str]) {
        self.live.retain(|id, _| !ids.contains(id));
        self.forget();
    }

    fn forget(&mut self) {
        let live = &self.live;
        self.customers.retain(|id, account| {
            let has_session = live.values().any(|live| live.customer == *id);
            if account.is_deleted && !has_session {
                account.name = None;
            }
            has_session || account.is_deleted
        });
    }
}

struct Pair<'a> {
    runtime: &'a Runtime,
    store: MemoryStore,
    model: Model,
    log: Vec<String>,
}

fn time(hour: usize) -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::hours(hour as i64)
}

fn customer(id: &str, account: &Account) -> Customer {
    let mut data = CustomerData::new(id, "org");
    data.created_at = time(0);
    data.name.clone_from(&account.name);
    data.deleted_at = account.is_deleted.then(|| time(1));
    data.into()
}

fn session(id: &str, live: &Live, account: &Account) -> CustomerSession {
    let customer = customer(live.customer, account);
    let token = SessionToken::new(live.token);
    let mut session = CustomerSession::new(id, token, customer, live.expires_at);
    session.created_at = live.created_at;
    session
}

impl Pair<'_> {
    fn step(&mut self, random: &mut Random) {
        match random.below(10) {
            0..4 => self.insert(random),
            4 | 5 => self.replace(random),
            6 | 7 => self.revoke(random),
            8 => self.update(random),
            _ => self.purge(random),
        }
    }

    fn new_session(random: &mut Random, customer: &'static str) -> (&'static str, Live, Account) {
        let live = Live {
            token: random.pick(&TOKENS),
            customer,
            created_at: time(random.below(6)),
            expires_at: time(2 + random.below(8)),
        };
        let account = Account {
            name: Some(random.pick(&["a", "b"]).to_owned()),
            is_deleted: false,
        };
        (random.pick(&SESSIONS), live, account)
    }

    fn insert(&mut self, random: &mut Random) {
        let customer = random_customer(random);
        let (id, live, given) = Self::new_session(random, customer);
        let max = 1 + random.below(3) as u32;
        let limit = match random.below(4) {
            0 => Some((SessionLimit::refuse(max), true)),
            1 => Some((SessionLimit::end_oldest(max), false)),
            _ => None,
        };
        let new = session(id, &live, &given);
        self.log
            .push(format!("insert {id:?} {live:?} {given:?} {limit:?}"));
        let limit_of_store = limit.as_ref().map(|(limit, _)| limit);
        let inserted = self
            .runtime
            .block_on(self.store.insert(&new, limit_of_store));

        let known = self
            .model
            .customers
            .get(live.customer)
            .cloned()
            .unwrap_or(given);
        let mut counted = self.model.of(live.customer);
        counted.retain(|id| self.model.live[id].expires_at > live.created_at);
        let surplus = limit
            .as_ref()
            .map_or(0, |_| (counted.len() + 1).saturating_sub(max as usize));
        let refuses = limit.is_some_and(|(_, refuses)| refuses) && surplus > 0;
        if self.model.is_taken(id, live.token) || known.is_deleted || refuses {
            let error = inserted.map(drop).expect_err(&self.log.join("\n"));
            assert_eq!(
                error.kind(),
                StoreErrorKind::Conflict,
                "{}",
                self.log.join("\n")
            );
            return;
        }
        let ended = &counted[..surplus];
        let inserted = inserted.unwrap_or_else(|error| panic!("{error}\n{}", self.log.join("\n")));
        let said: Vec<_> = inserted
            .ended
            .iter()
            .map(|summary| summary.id.as_str())
            .collect();
        assert_eq!(said, ended, "{}", self.log.join("\n"));
        self.model.remove(ended);
        assert_eq!(
            inserted.session,
            session(id, &live, &known),
            "{}",
            self.log.join("\n")
        );
        self.model.customers.insert(live.customer, known);
        self.model.live.insert(id, live);
    }

    fn replace(&mut self, random: &mut Random) {
        let old = random.pick(&SESSIONS);
        let of = self.model.live.get(old).map_or("c", |live| live.customer);
        let (id, live, given) = Self::new_session(random, of);
        self.log
            .push(format!("replace {old:?} {id:?} {live:?} {given:?}"));
        let new = session(id, &live, &given);
        let replaced = self
            .runtime
            .block_on(self.store.replace(&old.into(), &new, None));
        let replaced = replaced.map(|replaced| replaced.map(|replaced| replaced.session));
        if !self.model.live.contains_key(old) {
            assert_eq!(
                replaced.expect("an answer"),
                None,
                "{}",
                self.log.join("\n")
            );
            return;
        }
        if self.model.is_taken(id, live.token) {
            let error = replaced.map(drop).expect_err(&self.log.join("\n"));
            assert_eq!(
                error.kind(),
                StoreErrorKind::Conflict,
                "{}",
                self.log.join("\n")
            );
            return;
        }
        let known = self.model.customers[live.customer].clone();
        let stored = replaced.expect("an answer");
        assert_eq!(
            stored,
            Some(session(id, &live, &known)),
            "{}",
            self.log.join("\n")
        );
        let end = self
            .model
            .ends
            .remove(old)
            .unwrap_or(live.expires_at)
            .max(live.expires_at);
        for current in self
            .model
            .current
            .values_mut()
            .filter(|current| **current == old)
        {
            *current = id;
        }
        self.model.current.insert(old, id);
        self.model.current.insert(id, id);
        self.model.ends.insert(id, end);
        self.model.live.remove(old);
        self.model.live.insert(id, live);
    }

    fn revoke(&mut self, random: &mut Random) {
        let asked = random.pick(&SESSIONS);
        let customer = random_customer(random);
        let id = self.model.resolve(asked);
        let live = self.model.live.get(id);
        let (what, ended) = match random.below(6) {
            0 | 1 => (
                Revocation::Session(asked.into()),
                Vec::from_iter(live.map(|_| id)),
            ),
            2 => (
                Revocation::Owned {
                    customer: customer.into(),
                    session: asked.into(),
                },
                Vec::from_iter(live.filter(|live| live.customer == customer).map(|_| id)),
            ),
            3 => {
                let mut ended = self.model.of(customer);
                ended.retain(|other| *other != id);
                (
                    Revocation::Others {
                        customer: customer.into(),
                        keep: asked.into(),
                    },
                    ended,
                )
            }
            4 => (
                Revocation::Customer(customer.into()),
                self.model.of(customer),
            ),
            _ if random.one_in(3) => (Revocation::All, self.model.live.keys().copied().collect()),
            _ => {
                let before = time(random.below(6));
                let live = self.model.live.iter();
                let ended = live
                    .filter(|(_, live)| live.created_at < before)
                    .map(|(id, _)| *id);
                (Revocation::CreatedBefore(before), ended.collect())
            }
        };
        self.log.push(format!("revoke {what:?}"));
        let revoked = self
            .runtime
            .block_on(self.store.revoke(&what))
            .expect("an answer");
        assert_eq!(revoked.any, !ended.is_empty(), "{}", self.log.join("\n"));
        for id in &ended {
            let customer = self.model.live[id].customer;
            let is_named = revoked.invalidations.iter().any(|invalidation| {
                use customer_session::Invalidation::*;
                match invalidation {
                    Session(named) => *named == SessionId::from(*id),
                    Customer(named) => named.as_str() == customer,
                    _ => true,
                }
            });
            assert!(is_named, "{id:?} is not named\n{}", self.log.join("\n"));
        }
        self.model.remove(&ended);
    }

    fn update(&mut self, random: &mut Random) {
        let id = random_customer(random);
        let account = Account {
            name: Some(random.pick(&["a", "b", "new"]).to_owned()),
            is_deleted: random.one_in(3),
        };
        self.log.push(format!("update {id:?} {account:?}"));
        let data = customer(id, &account);
        let is_known = self
            .runtime
            .block_on(self.store.update_customer(&data))
            .expect("an answer");
        let expected = self.model.customers.contains_key(id);
        assert_eq!(is_known, expected, "{}", self.log.join("\n"));
        if expected {
            self.model.customers.insert(id, account);
            self.model.forget();
        }
    }

    fn purge(&mut self, random: &mut Random) {
        let before = time(random.below(12));
        let limit = 1 + random.below(3) as u32;
        self.log.push(format!("purge {before} by {limit}"));
        loop {
            let purge = self.store.purge_expired(before, limit);
            let removed = self.runtime.block_on(purge).expect("an answer");
            assert!(removed <= u64::from(limit), "{}", self.log.join("\n"));
            if removed < u64::from(limit) {
                break;
            }
        }
        let live = self
            .model
            .live
            .iter()
            .filter(|(_, live)| live.expires_at <= before);
        let expired: Vec<_> = live.map(|(id, _)| *id).collect();
        self.model.remove(&expired);
        let ends = &self.model.ends;
        self.model
            .current
            .retain(|_, current| ends[current] > before);
        self.model.ends.retain(|_, end| *end > before);
    }

    /// Compares everything that can be read.
    fn compare(&self) {
        for token in TOKENS {
            let asked = SessionToken::new(token);
            let found = self.runtime.block_on(self.store.find(&asked));
            let found = found.expect("an answer");
            let mut live = self.model.live.iter();
            let expected = live.find(|(_, live)| live.token == token);
            let expected =
                expected.map(|(id, live)| session(id, live, &self.model.customers[live.customer]));
            assert_eq!(found, expected, "{token}\n{}", self.log.join("\n"));
        }
        for customer in CUSTOMERS {
            let id = customer.into();
            let (mut listed, mut page) = (Vec::new(), Page::default().with_size(2));
            loop {
                let list = self.store.list(&id, &page);
                let part = self.runtime.block_on(list).expect("an answer");
                listed.extend(part.sessions.iter().map(|summary| summary.id.to_string()));
                match part.next {
                    Some(cursor) => page = Page::after(cursor).with_size(2),
                    None => break,
                }
            }
            assert_eq!(
                listed,
                self.model.of(customer),
                "{customer:?}\n{}",
                self.log.join("\n")
            );
        }
    }
}

fn random_customer(random: &mut Random) -> &'static str {
    random.pick(&CUSTOMERS)
}
