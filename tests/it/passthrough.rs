//! The kernel reads and writes files of a mount itself, and what it writes is recorded all the same.

use crate::root::{PATIENCE, TestRoot};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// A mounted bucket `docs`, for a test that needs the privilege to register backing files.
fn mounted(options: &str) -> Option<(TestRoot, PathBuf)> {
    let root = TestRoot::with_fuse()?;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, only root's mounts are passed through");
        return None;
    }
    root.run("create docs").expect(0);
    root.run(&format!("mount docs {options}")).expect(0);
    let mount = root.mnt("docs", "");
    Some((root, mount))
}

fn hash(content: &[u8]) -> serde_json::Value {
    blake3::hash(content).to_hex().to_string().into()
}

/// What the ledger has of a path last.
#[track_caller]
fn recorded(root: &TestRoot, path: &str) -> serde_json::Value {
    root.run(&format!("log docs/{path} -n 1 --json")).expect(0).json_lines().remove(0)
}

#[test]
fn an_open_file_is_read_and_written_while_the_node_stands_still() {
    let Some((root, mount)) = mounted("") else { return };
    let path = mount.join("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    // Before its first write the kernel asks once whether the file has capabilities to lose.
    file.write_all(b"first").unwrap();
    let content: Vec<u8> = (0..3_000_000).map(|i| (i / 7) as u8).collect();
    root.signal(Signal::STOP);
    let (mut same, wanted) = (file.try_clone().unwrap(), content.clone());
    let at_work = std::thread::spawn(move || {
        same.seek(SeekFrom::Start(0)).unwrap();
        same.write_all(&wanted).unwrap();
        let mut read = vec![0; wanted.len()];
        same.read_exact_at(&mut read, 0).unwrap();
        read == wanted
    });
    let start = Instant::now();
    while !at_work.is_finished() && start.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    let in_time = at_work.is_finished();
    root.signal(Signal::CONT);
    assert!(in_time, "reading or writing asked the node");
    assert!(at_work.join().unwrap());
    assert_eq!(file.metadata().unwrap().len(), content.len() as u64);
    drop(file);
    root.expect_clean("written past the node");
    assert_eq!(recorded(&root, "file")["blake3"], hash(&content));
}

#[test]
fn one_file_is_opened_in_every_way_at_once() {
    let Some((root, mount)) = mounted("") else { return };
    let path = mount.join("file");
    fs::write(&path, [1; 8192]).unwrap();
    fs::hard_link(&path, mount.join("link")).unwrap();
    let open = |path: &Path, flags: OFlags| {
        let mut options = OpenOptions::new();
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        options.read(!flags.contains(OFlags::WRONLY)).write(writes);
        let special = flags - OFlags::WRONLY - OFlags::RDWR;
        options.custom_flags(special.bits() as i32).open(path).unwrap()
    };
    let mut held = Vec::new();
    let ways = [
        OFlags::RDONLY,
        OFlags::RDWR,
        OFlags::WRONLY | OFlags::APPEND,
        OFlags::RDWR | OFlags::DIRECT,
        OFlags::RDONLY | OFlags::NOATIME,
        OFlags::WRONLY | OFlags::DSYNC,
    ];
    for (number, flags) in ways.into_iter().enumerate() {
        let name = if number % 2 == 0 { &path } else { &mount.join("link") };
        held.push((flags, open(name, flags)));
    }
    fs::rename(&path, mount.join("moved")).unwrap();
    held.push((OFlags::RDWR, open(&mount.join("moved"), OFlags::RDWR)));
    held.push((OFlags::RDWR | OFlags::TRUNC, open(&mount.join("link"), OFlags::RDWR | OFlags::TRUNC)));
    for (at, (flags, file)) in held.iter().enumerate() {
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR) && !flags.contains(OFlags::DIRECT) {
            file.write_all_at(b"written", at as u64 * 100).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        }
        if !flags.contains(OFlags::WRONLY) && !flags.contains(OFlags::DIRECT) {
            file.read_at(&mut [0; 100], 0).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        }
        file.sync_all().unwrap_or_else(|e| panic!("{flags:?}: {e}"));
    }
    let last = &held.last().unwrap().1;
    fallocate(last, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 100).unwrap();
    fs::remove_file(mount.join("link")).unwrap();
    // The way to what has no name any more, for one more open.
    fs::remove_file(mount.join("moved")).unwrap();
    let nameless = format!("/proc/self/fd/{}", last.as_raw_fd());
    let mut text = Vec::new();
    File::open(nameless).unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text.len() as u64, last.metadata().unwrap().len());
    drop(held);
    root.expect_clean("closed");
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
}

#[test]
fn what_a_sync_right_after_close_finds_is_not_open() {
    let Some((root, mount)) = mounted("") else { return };
    for round in 0..100 {
        fs::write(mount.join("file"), format!("{round}")).unwrap();
        let synced = root.run("sync --json").expect(0).json();
        assert_eq!(synced["open_writers"], serde_json::json!([]), "round {round}");
        assert_eq!(recorded(&root, "file")["blake3"], hash(format!("{round}").as_bytes()));
    }
    // One that is open is said to be, and is no reason to wait.
    let open = File::create(mount.join("open")).unwrap();
    let synced = root.run("sync --json").expect(0).json();
    assert_eq!(synced["open_writers"], serde_json::json!(["docs/open"]));
    drop(open);
    root.expect_clean("closed");
}

#[test]
fn a_duplicate_that_writes_after_a_recorded_close_is_recorded_too() {
    let Some((root, mount)) = mounted("--durability close") else { return };
    let mut file = File::create(mount.join("file")).unwrap();
    let mut duplicate = file.try_clone().unwrap();
    file.write_all(b"first").unwrap();
    drop(file);
    duplicate.write_all(b" and second").unwrap();
    drop(duplicate);
    root.expect_clean("closed");
    assert_eq!(recorded(&root, "file")["blake3"], hash(b"first and second"));
    // A close alone is enough at this durability, in whatever state the writer is.
    fs::write(mount.join("closed"), b"x").unwrap();
    assert_eq!(recorded(&root, "closed")["blake3"], hash(b"x"));
}

#[test]
fn a_writer_that_outlives_the_node_is_waited_for_and_recorded() {
    let Some((root, mount)) = mounted("") else { return };
    fs::write(mount.join("other"), b"x").unwrap();
    let file = File::create(mount.join("file")).unwrap();
    file.write_all_at(b"before", 0).unwrap();
    root.kill_node();
    // The kernel has the backing file, and the program does not notice.
    file.write_all_at(b" and after", 6).unwrap();
    let again = root.run("mount docs --json").expect(0).json();
    assert_eq!(again["cleared_stale"], true);
    let synced = root.run("sync --json").expect(0).json();
    assert_eq!(synced["open_writers"], serde_json::json!(["docs/file"]));
    file.write_all_at(b" the mount", 16).unwrap();
    drop(file);
    root.wait_for("the content of a closed file", || {
        recorded(&root, "file")["blake3"] == hash(b"before and after the mount")
    });
    assert_eq!(recorded(&root, "file")["cause"], "recovered");
    root.expect_clean("recovered");
}

#[test]
fn what_comes_by_other_ways_is_seen_in_the_mount_at_once() {
    let Some((root, mount)) = mounted("") else { return };
    let (file, dir) = (root.outside().join("file"), mount.join("dir"));
    for round in 0..20 {
        assert!(!dir.join("file").exists());
        assert!(fs::read_dir(&mount).unwrap().next().is_none());
        fs::write(&file, "x".repeat(round + 1)).unwrap();
        root.run("put file docs/dir/file").expect(0);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(fs::metadata(dir.join("file")).unwrap().len(), round as u64 + 1);
        fs::write(&file, "y".repeat(round + 5)).unwrap();
        root.run("put file docs/dir/file").expect(0);
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "y".repeat(round + 5));
        fs::hard_link(dir.join("file"), dir.join("link")).unwrap();
        assert_eq!(fs::metadata(dir.join("link")).unwrap().nlink(), 2);
        root.run("remove dir/file docs").expect(0);
        assert!(!dir.join("file").exists());
        assert_eq!(fs::metadata(dir.join("link")).unwrap().nlink(), 1);
        fs::remove_file(dir.join("link")).unwrap();
        // Also a name that nobody in the mount has asked for, in a folder that is listed.
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        root.run(&format!("put file docs/dir/new-{round}")).expect(0);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        root.run(&format!("remove dir/new-{round} docs")).expect(0);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
    }
}

#[test]
fn times_of_a_file_written_through_a_mapping_are_true_once_it_is_recorded() {
    let Some((root, mount)) = mounted("") else { return };
    let path = mount.join("mapped");
    fs::write(&path, [0; 4096]).unwrap();
    root.run("sync").expect(0);
    let before = fs::metadata(&path).unwrap();
    let script = "import mmap, os, sys\n\
        fd = os.open(sys.argv[1], os.O_RDWR)\n\
        view = mmap.mmap(fd, 4096)\n\
        os.close(fd)\n\
        os.stat(sys.argv[1])\n\
        view[0:5] = b'later'\n";
    let ran = Command::new("python3").args(["-c", script]).arg(&path).status().unwrap();
    assert!(ran.success());
    root.run("sync").expect(0);
    let backing = fs::metadata(root.path("buckets/docs/data/mapped")).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (backing.mtime(), backing.mtime_nsec()));
    assert_ne!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    root.expect_clean("mapped");
}

#[test]
fn a_writer_without_privilege_takes_the_set_id_bits_away() {
    let Some((root, mount)) = mounted("--allow-other") else { return };
    let path = mount.join("tool");
    // The way to the mount must be open to the other user.
    for dir in mount.ancestors().take_while(|dir| dir.starts_with(root.outside())) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for script in ["printf changed 1<>\"$1\"", "printf x >\"$1\"", "truncate -s 3 \"$1\"", "fallocate -l 99999 \"$1\""]
    {
        fs::write(&path, b"program").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777);
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", script, "sh"]).arg(&path);
        assert!(other.status().unwrap().success(), "{script}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "{script}");
    }
    root.expect_clean("changed by another user");
}

#[test]
fn set_id_bits_that_a_writer_took_away_are_not_shown_once_it_is_recorded() {
    let Some((root, mount)) = mounted("") else { return };
    let path = mount.join("tool");
    fs::write(&path, b"program").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6755);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b" changed").unwrap();
    root.run("sync").expect(0);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(recorded(&root, "tool")["mode"], 0o755);
}

#[test]
fn who_opened_past_the_cache_may_go_on_through_it() {
    let Some((root, mount)) = mounted("") else { return };
    // Its end is no whole block: dd(1) writes that after an fcntl(2) that the backing does not hear of.
    let content: Vec<u8> = (0..300_001).map(|i| (i / 7) as u8).collect();
    fs::write(root.outside().join("from"), &content).unwrap();
    let dd = |options: &str| {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", root.outside().join("from").display()))
            .arg(format!("of={}", mount.join("to").display()));
        let done = dd.args(["oflag=direct", "bs=64k"]).args(options.split_whitespace()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    dd("");
    assert_eq!(fs::read(mount.join("to")).unwrap(), content);
    root.run("sync").expect(0);
    assert_eq!(recorded(&root, "to")["blake3"], hash(&content));
    // While others have it open, who read and write it past the node.
    let mut other = OpenOptions::new().read(true).write(true).open(mount.join("to")).unwrap();
    other.write_all(b"other").unwrap();
    dd("conv=notrunc");
    other.write_all(b"again").unwrap();
    let mut seen = [0; 12];
    other.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!((&seen[..5], &seen[5..10]), (&content[..5], &b"again"[..]));
    drop(other);
    root.expect_clean("written past the cache");
}
