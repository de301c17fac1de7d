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
mod plain_map;
mod service;
mod tower_http;
mod tower_sessions;

use self::names::{OURS, OURS_AMONG_MANY};
use crate::scene::Scene;

pub use self::{
    axum_login::AxumLogin,
    bare::Bare,
    by_hand::ByHand,
    contender::{Contender, Stack, always, in_turn},
    floor::Floor,
    jwt::Jwt,
    ours::Ours,
    plain_map::PlainMap,
    tower_http::TowerHttp,
    tower_sessions::TowerSessions,
};

/// Returns every stack with the sessions of `scene`, and ours with those of `many` as well.
pub fn every_stack(scene: &Scene, many: &Scene) -> Vec<Contender> {
    let ours = Ours::new(scene);
    let by_hand = ByHand::new(scene);
    let mut all = vec![
        Bare::hit(scene),
        Floor::hit(scene),
        ours.one_hit(OURS, scene),
        Ours::new(many).one_hit(OURS_AMONG_MANY, many),
    ];
    all.extend(ours.refusals(scene));
    all.extend([
        TowerHttp::hit(&by_hand, scene),
        by_hand.one_hit(scene),
        TowerSessions::hit(scene),
        AxumLogin::new(scene).hit(),
        Jwt::hs256(scene),
        Jwt::ed25519(scene),
    ]);
    all
}
