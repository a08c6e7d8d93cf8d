//! Making anew what follows from the chain: the log's tiles, the state, its map, and the index.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::{Progress, Report, check, every, note_verdict};
use crate::block::Block;
use crate::chain::index::{block_rows, index_rows, txid_key};
use crate::chain::write_state;
use crate::codec::encode;
use crate::hash::{Hash, TxId};
use crate::log::{Edge, put_tile, read_tile};
use crate::mempool::Waiting;
use crate::state::apply::apply;
use crate::state::{Layered, Overlay, Sealed};
use crate::store::rocks::RocksStore;
use crate::store::{Batch, Column, Durability, Read, Store, StoreError};
use crate::transaction::Transaction;

/// Rows removed at once.
const REMOVED: usize = 4_096;

/// Why nothing, or not all, was rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The chain itself is damaged: nothing was touched. What follows from it would only repeat that.
    #[error("the chain itself is damaged: {0}")]
    Chain(String),
    /// Reading or writing failed; when it had begun, it is to be repeated.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Rebuilds what follows from the chain in `dir`, which no process may have open, when something of it is damaged; then
/// checks everything again. The state is not rebuilt when transactions are erased: what they did is known by hash alone.
///
/// # Errors
/// See [`RebuildError`].
pub fn rebuild_dir(dir: &Path, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Report, RebuildError> {
    super::sweep(dir);
    let store = RocksStore::open(dir)?;
    let before = check(&store, Some(dir), progress);
    if let Some(problem) = before.problems.iter().find(|problem| !problem.derived) {
        let place = problem.block.map_or_else(String::new, |block| format!("block {block}: "));
        return Err(RebuildError::Chain(format!("{place}{}", problem.problem)));
    }
    if before.cancelled || before.problems.is_empty() {
        return Ok(before);
    }
    let mut rebuild = Rebuild { store: &store, with_state: before.erased == 0, erased: HashMap::new() };
    rebuild.keep_erased_leaves(before.transactions)?;
    rebuild.clear()?;
    rebuild.replay(before.height, before.transactions, progress)?;
    store.sync()?;
    let after = check(&store, Some(dir), progress);
    note_verdict(dir, &after);
    Ok(after)
}

struct Rebuild<'a> {
    store: &'a RocksStore,
    with_state: bool,
    /// Leaf hashes of erased transactions: the tiles alone have them.
    erased: HashMap<u64, TxId>,
}

impl Rebuild<'_> {
    fn keep_erased_leaves(&mut self, size: u64) -> Result<(), StoreError> {
        let mut erased = Vec::new();
        every(self.store, Column::Transactions, &mut |key, bytes| {
            if let (Ok(key), Some(0)) = (key.try_into(), bytes.first()) {
                erased.push(u64::from_be_bytes(key));
            }
        })?;
        for index in erased.into_iter().filter(|index| *index < size) {
            let offset = (index % 256) as usize;
            let hashes = read_tile(self.store, 0, index / 256, offset + 1)?;
            self.erased.extend(hashes.last().map(|leaf| (index, *leaf)));
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        let state = [Column::State, Column::Nodes].into_iter().filter(|_| self.with_state);
        for column in [Column::Index, Column::Tiles].into_iter().chain(state) {
            loop {
                let mut batch = Batch::default();
                self.store.scan(column, b"", crate::store::Direction::Forward, &mut |key, _| {
                    batch.delete(column, key);
                    if batch.rows.len() < REMOVED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
                let last = batch.rows.len() < REMOVED;
                self.store.write(batch, Durability::Buffered)?;
                if last {
                    break;
                }
            }
        }
        Ok(())
    }

    fn replay(
        &self,
        tip: u64,
        total: u64,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut edge = Edge::default();
        for height in 0..=tip {
            let bytes = self.store.get(Column::Blocks, &height.to_be_bytes())?.unwrap_or_default();
            let block = Block::from_bytes(&bytes).map_err(|e| StoreError::Corrupt(format!("block {height}: {e}")))?;
            let mut batch = Batch::default();
            let root = self.block(&block, &mut edge, &mut batch)?;
            if edge.root() != block.header.log_root || root.is_some_and(|root| root != block.header.state_root) {
                return Err(StoreError::Corrupt(format!("block {height}: what was rebuilt does not give its roots")));
            }
            for (key, value) in block_rows(&block) {
                batch.put(Column::Index, key, value);
            }
            self.store.write(batch, Durability::Buffered)?;
            // A rebuild that was begun is ended, whatever the answer.
            let (ControlFlow::Continue(()) | ControlFlow::Break(())) = progress(Progress { done: edge.size(), total });
        }
        Ok(())
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
