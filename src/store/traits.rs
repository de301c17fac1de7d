//! What a store implements.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::error::StoreError;
use crate::{
    customer::{Customer, CustomerId},
    invalidation::Invalidation,
    page::{Page, SessionPage},
    registry::{Inserted, Keeps, Revocation, Revoked, SessionLimit, SessionUse},
    session::{CustomerSession, SessionId},
    shared_caches::SharedCaches,
    token::{SessionToken, TokenFormat},
};

/// Finds the session that a token opens.
///
/// # Contract
///
/// - **Fresh.** A session whose revocation has returned is not found any more. Do not read
///   from a replica that lags behind, and do not cache: the layer does that.
/// - **Complete.** The answer carries the `token` that was asked for, and `customer_id` equals
///   `customer.id`. The layer refuses an answer for another token or with a mixed-up customer
///   as [`Corrupt`](crate::StoreErrorKind::Corrupt).
/// - **Errors are not "not found".** "There is no such session" is `Ok(None)`. A store that cannot
///   tell returns an error, which is answered with 503: an outage must not sign customers out.
/// - **Expiry is the layer's job.** An expired session may be returned as it is.
/// - **Cancel-safe.** The future may be dropped at any await: the time allowed for a lookup may be
///   over, or its runtime may shut down.
/// - **No secrets in errors.** Neither errors nor logs hold the token. Keep only a hash of it, and a
///   keyed one if the sessions outlive the process.
///
/// A panic is caught and treated as an error.
///
/// ```
/// use customer_session::{
///     CustomerSession, SessionStore, SessionToken, StoreError, async_trait,
/// };
///
/// struct Upstream(/* a connection pool */);
///
/// #[async_trait]
/// impl SessionStore for Upstream {
///     async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError> {
///         let row: Option<CustomerSession> = self
///             .query(token.expose())
///             .await
///             .map_err(StoreError::unavailable)?;
///         Ok(row)
///     }
/// }
/// # impl Upstream {
/// #     async fn query(&self, _: &str) -> Result<Option<CustomerSession>, std::io::Error> { Ok(None) }
/// # }
/// ```
///
/// The guide's page [`custom_store`](crate::guide::custom_store) walks through a whole one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store of sessions",
    label = "this type does not implement `SessionStore`",
    note = "implement `SessionStore` with `#[async_trait]`: it is one method, `find`",
    note = "a store that is shared goes in an `Arc`: `Arc<S>` and `Arc<dyn SessionStore>` are stores too"
)]
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Returns the live or dead session that `token` opens, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the store cannot tell, with the kind that fits; see [`StoreErrorKind`](crate::StoreErrorKind).
    async fn find(&self, token: &SessionToken) -> Result<Option<CustomerSession>, StoreError>;

    /// Returns the format of the tokens this store can know; the layer refuses others without
    /// asking.
    ///
    /// The default is [`TokenFormat::any`]. It is read once, by `CustomerSessions::builder`.
    fn token_format(&self) -> TokenFormat {
        TokenFormat::any()
    }

    /// Returns the caches that stand in front of this store and its clones, in this process.
    ///
    /// With the default, `None`, a revocation by one [`CustomerSessions`](crate::CustomerSessions) is
    /// noticed by another over a clone of the store only when its cached answer is too old
    /// ([`cache_ttl`](crate::CustomerSessionsBuilder::cache_ttl)). [`SharedCaches`] shows how to have
    /// it noticed at once.
    fn shared_caches(&self) -> Option<&SharedCaches> {
        None
    }

    /// Returns `true` if other nodes may change what is in this store, and there is an
    /// [`InvalidationSource`](crate::InvalidationSource) that tells of it.
    ///
    /// An engine over such a store logs a warning if it does not listen to a source within a minute.
    /// The default is `false`.
    fn has_invalidation_source(&self) -> bool {
        false
    }
}

/// Keeps sessions: what a store adds to [`SessionStore`] when the service itself issues and
/// revokes them.
///
/// # Contract
///
/// - Every method but [`purge_expired`](SessionRegistry::purge_expired) and
///   [`touch`](SessionRegistry::touch) is atomic: another reader sees all of its effect or nothing.
/// - When a method returns `Ok`, its effect is committed and every later
///   [`find`](SessionStore::find) sees it.
/// - On an error the outcome may be unknown; the engine then assumes that it happened
///   wherever that is the safe assumption.
/// - Identifiers compare byte for byte, in every method: `ABC` is not `abc`, a trailing blank
///   counts, and `{ABC}` is not `ABC`. Some databases compare text otherwise unless a column is
///   declared as binary, and a `uuid` column takes all spellings of one for the same. The engine
///   records the identifier that it was given: if the store ended another one, that session would
///   be let in from the cache.
/// - Times are kept to the microsecond at least.
/// - A customer that the store knows looks the same in all of their sessions, and only
///   [`update_customer`](SessionRegistry::update_customer) changes them. A store may forget a
///   customer once the last of their sessions is gone, but not that a customer is deleted: such a
///   customer gets no session until an update says that it is not deleted any more.
/// - A session's [`ends_at`](crate::SessionDetails::ends_at) is kept like its times. A registry that
///   says so ([`keeps`](SessionRegistry::keeps)) keeps all its details; others are not asked to, and get
///   no session that has more of them than times.
/// - A session and those that took its place by [`replace`](SessionRegistry::replace) are a family.
///   A replaced id leads to the live session of its family until the family has ended: until the
///   `ends_at` of its last session, or `expires_at` if it has none. Revoking or keeping a replaced
///   id means that session, and a concurrent `replace` does not carry a session over a revocation,
///   whether that is one of the session or of its customer. A store that counts the revocations of a
///   customer as epochs gives the new session the epoch of the old one, and answers `None` if that is
///   no longer the current one; only `insert` reads the current epoch.
/// - A session that was [derived](SessionRegistry::derive) from another is a child of that one's family,
///   and so is what takes its place. Whatever ends the live session of the family, and is neither its expiry
///   nor a replacement, ends the children in the same transaction, and names them; it does so also if only
///   the children are left. What ends a child ends that child alone. Keeping a session keeps the whole tree
///   that it belongs to. Children do not count for a [`SessionLimit`].
/// - A store shared by several machines announces what it revoked or changed as
///   [`Invalidation`]s, if it can in the same transaction.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep sessions: it is not a `SessionRegistry`",
    label = "this store cannot issue, list or revoke sessions",
    note = "implement `SessionRegistry` with `#[async_trait]`, or take a store that has it, such as `store::MemoryStore`; \
            to check sessions that another service issues, `CustomerSessionLayer::new(store)` needs only `SessionStore`"
)]
#[async_trait]
pub trait SessionRegistry: SessionStore {
    /// Adds a session, and its customer if the store does not know them. A customer that the
    /// store knows stays as it is.
    ///
    /// Returns the session as stored, with the customer as the store knows them, and the sessions
    /// that ended because of `limit`. The limit holds for concurrent insertions too.
    ///
    /// A session with a [`parent`](crate::SessionDetails::parent) is not added here, but by
    /// [`derive`](Self::derive): it is refused with [`Invalid`](crate::StoreErrorKind::Invalid).
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::StoreErrorKind::Conflict), with nothing changed, if the session's id or
    /// token exists already, if the id was replaced, if the customer is deleted, or if the limit
    /// refuses the session.
    async fn insert(
        &self,
        session: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Inserted, StoreError>;

    /// Removes the session `old` and adds `new`, both or neither, and returns `new` as stored, with the
    /// sessions that ended because of `limit`. Of any number of concurrent calls for one `old`, one gets
    /// a session; `None` means that `old` was not there, and that nothing has ended.
    ///
    /// The limit is that of [`insert`](Self::insert). `old` does not count for it, and there is none for a
    /// session that was derived. `new` has the [`parent`](crate::SessionDetails::parent) of `old`.
    ///
    /// The customer stays as the store knows them: `new.customer` was read before, and may have
    /// been changed or deleted since. `new` is a session of the same customer, and belongs to the
    /// family of `old`.
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::StoreErrorKind::Conflict), with nothing changed, if the id or the token
    /// of `new` exists already, if the id was replaced and leads to a family, or if the limit refuses
    /// the session.
    async fn replace(
        &self,
        old: &SessionId,
        new: &CustomerSession,
        limit: Option<&SessionLimit>,
    ) -> Result<Option<Inserted>, StoreError>;

    /// Adds `new` in the place of `old`, both or neither, as [`replace`](Self::replace) does without a limit; but
    /// the token of `old` is still accepted. `old` comes as it is to be kept: with an earlier `expires_at`, the same
    /// time as its `ends_at`, and [`is_replaced`](crate::SessionDetails::is_replaced). The store keeps its id, token,
    /// time of creation and last use.
    ///
    /// The id of `old` leads to the live session of the family, so that revoking either session ends both. Like a
    /// session that was derived from the family, `old` ends with it, and counts for no limit. A `replace` of the
    /// live session ends all that overlap with it.
    ///
    /// `None` means that no live session has the id of `old`, or that it was replaced already. [`replace`](Self::replace)
    /// and [`derive`](Self::derive) also answer `None` for a session that was replaced.
    ///
    /// The default refuses, for stores in which a replaced session ends at once.
    ///
    /// # Errors
    ///
    /// Those of [`replace`](Self::replace). [`Invalid`](crate::StoreErrorKind::Invalid) if the store has no
    /// overlaps, if `old` was derived or is not marked as replaced, if `new` is, or if they are of different
    /// customers.
    async fn replace_overlapping(
        &self,
        old: &CustomerSession,
        new: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let _ = (old, new);
        Err(StoreError::invalid(
            "this store cannot keep the token of a replaced session valid",
        ))
    }

    /// Adds `child`, a session of the same customer that ends with the session `parent`, and returns it as
    /// stored. `None` means that `parent` was not there under exactly this id, or that a revocation of its
    /// customer has ended it. A store that counts the revocations of a customer as epochs gives the child the
    /// epoch of the parent. A derivation that races a revocation of the parent never leaves a child behind.
    ///
    /// The [`parent`](crate::SessionDetails::parent) in the details of `child` is `parent`, which was not
    /// derived itself. The child expires no later than the parent does. The contract of this trait says
    /// when it ends.
    ///
    /// The default refuses, for stores that know no families of children.
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::StoreErrorKind::Conflict), with nothing changed, if the id or the token of
    /// `child` exists already, if the id was replaced, or if the parent has as many children as the
    /// store keeps. [`Invalid`](crate::StoreErrorKind::Invalid) if the store derives no sessions, or if
    /// `parent` was derived itself.
    async fn derive(
        &self,
        parent: &SessionId,
        child: &CustomerSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        let _ = (parent, child);
        Err(StoreError::invalid("this store derives no sessions"))
    }

    /// Removes the sessions that `what` describes, those inserted a moment ago included, and the
    /// successors of replaced ones.
    ///
    /// It is not an error if there are none (RFC 7009, section 2.2). The answer names what the
    /// engine must no longer trust, with identifiers as they are stored; also what was asked for and
    /// was not there, since another node may have ended it a moment ago.
    ///
    /// # Errors
    ///
    /// If the store cannot tell.
    async fn revoke(&self, what: &Revocation) -> Result<Revoked, StoreError>;

    /// Returns one page of a customer's sessions, ordered by `created_at` and `id`, oldest first,
    /// expired ones included. It holds no tokens.
    ///
    /// # Errors
    ///
    /// If the store cannot tell.
    async fn list(&self, customer: &CustomerId, page: &Page) -> Result<SessionPage, StoreError>;

    /// Replaces a customer in all of the customer's sessions. Returns `false` if the store does
    /// not know the customer; it never adds one.
    ///
    /// # Errors
    ///
    /// If the store cannot tell.
    async fn update_customer(&self, customer: &Customer) -> Result<bool, StoreError>;

    /// Removes at most `limit` records: sessions with `expires_at <= before`, then what is kept of
    /// replaced sessions whose family has ended by then, and then what revocations have left behind.
    /// Returns how many records it removed; fewer than `limit` means that none are left. Lookups go on
    /// meanwhile. No other node is told, since no live session ends.
    ///
    /// # Errors
    ///
    /// If the store cannot tell.
    async fn purge_expired(&self, before: DateTime<Utc>, limit: u32) -> Result<u64, StoreError>;

    /// Forgets customers without sessions: looks at the next `limit` customers after `after`, in the
    /// order of their ids, and returns the id to go on after, or `None` at the end.
    ///
    /// Of a deleted customer the id and the time of the deletion are kept, so that a sign-in which
    /// was begun before does not bring the customer back. A customer to whom a concurrent call gives
    /// a session stays, and so does the session.
    ///
    /// The default does nothing, for stores that keep no customer beyond the last session.
    ///
    /// # Errors
    ///
    /// If the store cannot tell.
    async fn purge_customers(
        &self,
        after: Option<&CustomerId>,
        limit: u32,
    ) -> Result<Option<CustomerId>, StoreError> {
        let _ = (after, limit);
        Ok(None)
    }

    /// Returns what is kept of a session beyond its identity and its times. It is asked once for each new
    /// session.
    ///
    /// The default is nothing, for stores written before there were details. A store around another one
    /// passes on what that one says.
    fn keeps(&self) -> Keeps {
        Keeps::default()
    }

    /// Records uses: [`last_used_at`](crate::SessionDetails::last_used_at) of each session becomes the
    /// time of its use, unless it is later already. If the store has a clock of its own, as a database
    /// server has, a use later than that counts as one of the present. A use of a session that is not
    /// there is left out.
    ///
    /// It changes nothing else: no session lives longer by it, and no other node is told. Each session
    /// stands in `uses` once. An [`insert`](Self::insert) and a [`replace`](Self::replace) record no
    /// use, whatever the details of their session say.
    ///
    /// The default records nothing. It is called if [`keeps`](Self::keeps) says that uses are kept.
    ///
    /// # Errors
    ///
    /// If some of the uses may not have been recorded. The engine then hands them in again.
    async fn touch(&self, uses: &[SessionUse]) -> Result<(), StoreError> {
        let _ = uses;
        Ok(())
    }

    /// Tells the other nodes of a change that was not made through this store.
    ///
    /// The default does nothing: there are no other nodes to tell.
    ///
    /// # Errors
    ///
    /// If the other nodes may not have been told.
    async fn announce(&self, invalidation: &Invalidation) -> Result<(), StoreError> {
        let _ = invalidation;
        Ok(())
    }

    /// Checks that the store is fit for use, before the first request needs it.
    ///
    /// The default finds nothing to report.
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do.
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
