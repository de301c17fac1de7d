//! The contract of a store as one call.

mod customers;
mod derivation;
mod details;
mod families;
mod harness;
mod identifiers;
mod insertion;
mod limits;
mod lookups;
mod overlap;
mod replacement;
mod report;
mod revocation;
mod uses;

use std::sync::Arc;

use self::harness::Harness;
pub use self::{lookups::LookupTokens, report::Conformance};
use crate::{
    store::{SessionRegistry, SessionStore, StoreError},
    token::SessionToken,
};

/// Checks the contract of [`SessionStore`] and [`SessionRegistry`] against a store, and returns the
/// result of each rule.
///
/// The store may hold other sessions: the checks use identifiers and tokens of their own, made
/// at random, and remove what they have added. Only the rules about purging and about the time of
/// creation count what they find in the first days of 1970, so nothing else should be that old.
/// [`Revocation::All`](crate::Revocation::All) is not checked, since it would end the others.
///
/// The rules about [derived](SessionRegistry::derive) sessions are checked if the registry derives
/// sessions, and those about [overlaps](SessionRegistry::replace_overlapping) if it keeps replaced ones. The
/// rules about [details](crate::SessionDetails) and about [uses](SessionRegistry::touch) are checked
/// if the registry says that it [keeps](SessionRegistry::keeps) them.
///
/// For a store that cannot insert sessions there is [`conformance_of_lookups`].
///
/// ```
/// use customer_session::{store::MemoryStore, testing::conformance};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// conformance(MemoryStore::new()).await.assert_passed();
/// # }
/// ```
pub async fn conformance<S: SessionRegistry>(store: S) -> Conformance {
    let harness = Harness {
        store: Arc::new(store),
    };
    let mut report = Conformance::default();
    harness.check_insertion(&mut report).await;
    harness.check_revocation(&mut report).await;
    harness.check_replacement(&mut report).await;
    harness.check_families(&mut report).await;
    harness.check_limits(&mut report).await;
    harness.check_derivation(&mut report).await;
    harness.check_overlap(&mut report).await;
    harness.check_details(&mut report).await;
    harness.check_uses(&mut report).await;
    harness.check_identifiers(&mut report).await;
    harness.check_customers(&mut report).await;
    report
}

/// Checks the contract of [`SessionStore`] against a store that only looks sessions up, such as one
/// over a table that another program fills, and returns the result of each rule.
///
/// The sessions are yours: `tokens` says which tokens open one and which do not, and `revoke` ends
/// the session of a token in the way in which it ends in production. It is called once, with
/// the last of the live tokens. Nothing else is written, and no identifiers are made up.
///
/// ```
/// use customer_session::{
///     CustomerData, CustomerSession, SessionRegistry, Revocation, SessionStore, SessionToken,
///     store::MemoryStore, testing::{LookupTokens, conformance_of_lookups},
/// };
/// # use chrono::{TimeDelta, Utc};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = MemoryStore::new();
/// # let mut tokens = Vec::new();
/// # for hours in [1, 1, -1] {
/// #     let token = store.token_format().generate();
/// #     let customer = CustomerData::new(format!("cus_{}", tokens.len()), "org_1");
/// #     let end = Utc::now() + TimeDelta::hours(hours);
/// #     let id = format!("ses_{}", tokens.len());
/// #     store.insert(&CustomerSession::new(id, token.clone(), customer, end), None).await?;
/// #     tokens.push(token);
/// # }
/// # let [jane, john, expired] = <[SessionToken; 3]>::try_from(tokens).expect("three");
/// // Tokens of a test database.
/// let tokens = LookupTokens::live([jane, john]).expired([expired]);
/// let report = conformance_of_lookups(store.clone(), tokens, async |token: SessionToken| {
///     // For example: DELETE FROM sessions WHERE token_hash = ...
///     let session = store.find(&token).await?.expect("it is live");
///     store.revoke(&Revocation::Session(session.id)).await?;
///     Ok(())
/// });
/// report.await.assert_passed();
/// # Ok(())
/// # }
/// ```
pub async fn conformance_of_lookups<S: SessionStore>(
    store: S,
    tokens: LookupTokens,
    revoke: impl AsyncFnOnce(SessionToken) -> Result<(), StoreError>,
) -> Conformance {
    let mut report = Conformance::default();
    lookups::check(&store, &tokens, revoke, &mut report).await;
    report
}
