//! kill -9 at random moments, under load: what programs did is never missing afterwards, and nothing is invented.
//!
//! `WIZEFS_TEST_SEED` repeats a run's choices, `WIZEFS_TEST_KILLS` changes the count.

use crate::load::{Load, Random};
use crate::root::{TestRoot, finish};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

/// Mount after a kill; the node must say that it found the dead mount.
#[track_caller]
pub(crate) fn mount_again(root: &TestRoot, when: &str) {
    let mounted = root.run("mount docs --json");
    assert_eq!(mounted.code, 0, "{when}: {mounted:#?}");
    assert_eq!(mounted.json()["cleared_stale"], true, "{when}: {mounted:#?}");
    assert!(mounted.stderr.contains("cleared"), "{when}: {mounted:#?}");
    assert_eq!(root.mounts().len(), 1, "{when}: one mount, alive");
}

pub(crate) fn parameter(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Seeds of runs that shall differ; printed with everything that fails.
pub(crate) fn seed() -> u64 {
    let seed = parameter("WIZEFS_TEST_SEED").unwrap_or_else(|| std::process::id().into());
    eprintln!("WIZEFS_TEST_SEED={seed}");
    seed
}

#[test]
fn fifty_kills_under_load_lose_nothing_and_invent_nothing() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let mut random = Random::new(seed());
    let kills = parameter("WIZEFS_TEST_KILLS").unwrap_or(50);
    root.run("create docs --mount").expect(0);
    let load = Load::start(&root.mnt("docs", ""), 4, random.next());
    for kill in 0..kills {
        let start = Instant::now();
        // Mostly soon, sometimes long enough for blocks to be sealed meanwhile.
        let most = if random.below(4) == 0 { 2500 } else { 300 };
        let done = load.run_for(1 + random.below(most));
        let pid = root.node();
        root.kill_node();
        load.pause();
        let when = format!("kill {kill} of {pid:?} after {done} operations");
        if random.below(5) == 0 {
            kill_in_recovery(&root, &mut random);
        }
        mount_again(&root, &when);
        let mounted = start.elapsed();
        root.expect_clean(&when);
        if kill % 10 == 9 {
            expect_history(&root, &load, &when);
        }
        eprintln!("{when}: mounted after {mounted:.2?}, clean after {:.2?}", start.elapsed());
    }
    let promises = load.end();
    expect_history(&root, promises, "at the end");
    root.run("unmount docs").expect(0);
    root.expect_clean("unmounted");
    root.expect_no_node();
}

/// The log folded is the backing, nothing was called foreign, and every operation that succeeded lasts.
#[track_caller]
pub(crate) fn expect_history(root: &TestRoot, load: &Load, when: &str) {
    let fold = root.expect_log_is_backing("docs");
    let strange: Vec<_> =
        fold.causes.iter().filter(|(cause, _)| !matches!(cause.as_str(), "mount" | "recovered")).collect();
    assert!(strange.is_empty(), "{when}: {strange:?}");
    let broken = load.broken_promises(&root.path("buckets/docs/data"));
    assert!(broken.is_empty(), "{when}: {broken:#?}");
}

#[test]
fn the_next_command_may_come_at_once() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    for round in 0..20 {
        fs::write(root.mnt("docs", "a"), format!("{round}")).unwrap();
        let dying = root.node().unwrap();
        root.signal(rustix::process::Signal::KILL);
        mount_again(&root, &format!("round {round}, {dying:?} is killed"));
    }
    // Killed at once each time, a write need not have come to rest before.
    root.run("sync").expect(0);
    root.kill_node();
    assert!(root.run("log docs --json").expect(0).json_lines().len() > 1);
}

/// A node that dies while it recovers makes it no worse.
fn kill_in_recovery(root: &TestRoot, random: &mut Random) {
    let before = root.node();
    let child = root.start("mount docs");
    root.wait_for("the next node", || root.node() != before && root.is_node_alive());
    for _ in 0..random.below(300_000) {
        std::hint::spin_loop();
    }
    root.kill_node();
    // It was ready before that, or says that its node died, or was the process that died.
    let ran = finish(child);
    assert!(matches!(ran.code, 0 | 31 | 137), "{ran:#?}");
}

/// One step of a program: `mv a b`, `ex a b` (exchange), `ln a b`, `lns a b`, `rm a`, `mkdir a`, `rmdir a`, `w a` (write).
fn step(folder: &Path, step: &str) {
    let words: Vec<&str> = step.split_whitespace().collect();
    let path = |word: usize| folder.join(words[word]);
    let done = match words[0] {
        "mv" => fs::rename(path(1), path(2)),
        "ex" => renameat_with(CWD, path(1), CWD, path(2), RenameFlags::EXCHANGE).map_err(Into::into),
        "ln" => fs::hard_link(path(1), path(2)),
        "lns" => std::os::unix::fs::symlink(words[1], path(2)),
        "rm" => fs::remove_file(path(1)),
        "mkdir" => fs::create_dir(path(1)),
        "rmdir" => fs::remove_dir(path(1)),
        _ => fs::write(path(1), step),
    };
    done.unwrap_or_else(|e| panic!("{step}: {e}"));
}

/// What was there, and what was done right before the kill. Each was told of wrongly once.
const INTERRUPTED: &[(&str, &str)] = &[
    ("mkdir d, w d/x, w f", "ex f d, w d"),
    ("w f, w g, w e", "ex f g, ex g e, w e"),
    ("w f, w g, w h", "mv f t, mv g f, mv h g, mv t h"),
    ("mkdir a, mkdir a/b, mkdir x", "rmdir a/b, rmdir a, mkdir q, mkdir a, mv x a/b"),
    ("mkdir a, mkdir a/b", "rmdir a/b, rmdir a, mkdir a, mkdir a/b"),
    ("mkdir a, w a/f, mkdir a/s", "rm a/f, rmdir a/s, rmdir a, mkdir a, w p, w q, w r, w s, w t"),
    ("mkdir a, w a/f", "rm a/f, rmdir a, w a, w q, w r"),
    ("mkdir d, w f", "rmdir d, mv f d"),
    ("mkdir a, mkdir a/b, w a/b/z, mkdir x", "mv a/b t, rmdir a, mv x a, mv t a/b, w a/b/n"),
    ("mkdir c, w c/f", "mv c t, mkdir c, mv t c/1"),
    ("mkdir a, w a/1, mkdir a/b, w a/b/2", "mv a/b b, mv a b/a, mv b a"),
    ("mkdir a, w a/a", "mv a/a t, rmdir a, mv t a"),
    ("mkdir a, mkdir a/a, w a/a/f", "mv a/a t, rmdir a, mv t a"),
    ("mkdir a, w a/f, mkdir b, w b/g", "mv a t, mv b a, mkdir b, mv t b/a, ex a b"),
    ("w f, mkdir d, mkdir e", "ln f d/x, rm f, ln d/x e/y, w f"),
    ("w f, ln f g, w n", "mv n f"),
    ("lns t l", "mv l m, ln m n, rm m"),
    ("lns t n, w f", "w y, mv y n, mv n m, w z, mv z f, mv f g"),
];

#[test]
fn what_a_kill_interrupts_is_told_as_it_happened() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    for (case, (before, then)) in INTERRUPTED.iter().enumerate() {
        let when = format!("{before}; then {then}");
        let folder = root.mnt("docs", &format!("{case}"));
        fs::create_dir(&folder).unwrap();
        before.split(", ").for_each(|line| step(&folder, line));
        root.run("sync").expect(0);
        then.split(", ").for_each(|line| step(&folder, line));
        root.kill_node();
        mount_again(&root, &when);
        root.expect_clean(&when);
        // What recovery left must also serve what comes next: nothing of it is foreign.
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::OpenOptions::new().append(true).open(entry.path()).unwrap().write_all(b"more").unwrap();
            }
            fs::rename(entry.path(), folder.join(format!("next-{}", entry.file_name().display()))).unwrap();
            if !entry.file_type().unwrap().is_dir() {
                let next = folder.join(format!("next-{}", entry.file_name().display()));
                fs::hard_link(next, folder.join(format!("link-{}", entry.file_name().display()))).unwrap();
            }
        }
        root.expect_clean(&when);
    }
    root.expect_log_is_backing("docs");
}

/// A command under way that the test feeds, slowly.
fn put_from_pipe(root: &TestRoot, target: &str) -> Child {
    let mut child = root.command(&["put", "-", target]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&vec![b'n'; 3 << 20]).unwrap();
    child
}

#[test]
fn a_node_killed_during_put_leaves_the_old_file_and_no_trace_of_the_new() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    fs::write(root.mnt("docs", "kept"), "old").unwrap();
    root.run("sync").expect(0);
    let over = put_from_pipe(&root, "docs/kept");
    let new = put_from_pipe(&root, "docs/new");
    root.kill_node();
    assert_ne!(finish(over).code, 0);
    assert_ne!(finish(new).code, 0);
    mount_again(&root, "killed during put");
    root.expect_clean("killed during put");
    let fold = root.expect_log_is_backing("docs");
    assert_eq!(fold.tree.keys().collect::<Vec<_>>(), [b"kept"], "and no temporary file");
    assert_eq!(fs::read(root.mnt("docs", "kept")).unwrap(), b"old");
}

#[test]
fn puts_that_were_answered_survive_a_kill() {
    let Some(root) = TestRoot::with_fuse() else { return };
    root.run("create docs --mount").expect(0);
    fs::write(root.outside().join("file"), "content").unwrap();
    let mut txids = Vec::new();
    for round in 0..5 {
        for i in 0..4 {
            txids.push(root.run(&format!("put file docs/{round}/{i} --json")).expect(0).json()["txid"].clone());
        }
        root.kill_node();
        mount_again(&root, "killed after put");
    }
    root.expect_clean("killed after put");
    let fold = root.expect_log_is_backing("docs");
    assert_eq!(fold.tree.len(), 5 + 20);
    let log = root.run("log docs --json").expect(0).json_lines();
    for txid in txids {
        assert_eq!(log.iter().filter(|line| line["txid"] == txid).count(), 1, "{txid} is there exactly once");
    }
    assert_eq!(log.len(), 21, "and nothing is there twice");
}

#[test]
fn a_folder_that_is_gone_with_its_disk_keeps_nobody_else_from_the_ledger() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let (folder, away) = (root.outside().join("disk/folder"), root.outside().join("away"));
    fs::create_dir_all(&folder).unwrap();
    root.run("create ext --from disk/folder --mount").expect(0);
    root.run("create docs").expect(0);
    // Killed while a change of it is pending.
    let mut count = 0;
    root.wait_for("a change to be pending", || {
        count += 1;
        fs::write(root.mnt("ext", &format!("file{count}")), "new").unwrap();
        root.run("status --json").expect(0).json()["ledger"]["pending"] != 0
    });
    root.kill_node();
    fs::rename(root.outside().join("disk"), &away).unwrap();
    for line in ["status", "list", "put - docs/a", "mine", "log ext", "integrity"] {
        root.run(line).expect(0);
    }
    root.run("get file1 ext -").expect(11);
    fs::rename(&away, root.outside().join("disk")).unwrap();
    root.run("verify").expect(0);
}

#[test]
fn an_import_that_is_killed_goes_on_where_it_was() {
    let Some(root) = TestRoot::with_fuse() else { return };
    let mut random = Random::new(seed());
    let tree = root.outside().join("tree");
    for i in 0..3000 {
        let folder = tree.join(format!("d{}/e{}", i % 7, i % 3));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("f{i}")), vec![b'x'; random.below(9000) as usize]).unwrap();
    }
    fs::create_dir(tree.join("empty")).unwrap();
    std::os::unix::fs::symlink("d0/nowhere", tree.join("link")).unwrap();
    for _ in 0..4 {
        let mut child = root.start("create docs --from tree");
        // The configuration exists once the import runs; then at any time.
        root.wait_for("the import", || root.path("buckets/docs").exists());
        for _ in 0..random.below(2_000_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        let ended = finish(child);
        assert!(matches!(ended.code, 137 | 0), "{ended:#?}");
        if ended.code == 0 {
            break;
        }
        root.run("mount docs").expect(6);
    }
    let last = root.run("create docs --from tree");
    assert!(matches!(last.code, 0 | 6), "{last:#?}");
    let listed = root.run("list --json").expect(0).json();
    assert_eq!(listed["buckets"][0]["files"].as_u64(), Some(3001), "{last:#?}");
    root.run("sync").expect(0);
    root.run("verify docs").expect(0);
    root.run("integrity").expect(0);
    let fold = root.expect_log_is("docs", &tree);
    let puts = fold.causes.get("import").copied();
    // 3,000 files, a link, and 7 + 21 + 1 folders: none twice.
    assert_eq!((puts, fold.causes.len()), (Some(3001 + 29), 1), "{:?}", fold.causes);
}
