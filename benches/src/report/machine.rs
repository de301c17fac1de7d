//! The machine, the compiler, the versions and the date of a run.

use std::{env, fs, process::Command};

const LOCK: &str = include_str!("../../../Cargo.lock");

const NAMED: [&str; 11] = [
    "customer-session",
    "axum",
    "axum-login",
    "jsonwebtoken",
    "jwt-authorizer",
    "moka",
    "quick_cache",
    "ring",
    "tokio",
    "tower-http",
    "tower-sessions",
];

/// Returns name and value of each fact.
pub fn describe() -> Vec<(&'static str, String)> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = cpus.lines().filter_map(|line| {
        let (name, model) = line.split_once(':')?;
        (name.trim() == "model name").then(|| model.trim().to_owned())
    });
    let model = models.next();
    let cores = models.count() + 1;
    let mut facts = vec![
        ("date", chrono::Utc::now().format("%Y-%m-%d").to_string()),
        (
            "processor",
            model.map_or("unknown".to_owned(), |model| {
                format!("{model}, {cores} cores")
            }),
        ),
        ("system", said_by("uname", &["-sr"])),
        ("compiler", said_by("rustc", &["--version"])),
        ("commit", commit()),
    ];
    if let Ok(load) = env::var("LOAD") {
        facts.push(("load average before", load));
    }
    facts.push(("versions", versions()));
    facts
}

/// Returns the commit, and says if the sources differ from it. The report itself, half written by
/// now, does not count.
fn commit() -> String {
    let commit = said_by("git", &["describe", "--always"]);
    let sources = [
        "diff",
        "--quiet",
        "HEAD",
        "--",
        ".",
        "../src",
        "../Cargo.toml",
    ];
    let is_clean = Command::new("git").args(sources).status();
    match is_clean {
        Ok(status) if !status.success() => format!("{commit}, changed"),
        _ => commit,
    }
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// Returns the versions of this package's own dependencies.
fn versions() -> String {
    let quoted = |line: &str, key: &str| -> Option<String> {
        let value = line.strip_prefix(key)?.trim().strip_prefix('=')?;
        Some(value.trim().trim_matches('"').to_owned())
    };
    let mut all = Vec::new();
    let mut own = Vec::new();
    for package in LOCK.split("[[package]]") {
        let find = |key| package.lines().find_map(|line| quoted(line, key));
        let (Some(name), Some(version)) = (find("name"), find("version")) else {
            continue;
        };
        if name == env!("CARGO_PKG_NAME") {
            let lines = package.lines().filter_map(|line| line.strip_prefix(" \""));
            own.extend(lines.map(|line| line.trim_end_matches("\",").to_owned()));
        }
        all.push((name, version));
    }
    // A dependency is named with its version where there are several.
    all.retain(|(name, version)| {
        let is_own = own.contains(name) || own.contains(&format!("{name} {version}"));
        is_own && NAMED.contains(&name.as_str())
    });
    let named = all
        .iter()
        .map(|(name, version)| format!("{name} {version}"));
    named.collect::<Vec<_>>().join(", ")
}
