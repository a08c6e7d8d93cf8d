//! A backing that does not answer: the node does, says which program waits for what, and goes on when the backing does.

use crate::root::TestRoot;
use rustix::process::Signal;
use std::fs;
use std::process::{Command, Stdio};

#[test]
fn a_request_that_is_not_answered_is_told_of_and_answered_in_the_end() {
    let Some(below) = TestRoot::with_fuse() else { return };
    let root = TestRoot::new();
    // A bucket in a mount of another node, which is stopped.
    below.run("create deep --mount").expect(0);
    let tree = below.mnt("deep", "tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    below.run("sync").expect(0);
    let args = ["create", "docs", "--from", tree.to_str().unwrap(), "--mount"];
    root.run_args(&args).expect(0);
    assert_eq!(fs::read_to_string(root.mnt("docs", "file")).unwrap(), "content");
    let problem = || root.run("status --json").expect(0).json()["node"]["problem"].clone();
    assert_eq!(problem(), serde_json::Value::Null);

    below.signal(Signal::STOP);
    let mut waiting = Command::new("touch").arg(root.mnt("docs", "new")).stderr(Stdio::piped()).spawn().unwrap();
    root.wait_for("the node to tell", || problem().as_str().is_some_and(|text| text.contains("is not answered")));
    let text = problem().as_str().unwrap().to_owned();
    assert!(text.contains(&format!("process {}", waiting.id())) && text.starts_with("docs: "), "{text}");
    assert!(waiting.try_wait().unwrap().is_none());
    below.signal(Signal::CONT);
    assert!(waiting.wait().unwrap().success(), "it has its answer");
    root.wait_for("the problem to be gone", || problem().is_null());
    assert!(root.mnt("docs", "new").exists());
    root.run("sync").expect(0);
    root.run("verify docs").expect(0);
    root.run("unmount docs").expect(0);
    below.run("unmount deep").expect(0);
}
