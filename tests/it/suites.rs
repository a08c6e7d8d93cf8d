//! What others wrote to find faults in file systems: pjdfstest and fsx, in the mount. `./start.sh test` installs both.
//!
//! `WIZEFS_TEST_FSX` changes the count of fsx operations.

use crate::disk::disk;
use crate::root::{PATIENCE, Ran, TestRoot, finish_within};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The program of a suite: where `./start.sh test` puts it, or on the path. None, loudly, where it is not required.
pub(crate) fn suite(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_wizefs")).ancestors().nth(2).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::iter::once(target.join("tools/bin")).chain(std::env::split_paths(&path));
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    if found.is_none() {
        let required = std::env::var("WIZEFS_REQUIRE_FUSE").is_ok_and(|value| value == "1");
        assert!(!required, "{name} is required: ./start.sh test installs it");
        eprintln!("SKIPPED, this test needs {name}, which ./start.sh test installs");
    }
    found
}

/// Run to the end, however slow the machine.
fn run(command: &mut Command, patience: Duration) -> Ran {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    finish_within(patience, child)
}

/// Neither file flags nor NFSv4 lists are Linux's; remounting is no business of a test that shares the machine.
const PJDFSTEST_TOML: &str = r#"
features = { posix_fallocate = {}, rename_ctime = {}, utimensat = {}, utime_now = {} }
settings = { naptime = 0.01, allow_remount = false }
dummy_auth = { entries = [["nobody", "nogroup"], ["daemon", "daemon"]] }
"#;

/// How each case ended in `folder`: `ok`, `skipped` or `FAILED`, and all that was said.
fn pjdfstest(program: &Path, root: &TestRoot, folder: &Path) -> (BTreeMap<String, String>, String) {
    let config = root.outside().join("pjdfstest.toml");
    fs::write(&config, PJDFSTEST_TOML).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(config).arg("-s").arg(root.outside().join("second")).arg("-p").arg(folder);
    let ran = run(command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0"), PATIENCE * 30);
    let result = |line: &str| {
        let (name, how) = line.rsplit_once(' ')?;
        matches!(how, "ok" | "skipped" | "FAILED").then(|| (name.trim().to_owned(), how.to_owned()))
    };
    let results: BTreeMap<_, _> = ran.stdout.lines().filter_map(result).collect();
    assert!(results.len() > 350, "{ran:#?}");
    (results, ran.stdout)
}

/// The C library knows how many names a file of a plain ext4 may have, and not how many one in a mount may.
const NOT_ASKED: [&str; 1] = ["link::link_count_max"];

#[test]
fn pjdfstest_passes_in_the_mount_what_it_passes_on_the_plain_disk() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(program) = suite("pjdfstest") else { return };
    let Some(()) = disk(&root.outside().join("second"), 8) else { return };
    for folder in ["", "plain", "mounted"] {
        fs::create_dir_all(root.outside().join(folder)).unwrap();
        fs::set_permissions(root.outside().join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    root.run("create docs").expect(0);
    root.run("mount docs mounted --allow-other").expect(0);
    let (plain, _) = pjdfstest(&program, &root, &root.outside().join("plain"));
    let (mounted, said) = pjdfstest(&program, &root, &root.outside().join("mounted"));
    assert_eq!(plain.keys().collect::<Vec<_>>(), mounted.keys().collect::<Vec<_>>());
    let worse = |(name, how): (&String, &String)| {
        let there = &mounted[name];
        let worse = how == "ok" && there != "ok" && !NOT_ASKED.contains(&name.as_str());
        worse.then(|| format!("{name}: {there}"))
    };
    let worse: Vec<_> = plain.iter().filter_map(worse).collect();
    assert!(worse.is_empty(), "{worse:#?}\n{said}");
    root.expect_clean("after pjdfstest");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
}

/// Everything fsx can do.
const FSX_TOML: &str = "
flen = 262144
[opsize]
max = 65536
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 0.1
fdatasync = 0.1
posix_fallocate = 3
punch_hole = 3
sendfile = 3
posix_fadvise = 1
copy_file_range = 3
";

/// So many operations of one fsx: it keeps the mapping of every read through one, and a process may have 65,530.
const FSX_AT_ONCE: u64 = 200_000;

/// Run fsx on a file, and panic with what it found. From a second run on, the file is there before.
#[track_caller]
pub(crate) fn fsx(program: &Path, root: &TestRoot, file: &Path, operations: u64, seed: u64) {
    let config = root.outside().join("fsx.toml");
    fs::write(&config, FSX_TOML).unwrap();
    for (done, seed) in (0..operations).step_by(FSX_AT_ONCE as usize).zip(seed..) {
        let now = FSX_AT_ONCE.min(operations - done);
        let mut command = Command::new(program);
        command.arg("-f").arg(&config).args(["-N", &now.to_string(), "-S", &seed.to_string()]);
        let patience = PATIENCE * 15 + Duration::from_millis(5 * now);
        run(command.arg("-P").arg(root.outside()).arg(file), patience).expect(0);
    }
}

#[test]
fn fsx_finds_no_difference() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let Some(program) = suite("fsx") else { return };
    let operations = std::env::var("WIZEFS_TEST_FSX").map_or(20_000, |value| value.parse().unwrap());
    root.run("create docs --mount").expect(0);
    fsx(&program, &root, &root.mnt("docs", "file"), operations, 1);
    root.expect_clean("after fsx");
    root.expect_log_is_backing("docs");
    // Once more with an extent of time in which contents are looked at between the operations.
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| fsx(&program, &root, &root.mnt("docs", "other"), operations / 4, 2));
        while !busy.is_finished() {
            root.run("sync").expect(0);
        }
    });
    root.expect_clean("after fsx with sync at the same time");
    root.expect_log_is_backing("docs");
    root.run("unmount docs").expect(0);
}
