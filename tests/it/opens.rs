//! Unusual ways to open, and what a read-only mount answers.

use crate::root::{PATIENCE, TestRoot};
use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags,
    ioctl_getflags, ioctl_setflags, open,
};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[test]
fn a_file_without_a_name_cannot_be_made_and_the_answer_says_so() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    for flags in [OFlags::RDWR, OFlags::WRONLY] {
        let made = open(root.mnt("docs", ""), OFlags::TMPFILE | flags, 0o600.into());
        assert_eq!(made.err(), Some(Errno::OPNOTSUPP), "what programs take as the sign to use a named file");
    }
    // What programs do then: a named file, linked and unlinked.
    let path = root.mnt("docs", "temporary");
    fs::write(&path, "content").unwrap();
    fs::hard_link(&path, root.mnt("docs", "final")).unwrap();
    fs::remove_file(&path).unwrap();
    // By descriptor too, which needs a name of the file in the mount.
    let file = File::open(root.mnt("docs", "final")).unwrap();
    let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let second = root.mnt("docs", "second");
    rustix::fs::linkat(CWD, by_descriptor.as_str(), CWD, &second, AtFlags::SYMLINK_FOLLOW).unwrap();
    drop(file);
    root.expect_clean("linked");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
}

#[test]
fn direct_reads_and_writes_go_past_the_cache_and_are_recorded() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let path = root.mnt("docs", "direct");
    let flags = OFlags::DIRECT | OFlags::RDWR | OFlags::CREATE;
    let file = File::from(open(&path, flags, 0o644.into()).unwrap());
    // Whole pages of memory and of the file, as every disk takes them.
    let mut space = vec![0_u8; 5 * 4096];
    let start = space.as_ptr().align_offset(4096);
    let pages = &mut space[start..start + 4 * 4096];
    for (i, byte) in pages.iter_mut().enumerate() {
        *byte = (i / 7) as u8;
    }
    file.write_all_at(pages, 0).unwrap();
    file.write_all_at(&pages[..4096], 7 * 4096).unwrap();
    let written = pages.to_vec();
    // Another descriptor sees it through the cache, and the direct one sees what that writes.
    let cached = File::options().read(true).write(true).open(&path).unwrap();
    let mut seen = vec![0; 4 * 4096];
    cached.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(seen, written);
    cached.write_all_at(b"cached", 4096).unwrap();
    file.read_exact_at(pages, 0).unwrap();
    assert_eq!(&pages[4096..4102], b"cached");
    drop((file, cached));
    root.expect_clean("after direct writes");
    let line = &root.run("log docs/direct -n 1 --json").expect(0).json_lines()[0];
    let content = fs::read(root.path("buckets/docs/data/direct")).unwrap();
    assert_eq!((content.len(), &content[4096..4102]), (8 * 4096, &b"cached"[..]));
    assert_eq!(line["blake3"], blake3::hash(&content).to_hex().to_string());
    root.run("unmount docs").expect(0);
}

#[test]
fn a_program_that_runs_is_not_emptied() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    root.run("create docs.zip --kind lz --mount").expect(0);
    let empty = |path: &Path| open(path, OFlags::RDONLY | OFlags::TRUNC, Mode::empty());
    for bucket in ["docs", "docs.zip"] {
        let program = root.mnt(bucket, "program");
        fs::copy("/usr/bin/sleep", &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // Once more, when all is in the archive that is to go there.
        for _ in 0..2 {
            let mut first = Command::new(&program).arg("1000").spawn().unwrap();
            let mut second = Command::new(&program).arg("1000").spawn().unwrap();
            for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
                let opened = open(&program, flags | OFlags::TRUNC, Mode::empty());
                assert_eq!(opened.err(), Some(Errno::TXTBSY), "{flags:?}");
            }
            first.kill().unwrap();
            first.wait().unwrap();
            assert_eq!(empty(&program).err(), Some(Errno::TXTBSY));
            let length = fs::metadata("/usr/bin/sleep").unwrap().len();
            assert_eq!(fs::read(&program).unwrap().len() as u64, length);
            assert_eq!(second.try_wait().unwrap(), None);
            second.kill().unwrap();
            second.wait().unwrap();
            root.run("sync").expect(0);
        }
        // The kernel tells of the end when it comes to it.
        let start = Instant::now();
        while let Err(error) = empty(&program) {
            assert_eq!(error, Errno::TXTBSY);
            assert!(start.elapsed() < PATIENCE);
        }
        assert_eq!(fs::metadata(&program).unwrap().len(), 0);
    }
    root.expect_clean("after programs ran");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
    root.run("unmount docs.zip").expect(0);
}

/// Every operation that changes something, on names that are there.
fn changes(top: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let path = |name: &str| top.join(name);
    vec![
        ("open to write", File::options().write(true).open(path("file")).map(drop)),
        ("open to append", File::options().append(true).open(path("file")).map(drop)),
        (
            "truncate",
            rustix::fs::open(path("file"), OFlags::WRONLY | OFlags::TRUNC, Mode::empty()).map(drop).map_err(Into::into),
        ),
        ("create", File::create(path("new")).map(drop)),
        ("mkdir", fs::create_dir(path("new"))),
        ("mkfifo", rustix::fs::mknodat(CWD, path("new"), FileType::Fifo, 0o600.into(), 0).map_err(Into::into)),
        ("symlink", symlink("target", path("new"))),
        ("link", fs::hard_link(path("file"), path("new"))),
        ("rename", fs::rename(path("file"), path("new"))),
        ("rename over", fs::rename(path("file"), path("other"))),
        ("unlink", fs::remove_file(path("file"))),
        ("rmdir", fs::remove_dir(path("dir"))),
        ("chmod", fs::set_permissions(path("file"), fs::Permissions::from_mode(0o600))),
        ("chown", std::os::unix::fs::chown(path("file"), Some(0), Some(0))),
        ("utimes", rustix::fs::utimensat(CWD, path("file"), &now(), AtFlags::empty()).map_err(Into::into)),
        ("setxattr", rustix::fs::setxattr(path("file"), "user.a", b"b", XattrFlags::empty()).map_err(Into::into)),
        ("removexattr", rustix::fs::removexattr(path("file"), "user.kept").map_err(Into::into)),
    ]
}

fn now() -> Timestamps {
    let time = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    Timestamps { last_access: time, last_modification: time }
}

#[test]
fn a_read_only_mount_reads_and_refuses_every_change() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let top = root.mnt("docs", "");
    for name in ["file", "other"] {
        fs::write(top.join(name), name).unwrap();
    }
    fs::create_dir(top.join("dir")).unwrap();
    rustix::fs::setxattr(top.join("file"), "user.kept", b"value", XattrFlags::empty()).unwrap();
    root.run("sync").expect(0);
    root.run("unmount docs").expect(0);
    root.run("mount docs --read-only").expect(0);
    for (what, result) in changes(&top) {
        assert_eq!(result.expect_err(what).raw_os_error(), Some(libc::EROFS), "{what}");
    }
    assert_eq!(fs::read(top.join("file")).unwrap(), b"file");
    assert_eq!(fs::read_dir(&top).unwrap().count(), 3);
    root.run("unmount docs").expect(0);
    root.expect_clean("nothing changed");
    root.expect_log_is_backing("docs");
}

#[test]
fn root_may_all_but_run_what_is_no_program() {
    let Some(root) = TestRoot::with_fuse() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, about root");
        return;
    }
    root.run("create docs --mount").expect(0);
    let path = root.mnt("docs", "script");
    fs::write(&path, "#!/bin/sh\nexit 7\n").unwrap();
    let allowed = |access| rustix::fs::access(&path, access);
    for mode in [0o000, 0o644, 0o100] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 7\n");
        assert_eq!(allowed(Access::READ_OK | Access::WRITE_OK), Ok(()));
        let ran = Command::new(&path).status();
        if mode & 0o111 == 0 {
            assert_eq!(ran.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(allowed(Access::EXEC_OK), Err(Errno::ACCESS));
        } else {
            assert_eq!(ran.unwrap().code(), Some(7));
            assert_eq!(allowed(Access::EXEC_OK), Ok(()));
        }
    }
    assert_eq!(rustix::fs::access(root.mnt("docs", ""), Access::EXEC_OK), Ok(()));
    root.run("unmount docs").expect(0);
}

#[test]
fn times_before_1970_are_kept_and_those_that_cannot_be_are_refused() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    let path = root.mnt("docs", "file");
    fs::write(&path, "content").unwrap();
    let set = |tv_sec, tv_nsec| {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())
    };
    for (seconds, nanoseconds) in [(-1, 500_000_000), (-1, 0), (-1_000_000_000, 1), (5_000_000_000, 999_999_999)] {
        set(seconds, nanoseconds).unwrap();
        for file in [&path, &root.path("buckets/docs/data/file")] {
            let found = fs::metadata(file).unwrap();
            assert_eq!((found.mtime(), found.mtime_nsec()), (seconds, nanoseconds), "{}", file.display());
        }
    }
    for seconds in [9_223_372_037, 20_000_000_000, -9_223_372_037] {
        assert_eq!(set(seconds, 0), Err(Errno::INVAL), "{seconds}");
    }
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 5_000_000_000);
    root.run("unmount docs").expect(0);
}

#[test]
fn nothing_is_run_from_a_mount_that_forbids_it() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs").expect(0);
    for (options, expect) in [("", 0), ("--noexec", 126)] {
        root.run(&format!("mount docs {options}")).expect(0);
        let program = root.mnt("docs", "program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let run = Command::new("sh").args(["-c", "\"$1\"", "sh"]).arg(&program).status().unwrap();
        assert_eq!(run.code(), Some(expect), "{options}");
        root.run("unmount docs").expect(0);
    }
}

/// A file that nobody, root neither, may change in some way; changed back when this is dropped, so that it can be removed.
struct Fixed(PathBuf);

impl Fixed {
    /// None, loudly, where there are no such files, and for who may not make them.
    fn new(path: PathBuf, flags: IFlags) -> Option<Fixed> {
        fs::write(&path, "0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let set = ioctl_setflags(&file, ioctl_getflags(&file).unwrap_or(IFlags::empty()) | flags);
        set.inspect_err(|e| eprintln!("SKIPPED, no file can be made append-only here: {e}")).ok()?;
        Some(Fixed(path))
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        let file = File::open(&self.0).unwrap();
        let kept = ioctl_getflags(&file).unwrap() - IFlags::APPEND - IFlags::IMMUTABLE;
        ioctl_setflags(&file, kept).unwrap();
    }
}

#[test]
fn what_may_only_be_appended_to_or_not_be_changed_is_so_in_the_mount() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let folder = root.outside().join("folder");
    fs::create_dir(&folder).unwrap();
    let Some(log) = Fixed::new(folder.join("log"), IFlags::APPEND) else { return };
    let Some(_seal) = Fixed::new(folder.join("seal"), IFlags::IMMUTABLE) else { return };
    root.run("create docs --from folder --mount").expect(0);
    let at = |name: &str| root.mnt("docs", name);
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC, OFlags::WRONLY | OFlags::APPEND] {
        // As on the disk beneath.
        for name in ["log", "seal"] {
            let beneath = open(folder.join(name), flags, Mode::empty()).err();
            assert_eq!(open(at(name), flags, Mode::empty()).err(), beneath, "{name} {flags:?}");
            assert_eq!(beneath.is_none(), name == "log" && flags.contains(OFlags::APPEND));
        }
    }
    let mut file = File::options().append(true).open(at("log")).unwrap();
    file.write_all(b" more").unwrap();
    file.sync_all().unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 8192).unwrap();
    assert_eq!(file.set_len(3).unwrap_err().raw_os_error(), Some(libc::EPERM));
    drop(file);
    root.expect_clean("appended");
    assert_eq!(fs::read_to_string(&log.0).unwrap(), "0123456789 more");
    root.run("unmount docs").expect(0);
}
