//! The cost of a hit as the cache grows, cold and warm, and as a customer's metadata does.
//!
//! Cold: the first requests after loading, as many as there are sessions. In uniform order each is
//! the first hit of its session. In Zipf order the busy sessions come again within the pass.
//! Warm: after each session has been hit twice.
//!
//! `SIZES=1000,100000` chooses the numbers of sessions. A million of them take 8 GB.

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use customer_session_benches::{
    full_or_quick,
    measure::{
        orders,
        rounds::{Plan, first_pass, measure},
    },
    results::{Growth, Growths, Measured, ratio_of, save},
    scene::Scene,
    stacks::{
        ByHand, Contender, Ours, PlainMap, Quick, SyncCache, in_turn,
        names::{BY_HAND, OURS, PLAIN_MAP, QUICK_SERVICE},
    },
};

/// The caches that are compared. There are as many at each size: they share the processor's last
/// cache, and more of them would make all slower.
struct Caches {
    ours: Ours,
    map: PlainMap,
    quick: SyncCache<Quick>,
    by_hand: ByHand,
}

const CONTENDERS: usize = 4;

impl Caches {
    /// Loads all. The last to be loaded is the one that the processor still has in its caches, so
    /// that `first` should differ from load to load.
    fn load(scene: &Scene, first: usize) -> Self {
        let (mut ours, mut map, mut quick, mut by_hand) = (None, None, None, None);
        for turn in 0..CONTENDERS {
            match (first + turn) % CONTENDERS {
                0 => ours = Some(Ours::new(scene)),
                1 => map = Some(PlainMap::new(scene)),
                2 => quick = Some(SyncCache::new(scene)),
                _ => by_hand = Some(ByHand::new(scene)),
            }
        }
        Self {
            ours: ours.expect("loaded"),
            map: map.expect("loaded"),
            quick: quick.expect("loaded"),
            by_hand: by_hand.expect("loaded"),
        }
    }

    fn contenders(&self, scene: &Scene, order: &Arc<[u32]>) -> [Contender; CONTENDERS] {
        let headers = || in_turn(&scene.tokens, order);
        [
            self.ours.hit(OURS, headers()),
            self.map.hit(headers()),
            self.quick.service_hit(headers()),
            self.by_hand.hit(BY_HAND, headers()),
        ]
    }
}

fn main() -> std::io::Result<()> {
    let begun = Instant::now();
    let plan = Plan {
        rounds: full_or_quick(200, 10),
        batch: Duration::from_micros(full_or_quick(3000, 500)),
        singles: 0,
    };
    println!(
        "{:>10} {:<8} {:<5} {:>6} {:>6} {:>6} {:>8} {:>7} {:>8} {:>9}",
        "sessions", "order", "", "ours", "map", "quick", "by hand", "x map", "x quick", "x by hand"
    );
    let mut growths = Vec::new();
    for sessions in sizes() {
        of_size(sessions, &plan, &mut growths);
    }
    let metadata = metadata(&plan);
    for stack in &metadata {
        println!("{:<28} {:>8.0} ns", stack.name, stack.ns());
    }
    println!("took {} s", begun.elapsed().as_secs());
    save("growth", &Growths { growths, metadata })
}

fn sizes() -> Vec<usize> {
    match env::var("SIZES") {
        Ok(sizes) => sizes
            .split(',')
            .map(|size| size.trim().parse().expect("SIZES are numbers"))
            .collect(),
        Err(_) => full_or_quick(&[1000, 10_000, 100_000, 1_000_000][..], &[1000, 10_000]).into(),
    }
}

fn of_size(sessions: usize, plan: &Plan, growths: &mut Vec<Growth>) {
    let scene = Scene::new(sessions);
    // Long enough for the busiest not to come round in the same order too soon.
    let zipf = orders::zipf(sessions, full_or_quick(1_000_000, 20_000));
    let orders = [("uniform", orders::uniform(sessions)), ("Zipf", zipf)];
    let mut add = |order: &str, warmth: &str, stacks| {
        let growth = Growth {
            sessions,
            order: order.to_owned(),
            warmth: warmth.to_owned(),
            stacks,
        };
        print(&growth);
        growths.push(growth);
    };
    // A pass through few sessions is short: repeated with fresh caches.
    let loads = full_or_quick((500_000 / sessions).clamp(1, 100), 1);
    for (name, order) in &orders {
        let mut times = vec![Vec::new(); CONTENDERS];
        let mut names = Vec::new();
        for load in 0..loads {
            let caches = Caches::load(&scene, load);
            let mut contenders = caches.contenders(&scene, order);
            let pass = first_pass(&mut contenders, sessions, load);
            for (all, times) in times.iter_mut().zip(pass) {
                all.extend(times);
            }
            names = contenders.map(|contender| contender.name).into();
            assert_no_misses(&caches, sessions);
        }
        let stacks = names.into_iter().zip(times);
        let stacks = stacks.map(|(name, times)| Measured::of_times(name, times));
        add(name, "cold", stacks.collect());
    }
    let caches = Caches::load(&scene, 0);
    for _ in 0..2 {
        first_pass(&mut caches.contenders(&scene, &orders[0].1), sessions, 0);
    }
    for (name, order) in &orders {
        let stacks = measure(&mut caches.contenders(&scene, order), plan);
        add(name, "warm", stacks);
    }
    assert_no_misses(&caches, sessions);
}

/// Panics unless every request was a hit: each session was looked up when it was loaded, and so was
/// one token that is unknown.
fn assert_no_misses(caches: &Caches, sessions: usize) {
    assert_eq!(caches.ours.lookups(), sessions as u64 + 1);
}

fn print(growth: &Growth) {
    let ns: Vec<_> = growth.stacks.iter().map(Measured::ns).collect();
    let over = |name| ratio_of(&growth.stacks, OURS, name).unwrap_or(f64::NAN);
    println!(
        "{:>10} {:<8} {:<5} {:>6.0} {:>6.0} {:>6.0} {:>8.0} {:>7.2} {:>8.2} {:>9.2}",
        growth.sessions,
        growth.order,
        growth.warmth,
        ns[0],
        ns[1],
        ns[2],
        ns[3],
        over(PLAIN_MAP),
        over(QUICK_SERVICE),
        over(BY_HAND)
    );
}

fn metadata(plan: &Plan) -> Vec<Measured> {
    let contender = |entries: usize| -> Contender {
        let scene = Scene::with_metadata(1000, entries);
        Ours::new(&scene).one_hit(&format!("{entries} entries of metadata"), &scene)
    };
    measure(&mut [contender(0), contender(50)], plan)
}
