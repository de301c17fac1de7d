//! Breaks one thing after the other, and mends it again.

use std::{sync::atomic::Ordering::Relaxed, thread, time::Duration};

use super::{cluster::Grip, load::World, record::Span};
use crate::rng::Dice;

/// In the fault's first words it is what happens to everybody, or to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The server's processes are killed, and started again a moment later.
    ServerKilled,
    /// The server stands still.
    ServerPaused,
    /// All connections of one node are cut.
    NodeCut,
    /// The connection that a node hears invalidations by is cut, and no new one is let through.
    InvalidationsCut,
    /// Nothing goes through a node's connections, not through new ones either.
    NodeFrozen,
    /// A node hears no invalidations, and nothing tells it so.
    InvalidationsFrozen,
    /// A node's connections are cut, and new ones refused.
    NodeRefused,
    /// A node's connections are slow.
    NodeSlow,
    /// The stores panic.
    StorePanics,
}

impl Fault {
    pub(crate) const ALL: &[Self] = &[
        Self::ServerKilled,
        Self::ServerPaused,
        Self::NodeCut,
        Self::InvalidationsCut,
        Self::NodeFrozen,
        Self::InvalidationsFrozen,
        Self::NodeRefused,
        Self::NodeSlow,
        Self::StorePanics,
    ];
}

/// How long everything takes to be as before, once a fault is over.
const RECOVERY: Duration = Duration::from_millis(1500);

/// Each fault is followed by so much time without, recovery not counted.
const QUIET: Duration = Duration::from_millis(1500);

/// Goes through the faults in an order that the dice choose, again and again, until the time is
/// up. What it says: which faults there were, and from when to when they were felt.
pub(crate) fn haunt(
    grip: &mut Grip,
    world: &World,
    faults: &[Fault],
    dice: &Dice,
    until: Duration,
) -> Vec<(Fault, Span)> {
    let mut felt = Vec::new();
    let mut deck = Vec::new();
    let cycle = QUIET + RECOVERY + Duration::from_secs(1);
    while !faults.is_empty() && world.now() + cycle < until {
        thread::sleep(QUIET);
        if deck.is_empty() {
            deck.extend_from_slice(faults);
        }
        let fault = deck.swap_remove(dice.roll(deck.len() as u64) as usize);
        let start = world.now();
        let length = Duration::from_millis(400 + dice.roll(800));
        strike(grip, fault, length, dice);
        let end = world.now() + RECOVERY;
        felt.push((fault, Span { start, end }));
        thread::sleep(RECOVERY);
    }
    thread::sleep(until.saturating_sub(world.now()));
    felt
}

fn strike(grip: &mut Grip, fault: Fault, length: Duration, dice: &Dice) {
    let (store, source) = &grip.networks[dice.roll(grip.networks.len() as u64) as usize];
    let both = [store, source];
    match fault {
        Fault::ServerKilled => {
            grip.server.kill();
            thread::sleep(length);
            grip.server.start();
        }
        Fault::ServerPaused => {
            grip.server.pause();
            thread::sleep(length);
            grip.server.resume();
        }
        Fault::NodeCut => both.into_iter().for_each(|network| network.cut()),
        Fault::InvalidationsCut => {
            source.refuse(true);
            source.cut();
            thread::sleep(length);
            source.refuse(false);
        }
        Fault::NodeFrozen => {
            both.into_iter()
                .for_each(|network| network.stand_still(true));
            thread::sleep(length);
            both.into_iter()
                .for_each(|network| network.stand_still(false));
        }
        Fault::InvalidationsFrozen => {
            source.freeze();
            // Now and then so long that the node finds out by itself.
            thread::sleep(length * (1 + 2 * dice.roll(2) as u32));
            source.cut();
        }
        Fault::NodeRefused => {
            for network in both {
                network.refuse(true);
                network.cut();
            }
            thread::sleep(length);
            both.into_iter().for_each(|network| network.refuse(false));
        }
        Fault::NodeSlow => {
            // Slower than the limit, or just noticeable.
            let delay = Duration::from_millis(10 + dice.roll(200));
            store.delay(delay);
            thread::sleep(length);
            store.delay(Duration::ZERO);
        }
        Fault::StorePanics => {
            for store in &grip.stores {
                store.panics.store(true, Relaxed);
            }
            thread::sleep(length);
            for store in &grip.stores {
                store.panics.store(false, Relaxed);
            }
        }
    }
}
