//! Imports point down, between folders and between files, and no circle of files is left.
//!
//! A folder stands on a layer. A file may import from lower layers, and from its own folder; the
//! stores share a layer with what they implement, and nothing above imports them but `lib.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The layers, by the longest prefix of a module's path.
const LAYERS: &[(u8, &[&str])] = &[
    // Plain values.
    (
        0,
        &[
            "clock",
            "config_error",
            "customer",
            "details",
            "family",
            "loopback",
            "metadata",
            "random",
            "telemetry",
            "session",
            "session_id",
            "token",
        ],
    ),
    // The port and its adapters, and the kit that checks them.
    (
        1,
        &[
            "invalidation",
            "newest_changes",
            "shared_caches",
            "polar",
            "page",
            "registry",
            "store",
            "testing/clock",
            "testing/conformance",
            "testing/faulty",
            "unconfirmed_changes",
        ],
    ),
    (2, &["engine"]),
    (3, &["sessions"]),
    (4, &["middleware"]),
    (5, &["testing"]),
];

/// Files that stand outside the layers.
const OUTSIDE: &[&str] = &["lib", "store/sql/sqlite/plans"];

/// Modules of `lib.rs` itself that any layer may name.
const OF_THE_CRATE: &[&str] = &["sync", "guide"];

/// Most lines of a file, its tests left out.
const MAX_LINES: usize = 400;

/// The files of one crate, by module path: `store/memory` for `memory.rs` in `store`, `store`
/// for `store/mod.rs`.
struct Tree {
    files: BTreeMap<String, File>,
}

struct File {
    text: String,
    /// The code without tests, comments and re-exports.
    code: String,
    /// The path behind each name that the file re-exports. A re-export is not an import of the
    /// file, unless its own code uses the name; who imports the name imports what is behind it.
    reexports: BTreeMap<String, String>,
}

impl File {
    fn new(module: &str, text: String) -> Self {
        let mut code = without_tests(&text);
        let mut reexports = BTreeMap::new();
        for keyword in ["pub use ", "pub(crate) use ", "pub(super) use "] {
            while let Some(start) = code.find(keyword) {
                let end = start + code[start..].find(';').expect("a whole statement");
                for path in absolute(module, &code[start + keyword.len()..end]) {
                    let name = path.rsplit('/').next().expect("a name").to_owned();
                    reexports.insert(name, path);
                }
                code.replace_range(start..=end, "");
            }
        }
        Self {
            text,
            code,
            reexports,
        }
    }
}

impl Tree {
    fn read(root: &str) -> Self {
        let mut paths = Vec::new();
        list(Path::new(root), &mut paths);
        Self::new(paths.iter().map(|path| {
            let text = fs::read_to_string(path).expect("a readable file");
            (module(root, path), text)
        }))
    }

    fn new(files: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>) -> Self {
        let files = files.into_iter().map(|(module, text)| {
            let module = module.into();
            let file = File::new(&module, text.into());
            (module, file)
        });
        Self {
            files: files.collect(),
        }
    }

    /// Returns the modules that `module` imports from the crate, without those of its tests. An
    /// import that leads to no file is returned as it stands.
    fn imports(&self, module: &str) -> BTreeSet<String> {
        let file = &self.files[module];
        let used = file.reexports.iter().filter(|(name, _)| {
            let words = file
                .code
                .split(|character| !is_path(character) || character == ':');
            words.into_iter().any(|word| word == *name)
        });
        let mut imports: BTreeSet<String> = absolute(module, &file.code)
            .iter()
            .chain(used.map(|(_, path)| path))
            .map(|path| self.file_of(path))
            .collect();
        imports.remove(module);
        imports
    }

    /// Returns the file in which `path` is defined, as far as it is one.
    fn file_of(&self, path: &str) -> String {
        let mut prefix = path;
        while !self.files.contains_key(prefix) {
            match prefix.rsplit_once('/') {
                Some((shorter, _)) => prefix = shorter,
                None => return prefix.to_owned(),
            }
        }
        let name = path[prefix.len()..].split('/').nth(1).unwrap_or_default();
        match self.files[prefix].reexports.get(name) {
            Some(behind) if behind != path => self.file_of(behind),
            _ => prefix.to_owned(),
        }
    }

    /// Returns the circles of files: the strongly connected components of more than one.
    fn circles(&self) -> Vec<Vec<String>> {
        let imports: BTreeMap<&str, BTreeSet<String>> = self
            .files
            .keys()
            .map(|module| (module.as_str(), self.imports(module)))
            .collect();
        let reachable: BTreeMap<&str, BTreeSet<String>> = imports
            .keys()
            .map(|module| (*module, reachable(module, &imports)))
            .collect();
        let mut circles = BTreeSet::new();
        for module in imports.keys() {
            let circle: Vec<String> = reachable[module]
                .iter()
                .filter(|other| {
                    reachable
                        .get(other.as_str())
                        .is_some_and(|back| back.contains(*module))
                })
                .cloned()
                .collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }
}

fn reachable(module: &str, imports: &BTreeMap<&str, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![module.to_owned()];
    while let Some(module) = open.pop() {
        for import in imports.get(module.as_str()).into_iter().flatten() {
            if found.insert(import.clone()) {
                open.push(import.clone());
            }
        }
    }
    found
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module(root: &str, path: &Path) -> String {
    let path = path.strip_prefix(root).expect("below the root");
    let module = path.with_extension("");
    let module = module.to_str().expect("UTF-8").replace('\\', "/");
    module
        .strip_suffix("/mod")
        .map_or(module.clone(), str::to_owned)
}

fn prefix(folder: &str) -> String {
    if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    }
}

/// Returns the paths in `code`, which stands in `module`, that begin with `crate`, `super` or
/// `self`, from the crate's root.
fn absolute(module: &str, code: &str) -> Vec<String> {
    let parent = module.rsplit_once('/').map_or("", |(parent, _)| parent);
    let grandparent = parent.rsplit_once('/').map_or("", |(folder, _)| folder);
    let bases = [
        ("crate::", String::new()),
        ("super::", prefix(parent)),
        ("super::super::", prefix(grandparent)),
        ("self::", prefix(module)),
    ];
    let mut paths = Vec::new();
    for (keyword, base) in bases {
        for (place, _) in code.match_indices(keyword) {
            let before = code[..place].chars().next_back();
            let rest = &code[place + keyword.len()..];
            if !before.is_some_and(is_path) && !rest.starts_with("super::") {
                paths.extend(branches(rest).iter().map(|path| format!("{base}{path}")));
            }
        }
    }
    paths
}

fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

fn is_path(character: char) -> bool {
    character.is_alphanumeric() || character == '_' || character == ':'
}

/// Returns `a/b/C` and `a/d` for `a::{b::C, d}`.
fn branches(text: &str) -> Vec<String> {
    let end = text
        .find(|character| !is_path(character))
        .unwrap_or(text.len());
    let stem = text[..end].trim_end_matches(':').replace("::", "/");
    if !(text[..end].ends_with("::") || end == 0) || !text[end..].starts_with('{') {
        return vec![stem];
    }
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for character in text[end..].chars() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match character {
            '{' if depth == 1 => {}
            '}' if depth == 0 => break,
            ',' if depth == 1 => parts.push(String::new()),
            character if character.is_whitespace() => {}
            character => parts.last_mut().expect("never empty").push(character),
        }
    }
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .flat_map(|part| branches(part))
        .map(|part| prefix(&stem) + &part)
        .collect()
}

fn layer(module: &str) -> Option<u8> {
    let rows = LAYERS
        .iter()
        .flat_map(|(layer, prefixes)| prefixes.iter().map(move |prefix| (*prefix, *layer)));
    rows.filter(|(prefix, _)| {
        module
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
    .max_by_key(|(prefix, _)| prefix.len())
    .map(|(_, layer)| layer)
}

fn top_folder(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

/// Returns the imports of `module` that do not point down.
fn violations(tree: &Tree, module: &str) -> Vec<String> {
    let Some(own) = layer(module) else {
        return vec![format!("{module} has no layer")];
    };
    tree.imports(module)
        .into_iter()
        .filter(|import| !OF_THE_CRATE.contains(&top_folder(import)))
        .filter(|import| match layer(import) {
            Some(layer) => {
                let is_level = layer == own && own > 1;
                layer > own || (is_level && top_folder(import) != top_folder(module))
            }
            None => true,
        })
        .map(|import| format!("{module} (layer {own}) imports {import}"))
        .collect()
}

#[test]
fn imports_point_down() {
    let tree = Tree::read("src");
    let modules = tree.files.keys();
    let all: Vec<String> = modules
        .filter(|module| !OUTSIDE.contains(&module.as_str()))
        .flat_map(|module| violations(&tree, module))
        .collect();
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn files_form_no_circles() {
    for folder in ["src", "benches/src", "fuzz/src"] {
        let circles = Tree::read(folder).circles();
        assert!(
            circles.is_empty(),
            "files in {folder} import each other in a circle: {circles:#?}"
        );
    }
}

#[test]
fn an_import_that_points_up_is_noticed() {
    for (module, text) in [
        ("token", "use crate::store::StoreError;"),
        (
            "store/memory",
            "use crate::{customer::Customer, sessions::Engine};",
        ),
        ("store", "use crate::engine::{cache::Cache, Engine};"),
        ("engine/fetch", "fn f() { crate::middleware::layer::x() }"),
        ("engine/fetch", "use crate::CustomerSession;"),
        (
            "telemetry",
            "use crate::{\n    token::SessionToken,\n    store::StoreError,\n};",
        ),
    ] {
        let tree = Tree::new([(module, text)]);
        assert!(!violations(&tree, module).is_empty(), "{module}: {text}");
    }
    for (module, text) in [
        ("engine/fetch", "use super::{watch::Watcher, cache::Cache};"),
        (
            "engine/fetch",
            "use crate::{store::{SessionStore, StoreError}, token::SessionToken};",
        ),
        ("middleware/layer", "use crate::sessions::CustomerSessions;"),
        ("store/memory", "use super::{SessionStore, StoreError};"),
    ] {
        let tree = Tree::new([(module, text)]);
        let all = violations(&tree, module);
        assert!(all.is_empty(), "{module}: {text}: {all:?}");
    }
}

#[test]
fn a_circle_is_noticed() {
    let tree = Tree::new([
        ("a", "use crate::b::{c::Three, Two};"),
        ("b", "pub use self::c::Three;"),
        ("b/c", "use super::super::a::One;\nuse super::d::Four;"),
        (
            "b/d",
            "use std::fmt;\n#[cfg(test)]\nmod tests {\nuse crate::a::One;\n}",
        ),
    ]);
    assert_eq!(tree.circles(), [["a", "b/c"]], "through the re-export");
    let tree = Tree::new([
        ("b", "pub use self::c::Three;\nfn f(_: Three) {}"),
        ("b/c", "use super::Two;"),
    ]);
    assert_eq!(tree.circles(), [["b", "b/c"]], "the re-export is used");
    let tree = Tree::new([
        ("a", "use crate::b::c::Three;"),
        ("b", "pub use self::c::Three;"),
        ("b/c", "use super::d::Four;"),
        ("b/d", ""),
    ]);
    assert!(tree.circles().is_empty());
}

/// Behind a pooler, a statement that is made elsewhere would be prepared by name.
#[test]
fn statements_for_postgresql_are_made_in_one_place() {
    for (module, File { code, .. }) in Tree::read("src").files {
        let is_of_postgresql =
            module.starts_with("store/sql") && !module.starts_with("store/sql/sqlite");
        if is_of_postgresql && module != "store/sql/statements" {
            for call in ["sqlx::query", "query_with(", "query_as(", "query_scalar("] {
                assert!(!code.contains(call), "{module} makes a statement by itself");
            }
        }
    }
}

#[test]
fn features_are_chosen_in_few_places() {
    for (module, File { text, .. }) in Tree::read("src").files {
        let chooses = text.contains("feature = \"");
        let may = ["lib", "store", "store/sql", "telemetry", "middleware"];
        assert!(
            may.contains(&module.as_str()) || !chooses,
            "{module} looks at features"
        );
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        let lines = code.unwrap_or_default().lines().count();
        assert!(
            lines <= MAX_LINES,
            "{module} has {lines} lines: is it one concept?"
        );
    }
}
