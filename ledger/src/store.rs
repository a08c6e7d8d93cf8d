//! Where the ledger keeps its bytes: ordered rows in named columns, written in atomic batches.

use std::ops::ControlFlow;

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod crash;
pub mod memory;
pub mod rocks;

/// The ledger's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    /// Single values: genesis parameters, tip, checkpoint, first pending number.
    Meta,
    /// Log index (u64 big-endian) to canonical transaction bytes, or the stub of an erased one.
    Transactions,
    /// Height (u64 big-endian) to block.
    Blocks,
    /// Level (u8) and tile number (u64 big-endian) to up to 256 hashes of the log.
    Tiles,
    /// Nodes of the state map.
    Nodes,
    /// What the state map holds, and counts kept beside it.
    State,
    /// Ways to find transactions and blocks; derived.
    Index,
    /// Pending number (u64 big-endian) to canonical transaction bytes.
    Mempool,
    /// The node's private rows; no part of the chain.
    Local,
}

impl Column {
    /// Every column.
    pub const ALL: [Column; 9] = [
        Column::Meta,
        Column::Transactions,
        Column::Blocks,
        Column::Tiles,
        Column::Nodes,
        Column::State,
        Column::Index,
        Column::Mempool,
        Column::Local,
    ];

    /// Whether all of it follows from the chain, so that it can be made anew.
    pub fn is_derived(self) -> bool {
        matches!(self, Column::Tiles | Column::Nodes | Column::State | Column::Index)
    }

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Column::Meta => "meta",
            Column::Transactions => "transactions",
            Column::Blocks => "blocks",
            Column::Tiles => "tiles",
            Column::Nodes => "nodes",
            Column::State => "state",
            Column::Index => "index",
            Column::Mempool => "mempool",
            Column::Local => "local",
        }
    }
}

/// Writes that happen together or not at all; a later write of a row wins.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) rows: Vec<(Column, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a row.
    pub fn put(&mut self, column: Column, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.rows.push((column, key.into(), Some(value.into())));
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, column: Column, key: impl Into<Vec<u8>>) {
        self.rows.push((column, key.into(), None));
    }
}

/// Whether a write is on the disk when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// With the kernel: survives the process, not the machine.
    Buffered,
    /// On the disk, with everything written before it.
    Synced,
}

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the key upwards.
    Forward,
    /// From the key downwards.
    Backward,
}

/// Why the store failed, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space: nothing of the batch was written; try again when there is some.
    #[error("the disk holding the ledger is full")]
    Full,
    /// Bytes on disk are not what was written.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// Another process has it open.
    #[error("in use by another process: {0}")]
    Locked(String),
    /// Any other failure of the disk or the engine.
    #[error("{0}")]
    Io(String),
}

/// One row as a visitor sees it: key, value.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reading, from the live store or from a snapshot of it, by any number of threads.
pub trait Read: Sync {
    /// The value of a row.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits rows in key order from the first at or after (backward: at or before) `from`, until the visitor breaks.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn scan(
        &self,
        column: Column,
        from: &[u8],
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError>;
}

/// A store. Conformance tests run against every implementation.
pub trait Store: Read + Send + Sync {
    /// Writes a batch whole or not at all.
    ///
    /// # Errors
    /// See [`StoreError`]. After [`StoreError::Full`] nothing was written that a reader or a reopened store sees,
    /// once [`Store::recover`] has succeeded.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError>;

    /// Puts every earlier write on the disk.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn sync(&self) -> Result<(), StoreError>;

    /// Runs `work` on an unchanging view of the store.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn snapshot(&self, work: &mut dyn FnMut(&dyn Read)) -> Result<(), StoreError>;

    /// Brings the store back to its last whole write after a failed one.
    ///
    /// # Errors
    /// The cause persists.
    fn recover(&self) -> Result<(), StoreError>;

    /// Empties a derived column without reading it, so that it may be damaged in any way. It is empty on the disk when this
    /// returns, whatever of earlier writes to other columns is not synced yet; after a crash in between it may be missing,
    /// and is empty again for opening a damaged store.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn clear(&self, column: Column) -> Result<(), StoreError>;

    /// Rewrites the files that may still hold what rows with keys of these beginnings held before, so that it is gone from
    /// the disk.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn purge(&self, beginnings: &[(Column, Vec<u8>)]) -> Result<(), StoreError>;

    /// Bytes free on the disk below it; `None` where that means nothing.
    fn free_space(&self) -> Option<u64>;
}

/// Visits the rows whose keys start with `prefix`, in key order.
///
/// # Errors
/// See [`StoreError`].
pub fn scan_prefix(read: &dyn Read, column: Column, prefix: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
    read.scan(column, prefix, Direction::Forward, &mut |key, value| {
        if key.starts_with(prefix) { visit(key, value) } else { ControlFlow::Break(()) }
    })
}
