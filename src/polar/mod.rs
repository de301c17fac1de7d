//! The customer sessions that Polar issues: [`PolarStore`], sessions that it opens, and Polar's
//! webhooks.

mod answer;
mod client;
mod json;
mod rate_limit;
mod store;
mod webhooks;

pub use self::{
    store::{
        PolarStore,
        builder::PolarStoreBuilder,
        create_session::{
            CreateError, CreatedSession, CustomerRef, FieldError, PortalUrl, SessionOptions,
        },
    },
    webhooks::{
        Webhooks,
        error::WebhookError,
        event::{Event, EventKind},
        service::{PolarInvalidations, WebhookService},
    },
};
