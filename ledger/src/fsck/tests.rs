//! Damage of every kind is found and named; nothing sound is accused.

use super::*;
use crate::chain::tests::{Fixture, mkdir, options, path, put, remove, rename};
use crate::store::memory::{MemoryStore, Rows as Stored};
use crate::store::{Batch, Durability, Store};
use crate::transaction::FileOp;
use crate::{Ledger, OpenError};
use std::sync::Arc;

mod rebuilds;

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
    check(rows, None, &mut |_| ControlFlow::Continue(())).unwrap()
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
    })
    .unwrap();
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
}

#[test]
fn damage_of_what_follows_from_the_chain_is_named_where_it_is() {
    let rows = sound_with(100);
    #[track_caller]
    fn check(altered: &Stored, place: (Option<u64>, Option<u64>), what: &str) {
        let problem = checked(altered).problems.remove(0);
        assert!(problem.derived && problem.problem.contains(what), "{problem:?}");
        assert_eq!((problem.block, problem.index), place, "{problem:?}");
    }
    let with = |key: (Column, Vec<u8>), at: usize| {
        let mut altered = rows.clone();
        altered.0.get_mut(&key).unwrap()[at] ^= 1;
        altered
    };
    // Transaction 9 is in block 2: a full tile with its leaf, the partial one with the last but two, its place in the index.
    let tile = |number| (Column::Tiles, crate::log::tile_key(0, number));
    check(&with(tile(0), 9 * 32), (Some(2), Some(9)), "tile 0/0");
    let last = 332;
    check(&with(tile(1), (last - 2 - 256) * 32 + 5), (Some(7), Some(last as u64 - 2)), "partial tiles");
    let bytes = &rows.0[&(Column::Transactions, 9u64.to_be_bytes().to_vec())];
    let txid = crate::Transaction::id(bytes);
    let index = (Column::Index, crate::chain::index::txid_key(&txid));
    check(&with(index.clone(), 0), (Some(2), Some(9)), "index rows of the transaction");
    let mut altered = rows.clone();
    altered.0.remove(&index);
    check(&altered, (Some(2), Some(9)), "index rows of the transaction");
    // A row of the state, by the transaction that set it.
    let entry = |value: &[u8]| crate::codec::decode::<crate::state::Entry>(value).ok();
    let mut entries = rows.0.iter().filter(|((column, key), _)| *column == Column::State && key[0] == b'e');
    let ((_, key), value) = entries.next().unwrap();
    let stated = entry(value).unwrap().txid;
    let is_it =
        |index: &u64| crate::Transaction::id(&rows.0[&(Column::Transactions, index.to_be_bytes().to_vec())]) == stated;
    let index = (0..=last as u64).find(is_it).unwrap();
    let block = (0..=7u64).rfind(|height| {
        let block = crate::Block::from_bytes(&rows.0[&(Column::Blocks, height.to_be_bytes().to_vec())]).unwrap();
        block.header.first_index <= index
    });
    check(&with((Column::State, key.clone()), value.len() - 1), (block, Some(index)), "an entry");
    // A node of the state map, by the block that wrote it: the root is of the last one.
    check(&with((Column::Nodes, vec![0]), 20), (Some(7), None), "state map");
    let mut nodes =
        rows.0.iter().filter(|((column, _), value)| *column == Column::Nodes && value[..8] == 2u64.to_be_bytes());
    let ((_, key), _) = nodes.next().unwrap();
    check(&with((Column::Nodes, key.clone()), 40), (Some(2), None), "state map");
}

#[test]
fn a_block_without_its_stamp_is_named_also_when_its_signature_holds() {
    let rows = sound();
    let key = (Column::Blocks, 3u64.to_be_bytes().to_vec());
    let mut header = crate::Block::from_bytes(&rows.0[&key]).unwrap().header;
    while header.hash().leading_zero_bits() >= u32::from(header.stamp_bits) {
        header.nonce += 1;
    }
    let mut altered = rows.clone();
    altered.0.insert(key, crate::Block::sign(header, &options().wallet).to_bytes());
    let problem = checked(&altered).problems.remove(0);
    assert_eq!((problem.block, problem.problem.as_str()), (Some(3), "the stamp does not hold"));
}

/// What the holder of the keys could write. (The predecessor took blocks with any previous hash and any coinbase.)
#[test]
fn a_forged_header_is_named_also_when_its_stamp_and_signature_hold() {
    let rows = sound();
    let key = (Column::Blocks, 3u64.to_be_bytes().to_vec());
    let good = crate::Block::from_bytes(&rows.0[&key]).unwrap().header;
    let check = |forge: fn(&mut crate::block::Header), what: &str| {
        let mut header = good.clone();
        forge(&mut header);
        let block = crate::Block::sign(crate::mine::stamp(header), &options().wallet);
        let mut altered = rows.clone();
        altered.0.insert(key.clone(), block.to_bytes());
        let problems = checked(&altered).problems;
        let named = |problem: &Problem| problem.block == Some(3) && problem.problem.contains(what);
        assert!(problems.iter().take_while(|problem| problem.block == Some(3)).any(named), "{what}: {problems:?}");
    };
    check(|header| header.previous = Hash([1; 32]), "previous block's hash");
    check(|header| header.time_us = 1, "time is before");
    check(|header| header.height = 4, "another height");
    check(|header| header.chain = Hash([1; 32]), "another chain");
    check(|header| header.stamp_bits = 0, "stamp asked for");
    check(|header| header.log_root = Hash([1; 32]), "log root");
    check(|header| header.state_root = Hash([1; 32]), "state root");
    check(|header| header.sealer = *crate::Wallet::from_secret(&[9; 32]).unwrap().public(), "sealer");
    check(|header| header.count += 1, "place in the log");
    check(|header| header.first_index -= 1, "place in the log");
}

#[test]
fn a_coinbase_of_another_reward_is_named() {
    let rows = sound();
    let first =
        crate::Block::from_bytes(&rows.0[&(Column::Blocks, 3u64.to_be_bytes().to_vec())]).unwrap().header.first_index;
    let key = (Column::Transactions, first.to_be_bytes().to_vec());
    let check = |forge: fn(&mut crate::transaction::Coinbase)| {
        let mut transaction = crate::Transaction::from_bytes(&rows.0[&key]).unwrap();
        let crate::Envelope::Coinbase(coinbase) = &mut transaction.envelope else { panic!("a coinbase") };
        forge(coinbase);
        let mut altered = rows.clone();
        altered.0.insert(key.clone(), transaction.to_bytes());
        let problem = checked(&altered).problems.remove(0);
        assert_eq!((problem.block, problem.index), (Some(3), Some(first)));
        assert_eq!(problem.problem, "the coinbase is not what the block before makes it");
    };
    check(|coinbase| coinbase.reward += 1);
    check(|coinbase| coinbase.reward = u64::MAX);
    check(|coinbase| coinbase.address.0[0] ^= 1);
    check(|coinbase| coinbase.height += 1);
    check(|coinbase| coinbase.previous_block = Hash([1; 32]));
    check(|coinbase| coinbase.previous_state = Hash([1; 32]));
    // One at another place, or none at the first.
    let mut altered = rows.clone();
    let other = (Column::Transactions, (first + 1).to_be_bytes().to_vec());
    altered.0.insert(other, rows.0[&key].clone());
    let problem = checked(&altered).problems.remove(0);
    assert_eq!((problem.block, problem.index), (Some(3), Some(first + 1)));
    assert_eq!(problem.problem, "a coinbase is the first transaction of a block and no other");
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
fn a_check_that_finds_nothing_takes_back_what_one_before_found_and_nothing_else() {
    let store = Arc::new(MemoryStore::new(sound()));
    let ledger = Ledger::open_store(store.clone(), options()).unwrap();
    let check = |problems: bool| {
        let report = ledger.fsck(&mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.problems.is_empty(), !problems, "{report:?}");
    };
    let set = |key: &[u8], value: &[u8]| {
        let mut batch = Batch::default();
        batch.put(Column::Transactions, key, value);
        store.write(batch, Durability::Synced).unwrap();
    };
    let key = 9u64.to_be_bytes();
    let good = store.get(Column::Transactions, &key).unwrap().unwrap();
    set(&key, b"\x01");
    check(true);
    assert!(ledger.poisoned().is_some() && matches!(ledger.seal(u64::MAX), Err(crate::LedgerError::Poisoned(_))));
    set(&key, &good);
    let cancelled = ledger.fsck(&mut |_| ControlFlow::Break(())).unwrap();
    assert!(cancelled.cancelled && ledger.poisoned().is_some());
    check(false);
    assert_eq!(ledger.poisoned(), None);
    ledger.seal(u64::MAX).unwrap().unwrap();
    // What was met in service stays, and is told: something may have been built upon it.
    set(&key, b"\x01");
    assert!(ledger.transaction_at(9).is_err());
    set(&key, &good);
    check(true);
    assert!(ledger.poisoned().is_some());
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
