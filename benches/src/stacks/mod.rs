//! The stacks that are compared. Each wraps the same trivial service, answers the same requests,
//! and hands the service an identity that it reads.

mod axum_login;
mod bare;
mod by_hand;
mod contender;
mod floor;
mod jwt;
pub mod names;
mod ours;
mod own_service;
mod plain_map;
mod service;
mod sync_cache;
mod tower_http;
mod tower_sessions;

use self::names::{MOKA_SYNC, OURS, OURS_AMONG_MANY, QUICK_FROM_FN};
use crate::scene::{Scene, with_bearer};

pub use self::{
    axum_login::AxumLogin,
    bare::Bare,
    by_hand::ByHand,
    contender::{Contender, Headers, Stack, always, in_turn},
    floor::Floor,
    jwt::Jwt,
    ours::{Ours, stack_of},
    plain_map::PlainMap,
    sync_cache::{Moka, Quick, SyncCache},
    tower_http::TowerHttp,
    tower_sessions::TowerSessions,
};

/// Returns every stack with the sessions of `scene`, and ours with those of `many` as well.
pub fn every_stack(scene: &Scene, many: &Scene) -> Vec<Contender> {
    let ours = Ours::new(scene);
    let by_hand = ByHand::new(scene);
    let quick = SyncCache::<Quick>::new(scene);
    let moka = SyncCache::<Moka>::new(scene);
    let hot = || always(with_bearer(scene.hot().expose()));
    let mut all = vec![
        Bare::hit(scene),
        Floor::hit(scene),
        ours.one_hit(OURS, scene),
        ours.scope_hit(scene),
        Ours::new(many).one_hit(OURS_AMONG_MANY, many),
    ];
    all.extend(ours.refusals(scene));
    all.extend([
        PlainMap::new(scene).one_hit(scene),
        quick.service_hit(hot()),
        quick.hit(QUICK_FROM_FN, hot()),
        moka.hit(MOKA_SYNC, hot()),
        TowerHttp::hit(&by_hand, scene),
        by_hand.one_hit(scene),
        TowerSessions::hit(scene),
        AxumLogin::new(scene).hit(),
        Jwt::hs256(scene),
        Jwt::ed25519(scene),
    ]);
    all
}
