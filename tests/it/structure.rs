//! The walls of ARCHITECTURE.md: who may know whom, where the heavy crates may be named, and how a source file looks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most lines of a file.
const FILE_LINES: usize = 500;
/// Most lines between the first and the last of a function.
const FUNCTION_LINES: usize = 70;

/// What a package must never depend on.
const FORBIDDEN: [(&str, &[&str]); 2] = [
    ("wizefs-fs", &["wizefs", "wizefs-ledger", "tokio", "hyper", "axum", "tonic", "clap", "rocksdb", "serde_json"]),
    ("wizefs-ledger", &["wizefs", "wizefs-fs", "tokio", "hyper", "axum", "tonic", "clap", "fuser", "serde_json"]),
];

/// A name, and the only places in packages' own sources where it may stand.
const ROOMS: [(&str, &[&str]); 6] = [
    ("fuser::", &["fs/src/fuse/"]),
    ("rocksdb::", &["ledger/src/store/rocks.rs"]),
    ("serde_json::", &["src/", "tests/it/", "benches/", "examples/"]),
    ("axum::", &["src/", "examples/"]),
    ("tonic::", &["src/", "examples/"]),
    ("tokio::", &["src/", "examples/"]),
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "manager", "common", "misc", "shared"];

/// What finished code does not hold.
const UNFINISHED: [&str; 10] = [
    "todo!(",
    "unimplemented!(",
    "dbg!(",
    "#[ignore",
    "allow(dead_code",
    "allow(unused",
    "FIXME",
    "HACK",
    // What a merge leaves, also in texts, where it compiles.
    "<<<<<<< ",
    ">>>>>>> ",
];

/// One source file.
struct Source {
    /// From the top of the repository.
    path: String,
    text: String,
    /// Compiled for tests only.
    is_test: bool,
}

impl Source {
    /// What is compiled into programs: the text up to a module of tests.
    fn program(&self) -> &str {
        if self.is_test { "" } else { self.text.split("#[cfg(test)]\nmod tests {").next().unwrap() }
    }

    /// The files of modules declared for tests only.
    fn test_modules(&self) -> Vec<PathBuf> {
        let path = Path::new(&self.path);
        let dir = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "main" | "mod") => path.parent().unwrap().to_owned(),
            _ => path.with_extension(""),
        };
        let declared = self.text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| rest.lines().next());
        let names = declared.filter_map(|line| line.strip_suffix(';')?.split_once("mod ").map(|(_, name)| name));
        names.map(|name| dir.join(format!("{name}.rs"))).collect()
    }
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file but this one, which names what it forbids, and what a program made from proto/wizefs.proto.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for room in ["src", "fs", "ledger", "tests", "examples", "benches"] {
        walk(&top().join(room), &mut found);
    }
    found.retain(|path| !path.ends_with("it/structure.rs") && !path.ends_with("grpc/generated.rs"));
    assert!(found.len() > 100, "only {} files found", found.len());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(top()).unwrap().to_str().unwrap().to_owned();
        Source { is_test: format!("/{path}").contains("/tests/"), path, text }
    };
    let mut sources: Vec<Source> = found.into_iter().map(read).collect();
    let test_modules: Vec<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        source.is_test |= test_modules.iter().any(|module| module == Path::new(&source.path));
    }
    sources
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                walk(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Fail with everything that was found, not only the first.
#[track_caller]
fn expect_none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn packages_do_not_depend_on_what_they_must_not_know() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(top())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut found = Vec::new();
    for (name, forbidden) in FORBIDDEN {
        let package = packages.iter().find(|package| package["name"] == name).expect(name);
        let names = package["dependencies"].as_array().unwrap().iter().filter_map(|d| d["name"].as_str());
        found.extend(names.filter(|n| forbidden.contains(n)).map(|n| format!("{name} depends on {n}")));
    }
    expect_none("nothing points back (ARCHITECTURE.md)", found);
}

/// What RocksDB is made with when these are compiled, and with which features.
fn made_with(what: &[&str]) -> BTreeSet<String> {
    let shown = ["tree", "--offline", "--no-dedupe", "--prefix=depth", "--format= {p} {f}"];
    let output = Command::new(env!("CARGO")).args(shown).args(what).current_dir(top()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(' ')).map(|(depth, name)| (depth.parse().ok(), name));
    let mut lines: Vec<(Option<usize>, &str)> = lines.collect();
    let first =
        lines.iter().position(|(_, name)| name.starts_with("librocksdb-sys ")).expect("RocksDB is a dependency");
    let below = lines.split_off(first);
    below.iter().skip(1).take_while(|(depth, _)| *depth > below[0].0).map(|(_, name)| (*name).to_owned()).collect()
}

#[test]
fn rocksdb_is_compiled_once_for_the_program_and_its_tests() {
    let program = made_with(&["--edges=normal,build"]);
    assert!(program.iter().any(|name| name.starts_with("bindgen ")), "{program:?}");
    assert_eq!(program, made_with(&["--edges=normal,build,dev", "--workspace"]));
}

#[test]
fn heavy_crates_stay_in_their_rooms() {
    let mut found = Vec::new();
    for source in sources() {
        for (name, rooms) in ROOMS {
            let allowed = rooms.iter().any(|room| source.path.starts_with(room));
            let mut lines = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
            if !allowed && lines.any(|line| line.contains(name)) {
                found.push(format!("{} names {name}", source.path));
            }
        }
    }
    expect_none("a crate is named in one room only", found);
}

#[test]
fn only_the_notary_turns_changes_into_transactions() {
    let found =
        sources().into_iter().filter(|source| source.path.starts_with("src/") && source.path != "src/notary.rs");
    let found =
        found.filter(|source| source.program().contains("Statement::File") || source.text.contains("for Notary"));
    expect_none("fs and ledger meet in src/notary.rs", found.map(|source| source.path).collect());
}

#[test]
fn files_open_with_what_they_are_for() {
    let found = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    expect_none("every file opens with //!", found.map(|source| source.path).collect());
}

#[test]
fn files_and_functions_are_short() {
    let mut found = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        if lines.len() > FILE_LINES {
            found.push(format!("{}: {} lines", source.path, lines.len()));
        }
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
            let indent = &line[..line.len() - line.trim_start().len()];
            let end = lines[start..].iter().position(|line| *line == format!("{indent}}}"));
            if let Some(length) = end.filter(|length| *length > FUNCTION_LINES && line.ends_with(['{', '('])) {
                found.push(format!("{}:{}: a function of {length} lines", source.path, start + 1));
            }
        }
    }
    expect_none("at most 500 lines a file and 70 a function", found);
}

/// Whether a line begins a function, as rustfmt writes it.
fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| {
        word.starts_with("pub") || ["in", "async", "unsafe", "const", "extern", "\"C\""].contains(word)
    });
    words.next() == Some("fn")
}

#[test]
fn names_say_what_is_inside() {
    let is_empty = |source: &Source| {
        let names = Path::new(&source.path).iter().filter_map(|part| part.to_str());
        names.map(|name| name.trim_end_matches(".rs")).any(|name| EMPTY_NAMES.contains(&name))
    };
    let found = sources().into_iter().filter(is_empty).map(|source| source.path).collect();
    expect_none("a module is named after what it owns", found);
}

#[test]
fn nothing_is_unfinished_and_programs_do_not_panic() {
    let mut found = Vec::new();
    for source in sources() {
        for word in UNFINISHED.iter().filter(|word| source.text.contains(*word)) {
            found.push(format!("{}: {word}", source.path));
        }
        if source.path.contains("tests/") && source.text.contains("thread::sleep(") {
            found.push(format!("{}: a test that sleeps", source.path));
        }
        for (number, line) in source.program().lines().enumerate() {
            let says_why = !line.contains(".expect(") || line.contains(".expect(\"invariant: ");
            if !line.trim_start().starts_with("//") && (line.contains(".unwrap()") || !says_why) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    expect_none("finished code, and an error is handled or returned", found);
}

#[test]
fn every_test_that_the_semantics_name_exists() {
    let text = fs::read_to_string(top().join("docs/SEMANTICS.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"));
    let mut count = 0;
    let mut found = Vec::new();
    for (file, test) in named {
        count += 1;
        let path = match file.strip_prefix("it/") {
            Some(file) => format!("tests/it/{file}.rs"),
            None => format!("fs/tests/it/{file}.rs"),
        };
        let there = fs::read_to_string(top().join(&path)).is_ok_and(|text| text.contains(&format!("fn {test}(")));
        if !there {
            found.push(format!("{path}: {test}"));
        }
    }
    assert!(count > 20, "only {count} tests are named");
    expect_none("a promise names its test", found);
}

#[test]
fn every_safety_names_its_test() {
    let text = fs::read_to_string(top().join("docs/SECURITY.md")).unwrap();
    let (mut count, mut found) = (0, Vec::new());
    for named in text.split("`it/").skip(1) {
        let (file, rest) = named.split_once('`').unwrap();
        if file.is_empty() {
            continue;
        }
        let program = fs::read_to_string(top().join("tests/it").join(file)).unwrap_or_default();
        let names = rest.split(['`', '|']).next().unwrap().split([' ', ',']).filter(|word| word.contains('_'));
        for test in names {
            count += 1;
            if !program.contains(&format!("fn {test}(")) {
                found.push(format!("{file}: {test}"));
            }
        }
    }
    assert!(count >= 12, "only {count} tests are named");
    expect_none("a safety names its test", found);
}
