//! Answers many requests of one kind. `benches/instructions` counts what the processor does in
//! `measured`.

use std::hint::black_box;

use axum::extract::Request;
use customer_session_benches::{
    scene::{Scene, request},
    stacks::{
        Floor, Ours, Stack,
        names::{FLOOR, OURS, OURS_WITH_SCOPE},
    },
};

/// Calls that are counted: enough for work that is done now and then to have its share.
const CALLS: usize = 3200;

fn main() {
    let wanted = std::env::args().nth(1).expect("the name of a stack");
    let scene = Scene::new(100);
    let ours = Ours::new(&scene);
    let mut stacks = vec![
        Floor::hit(&scene),
        ours.one_hit(OURS, &scene),
        ours.scope_hit(&scene),
    ];
    stacks.extend(ours.refusals(&scene));
    let mut stacks = stacks.into_iter();
    let Some(mut chosen) = stacks.find(|stack| stack.name == wanted) else {
        panic!(
            "there is no {wanted:?}, but {FLOOR:?}, {OURS:?}, {OURS_WITH_SCOPE:?} and its refusals"
        );
    };
    // The first calls fill the caches.
    for _ in 0..CALLS {
        chosen.stack.answer_one(request((chosen.headers)()));
    }
    for _ in 0..CALLS {
        let request = request((chosen.headers)());
        measured(&mut *chosen.stack, request);
    }
    println!("calls: {CALLS}");
}

#[inline(never)]
fn measured(stack: &mut dyn Stack, request: Request) {
    stack.answer_one(black_box(request));
}
