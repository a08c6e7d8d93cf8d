//! What is stored beside the chain, compared with what the chain says it must be.

use std::ops::ControlFlow;

use super::replay::{Replayed, RowSum};
use super::trie::Trie;
use super::{Report, every};
use crate::block::Genesis;
use crate::chain::index::{block_rows, index_rows};
use crate::chain::{FIRST_PENDING, LATEST_CHECKPOINT, verifier};
use crate::checkpoint::{Checkpoint, origin};
use crate::hash::Hash;
use crate::log::{Edge, read_tile};
use crate::state::apply::apply;
use crate::state::{Layered, Overlay, Sealed, View, map, row};
use crate::store::{Column, Direction, Read, StoreError};
use crate::transaction::Transaction;

/// Compares everything derived.
pub(super) fn compare(read: &dyn Read, genesis: &Genesis, mut replayed: Replayed, report: &mut Report) {
    let Some(tip) = replayed.tip.clone() else { return };
    let (height, size) = (tip.header.height, tip.header.log_size);
    beyond(read, Column::Blocks, height.saturating_add(1), "blocks beyond the last one", report);
    beyond(read, Column::Transactions, size, "transactions beyond the last block", report);
    checkpoint(read, genesis, &replayed, report);
    tiles(read, &replayed, report);
    let sum = sum(read, Column::Index);
    if report.note_derived(None, sum).is_some_and(|sum| sum != replayed.index) {
        index(read, size, height, report);
    }
    let expected = tip.header.state_root;
    if replayed.fogged || (replayed.state_known && report.erased > 0) {
        by_root(read, height, &expected, report);
        return pending(read, genesis, &Sealed(read), report);
    }
    if !replayed.state_known {
        return;
    }
    state(read, &mut replayed, report);
    let leaves = map::check(read, height, &expected, &mut |key, value| replayed.trie.get(key) == Some(*value));
    if report.note_derived(Some(height), leaves).is_some_and(|leaves| leaves != replayed.trie.len() as u64) {
        report.add_derived(Some(height), None, "state map: leaves are missing");
    }
    pending(read, genesis, &replayed.rows, report);
}

/// The stored state when erased transactions hide how it came about: its rows must give the root in the last header.
fn by_root(read: &dyn Read, height: u64, expected: &Hash, report: &mut Report) {
    let mut trie = Trie::default();
    let scanned = every(read, Column::State, &mut |key, value| {
        if let Some(key) = row::map_key(key) {
            trie.set(key, Hash::of(&[value]));
        }
    });
    if report.note_derived(Some(height), scanned).is_none() {
        return;
    }
    if trie.root() != *expected {
        return report.add_derived(Some(height), None, "the stored state does not give the state root");
    }
    let leaves = map::check(read, height, expected, &mut |key, value| trie.get(key) == Some(*value));
    if report.note_derived(Some(height), leaves).is_some_and(|leaves| leaves != trie.len() as u64) {
        report.add_derived(Some(height), None, "state map: leaves are missing");
    }
}

fn sum(read: &dyn Read, column: Column) -> Result<RowSum, StoreError> {
    let mut sum = RowSum::default();
    every(read, column, &mut |key, value| sum.add(key, value))?;
    Ok(sum)
}

/// Whether numbered rows go on where they must have ended.
fn beyond(read: &dyn Read, column: Column, end: u64, what: &str, report: &mut Report) {
    let mut found = false;
    let scanned = read.scan(column, &end.to_be_bytes(), Direction::Forward, &mut |_, _| {
        found = true;
        ControlFlow::Break(())
    });
    if report.note(None, None, scanned).is_some() && found {
        report.add(None, None, format!("there are {what}"));
    }
}

fn checkpoint(read: &dyn Read, genesis: &Genesis, replayed: &Replayed, report: &mut Report) {
    let height = replayed.tip.as_ref().map(|tip| tip.header.height);
    let Some(note) = report.note(height, None, read.get(Column::Meta, LATEST_CHECKPOINT)) else { return };
    let expected =
        Checkpoint { origin: origin(&genesis.chain_id()), size: replayed.edge.size(), root: replayed.edge.root() };
    let note = String::from_utf8(note.unwrap_or_default()).unwrap_or_default();
    match Checkpoint::verify(&note, &verifier(genesis)) {
        Ok(stated) if stated == expected => {}
        Ok(_) => report.add(height, None, "the checkpoint is not of the log as it is"),
        Err(error) => report.add(height, None, format!("the checkpoint: {error}")),
    }
}

/// The partial tiles, and that there are no others; full ones were compared in the replay.
fn tiles(read: &dyn Read, replayed: &Replayed, report: &mut Report) {
    let height = replayed.tip.as_ref().map(|tip| tip.header.height);
    let mut partial = 0;
    let mut nodes = replayed.edge.size();
    let mut level = 0;
    while nodes > 0 {
        let width = (nodes % 256) as usize;
        if width > 0 {
            partial += 1;
            let whole = read_tile(read, level, nodes / 256, 256).is_ok()
                || read_tile(read, level, nodes / 256, width + 1).is_ok();
            if whole {
                report.add_derived(height, None, format!("log tile {level}/{} is longer than the log", nodes / 256));
            }
        }
        nodes /= 256;
        level += 1;
    }
    if report.note_derived(height, Edge::load(read, replayed.edge.size())).is_some_and(|edge| edge != replayed.edge) {
        report.add_derived(height, None, "the partial tiles of the log differ");
    }
    let mut stored = 0;
    let counted = every(read, Column::Tiles, &mut |_, _| stored += 1);
    if report.note_derived(None, counted).is_some() && stored != replayed.tiles + partial {
        report.add_derived(None, None, "there are tiles beyond the log");
    }
}

/// Names the first row of the index that is missing or wrong, when the sum over all of them is.
fn index(read: &dyn Read, size: u64, height: u64, report: &mut Report) {
    let holds =
        |key: &[u8], value: &[u8]| read.get(Column::Index, key).is_ok_and(|found| found.as_deref() == Some(value));
    for index in 0..size {
        let Ok(Some(bytes)) = read.get(Column::Transactions, &index.to_be_bytes()) else { continue };
        let Ok(transaction) = Transaction::from_bytes(&bytes) else { continue };
        let mut whole = true;
        index_rows(index, &Transaction::id(&bytes), &transaction, &mut |key, value| whole &= holds(&key, &value));
        if !whole {
            return report.add_derived(None, Some(index), "the index rows of the transaction differ");
        }
    }
    for height in 0..=height {
        let Ok(Some(bytes)) = read.get(Column::Blocks, &height.to_be_bytes()) else { continue };
        let Ok(block) = crate::block::Block::from_bytes(&bytes) else { continue };
        if !block_rows(&block).iter().all(|(key, value)| holds(key, value)) {
            return report.add_derived(Some(height), None, "the index rows of the block differ");
        }
    }
    report.add_derived(None, None, "the index has rows of nothing");
}

/// The state's rows, in step with the replayed ones.
fn state(read: &dyn Read, replayed: &mut Replayed, report: &mut Report) {
    let compared = replayed.rows.first_difference(read);
    if let Some(row) = report.note_derived(None, compared).flatten() {
        let what = match row.first() {
            Some(b'e') => "an entry",
            Some(b'b') => "a bucket",
            Some(b'o') => "an output",
            Some(b'a') => "an author's sequence number",
            Some(b'c') => "a bucket's counts",
            Some(b'n') => "a bucket's name",
            _ => "a row of no kind",
        };
        report.add_derived(None, None, format!("the stored state differs from the replayed one: {what}"));
    }
}

/// The mempool: numbered without gaps, signed, and applying.
fn pending(read: &dyn Read, genesis: &Genesis, rows: &dyn View, report: &mut Report) {
    let first = report.note(None, None, read.get(Column::Meta, FIRST_PENDING)).flatten();
    let Some(mut next) = first.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok()).map(u64::from_be_bytes)
    else {
        return report.add(None, None, "the number of the first pending transaction is missing or malformed");
    };
    let mut over = Overlay::new();
    let mut problem: Option<String> = None;
    let scanned = every(read, Column::Mempool, &mut |key, bytes| {
        if problem.is_some() {
            return;
        }
        let judged = Transaction::from_bytes(bytes).map_err(|error| error.to_string()).and_then(|transaction| {
            if key != next.to_be_bytes() {
                return Err("a number is missing".into());
            }
            if transaction.chain != genesis.chain_id() || !transaction.signature_holds(bytes) {
                return Err("of another chain, or its signature does not hold".into());
            }
            let view = Layered { over: &over, base: rows };
            apply(&view, Transaction::id(bytes), &transaction).map_err(|error| error.to_string())
        });
        match judged {
            Ok(effects) => over.extend(effects.into_iter().map(|(row, value)| (row, (value, next)))),
            Err(error) => problem = Some(format!("pending transaction {next}: {error}")),
        }
        next += 1;
    });
    report.note(None, None, scanned);
    if let Some(problem) = problem {
        report.add(None, None, problem);
    }
}
