//! Sessions that several machines share, in PostgreSQL or Redis.

use std::{error::Error, time::Duration};

use customer_session::{
    CustomerSessions, DynCustomerSessions, InvalidationSource, SessionRegistry,
    store::{PostgresStore, RedisInvalidations, RedisStore},
};

#[path = "peppers.rs"]
mod peppers;

use peppers::peppers;

/// Opens the store at `url`, and starts what a machine that shares it must do in the background.
pub(crate) async fn open(url: &str) -> Result<DynCustomerSessions, Box<dyn Error>> {
    match url.split(':').next() {
        Some("postgres" | "postgresql") => {
            let store = PostgresStore::connect(url, peppers()).await?;
            store.migrate().await?;
            let source = store.invalidations().await?;
            Ok(start(store, source))
        }
        Some("redis" | "rediss") => {
            let store = RedisStore::connect(url, peppers()).await?;
            Ok(start(store, RedisInvalidations::connect(url).await?))
        }
        _ => Err("set STORE to postgres://user:password@host/database or redis://host".into()),
    }
}

fn start(
    store: impl SessionRegistry,
    source: impl InvalidationSource + 'static,
) -> DynCustomerSessions {
    let sessions = CustomerSessions::builder(store).build().into_dyn();
    // Without this, a session that another machine revokes stays in the cache for a minute.
    tokio::spawn(sessions.listen(source));
    tokio::spawn(sessions.purge(Duration::from_secs(600)));
    sessions
}
