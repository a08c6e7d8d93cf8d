//! A large tree of small files: copied in, renamed, half removed; then the log, folded, is the backing, both ways.
//!
//! `WIZEFS_TEST_FILES` changes the count of files.

use crate::root::TestRoot;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Files in a folder of the tree.
const PER_FOLDER: usize = 100;

fn count() -> usize {
    std::env::var("WIZEFS_TEST_FILES").map_or(20_000, |value| value.parse().unwrap())
}

/// Small files of different sizes and modes, links among them, in nested folders.
fn make(top: &Path, files: usize) {
    for i in 0..files {
        let folder = i / PER_FOLDER;
        let path = top.join(format!("part{}/folder{folder}/deep/file{i}", folder % 5));
        if i % PER_FOLDER == 0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::create_dir_all(top.join(format!("part{}/folder{folder}/empty", folder % 5))).unwrap();
            std::os::unix::fs::symlink(
                format!("deep/file{i}"),
                top.join(format!("part{}/folder{folder}/link", folder % 5)),
            )
            .unwrap();
        }
        fs::write(&path, format!("{i:>width$}\n", width = i % 3000)).unwrap();
    }
}

#[track_caller]
fn shell(command: &str, folder: &Path) {
    let done = Command::new("sh").args(["-ec", command]).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{command}: {done:#?}");
}

#[test]
fn a_large_tree_is_recorded_wholly_and_the_log_is_the_tree() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let files = count();
    let folders = files.div_ceil(PER_FOLDER);
    make(&root.outside().join("tree"), files);
    root.run("create docs --mount").expect(0);

    let mount = root.mnt("docs", "");
    shell("cp -r --preserve=mode ../../../tree .", &mount);
    root.run_long("sync").expect(0);
    let line = "log docs --json -n 1";
    assert_eq!(root.run(line).expect(0).json_lines()[0]["status"], "final");
    let entries = files + folders;
    let status = root.run("status --json").expect(0).json();
    assert_eq!(status["buckets"][0]["files"].as_u64(), Some(entries as u64), "files and links");
    assert_eq!((&status["ledger"]["pending"], &status["ledger"]["unsettled"]), (&0.into(), &0.into()));

    let before = root.run("status --json").expect(0).json()["ledger"]["transactions"].as_u64();
    shell("mv tree/part1 tree/part2/inner && mv tree renamed && mkdir tree && mv renamed/part3/folder3 tree/", &mount);
    root.run_long("sync").expect(0);
    let after = root.run("status --json").expect(0).json()["ledger"]["transactions"].as_u64();
    // Three renames and a mkdir, whatever is inside; and a coinbase for each block.
    assert!(after.unwrap() - before.unwrap() <= 4 + 6, "{before:?} {after:?}");

    // Half of them, by number, while others come.
    shell("find renamed -name 'file*[02468]' -delete && cp -r renamed/part0 again && rm -r renamed/part4", &mount);
    root.run_long("sync").expect(0);
    let verified = root.run_long("verify docs --json").expect(0).json_lines();
    assert_eq!(verified.len(), 1, "{verified:#?}");
    let fold = root.expect_log_is_backing("docs");
    assert_eq!(fold.causes.keys().collect::<Vec<_>>(), ["mount"], "{:?}", fold.causes);
    let found = verified[0]["files"].as_u64();
    let recorded = fold.tree.values().filter(|item| !matches!(item, crate::fold::Item::Directory { .. })).count();
    assert_eq!(found, Some(recorded as u64));
    assert_eq!(root.run_long("integrity --json").expect(0).json()["ok"], true);
    root.run_long("unmount docs").expect(0);
    root.run_long("verify docs").expect(0);
}
