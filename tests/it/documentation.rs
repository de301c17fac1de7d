//! README, ARCHITECTURE and the guide name files that exist, and functions that stand in them.

use std::{fs, path::Path};

const TEXTS: [&str; 4] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
];
const FOLDERS: [&str; 7] = [
    "src/",
    "tests/",
    "examples/",
    "benches/",
    "fuzz/",
    "scripts/",
    "docs/",
];

fn texts() -> Vec<(String, String)> {
    let guide = fs::read_dir("src/guide").expect("a folder");
    let guide = guide.map(|page| page.expect("an entry").path().display().to_string());
    let names = TEXTS.map(str::to_owned).into_iter().chain(guide);
    names
        .map(|name| {
            let text = fs::read_to_string(&name);
            (
                name.clone(),
                text.unwrap_or_else(|error| panic!("{name}: {error}")),
            )
        })
        .collect()
}

/// Returns what a text names that is not there: files in backticks, targets of links, and `name`
/// in a phrase such as "`name` in `src/token.rs`".
fn missing(text: &str) -> Vec<String> {
    let exists = |path: &&str| !Path::new(path.trim_end_matches(['/', '*'])).exists();
    let quoted: Vec<&str> = text.split('`').collect();
    let code = || quoted.iter().skip(1).step_by(2).copied();
    let files = code().filter(|code| {
        let path = !code.contains([' ', ':', '{', '<', '(']);
        path && FOLDERS.iter().any(|folder| code.starts_with(folder))
    });
    let links = text.split("](").skip(1);
    let links = links.filter_map(|link| link.split(')').next()?.split('#').next());
    let links = links.filter(|link| !link.is_empty() && !link.contains(':'));
    let mut missing: Vec<String> = files
        .chain(links)
        .filter(exists)
        .map(str::to_owned)
        .collect();
    for phrase in quoted.windows(3).skip(1).step_by(2) {
        let [name, between, file] = phrase else {
            continue;
        };
        if between.trim() == "in" && file.ends_with(".rs") {
            let source = fs::read_to_string(file).unwrap_or_default();
            let words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
            if !words.into_iter().any(|word| word == *name) {
                missing.push(format!("{name} in {file}"));
            }
        }
    }
    missing
}

#[test]
fn files_that_the_documentation_names_exist() {
    for (name, text) in texts() {
        assert_eq!(missing(&text), Vec::<String>::new(), "{name}");
    }
}

/// That the test is there is checked above.
#[test]
fn each_demand_of_a_standard_that_the_crate_meets_has_a_test() {
    let page = fs::read_to_string("src/guide/session_lifetime.md").expect("the page");
    let met: Vec<_> = page
        .lines()
        .filter(|row| row.contains("| crate |"))
        .collect();
    assert!(met.len() > 10, "{met:?}");
    for row in met {
        let (_, test) = row.split_once("| crate | `").expect("a test");
        assert!(test.contains("` in `"), "{row}");
        assert!(test.ends_with(".rs` |"), "{row}");
    }
}

#[test]
fn a_file_that_does_not_exist_is_noticed() {
    let text = "see `src/nope.rs`, [the map](NOWHERE.md#layers), `is_nowhere` in `src/token.rs`; \
                `SessionToken` in `src/token.rs` and [this](README.md) exist";
    let noticed = ["src/nope.rs", "NOWHERE.md", "is_nowhere in src/token.rs"];
    assert_eq!(missing(text), noticed);
}

/// Returns the rows of the table of features, without the links of rustdoc.
fn feature_table(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches("//! "));
    let rows = lines
        .skip_while(|line| *line != "| feature | adds |")
        .skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.replace(['[', ']'], "")).collect()
}

#[test]
fn the_front_page_and_the_readme_have_one_table_of_features() {
    let [readme, front_page, manifest] = ["README.md", "src/lib.rs", "Cargo.toml"]
        .map(|name| fs::read_to_string(name).expect("a file"));
    let rows = feature_table(&readme);
    assert_eq!(rows, feature_table(&front_page));
    let (_, features) = manifest.split_once("[features]").expect("features");
    let (features, _) = features.split_once("\n[").expect("another section");
    let lines = features.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| Some(line.split_once(" = ")?.0));
    for name in names.filter(|name| *name != "default") {
        let cell = format!("`{name}`");
        assert!(
            rows.iter().any(|row| row.contains(&cell)),
            "{name} has no row"
        );
    }
}

/// Returns the cells of the table below a header.
fn table<'a>(text: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let rows = text.lines().skip_while(|line| *line != header).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        row.split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect()
    })
    .collect()
}

#[test]
fn the_guide_lists_every_figure_and_every_event() {
    let [guide, telemetry] = ["src/guide/operations.md", "src/telemetry.rs"]
        .map(|name| fs::read_to_string(name).expect("a file"));
    let (_, fields) = telemetry
        .split_once("pub struct Statistics {")
        .expect("it is there");
    let (fields, _) = fields.split_once("\n}").expect("its end");
    let fields = fields
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub "));
    let mut fields: Vec<_> = fields.filter_map(|field| field.split(':').next()).collect();
    let mut listed: Vec<_> = table(&guide, "| figure | kind | meaning |")
        .iter()
        .map(|row| row[1])
        .collect();
    fields.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, fields);

    let events = table(&guide, "| level | event | when |");
    let joined: Vec<_> = telemetry.split_whitespace().collect();
    let joined = joined.join(" ").replace("\\ ", "");
    for row in &events {
        let start = row[2].split(" ...").next().expect("a text");
        assert!(
            joined.contains(&format!("\"{start}")),
            "no event begins with {start:?}"
        );
    }
    let levels = ["error!", "warn!", "info!", "debug!", "trace!"];
    let logged = levels.map(|level| telemetry.matches(&format!("tracing::{level}(")).count());
    assert_eq!(
        events.len(),
        logged.iter().sum::<usize>(),
        "an event is not listed"
    );
}
