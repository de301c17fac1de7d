//! An open connection, of whichever kind.

use std::sync::Arc;

use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};

/// A connection whose clones share it.
#[derive(Clone)]
pub(super) enum Link {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
    /// One that the application has opened.
    Given(Arc<dyn GivenConnection>),
}

/// A connection that the application has opened.
pub(super) trait GivenConnection: Send + Sync {
    /// Returns a clone that shares the connection.
    fn boxed(&self) -> Box<dyn ConnectionLike + Send>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> GivenConnection for C {
    fn boxed(&self) -> Box<dyn ConnectionLike + Send> {
        Box::new(self.clone())
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => match is_about_node(command) {
                true => {
                    let routing = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
                    Box::pin(connection.route_command(command.clone(), routing))
                }
                false => connection.req_packed_command(command),
            },
            Self::Given(connection) => {
                let mut connection = connection.boxed();
                Box::pin(async move { connection.req_packed_command(command).await })
            }
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Given(connection) => {
                let mut connection = connection.boxed();
                Box::pin(async move {
                    connection
                        .req_packed_commands(pipeline, offset, count)
                        .await
                })
            }
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
            Self::Given(connection) => connection.boxed().get_db(),
        }
    }
}

/// Returns `true` for a command that any node may answer. The driver asks all of them, and one that is down
/// would fail it.
fn is_about_node(command: &Cmd) -> bool {
    let name = command.args_iter().next();
    matches!(name, Some(redis::Arg::Simple(name)) if matches!(name, b"INFO" | b"TIME" | b"CLUSTER"))
}
