//! Large directories: listed whole, from any position, while names come and go.
//!
//! `WIZEFS_TEST_ENTRIES` changes the count of names.

use crate::root::TestRoot;
use rustix::fs::{Dir, FileType, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// Name of entry `i`.
fn name(i: usize) -> String {
    format!("entry-{i:07}")
}

/// Names made in the backing before the mount: making so many through it is another test.
fn make(folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    let dir = File::open(folder).unwrap();
    for i in 0..count {
        rustix::fs::mknodat(&dir, name(i), FileType::Fifo, 0o600.into(), 0).unwrap();
    }
}

fn open(folder: &Path) -> Dir {
    let fd = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    Dir::new(fd).unwrap()
}

/// The names that are left, each with the position behind it. Fails when one comes twice.
#[track_caller]
fn rest(dir: &mut Dir) -> Vec<(String, i64)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for entry in dir {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap().to_owned();
        assert!(seen.insert(name.clone()), "{name} comes twice");
        found.push((name, entry.offset()));
    }
    found
}

fn expected(count: usize) -> BTreeSet<String> {
    (0..count).map(name).chain([".".to_owned(), "..".to_owned()]).collect()
}

#[test]
fn a_large_directory_is_complete_and_can_be_read_from_any_position() {
    // Opened by the node, and by the kernel itself.
    for mount in ["mount docs", "mount docs --exclusive"] {
        let Some(root) = TestRoot::with_fuse() else { return };
        expect_complete(&root, mount);
    }
}

fn expect_complete(root: &TestRoot, mount: &str) {
    let count = std::env::var("WIZEFS_TEST_ENTRIES").map_or(50_000, |value| value.parse().unwrap());
    let backing = root.outside().join("tree/large");
    make(&backing, count);
    root.run("create docs --from tree").expect(0);
    root.run(mount).expect(0);
    let folder = root.mnt("docs", "large");

    let start = Instant::now();
    let mut dir = open(&folder);
    let all = rest(&mut dir);
    let listed = start.elapsed();
    assert_eq!(all.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), expected(count));
    eprintln!("{count} names listed in {listed:.2?}");
    assert!(listed.as_secs() <= 10 + count as u64 / 20_000, "{listed:.2?}");

    // From the position behind any name come the names that came after it: at the ends, in the middle, and back again.
    for at in [0, 1, 2, all.len() / 3, all.len() - 2, all.len() - 1, 5] {
        dir.seek(all[at].1).unwrap();
        let next: Vec<_> = (&mut dir).take(100).map(|entry| entry.unwrap().file_name().to_owned()).collect();
        let expected: Vec<_> = all[at + 1..].iter().take(100).map(|(name, _)| name.as_str()).collect();
        assert_eq!(next.iter().map(|name| name.to_str().unwrap()).collect::<Vec<_>>(), expected, "behind entry {at}");
    }
    dir.rewind();
    assert_eq!(rest(&mut dir).len(), all.len());
    root.run("unmount docs").expect(13);
    drop(dir);
    root.run("unmount docs").expect(0);
}

#[test]
fn names_that_come_and_go_do_not_disturb_who_lists() {
    for mount in ["mount docs", "mount docs --exclusive"] {
        let Some(root) = TestRoot::with_fuse() else { return };
        expect_undisturbed(&root, mount);
    }
}

fn expect_undisturbed(root: &TestRoot, mount: &str) {
    make(&root.outside().join("tree"), 5_000);
    root.run("create docs --from tree").expect(0);
    root.run(mount).expect(0);
    let folder = root.mnt("docs", "");
    let mut dir = open(&folder);
    let mut seen: BTreeSet<String> =
        (&mut dir).take(1_000).map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    // Half of those not seen yet go, as `rm -r` does it, and others come.
    let unseen: Vec<_> = (0..5_000).map(name).filter(|name| !seen.contains(name)).collect();
    for (i, name) in unseen.iter().enumerate() {
        if i % 2 == 0 {
            fs::remove_file(folder.join(name)).unwrap();
            fs::write(folder.join(format!("new-{i}")), "").unwrap();
        }
    }
    for (name, _) in rest(&mut dir) {
        assert!(seen.insert(name.clone()), "{name} comes twice");
    }
    let missing: Vec<_> = unseen.iter().skip(1).step_by(2).filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "there all the time, and not listed: {missing:?}");
    // Rewound, it is a new look.
    dir.rewind();
    let now: BTreeSet<_> = rest(&mut dir).into_iter().map(|(name, _)| name).collect();
    let there: BTreeSet<_> = fs::read_dir(root.outside().join("tree"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(now.iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), there.iter().collect::<Vec<_>>());
    drop(dir);
    // And removing everything while listing ends.
    std::process::Command::new("find").arg(&folder).args(["-mindepth", "1", "-delete"]).status().unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    root.expect_clean("emptied");
    root.run("unmount docs").expect(0);
}

#[test]
fn inode_numbers_are_the_same_in_every_listing_and_after_a_remount() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let mount = root.mnt("docs", "");
    for i in 0..200 {
        fs::create_dir_all(mount.join(format!("d{}", i % 7))).unwrap();
        fs::write(mount.join(format!("d{}/f{i}", i % 7)), "x").unwrap();
    }
    fs::hard_link(mount.join("d0/f0"), mount.join("d1/other")).unwrap();
    std::os::unix::fs::symlink("d0", mount.join("link")).unwrap();
    let numbers = || {
        let mut found = BTreeMap::new();
        walk(&mount, &mut found);
        found
    };
    let before = numbers();
    assert_eq!(before.len(), 200 + 7 + 2 + 1);
    assert_eq!(before[&mount.join("d0/f0")], before[&mount.join("d1/other")]);
    root.run("unmount docs").expect(0);
    root.run("mount docs").expect(0);
    assert_eq!(numbers(), before);
    fs::rename(mount.join("d0"), mount.join("moved")).unwrap();
    assert_eq!(fs::metadata(mount.join("moved/f0")).unwrap().ino(), before[&mount.join("d0/f0")]);
    root.kill_node();
    root.run("mount docs").expect(0);
    assert_eq!(fs::metadata(mount.join("moved/f0")).unwrap().ino(), before[&mount.join("d0/f0")]);
    root.run("unmount docs").expect(0);
}

/// Every path below `folder`, `folder` too, with the number that listing and `stat` agree on.
fn walk(folder: &Path, found: &mut BTreeMap<std::path::PathBuf, u64>) {
    for entry in open(folder) {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name().to_str().unwrap());
        let stat = fs::symlink_metadata(&path).unwrap();
        if entry.file_name().to_bytes() == b"." {
            found.insert(folder.to_owned(), stat.ino());
        } else if entry.file_name().to_bytes() != b".." {
            assert_eq!(entry.ino(), stat.ino(), "{}", path.display());
            found.insert(path.clone(), stat.ino());
            if stat.is_dir() {
                walk(&path, found);
            }
        }
    }
}
