//! What happens to a folder behind its bucket, by those who may: things come and go, a backup is restored, disks are mounted.

use crate::disk::disk;
use crate::root::TestRoot;
use crate::transcript::shell;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Lines of the log, oldest first, after the first `skip`: `mount put sub/a`.
fn told(root: &TestRoot, bucket: &str, skip: usize) -> Vec<String> {
    let lines = root.run(&format!("log {bucket} --json")).expect(0).json_lines();
    let of = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let lines = lines.iter().rev().map(|line| format!("{} {} {}", of(line, "cause"), of(line, "op"), of(line, "path")));
    lines.skip(skip).collect()
}

fn append(path: &Path, text: &str) {
    fs::File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn what_came_or_went_behind_the_bucket_is_accepted_whatever_it_is() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::write(root.outside().join("f"), "content").unwrap();
    for path in ["gone", "d/x", "d/y/z", "kind", "again/x", "again/y", "dir/x"] {
        root.run(&format!("put f docs/{path}")).expect(0);
    }
    let data = root.path("buckets/docs/data");
    shell(
        &data,
        "rm -r gone d kind again dir; mkdir -p emp/sub kind again; ln -s target link; ln -s f dir; mkfifo pipe",
    );
    shell(&data, "echo content > again/y");
    root.run("verify docs").expect(26);
    root.run("remove gone docs").expect(11);
    for path in ["gone", "d", "kind", "emp", "emp/sub", "link", "dir", "again/x", "again/y"] {
        root.run(&format!("accept docs/{path}")).expect(0);
    }
    root.run("verify docs").expect(0);
    let logged = |path: &str| root.run(&format!("log docs/{path} --json")).expect(0).json_lines()[0].clone();
    for (path, op) in [("gone", "remove"), ("d", "rmdir"), ("emp", "mkdir"), ("link", "accept"), ("again/x", "remove")]
    {
        let line = logged(path);
        assert_eq!((line["op"].as_str(), line["cause"].as_str()), (Some(op), Some("put")), "{path}");
    }
    for path in ["gone", "never", "pipe"] {
        root.run(&format!("accept docs/{path}")).expect(11);
    }
    root.run("accept docs").expect(2);
    // What was accepted is the bucket's like everything else.
    root.run("put f docs/emp/sub/new").expect(0);
    root.run("remove link docs").expect(0);
    root.run("verify docs").expect(0);
}

#[test]
fn what_is_given_back_is_said_to_be_there_only_if_it_is() {
    let root = TestRoot::new();
    for (folder, said) in [("kept", "is left as it is"), ("gone", "is not there")] {
        let path = root.outside().join(folder);
        fs::create_dir(&path).unwrap();
        root.run(&format!("create docs --from {folder}")).expect(0);
        if folder == "gone" {
            fs::remove_dir(&path).unwrap();
        }
        let deleted = root.run("delete docs").expect(0);
        assert!(deleted.stderr.contains(said), "{deleted:#?}");
    }
}

#[test]
fn what_was_in_a_folder_that_was_made_anew_is_missing_until_it_is_accepted() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let folder = root.outside().join("folder");
    fs::create_dir(&folder).unwrap();
    root.run("create docs --from folder").expect(0);
    root.run("mount docs").expect(0);
    let mounted = root.mnt("docs", "");
    shell(&mounted, "mkdir d d/sub; echo a > d/a; echo b > d/sub/b; echo kept > d/kept");
    root.run("sync").expect(0);
    fs::remove_dir_all(folder.join("d")).unwrap();
    root.wait_for("the kernel to see that it is gone", || fs::create_dir(mounted.join("d")).is_ok());
    fs::write(mounted.join("d/kept"), "new").unwrap();
    root.run("sync").expect(0);
    let verified = root.run("verify docs").expect(26);
    for (path, missing) in [("d/a", true), ("d/sub/b", true), ("d/kept", false)] {
        assert_eq!(verified.stdout.contains(path) || verified.stderr.contains(path), missing, "{path}: {verified:#?}");
    }
    for path in ["d/a", "d/sub/b", "d/sub"] {
        root.run(&format!("accept docs/{path}")).expect(0);
    }
    root.run("verify docs").expect(0);
    root.expect_log_is("docs", &folder);
    root.run("unmount docs").expect(0);
}

#[test]
fn a_folder_restored_from_a_copy_is_known_again_once_it_was_verified() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let tree = root.outside().join("tree");
    fs::create_dir_all(tree.join("sub/deep")).unwrap();
    fs::create_dir_all(tree.join("empty")).unwrap();
    for name in ["a", "sub/b", "sub/deep/c", "changed"] {
        fs::write(tree.join(name), name).unwrap();
    }
    fs::write(tree.join("big"), vec![7; 300_000]).unwrap();
    fs::hard_link(tree.join("a"), tree.join("sub/other")).unwrap();
    symlink("a", tree.join("link")).unwrap();
    root.run("create work --from tree").expect(0);
    shell(root.outside(), "cp -a tree copy && rm -r tree && mv copy tree");
    root.run("verify work").expect(0);
    fs::write(tree.join("changed"), "behind").unwrap();
    let before = told(&root, "work", 0).len();
    root.run("mount work").expect(0);
    let at = |path: &str| root.mnt("work", path);
    append(&at("a"), "more");
    append(&at("sub/deep/c"), "more");
    append(&at("big"), "more");
    fs::rename(at("sub"), at("moved")).unwrap();
    fs::rename(at("link"), at("renamed")).unwrap();
    fs::remove_dir(at("empty")).unwrap();
    append(&at("changed"), "more");
    root.run("sync").expect(0);
    let mut told = told(&root, "work", before);
    told.sort();
    let expect = [
        "foreign put changed",
        "mount put a",
        "mount put big",
        "mount put moved/deep/c",
        "mount put moved/other",
        "mount rename moved",
        "mount rename renamed",
        "mount rmdir empty",
    ];
    // A file may have been at rest before its folder moved.
    let told: Vec<_> = told.iter().map(|line| line.replace("put sub/", "put moved/")).collect();
    assert_eq!(told, expect);
    root.run("accept work/changed").expect(0);
    root.run("verify work").expect(0);
    root.run("unmount work").expect(0);
}

#[test]
fn a_folder_that_is_mounted_in_itself_is_not_entered_again() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let above = root.outside().join("above");
    let tree = above.join("tree");
    for folder in ["sub/loop", "top", "above"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fs::write(tree.join("sub/a"), "a").unwrap();
    for (from, to) in [(&tree.join("sub"), "sub/loop"), (&tree, "top"), (&above, "above")] {
        if let Err(e) = mount_bind(from, tree.join(to)) {
            eprintln!("SKIPPED, this test mounts folders, as root: {e}");
            return;
        }
    }
    let created = root.run("create work --from above/tree").expect(0);
    for path in ["sub/loop", "top", "above/tree"] {
        assert!(created.stderr.contains(&format!("{path} is not recorded")), "{created:?}");
    }
    root.run("verify work").expect(0);
    root.run("mount work").expect(0);
    for path in ["sub/loop", "top", "above/tree"] {
        let error = fs::metadata(root.mnt("work", path)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{path}");
    }
    fs::write(root.mnt("work", "sub/b"), "b").unwrap();
    root.run("sync").expect(0);
    root.kill_node();
    root.run("mount work").expect(0);
    root.run("unmount work").expect(0);
    root.run("verify work").expect(0);
}

#[test]
fn disks_in_an_adopted_folder_are_known_again_in_whatever_order_they_are_met() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let tree = root.outside().join("tree");
    for side in ["s1", "s2"] {
        let Some(()) = disk(&tree.join(side), 4) else { return };
        fs::create_dir(tree.join(side).join("d")).unwrap();
        fs::write(tree.join(side).join("d/f"), side).unwrap();
    }
    root.run("create work --from tree").expect(0);
    let before = told(&root, "work", 0).len();
    let at = |path: &str| root.mnt("work", path);
    let numbers = || ["s1/d/f", "s2/d/f"].map(|path| fs::metadata(at(path)).unwrap().ino());
    root.run("mount work").expect(0);
    let met = numbers();
    root.run("unmount work").expect(0);
    root.run("mount work").expect(0);
    fs::read_dir(at("s2/d")).unwrap().count();
    fs::metadata(at("s2/d/f")).unwrap();
    assert_eq!(numbers(), met);
    fs::rename(at("s1/d"), at("s1/e")).unwrap();
    append(&at("s2/d/f"), "more");
    root.run("sync").expect(0);
    root.kill_node();
    root.run("mount work").expect(0);
    append(&at("s1/e/f"), "more");
    root.run("sync").expect(0);
    assert_eq!(told(&root, "work", before), ["mount rename s1/e", "mount put s2/d/f", "mount put s1/e/f"]);
    root.run("verify work").expect(0);
    root.run("unmount work").expect(0);
}

#[test]
fn the_disk_of_an_adopted_folder_can_be_taken_away_when_nobody_uses_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let tree = root.outside().join("tree");
    fs::create_dir_all(&tree).unwrap();
    for below in ["", "below"] {
        let Some(()) = disk(&tree.join(below), 4) else { return };
    }
    fs::write(tree.join("below/f"), "content").unwrap();
    // It keeps the node, which would let go of everything when it ends.
    root.run("create other --mount").expect(0);
    root.run("create work --from tree").expect(0);
    let away = |path: &Path| unmount(path, UnmountFlags::empty());
    root.run("mount work").expect(0);
    append(&root.mnt("work", "below/f"), "more");
    root.run("unmount work").expect(0);
    root.wait_for("the disk in it is let go", || away(&tree.join("below")).is_ok());
    // What looked at it without a mount lets go of it in a while.
    root.run("verify work").expect(26);
    root.wait_for("the disk is let go", || away(&tree).is_ok());
    root.run("unmount other").expect(0);
}

#[test]
fn a_put_keeps_what_it_does_not_say() {
    let root = TestRoot::new();
    root.run("create docs").expect(0);
    fs::write(root.outside().join("secret"), "one").unwrap();
    fs::set_permissions(root.outside().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    root.run("put secret docs").expect(0);
    let file = root.path("buckets/docs/data/secret");
    rustix::fs::setxattr(&file, "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&file, Some(4711), Some(4712)).unwrap();
    }
    root.run("put - docs/secret").expect(0);
    let stat = fs::metadata(&file).unwrap();
    let mut note = [0; 8];
    let length = rustix::fs::getxattr(&file, "user.note", &mut note[..]).unwrap();
    assert_eq!((stat.len(), stat.mode() & 0o7777, &note[..length]), (0, 0o600, &b"kept"[..]));
    assert!(!is_root || (stat.uid(), stat.gid()) == (4711, 4712));
    // Who says which bits has those.
    fs::set_permissions(root.outside().join("secret"), fs::Permissions::from_mode(0o640)).unwrap();
    root.run("put secret docs").expect(0);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
    root.run("put - docs/new").expect(0);
    assert_eq!(fs::metadata(root.path("buckets/docs/data/new")).unwrap().mode() & 0o7777, 0o644);
    root.run("verify docs").expect(0);
}

/// A mount in `folder` whose program is gone, as a crash leaves it. None, loudly, for who may not mount.
fn dead_mount(folder: &Path) -> Option<()> {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let data = std::ffi::CString::new(data).unwrap();
    let mounted = mount("dead", folder, "fuse", MountFlags::empty(), data.as_c_str());
    mounted.inspect_err(|e| eprintln!("SKIPPED, this test mounts as root: {e}")).ok()
}

/// The names in `folder`, as `ls -A` shows them.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

#[test]
fn what_cannot_be_looked_at_keeps_nobody_from_the_rest() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let folder = root.outside().join("folder");
    shell(
        root.outside(),
        "mkdir -p folder/dead folder/late folder/sub; cd folder; echo a > a; echo s > sub/s; echo l > late/l",
    );
    let Some(()) = dead_mount(&folder.join("dead")) else { return };
    let created = root.run("create docs --from folder --json").expect(0).json();
    assert_eq!(created["unread"][0]["path"], "dead", "{created}");
    root.run("mount docs").expect(0);
    let mounted = root.mnt("docs", "");
    let dead =
        |name: &str| assert_eq!(fs::metadata(mounted.join(name)).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    for _ in 0..2 {
        assert_eq!(names(&mounted), names(&folder));
        dead("dead");
    }
    // One that was recorded before its mount died.
    dead_mount(&folder.join("late")).unwrap();
    append(&mounted.join("a"), "more\n");
    root.run("sync").expect(0);
    let found: Vec<_> = root.run("verify docs --json").expect(26).json_lines();
    let found: Vec<_> = found.iter().map(|line| (line["type"].as_str().unwrap(), line["path"].as_str())).collect();
    assert_eq!(found, [("foreign", Some("dead")), ("damaged", Some("late")), ("summary", None)]);
    let listed = root.run("list docs --json").expect(0).json()["entries"].as_array().unwrap().len();
    assert_eq!(listed, 4);

    // A recovery looks at everything, and takes nothing for gone that it does not see.
    append(&mounted.join("a"), "killed\n");
    root.kill_node();
    root.run("mount docs").expect(0);
    assert_eq!(names(&mounted), names(&folder));
    root.run("sync").expect(0);
    root.run("unmount docs").expect(0);
    for name in ["dead", "late"] {
        unmount(folder.join(name), UnmountFlags::DETACH).unwrap();
    }
    let found = root.run("verify docs --json").expect(26).json_lines();
    assert_eq!((found.len(), found[0]["path"].as_str()), (2, Some("dead")), "{found:?}");
    root.run("accept docs/dead").expect(0);
    root.run("verify docs").expect(0);
}

#[test]
fn a_very_deep_folder_is_adopted_listed_and_verified() {
    let root = TestRoot::new();
    let mut at = fs::File::open(root.outside()).unwrap();
    for name in std::iter::once("folder").chain(["d"; 600]) {
        mkdirat(&at, name, 0o755.into()).unwrap();
        at = openat(&at, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap().into();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let mut file = fs::File::from(openat(&at, "last", flags, 0o644.into()).unwrap());
    file.write_all(b"deep").unwrap();
    drop(file);
    root.run("create docs --from folder").expect(0);
    let found = root.run("verify docs --json").expect(0).json_lines();
    assert_eq!((&found[0]["files"], &found[0]["ok"]), (&1.into(), &1.into()));
    let deepest = format!("docs{}", "/d".repeat(600));
    assert_eq!(root.run(&format!("list {deepest} --json")).expect(0).json()["entries"][0]["size"], 4);
}
