//! What is stored beside the chain, compared with what the chain says it must be.

use std::ops::ControlFlow;
use std::thread;

use super::repeats::Repeats;
use super::replay::{Replayed, RowSum, block_of};
use super::rows::Rows;
use super::trie::Trie;
use super::{Report, every, readable};
use crate::block::{Block, Genesis};
use crate::chain::index::{block_rows, index_rows, txid_key};
use crate::chain::{FIRST_PENDING, LATEST_CHECKPOINT, verifier};
use crate::checkpoint::{Checkpoint, origin};
use crate::codec::decode;
use crate::hash::Hash;
use crate::log::{Edge, read_tile};
use crate::state::apply::apply;
use crate::state::{Entry, Layered, Overlay, Sealed, View, map, row};
use crate::store::{Column, Direction, Read, StoreError};
use crate::transaction::Transaction;

/// Compares everything derived, on two threads.
///
/// # Errors
/// The replayed rows could not be read back.
pub(super) fn compare(
    read: &dyn Read,
    genesis: &Genesis,
    replayed: Replayed,
    report: &mut Report,
) -> Result<(), StoreError> {
    let Some(tip) = replayed.tip.as_ref().map(|tip| tip.header.clone()) else { return Ok(()) };
    // Erased transactions hide how the state came about, and what each did to the counts; not what it must be.
    let by_root_alone = replayed.fogged || (replayed.state_known && report.erased > 0);
    let Replayed { edge, mut rows, trie, index: index_sum, tiles: full_tiles, state_known, .. } = replayed;
    let height = tip.height;
    thread::scope(|scope| {
        let beside = scope.spawn(move || {
            let mut report = Report::default();
            indexed(read, &index_sum, height, &mut report);
            readable(read, &[Column::Meta, Column::Local], &mut report);
            if state_known && !by_root_alone {
                state(read, &mut rows, height, &mut report);
                pending(read, genesis, &rows, &mut report);
            }
            (report.problems, rows.failure())
        });
        beyond(read, Column::Blocks, height.saturating_add(1), "blocks beyond the last one", report);
        beyond(read, Column::Transactions, tip.log_size, "transactions beyond the last block", report);
        checkpoint(read, genesis, height, &edge, report);
        tiles(read, height, &edge, full_tiles, report);
        if by_root_alone {
            if by_root(read, height, &tip.state_root, report) {
                pending(read, genesis, &Sealed(read), report);
            }
        } else if state_known && let Some((block, problem)) = nodes(read, height, &tip.state_root, &trie) {
            report.add_derived(Some(block), None, problem);
        }
        let (found, failure) = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        found.into_iter().for_each(|problem| report.push(problem));
        failure.map_or(Ok(()), Err)
    })
}

/// The rows by which transactions and blocks are found.
fn indexed(read: &dyn Read, expected: &RowSum, height: u64, report: &mut Report) {
    let sum = sum(read, Column::Index);
    if report.note_derived(None, sum).is_some_and(|sum| sum != *expected) {
        index(read, height, report);
    }
}

/// The stored state when erased transactions hide how it came about: its rows must give the root in the last header, and
/// those beside the map follow from them. Whether they are right. What is wrong with the map and its rows cannot be made anew.
fn by_root(read: &dyn Read, height: u64, expected: &Hash, report: &mut Report) -> bool {
    let (mut trie, mut repeats) = (Trie::default(), Repeats::default());
    let scanned = every(read, Column::State, &mut |key, value| {
        if let Some((key, value)) = row::in_map(key, value) {
            trie.set(key, value);
        }
        repeats.see(key, value);
    });
    if report.note(Some(height), None, scanned).is_none() {
        return false;
    }
    if trie.root() != *expected {
        let what = "the stored state does not give the state root, and of what was erased only hashes are known";
        report.add(Some(height), None, what);
        return false;
    }
    if let Some((block, problem)) = nodes(read, height, expected, &trie) {
        report.add(Some(block), None, problem);
    }
    let corrections = repeats.corrections();
    for (row, _) in &corrections {
        let what = format!("{} differs from what the stored state says", kind_of(row));
        report.add_derived(Some(height), None, what);
    }
    corrections.is_empty()
}

/// What is wrong with the stored map, node by node, and since which block.
fn nodes(read: &dyn Read, height: u64, root: &Hash, trie: &Trie) -> Option<(u64, String)> {
    match map::check(read, height, root, &mut |key, value| trie.get(key) == Some(*value)) {
        Ok(leaves) if leaves == trie.len() as u64 => None,
        Ok(_) => Some((height, "state map: leaves are missing".to_owned())),
        Err(bad) => Some((bad.block, bad.error.to_string())),
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

fn checkpoint(read: &dyn Read, genesis: &Genesis, height: u64, edge: &Edge, report: &mut Report) {
    let height = Some(height);
    let Some(note) = report.note(height, None, read.get(Column::Meta, LATEST_CHECKPOINT)) else { return };
    let expected = Checkpoint { origin: origin(&genesis.chain_id()), size: edge.size(), root: edge.root() };
    let note = String::from_utf8(note.unwrap_or_default()).unwrap_or_default();
    match Checkpoint::verify(&note, &verifier(genesis)) {
        Ok(stated) if stated == expected => {}
        Ok(_) => report.add(height, None, "the checkpoint is not of the log as it is"),
        Err(error) => report.add(height, None, format!("the checkpoint: {error}")),
    }
}

/// The partial tiles, and that there are no others; full ones were compared in the replay.
fn tiles(read: &dyn Read, height: u64, edge: &Edge, full: u64, report: &mut Report) {
    let last = height;
    let height = Some(height);
    let mut partial = 0;
    let mut nodes = edge.size();
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
    let stored = report.note_derived(height, Edge::load(read, edge.size()));
    if let Some(stored) = stored.filter(|stored| stored != edge) {
        let first = edge.first_difference(&stored);
        let block = first.and_then(|first| block_of(read, first, last)).or(height);
        report.add_derived(block, first, "the partial tiles of the log differ");
    }
    let mut stored = 0;
    let counted = every(read, Column::Tiles, &mut |_, _| stored += 1);
    if report.note_derived(None, counted).is_some() && stored != full + partial {
        report.add_derived(None, None, "there are tiles beyond the log");
    }
}

/// Names the first row of the index that is missing or wrong, when the sum over all of them is.
fn index(read: &dyn Read, height: u64, report: &mut Report) {
    let holds =
        |key: &[u8], value: &[u8]| read.get(Column::Index, key).is_ok_and(|found| found.as_deref() == Some(value));
    for height in 0..=height {
        let Ok(Some(bytes)) = read.get(Column::Blocks, &height.to_be_bytes()) else { continue };
        let Ok(block) = Block::from_bytes(&bytes) else { continue };
        for index in block.header.first_index..block.header.log_size {
            let Ok(Some(bytes)) = read.get(Column::Transactions, &index.to_be_bytes()) else { continue };
            let Ok(transaction) = Transaction::from_bytes(&bytes) else { continue };
            let mut whole = true;
            index_rows(index, &Transaction::id(&bytes), &transaction, &mut |key, value| whole &= holds(&key, &value));
            if !whole {
                return report.add_derived(Some(height), Some(index), "the index rows of the transaction differ");
            }
        }
        if !block_rows(&block).iter().all(|(key, value)| holds(key, value)) {
            return report.add_derived(Some(height), None, "the index rows of the block differ");
        }
    }
    report.add_derived(None, None, "the index has rows of nothing");
}

/// The state's rows, in step with the replayed ones.
fn state(read: &dyn Read, rows: &mut Rows, last: u64, report: &mut Report) {
    let compared = rows.first_difference(read);
    if let Some(row) = report.note_derived(None, compared).flatten() {
        let place = author_of(read, rows, &row);
        let block = place.and_then(|index| block_of(read, index, last));
        let what = kind_of(&row);
        report.add_derived(block, place, format!("the stored state differs from the replayed one: {what}"));
    }
}

/// What a row of the state tells of.
fn kind_of(row: &[u8]) -> &'static str {
    match row.first() {
        Some(b'e') => "an entry",
        Some(b'b') => "a bucket",
        Some(b'o') => "an output",
        Some(b'a') => "an author's sequence number",
        Some(b'c') => "a bucket's counts",
        Some(b'n') => "a bucket's name",
        _ => "a row of no kind",
    }
}

/// Log index of the transaction that a row of the state says it comes from, as replayed or, when it should not be there, as
/// stored.
fn author_of(read: &dyn Read, replayed: &dyn View, row: &[u8]) -> Option<u64> {
    let value = || replayed.get(row).ok().flatten().or_else(|| read.get(Column::State, row).ok().flatten());
    let txid = match row.first()? {
        b'e' => decode::<Entry>(&value()?).ok()?.txid,
        b'n' => decode::<Hash>(&value()?).ok()?,
        b'b' | b'o' | b'c' => Hash(*row.get(1..)?.first_chunk()?),
        _ => return None,
    };
    let index: u64 = decode(&read.get(Column::Index, &txid_key(&txid)).ok()??).ok()?;
    let bytes = read.get(Column::Transactions, &index.to_be_bytes()).ok()??;
    (Transaction::id(&bytes) == txid).then_some(index)
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
