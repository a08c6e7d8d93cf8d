//! How often the kernel asks the node: each time costs two wake-ups, so it must not be more than needed.

use crate::root::TestRoot;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// What the kernel has asked of the mount of `docs` so far. Nothing is on its way any more: the node has recorded all.
fn requests(root: &TestRoot) -> BTreeMap<String, u64> {
    root.run("sync").expect(0);
    let mut status = root.run("status --json").expect(0).json();
    serde_json::from_value(status["requests"]["docs"].take()).unwrap()
}

fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.metadata().unwrap().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn what_the_kernel_has_seen_it_does_not_ask_for_again() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let mount = root.mnt("docs", "");
    for directory in 0..5 {
        fs::create_dir(mount.join(format!("d{directory}"))).unwrap();
        for number in 0..20 {
            fs::write(mount.join(format!("d{directory}/f{number}")), "content").unwrap();
        }
    }
    root.run("sync").expect(0);
    // The first reading of a directory moves its access time, after which the kernel asks for its attributes once.
    assert_eq!((walk(&mount), walk(&mount)), (100, 100));
    let before = requests(&root);
    for _ in 0..10 {
        assert_eq!(walk(&mount), 100);
    }
    assert_eq!(requests(&root), before);
    // Also what is not there, and not what has changed since.
    assert!(!mount.join("d0/missing").exists());
    let before = requests(&root);
    assert!(!mount.join("d0/missing").exists());
    assert_eq!(requests(&root), before);
    fs::write(mount.join("d0/missing"), "come").unwrap();
    assert_eq!(walk(&mount), 101);
    root.run("unmount docs").expect(0);
}

#[test]
fn a_file_is_made_written_and_closed_in_four_requests() {
    let Some(root) = TestRoot::with_fuse() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, only root's mounts are passed through");
        return;
    }
    root.run("create docs --mount").expect(0);
    let mount = root.mnt("docs", "");
    let before = requests(&root);
    for number in 0..100 {
        let mut file = File::create_new(mount.join(number.to_string())).unwrap();
        for _ in 0..10 {
            file.write_all(b"some content").unwrap();
        }
    }
    let after = requests(&root);
    let more: BTreeMap<_, _> =
        after.iter().map(|(name, n)| (name.as_str(), n - before.get(name).unwrap_or(&0))).collect();
    for (name, each) in [("lookup", 1), ("create", 1), ("getxattr", 1), ("release", 1), ("write", 0), ("flush", 0)] {
        assert_eq!(more.get(name).copied().unwrap_or(0), each * 100, "{name}: {more:?}");
    }
    assert!(more.values().sum::<u64>() <= 410, "{more:?}");
    root.run("unmount docs").expect(0);
}
