//! `wizefs doctor`: sound places are left in peace, and each fault is named with what to do.

use crate::root::TestRoot;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

/// What a check says: its statuses, and its messages and hints.
fn check(report: &Value, name: &str) -> (Vec<String>, String) {
    let all = report["checks"].as_array().unwrap().iter().filter(|finding| finding["check"] == name);
    let found: Vec<&Value> = all.collect();
    let statuses = found.iter().map(|finding| finding["status"].as_str().unwrap().to_owned()).collect();
    (statuses, found.iter().map(|finding| format!("{} {}\n", finding["message"], finding["hint"])).collect())
}

fn report(root: &TestRoot, flags: &str, code: i32) -> Value {
    root.run(&format!("doctor --json {flags}")).expect(code).json()
}

#[test]
fn a_place_where_nothing_is_yet_stays_so() {
    let root = TestRoot::new();
    let said = report(&root, "", if fs::metadata("/dev/fuse").is_ok() { 0 } else { 1 });
    assert_eq!(check(&said, "ledger").0, ["ok"]);
    assert!(!root.path("").exists(), "nothing is made");
    root.run("create docs").expect(0);
    let said = root.run("doctor").stdout;
    assert!(said.contains("only you can read them") && said.contains("1 bucket, all in order"), "{said}");
    assert!(said.lines().last().unwrap().contains(" ok"), "{said}");
}

#[test]
fn open_keys_are_closed() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    let key = root.path("wallets/default");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let said = report(&root, "", 1);
    assert_eq!(check(&said, "keys").0, ["error"]);
    assert!(check(&said, "keys").1.contains("chmod 600"), "{said}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o644, "it only looks");
    let fixed = report(&root, "--fix", 0);
    assert_eq!(check(&fixed, "keys").0, ["fixed"]);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(check(&report(&root, "", 0), "keys").0, ["ok"]);
}

#[test]
fn taken_ports_are_named() {
    let root = TestRoot::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = report(&root, &format!("--listen {address}"), 1);
    assert_eq!(check(&said, "ports").0, ["error"]);
    assert!(check(&said, "ports").1.contains(&address), "{said}");
    drop(taken);
    assert_eq!(check(&report(&root, &format!("--listen {address}"), 0), "ports").0, ["ok"]);
}

#[test]
fn dead_mounts_are_found_and_detached() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    root.run("mount docs").expect(0);
    assert_eq!(check(&report(&root, "", 0), "node").0, ["ok"]);
    root.signal(Signal::STOP);
    let said = root.run("doctor").stdout;
    let pid = root.node().unwrap().as_raw_nonzero();
    assert!(said.contains(&format!("the node (pid {pid}) has not answered")), "{said}");
    root.kill_node();
    let said = report(&root, "", 1);
    assert!(check(&said, "mounts").1.contains("is dead"), "{said}");
    assert_eq!(root.mounts().len(), 1, "it only looks");
    assert!(check(&report(&root, "--fix", 0), "mounts").0.contains(&"fixed".to_owned()));
    assert!(root.mounts().is_empty());
}

#[test]
fn damage_is_named_not_hidden() {
    let root = TestRoot::new();
    fs::create_dir(root.outside().join("tree")).unwrap();
    root.run("create tree --from tree").expect(0);
    fs::remove_dir(root.outside().join("tree")).unwrap();
    let said = report(&root, "", 1);
    assert!(check(&said, "buckets").1.contains("is not there"), "{said}");

    fs::write(root.path("wizedb.conf"), "{").unwrap();
    let said = report(&root, "", 1);
    assert!(check(&said, "ledger").1.contains("wizedb.conf"), "{said}");
    fs::write(root.path("node.conf"), "{").unwrap();
    assert!(check(&report(&root, "", 1), "config").1.contains("node.conf"));
}
