//! What is written down of each operation: who did what, from when to when, and what came of it.
//!
//! Sessions, customers and versions of customers have numbers here; no token is written down.

use std::time::Duration;

/// One operation on one node. Times are counted from the beginning, on one monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) node: usize,
    pub(crate) start: Duration,
    /// When whoever asked for it heard of it, or stopped listening.
    pub(crate) end: Duration,
    pub(crate) what: What,
}

/// In a change `None` means that its outcome is unknown: it failed, or was not waited for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Authenticate {
        session: u32,
        answer: Answer,
    },
    /// Also replaces the customer.
    Issue {
        customer: u32,
        version: i64,
        session: Option<u32>,
    },
    /// `Some(false)`: the store did not have it.
    Revoke {
        session: u32,
        found: Option<bool>,
    },
    RevokeCustomer {
        customer: u32,
        ended: Option<u64>,
    },
    /// `Some(None)`: the token opened no session.
    Rotate {
        session: u32,
        new: Option<Option<u32>>,
    },
    /// How many sessions the customer has.
    Update {
        customer: u32,
        version: i64,
        sessions: Option<u64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// By the session that was asked for, with its customer in this version.
    LetIn { version: i64 },
    /// By another session.
    Mistaken,
    /// 401.
    Refused,
    /// 503.
    Failed,
    /// Nobody waited for the answer.
    Left,
}

/// From one moment to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: Duration,
    pub(crate) end: Duration,
}

impl Span {
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// A time in which a node's runtime itself was late, and by how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) node: usize,
    pub(crate) span: Span,
    pub(crate) by: Duration,
}
