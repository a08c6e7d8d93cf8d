//! What a power cut leaves of the real store: its write-ahead log cut at any byte, or with rot in it; and disks that take
//! no writes.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use wizefs_ledger::{
    BlockHash, BucketId, BucketKind, Cause, Draft, FileOp, Label, Ledger, LedgerError, LogKey, OpenOptions, Statement,
    TreePath, TxId, Wallet, fsck_dir,
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

/// A ledger as it was left: its files, what was submitted in order, and how long its write-ahead log was after each seal.
struct Left {
    dir: tempfile::TempDir,
    wal: PathBuf,
    submitted: Vec<TxId>,
    /// Length of the write-ahead log when the block was durable, its hash, and how many submits were in or before it.
    sealed: Vec<(u64, BlockHash, usize)>,
}

fn wal_of(dir: &Path) -> PathBuf {
    let logs = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|ending| ending == "log")).max().unwrap()
}

fn leave() -> Left {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), options().create()).unwrap();
    let wal = wal_of(dir.path());
    let length = || fs::metadata(&wal).unwrap().len();
    let mut sealed = vec![(length(), ledger.tip().hash(), 0)];
    let name = Label::new("docs").unwrap();
    let bucket = submit(&ledger, Statement::CreateBucket { name, kind: BucketKind::Loopback });
    let mut submitted = vec![bucket];
    for change in 1..=8 {
        submitted.push(mkdir(&ledger, bucket, change));
        if change % 3 == 0 {
            let block = ledger.seal(u64::MAX).unwrap().unwrap();
            sealed.push((length(), block.hash(), submitted.len()));
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
    fs::write(copy.path().join("tip"), format!("{block} {}\n", left.sealed[block].1)).unwrap();
    copy
}

/// Opens what is left, and goes on when it may: a prefix of what was submitted is there, and blocks stay what they were.
fn goes_on(left: &Left, dir: &Path, blocks: usize, what: &str) {
    let ledger = Ledger::open(dir, options()).unwrap();
    assert_eq!(ledger.poisoned(), None, "{what}");
    let height = ledger.tip().header.height as usize;
    assert!(height >= blocks, "{what}: block {blocks} was durable, and {height} is the last");
    for (number, (_, hash, _)) in left.sealed.iter().enumerate().take(height + 1) {
        assert_eq!(ledger.block(number as u64).unwrap().unwrap().hash(), *hash, "{what}: block {number}");
    }
    let there = |txid: &TxId| ledger.transaction(txid).unwrap().is_some();
    let kept = left.submitted.iter().take_while(|txid| there(txid)).count();
    assert!(kept >= left.sealed[height].2, "{what}: what is sealed is there");
    assert!(!left.submitted[kept..].iter().any(there), "{what}: what is there is a beginning");
    if kept > 0 {
        mkdir(&ledger, left.submitted[0], kept as u64);
        assert_eq!(ledger.seal(u64::MAX).unwrap().unwrap().header.height as usize, height + 1);
    }
    let report = ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.problems, vec![], "{what}");
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_loses_only_what_was_not_synced() {
    let left = leave();
    let whole = fs::read(&left.wal).unwrap();
    let ends: Vec<u64> = left.sealed.iter().map(|(end, ..)| *end).collect();
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
            let ledger = Ledger::open(beyond.path(), options()).unwrap();
            assert!(ledger.poisoned().unwrap().contains("was sealed"), "{what}");
            assert!(matches!(ledger.seal_always(u64::MAX), Err(LedgerError::Poisoned(_))), "{what}");
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
            Err(error) => assert!(!error.to_string().is_empty() && !sound, "{what}: {error}"),
        }
    }
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
