//! What follows from the chain, damaged and made anew.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use wizefs_ledger::store::rocks::RocksStore;
use wizefs_ledger::store::{Batch, Column, Direction, Durability, Read, Store};
use wizefs_ledger::{
    BucketId, BucketKind, Cause, Draft, FileOp, Label, Ledger, LogKey, OpenError, OpenOptions, RebuildError, Report,
    Statement, TreePath, TxId, Wallet, fsck_dir, rebuild_dir,
};

fn options() -> OpenOptions {
    let wallet = Wallet::from_secret(&[1; 32]).unwrap();
    OpenOptions { stamp_bits: 4, ..OpenOptions::new(wallet, LogKey::from_seed(&[2; 32])) }.create()
}

fn submit(ledger: &Ledger, statement: Statement) -> TxId {
    ledger.submit(&options().wallet, vec![Draft { time_us: 1, statement }], &[]).unwrap()[0]
}

fn state(ledger: &Ledger, bucket: BucketId, change: u64, op: FileOp) -> TxId {
    submit(ledger, Statement::File { bucket, change, cause: Cause::Mount, op })
}

/// A ledger with some hundred transactions; the first about a file.
fn make(dir: &Path) -> TxId {
    let ledger = Ledger::open(dir, options()).unwrap();
    let name = Label::new("docs").unwrap();
    let bucket = submit(&ledger, Statement::CreateBucket { name, kind: BucketKind::Loopback });
    let mut first = None;
    for number in 0..400u64 {
        let path = TreePath::new(format!("d{}/f{number}", number % 7)).unwrap();
        let op = if number % 9 == 8 { FileOp::Rmdir { path } } else { FileOp::Mkdir { path, mode: 0o755 } };
        let txid = state(&ledger, bucket, number + 1, op);
        first.get_or_insert(txid);
        if number % 60 == 59 {
            ledger.seal(u64::MAX).unwrap();
        }
    }
    let gone = FileOp::Rmdir { path: TreePath::new("d0/f0").unwrap() };
    state(&ledger, bucket, 401, gone);
    ledger.seal(u64::MAX).unwrap();
    state(&ledger, bucket, 402, FileOp::Mkdir { path: TreePath::new("pending").unwrap(), mode: 0o700 });
    ledger.sync().unwrap();
    first.unwrap()
}

fn check(dir: &Path) -> Report {
    fsck_dir(dir, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn rebuild(dir: &Path) -> Result<Report, RebuildError> {
    rebuild_dir(dir, &mut |_| ControlFlow::Continue(()))
}

/// Every row of what follows from the chain.
fn derived(dir: &Path) -> Vec<(Column, Vec<u8>, Vec<u8>)> {
    let store = RocksStore::open(dir).unwrap();
    let mut rows = Vec::new();
    for column in [Column::Index, Column::Tiles, Column::State, Column::Nodes] {
        store
            .scan(column, b"", Direction::Forward, &mut |key, value| {
                rows.push((column, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    rows
}

fn write(dir: &Path, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::default();
    change(&mut batch);
    RocksStore::open(dir).unwrap().write(batch, Durability::Synced).unwrap();
}

#[test]
fn what_follows_from_the_chain_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    assert!(check(dir.path()).problems.is_empty());
    let sound = derived(dir.path());
    for column in [Column::Index, Column::Tiles, Column::State, Column::Nodes] {
        for way in 0..3 {
            write(dir.path(), |batch| {
                for (_, key, value) in sound.iter().filter(|(other, ..)| *other == column).step_by(3) {
                    match way {
                        0 => batch.delete(column, key.clone()),
                        1 => batch.put(column, key.clone(), [&value[..], &[1]].concat()),
                        _ => batch.put(column, [&key[..], &[7]].concat(), value.clone()),
                    }
                }
            });
            let damaged = check(dir.path());
            assert!(
                !damaged.problems.is_empty() && damaged.problems.iter().all(|p| p.derived),
                "{column:?} {way}: {damaged:?}"
            );
            assert_eq!(rebuild(dir.path()).unwrap().problems, vec![], "{column:?} {way}");
            assert!(derived(dir.path()) == sound, "{column:?} {way}: the rows are not those there were");
        }
    }
    let ledger = Ledger::open(dir.path(), options()).unwrap();
    assert_eq!((ledger.poisoned(), ledger.pending().count()), (None, 1));
    ledger.seal(u64::MAX).unwrap().unwrap();
}

#[test]
fn a_damaged_chain_is_not_built_upon() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let before = derived(dir.path());
    write(dir.path(), |batch| {
        batch.delete(Column::Transactions, 9u64.to_be_bytes());
        batch.delete(Column::Index, before[0].1.clone());
    });
    let left = derived(dir.path());
    assert!(matches!(rebuild(dir.path()), Err(RebuildError::Chain(_))));
    assert!(derived(dir.path()) == left, "nothing is touched");
}

#[test]
fn with_erased_transactions_tiles_and_index_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = make(dir.path());
    Ledger::open(dir.path(), options()).unwrap().forget(&first).unwrap();
    let sound = derived(dir.path());
    write(dir.path(), |batch| {
        for (column, key, _) in sound.iter().filter(|(column, ..)| *column == Column::Index).step_by(5) {
            batch.delete(*column, key.clone());
        }
    });
    let report = rebuild(dir.path()).unwrap();
    assert_eq!((report.problems, report.erased), (vec![], 1));
    assert!(derived(dir.path()) == sound);
}

/// The store's files that hold rows or say which do, with what is in them.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let kept = |name: &String| !name.starts_with("LOG") && name != "LOCK" && name != "reserve";
    names.filter(kept).map(|name| (name.clone(), fs::read(dir.join(&name)).unwrap())).collect()
}

fn put_back(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs::remove_dir_all(dir).unwrap();
    fs::create_dir(dir).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
}

#[test]
fn nothing_is_touched_of_a_store_that_lacks_the_file_that_names_the_others() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    drop(Ledger::open(dir.path(), options()).unwrap());
    let whole = files(dir.path());
    assert!(whole.keys().any(|name| name.ends_with(".sst")));
    for also in ["", "tip"] {
        put_back(dir.path(), &whole);
        let left = whole.iter().filter(|(name, _)| !["CURRENT", also].contains(&name.as_str()));
        let left: BTreeMap<_, _> = left.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        put_back(dir.path(), &left);
        for _ in 0..2 {
            assert!(matches!(rebuild(dir.path()), Err(RebuildError::Chain(_))));
            assert!(!check(dir.path()).problems.is_empty());
            assert!(matches!(Ledger::open(dir.path(), options()).err(), Some(OpenError::Damaged(_))));
            let found = files(dir.path());
            assert!(found == left, "{also}: {:?} of {:?}", found.keys(), left.keys());
        }
        put_back(dir.path(), &whole);
        assert_eq!(check(dir.path()).problems, vec![], "{also}");
    }
}

/// Flips bits of each table file, in its rows and in what tells where they are; how many of them a rebuild cured.
fn flipped(dir: &Path, whole: &BTreeMap<String, Vec<u8>>, sound: &[(Column, Vec<u8>, Vec<u8>)]) -> usize {
    let mut cured = 0;
    for name in whole.keys().filter(|name| name.ends_with(".sst")) {
        let length = whole[name].len();
        for at in [length.min(700) / 3, length / 2, length - 20] {
            let mut damaged = whole.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0x40;
            put_back(dir, &damaged);
            let report = check(dir);
            if report.problems.iter().all(|problem| problem.derived) {
                assert_eq!(rebuild(dir).unwrap().problems, vec![], "{name} at {at}: {report:?}");
                assert!(derived(dir) == sound, "{name} at {at}: the rows are not those there were");
                assert_eq!(Ledger::open(dir, options()).unwrap().poisoned(), None, "{name} at {at}");
                cured += usize::from(!report.problems.is_empty());
            } else {
                assert!(matches!(rebuild(dir), Err(RebuildError::Chain(_))), "{name} at {at}");
                assert!(files(dir) == damaged, "{name} at {at}: nothing is touched");
            }
        }
    }
    cured
}

#[test]
fn what_follows_from_the_chain_is_made_anew_also_when_its_files_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let sound = derived(dir.path());
    drop(RocksStore::open_existing(dir.path()).unwrap());
    let cured = flipped(dir.path(), &files(dir.path()), &sound);
    assert!(cured >= 8, "{cured}: each of four columns has a file of its own");
}

#[test]
fn a_rebuild_is_noted_before_anything_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let first = derived(dir.path()).remove(0);
    write(dir.path(), |batch| batch.delete(first.0, first.1));
    let (mut noted, note) = (Vec::new(), dir.path().join("damaged"));
    let done = rebuild_dir(dir.path(), &mut |progress| {
        noted.push((progress.done == progress.total, note.exists()));
        ControlFlow::Continue(())
    });
    assert_eq!(done.unwrap().problems, vec![]);
    assert!(!note.exists());
    // Checked, made anew, checked again.
    let checked = noted.iter().position(|(whole, _)| *whole).unwrap() + 1;
    assert!(noted[..checked].iter().all(|(_, noted)| !noted) && noted[checked..].iter().all(|(_, noted)| *noted));
    // One that was killed when all was done but the note is still there.
    fs::write(&note, "block 1: something").unwrap();
    assert_eq!(rebuild(dir.path()).unwrap().problems, vec![]);
    assert!(!note.exists());
}
