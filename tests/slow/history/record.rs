//! The record of each operation: its node, its kind, its start and end, and its outcome.
//!
//! Sessions, customers and versions of customers have numbers here; no token is recorded.

use std::time::Duration;

/// One operation on one node. Times are counted from the beginning, on one monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) node: usize,
    pub(crate) start: Duration,
    /// The time at which the caller had the answer, or gave up.
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
    /// Also adds the customer in this version, if the store does not know them.
    Issue {
        customer: u32,
        version: i64,
        session: Option<u32>,
        /// Whether the answer has the customer in this version.
        is_new: bool,
    },
    /// `Some(false)`: the store did not have it.
    Revoke {
        session: u32,
        found: Option<bool>,
    },
    RevokeCustomer {
        customer: u32,
        ended: Option<()>,
    },
    /// All sessions of a customer but the tree of the one that `keep` leads to.
    RevokeOthers {
        customer: u32,
        keep: u32,
        ended: Option<()>,
    },
    /// `Some(None)`: the token opened no session.
    Rotate {
        session: u32,
        new: Option<Option<u32>>,
    },
    /// A session that ends with its parent. `Some(None)`: the parent's token opened no session.
    Derive {
        parent: u32,
        child: Option<Option<u32>>,
    },
    /// `known` is `Some(false)` if the store does not know the customer.
    Update {
        customer: u32,
        version: i64,
        known: Option<bool>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Let in by the session of the token, with its customer in this version.
    LetIn { version: i64 },
    /// Let in by another session.
    Mistaken,
    /// 401.
    Refused,
    /// 503.
    Failed,
    /// The caller gave up waiting.
    Left,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: Duration,
    pub(crate) end: Duration,
}

/// A delay of a node's runtime itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) node: usize,
    pub(crate) span: Span,
    pub(crate) by: Duration,
}
