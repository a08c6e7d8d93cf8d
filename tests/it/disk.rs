//! Full disks: what is written fails and is said, nothing false is recorded, removing works, and with space all goes on.

use crate::grpc::{python, run_python};
use crate::rest::Service;
use crate::root::TestRoot;
use crate::transcript::shell;
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// Make `folder` a disk of its own of so many MiB; the root's drop takes it away. None, loudly, for who may not mount.
pub(crate) fn disk(folder: &Path, mib: u64) -> Option<()> {
    fs::create_dir_all(folder).unwrap();
    let size = std::ffi::CString::new(format!("size={mib}m")).unwrap();
    match mount("tmpfs", folder, "tmpfs", MountFlags::empty(), size.as_c_str()) {
        Ok(()) => Some(()),
        Err(e) => {
            eprintln!("SKIPPED, this test mounts small disks, as root: {e}");
            None
        }
    }
}

/// Bytes free on the disk of `path`.
fn free(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Take the free space of the disk in `folder`, except so many bytes.
fn fill(folder: &Path, leave: u64) -> PathBuf {
    let path = folder.join("filler");
    let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len() + free(folder).saturating_sub(leave);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
    path
}

/// What does not get smaller when it is packed.
fn content(seed: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn is_full(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ENOSPC)))
}

/// Write, then fsync: one of them must tell.
fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Once there is space, writing works again without anybody restarting anything.
#[track_caller]
fn expect_service_again(root: &TestRoot, bucket: &str) {
    let path = root.mnt(bucket, "again");
    // The space of a removed file comes back a moment after the removal.
    root.wait_for("put to work again", || root.run(&format!("put - {bucket}/piped")).code == 0);
    root.wait_for("writing to work again", || write_durably(&path, b"again").is_ok());
    assert_eq!(root.run("status --json").expect(0).json()["node"]["problem"], serde_json::Value::Null);
}

#[test]
fn a_full_backing_refuses_writes_and_records_only_what_is_there() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let backing = root.outside().join("small");
    let Some(()) = disk(&backing, 8) else { return };
    root.run("create docs --from small --mount").expect(0);
    let mount = root.mnt("docs", "");
    fs::write(mount.join("kept"), vec![b'k'; MIB as usize]).unwrap();
    root.run("sync").expect(0);
    assert!(is_full(&write_durably(&mount.join("large"), &vec![b'l'; 9 * MIB as usize])), "the write or fsync says so");
    // An overwrite that stops in the middle is what is on the disk, not what was wanted.
    let partly =
        OpenOptions::new().append(true).open(mount.join("kept")).unwrap().write_all(&vec![b'm'; 2 * MIB as usize]);
    assert!(is_full(&partly));
    fs::write(root.outside().join("FILE"), vec![b'f'; 2 * MIB as usize]).unwrap();
    let put = root.run("put FILE docs --json").expect(1);
    assert_eq!(put.error(), (1, "no-space".to_owned()));
    root.expect_clean("full");
    let fold = root.expect_log_is("docs", &backing);
    assert!(!fold.tree.contains_key(&b"FILE"[..]), "and no temporary file: {:?}", fold.tree.keys());

    fs::remove_file(mount.join("large")).unwrap();
    expect_service_again(&root, "docs");
    root.run("put FILE docs").expect(0);
    root.expect_clean("space again");
    root.expect_log_is("docs", &backing);
    root.run("unmount docs").expect(0);
}

/// Operations in the mount until one is refused for want of space.
#[track_caller]
fn write_until_refused(root: &TestRoot, bucket: &str) {
    let mut count = 0;
    root.wait_for("a write to be refused", || {
        count += 1;
        let result = write_durably(&root.mnt(bucket, &format!("try{}", count % 50)), format!("{count}").as_bytes());
        assert!(result.is_ok() || is_full(&result), "{result:?}");
        result.is_err()
    });
}

#[test]
fn a_full_ledger_refuses_writes_lets_remove_and_goes_on_with_space() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(()) = disk(&root.path("ledger"), 400) else { return };
    root.run("create docs --mount").expect(0);
    for i in 0..50 {
        fs::write(root.mnt("docs", &format!("file{i}")), format!("{i}")).unwrap();
    }
    root.run("sync").expect(0);
    // The disk fills up: at last also what the ledger kept back for this.
    for leave in [12 * MIB, 2 * MIB, 0] {
        let filler = fill(&root.path("ledger"), leave);
        write_until_refused(&root, "docs");
        let problem = root.run("status --json").expect(0).json()["node"]["problem"].clone();
        assert!(problem.as_str().is_some_and(|text| text.contains("full")), "{problem}");
        let put = root.run("put - docs/refused --json").expect(1);
        assert_eq!(put.error(), (1, "no-space".to_owned()));
        fs::remove_file(root.mnt("docs", &format!("file{}", leave / MIB))).unwrap();
        assert!(!root.path(format!("buckets/docs/data/file{}", leave / MIB)).exists());
        fs::remove_file(filler).unwrap();
        expect_service_again(&root, "docs");
        root.expect_clean("space again");
        root.expect_log_is_backing("docs");
    }
    fill(&root.path("ledger"), 0);
    write_until_refused(&root, "docs");
    // A node that dies with a full disk is no different.
    root.kill_node();
    fs::remove_file(root.path("ledger/filler")).unwrap();
    root.run("mount docs").expect(0);
    expect_service_again(&root, "docs");
    root.expect_clean("after a kill");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
}

#[test]
fn a_full_disk_of_an_archive_is_told_at_the_write_and_leaves_the_archive_whole() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let folder = root.outside().join("small");
    let Some(()) = disk(&folder, 48) else { return };
    let archive = folder.join("a.zip");
    shell(&folder, "python3 -c 'import zipfile; zipfile.ZipFile(\"a.zip\", \"w\").close()'");
    root.run("create docs --kind lz --from small/a.zip --mount").expect(0);
    let mount = root.mnt("docs", "");
    let kept = content(1, 6 * MIB);
    write_durably(&mount.join("kept"), &kept).unwrap();
    root.run("sync").expect(0);
    assert!(is_full(&write_durably(&mount.join("large"), &content(2, 60 * MIB))), "the write or fsync says so");
    fs::remove_file(mount.join("large")).unwrap();
    root.wait_for("the space of what was removed", || free(&folder) > 8 * MIB);
    // Room for the stage, and not for the archive beside it.
    let filler = fill(&folder, 5 * MIB);
    write_durably(&mount.join("waits"), &content(3, 4 * MIB)).unwrap();
    assert_eq!(root.run("sync --json").expect(1).error(), (1, "no-space".to_owned()));
    crate::lz::expect_whole(&archive, "full");
    // Dead in the middle of it.
    root.kill_node();
    crate::lz::expect_whole(&archive, "full and dead");
    root.run("mount docs").expect(0);
    assert_eq!(fs::read(mount.join("waits")).unwrap(), content(3, 4 * MIB), "what was synced is there");
    assert_eq!(fs::read(mount.join("kept")).unwrap(), kept);
    fs::remove_file(filler).unwrap();
    root.wait_for("the archive to be brought up to date", || root.run("sync").code == 0);
    expect_service_again(&root, "docs");
    root.expect_clean("space again");
    root.run("unmount docs").expect(0);
    crate::lz::expect_whole(&archive, "in the end");
    root.expect_log_is("docs", &crate::lz::unpacked(&archive, &root.outside().join("out")));
}

#[test]
fn one_full_disk_for_everything_can_be_emptied_again() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(()) = disk(&root.path(""), 300) else { return };
    root.run("create docs --mount").expect(0);
    let mount = root.mnt("docs", "");
    for i in 0..20 {
        fs::write(mount.join(format!("file{i}")), vec![i; 100_000]).unwrap();
    }
    root.run("sync").expect(0);
    let all = write_durably(&mount.join("all"), &vec![b'a'; 400 * MIB as usize]);
    assert!(is_full(&all), "{all:?}");
    write_until_refused(&root, "docs");
    shell(&mount, "rm -f file1* all");
    expect_service_again(&root, "docs");
    root.expect_clean("emptied");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
    root.expect_no_node();
    root.run("verify docs").expect(0);
}

#[test]
fn removing_frees_a_disk_that_is_full_to_the_last_byte() {
    let root = TestRoot::new();
    let Some(()) = disk(&root.path(""), 300) else { return };
    root.run("create docs").expect(0);
    fs::write(root.outside().join("FILE"), content(1, MIB)).unwrap();
    for name in ["first", "second", "third"] {
        root.run(&format!("put FILE docs/{name}")).expect(0);
    }
    let filler = fill(&root.path(""), 0);
    // Nobody has the ledger open ...
    root.run("status").expect(0);
    root.run("get first docs fetched").expect(0);
    root.run("remove first docs").expect(0);
    // ... or the bucket, after the reserve came back.
    fs::remove_file(&filler).unwrap();
    root.run("node --listen off --grpc-listen off").expect(0);
    root.wait_for("the reserve to be there again", || {
        root.run("status").expect(0);
        root.path("ledger/reserve").exists()
    });
    fill(&root.path(""), 0);
    root.run("remove second docs").expect(0);
    root.run("list docs").expect(0);
    root.run("stop").expect(0);
    root.run("integrity").expect(0);
}

#[test]
fn a_full_disk_keeps_nobody_from_mounting_or_unmounting() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(()) = disk(&root.path(""), 300) else { return };
    root.run("create docs --mount").expect(0);
    fs::write(root.mnt("docs", "f"), "x").unwrap();
    root.run("sync").expect(0);
    fill(&root.path(""), 0);
    root.run("unmount docs").expect(0);
    root.expect_no_node();
    assert!(!root.path("mnt/docs").exists());

    root.run("mount docs").expect(0);
    fill(&root.path(""), 0);
    rustix::mount::unmount(root.mnt("docs", ""), rustix::mount::UnmountFlags::empty()).unwrap();
    root.expect_no_node();
    let buckets = root.run("status --json").expect(0).json()["buckets"].clone();
    assert_eq!(buckets[0]["state"], "unmounted", "{buckets}");
}

/// Make the disk in `folder` take writes, or none.
fn remount(folder: &Path, flags: MountFlags) {
    rustix::mount::mount_remount(folder, flags, c"").unwrap();
}

#[test]
fn a_root_on_a_read_only_disk_is_checked_and_nothing_is_signed() {
    let root = TestRoot::new();
    let Some(()) = disk(&root.path(""), 256) else { return };
    fs::write(root.outside().join("f"), "f").unwrap();
    root.run("create docs").expect(0);
    root.run("put f docs").expect(0);
    let whole = root.run("integrity --json").expect(0).json();
    remount(&root.path(""), MountFlags::RDONLY);
    for line in ["put f docs/g", "mine", "status", "mount docs", "node", "integrity --rebuild"] {
        let told = root.run(&format!("{line} --json")).expect(8);
        assert!(told.stderr.contains("read-only file system"), "{line}: {told:#?}");
    }
    let told = root.run("status").expect(8).stderr;
    assert!(told.contains("cp -a") && told.contains("--root"), "{told}");
    // A copy that is kept as evidence can be checked where it is.
    assert_eq!(root.run("integrity --json").expect(0).json(), whole);
    remount(&root.path(""), MountFlags::empty());
    root.run("put f docs/g").expect(0);
    root.run("verify docs").expect(0);
    root.run("integrity").expect(0);
}

/// Adopt an archive of a tiny, a large and a larger member on a disk of its own.
fn small_archive(root: &TestRoot, mib: u64) -> Option<PathBuf> {
    let small = root.outside().join("small");
    disk(&small, mib)?;
    let script = "import os, zipfile; z = zipfile.ZipFile('small/a.zip', 'w'); z.writestr('first', '1')
z.writestr('large', os.urandom(5 << 20)); z.writestr('larger', os.urandom(6 << 20)); z.close()";
    shell(root.outside(), &format!("python3 -c \"{script}\""));
    root.run("create docs --kind lz --from small/a.zip").expect(0);
    Some(small)
}

#[test]
fn an_archive_without_room_for_a_copy_is_changed_where_it_is() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(small) = small_archive(&root, 32) else { return };
    root.run("mount docs").expect(0);
    fs::remove_file(root.mnt("docs", "large")).unwrap();
    root.run("sync").expect(0);
    fill(&small, 2 * MIB);
    // So much of it is holes that it would rather be written anew.
    fs::write(root.mnt("docs", "more"), "more").unwrap();
    root.run("sync").expect(0);
    fs::remove_file(root.mnt("docs", "larger")).unwrap();
    root.run("unmount docs").expect(0);
    crate::lz::expect_whole(&small.join("a.zip"), "on a full disk");
    root.run("verify docs").expect(0);
}

#[test]
fn a_full_disk_keeps_nobody_from_reading_an_archive_or_removing_from_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(small) = small_archive(&root, 32) else { return };
    root.run("mount docs").expect(0);
    write_durably(&root.mnt("docs", "late"), &content(4, 3 * MIB)).unwrap();
    root.kill_node();
    fill(&small, MIB);
    root.run("list docs").expect(0);
    assert_eq!(root.run("get first docs -").expect(0).stdout, "1");
    root.run("get late docs late").expect(0);
    root.run("verify docs").expect(0);
    let before = free(&small);
    root.run("remove larger docs").expect(0);
    assert!(free(&small) > before);
    crate::lz::expect_whole(&small.join("a.zip"), "removed from");
    root.run("remove large docs").expect(0);
    root.run("mount docs").expect(0);
    root.run("unmount docs").expect(0);
    root.run("verify docs").expect(0);
    assert!(!small.join("a.zip.lzfs").exists(), "the archive has everything");
}

#[test]
fn a_disk_without_a_byte_left_keeps_nobody_from_removing_from_an_archive_or_reading_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(small) = small_archive(&root, 32) else { return };
    root.run("mount docs").expect(0);
    let filler = fill(&small, 0);
    fs::remove_file(root.mnt("docs", "large")).unwrap();
    root.run("sync").expect(0);
    assert!(free(&small) > 4 * MIB, "what was removed makes room");
    root.run("unmount docs").expect(0);
    fill(&small, 0);
    assert_eq!(root.run("get first docs -").expect(0).stdout, "1");
    root.run("mount docs").expect(0);
    assert_eq!(fs::read_to_string(root.mnt("docs", "first")).unwrap(), "1");
    assert!(fs::remove_file(root.mnt("docs", "larger")).is_err(), "it can only be read");
    root.run("unmount docs").expect(0);
    assert!(!small.join("a.zip.lzfs").exists(), "nothing was begun that could not be ended");
    fs::remove_file(filler).unwrap();
    root.run("mount docs").expect(0);
    fs::remove_file(root.mnt("docs", "larger")).unwrap();
    root.run("unmount docs").expect(0);
    root.run("verify docs").expect(0);
    crate::lz::expect_whole(&small.join("a.zip"), "after a full disk");
    assert!(!small.join("a.zip.lzfs").exists());
}

#[test]
fn an_archive_on_a_disk_that_cannot_be_written_is_read() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(small) = small_archive(&root, 32) else { return };
    rustix::mount::mount_remount(&small, MountFlags::RDONLY, "").unwrap();
    assert!(root.run("list docs").expect(0).stdout.contains("larger"));
    assert_eq!(root.run("get first docs -").expect(0).stdout, "1");
    root.run("verify docs").expect(0);
    root.run("log docs").expect(0);
    root.run("mount docs --read-only").expect(0);
    assert_eq!(fs::read_to_string(root.mnt("docs", "first")).unwrap(), "1");
    root.run("unmount docs").expect(0);
    assert_ne!(root.run("remove first docs").code, 0);
    rustix::mount::mount_remount(&small, MountFlags::empty(), "").unwrap();
    root.run("remove first docs").expect(0);
    fs::remove_file(small.join("a.zip")).unwrap();
    assert!(root.run("log docs").expect(0).stdout.contains("first"));
}

/// The ledger's reserve keeps it going where no file can be stored any more: that is no node for those who store.
#[test]
fn a_node_on_a_full_disk_says_that_it_is_not_ready() {
    let root = TestRoot::new();
    let Some(()) = disk(&root.path(""), 300) else { return };
    root.run("create docs").expect(0);
    root.run("node --listen 127.0.0.1:0 --grpc-listen 127.0.0.1:0").expect(0);
    let node = root.run("status --json").expect(0).json()["node"].clone();
    let rest = Service { address: node["rest"].as_str().unwrap().to_owned(), root };
    let grpc = node["grpc"].as_str().unwrap();
    let is_ready = || {
        let (status, why) = rest.ask("GET", "/readyz", "", "");
        assert_eq!(status == 200, why == "ready", "{why}");
        let (_, metrics) = rest.ask("GET", "/metrics", "", "");
        assert!(metrics.contains(&format!("\nwizefs_problem {}\n", u8::from(status != 200))), "{why}");
        status == 200
    };
    assert!(is_ready() && is_serving(grpc, true));
    let filler = fill(&rest.root.path(""), 0);
    assert!(!is_ready(), "the reserve is the ledger's");
    // Opening the bucket takes it, for removes.
    rest.root.run("put - docs/f").expect(1);
    assert!(!is_ready());
    rest.root.wait_for("health to tell", || is_serving(grpc, false));
    fs::remove_file(filler).unwrap();
    rest.root.wait_for("health to tell", || is_ready() && is_serving(grpc, true));
    rest.root.run("put - docs/f").expect(0);
    rest.root.run("stop").expect(0);
    rest.root.expect_no_node();
}

/// What gRPC's health service says of the whole server.
const HEALTH: &str = "
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
with grpc.insecure_channel(sys.argv[1], options=[('grpc.enable_http_proxy', 0)]) as channel:
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
sys.exit(reply.status != health_pb2.HealthCheckResponse.SERVING)
";

/// Compares it with what is true; where there is no client, it is taken for that.
fn is_serving(grpc: &str, expect: bool) -> bool {
    python().is_none_or(|python| (run_python(&python, &["-c", HEALTH, grpc]).code == 0) == expect)
}
