//! Disks that fail, and a process that may not open more: programs are told, nothing false is recorded, and it goes on after.

use crate::disk::disk;
use crate::root::{PATIENCE, Ran, TestRoot, finish};
use rustix::mount::{MountFlags, mount_remount};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: usize = 1 << 20;

/// An ext4 on an image in a disk of 24 MiB that claims to have 160, mounted at `tree`: both below `outside`. None, loudly, where
/// that cannot be made.
fn thin_disk(root: &TestRoot, tree: &str) -> Option<PathBuf> {
    disk(&root.outside().join("host"), 24)?;
    let (image, tree) = (root.outside().join("host/image"), root.outside().join(tree));
    File::create(&image).unwrap().set_len(160 * MIB as u64).unwrap();
    fs::create_dir_all(&tree).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal", "-m", "0"]).arg(&image).output();
    let mounted = made.and_then(|_| Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&tree).output());
    if mounted.as_ref().is_ok_and(|done| done.status.success()) {
        return Some(tree);
    }
    eprintln!("SKIPPED, this test mounts an image: {mounted:?}");
    None
}

/// Give the host's disk so much space.
fn grow(root: &TestRoot, mib: u64) {
    let size = std::ffi::CString::new(format!("size={mib}m")).unwrap();
    mount_remount(root.outside().join("host"), MountFlags::empty(), size.as_c_str()).unwrap();
}

fn is_broken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::ENOSPC))
}

/// Bytes that differ from file to file and do not compress away.
fn content(seed: u64, size: usize) -> Vec<u8> {
    let mut random = crate::load::Random::new(seed);
    std::iter::repeat_with(|| random.next().to_le_bytes()).take(size / 8).flatten().collect()
}

/// What the disk has, and not what is in memory.
fn on_disk(path: &Path) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_the_disk_did_not_take_is_told_and_is_not_the_last_word() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(tree) = thin_disk(&root, "tree") else { return };
    root.run("create docs --from tree").expect(0);
    root.run("mount docs").expect(0);
    let mounted = root.mnt("docs", "");
    let kept = content(1, MIB);
    fs::write(mounted.join("kept"), &kept).unwrap();
    root.run("sync").expect(0);

    // More than the host has: memory takes it, the disk does not.
    let mut lost = Vec::new();
    for i in 0..10 {
        let (name, bytes) = (format!("lost{i}"), content(10 + i, 4 * MIB));
        let mut file = File::create(mounted.join(&name)).unwrap();
        if let Err(e) = file.write_all(&bytes) {
            assert!(is_broken(&e), "{e}");
        }
        if let Err(e) = file.sync_all() {
            assert!(is_broken(&e), "{e}");
            lost.push(name);
        }
    }
    assert!(!lost.is_empty(), "fsync tells of what is lost");
    // The node is alive, and reading goes on.
    assert_eq!(fs::read(mounted.join("kept")).unwrap(), kept);
    root.run("status").expect(0);

    grow(&root, 300);
    root.wait_for("the disk to take everything again", || root.run("sync").code == 0);
    fs::write(mounted.join("again"), &kept).unwrap();
    File::open(mounted.join("again")).unwrap().sync_all().unwrap();
    root.run("sync").expect(0);
    assert_eq!(on_disk(&tree.join("again")), kept);
    // The ledger has last what the disk has, whether or not it is what was written.
    for name in (0..10).map(|i| format!("lost{i}")) {
        let line = &root.run(&format!("log docs/{name} -n 1 --json")).expect(0).json_lines()[0];
        let hash = blake3::hash(&on_disk(&tree.join(&name))).to_hex().to_string();
        assert_eq!(line["blake3"], hash, "{name}: {line}");
    }
    assert_eq!(root.run("integrity --json").expect(0).json()["ok"], true);
    root.run("unmount docs").expect(0);
}

#[test]
fn what_is_sealed_is_on_the_disk_also_where_another_one_is_mounted_in_the_folder() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(_disk) = thin_disk(&root, "tree/other") else { return };
    root.run("create docs --from tree").expect(0);
    root.run("mount docs").expect(0);
    let is_there = |bytes: &[u8]| {
        let image = fs::read(root.outside().join("host/image")).unwrap();
        image.chunks(1024).any(|block| block.starts_with(&bytes[..1024]))
    };
    for seed in [1, 2] {
        let bytes = content(seed, 8192);
        fs::write(root.mnt("docs", &format!("other/file{seed}")), &bytes).unwrap();
        assert!(!is_there(&bytes), "nobody has asked for it yet");
        root.run("sync").expect(0);
        assert!(is_there(&bytes), "{seed}");
        // And so in a session that has not been there yet.
        root.run("unmount docs").expect(0);
        root.run("mount docs").expect(0);
    }
    root.run("unmount docs").expect(0);
}

#[test]
fn what_cannot_be_read_is_an_error_and_gets_no_hash() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(tree) = thin_disk(&root, "tree") else { return };
    root.run("create docs --from tree").expect(0);
    root.run("mount docs").expect(0);
    let mounted = root.mnt("docs", "");
    for i in 0..4 {
        fs::write(mounted.join(format!("file{i}")), content(i, 2 * MIB)).unwrap();
    }
    root.run("sync").expect(0);
    root.run("verify docs").expect(0);
    let before = root.run("log docs --json").expect(0).json_lines().len();
    root.run("unmount docs").expect(0);

    // Half of the disk goes: reading it is an error from now on.
    let image = OpenOptions::new().write(true).open(root.outside().join("host/image")).unwrap();
    let last = (0..4).map(|i| first_block(&tree.join(format!("file{i}")))).max().unwrap();
    image.set_len(last).unwrap();
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    root.run("mount docs").expect(0);
    let read: Vec<_> = (0..4).map(|i| fs::read(mounted.join(format!("file{i}")))).collect();
    let failed = read.iter().filter(|read| read.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EIO))).count();
    assert!(failed > 0 && read.iter().all(|read| read.as_ref().map_or_else(is_broken, |_| true)), "{failed}");
    assert_ne!(root.run("verify docs").code, 0, "and verify says so");

    // Written in part, such a file cannot be hashed: it is not recorded with a hash of anything.
    let victim = (0..4).find(|i| read[*i as usize].is_err()).unwrap();
    let file = OpenOptions::new().write(true).open(mounted.join(format!("file{victim}"))).unwrap();
    let written = file.write_at(b"x", 0).is_ok();
    drop(file);
    if written {
        root.run("sync").expect(0);
    }
    let lines = root.run("log docs --json").expect(0).json_lines();
    let hashed = lines[..lines.len() - before].iter().filter(|line| line["blake3"].is_string()).count();
    assert_eq!(hashed, 0, "{lines:#?}");

    // With the disk back, so is everything.
    image.set_len(160 * MIB as u64).unwrap();
    fs::write(mounted.join(format!("file{victim}")), content(9, MIB)).unwrap();
    root.run("sync").expect(0);
    let line = &root.run(&format!("log docs/file{victim} -n 1 --json")).expect(0).json_lines()[0];
    assert_eq!(line["blake3"], blake3::hash(&content(9, MIB)).to_hex().to_string());
    root.run("unmount docs").expect(0);
}

/// Where on its disk a file's content begins, in bytes.
fn first_block(path: &Path) -> u64 {
    let ran: Ran = Command::new("filefrag").args(["-v", "-b1"]).arg(path).output().unwrap().into();
    let line =
        ran.stdout.lines().find(|line| line.trim_start().starts_with("0:")).unwrap_or_else(|| panic!("{ran:#?}"));
    let physical = line.split(':').nth(2).unwrap().trim().split('.').next().unwrap();
    physical.parse().unwrap()
}

#[test]
fn a_node_that_may_not_open_more_says_so_and_goes_on() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    let node = root.command(&["mount", "docs"]);
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=128:128").arg(node.get_program()).args(node.get_args());
    limited.envs(node.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(root.outside());
    let ran: Ran = limited.output().unwrap().into();
    ran.expect(0);
    let mounted = root.mnt("docs", "");
    fs::create_dir(mounted.join("dir")).unwrap();
    let mut held = Vec::new();
    let mut refused = 0;
    for i in 0..400 {
        match OpenOptions::new().create(true).append(true).open(mounted.join(format!("dir/file{i}"))) {
            Ok(mut file) => {
                // What was opened can be written.
                if let Err(e) = file.write_all(format!("{i}").as_bytes()) {
                    assert!(matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)), "{e}");
                }
                held.push(file);
            }
            Err(e) => {
                assert!(matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)), "{e}");
                refused += 1;
            }
        }
    }
    eprintln!("{} opened, {refused} refused", held.len());
    assert!(refused > 0);
    let status = root.run("status");
    assert!(status.code == 0 || status.stderr.contains("too many open files"), "{status:?}");
    drop(held);
    let start = std::time::Instant::now();
    while let Err(e) = fs::write(mounted.join("after"), "after") {
        assert!(start.elapsed() < PATIENCE, "{e}");
        std::thread::yield_now();
    }
    // The others are given back one after the other.
    root.wait_for("descriptors for a sync", || {
        let ran = finish(root.start("sync"));
        assert!(ran.code == 0 || ran.stderr.contains("too many open files"), "{ran:?}");
        ran.code == 0
    });
    root.expect_clean("after too many files");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
}
