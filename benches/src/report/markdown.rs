//! The tables.

use std::fmt::Write as _;

use super::{
    format::{table, thousands},
    machine,
    targets::{Bound, targets as all_targets},
};
use crate::{
    results::{Results, find},
    stacks::names::{BARE, BY_HAND, OURS, PLAIN_MAP},
    statistics::{median, ratio},
};

/// Returns the page of the report.
pub fn report(results: &Results) -> String {
    let mut text = "# What it costs\n\nMeasured by `benches/run`, which writes this page; what \
        it printed is in [run.log](run.log). Everything that is compared ran in turn, in the same \
        rounds: figures are medians over the rounds, ratios are medians of each round's ratio. \
        Take the ratios from here to your machine, not the nanoseconds.\n\n"
        .to_owned();
    table(&mut text, &["", ""], "|---|---|", |rows| {
        for (name, value) in machine::describe() {
            rows.push(vec![name.to_owned(), value]);
        }
    });
    text += "\n## Targets\n\n";
    text += &targets(results);
    text += "\n## One request\n\n![Nanoseconds of a request with each stack](cost.svg)\n\n";
    compared(results, &mut text);
    text += "\nThe same trivial service under each stack, 1,000 sessions loaded (\"a million\": \
        1,000,000), one of them asked for again and again; the service reads who is asking from \
        the request's extensions. Percentiles are those of single calls, less what reading the \
        clock takes (the median of 100,000 empty measurements). \"Garbage\" is a live token with \
        one character changed. \"Floor\" is what any layer costs that hands over an identity: one \
        `Arc` put into the extensions, and read. Allocations are counted in a run of their own.\n";
    text += "\n## Growth\n\n![Nanoseconds of a hit as the cache grows](growth.svg)\n\n";
    growth(results, &mut text);
    text += "\nMany sessions asked for, each as often (\"uniform\": all of them in random order, \
        over and over) or the nth busiest in proportion to 1/n (\"Zipf\"). The plain map is 64 \
        `RwLock<HashMap>` below the smallest middleware; it cannot revoke and forgets nothing.\n\n";
    metadata(results, &mut text);
    text += "\n## Memory\n\n";
    memory(results, &mut text);
    text += "\nLive bytes as the allocator was asked for them. The session is a customer with a \
        name, an e-mail address and two entries of metadata.\n";
    text += "\n## Threads\n\n";
    threads(results, &mut text);
    text += "\nOne cache, a hot session for each thread. The floor shares nothing but one `Arc`.\n";
    text += "\n## A whole server\n\n![Requests a second of a server](server.svg)\n\n";
    servers(results, &mut text);
    text += "\naxum on the loopback with one worker on one core, 32 connections from the other \
        core. \"Core\" is the processor time a request takes, the kernel's part included. \
        Rounds in which the load did not keep the server at work are left out, unless there are \
        no others.\n";
    text
}

/// Returns the targets and whether they were met.
pub fn targets(results: &Results) -> String {
    let mut text = String::new();
    let head = ["target", "limit", "measured", "met"];
    table(&mut text, &head, "|---|---:|---:|---|", |rows| {
        for target in all_targets(results) {
            let sign = if target.bound == Bound::AtMost {
                "≤"
            } else {
                "≥"
            };
            let met = if target.is_met() { "yes" } else { "**no**" };
            let measured = format!("{:.*} {}", target.digits, target.measured, target.unit);
            let limit = format!("{sign} {} {}", target.limit, target.unit);
            rows.push(vec![
                target.what,
                limit.trim().to_owned(),
                measured.trim().to_owned(),
                met.to_owned(),
            ]);
        }
    });
    text
}

fn compared(results: &Results, text: &mut String) {
    let (Some(bare), Some(ours)) = (results.compared(BARE), results.compared(OURS)) else {
        return;
    };
    let head = [
        "stack",
        "ns",
        "x bare",
        "a hit of ours is",
        "allocations",
        "p50",
        "p99",
        "p99.9",
    ];
    table(
        text,
        &head,
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        |rows| {
            for stack in &results.compared {
                let mut row = vec![
                    stack.name.clone(),
                    format!("{:.0}", stack.ns()),
                    format!("{:.1}", ratio(&stack.times, &bare.times)),
                    format!("{:.3} x", ratio(&ours.times, &stack.times)),
                ];
                let counts = &results.counts.allocations;
                let count = counts.iter().find(|count| count.name == stack.name);
                row.push(count.map_or("?".to_owned(), |count| format!("{:.1}", count.mean)));
                row.extend(stack.percentiles.map(|at| match at {
                    Some(at) => format!("{at:.0}"),
                    None => "?".to_owned(),
                }));
                rows.push(row);
            }
        },
    );
}

fn growth(results: &Results, text: &mut String) {
    let head = [
        "cached",
        "asked for",
        "ours, ns",
        "plain map, ns",
        "x plain map",
        "hand-written, ns",
        "x hand-written",
    ];
    table(text, &head, "|---:|---|---:|---:|---:|---:|---:|", |rows| {
        for growth in &results.growths.growths {
            let [ours, map, by_hand] =
                [OURS, PLAIN_MAP, BY_HAND].map(|name| find(&growth.stacks, name));
            let (Some(ours), Some(map), Some(by_hand)) = (ours, map, by_hand) else {
                continue;
            };
            rows.push(vec![
                thousands(growth.sessions),
                format!("{}, {}", growth.order, growth.warmth),
                format!("{:.0}", ours.ns()),
                format!("{:.0}", map.ns()),
                format!("{:.2}", ratio(&ours.times, &map.times)),
                format!("{:.0}", by_hand.ns()),
                format!("{:.2}", ratio(&ours.times, &by_hand.times)),
            ]);
        }
    });
}

fn metadata(results: &Results, text: &mut String) {
    if let [none, many] = &results.growths.metadata[..] {
        let _ = writeln!(
            text,
            "A hit for a customer with no metadata takes {:.0} ns, for one with 50 entries \
             {:.0} ns: {:.3} x.",
            none.ns(),
            many.ns(),
            ratio(&many.times, &none.times)
        );
    }
}

fn memory(results: &Results, text: &mut String) {
    let head = [
        "cache",
        "cached",
        "bytes each",
        "the session itself",
        "beyond it",
    ];
    table(text, &head, "|---|---:|---:|---:|---:|", |rows| {
        for cache in &results.counts.memory {
            rows.push(vec![
                cache.name.clone(),
                thousands(cache.sessions),
                format!("{:.0}", cache.total),
                format!("{:.0}", cache.payload),
                format!("{:.0}", cache.total - cache.payload),
            ]);
        }
    });
}

fn threads(results: &Results, text: &mut String) {
    let head = ["stack", "one thread, requests/s", "two", "ratio"];
    table(text, &head, "|---|---:|---:|---:|", |rows| {
        for stack in &results.threads {
            let millions = |rates: &[f64]| format!("{:.2} M", median(rates) / 1e6);
            rows.push(vec![
                stack.name.clone(),
                millions(&stack.one),
                millions(&stack.two),
                format!("{:.2}", ratio(&stack.two, &stack.one)),
            ]);
        }
    });
    if results.threads.iter().any(|stack| !stack.pinned) {
        *text += "\nThe threads could not be kept to a core each.\n";
    }
}

fn servers(results: &Results, text: &mut String) {
    let Some(none) = results.servers.first() else {
        return;
    };
    let head = [
        "server",
        "requests/s",
        "x no layer",
        "core, µs",
        "x no layer",
        "rounds",
    ];
    table(text, &head, "|---|---:|---:|---:|---:|---:|", |rows| {
        for server in &results.servers {
            rows.push(vec![
                server.name.clone(),
                format!("{:.0}", server.median_of(|server| &server.rates)),
                format!("{:.3}", server.ratio_to(none, |server| &server.rates)),
                format!("{:.2}", server.median_of(|server| &server.work)),
                format!("{:.3}", server.ratio_to(none, |server| &server.work)),
                format!("{} of {}", server.rounds_at_work(), server.rates.len()),
            ]);
        }
    });
}
