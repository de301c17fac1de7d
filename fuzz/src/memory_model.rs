//! The model of `MemoryStore`: plain maps, and slow searches in them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    pub token: &'static str,
    pub customer: &'static str,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    pub parent: Option<Parent>,
}

/// The session that another was derived from.
#[derive(Clone, Debug, PartialEq)]
pub struct Parent {
    pub id: &'static str,
    /// The first session of its family.
    pub family: &'static str,
    /// The time at which it expired when the other was derived.
    pub expires_at: DateTime<Utc>,
}

/// A customer with a session, or a deleted one.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub name: Option<String>,
    pub is_deleted: bool,
}

/// The family of a session that was replaced, or has replaced another.
#[derive(Clone, Copy)]
struct Member {
    first: &'static str,
    end: DateTime<Utc>,
}

#[derive(Default)]
pub struct Model {
    pub live: BTreeMap<&'static str, Live>,
    pub customers: BTreeMap<&'static str, Account>,
    families: BTreeMap<&'static str, Member>,
}

impl Model {
    /// Returns the first session of a session's family.
    pub fn family(&self, id: &'static str) -> &'static str {
        self.families.get(id).map_or(id, |member| member.first)
    }

    pub fn is_taken(&self, id: &str, token: &str) -> bool {
        self.live.contains_key(id)
            || self.families.contains_key(id)
            || self.live.values().any(|live| live.token == token)
    }

    /// Returns the sessions of a customer, oldest first.
    pub fn of(&self, customer: &str) -> Vec<&'static str> {
        let mut ids: Vec<_> = self
            .live
            .iter()
            .filter(|(_, live)| live.customer == customer)
            .map(|(id, live)| (live.created_at, *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns the live sessions that were derived from a family.
    pub fn derived_from(&self, family: &str) -> Vec<&'static str> {
        let is_child = |live: &Live| {
            let parent = live.parent.as_ref();
            parent.is_some_and(|parent| parent.family == family)
        };
        let live = self.live.iter().filter(|(_, live)| is_child(live));
        live.map(|(id, _)| *id).collect()
    }

    /// Returns the live session that an id leads to, and what was derived from its family.
    pub fn led_to(&self, id: &'static str) -> Vec<&'static str> {
        let family = self.family(id);
        let own = self.live.keys().filter(|id| self.family(id) == family);
        own.copied().chain(self.derived_from(family)).collect()
    }

    /// Returns the live sessions of the tree that an id leads to.
    pub fn tree(&self, id: &'static str) -> Vec<&'static str> {
        let led_to = self.led_to(id);
        let mut parents = led_to.iter().filter_map(|id| {
            let parent = self.live[id].parent.as_ref()?;
            Some(parent.family)
        });
        self.led_to(parents.next().unwrap_or(id))
    }

    /// Returns the sessions that must end before one is added that replaces `replaced`: those that count,
    /// oldest first, and behind each what was derived from it. `None` if the new one is refused.
    pub fn surplus(
        &self,
        new: &Live,
        replaced: Option<&str>,
        limit: Option<Limit>,
    ) -> Option<Vec<&'static str>> {
        let Some(limit) = limit.filter(|_| new.parent.is_none()) else {
            return Some(Vec::new());
        };
        let mut counted = self.of(new.customer);
        counted.retain(|id| {
            let live = &self.live[id];
            live.expires_at > new.created_at && live.parent.is_none() && replaced != Some(id)
        });
        let surplus = (counted.len() + 1).saturating_sub(limit.max as usize);
        let ended = counted[..surplus].iter();
        let ended = ended.flat_map(|id| [vec![*id], self.derived_from(self.family(id))].concat());
        (!limit.refuses || surplus == 0).then(|| ended.collect())
    }

    pub fn replace(&mut self, old: &'static str, id: &'static str, new: Live) {
        let end = new.ends_at.unwrap_or(new.expires_at).max(new.expires_at);
        let first = self.family(old);
        let known = self.families.get(old).map(|member| member.end);
        let end = known.unwrap_or(end).max(end);
        let member = Member { first, end };
        self.families.insert(old, member);
        self.families.insert(id, member);
        for other in self.families.values_mut() {
            if other.first == first {
                *other = member;
            }
        }
        self.live.remove(old);
        self.live.insert(id, new);
    }

    /// Removes what has expired, and the families that have ended.
    pub fn purge(&mut self, before: DateTime<Utc>) {
        self.live.retain(|_, live| live.expires_at > before);
        self.families.retain(|_, member| member.end > before);
        self.forget();
    }

    pub fn remove(&mut self, ids: &[&'static str]) {
        self.live.retain(|id, _| !ids.contains(id));
        self.forget();
    }

    /// Forgets customers without sessions, and of deleted ones all but that they are deleted.
    pub fn forget(&mut self) {
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

#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub max: u32,
    pub refuses: bool,
}
