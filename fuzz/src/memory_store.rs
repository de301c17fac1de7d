//! `MemoryStore` against plain maps: any sequence of operations has the same answers.

use chrono::{DateTime, TimeDelta, Utc};
use customer_session::{
    Customer, CustomerData, CustomerSession, Inserted, Page, Revocation, SessionId, SessionLimit,
    SessionRegistry as _, SessionStore as _, SessionToken, StoreError, StoreErrorKind,
    store::MemoryStore,
};
use tokio::runtime::{Builder, Runtime};

use crate::{
    memory_model::{Account, Limit, Live, Model, Parent},
    random::{Random, Target},
};

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
    session.details.ends_at = live.ends_at;
    session.details.parent = live.parent.as_ref().map(|parent| parent.id.into());
    session
}

impl Pair<'_> {
    fn step(&mut self, random: &mut Random) {
        match random.below(12) {
            0..4 => self.insert(random),
            4 | 5 => self.replace(random),
            6 | 7 => self.derive(random),
            8 | 9 => self.revoke(random),
            10 => self.update(random),
            _ => self.purge(random),
        }
    }

    fn log(&self) -> String {
        self.log.join("\n")
    }

    fn new_session(random: &mut Random, customer: &'static str) -> (&'static str, Live, Account) {
        let live = Live {
            token: random.pick(&TOKENS),
            customer,
            created_at: time(random.below(6)),
            expires_at: time(2 + random.below(8)),
            ends_at: random.one_in(3).then(|| time(10)),
            parent: None,
        };
        let account = Account {
            name: Some(random.pick(&["a", "b"]).to_owned()),
            is_deleted: false,
        };
        (random.pick(&SESSIONS), live, account)
    }

    fn assert_error<T>(&self, outcome: Result<T, StoreError>, kind: StoreErrorKind) {
        let error = outcome.map(drop).expect_err(&self.log());
        assert_eq!(error.kind(), kind, "{}", self.log());
    }

    /// Compares what the store says of a new session, and ends in the model what ended in its favour.
    fn compare_new(&mut self, inserted: Inserted, new: CustomerSession, ended: &[&'static str]) {
        let said = inserted.ended.iter().map(|summary| summary.id.as_str());
        assert_eq!(said.collect::<Vec<_>>(), ended, "{}", self.log());
        assert_eq!(inserted.session, new, "{}", self.log());
        self.model.remove(ended);
    }

    fn insert(&mut self, random: &mut Random) {
        let customer = random_customer(random);
        let (id, mut live, given) = Self::new_session(random, customer);
        let limit = random_limit(random);
        if random.one_in(20) {
            live.parent = Some(Parent {
                id: random.pick(&SESSIONS),
                family: "",
                expires_at: time(9),
            });
        }
        let new = session(id, &live, &given);
        self.log
            .push(format!("insert {id:?} {live:?} {given:?} {limit:?}"));
        let of_store = limit.map(limit_of_store);
        let inserting = self.store.insert(&new, of_store.as_ref());
        let inserted = self.runtime.block_on(inserting);
        if live.parent.is_some() {
            return self.assert_error(inserted, StoreErrorKind::Invalid);
        }
        let known = self.model.customers.get(live.customer).cloned();
        let known = known.unwrap_or(given);
        let surplus = self.model.surplus(&live, None, limit);
        let is_taken = self.model.is_taken(id, live.token) || known.is_deleted;
        let Some(ended) = surplus.filter(|_| !is_taken) else {
            return self.assert_error(inserted, StoreErrorKind::Conflict);
        };
        let inserted = inserted.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        self.compare_new(inserted, session(id, &live, &known), &ended);
        self.model.customers.insert(live.customer, known);
        self.model.live.insert(id, live);
    }

    fn replace(&mut self, random: &mut Random) {
        let old = random.pick(&SESSIONS);
        let replaced = self.model.live.get(old).cloned();
        let of = replaced.as_ref().map_or("c", |live| live.customer);
        let (id, mut live, given) = Self::new_session(random, of);
        live.parent = replaced.as_ref().and_then(|live| live.parent.clone());
        if let Some(parent) = &live.parent {
            live.expires_at = live.expires_at.min(parent.expires_at);
            live.ends_at = Some(parent.expires_at);
        }
        let children = self.model.derived_from(self.model.family(old));
        if !children.is_empty() {
            // No child outlives the end of its parent's family.
            live.ends_at = Some(time(10));
        }
        let limit = random_limit(random);
        self.log.push(format!(
            "replace {old:?} {id:?} {live:?} {given:?} {limit:?}"
        ));
        let (new, of_store) = (session(id, &live, &given), limit.map(limit_of_store));
        let old_id = SessionId::from(old);
        let replacing = self.store.replace(&old_id, &new, of_store.as_ref());
        let stored = self.runtime.block_on(replacing);
        if replaced.is_none() {
            assert_eq!(stored.expect("an answer"), None, "{}", self.log());
            return;
        }
        let surplus = self.model.surplus(&live, Some(old), limit);
        let is_taken = self.model.is_taken(id, live.token);
        let Some(ended) = surplus.filter(|_| !is_taken) else {
            return self.assert_error(stored, StoreErrorKind::Conflict);
        };
        let known = self.model.customers[live.customer].clone();
        let stored = stored.expect("an answer");
        let stored = stored.unwrap_or_else(|| panic!("it was there\n{}", self.log()));
        self.compare_new(stored, session(id, &live, &known), &ended);
        self.model.replace(old, id, live);
    }

    fn derive(&mut self, random: &mut Random) {
        let named = random.pick(&SESSIONS);
        let parent = self.model.live.get(named).cloned();
        let of = parent.as_ref().map(|parent| parent.customer);
        let customer = of.filter(|_| !random.one_in(8));
        let customer = customer.unwrap_or_else(|| random_customer(random));
        let (id, mut live, given) = Self::new_session(random, customer);
        let end = parent.as_ref().map_or(time(9), |parent| parent.expires_at);
        live.expires_at = live.expires_at.min(end);
        live.ends_at = Some(end);
        let is_named = !random.one_in(12);
        live.parent = Some(Parent {
            id: if is_named { named } else { "other" },
            family: self.model.family(named),
            expires_at: end,
        });
        self.log
            .push(format!("derive from {named:?} {id:?} {live:?} {given:?}"));
        let (new, asked) = (session(id, &live, &given), SessionId::from(named));
        let derived = self.runtime.block_on(self.store.derive(&asked, &new));
        let is_child = of == Some(customer) && parent.is_some_and(|parent| parent.parent.is_some());
        if !is_named || is_child {
            return self.assert_error(derived, StoreErrorKind::Invalid);
        }
        if of != Some(customer) {
            assert_eq!(derived.expect("an answer"), None, "{}", self.log());
            return;
        }
        if self.model.is_taken(id, live.token) {
            return self.assert_error(derived, StoreErrorKind::Conflict);
        }
        let known = &self.model.customers[customer];
        let expected = Some(session(id, &live, known));
        assert_eq!(derived.expect("an answer"), expected, "{}", self.log());
        self.model.live.insert(id, live);
    }

    fn random_revocation(&self, random: &mut Random) -> (Revocation, Vec<&'static str>) {
        let asked = random.pick(&SESSIONS);
        let customer = random_customer(random);
        let live = &self.model.live;
        let of_customer = self.model.of(customer);
        match random.below(6) {
            0 | 1 => (Revocation::Session(asked.into()), self.model.led_to(asked)),
            2 => {
                let mut ended = self.model.led_to(asked);
                ended.retain(|id| of_customer.contains(id));
                let (customer, session) = (customer.into(), asked.into());
                (Revocation::Owned { customer, session }, ended)
            }
            3 => {
                let (mut ended, kept) = (of_customer, self.model.tree(asked));
                ended.retain(|id| !kept.contains(id));
                let (customer, keep) = (customer.into(), asked.into());
                (Revocation::Others { customer, keep }, ended)
            }
            4 => (Revocation::Customer(customer.into()), of_customer),
            _ if random.one_in(3) => (Revocation::All, live.keys().copied().collect()),
            _ => {
                let before = time(random.below(6));
                let covered = live.keys().filter(|id| live[*id].created_at < before);
                let ended = covered.flat_map(|id| {
                    let children = self.model.derived_from(self.model.family(id));
                    [vec![*id], children].concat()
                });
                (Revocation::CreatedBefore(before), ended.collect())
            }
        }
    }

    fn revoke(&mut self, random: &mut Random) {
        let (what, ended) = self.random_revocation(random);
        self.log.push(format!("revoke {what:?}"));
        let revoked = self
            .runtime
            .block_on(self.store.revoke(&what))
            .expect("an answer");
        assert_eq!(revoked.any, !ended.is_empty(), "{}", self.log());
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
            assert!(is_named, "{id:?} is not named\n{}", self.log());
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
        assert_eq!(is_known, expected, "{}", self.log());
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
            assert!(removed <= u64::from(limit), "{}", self.log());
            if removed < u64::from(limit) {
                break;
            }
        }
        self.model.purge(before);
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
            assert_eq!(found, expected, "{token}\n{}", self.log());
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
                self.log()
            );
        }
    }
}

fn random_customer(random: &mut Random) -> &'static str {
    random.pick(&CUSTOMERS)
}

fn random_limit(random: &mut Random) -> Option<Limit> {
    let max = 1 + random.below(3) as u32;
    let refuses = random.one_in(2);
    random.one_in(2).then_some(Limit { max, refuses })
}

fn limit_of_store(limit: Limit) -> SessionLimit {
    match limit.refuses {
        true => SessionLimit::refuse(limit.max),
        false => SessionLimit::end_oldest(limit.max),
    }
}
