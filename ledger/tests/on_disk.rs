//! The ledger on its real store: reopened, cut short, filled up, damaged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use wizefs_ledger::store::rocks::RocksStore;
use wizefs_ledger::store::{Batch, Column, Durability, Read, Store, StoreError};
use wizefs_ledger::{
    AddressHash, BucketId, BucketKind, Cause, Content, Draft, Evidence, FileOp, Hashes, Label, Ledger, LedgerError,
    LogKey, OpenError, OpenOptions, Problem, Put, Report, Space, Statement, TreePath, TxId, Wallet, fsck_dir,
};

fn options() -> OpenOptions {
    let wallet = Wallet::from_secret(&[1; 32]).unwrap();
    OpenOptions { stamp_bits: 4, ..OpenOptions::new(wallet, LogKey::from_seed(&[2; 32])).create() }
}

fn put(bucket: BucketId, change: u64, path: &str) -> Draft {
    let hashes = Some(Hashes { blake3: [change as u8; 32], sha256: [7; 32] });
    let put = Put {
        path: TreePath::new(path).unwrap(),
        content: Content::File { size: 5, hashes },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        evidence: Evidence::Lease,
    };
    let statement = Statement::File { bucket, change, cause: Cause::Mount, op: FileOp::Put(put) };
    Draft { time_us: 1, statement }
}

fn create(ledger: &Ledger) -> BucketId {
    let name = Label::new("docs").unwrap();
    let statement = Statement::CreateBucket { name, kind: BucketKind::Loopback };
    ledger.submit(&options().wallet, vec![Draft { time_us: 0, statement }], &[]).unwrap()[0]
}

fn fsck(dir: &Path) -> Report {
    fsck_dir(dir, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn what_a_dropped_ledger_accepted_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Ledger::open(dir.path(), OpenOptions { create: false, ..options() }).err(),
        Some(OpenError::Absent)
    ));
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    assert!(matches!(Ledger::open(dir.path(), options()).err(), Some(OpenError::Store(_))));
    let bucket = create(&ledger);
    ledger.seal(u64::MAX).unwrap();
    let drafts = (1..=300).map(|change| put(bucket, change, &format!("f{change}"))).collect();
    ledger.submit(&options().wallet, drafts, &[]).unwrap();
    let live = ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(live.problems.is_empty(), "{live:?}");
    let (tip, pending) = (ledger.tip(), ledger.pending());
    assert_eq!(fs::metadata(dir.path().join("reserve")).unwrap().len(), 64 << 20);
    drop(ledger);
    assert_eq!(fsck(dir.path()).problems, []);
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    assert_eq!((ledger.tip(), ledger.pending()), (tip, pending));
    ledger.seal(u64::MAX).unwrap().unwrap();
    drop(ledger);
    let report = fsck(dir.path());
    assert_eq!((report.height, report.transactions, report.problems.len()), (2, 304, 0));
}

#[test]
fn a_store_that_lost_its_end_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    create(&ledger);
    ledger.seal(u64::MAX).unwrap().unwrap();
    drop(ledger);
    // As a damaged write-ahead log does: everything from the damage on is gone, without a word.
    let mut logs: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    let whole: Vec<_> = logs.iter().map(|log| fs::read(log).unwrap()).collect();
    let cut: [fn(&Path, &[u8]); 2] =
        [|log, bytes| fs::write(log, &bytes[..bytes.len() * 2 / 3]).unwrap(), |log, _| fs::remove_file(log).unwrap()];
    for cut in cut {
        logs.iter().zip(&whole).for_each(|(log, bytes)| cut(log, bytes));
        let report = fsck(dir.path());
        assert!(report.problems.iter().any(|problem| problem.problem.contains("block 1 was sealed")), "{report:?}");
        let error = Ledger::open(dir.path(), options()).err();
        assert!(
            matches!(&error, Some(OpenError::Damaged(reason)) if reason.contains("block 1 was sealed")),
            "{error:?}"
        );
        logs.iter().zip(&whole).for_each(|(log, bytes)| fs::write(log, bytes).unwrap());
    }
    assert_eq!(Ledger::open(dir.path(), options()).unwrap().poisoned(), None);
}

#[test]
fn a_folder_in_place_of_a_file_of_the_store_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ledger::open(dir.path(), options()).unwrap());
    for kind in ["CURRENT", "IDENTITY", "MANIFEST"] {
        let name = names(dir.path()).into_iter().find(|name| name.starts_with(kind)).unwrap();
        let file = dir.path().join(name);
        let whole = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let error = Ledger::open(dir.path(), options()).err();
        assert!(matches!(error, Some(OpenError::Damaged(_))), "{kind}: {error:?}");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, whole).unwrap();
        assert_eq!(Ledger::open(dir.path(), options()).unwrap().poisoned(), None);
    }
}

#[test]
fn a_ledger_without_its_genesis_is_damaged_and_not_absent() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ledger::open(dir.path(), options()).unwrap());
    let store = RocksStore::open_existing(dir.path()).unwrap();
    let mut batch = Batch::default();
    batch.delete(Column::Meta, b"genesis");
    store.write(batch, Durability::Synced).unwrap();
    drop(store);
    for create in [false, true] {
        let error = Ledger::open(dir.path(), OpenOptions { create, ..options() }).err();
        assert!(matches!(&error, Some(OpenError::Damaged(why)) if why.contains("genesis")), "{error:?}");
    }
    assert!(fsck(dir.path()).problems.iter().any(|problem| problem.problem.contains("genesis")));
}

#[test]
fn openings_do_not_fill_the_folder_with_files() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..150 {
        Ledger::open(dir.path(), options()).unwrap().seal_always(u64::MAX).unwrap();
    }
    let tables = names(dir.path()).into_iter().filter(|name| name.ends_with(".sst")).count();
    assert!(tables < 200, "{tables}");
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    assert_eq!((ledger.tip().header.height, fsck_of(&ledger)), (150, vec![]));
}

#[test]
fn a_note_of_damage_counts_also_when_it_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ledger::open(dir.path(), options()).unwrap());
    let note = dir.path().join("damaged");
    fs::write(&note, b"block 7: \xff").unwrap();
    assert!(Ledger::open(dir.path(), options()).unwrap().poisoned().unwrap().starts_with("block 7: "));
    fs::remove_file(&note).unwrap();
    fs::create_dir(&note).unwrap();
    assert!(Ledger::open(dir.path(), options()).unwrap().poisoned().is_some());
}

#[test]
fn damaged_files_are_reported_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    let bucket = create(&ledger);
    for round in 0..4 {
        let drafts = (1..=100).map(|change| put(bucket, change, &format!("{round}/{change}"))).collect();
        ledger.submit(&options().wallet, drafts, &[]).unwrap();
        ledger.seal(u64::MAX).unwrap().unwrap();
    }
    drop(ledger);
    // Reopening moves everything from the write-ahead log to table files.
    drop(Ledger::open(dir.path(), options()).unwrap());
    let mut tables = 0;
    for name in names(dir.path()) {
        if !name.ends_with(".sst") && !name.starts_with("MANIFEST") && name != "CURRENT" {
            continue;
        }
        tables += usize::from(name.ends_with(".sst"));
        let copy = tempfile::tempdir().unwrap();
        for name in names(dir.path()) {
            fs::copy(dir.path().join(&name), copy.path().join(&name)).unwrap();
        }
        let mut bytes = fs::read(dir.path().join(&name)).unwrap();
        // In the first block, where rows are.
        let at = (bytes.len() / 3).min(700);
        bytes[at] ^= 0x40;
        fs::write(copy.path().join(&name), &bytes).unwrap();
        let report = fsck(copy.path());
        assert!(!report.problems.is_empty(), "{name}: {report:?}");
        if let Ok(ledger) = Ledger::open(copy.path(), options()) {
            let found = ledger.fsck(&mut |_| ControlFlow::Continue(())).map(|report| report.problems.len());
            assert_ne!(found.ok(), Some(0), "{name}");
            assert!(matches!(ledger.write_local(&[]), Err(LedgerError::Poisoned(_))), "{name}");
            drop(ledger);
            let again = Ledger::open(copy.path(), options()).map(|ledger| ledger.poisoned().is_some());
            assert_ne!(again.ok(), Some(false), "{name}: what a check found must not be forgotten");
            fs::copy(dir.path().join(&name), copy.path().join(&name)).unwrap();
        }
    }
    assert!(tables > 3, "the test must have damaged tables");
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "reserve").collect()
}

/// A small disk of its own; none where this process may not mount one.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Option<Tmpfs> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: this process may not mount a tmpfs");
        }
        mounted.then_some(Tmpfs(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0.path()).status().unwrap();
    }
}

#[test]
fn a_store_that_met_a_full_disk_recovers_whole() {
    let Some(disk) = Tmpfs::new("96m") else { return };
    let (dir, ballast) = (disk.0.path().join("store"), disk.0.path().join("ballast"));
    fs::write(&ballast, vec![0; 40 << 20]).unwrap();
    fs::create_dir(&dir).unwrap();
    let store = RocksStore::open(&dir).unwrap();
    let batch = |number: u32| {
        let mut batch = Batch::default();
        for part in 0..4u8 {
            batch.put(Column::Local, [&number.to_be_bytes()[..], &[part]].concat(), vec![number as u8 ^ part; 60_000]);
        }
        batch
    };
    let mut written = 0;
    let failed = loop {
        match store.write(batch(written), Durability::Synced) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(failed, StoreError::Full);
    assert!(store.write(batch(written), Durability::Buffered).is_err());
    fs::remove_file(&ballast).unwrap();
    store.recover().unwrap();
    store.write(batch(written), Durability::Synced).unwrap();
    drop(store);
    // All or nothing of each batch, and none that was acknowledged is missing.
    let store = RocksStore::open(&dir).unwrap();
    for number in 0..=written {
        for part in 0..4u8 {
            let row = store.get(Column::Local, &[&number.to_be_bytes()[..], &[part]].concat()).unwrap();
            assert_eq!(row, Some(vec![number as u8 ^ part; 60_000]), "{number} of {written}");
        }
    }
}

/// Submits and seals until the ledger is full; how many changes it took.
fn fill(ledger: &Ledger, bucket: BucketId, mut change: u64) -> u64 {
    loop {
        let drafts = (change + 1..=change + 200).map(|change| put(bucket, change, &format!("{change:0200}"))).collect();
        match ledger.submit(&options().wallet, drafts, &[]) {
            Ok(_) => change += 200,
            Err(LedgerError::Full) => return change,
            Err(other) => panic!("{other}"),
        }
        match ledger.seal(u64::MAX) {
            Ok(_) | Err(LedgerError::Full) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_full_disk_stops_the_ledger_and_space_brings_it_back() {
    let Some(disk) = Tmpfs::new("300m") else { return };
    let (dir, ballast) = (disk.0.path().join("ledger"), disk.0.path().join("ballast"));
    let ledger = Ledger::open(&dir, options()).unwrap();
    let bucket = create(&ledger);
    ledger.seal(u64::MAX).unwrap();
    assert_eq!(ledger.space(), Space::Ample);
    // Somebody else fills the disk: the reserve takes what comes now.
    fs::write(&ballast, vec![0; 300 << 20]).unwrap_err();
    let drafts = vec![put(bucket, 1, "settled when full")];
    ledger.submit(&options().wallet, drafts, &[]).unwrap();
    assert!(!dir.join("reserve").exists());
    assert_eq!(ledger.space(), Space::Reserve);
    ledger.seal(u64::MAX).unwrap().unwrap();
    let accepted = fill(&ledger, bucket, 1);
    assert_eq!(ledger.space(), Space::Full);
    assert!(matches!(ledger.write_local(&[(vec![1], Some(vec![2]))]), Err(LedgerError::Full)));
    assert_eq!(ledger.bucket(&bucket).unwrap().unwrap().counts.files, accepted);
    // Space comes back: so does everything else, with the reserve.
    fs::remove_file(&ballast).unwrap();
    ledger.submit(&options().wallet, vec![put(bucket, accepted + 1, "after")], &[]).unwrap();
    ledger.seal(u64::MAX).unwrap().unwrap();
    assert_eq!(ledger.space(), Space::Ample);
    assert!(dir.join("reserve").exists());
    drop(ledger);
    assert_eq!(fsck(&dir).problems, []);
    let ledger = Ledger::open(&dir, options()).unwrap();
    assert_eq!(ledger.poisoned(), None);
    assert_eq!(ledger.bucket(&bucket).unwrap().unwrap().counts.files, accepted + 1);
}

/// Takes all but about `left` bytes of a disk.
fn press(disk: &Path, left: u64) {
    let ballast = disk.join("ballast");
    let take = || {
        let free = rustix::fs::statvfs(disk).unwrap();
        fs::write(&ballast, vec![0; (free.f_bavail * free.f_frsize).saturating_sub(left) as usize])
    };
    // The store's own threads may take some meanwhile.
    while let Err(error) = take() {
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        fs::remove_file(&ballast).unwrap();
    }
}

#[test]
fn a_check_that_has_no_room_accuses_nobody_and_nothing_is_forgotten_meanwhile() {
    let Some(disk) = Tmpfs::new("200m") else { return };
    let dir = disk.0.path().join("ledger");
    let ledger = Ledger::open(&dir, options()).unwrap();
    let bucket = create(&ledger);
    // More rows than a check holds in memory come before what is to be forgotten.
    for from in [1, 8_001, 16_001] {
        let drafts = (from..from + 8_000).map(|change| put(bucket, change, &format!("{change:0100}"))).collect();
        ledger.submit(&options().wallet, drafts, &[]).unwrap();
        ledger.seal(u64::MAX).unwrap();
    }
    let drafts = (24_001..24_005).map(|change| put(bucket, change, "gone")).collect();
    let first = ledger.submit(&options().wallet, drafts, &[]).unwrap()[0];
    ledger.seal(u64::MAX).unwrap();
    // Its own background writes are not to meet the full disk, nor to make room in it.
    drop(ledger);
    RocksStore::open_existing(&dir).unwrap().compact().unwrap();
    let ledger = Ledger::open(&dir, options()).unwrap();
    let check = || ledger.fsck(&mut |_| ControlFlow::Continue(()));
    let mut refused = 0;
    for left in [256 << 10, 512 << 10, 1 << 20, 2 << 20] {
        press(disk.0.path(), left);
        match check() {
            Err(LedgerError::Full) => {
                refused += 1;
                let forgot = ledger.forget(&first);
                assert!(matches!(forgot, Err(LedgerError::Full)), "{left} bytes left: {forgot:?}");
            }
            done => assert_eq!(done.unwrap().problems, [], "{left} bytes left"),
        }
        assert_eq!((ledger.poisoned(), dir.join("damaged").exists()), (None, false), "{left} bytes left");
        fs::remove_file(disk.0.path().join("ballast")).unwrap();
    }
    assert!(refused > 0, "the disk must have been too full");
    assert_eq!(check().unwrap().problems, []);
    let gone = ledger.forget(&first).unwrap();
    assert_eq!(check().unwrap().problems, []);
    drop(ledger);
    // What it did is known, as of every one that is erased.
    let stub = RocksStore::open_existing(&dir).unwrap().get(Column::Transactions, &gone.index.to_be_bytes());
    let without_updates = 1 + 64 + 8 + 8 + 2 + 4;
    assert!(stub.unwrap().unwrap().len() > without_updates);
}

/// Bytes that do not get smaller.
const SECRET: [u8; 32] = {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = (at * 37 + 11) as u8;
        at += 1;
    }
    bytes
};

/// A transaction that states the secret, replaced by another one. Both, and what the file system noted with them, are in table
/// files.
fn replaced_secret(dir: &Path) -> TxId {
    let told = |ledger: &Ledger, bucket: BucketId, change: u64, sha256: [u8; 32]| {
        let mut draft = put(bucket, change, "plan");
        if let Statement::File { op: FileOp::Put(put), .. } = &mut draft.statement {
            put.content = Content::File { size: 5, hashes: Some(Hashes { blake3: [3; 32], sha256 }) };
        }
        let note = (b"note".to_vec(), Some(sha256.to_vec()));
        ledger.submit(&options().wallet, vec![draft], &[note]).unwrap()[0]
    };
    let ledger = Ledger::open(dir, options()).unwrap();
    let bucket = create(&ledger);
    let first = told(&ledger, bucket, 1, SECRET);
    drop(ledger);
    // Opening writes what was in the write-ahead log to table files.
    let ledger = Ledger::open(dir, options()).unwrap();
    ledger.seal(u64::MAX).unwrap();
    drop(ledger);
    let ledger = Ledger::open(dir, options()).unwrap();
    told(&ledger, bucket, 2, [4; 32]);
    ledger.seal(u64::MAX).unwrap();
    assert!(holding(dir) >= 3, "it is in transactions, state and local rows");
    first
}

/// How many files of the ledger hold the secret.
fn holding(dir: &Path) -> usize {
    // The store may be removing one that it no longer needs.
    let read = |name: &String| match fs::read(dir.join(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        bytes => bytes.unwrap(),
    };
    let holds = |name: &String| read(name).windows(32).any(|at| at == SECRET);
    names(dir).into_iter().filter(holds).count()
}

#[test]
fn what_is_forgotten_is_in_no_file_of_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let first = replaced_secret(dir.path());
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    ledger.forget(&first).unwrap();
    assert_eq!(holding(dir.path()), 0);
}

#[test]
fn what_a_full_disk_kept_from_being_forgotten_is_when_there_is_room() {
    // Too small for a reserve.
    let Some(disk) = Tmpfs::new("96m") else { return };
    let dir = disk.0.path().join("ledger");
    let first = replaced_secret(&dir);
    let forget_in_vain = |ledger: &Ledger| {
        press(disk.0.path(), 128 << 10);
        assert!(matches!(ledger.forget(&first), Err(LedgerError::Full)));
        assert!(ledger.transaction(&first).unwrap().unwrap().transaction.is_none(), "it is erased");
        assert!(holding(&dir) > 0, "and not from the files yet");
        fs::remove_file(disk.0.path().join("ballast")).unwrap();
    };
    let ledger = Ledger::open(&dir, options()).unwrap();
    forget_in_vain(&ledger);
    forget_in_vain(&ledger);
    drop(ledger);
    // Opening it is enough.
    let ledger = Ledger::open(&dir, options()).unwrap();
    assert_eq!((holding(&dir), fsck_of(&ledger)), (0, vec![]));
    assert!(matches!(ledger.forget(&first), Err(LedgerError::Refused(_))));
}

fn fsck_of(ledger: &Ledger) -> Vec<Problem> {
    ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap().problems
}

#[test]
fn a_ledger_on_a_full_disk_opens_on_its_reserve() {
    let Some(disk) = Tmpfs::new("300m") else { return };
    let dir = disk.0.path().join("ledger");
    let ledger = Ledger::open(&dir, options()).unwrap();
    let bucket = create(&ledger);
    ledger.seal(u64::MAX).unwrap();
    drop(ledger);
    assert!(dir.join("reserve").exists());
    press(disk.0.path(), 0);
    let ledger = Ledger::open(&dir, options()).unwrap();
    assert_eq!((ledger.space(), dir.join("reserve").exists()), (Space::Reserve, false));
    ledger.submit(&options().wallet, vec![put(bucket, 1, "settled when full")], &[]).unwrap();
    // Coins free no disk.
    let own = options().wallet;
    let draft = ledger.draft_transfer(own.public(), AddressHash([7; 20]), 1).unwrap();
    assert!(matches!(ledger.submit_transfer(draft.signed_by(&own)), Err(LedgerError::Full)));
    ledger.seal(u64::MAX).unwrap().unwrap();
}
