//! The names of the stacks that targets, plots and tables refer to.

pub const BARE: &str = "bare service";
pub const FLOOR: &str = "floor: one `Arc` extension";
/// Ours where not all requests are hits.
pub const CUSTOMER_SESSION: &str = "ours";
pub const OURS: &str = "ours: hit";
pub const OURS_WITH_SCOPE: &str = "ours: hit, a scope required";
pub const OURS_AMONG_MANY: &str = "ours: hit, a million cached";
pub const PLAIN_MAP: &str = "plain sharded map";
pub const QUICK_SERVICE: &str = "quick_cache, own Tower service (cannot revoke)";
pub const QUICK_FROM_FN: &str = "quick_cache with `from_fn`";
pub const MOKA_SYNC: &str = "`moka::sync` + ahash with `from_fn`";
pub const NO_LAYER: &str = "no layer";
pub const BY_HAND: &str = "hand-written `from_fn` + moka";
pub const AXUM_LOGIN: &str = "axum-login";
pub const HS256: &str = "jwt-authorizer HS256";
