//! What a session carries beyond its identity and its times.

/// Details of a session. There are none yet.
///
/// They are not part of the JSON of a [`CustomerSession`](crate::CustomerSession), which has
/// exactly the fields of the API object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SessionDetails {}
