//! Making proofs: of transactions, of what is at a path, of one log being the beginning of another; and the log's tiles.

use std::collections::HashMap;

use super::*;
use crate::log::{Stored, TILE, read_tile};
use crate::proof::{ConsistencyFile, ConsistencyProof, InclusionProof, ProofFile, RowProof, StateProof};
use crate::state::{Entry, EntryNode, row, stored};
use crate::store::{Batch, Read};
use crate::transaction::{Envelope, OutputRef};

impl Ledger {
    /// That entry `index` is in the log as it was at `size` entries.
    ///
    /// # Errors
    /// `index` is not below `size`, or `size` is beyond the log; or see [`LedgerError`].
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<InclusionProof> {
        if index >= size || size > self.size() {
            return Err(LedgerError::Refused(format!("no entry {index} in a log of {size} of {}", self.size())));
        }
        self.read(Stored::new(&*self.store, size).inclusion(index))
    }

    /// That the log of `old` entries is a prefix of the one of `new`.
    ///
    /// # Errors
    /// `old` exceeds `new`, or `new` the log; or see [`LedgerError`].
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<ConsistencyProof> {
        if old > new || new > self.size() {
            return Err(LedgerError::Refused(format!("no logs of {old} and {new} entries in one of {}", self.size())));
        }
        self.read(Stored::new(&*self.store, new).consistency(old))
    }

    /// That a sealed transaction is in the log, by the newest checkpoint. None when it is unknown or still pending.
    ///
    /// # Errors
    /// It is erased; or see [`LedgerError`].
    pub fn prove(&self, txid: &TxId) -> Result<Option<ProofFile>> {
        let (checkpoint, size) = self.newest_checkpoint();
        self.prove_at(txid, checkpoint, size)
    }

    /// As [`Ledger::prove`], by a checkpoint of `size` entries.
    fn prove_at(&self, txid: &TxId, checkpoint: String, size: u64) -> Result<Option<ProofFile>> {
        let Some(logged) = self.transaction(txid)? else { return Ok(None) };
        let Some(index) = logged.index.filter(|index| *index < size) else { return Ok(None) };
        let Some(transaction) = logged.transaction else {
            return Err(LedgerError::Refused(format!("transaction {txid} is erased: its bytes are gone")));
        };
        let path = self.inclusion_proof(index, size)?.path;
        Ok(Some(ProofFile { bytes: transaction.to_bytes(), index, path, checkpoint }))
    }

    /// What is, or is not, at a path after the last block; and the newest transaction there, by the same checkpoint. Only the
    /// next block's coinbase vouches for a block's state: this seals a block with nothing in it but its coinbase, unless the
    /// last one is such a block, which vouches for all that was before it.
    ///
    /// # Errors
    /// The path is the root; or see [`LedgerError`].
    pub fn prove_state(&self, bucket: &BucketId, path: &TreePath) -> Result<StateProof> {
        if path.is_root() {
            return Err(LedgerError::Refused("the root directory is not an entry".into()));
        }
        self.revive()?;
        let sealer = self.sealer.lock();
        let tip = self.tip();
        let before = self.before_coinbase(&tip)?;
        let map: &dyn Read = before.as_ref().map_or(&*self.store, |before| before);
        let version = tip.header.height + u64::from(before.is_some());
        let mut rows = vec![self.prove_row(map, version, row::bucket(bucket))?];
        let mut directory = *bucket;
        let closed = rows[0].value.as_deref().map(stored::<crate::state::BucketRecord>).transpose();
        let closed = self.read(closed)?.is_none_or(|record| record.closed);
        for name in path.components().take(if closed { 0 } else { usize::MAX }) {
            let proof = self.prove_row(map, version, row::entry(bucket, &directory, name))?;
            let entry = self.read(proof.value.as_deref().map(stored::<Entry>).transpose())?;
            rows.push(proof);
            match entry.map(|entry| entry.node) {
                Some(EntryNode::Directory { id, .. }) => directory = id,
                _ => break,
            }
        }
        let next = if before.is_some() { tip } else { self.seal_locked(&sealer, 0)? };
        let block = next.header.height - 1;
        let (checkpoint, size) = self.newest_checkpoint();
        drop(sealer);
        let coinbase = self.transaction_at(next.header.first_index)?;
        let coinbase = coinbase.map(|coinbase| self.prove_at(&coinbase.txid, checkpoint, size)).transpose()?.flatten();
        let missing = || LedgerError::Store(StoreError::Corrupt("the coinbase of the last block is missing".into()));
        Ok(StateProof { block, bucket: *bucket, path: path.clone(), rows, coinbase: coinbase.ok_or_else(missing)? })
    }

    /// That a transaction is in the log, by the checkpoint of a state proof.
    ///
    /// # Errors
    /// As [`Ledger::prove`].
    pub fn prove_beside(&self, txid: &TxId, state: &StateProof) -> Result<Option<ProofFile>> {
        let note = &state.coinbase.checkpoint;
        let size = Checkpoint::unchecked(note).map_err(|error| LedgerError::Refused(error.to_string()))?.size;
        self.prove_at(txid, note.clone(), size)
    }

    /// A row after the last block, by this version of the map; the caller keeps others from sealing.
    fn prove_row(&self, map: &dyn Read, version: u64, row: Vec<u8>) -> Result<RowProof> {
        let value = self.read(self.store.get(Column::State, &row))?;
        let key = row::map_key(&row).ok_or_else(|| LedgerError::Refused("not a row of the map".into()))?;
        let proof = self.read(map::prove(map, version, &key))?;
        Ok(RowProof { row, value, proof })
    }

    /// The state's map before the last block, as the version after it, when that block is nothing but its coinbase: what that
    /// adds, an output, is taken out again.
    fn before_coinbase(&self, tip: &Block) -> Result<Option<Before<'_>>> {
        let header = &tip.header;
        if header.count != 1 || header.height == 0 {
            return Ok(None);
        }
        let Some(logged) = self.transaction_at(header.first_index)? else { return Ok(None) };
        let Some(Transaction { envelope: Envelope::Coinbase(coinbase), .. }) = logged.transaction else {
            return Ok(None);
        };
        let output = row::map_key(&row::output(&OutputRef { txid: logged.txid, index: 0 }));
        let updates = output.filter(|_| coinbase.reward > 0).map(|key| (key, None)).into_iter().collect();
        let mut batch = Batch::default();
        let undone = map::update(&*self.store, header.height + 1, Some(header.state_root), updates, &mut batch);
        if self.read(undone)? != coinbase.previous_state {
            let what = format!("block {}: its coinbase is not all it adds to the state", header.height);
            return self.read(Err(StoreError::Corrupt(what)));
        }
        let nodes = batch.rows.into_iter().map(|(_, key, value)| (key, value)).collect();
        Ok(Some(Before { store: &*self.store, nodes }))
    }

    /// That the newest checkpoint's log begins with the one of `old` entries.
    ///
    /// # Errors
    /// The log is not that long; or see [`LedgerError`].
    pub fn prove_since(&self, old: u64) -> Result<ConsistencyFile> {
        let (checkpoint, size) = self.newest_checkpoint();
        let path = self.consistency_proof(old, size)?.path;
        Ok(ConsistencyFile { old, path, checkpoint })
    }

    /// Root of the log as it was at `size` entries; none beyond its end.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn log_root(&self, size: u64) -> Result<Option<Hash>> {
        if size > self.size() {
            return Ok(None);
        }
        self.read(Stored::new(&*self.store, size).root()).map(Some)
    }

    /// The newest checkpoint, and the size of the log it is of.
    fn newest_checkpoint(&self) -> (String, u64) {
        let live = self.live.lock();
        (live.checkpoint.clone(), live.tip.header.log_size)
    }

    /// The first `width` hashes of a tile of the log, as C2SP `tlog-tiles` has them. None when the log has no such tile.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn tile(&self, level: u8, number: u64, width: usize) -> Result<Option<Vec<u8>>> {
        if !self.has_tile(level, number, width) {
            return Ok(None);
        }
        let hashes = self.read(read_tile(&*self.store, level, number, width))?;
        Ok(Some(hashes.iter().flat_map(|hash| hash.0).collect()))
    }

    fn has_tile(&self, level: u8, number: u64, width: usize) -> bool {
        let nodes = self.size().checked_shr(8 * u32::from(level)).unwrap_or(0);
        let end = number.checked_mul(TILE as u64).and_then(|first| first.checked_add(width as u64));
        (1..=TILE).contains(&width) && end.is_some_and(|end| end <= nodes)
    }

    /// The first `width` entries of a bundle, each with its length before it, as C2SP `tlog-tiles` has them.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn bundle(&self, number: u64, width: usize) -> Result<Bundle> {
        if !self.has_tile(0, number, width) {
            return Ok(Bundle::Absent);
        }
        let mut bundle = Vec::new();
        for index in number * TILE as u64..number * TILE as u64 + width as u64 {
            let bytes = self.read(self.store.get(Column::Transactions, &index.to_be_bytes()))?;
            let missing = || StoreError::Corrupt(format!("transaction {index}: missing"));
            let bytes = self.read(bytes.ok_or_else(missing))?;
            if bytes.first() == Some(&0) {
                return Ok(Bundle::Erased { index });
            }
            let length = u16::try_from(bytes.len()).map_err(|_| StoreError::Corrupt(format!("transaction {index}")));
            bundle.extend(self.read(length)?.to_be_bytes());
            bundle.extend(bytes);
        }
        Ok(Bundle::Entries(bundle))
    }
}

/// A store with other nodes of the state's map.
struct Before<'a> {
    store: &'a dyn Store,
    /// By their rows' keys; none for those that are gone.
    nodes: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Read for Before<'_> {
    fn get(&self, column: Column, key: &[u8]) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        match self.nodes.get(key).filter(|_| column == Column::Nodes) {
            Some(node) => Ok(node.clone()),
            None => self.store.get(column, key),
        }
    }

    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> std::result::Result<(), StoreError> {
        self.store.scan(column, from, direction, visit)
    }
}

/// Entries of the log, up to 256 of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bundle {
    /// The log has no such bundle.
    Absent,
    /// An entry of it is erased, so it cannot be told whole.
    Erased {
        /// The first erased entry.
        index: u64,
    },
    /// Length, big-endian, and bytes of each entry.
    Entries(Vec<u8>),
}
