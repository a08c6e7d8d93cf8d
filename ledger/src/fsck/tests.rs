//! Damage of every kind is found and named; nothing sound is accused.

use super::*;
use crate::chain::tests::{Fixture, mkdir, options, path, put, remove, rename};
use crate::store::memory::{MemoryStore, Rows as Stored};
use crate::store::{Batch, Durability, Store};
use crate::transaction::FileOp;
use crate::{Ledger, OpenError};
use std::sync::Arc;

/// A chain of a few blocks with something of everything, and pending transactions.
fn sound() -> Stored {
    sound_with(4)
}

/// The same with `many` more puts in every other block.
fn sound_with(many: u8) -> Stored {
    let mut fixture = Fixture::new();
    fixture.seal();
    for round in 0..3u8 {
        let exchange = FileOp::Exchange { a: path("a"), b: path("d/b") };
        fixture.submit(vec![put("a", round), put("d/b", round), mkdir("d", 0o700), exchange, put("x", 1)]);
        fixture.submit((0..many).map(|number| put(&format!("many/{number}"), number)).collect());
        fixture.seal();
        fixture.submit(vec![rename("x", "y"), remove("a"), rename("d", &format!("e{round}"))]);
        fixture.seal();
    }
    fixture.submit(vec![put("late", 1), put("late", 2), remove("late")]);
    fixture.store.rows()
}

fn checked(rows: &Stored) -> Report {
    check(rows, None, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_sound_chain_has_no_problems_and_a_check_can_be_broken_off() {
    let rows = sound_with(100);
    let report = checked(&rows);
    assert_eq!(report, Report { height: 7, transactions: 333, ..Report::default() });
    let mut calls = 0;
    let stopped = check(&rows, None, &mut |progress| {
        calls += 1;
        assert_eq!(progress.total, 333);
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(stopped.cancelled && stopped.height == 2 && stopped.problems.is_empty());
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let rows = sound();
    // Every column, rows spread over it, bits spread over key and value.
    for column in Column::ALL.into_iter().filter(|column| *column != Column::Local) {
        let keys: Vec<_> = rows.0.keys().filter(|(other, _)| *other == column).cloned().collect();
        for (number, key) in keys.iter().enumerate().step_by((keys.len() / 24).max(1)) {
            let length = rows.0[key].len();
            for flip in 0..6 {
                let mut altered = rows.clone();
                let bit = (number * 131 + flip * 977) % (length * 8).max(1);
                if flip == 5 || length == 0 {
                    let value = altered.0.remove(key).unwrap();
                    let mut other = key.clone();
                    let at = (number * 7 + flip) % other.1.len();
                    other.1[at] ^= 1 << (number % 8);
                    altered.0.insert(other, value);
                } else {
                    altered.0.get_mut(key).unwrap()[bit / 8] ^= 1 << (bit % 8);
                }
                assert!(!checked(&altered).problems.is_empty(), "{column:?} {key:?} flip {flip}");
            }
            if column == Column::Mempool && number + 1 == keys.len() {
                // The end of the mempool may be lost like any write that was not synced.
                continue;
            }
            let mut altered = rows.clone();
            altered.0.remove(key);
            assert!(!checked(&altered).problems.is_empty(), "{column:?} {key:?} removed");
        }
    }
}

#[test]
fn damage_is_named_where_it_is() {
    let rows = sound();
    let key = |column, number: u64| (column, number.to_be_bytes().to_vec());
    let first = |altered: &Stored| checked(altered).problems.remove(0);
    // A transaction: every few of its bytes, by block and index.
    for at in (0..rows.0[&key(Column::Transactions, 10)].len()).step_by(5) {
        let mut altered = rows.clone();
        altered.0.get_mut(&key(Column::Transactions, 10)).unwrap()[at] ^= 0x10;
        let problem = first(&altered);
        assert_eq!((problem.block, problem.index), (Some(2), Some(10)), "byte {at}: {}", problem.problem);
    }
    // A header or its signature.
    for at in [1, 40, 80, 120, 180, 237, 238, 239, 300] {
        let mut altered = rows.clone();
        altered.0.get_mut(&key(Column::Blocks, 3)).unwrap()[at] ^= 1;
        assert_eq!(first(&altered).block, Some(3), "byte {at}");
    }
    let mut altered = rows.clone();
    altered.0.remove(&key(Column::Blocks, 4));
    assert_eq!(first(&altered).block, Some(4));
    assert_eq!(first(&altered).problem, "the block is missing");
    // Two transactions in each other's place.
    let mut altered = rows.clone();
    let (a, b) = (rows.0[&key(Column::Transactions, 8)].clone(), rows.0[&key(Column::Transactions, 9)].clone());
    altered.0.insert(key(Column::Transactions, 8), b);
    altered.0.insert(key(Column::Transactions, 9), a.clone());
    assert_eq!((first(&altered).block, first(&altered).index), (Some(2), Some(8)));
    // A statement stated again: its sequence number is used up.
    let mut altered = rows.clone();
    altered.0.insert(key(Column::Transactions, 9), a);
    let report = checked(&altered);
    assert!(report.problems.iter().any(|p| p.index == Some(9) && p.problem.contains("sequence")), "{report:?}");
    // A tile.
    let mut altered = sound_with(100);
    altered.0.get_mut(&(Column::Tiles, crate::log::tile_key(0, 0))).unwrap()[9 * 32] ^= 1;
    assert!(first(&altered).problem.contains("tile 0/0"), "{:?}", first(&altered));
}

#[test]
fn a_damaged_ledger_takes_no_writes_or_does_not_open() {
    let rows = sound_with(100);
    let opened = |rows: Stored| Ledger::open_store(Arc::new(MemoryStore::new(rows)), options());
    let meta = |name: &[u8]| (Column::Meta, name.to_vec());
    let mut altered = rows.clone();
    altered.0.remove(&meta(crate::chain::TIP));
    assert!(matches!(opened(altered).err(), Some(OpenError::Damaged(_))));
    let tip = (Column::Blocks, 7u64.to_be_bytes().to_vec());
    let tile = (Column::Tiles, crate::log::tile_key(0, 1));
    let late = rows.0.keys().rfind(|(column, _)| *column == Column::Mempool).cloned().unwrap();
    let root = (Column::Nodes, vec![0]);
    for key in [tip, tile, late, meta(crate::chain::LATEST_CHECKPOINT), root] {
        let mut altered = rows.clone();
        altered.0.get_mut(&key).unwrap()[60] ^= 1;
        let ledger = opened(altered).unwrap();
        assert!(ledger.poisoned().is_some(), "{key:?}");
        assert!(matches!(ledger.seal(u64::MAX), Err(crate::LedgerError::Poisoned(_))));
        assert!(matches!(ledger.write_local(&[]), Err(crate::LedgerError::Poisoned(_))));
        assert!(!ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap().problems.is_empty());
    }
}

#[test]
fn an_erased_transaction_leaves_the_chain_whole() {
    let rows = sound();
    let index = (Column::Transactions, 9u64.to_be_bytes().to_vec());
    let transaction = crate::Transaction::from_bytes(&rows.0[&index]).unwrap();
    let crate::Envelope::Authored(authored) = &transaction.envelope else { panic!("authored") };
    let stub = crate::transaction::Erased {
        version: crate::transaction::ErasedVersion::V0,
        author: authored.author,
        sequence: authored.sequence,
        time_us: authored.time_us,
        kind: authored.body.kind(),
        updates: Vec::new(),
    };
    let store = MemoryStore::new(rows);
    let mut batch = Batch::default();
    batch.put(Column::Transactions, index.1, crate::codec::encode(&stub));
    store.write(batch, Durability::Synced).unwrap();
    let ledger = Ledger::open_store(Arc::new(store), options()).unwrap();
    let logged = ledger.transaction_at(9).unwrap().unwrap();
    assert_eq!((logged.txid, logged.transaction), (crate::Transaction::id(&transaction.to_bytes()), None));
    let proof = ledger.inclusion_proof(9, ledger.size()).unwrap();
    assert!(proof.verify(&logged.txid, &ledger.tip().header.log_root));
    assert_eq!(ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap().erased, 1);
}
