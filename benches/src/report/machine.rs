//! On what, with what and when it was measured.

use std::{env, fs, process::Command};

const LOCK: &str = include_str!("../../Cargo.lock");

const NAMED: [&str; 11] = [
    "customer-session",
    "axum",
    "axum-login",
    "hyper",
    "jsonwebtoken",
    "jwt-authorizer",
    "moka",
    "ring",
    "tokio",
    "tower-http",
    "tower-sessions",
];

/// Name and value of each.
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
            model.map_or("unknown".to_owned(), |it| format!("{it}, {cores} cores")),
        ),
        ("system", said_by("uname", &["-sr"])),
        ("compiler", said_by("rustc", &["--version"])),
        (
            "commit",
            said_by("git", &["describe", "--always", "--dirty"]),
        ),
    ];
    if let Ok(load) = env::var("LOAD") {
        facts.push(("load average before", load));
    }
    facts.push(("versions", versions()));
    facts
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

fn versions() -> String {
    let quoted = |line: &str, key: &str| -> Option<String> {
        let value = line.strip_prefix(key)?.trim().strip_prefix('=')?;
        Some(value.trim().trim_matches('"').to_owned())
    };
    let mut found = Vec::new();
    let mut package = String::new();
    for line in LOCK.lines() {
        if let Some(name) = quoted(line, "name") {
            package = name;
        } else if let Some(version) = quoted(line, "version") {
            if NAMED.contains(&package.as_str()) {
                found.push(format!("{package} {version}"));
            }
        }
    }
    found.join(", ")
}
