//! A check of the settings, by one call to Polar.

use serde::Deserialize;

use super::PolarStore;
use crate::{
    customer::OrganizationId,
    polar::{client::Call, rate_limit::Caller},
    store::error::{ContextError, StoreError},
};

/// Attempted operation, for errors.
const CONTEXT: &str = "checking the access to Polar";

/// A page of customers (`GET /v1/customers/`).
#[derive(Deserialize)]
struct CustomerPage {
    items: Vec<ListedCustomer>,
}

#[derive(Deserialize)]
struct ListedCustomer {
    organization_id: OrganizationId,
}

impl PolarStore {
    /// Checks the access token, its scope `customers:read`, the base URL, and the
    /// [`organization`](crate::polar::PolarStoreBuilder::organization) if one is set, by one call of the
    /// organization's. Call it when the service starts: without it the first lookup finds a mistake.
    ///
    /// The organization is that of any customer that the access token reads. If there is none yet, it is
    /// not compared.
    ///
    /// ```no_run
    /// use customer_session::polar::PolarStore;
    ///
    /// # async fn start(token: String) -> Result<(), Box<dyn std::error::Error>> {
    /// let store = PolarStore::builder(token).base_url(PolarStore::SANDBOX).build()?;
    /// store.check().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An error that says what is wrong, and what to do: 401 for a wrong access token, 403 for a missing
    /// scope, 404 for a wrong base URL, another organization. Polar may also be out of reach, or refuse
    /// calls for a while.
    pub async fn check(&self) -> Result<(), StoreError> {
        // Without the slash at the end Polar answers a redirect.
        let call = Call::get(CONTEXT, Caller::Organization);
        let call = call.at(["v1", "customers", ""]).query("limit=1");
        let page: CustomerPage = self.client.send(call, None).await?.read()?;
        let other = page
            .items
            .iter()
            .find(|customer| !self.is_of_organization(&customer.organization_id));
        let Some(other) = other else {
            return Ok(());
        };
        let text = format!(
            "the access token reads customers of the organization {}, which is not the one that was \
             set: create the access token in the settings of the right organization, or correct \
             `organization`",
            other.organization_id
        );
        Err(StoreError::unavailable(ContextError::new(CONTEXT, text)))
    }
}
