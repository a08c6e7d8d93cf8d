//! Where file systems in user space go wrong: mappings at unmount, storms of opens, writers during hashing, stray signals, backings that
//! are stacked, and nodes without privilege.

use crate::disk::disk;
use crate::root::{PATIENCE, Ran, TestRoot};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

#[test]
fn a_mapping_alone_keeps_a_mount_busy_and_is_named() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let script = "import mmap, os, sys; fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.truncate(fd, 4096); \
                  m = mmap.mmap(fd, 4096); os.close(fd); print('mapped', flush=True); sys.stdin.readline(); m[0:4] = b'last'";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(root.mnt("docs", "mapped")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "mapped");
    let busy = root.run("unmount docs").expect(13);
    assert!(busy.stderr.contains(&format!("({})", holder.id())), "{busy:?}");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    root.run("unmount docs").expect(0);
    assert_eq!(&fs::read(root.path("buckets/docs/data/mapped")).unwrap()[..4], b"last");
    root.expect_clean("what the mapping wrote last is recorded");
    root.expect_log_is_backing("docs");
}

#[test]
fn a_thousand_opens_of_a_file_are_few_changes() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let start = Instant::now();
    for i in 0..1_000 {
        let mut file = OpenOptions::new().create(true).append(true).open(root.mnt("docs", "log")).unwrap();
        writeln!(file, "{i}").unwrap();
    }
    let took = start.elapsed();
    root.expect_clean("after the storm");
    let puts = root.run("log docs/log --json").expect(0).json_lines().len();
    // One each time the file has waited for a second, and the last.
    assert!(puts as u64 <= 3 + took.as_secs(), "{puts} puts in {took:?}");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
}

#[test]
fn who_writes_a_file_that_is_being_hashed_does_not_wait_for_the_hash() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let path = root.mnt("docs", "large");
    let chunk = vec![7; 1 << 20];
    let mut file = File::create(&path).unwrap();
    for _ in 0..200 {
        file.write_all(&chunk).unwrap();
    }
    drop(file);
    // A barrier has the file hashed at once.
    let start = Instant::now();
    root.run("sync").expect(0);
    let whole = start.elapsed();
    // Meanwhile somebody comes to write, again and again.
    let mut waits = Vec::new();
    for round in 0..10 {
        let barrier = root.start("sync");
        let looked = Instant::now();
        while looked.elapsed() < whole * (round % 4) / 8 {
            std::thread::yield_now();
        }
        let start = Instant::now();
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(&[round as u8]).unwrap();
        waits.push(start.elapsed());
        drop(file);
        crate::root::finish(barrier).expect(0);
    }
    // Who had to wait for the hash would wait for the most of what it takes; one step of it is a small part of that. Once the
    // disk may be what is slow.
    waits.sort();
    let (median, slow) = (waits[waits.len() / 2], waits[waits.len() - 2]);
    assert!(median < whole / 4 && slow < whole, "waited {waits:?}, and all of it takes {whole:?}");
    root.expect_clean("written while it was hashed");
    let line = &root.run("log docs/large -n 1 --json").expect(0).json_lines()[0];
    assert_eq!(line["blake3"], blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string());
    root.run("unmount docs").expect(0);
}

#[test]
fn signals_that_nobody_meant_do_not_end_a_node() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    // The kernel sends the first when a lease breaks, the others when a pipe or a terminal is gone.
    for signal in [Signal::IO, Signal::PIPE, Signal::WINCH] {
        root.signal(signal);
        fs::write(root.mnt("docs", "file"), format!("{signal:?}")).unwrap();
        root.run("sync").expect(0);
    }
    root.expect_clean("after signals");
    root.run("unmount docs").expect(0);
}

/// A folder `tree` that is an overlay, with a file `below` from its lower layer; none where there are no overlays.
fn overlay(root: &TestRoot) -> Option<PathBuf> {
    for folder in ["lower", "upper/files", "upper/work", "tree"] {
        fs::create_dir_all(root.outside().join(folder)).unwrap();
    }
    fs::write(root.outside().join("lower/below"), "from below").unwrap();
    // On a disk of its own: an overlay does not lie on every file system.
    let here = |folder: &str| root.outside().join(folder).display().to_string();
    let data =
        format!("lowerdir={},upperdir={},workdir={},xino=off", here("lower"), here("upper/files"), here("upper/work"));
    let data = std::ffi::CString::new(data).unwrap();
    let tree = root.outside().join("tree");
    let mounted = mount("overlay", &tree, "overlay", MountFlags::empty(), data.as_c_str());
    mounted.inspect_err(|e| eprintln!("SKIPPED, no overlay here: {e}")).ok().map(|()| tree)
}

#[test]
fn a_mount_can_be_the_upper_layer_of_an_overlay() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let (lower, tree) = (root.outside().join("lower"), root.outside().join("tree"));
    for folder in [&lower.join("d"), &tree, &root.mnt("docs", "upper"), &root.mnt("docs", "work")] {
        fs::create_dir_all(folder).unwrap();
    }
    for file in ["changed", "removed", "d/x"] {
        fs::write(lower.join(file), "below").unwrap();
    }
    let layers = [&lower, &root.mnt("docs", "upper"), &root.mnt("docs", "work")].map(|path| path.display().to_string());
    let data = format!("lowerdir={},upperdir={},workdir={}", layers[0], layers[1], layers[2]);
    let data = std::ffi::CString::new(data).unwrap();
    let mounted = mount("overlay", &tree, "overlay", MountFlags::empty(), data.as_c_str());
    if mounted == Err(Errno::NODEV) || mounted == Err(Errno::PERM) {
        return eprintln!("SKIPPED, no overlay here");
    }
    mounted.unwrap();
    OpenOptions::new().append(true).open(tree.join("changed")).unwrap().write_all(b", and above").unwrap();
    fs::remove_file(tree.join("removed")).unwrap();
    fs::remove_dir_all(tree.join("d")).unwrap();
    fs::create_dir(tree.join("d")).unwrap();
    fs::write(tree.join("d/new"), "above").unwrap();
    rustix::mount::unmount(&tree, rustix::mount::UnmountFlags::empty()).unwrap();
    root.expect_clean("the layer above");
    root.expect_log_is_backing("docs");
    assert_eq!(fs::read_to_string(root.mnt("docs", "upper/changed")).unwrap(), "below, and above");
    assert_eq!(fs::read_to_string(root.mnt("docs", "upper/d/new")).unwrap(), "above");
    root.run("unmount docs").expect(0);
}

#[test]
fn a_stacked_backing_is_served_and_its_evidence_is_weaker() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(tree) = overlay(&root) else { return };
    root.run("create docs --from tree --mount").expect(0);
    let mounted = root.mnt("docs", "");
    OpenOptions::new().append(true).open(mounted.join("below")).unwrap().write_all(b", and more").unwrap();
    fs::write(mounted.join("new"), "new").unwrap();
    fs::create_dir(mounted.join("dir")).unwrap();
    fs::rename(mounted.join("new"), mounted.join("dir/moved")).unwrap();
    root.expect_clean("on an overlay");
    assert_eq!(fs::read_to_string(mounted.join("below")).unwrap(), "from below, and more");
    let put = &root.run("log docs/below -n 1 --json").expect(0).json_lines()[0];
    assert_eq!((&put["cause"], &put["evidence"]), (&"mount".into(), &"stat".into()), "{put}");
    root.expect_log_is("docs", &tree);
    root.run("unmount docs").expect(0);
    root.run("verify docs").expect(0);
}

#[test]
fn what_comes_up_from_a_layer_on_another_disk_stays_the_same_file() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(()) = disk(&root.outside().join("lower"), 4) else { return };
    let Some(()) = disk(&root.outside().join("upper"), 4) else { return };
    fs::write(root.outside().join("lower/second"), "second").unwrap();
    let Some(tree) = overlay(&root) else { return };
    root.run("create docs --from tree --mount").expect(0);
    let at = |name: &str| root.mnt("docs", name);
    let append = |name: &str, text: &str| {
        OpenOptions::new().append(true).open(at(name)).unwrap().write_all(text.as_bytes()).unwrap();
        root.expect_clean(name);
    };
    // What is made lies on the upper disk, which nobody has met before.
    fs::write(at("new"), "new").unwrap();
    fs::rename(at("new"), at("moved")).unwrap();
    append("moved", " and moved");
    append("below", ", and more");
    append("below", ", again");
    fs::set_permissions(at("second"), fs::Permissions::from_mode(0o600)).unwrap();
    root.expect_clean("new permission bits");
    root.kill_node();
    root.run("mount docs").expect(0);
    append("below", ", after a kill");
    append("second", " too");
    append("moved", ", too");
    let fold = root.expect_log_is("docs", &tree);
    assert_eq!(fold.causes.keys().collect::<Vec<_>>(), ["import", "mount"], "{:?}", fold.causes);
    root.run("unmount docs").expect(0);
}

/// What editors and databases do: replace a file by another one, and make one where there was one just now.
const REPLACING: &str = r#"
import os, sys
os.chdir(sys.argv[1])
for i in range(60):
    name = "file%d" % (i % 7)
    with open(name + ".new", "w") as new: new.write("%d" % i)
    os.rename(name + ".new", name)
    assert open(name).read() == "%d" % i, (name, i)
    with open("again", "w") as again: again.write("%d" % i)
    assert open("again").read() == "%d" % i, ("again", i)
    os.unlink("again")
    # As git does it.
    with open("temporary", "w") as temporary: temporary.write("%d" % i)
    os.link("temporary", "object%d" % i)
    os.unlink("temporary")
"#;

#[test]
fn a_backing_that_knows_no_birth_and_forgets_what_is_removed_is_served() {
    let Some(root) = TestRoot::with_fuse() else { return };
    for folder in ["disk", "tree"] {
        fs::create_dir(root.outside().join(folder)).unwrap();
    }
    let tree = root.outside().join("tree");
    // A file system in user space, as there are many; it ends when it is unmounted, by the root's drop.
    let mounted = Command::new("bindfs").arg(root.outside().join("disk")).arg(&tree).status();
    if !mounted.is_ok_and(|status| status.success()) {
        assert_ne!(std::env::var("WIZEFS_REQUIRE_FUSE").as_deref(), Ok("1"), "bindfs is required: install it");
        eprintln!("SKIPPED, this test needs bindfs");
        return;
    }
    root.run("create docs --from tree --mount").expect(0);
    let done = Command::new("python3").args(["-c", REPLACING]).arg(root.mnt("docs", "")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    root.expect_clean("replaced and removed");
    let fold = root.expect_log_is("docs", &tree);
    assert_eq!(fold.causes.keys().collect::<Vec<_>>(), ["mount"], "{:?}", fold.causes);
    root.run("unmount docs").expect(0);
}

#[test]
fn a_disk_that_does_not_tell_case_apart_is_not_adopted() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let (image, disk) = (root.outside().join("image"), root.outside().join("disk"));
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    fs::create_dir(&disk).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).arg(&image).stdout(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let mounts = || Command::new("lowntfs-3g").args(["-o", "ignore_case,permissions"]).arg(&image).arg(&disk).status();
    // It ends when it is unmounted, by the root's drop.
    if !run("mkntfs", &["-q", "-Q", "-F"]) || !mounts().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED, this test needs lowntfs-3g");
        return;
    }
    fs::create_dir(disk.join("tree")).unwrap();
    fs::write(disk.join("docs.zip"), [b"PK\x05\x06".as_slice(), &[0; 18]].concat()).unwrap();
    for from in ["disk/tree --kind loopback", "disk/docs.zip --kind lz"] {
        let refused = root.run(&format!("create docs --from {from}")).expect(9);
        assert!(refused.stderr.contains("case"), "{refused:#?}");
    }
    assert_eq!(fs::read_dir(disk.join("tree")).unwrap().count(), 0);
    assert!(!disk.join("docs.zip.lzfs").exists());
    root.run("create docs --from disk/docs.zip --kind zip").expect(0);
}

/// A file that is mapped while it is open to append, and one whose descriptor begins and ceases to append.
const APPENDING: &str = r#"
import fcntl, mmap, os
fd = os.open("mapped", os.O_CREAT | os.O_RDWR | os.O_APPEND)
os.write(fd, b"a" * 8192)
mapping = mmap.mmap(fd, 8192)
mapping[0:5] = b"HELLO"
mapping.flush(); mapping.close(); os.close(fd)
fd = os.open("turned", os.O_CREAT | os.O_RDWR)
os.write(fd, b"0123456789")
os.lseek(fd, 0, os.SEEK_SET)
fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
os.write(fd, b"end")
fcntl.fcntl(fd, fcntl.F_SETFL, 0)
os.pwrite(fd, b"start", 0)
os.close(fd)
"#;

#[test]
fn what_is_mapped_while_it_is_open_to_append_is_not_appended() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    root.run("create docs.zip --mount").expect(0);
    let mut buckets = vec!["docs", "docs.zip"];
    // Where the kernel cannot write the file itself.
    if overlay(&root).is_some() {
        root.run("create stacked --from tree --mount").expect(0);
        buckets.push("stacked");
    }
    for bucket in &buckets {
        let mounted = root.mnt(bucket, "");
        assert!(Command::new("python3").args(["-c", APPENDING]).current_dir(&mounted).status().unwrap().success());
        let expected = [&b"HELLO"[..], &[b'a'; 8187]].concat();
        assert!(fs::read(mounted.join("mapped")).unwrap() == expected, "{bucket}");
        assert_eq!(fs::read_to_string(mounted.join("turned")).unwrap(), "start56789end", "{bucket}");
    }
    root.expect_clean("mapped and appended");
    for bucket in buckets {
        root.run(&format!("unmount {bucket}")).expect(0);
    }
}

/// A program that goes on writing while one that has its descriptor too ends, which closes it.
const SHARING: &str = r#"
import os, time
fd = os.open("shared", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for _ in range(30):
    child = os.fork()
    if child == 0:
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        os.write(fd, b"line\n")
        time.sleep(0.001)
os.close(fd)
"#;

#[test]
fn who_shares_a_descriptor_writes_on_while_the_other_closes_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    for durability in ["close", "strict"] {
        root.run(&format!("mount docs --durability {durability}")).expect(0);
        let mounted = root.mnt("docs", "");
        assert!(Command::new("python3").args(["-c", SHARING]).current_dir(&mounted).status().unwrap().success());
        root.expect_clean("written while it was closed");
        let log = root.run("log docs --json").expect(0).json_lines();
        assert!(log.iter().all(|change| change["cause"] != "foreign"), "{log:#?}");
        root.run("unmount docs").expect(0);
    }
}

/// What an ordinary user does, with a node of the same user.
const ORDINARY: &str = r#"
"$W" create docs --mount
cd "$WIZEFS_ROOT/mnt/docs"
echo content >file && echo more >>file && mkdir dir && ln file dir/link && mv file dir/moved && chmod 640 dir/moved
[ "$(stat -c %U dir/moved)" = nobody ] && [ "$(cat dir/link)" = "$(printf 'content\nmore')" ]
ln -s dir/moved name && truncate -s 3 dir/link && [ "$(cat name)" = con ]
python3 -c 'import mmap, os; fd = os.open("mapped", os.O_RDWR | os.O_CREAT); os.truncate(fd, 4096); mmap.mmap(fd, 4096)[0:3] = b"abc"'
cd / && "$W" sync && "$W" verify docs && "$W" unmount docs && "$W" verify docs
"$W" log docs --json
"#;

/// What a script of an ordinary user, who has a node of the same user, says in the end. None, loudly, where that cannot be.
fn by_an_ordinary_user(root: &TestRoot, script: &str) -> Option<Ran> {
    if !rustix::process::geteuid().is_root() {
        // Then every test here is this one.
        return None;
    }
    let (home, device) = (root.outside().join("home"), root.outside().join("fuse"));
    fs::create_dir(&home).unwrap();
    chown(&home, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(root.outside(), fs::Permissions::from_mode(0o755)).unwrap();
    // The program where everybody may run it, and the device as most systems have it: open to everybody.
    let program = root.outside().join("wizefs");
    fs::copy(env!("CARGO_BIN_EXE_wizefs"), &program).unwrap();
    let fuse = fs::metadata("/dev/fuse").unwrap();
    assert!(fuse.file_type().is_char_device());
    let made =
        rustix::fs::mknodat(rustix::fs::CWD, &device, rustix::fs::FileType::CharacterDevice, 0o666.into(), fuse.rdev());
    let allowed = made.is_ok() && File::options().read(true).write(true).open(&device).is_ok();
    if !allowed {
        eprintln!("SKIPPED, no device can be made in {}", root.outside().display());
        return None;
    }
    fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).unwrap();
    let as_nobody =
        "mount --bind \"$D\" /dev/fuse && exec setpriv --reuid=65534 --regid=65534 --clear-groups bash -euc \"$S\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-euc", as_nobody]).env("D", &device).env("S", script).env("W", &program);
    command
        .env("HOME", &home)
        .env("WIZEFS_ROOT", home.join("root"))
        .env("WIZEFS_LISTEN", "off")
        .env("WIZEFS_GRPC_LISTEN", "off")
        .current_dir("/");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ran: Ran = crate::root::finish_within(PATIENCE * 3, child);
    assert_eq!(ran.code, 0, "{ran:#?}\n{:?}", fs::read_to_string(home.join("root/node.log")));
    Some(ran)
}

#[test]
fn a_node_without_privilege_does_it_all_itself() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(ran) = by_an_ordinary_user(&root, ORDINARY) else { return };
    let puts = ran.stdout.lines().filter(|line| line.contains("\"op\":\"put\"")).count();
    assert!(puts >= 4, "{ran:#?}");
}

/// What an ordinary user closes to itself in an archive, before its node is killed and after.
const CLOSED: &str = r#"
"$W" create docs --kind lz --mount
cd "$WIZEFS_ROOT/mnt/docs"
mkdir 0600 0000 0555 && echo content >read-only && chmod 444 read-only
for dir in 0600 0000 0555; do echo content >$dir/file && mkdir $dir/sub && echo more >$dir/sub/more; done
"$W" sync && chmod 0600 0600 && chmod 0000 0000 && chmod 0555 0555
cd / && "$W" sync && "$W" unmount docs
archive="$WIZEFS_ROOT/buckets/docs/docs.zip"
[ "$(unzip -p "$archive" 0000/sub/more 0600/file read-only | sort | tr '\n' ' ')" = "content content more " ]
[ "$(zipinfo "$archive" 0000/ | cut -c1-10)" = d--------- ]
"$W" mount docs && cd "$WIZEFS_ROOT/mnt/docs"
[ "$(cat read-only 0555/file)" = "$(printf 'content\ncontent')" ] && echo new >new
(umask 0777 && echo secret >secret)
cd / && kill -9 "$("$W" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["node"]["pid"])')"
"$W" mount docs && cd "$WIZEFS_ROOT/mnt/docs"
[ "$(stat -c %a 0600 0000 0555 read-only secret | tr '\n' ' ')" = "600 0 555 444 0 " ]
[ "$(cat read-only new)" = "$(printf 'content\nnew')" ]
cd / && "$W" unmount docs && "$W" mount docs && cd "$WIZEFS_ROOT/mnt/docs"
chmod 755 0600 0000 0555 && chmod 600 secret && [ "$(cat secret 0000/sub/more 0600/file)" = "$(printf 'secret\nmore\ncontent')" ]
cd / && "$W" unmount docs && "$W" verify docs && unzip -tqq "$archive" && [ ! -e "$archive.lzfs" ]
"#;

#[test]
fn what_an_ordinary_user_closes_to_itself_does_not_close_an_archive() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let _ran = by_an_ordinary_user(&root, CLOSED);
}
