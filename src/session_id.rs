//! The identifier of a session, which its details may name another one by.

use crate::customer::string_id;

string_id! {
    /// Identifier of a session. It is not a secret: it revokes a session but does not open one.
    SessionId
}
