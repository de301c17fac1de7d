//! One-time links, which are exchanged for a session.

use std::time::Duration;

use super::{CustomerSessions, NewSession, changes::into_store_error, issuing::keeps_no_details};
use crate::{
    customer::Customer,
    session::CustomerSession,
    store::{SessionRegistry, StoreError},
    token::{self, SessionToken},
};

/// Methods for one-time links, which need a store that keeps sessions with their details. Once
/// the store has been asked for the change, they finish even if their future is dropped.
impl<S: SessionRegistry> CustomerSessions<S> {
    /// Makes a one-time link for a customer, such as for an e-mail: its token opens nothing by itself,
    /// and can be [exchanged](Self::exchange) for a session once, within `ttl` from now.
    ///
    /// The token begins with `cst_link_`. Put it into a URL of yours. A GET of that URL shows a page with
    /// a button, and the POST of the button exchanges the token: programs that check mails follow links,
    /// and would use it up.
    ///
    /// [`revoke`](Self::revoke) of the link's id ends it, and the session that it was exchanged for.
    /// [`list`](Self::list) does not show it.
    ///
    /// A link does not count as one of the customer's sessions for [`at_most`](NewSession::at_most).
    /// Anyone may be able to ask for a link to a customer's address: let few be made for one customer in
    /// an hour, since each is an e-mail and a record.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use customer_session::{CustomerData, CustomerSessions, NewSession, store::MemoryStore};
    ///
    /// # const MINUTE: Duration = Duration::from_secs(60);
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = CustomerSessions::builder(MemoryStore::new()).build();
    /// let link = sessions.link(CustomerData::new("cus_1", "org_1"), 15 * MINUTE).await?;
    /// assert!(sessions.authenticate(&link.token).await.is_err());
    ///
    /// let session = sessions.exchange(&link.token, NewSession::new(60 * MINUTE)).await?;
    /// let session = session.expect("it was not used before");
    /// assert!(sessions.authenticate(&session.token).await.is_ok());
    /// assert!(sessions.exchange(&link.token, NewSession::new(60 * MINUTE)).await?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`issue`](Self::issue), and [`Invalid`](crate::StoreErrorKind::Invalid) if the store
    /// does not [keep](SessionRegistry::keeps) details.
    #[doc(alias = "magic_link")]
    pub async fn link(
        &self,
        customer: impl Into<Customer>,
        ttl: Duration,
    ) -> Result<CustomerSession, StoreError> {
        if !self.store.keeps().details {
            return Err(keeps_no_details());
        }
        let new = NewSession::new(ttl);
        let token = token::generate_link().map_err(StoreError::unavailable)?;
        let mut link = self.opened_session(customer.into(), token, &new)?;
        link.details.is_link = true;
        // The customer has not proved anything yet.
        link.details.authenticated_at = None;
        self.insert(link, None).await
    }

    /// Exchanges the token of a one-time [link](Self::link) for a session. Of any number of calls for one
    /// link, one gets a session. `None` means that the token is not that of a link, or that the link has
    /// expired, was revoked, or was exchanged before.
    ///
    /// The session is one that `new` describes, as if the customer had signed in; the link's own `ttl`
    /// does not limit it. A limit ([`at_most`](NewSession::at_most)) holds as at a sign-in; if it refuses
    /// the session, the link stays unused.
    ///
    /// # Errors
    ///
    /// Those of [`issue_with`](Self::issue_with). If the outcome is unknown, the link may have been used
    /// up.
    pub async fn exchange(
        &self,
        link: &SessionToken,
        new: NewSession,
    ) -> Result<Option<CustomerSession>, StoreError> {
        if !token::is_link(link) {
            return Ok(None);
        }
        let found = self.engine.find(link).await.map_err(into_store_error)?;
        let now = self.present();
        let is_usable = |found: &CustomerSession| {
            found.details.is_link && found.token == *link && found.may_be_exchanged_at(now)
        };
        let Some(found) = found.filter(is_usable) else {
            return Ok(None);
        };
        let session = self.opened_session(found.customer, self.new_token()?, &new)?;
        self.replace(found.id, session, new.limit).await
    }
}
