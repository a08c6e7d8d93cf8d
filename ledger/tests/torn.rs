//! What a power cut leaves of the real store: its write-ahead log cut at any byte, or with rot in it; and disks that take
//! no writes.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use wizefs_ledger::{
    BlockHash, BucketId, BucketKind, Cause, Draft, FileOp, Label, Ledger, LedgerError, LogKey, OpenError, OpenOptions,
    RebuildError, Statement, TreePath, TxId, Wallet, fsck_dir, rebuild_dir,
};

fn options() -> OpenOptions {
    let wallet = Wallet::from_secret(&[1; 32]).unwrap();
    OpenOptions { stamp_bits: 4, ..OpenOptions::new(wallet, LogKey::from_seed(&[2; 32])) }
}

fn submit(ledger: &Ledger, statement: Statement) -> TxId {
    ledger.submit(&options().wallet, vec![Draft { time_us: 1, statement }], &[]).unwrap()[0]
}

fn mkdir(ledger: &Ledger, bucket: BucketId, change: u64) -> TxId {
    let op = FileOp::Mkdir { path: TreePath::new(format!("d{change}")).unwrap(), mode: 0o755 };
    submit(ledger, Statement::File { bucket, change, cause: Cause::Mount, op })
}

/// A ledger as it was left: its files, what was submitted in order, and how it stood after each seal.
struct Left {
    dir: tempfile::TempDir,
    wal: PathBuf,
    submitted: Vec<TxId>,
    sealed: Vec<Stood>,
}

/// When a block was durable.
struct Stood {
    /// Length of the write-ahead log.
    end: u64,
    hash: BlockHash,
    /// How many submits were in it or before it.
    submits: usize,
    /// The tip file.
    tip: Vec<u8>,
}

fn wal_of(dir: &Path) -> PathBuf {
    let logs = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|ending| ending == "log")).max().unwrap()
}

fn leave() -> Left {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), options().create()).unwrap();
    let wal = wal_of(dir.path());
    let stood = |submits| Stood {
        end: fs::metadata(&wal).unwrap().len(),
        hash: ledger.tip().hash(),
        submits,
        tip: fs::read(dir.path().join("tip")).unwrap(),
    };
    let mut sealed = vec![stood(0)];
    let name = Label::new("docs").unwrap();
    let bucket = submit(&ledger, Statement::CreateBucket { name, kind: BucketKind::Loopback });
    let mut submitted = vec![bucket];
    for change in 1..=8 {
        submitted.push(mkdir(&ledger, bucket, change));
        if change % 3 == 0 {
            ledger.seal(u64::MAX).unwrap().unwrap();
            sealed.push(stood(submitted.len()));
        }
    }
    ledger.sync().unwrap();
    drop(ledger);
    Left { dir, wal, submitted, sealed }
}

/// A copy with another write-ahead log, and with the tip file of `block`.
fn copy(left: &Left, wal: &[u8], block: usize) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in
        fs::read_dir(left.dir.path()).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "reserve")
    {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    fs::write(copy.path().join(left.wal.file_name().unwrap()), wal).unwrap();
    fs::write(copy.path().join("tip"), &left.sealed[block].tip).unwrap();
    copy
}

/// Opens what is left, and goes on when it may: a prefix of what was submitted is there, and blocks stay what they were.
fn goes_on(left: &Left, dir: &Path, blocks: usize, what: &str) {
    let ledger = Ledger::open(dir, options()).unwrap();
    assert_eq!(ledger.poisoned(), None, "{what}");
    let height = ledger.tip().header.height as usize;
    assert!(height >= blocks, "{what}: block {blocks} was durable, and {height} is the last");
    for (number, Stood { hash, .. }) in left.sealed.iter().enumerate().take(height + 1) {
        assert_eq!(ledger.block(number as u64).unwrap().unwrap().hash(), *hash, "{what}: block {number}");
    }
    let there = |txid: &TxId| ledger.transaction(txid).unwrap().is_some();
    let kept = left.submitted.iter().take_while(|txid| there(txid)).count();
    assert!(kept >= left.sealed[height].submits, "{what}: what is sealed is there");
    assert!(!left.submitted[kept..].iter().any(there), "{what}: what is there is a beginning");
    if kept > 0 {
        mkdir(&ledger, left.submitted[0], kept as u64);
        assert_eq!(ledger.seal(u64::MAX).unwrap().unwrap().header.height as usize, height + 1);
    }
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.problems, vec![], "{what}");
}

/// Files that hold rows, or say which do.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let kept = |path: &PathBuf| !path.file_name().unwrap().to_str().unwrap().starts_with("LO");
    let mut files: Vec<_> = paths.filter(kept).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

/// A ledger that lost its end does not open, and nothing of it is touched.
fn refuses(dir: &Path, why: &str, what: &str) {
    let left = files(dir);
    let error = Ledger::open(dir, options()).err();
    assert!(matches!(&error, Some(OpenError::Damaged(reason)) if reason.contains(why)), "{what}: {error:?}");
    assert!(files(dir) == left, "{what}: nothing is touched");
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_loses_only_what_was_not_synced() {
    let left = leave();
    let whole = fs::read(&left.wal).unwrap();
    let ends: Vec<u64> = left.sealed.iter().map(|stood| stood.end).collect();
    // Around the end of each block's write, and spread over the rest.
    let near = ends.iter().flat_map(|end| [end - 1, *end, end + 7]);
    let spread = (0..whole.len() as u64).step_by(whole.len() / 8);
    for at in near.chain(spread).filter(|at| *at >= ends[0] && *at <= whole.len() as u64) {
        let wal = &whole[..at as usize];
        let blocks = ends.iter().filter(|end| **end <= at).count() - 1;
        let what = format!("cut at {at} of {}", whole.len());
        goes_on(&left, copy(&left, wal, blocks).path(), blocks, &what);
        // A block that was sealed and is gone is never sealed anew with other content.
        if blocks + 1 < ends.len() {
            let beyond = copy(&left, wal, ends.len() - 1);
            let report = fsck_dir(beyond.path(), &mut |_| ControlFlow::Continue(())).unwrap();
            assert!(!report.problems.is_empty(), "{what}");
            refuses(beyond.path(), "was sealed", &what);
        }
    }
}

#[test]
fn rot_in_the_write_ahead_log_is_a_torn_tail_or_is_noticed() {
    let left = leave();
    let whole = fs::read(&left.wal).unwrap();
    let last = left.sealed.len() - 1;
    for at in (0..whole.len()).step_by(whole.len() / 16) {
        let mut wal = whole.clone();
        wal[at] ^= 0x20;
        let what = format!("a bit at {at} of {}", whole.len());
        let copy = copy(&left, &wal, last);
        let sound = fsck_dir(copy.path(), &mut |_| ControlFlow::Continue(())).unwrap().problems.is_empty();
        match Ledger::open(copy.path(), options()) {
            Ok(ledger) if ledger.poisoned().is_none() => {
                assert!(sound, "{what}");
                drop(ledger);
                goes_on(&left, copy.path(), last, &what);
            }
            Ok(ledger) => {
                assert!(!sound, "{what}");
                assert!(matches!(ledger.seal_always(u64::MAX), Err(LedgerError::Poisoned(_))), "{what}");
            }
            Err(error) => {
                assert!(!sound, "{what}: {error}");
                refuses(copy.path(), "", &what);
                // The bit turned back: everything is there.
                fs::write(copy.path().join(left.wal.file_name().unwrap()), &whole).unwrap();
                goes_on(&left, copy.path(), last, &what);
            }
        }
    }
}

#[test]
fn a_damaged_tip_file_is_told_and_made_anew_from_a_whole_ledger_only() {
    let left = leave();
    let (whole, last) = (fs::read(&left.wal).unwrap(), left.sealed.len() - 1);
    let tip = &left.sealed[last].tip;
    let mut flipped = tip.clone();
    flipped[19] ^= 8;
    for damage in [None, Some(&[][..]), Some(&tip[..30]), Some(&flipped)] {
        let what = format!("{:?}", damage.map(String::from_utf8_lossy));
        let spoil = |dir: &Path| match damage {
            None => fs::remove_file(dir.join("tip")).unwrap(),
            Some(damage) => fs::write(dir.join("tip"), damage).unwrap(),
        };
        let mut rotten = whole.clone();
        rotten[left.sealed[last - 1].end as usize + 20] ^= 1;
        let both = copy(&left, &rotten, last);
        spoil(both.path());
        refuses(both.path(), "the tip file", &what);
        let rebuilt = rebuild_dir(both.path(), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(rebuilt, Err(RebuildError::Chain(_))), "{what}: {rebuilt:?}");
        refuses(both.path(), "the tip file", &what);

        let copy = copy(&left, &whole, last);
        spoil(copy.path());
        refuses(copy.path(), "the tip file", &what);
        let report = fsck_dir(copy.path(), &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(report.problems.len() == 1 && report.problems[0].derived, "{what}: {report:?}");
        let report = rebuild_dir(copy.path(), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.problems, vec![], "{what}");
        assert_eq!(&fs::read(copy.path().join("tip")).unwrap(), tip, "{what}");
        goes_on(&left, copy.path(), last, &what);
    }
}

#[test]
fn a_check_beside_a_node_tells_a_lost_end() {
    let left = leave();
    let copy = copy(&left, &fs::read(&left.wal).unwrap()[..left.sealed[1].end as usize], 1);
    let ledger = Ledger::open(copy.path(), options()).unwrap();
    assert_eq!(ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap().problems, vec![]);
    fs::write(copy.path().join("tip"), &left.sealed[2].tip).unwrap();
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.problems[0].problem.contains("was sealed"), "{report:?}");
    assert!(matches!(ledger.seal_always(u64::MAX), Err(LedgerError::Poisoned(_))));
}

/// A small disk of its own that can be made read-only; none where this process may not mount one.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=128m", "none"]).arg(dir.path()).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: this process may not mount a tmpfs");
        }
        mounted.then_some(Disk(dir))
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0.path()).status().unwrap();
    }
}

#[test]
fn a_ledger_on_a_read_only_disk_is_checked_and_not_opened() {
    let Some(disk) = Disk::new() else { return };
    let dir = disk.0.path().join("ledger");
    let ledger = Ledger::open(&dir, options().create()).unwrap();
    let name = Label::new("docs").unwrap();
    let bucket = submit(&ledger, Statement::CreateBucket { name, kind: BucketKind::Loopback });
    mkdir(&ledger, bucket, 1);
    let tip = ledger.seal(u64::MAX).unwrap().unwrap();
    drop(ledger);
    disk.remount("ro");
    assert!(Ledger::open(&dir, options()).is_err());
    let report = fsck_dir(&dir, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.height, report.problems), (1, vec![]));
    assert!(Ledger::open(&disk.0.path().join("other"), options().create()).is_err());
    disk.remount("rw");
    let ledger = Ledger::open(&dir, options()).unwrap();
    assert_eq!((ledger.tip(), ledger.poisoned()), (tip, None));
    mkdir(&ledger, bucket, 2);
    ledger.seal(u64::MAX).unwrap().unwrap();
}
