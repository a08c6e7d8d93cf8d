//! What every store must do; run against each of them.

use std::ops::ControlFlow;

use super::memory::{MemoryStore, Rows};
use super::rocks::RocksStore;
use super::{Batch, Column, Direction, Durability, Read, Store, scan_prefix};
use crate::store::crash::CrashStore;

fn row(key: &str) -> (Vec<u8>, Vec<u8>) {
    (key.as_bytes().to_vec(), key.to_uppercase().into_bytes())
}

fn fill(store: &dyn Store) {
    let mut batch = Batch::default();
    for key in ["b", "ba", "bb", "c", "a"] {
        let (key, value) = row(key);
        batch.put(Column::Index, key, value);
    }
    batch.put(Column::State, *b"b", *b"other column");
    batch.put(Column::Index, *b"gone", *b"x");
    batch.delete(Column::Index, *b"gone");
    batch.delete(Column::Index, *b"never");
    batch.put(Column::Index, *b"b", *b"B");
    store.write(batch, Durability::Synced).unwrap();
}

fn scanned(read: &dyn Read, from: &[u8], direction: Direction, most: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        assert_eq!(value, key.to_ascii_uppercase());
        keys.push(String::from_utf8(key.to_vec()).unwrap());
        if keys.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    read.scan(Column::Index, from, direction, &mut visit).unwrap();
    keys
}

fn conforms(store: &dyn Store) {
    assert_eq!(store.get(Column::Meta, b"x").unwrap(), None);
    assert!(scanned(store, b"", Direction::Forward, 9).is_empty());
    assert!(scanned(store, b"z", Direction::Backward, 9).is_empty());
    fill(store);
    assert_eq!(store.get(Column::Index, b"gone").unwrap(), None);
    assert_eq!(store.get(Column::Index, b"ba").unwrap(), Some(b"BA".to_vec()));
    assert_eq!(store.get(Column::State, b"b").unwrap(), Some(b"other column".to_vec()));
    assert_eq!(scanned(store, b"", Direction::Forward, 9), ["a", "b", "ba", "bb", "c"]);
    assert_eq!(scanned(store, b"b\0", Direction::Forward, 2), ["ba", "bb"]);
    assert_eq!(scanned(store, b"b", Direction::Backward, 9), ["b", "a"]);
    assert_eq!(scanned(store, b"bz", Direction::Backward, 2), ["bb", "ba"]);
    let mut keys = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        keys += 1;
        ControlFlow::Continue(())
    };
    scan_prefix(store, Column::Index, b"b", &mut count).unwrap();
    assert_eq!(keys, 3);
    // A snapshot stands still while the store goes on.
    let work = &mut |read: &dyn Read| {
        let mut batch = Batch::default();
        batch.delete(Column::Index, *b"ba");
        store.write(batch, Durability::Buffered).unwrap();
        assert_eq!(read.get(Column::Index, b"ba").unwrap(), Some(b"BA".to_vec()));
        assert_eq!(scanned(read, b"ba", Direction::Forward, 1), ["ba"]);
    };
    store.snapshot(work).unwrap();
    assert_eq!(scanned(store, b"ba", Direction::Forward, 1), ["bb"]);
    store.sync().unwrap();
    store.recover().unwrap();
    assert_eq!(scanned(store, b"", Direction::Forward, 9), ["a", "b", "bb", "c"]);
    store.clear(Column::State).unwrap();
    assert_eq!(store.get(Column::State, b"b").unwrap(), None);
    let mut batch = Batch::default();
    batch.put(Column::State, *b"d", *b"D");
    store.write(batch, Durability::Synced).unwrap();
    assert_eq!(store.get(Column::State, b"d").unwrap(), Some(b"D".to_vec()));
}

#[test]
fn in_memory() {
    conforms(&MemoryStore::default());
}

#[test]
fn crashing() {
    conforms(&CrashStore::new(Rows::default(), u64::MAX));
}

#[test]
fn on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    conforms(&store);
    assert!(store.free_space().is_some());
    assert!(matches!(RocksStore::open(dir.path()).err(), Some(super::StoreError::Locked(_))));
    drop(store);
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(scanned(&store, b"", Direction::Forward, 9), ["a", "b", "bb", "c"]);
    assert_eq!(store.get(Column::State, b"b").unwrap(), None);
    assert_eq!(store.get(Column::State, b"d").unwrap(), Some(b"D".to_vec()));
}
