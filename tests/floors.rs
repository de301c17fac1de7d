//! The crate is built in floors, and imports point down.
//!
//! Each file of `src/` has a row here. A file may use files of lower floors, and files of its
//! own folder on its own floor. Adapters (the stores) use floors 0 and 1 only and are leaves.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Words, doors, engine, edge. `lib.rs` stands above, and tests wherever they like.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["clock", "customer", "observe", "session", "token"]),
    (1, &["invalidation", "store", "store/error"]),
    (
        1,
        &[
            "store/memory",
            "store/polar",
            "store/polar/builder",
            "store/polar/create",
            "store/polar/event",
            "store/polar/limits",
            "store/polar/upstream",
            "store/polar/webhook_service",
            "store/polar/webhooks",
            "store/postgres",
            "store/postgres_invalidations",
            "store/redis",
            "store/redis_invalidations",
            "store/sqlite",
        ],
    ),
    // What the adapters share.
    (
        1,
        &[
            "store/at_hand",
            "store/checked",
            "store/failure",
            "store/heartbeat",
            "store/micros",
            "store/parts",
            "store/pepper",
            "store/postgres_server",
            "store/record",
            "store/scripts",
            "store/sql",
            "store/statements",
        ],
    ),
    // Names what is in its folder, and does the edge's work in tests.
    (4, &["testing", "testing/signed_in"]),
    // The kit stands beside the stores that it checks.
    (
        1,
        &[
            "testing/clock",
            "testing/conformance",
            "testing/faulty",
            "testing/kit",
            "testing/rules",
        ],
    ),
    (
        2,
        &[
            "sessions",
            "sessions/asking",
            "sessions/breaker",
            "sessions/builder",
            "sessions/cache",
            "sessions/engine",
            "sessions/flight",
            "sessions/hearing",
            "sessions/lifetime",
            "sessions/lookup",
            "sessions/marks",
            "sessions/purge",
            "sessions/refresh",
            "sessions/verdict",
            "sessions/witness",
        ],
    ),
    (
        3,
        &[
            "middleware",
            "middleware/bearer",
            "middleware/caching",
            "middleware/cookie",
            "middleware/extract",
            "middleware/future",
            "middleware/identity",
            "middleware/layer",
            "middleware/origin",
            "middleware/query",
            "middleware/rejection",
            "middleware/service",
            "middleware/sources",
            "middleware/websocket",
        ],
    ),
];

/// Files that stand outside the floors.
const OUTSIDE: &[&str] = &["lib", "sessions/tests", "store/sqlite_plans"];

/// Modules of `lib.rs` itself that any floor may name.
const OF_THE_CRATE: &[&str] = &["sync", "guide"];

fn floor(module: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(floor, _)| *floor)
}

/// `store/memory` for `src/store/memory.rs`, `store` for `src/store/mod.rs`.
fn module(path: &Path) -> String {
    let path = path
        .strip_prefix("src")
        .expect("below src")
        .with_extension("");
    let module = path.to_str().expect("UTF-8").replace('\\', "/");
    module
        .strip_suffix("/mod")
        .map_or(module.clone(), str::to_owned)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

/// What a file imports from the crate, as modules, with the tests at its end left out.
fn imports(module: &str, text: &str) -> BTreeSet<String> {
    let code: String = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    let parent = match module.rsplit_once('/') {
        Some((parent, _)) => parent.to_owned(),
        None => module.to_owned(),
    };
    let mut imports = BTreeSet::new();
    for (prefix, base) in [
        ("crate::", String::new()),
        ("super::", format!("{parent}/")),
        ("self::", format!("{module}/")),
    ] {
        for (place, _) in code.match_indices(prefix) {
            let before = code[..place].chars().next_back();
            if before.is_some_and(|it| it.is_alphanumeric() || it == '_' || it == ':') {
                continue;
            }
            for path in branches(&code[place + prefix.len()..]) {
                // The longest part of the path that is a module.
                let mut path = format!("{base}{path}");
                while floor(&path).is_none() && !OUTSIDE.contains(&path.as_str()) {
                    match path.rsplit_once('/') {
                        Some((shorter, _)) => path = shorter.to_owned(),
                        None => break,
                    }
                }
                imports.insert(path);
            }
        }
    }
    imports
}

/// `a::{b::C, d}` as `a/b/C` and `a/d`.
fn branches(text: &str) -> Vec<String> {
    let end = text
        .find(|it: char| !(it.is_alphanumeric() || it == '_' || it == ':'))
        .unwrap_or(text.len());
    let stem = text[..end].trim_end_matches(':').replace("::", "/");
    if !(text[..end].ends_with("::") || end == 0) || !text[end..].starts_with('{') {
        return vec![stem];
    }
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for it in text[end..].chars() {
        match it {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match it {
            '{' if depth == 1 => {}
            '}' if depth == 0 => break,
            ',' if depth == 1 => parts.push(String::new()),
            it if it.is_whitespace() => {}
            it => parts.last_mut().expect("never empty").push(it),
        }
    }
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .flat_map(|part| branches(part))
        .map(|part| {
            if stem.is_empty() {
                part
            } else {
                format!("{stem}/{part}")
            }
        })
        .collect()
}

fn violations(module: &str, text: &str) -> Vec<String> {
    let own = floor(module).expect("it has a row");
    let folder = |module: &str| module.split('/').next().map(str::to_owned);
    imports(module, text)
        .into_iter()
        .filter(|import| !OF_THE_CRATE.contains(&import.split('/').next().unwrap_or_default()))
        .filter(|import| match floor(import) {
            Some(floor) => {
                floor > own || (floor == own && floor > 1 && folder(import) != folder(module))
            }
            None => true,
        })
        .map(|import| format!("{module} (floor {own}) uses {import}"))
        .collect()
}

#[test]
fn imports_point_down() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let modules: BTreeSet<String> = files.iter().map(|path| module(path)).collect();
    let rows: BTreeSet<String> = FLOORS
        .iter()
        .flat_map(|(_, modules)| modules.iter())
        .chain(OUTSIDE)
        .map(|it| (*it).to_owned())
        .collect();
    assert_eq!(modules, rows, "each file has a row, each row a file");

    let mut all = Vec::new();
    for path in &files {
        let module = module(path);
        if !OUTSIDE.contains(&module.as_str()) {
            all.extend(violations(
                &module,
                &fs::read_to_string(path).expect("a file"),
            ));
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn an_import_that_points_up_is_noticed() {
    for (module, text) in [
        ("token", "use crate::store::StoreError;"),
        (
            "store/memory",
            "use crate::{customer::Customer, sessions::Engine};",
        ),
        ("store", "use crate::sessions::{marks::Marks, Engine};"),
        (
            "sessions/engine",
            "fn f() { crate::middleware::layer::x() }",
        ),
        ("sessions/engine", "use crate::CustomerSession;"),
        (
            "observe",
            "use crate::{\n    token::SessionToken,\n    store::StoreError,\n};",
        ),
    ] {
        assert!(!violations(module, text).is_empty(), "{module}: {text}");
    }
    for (module, text) in [
        (
            "sessions/engine",
            "use super::{marks::Marks, cache::Cache};",
        ),
        (
            "sessions/engine",
            "use crate::{store::{SessionStore, StoreError}, token::SessionToken};",
        ),
        (
            "middleware/layer",
            "use crate::sessions::{CustomerSessions, Engine};",
        ),
        ("store/memory", "use super::{SessionStore, StoreError};"),
    ] {
        assert_eq!(
            violations(module, text),
            Vec::<String>::new(),
            "{module}: {text}"
        );
    }
}

#[test]
fn features_are_chosen_in_few_places() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    for path in files {
        let module = module(&path);
        let text = fs::read_to_string(&path).expect("a file");
        let chooses = text.contains("feature = \"");
        let may = ["lib", "store", "observe", "middleware"].contains(&module.as_str());
        assert!(may || !chooses, "{module} looks at features");
        let lines = text.lines().count();
        assert!(
            lines <= 450,
            "{module} has {lines} lines: is it one concept?"
        );
    }
}
