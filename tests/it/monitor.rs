//! A stranger's monitor reads the log as tiles, and finds out a history that was rewritten.

use crate::proofs::python;
use crate::rest::Service;
use crate::root::{Ran, TestRoot};
use std::fs;
use std::process::Command;

/// What the monitor says of the log behind `rest`, given what it kept.
fn monitored(python: &str, rest: &Service, kept: &str) -> String {
    let checker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/log_monitor.py");
    let mut command = Command::new(python);
    command.current_dir(rest.root.outside()).args([checker, &format!("http://{}/log", rest.address), "vkey", kept]);
    Ran::from(command.output().unwrap()).expect(0).stdout.trim().to_owned()
}

#[test]
fn an_independent_monitor_reads_all_tiles_and_refuses_a_rewritten_history() {
    let Some(python) = python() else { return };
    let root = TestRoot::new();
    let folder = root.outside().join("folder");
    fs::create_dir(&folder).unwrap();
    for number in 0..300 {
        fs::write(folder.join(number.to_string()), number.to_string()).unwrap();
    }
    root.run("create docs --from folder").expect(0);
    let vkey = root.run("status --json").expect(0).json()["ledger"]["vkey"].as_str().unwrap().to_owned();
    fs::write(root.outside().join("vkey"), vkey).unwrap();
    let (copy, other) = (root.outside().join("copy"), root.outside().join("other"));
    let copied = Command::new("cp").arg("-a").arg(root.path("")).arg(&copy).status().unwrap();
    assert!(copied.success());

    let rest = Service::start(root);
    let first = monitored(python, &rest, "kept");
    let size: u64 = first.strip_prefix("ok ").unwrap_or_else(|| panic!("{first}")).parse().unwrap();
    assert!(size > 300, "{first}");
    // It goes on, and says what is erased.
    fs::write(rest.root.outside().join("5"), "other").unwrap();
    let replaced = rest.root.run("log docs/5 --json").expect(0).json_lines()[0]["txid"].as_str().unwrap().to_owned();
    rest.root.run("put 5 docs").expect(0);
    rest.root.run(&format!("forget --yes {replaced}")).expect(0);
    let second = monitored(python, &rest, "kept");
    assert!(second.starts_with("ok ") && second.contains(" erased ") && second != first, "{second}");
    rest.root.run("stop").expect(0);

    // An old copy of everything, keys too, goes another way: until it is longer, and then.
    let root = rest.root;
    fs::rename(root.path(""), &other).unwrap();
    fs::rename(&copy, root.path("")).unwrap();
    let rest = Service::start(root);
    assert!(monitored(python, &rest, "kept").starts_with("refused: the log shrank"));
    for number in 0..6 {
        rest.root.run(&format!("put 5 docs/new{number}")).expect(0);
    }
    assert_eq!(monitored(python, &rest, "kept"), "refused: the history was rewritten");
    assert_eq!(monitored(python, &rest, "kept"), "refused: the history was rewritten", "and it is not forgotten");
    assert!(monitored(python, &rest, "nothing kept yet").starts_with("ok "), "whoever kept nothing is told nothing");
}
