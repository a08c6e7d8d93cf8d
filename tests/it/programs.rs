//! Programs that are hard on a file system, in the mount: what they do works, and is recorded as it is.

use crate::fold::Item;
use crate::root::{TestRoot, finish};
use crate::transcript::shell;
use rustix::fs::XattrFlags;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted bucket `docs`, when there is FUSE and every program that the test runs.
fn mounted(programs: &[&str]) -> Option<(TestRoot, PathBuf)> {
    let root = TestRoot::with_fuse()?;
    for program in programs {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            assert_ne!(std::env::var("WIZEFS_REQUIRE_FUSE").as_deref(), Ok("1"), "{program} is required: install it");
            eprintln!("SKIPPED, this test needs {program}");
            return None;
        }
    }
    root.run("create docs --mount").expect(0);
    let mount = root.mnt("docs", "");
    Some((root, mount))
}

/// Clean, and the log is the tree; then once more without the mount.
#[track_caller]
fn expect_recorded(root: &TestRoot) {
    root.expect_clean("mounted");
    let fold = root.expect_log_is_backing("docs");
    assert_eq!(fold.causes.keys().collect::<Vec<_>>(), ["mount"], "{:?}", fold.causes);
    root.run("unmount docs").expect(0);
    root.expect_no_node();
    root.expect_clean("unmounted");
}

#[test]
fn git_clones_commits_and_packs() {
    let Some((root, mount)) = mounted(&["git"]) else { return };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fs/src");
    let git = format!(
        "export HOME={}; git config --global user.name t; git config --global user.email t@t",
        root.outside().display()
    );
    shell(
        root.outside(),
        &format!(
            "{git}; git init -q origin; cp -r {} origin/src; cd origin; git add .; git commit -qm one",
            sources.display()
        ),
    );
    shell(
        &mount,
        &format!("{git}; git clone -q {}/origin work && cd work && git fsck --full --strict", root.outside().display()),
    );
    let log = shell(
        &mount.join("work"),
        &format!(
            "{git}; git mv src code; echo more >>code/lib.rs; git commit -qam two; git checkout -qb side HEAD~1; echo x >y; git add y; \
         git commit -qm three; git rebase -q master 2>/dev/null || git rebase -q main; git gc -q; git fsck --full --strict; git status --porcelain; git log --oneline | wc -l"
        ),
    );
    assert_eq!(log.trim(), "3", "clean, and three commits");
    expect_recorded(&root);
}

#[test]
fn sqlite_writes_ten_thousand_rows_through_a_write_ahead_log() {
    let Some((root, mount)) = mounted(&["python3"]) else { return };
    let script = r#"
import sqlite3, sys
db = sqlite3.connect("rows.db", isolation_level=None)
assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
db.execute("create table rows (id integer primary key, text text, blob blob)")
other = sqlite3.connect("rows.db", isolation_level=None)
for start in range(0, 10000, 250):
    db.execute("begin")
    db.executemany("insert into rows values (?, ?, ?)", ((i, f"row {i}", bytes([i % 256]) * 100) for i in range(start, start + 250)))
    db.execute("commit")
    assert other.execute("select count(*) from rows").fetchone() == (start + 250,)
other.execute("delete from rows where id % 3 = 0")
db.execute("create index texts on rows (text)")
assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
db.close(); other.close()
db = sqlite3.connect("rows.db")
print(db.execute("select count(*), sum(id) from rows").fetchone())
"#;
    fs::write(root.outside().join("rows.py"), script).unwrap();
    assert_eq!(shell(&mount, "python3 ../../../rows.py"), "(6666, 33326667)\n");
    let log = root.run("sync").expect(0);
    assert!(!log.stderr.contains("still being written"), "{log:?}");
    root.run("get rows.db docs copy.db").expect(0);
    let check = "import sqlite3; print(sqlite3.connect('copy.db').execute('pragma integrity_check').fetchall())";
    assert_eq!(shell(root.outside(), &format!("python3 -c \"{check}\"")), "[('ok',)]\n");
    expect_recorded(&root);
}

#[test]
fn the_second_rsync_transfers_nothing() {
    let Some((root, mount)) = mounted(&["rsync"]) else { return };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fs");
    let rsync = format!("rsync -aH --stats --itemize-changes --exclude target {}/ copy/", sources.display());
    let first = shell(&mount, &rsync);
    assert!(first.contains("f+++++++++ src/lib.rs"), "{first}");
    root.run("sync").expect(0);
    let before = root.run("status --json").expect(0).json()["ledger"]["transactions"].clone();
    let second = shell(&mount, &rsync);
    assert!(second.contains("Number of regular files transferred: 0"), "{second}");
    let changed: Vec<_> = second.lines().filter(|line| line.starts_with(['>', '<', 'c', '.', 'h'])).collect();
    assert!(changed.is_empty(), "neither content nor times nor modes: {changed:#?}");
    root.run("sync").expect(0);
    assert_eq!(root.run("status --json").expect(0).json()["ledger"]["transactions"], before, "nothing to record");
    expect_recorded(&root);
}

#[test]
fn names_may_be_long_and_any_bytes() {
    let Some((root, mount)) = mounted(&[]) else { return };
    let long = [b'n'; 255];
    let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    for name in [
        &long[..],
        b"\xff\xfe",
        b"new\nline",
        b" ",
        b"-rf",
        b"%2F",
        b"a\\b",
        "\u{202e}ä".as_bytes(),
        &odd[..250],
        b"...",
    ] {
        let path = mount.join(OsStr::from_bytes(name));
        fs::create_dir(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(name)), name).unwrap();
        fs::rename(path.join(OsStr::from_bytes(name)), path.join(OsStr::from_bytes(b"\xf0\x28"))).unwrap();
        fs::write(path.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let longer = mount.join(OsStr::from_bytes(&[b'n'; 256]));
    assert_eq!(fs::write(longer, "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    // Deep: 60 times 200 bytes is near what a path may be on the ledger, and more than the kernel takes at once.
    let mut folder = File::open(&mount).unwrap();
    for _ in 0..60 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&folder, name.as_str(), 0o755.into()).unwrap();
        folder =
            File::from(rustix::fs::openat(&folder, name.as_str(), rustix::fs::OFlags::DIRECTORY, 0.into()).unwrap());
    }
    drop(folder);
    root.expect_clean("names");
    let listed = root.run("list docs --json").expect(0).json();
    let count = listed["entries"].as_array().unwrap().iter().filter(|entry| entry["path_b64"].is_string()).count();
    assert_eq!(count, 2, "names that are not UTF-8 carry their bytes: {listed}");
    shell(&mount, "rm -r ddd*");
    expect_recorded(&root);
}

#[test]
fn holes_and_ends_of_files_are_what_they_are() {
    let Some((root, mount)) = mounted(&[]) else { return };
    let sparse = File::create(mount.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 64 << 20).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    drop(sparse);
    let backing = fs::metadata(root.path("buckets/docs/data/sparse")).unwrap();
    assert_eq!(backing.len(), (64 << 20) + 3);
    assert!(backing.blocks() < 200, "a hole stays a hole: {} blocks", backing.blocks());
    fs::write(mount.join("cut"), vec![b'c'; 10_000]).unwrap();
    root.run("sync").expect(0);
    let file = OpenOptions::new().write(true).open(mount.join("cut")).unwrap();
    file.set_len(100).unwrap();
    file.set_len(5_000).unwrap();
    drop(file);
    let file = OpenOptions::new().write(true).truncate(true).open(mount.join("sparse")).unwrap();
    file.set_len(1).unwrap();
    drop(file);
    // By name, without opening.
    shell(&mount, "head -c 9000 /dev/zero >by-name && truncate -s 10 by-name && cat by-name | wc -c");
    root.expect_clean("cut");
    let cut = [vec![b'c'; 100], vec![0; 4_900]].concat();
    let line = &root.run("log docs/cut -n 1 --json").expect(0).json_lines()[0];
    assert_eq!(line["blake3"], blake3::hash(&cut).to_hex().to_string());
    expect_recorded(&root);
}

#[test]
fn two_processes_append_to_one_file() {
    let Some((root, mount)) = mounted(&[]) else { return };
    let writers: Vec<_> = ["one", "two"]
        .map(|word| {
            let script = format!("for i in $(seq 2000); do echo {word}-$i; done >>both");
            Command::new("bash")
                .args(["-euc", &script])
                .current_dir(&mount)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .into();
    writers.into_iter().for_each(|writer| drop(finish(writer).expect(0)));
    let text = fs::read_to_string(mount.join("both")).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<_> = (1..=2000).flat_map(|i| [format!("one-{i}"), format!("two-{i}")]).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected, "no line is lost or torn");
    expect_recorded(&root);
}

/// A mapping outlives its descriptor: what is written through it must not be hashed too early, nor missed.
#[test]
fn a_mapping_is_a_writer_after_close() {
    let Some((root, mount)) = mounted(&["python3"]) else { return };
    let script = r#"
import mmap, os, sys
fd = os.open("mapped", os.O_RDWR | os.O_CREAT, 0o644)
os.truncate(fd, 8192)
view = mmap.mmap(fd, 8192)
os.close(fd)
view[0:5] = b"first"
print("mapped", flush=True)
sys.stdin.readline()
view[4096:4102] = b"second"
print("written", flush=True)
sys.stdin.readline()
"#;
    let mut child = Command::new("python3")
        .args(["-c", script])
        .current_dir(&mount)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut told, mut said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    assert_eq!(said.next().unwrap().unwrap(), "mapped");
    let synced = root.run("sync --json").expect(0).json();
    assert_eq!(synced["open_writers"], serde_json::json!(["docs/mapped"]));
    root.run("sync --strict").expect(13);
    let line = &root.run("log docs/mapped -n 1 --json").expect(0).json_lines()[0];
    assert_eq!((&line["evidence"], &line["blake3"], &line["size"]), (&"open-writers".into(), &().into(), &8192.into()));
    assert_eq!(root.run("verify docs --json").expect(0).json_lines()[0]["type"], "pending");
    told.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "written");
    drop(told);
    assert!(child.wait().unwrap().success());
    let mut content = vec![0; 8192];
    content[..5].copy_from_slice(b"first");
    content[4096..4102].copy_from_slice(b"second");
    root.expect_clean("unmapped");
    let line = &root.run("log docs/mapped -n 1 --json").expect(0).json_lines()[0];
    assert_eq!(line["blake3"], blake3::hash(&content).to_hex().to_string());
    expect_recorded(&root);
}

#[test]
fn attributes_work_and_modes_are_recorded() {
    let Some((root, mount)) = mounted(&[]) else { return };
    let file = mount.join("file");
    fs::write(&file, "content").unwrap();
    fs::create_dir(mount.join("folder")).unwrap();
    root.run("sync").expect(0);
    rustix::fs::setxattr(&file, "user.comment", b"hello", XattrFlags::empty()).unwrap();
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(&file, "user.comment", &mut value).unwrap();
    assert_eq!(&value[..length], b"hello");
    let mut names = [0; 64];
    let length = rustix::fs::listxattr(&file, &mut names).unwrap();
    assert_eq!(&names[..length], b"user.comment\0");
    rustix::fs::removexattr(&file, "user.comment").unwrap();
    assert_eq!(rustix::fs::getxattr(&file, "user.comment", &mut value), Err(rustix::io::Errno::NODATA));
    root.expect_clean("after xattrs");

    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&file, 0o4751);
    mode(&mount.join("folder"), 0o1700);
    assert_eq!(fs::metadata(root.path("buckets/docs/data/file")).unwrap().mode() & 0o7777, 0o4751);
    root.expect_clean("after chmod");
    let lines = root.run("log docs/file --json").expect(0).json_lines();
    assert_eq!((&lines[0]["op"], &lines[0]["mode"]), (&"put".into(), &0o4751.into()));
    assert_eq!(lines[0]["blake3"], lines[1]["blake3"], "unchanged hashes");
    let fold = root.expect_log_is_backing("docs");
    assert_eq!(fold.tree[&b"folder"[..]], Item::Directory { mode: Some(0o1700) });
    // Times and owners are no transactions of their own.
    let count = root.run("log docs --json").expect(0).json_lines().len();
    shell(&mount, "touch -d 2001-01-01 file folder");
    assert_eq!(fs::metadata(&file).unwrap().mtime(), 978_307_200);
    root.expect_clean("after touch");
    assert_eq!(root.run("log docs --json").expect(0).json_lines().len(), count);
    expect_recorded(&root);
}

#[test]
fn files_without_a_name_live_on_and_are_not_recorded() {
    let Some((root, mount)) = mounted(&[]) else { return };
    let open = |name: &str| {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mount.join(name)).unwrap()
    };
    let (mut gone, mut replaced) = (open("gone"), open("replaced"));
    gone.write_all(b"before").unwrap();
    replaced.write_all(b"old").unwrap();
    fs::remove_file(mount.join("gone")).unwrap();
    fs::write(mount.join("new"), "new").unwrap();
    fs::rename(mount.join("new"), mount.join("replaced")).unwrap();
    gone.write_all(b" and after").unwrap();
    replaced.write_all(b" and more").unwrap();
    for (file, content) in [(&mut gone, "before and after"), (&mut replaced, "old and more")] {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), file.metadata().unwrap().nlink()), (content, 0));
    }
    assert_eq!(root.run("sync --json").expect(0).json()["open_writers"], serde_json::json!([]), "nobody can see them");
    drop((gone, replaced));
    root.expect_clean("closed");
    let fold = root.expect_log_is_backing("docs");
    assert_eq!(fold.tree.len(), 1);
    assert_eq!(fs::read(mount.join("replaced")).unwrap(), b"new");
    // A temporary file that never had a name, and one that gets it at the end.
    shell(&mount, "exec 3<>temporary; rm temporary; echo x >&3; mkfifo pipe; (echo y >pipe &); cat pipe; rm pipe");
    expect_recorded(&root);
}

#[test]
fn what_a_program_asks_of_a_file_system_is_answered() {
    let Some((root, mount)) = mounted(&[]) else { return };
    let (there, here) = (rustix::fs::statvfs(&mount).unwrap(), rustix::fs::statvfs(root.outside()).unwrap());
    assert_eq!((there.f_blocks * there.f_frsize, there.f_namemax), (here.f_blocks * here.f_frsize, here.f_namemax));
    let file = File::create(mount.join("file")).unwrap();
    (&file).write_all(b"data").unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    File::open(&mount).unwrap().sync_all().unwrap();
    file.lock().unwrap();
    let other = File::open(mount.join("file")).unwrap();
    assert!(other.try_lock().is_err(), "locked");
    file.unlock().unwrap();
    other.try_lock().unwrap();
    drop((file, other));
    fs::hard_link(mount.join("file"), mount.join("name")).unwrap();
    let same = |name: &str| fs::metadata(mount.join(name)).unwrap();
    assert_eq!((same("file").nlink(), same("file").ino()), (2, same("name").ino()));
    OpenOptions::new().append(true).open(mount.join("name")).unwrap().write_all(b" more").unwrap();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"data more");
    for name in ["missing", "file/x"] {
        assert!(fs::read(mount.join(name)).is_err());
    }
    let error = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    fs::create_dir_all(mount.join("full/sub")).unwrap();
    assert_eq!(error(fs::remove_dir(mount.join("full"))), Some(libc::ENOTEMPTY));
    assert_eq!(error(fs::remove_dir(mount.join("file"))), Some(libc::ENOTDIR));
    assert_eq!(error(fs::create_dir(mount.join("file"))), Some(libc::EEXIST));
    assert_eq!(error(fs::rename(mount.join("full"), mount.join("full/sub/x"))), Some(libc::EINVAL));
    assert_eq!(error(fs::hard_link(mount.join("file"), root.outside().join("x"))), Some(libc::EXDEV));
    let many = mount.join("many");
    fs::create_dir(&many).unwrap();
    (0..3000).for_each(|i| fs::write(many.join(format!("{i}")), "").unwrap());
    assert_eq!(fs::read_dir(&many).unwrap().count(), 3000, "no entry twice, none missing");
    fs::remove_dir_all(&many).unwrap();
    expect_recorded(&root);
}
