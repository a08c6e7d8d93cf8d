//! `wizefs search`: files by name, content and transaction, in all buckets, now and once.

use crate::rest::Service;
use crate::root::TestRoot;
use serde_json::Value;
use std::fs;

/// `bucket/path` of what is found, with `!` behind what is gone.
fn found(root: &TestRoot, args: &[&str]) -> Vec<String> {
    let ran = root.run_args(&[&["search", "--json"], args].concat()).expect(0).json();
    let name = |entry: &Value| {
        let gone = if entry["current"] == true { "" } else { "!" };
        format!("{}/{}{gone}", entry["bucket"].as_str().unwrap(), entry["path"].as_str().unwrap())
    };
    ran["entries"].as_array().unwrap().iter().map(name).collect()
}

fn filled() -> TestRoot {
    let root = TestRoot::new();
    for bucket in ["docs", "work"] {
        root.run(&format!("create {bucket}")).expect(0);
    }
    for (content, target) in [
        ("one", "docs/a.txt"),
        ("two", "docs/sub/notes.txt"),
        ("three", "docs/sub/deep/a.md"),
        ("one", "work/same"),
        ("four", "work/Ä ümlaut.txt"),
    ] {
        fs::write(root.outside().join("file"), content).unwrap();
        root.run_args(&["put", "file", target]).expect(0);
    }
    root
}

#[test]
fn names_are_found_by_glob_or_part() {
    let root = filled();
    assert_eq!(found(&root, &["*.txt"]), ["docs/a.txt", "docs/sub/notes.txt", "work/Ä ümlaut.txt"]);
    assert_eq!(found(&root, &["*.txt", "docs"]), ["docs/a.txt", "docs/sub/notes.txt"]);
    assert_eq!(found(&root, &["note"]), ["docs/sub/notes.txt"]);
    assert_eq!(found(&root, &["sub/*.txt"]), ["docs/sub/notes.txt"]);
    assert_eq!(found(&root, &["sub/**/*.md"]), ["docs/sub/deep/a.md"]);
    assert_eq!(found(&root, &["ümlaut"]), ["work/Ä ümlaut.txt"]);
    assert_eq!(found(&root, &["deep"]), ["docs/sub/deep"]);
    assert!(found(&root, &["nothing like it"]).is_empty());
    root.run("search [ docs").expect(2);
    root.run("search x nosuch").expect(6);
    let table = root.run("search note").expect(0).stdout;
    assert!(table.contains("docs/sub/notes.txt") && table.contains("3 B"), "{table}");
}

#[test]
fn content_is_found_where_it_is_and_where_it_was() {
    let root = filled();
    let blake3 = blake3::hash(b"one").to_hex().to_string();
    let both = ["docs/a.txt", "work/same"];
    assert_eq!(found(&root, &[&blake3]), both);
    assert_eq!(found(&root, &[&blake3[..12]]), both);
    assert_eq!(found(&root, &[&blake3.to_uppercase()]), both);
    assert_eq!(found(&root, &[&blake3, "work"]), ["work/same"]);
    let log = root.run("log docs/a.txt --json").expect(0).json();
    assert_eq!(found(&root, &[log["sha256"].as_str().unwrap()]), both);
    assert_eq!(found(&root, &[log["txid"].as_str().unwrap()]), ["docs/a.txt"]);

    fs::write(root.outside().join("file"), "five").unwrap();
    root.run("put file docs/a.txt").expect(0);
    root.run("delete work").expect(0);
    assert_eq!(found(&root, &[&blake3]), ["docs/a.txt!", "work/same!"]);
    assert_eq!(found(&root, &[log["txid"].as_str().unwrap()]), ["docs/a.txt!"]);
    assert!(root.run(&format!("search {blake3}")).expect(0).stdout.contains("docs/a.txt (gone)"));
}

#[test]
fn a_running_node_is_asked() {
    let root = filled();
    root.run("node").expect(0);
    assert_eq!(found(&root, &["note"]), ["docs/sub/notes.txt"]);
    root.run("stop").expect(0);
}

#[test]
fn a_search_that_makes_no_sense_is_refused_by_its_status() {
    let rest = Service::start(TestRoot::new());
    for (query, status) in [("pattern=%5B", 400), ("pattern=x&bucket=nosuch", 404), ("pattern=x", 200)] {
        assert_eq!(rest.ask("GET", &format!("/v1/search?{query}"), "", "").0, status, "{query}");
    }
}
