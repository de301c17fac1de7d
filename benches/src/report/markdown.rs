//! The tables.

use std::fmt::Write as _;

use super::{
    format::{table, thousands},
    machine,
    prose::{
        GROWTH, INTRODUCTION, MEMORY, NOT_MEASURED, ONE_REQUEST, SERVERS, STORMS, THREADS, UNCACHED,
    },
    targets::{Bound, targets as all_targets},
};
use crate::{
    results::{Measured, Results, Served, find, ratio_of},
    stacks::names::{
        BARE, BY_HAND, CUSTOMER_SESSION, FLOOR, NO_LAYER, OURS, PLAIN_MAP, QUICK_SERVICE,
    },
    statistics::{median, ratio},
};

/// Returns the page of the report.
pub fn report(results: &Results) -> String {
    let mut text = INTRODUCTION.to_owned();
    table(&mut text, &["", ""], "|---|---|", |rows| {
        for (name, value) in machine::describe() {
            rows.push(vec![name.to_owned(), value]);
        }
    });
    text += "\n## Targets\n\n";
    text += &targets(results);
    text += "\n## One request\n\n![Nanoseconds of a request with each stack](cost.svg)\n\n";
    compared(results, &mut text);
    text += ONE_REQUEST;
    text += "\n## Growth\n\n![Nanoseconds of a hit as the cache grows](growth.svg)\n\n";
    growth(results, &mut text);
    text += GROWTH;
    metadata(results, &mut text);
    text += "\n## Revocations beside hits\n\n";
    storms(results, &mut text);
    text += STORMS;
    text += "\n## Requests that are not hits\n\n";
    uncached(results, &mut text);
    text += UNCACHED;
    text += "\n## Memory\n\n";
    memory(results, &mut text);
    text += MEMORY;
    text += "\n## Threads\n\n";
    threads(results, &mut text);
    text += THREADS;
    text += "\n## A whole server\n\n![Requests a second of a server](server.svg)\n\n";
    servers(results, &mut text);
    text += SERVERS;
    text += NOT_MEASURED;
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
            let met = if target.is_met() { "ok" } else { "**MISSED**" };
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
        "",
        "ours, ns",
        "plain map, ns",
        "quick_cache, ns",
        "hand-written, ns",
        "x plain map",
        "x quick_cache",
        "x hand-written",
    ];
    let rule = "|---:|---|---|---:|---:|---:|---:|---:|---:|---:|";
    table(text, &head, rule, |rows| {
        for growth in &results.growths.growths {
            let others = [PLAIN_MAP, QUICK_SERVICE, BY_HAND];
            let mut row = vec![
                thousands(growth.sessions),
                growth.order.clone(),
                growth.warmth.clone(),
            ];
            let ns = |name| find(&growth.stacks, name).map_or(f64::NAN, Measured::ns);
            row.push(format!("{:.0}", ns(OURS)));
            row.extend(others.map(|name| format!("{:.0}", ns(name))));
            let over = |name| ratio_of(&growth.stacks, OURS, name).unwrap_or(f64::NAN);
            row.extend(others.map(|name| format!("{:.2}", over(name))));
            rows.push(row);
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

fn storms(results: &Results, text: &mut String) {
    let head = [
        "hits",
        "revocations/s",
        "lookups",
        "quiet, ns",
        "storm, ns",
        "x quiet",
    ];
    table(text, &head, "|---|---:|---:|---:|---:|---:|", |rows| {
        for storm in &results.storms {
            rows.push(vec![
                storm.name.clone(),
                format!("{:.0}", storm.rate),
                storm.lookups.to_string(),
                format!("{:.0}", median(&storm.quiet)),
                format!("{:.0}", median(&storm.storm)),
                format!("{:.3}", ratio(&storm.storm, &storm.quiet)),
            ]);
        }
    });
}

fn uncached(results: &Results, text: &mut String) {
    let head = ["requests", "stack", "ns", "ours is", "hits"];
    table(text, &head, "|---|---|---:|---:|---:|", |rows| {
        for uncached in &results.uncached {
            for (stack, hits) in uncached.stacks.iter().zip(&uncached.hits) {
                let ours = ratio_of(&uncached.stacks, CUSTOMER_SESSION, &stack.name);
                rows.push(vec![
                    uncached.name.clone(),
                    stack.name.clone(),
                    format!("{:.0}", stack.ns()),
                    format!("{:.2} x", ours.unwrap_or(f64::NAN)),
                    format!("{:.1} %", 100.0 * hits),
                ]);
            }
        }
    });
}

fn threads(results: &Results, text: &mut String) {
    let head = [
        "stack",
        "hot sessions",
        "one thread, requests/s",
        "two",
        "ratio",
    ];
    table(text, &head, "|---|---:|---:|---:|---:|", |rows| {
        for stack in &results.threads {
            let millions = |rates: &[f64]| format!("{:.2} M", median(rates) / 1e6);
            rows.push(vec![
                stack.name.clone(),
                stack.sessions.to_string(),
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
    let server = |name| Served::find(&results.servers, name);
    let (Some(none), Some(floor)) = (server(NO_LAYER), server(FLOOR)) else {
        return;
    };
    let head = [
        "server",
        "requests/s",
        "x no layer",
        "core, µs",
        "x no layer",
        "x floor layer",
        "rounds",
    ];
    let rule = "|---|---:|---:|---:|---:|---:|---:|";
    table(text, &head, rule, |rows| {
        for server in &results.servers {
            rows.push(vec![
                server.name.clone(),
                format!("{:.0}", server.median_of(|server| &server.rates)),
                format!("{:.3}", server.ratio_to(none, |server| &server.rates)),
                format!("{:.2}", server.median_of(|server| &server.work)),
                format!("{:.3}", server.ratio_to(none, |server| &server.work)),
                format!("{:.3}", server.ratio_to(floor, |server| &server.work)),
                format!("{} of {}", server.rounds_at_work(), server.rates.len()),
            ]);
        }
    });
}
