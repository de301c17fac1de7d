//! Sessions that several machines share, in PostgreSQL or Redis.

use std::{error::Error, time::Duration};

use customer_session::{
    ConfigError, CustomerSessions, DynCustomerSessions, InvalidationSource, SessionRegistry,
    store::{PostgresStore, RedisInvalidations, RedisStore},
};

#[path = "peppers.rs"]
mod peppers;

use peppers::peppers;

/// A session that is not used for so long ends.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Opens the store at `url`, and starts what a machine that shares it must do in the background.
pub(crate) async fn open(url: &str) -> Result<DynCustomerSessions, Box<dyn Error>> {
    match url.split(':').next() {
        Some("postgres" | "postgresql") => {
            let store = PostgresStore::connect(url, peppers()).await?;
            store.migrate().await?;
            let source = store.invalidations().await?;
            Ok(start(store, source)?)
        }
        Some("redis" | "rediss") => {
            let store = RedisStore::connect(url, peppers()).await?;
            Ok(start(store, RedisInvalidations::connect(url).await?)?)
        }
        _ => Err("set STORE to postgres://user:password@host/database or redis://host".into()),
    }
}

fn start(
    store: impl SessionRegistry,
    source: impl InvalidationSource + 'static,
) -> Result<DynCustomerSessions, ConfigError> {
    let sessions = CustomerSessions::builder(store).idle_timeout(WEEK)?;
    let sessions = sessions.build().into_dyn();
    // Without this, a session that another machine revokes stays in the cache for a minute.
    tokio::spawn(sessions.listen(source));
    tokio::spawn(sessions.purge(Duration::from_secs(600)));
    Ok(sessions)
}
