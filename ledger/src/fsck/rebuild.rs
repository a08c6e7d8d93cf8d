//! Making anew what follows from the chain: the log's tiles, the state, its map, and the index.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::repeats::Repeats;
use super::{Progress, Report, erased_leaf, every, fsck_dir, kept_leaf, note_verdict};
use crate::block::Block;
use crate::chain::index::{block_rows, index_rows, txid_key};
use crate::chain::{tip, write_state};
use crate::codec::encode;
use crate::hash::{Hash, TxId};
use crate::log::{Edge, put_tile};
use crate::mempool::Waiting;
use crate::state::apply::apply;
use crate::state::{Layered, Overlay, Sealed};
use crate::store::rocks::RocksStore;
use crate::store::{Batch, Column, Durability, Read, Store, StoreError};
use crate::transaction::Transaction;

/// Why nothing, or not all, was rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Something is damaged that does not follow from the chain, or the chain itself: nothing was touched.
    #[error("the store is damaged where it cannot be made anew: {0}")]
    Chain(String),
    /// Reading or writing failed; when it had begun, it is to be repeated.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Rebuilds what follows from the chain in `dir`, which no process may have open, when something of it is damaged; then
/// checks everything again. When transactions are erased, what they did is known by hash alone: of the state only those rows are
/// rebuilt that repeat what others say.
///
/// # Errors
/// See [`RebuildError`].
pub fn rebuild_dir(dir: &Path, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Report, RebuildError> {
    // Only read at first: opened for writing, a store drops what belongs to files that are missing.
    let mut report = fsck_dir(dir, progress)?;
    if let Some(problem) = report.problems.iter().find(|problem| !problem.derived) {
        let place = problem.block.map_or_else(String::new, |block| format!("block {block}: "));
        return Err(RebuildError::Chain(format!("{place}{}", problem.problem)));
    }
    let note = |report: &Report| note_verdict(dir, report).map_err(|error| StoreError::Io(error.to_string()));
    if !report.cancelled && !report.problems.is_empty() {
        let store = RocksStore::open_damaged(dir)?;
        super::sweep(dir);
        // A ledger whose rebuild was killed is not to be built upon.
        note(&report)?;
        rebuild(&store, &report, progress)?;
        // Checked whole: what its store ends with is the last block.
        tip::make(dir, &block_at(&store, report.height)?).map_err(|error| StoreError::Io(error.to_string()))?;
        drop(store);
        report = fsck_dir(dir, progress)?;
    }
    note(&report)?;
    Ok(report)
}

/// Makes anew what follows from the chain that `checked` is the report of. It may be broken off anywhere: nothing is removed
/// that cannot be made again, and the next one begins from the start.
pub(super) fn rebuild(
    store: &dyn Store,
    checked: &Report,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let erased = erased_leaves(store, checked.transactions)?;
    let mut kept = Batch::default();
    for (index, leaf) in &erased {
        kept.put(Column::Meta, kept_leaf(*index), encode(leaf));
    }
    store.write(kept, Durability::Synced)?;
    let rebuild = Rebuild { store, with_state: checked.erased == 0, erased };
    for column in [Column::Index, Column::Tiles] {
        store.clear(column)?;
    }
    for column in [Column::State, Column::Nodes].into_iter().filter(|_| rebuild.with_state) {
        store.clear(column)?;
    }
    rebuild.replay(checked.height, checked.transactions, progress)?;
    if !rebuild.with_state {
        rebuild.repeats()?;
    }
    store.sync()
}

fn block_at(read: &dyn Read, height: u64) -> Result<Block, StoreError> {
    let bytes = read.get(Column::Blocks, &height.to_be_bytes())?.unwrap_or_default();
    Block::from_bytes(&bytes).map_err(|error| StoreError::Corrupt(format!("block {height}: {error}")))
}

/// Leaf hashes of the erased ones among the first `size` transactions.
fn erased_leaves(read: &dyn Read, size: u64) -> Result<HashMap<u64, TxId>, StoreError> {
    let mut erased = Vec::new();
    every(read, Column::Transactions, &mut |key, bytes| {
        if let (Ok(key), Some(0)) = (key.try_into(), bytes.first()) {
            erased.push(u64::from_be_bytes(key));
        }
    })?;
    let erased = erased.into_iter().filter(|index| *index < size);
    erased.map(|index| Ok((index, erased_leaf(read, index)?))).collect()
}

struct Rebuild<'a> {
    store: &'a dyn Store,
    with_state: bool,
    /// Leaf hashes of erased transactions: the tiles alone have them.
    erased: HashMap<u64, TxId>,
}

impl Rebuild<'_> {
    fn replay(
        &self,
        tip: u64,
        total: u64,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut edge = Edge::default();
        for height in 0..=tip {
            let block = block_at(self.store, height)?;
            let mut batch = Batch::default();
            let root = self.block(&block, &mut edge, &mut batch)?;
            if edge.root() != block.header.log_root || root.is_some_and(|root| root != block.header.state_root) {
                return Err(StoreError::Corrupt(format!("block {height}: what was rebuilt does not give its roots")));
            }
            for (key, value) in block_rows(&block) {
                batch.put(Column::Index, key, value);
            }
            if height == tip {
                self.erased.keys().for_each(|index| batch.delete(Column::Meta, kept_leaf(*index)));
            }
            self.store.write(batch, Durability::Buffered)?;
            // A rebuild that was begun is ended, whatever the answer.
            let (ControlFlow::Continue(()) | ControlFlow::Break(())) = progress(Progress { done: edge.size(), total });
        }
        Ok(())
    }

    /// The rows of the state that repeat what others say, which stay as they are.
    fn repeats(&self) -> Result<(), StoreError> {
        let (mut repeats, mut batch) = (Repeats::default(), Batch::default());
        every(self.store, Column::State, &mut |key, value| repeats.see(key, value))?;
        for (row, value) in repeats.corrections() {
            match value {
                Some(value) => batch.put(Column::State, row, value),
                None => batch.delete(Column::State, row),
            }
        }
        self.store.write(batch, Durability::Buffered)
    }

    /// One block; the state root it leads to, when the state is rebuilt.
    fn block(&self, block: &Block, edge: &mut Edge, batch: &mut Batch) -> Result<Option<Hash>, StoreError> {
        let (mut over, mut leaves, mut hashes) = (Overlay::new(), Vec::new(), Vec::new());
        for index in block.header.first_index..block.header.log_size {
            if let Some(leaf) = self.erased.get(&index) {
                batch.put(Column::Index, txid_key(leaf), encode(&index));
                hashes.push(*leaf);
                continue;
            }
            let corrupt = |what: String| StoreError::Corrupt(format!("transaction {index}: {what}"));
            let bytes = self.store.get(Column::Transactions, &index.to_be_bytes())?.unwrap_or_default();
            let transaction = Transaction::from_bytes(&bytes).map_err(|error| corrupt(error.to_string()))?;
            let txid = Transaction::id(&bytes);
            index_rows(index, &txid, &transaction, &mut |key, value| batch.put(Column::Index, key, value));
            hashes.push(txid);
            if self.with_state {
                let view = Layered { over: &over, base: &Sealed(self.store) };
                let effects = apply(&view, txid, &transaction).map_err(|error| corrupt(error.to_string()))?;
                over.extend(effects.iter().map(|(row, value)| (row.clone(), (value.clone(), index))));
                leaves.push(Waiting::new(txid, &transaction, bytes, effects));
            }
        }
        edge.append(&hashes, &mut |level, number, hashes| put_tile(batch, level, number, hashes));
        if !self.with_state {
            return Ok(None);
        }
        let leaves: Vec<&Waiting> = leaves.iter().collect();
        write_state(self.store, block.header.height, None, &leaves, batch).map(Some)
    }
}
