//! The names of the stacks that targets, plots and tables refer to.

pub const BARE: &str = "bare service";
pub const FLOOR: &str = "floor: one `Arc` extension";
pub const OURS: &str = "ours: hit";
pub const OURS_AMONG_MANY: &str = "ours: hit, a million cached";
pub const PLAIN_MAP: &str = "plain sharded map";
pub const BY_HAND: &str = "hand-written `from_fn` + moka";
pub const AXUM_LOGIN: &str = "axum-login";
pub const HS256: &str = "jwt-authorizer HS256";
