//! What a source asks its server. Each question owns the connection until it is answered, so that it
//! goes on when no call waits for it.

use sqlx::{Error, PgConnection};

use super::{
    changes::{self, Position, Probe, Reading},
    connector::Connector,
    server::IS_REPLICA,
};
use crate::store::{
    error::{ContextError, StoreError},
    reconnect::Question,
    sql::{error::store_error, schema_name::SchemaName},
};

/// The place at which pruning begins.
#[derive(Clone, Copy)]
pub(super) enum PruneFrom {
    /// The beginning, if this is the reader whose turn it is: a reader that was lost may have left
    /// something there.
    Beginning,
    /// The place where the reader before has begun, if this is the one whose turn it is.
    Mark,
    /// This transaction.
    Xid(u64),
}

/// Writes a probe, and reads. Returns no reading if a trigger is missing.
pub(super) async fn read(
    mut connection: PgConnection,
    schema: SchemaName,
    probe: Option<Probe>,
    position: Option<Position>,
) -> Result<(PgConnection, Option<Reading>), Error> {
    if let Some(probe) = probe
        && !probe.write(&mut connection, &schema).await?
    {
        return Ok((connection, None));
    }
    let reading = Reading::new(&mut connection, &schema, position.as_ref()).await?;
    reading.repair(&mut connection, &schema).await?;
    Ok((connection, Some(reading)))
}

/// Returns where to go on. If the database refuses, another reader may do it, or a purge.
pub(super) async fn prune(
    mut connection: PgConnection,
    schema: SchemaName,
    from: PruneFrom,
) -> Result<(PgConnection, Option<u64>), Error> {
    let pruning = async {
        match from {
            PruneFrom::Xid(xid) => changes::prune(&mut connection, &schema, xid).await,
            PruneFrom::Beginning | PruneFrom::Mark => {
                let Some(before) = changes::mark_prunable(&mut connection, &schema).await? else {
                    return Ok(None);
                };
                let from = match from {
                    PruneFrom::Beginning => 0,
                    _ => before,
                };
                changes::prune(&mut connection, &schema, from).await
            }
        }
    };
    match pruning.await {
        Ok(next) => Ok((connection, next)),
        // Or it has taken too long.
        Err(Error::Database(_)) => Ok((connection, None)),
        Err(error) => Err(error),
    }
}

/// Waits for an answer. Cancel-safe.
pub(super) async fn answer<T: 'static>(
    connector: &Connector,
    question: &mut Question<Result<T, Error>>,
) -> Result<T, StoreError> {
    let context = || format!("listening to {}", connector.place());
    match question.answer().await {
        Ok(Ok(answer)) => Ok(answer),
        // A replica has no unlogged tables.
        Ok(Err(Error::Database(error))) if error.code().as_deref() == Some("0A000") => {
            Err(StoreError::unavailable(IS_REPLICA))
        }
        Ok(Err(error)) => Err(store_error(context(), error)),
        Err(elapsed) => Err(StoreError::timeout(ContextError::new(context(), elapsed))),
    }
}
