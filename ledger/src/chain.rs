//! The ledger: one chain, its mempool and its store.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::block::{Block, Genesis};
use crate::checkpoint::LogKey;
use crate::codec::TreePath;
use crate::fsck::{Progress, Report};
use crate::hash::{BlockHash, BucketId, Hash, TxId};
use crate::mempool::{Draft, Pending};
use crate::proof::{ConsistencyProof, InclusionProof};
use crate::state::{Bucket, Entry};
use crate::store::{Store, StoreError};
use crate::transaction::Transaction;
use crate::wallet::{KeyError, Wallet};

/// How to open a ledger.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The node's wallet; must be the chain's.
    pub wallet: Wallet,
    /// The key that signs checkpoints; must be the chain's.
    pub log_key: LogKey,
    /// Make a new chain where there is none.
    pub create: bool,
    /// Stamp of a new chain, leading zero bits, at most [`crate::MAX_STAMP_BITS`].
    pub stamp_bits: u8,
    /// Pending transactions after which [`Ledger::submit`] waits for a seal.
    pub mempool_limit: u64,
}

/// Why a ledger does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and none was to be made.
    #[error("no ledger in this place")]
    Absent,
    /// It belongs to other keys.
    #[error("the ledger belongs to another {0}")]
    WrongKey(&'static str),
    /// It cannot even be opened read-only; [`crate::fsck_dir`] says more.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    /// A stamp nobody could make.
    #[error("a stamp of {0} bits is beyond the limit")]
    Stamp(u8),
    /// No randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store: full, locked, or failing.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the ledger did not do something, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It can never be true on this chain: nothing was accepted; change the request.
    #[error("refused: {0}")]
    Refused(String),
    /// The disk is full: nothing was accepted; repeat when there is space.
    #[error("the disk holding the ledger is full")]
    Full,
    /// The ledger is damaged and only readable.
    #[error("the ledger is damaged and takes no writes: {0}")]
    Poisoned(String),
    /// Reading or writing failed; whether damaged or not is in the message.
    #[error("ledger store: {0}")]
    Store(StoreError),
}

/// A private row: key, and value or none to remove it.
pub type Row = (Vec<u8>, Option<Vec<u8>>);

/// How much disk is left for the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Enough.
    Ample,
    /// Living on the released reserve: new writes should be refused, so that settles and removes still fit.
    Reserve,
    /// Nothing more is accepted.
    Full,
}

/// Whose transactions a history holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// All.
    All,
    /// Those of one bucket, its creation and deletion too.
    Bucket(BucketId),
    /// Those of one path, followed through renames of it and of directories above; of a directory, with all below it.
    Path(BucketId, TreePath),
}

/// Order of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the newest.
    NewestFirst,
    /// From the oldest.
    OldestFirst,
}

/// One transaction in a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its name.
    pub txid: TxId,
    /// Place in the log; none while pending.
    pub index: Option<u64>,
    /// Height of its block; none while pending.
    pub block: Option<u64>,
    /// When: its own time, or a coinbase's block's. Microseconds since 1970 UTC.
    pub time_us: u64,
    /// Itself; none when erased.
    pub transaction: Option<Transaction>,
}

/// Result of a ledger operation.
pub type Result<T> = std::result::Result<T, LedgerError>;

/// One chain with its mempool. Every method may be called from any thread.
pub struct Ledger {
    #[allow(unused)]
    store: Arc<dyn Store>,
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Ledger {
    /// Opens the ledger in `dir`, or makes one.
    pub fn open(dir: &Path, options: OpenOptions) -> std::result::Result<Ledger, OpenError> { todo!() }
    /// As [`Ledger::open`] on a store already there.
    pub fn open_store(store: Arc<dyn Store>, options: OpenOptions) -> std::result::Result<Ledger, OpenError> { todo!() }
    pub fn genesis(&self) -> &Genesis { todo!() }
    pub fn chain_id(&self) -> Hash { todo!() }
    /// C2SP verifier key of the log key.
    pub fn vkey(&self) -> String { todo!() }
    /// Why nothing is written any more, when so.
    pub fn poisoned(&self) -> Option<String> { todo!() }
    pub fn space(&self) -> Space { todo!() }

    /// Signs and accepts drafts and private rows in one atomic, unsynced write; all or none. Waits while the mempool is full.
    pub fn submit(&self, author: &Wallet, drafts: Vec<Draft>, rows: &[Row]) -> Result<Vec<TxId>> { todo!() }
    pub fn local(&self, key: &[u8]) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn local_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<()> { todo!() }
    pub fn write_local(&self, rows: &[Row]) -> Result<()> { todo!() }

    pub fn pending(&self) -> Pending { todo!() }
    /// Waits until at least `count` are pending, or `timeout` has passed.
    pub fn wait_pending(&self, count: u64, timeout: Duration) -> Pending { todo!() }
    /// The pending transactions from number `from`: number, txid, transaction.
    pub fn pending_from(&self, from: u64) -> Vec<(u64, TxId, Transaction)> { todo!() }
    /// The last change number of each bucket that has pending changes below `cut`.
    pub fn pending_changes(&self, cut: u64) -> Vec<(BucketId, u64)> { todo!() }
    /// Drops the pending transactions from number `from` on, and writes `rows` in the same batch.
    pub fn truncate_pending(&self, from: u64, rows: &[Row]) -> Result<()> { todo!() }
    /// Puts every accepted transaction on the disk; must precede showing a pending one to anybody.
    pub fn sync(&self) -> Result<()> { todo!() }
    /// Seals the pending transactions below `cut` into a block, durably. None when there are none.
    pub fn seal(&self, cut: u64) -> Result<Option<Block>> { todo!() }

    pub fn tip(&self) -> Block { todo!() }
    /// Transactions in the log, coinbases included.
    pub fn size(&self) -> u64 { todo!() }
    pub fn block(&self, height: u64) -> Result<Option<Block>> { todo!() }
    pub fn block_by_hash(&self, hash: &BlockHash) -> Result<Option<Block>> { todo!() }
    /// The block that holds the log's entry `index`.
    pub fn block_of(&self, index: u64) -> Result<Option<Block>> { todo!() }
    /// Sealed or pending.
    pub fn transaction(&self, txid: &TxId) -> Result<Option<Logged>> { todo!() }
    pub fn transaction_at(&self, index: u64) -> Result<Option<Logged>> { todo!() }
    /// Transactions in order, pending ones included, from log index `from` (inclusive; none: from the end it starts at), at most `limit`.
    pub fn history(&self, which: &History, order: Order, from: Option<u64>, limit: usize) -> Result<Vec<Logged>> { todo!() }
    /// What is recorded at a path, pending transactions included. The root has no entry.
    pub fn entry(&self, bucket: &BucketId, path: &TreePath) -> Result<Option<Entry>> { todo!() }
    /// Names and entries in a directory, sorted by name bytes. None when it is no directory.
    pub fn list(&self, bucket: &BucketId, directory: &TreePath) -> Result<Option<Vec<(Vec<u8>, Entry)>>> { todo!() }
    /// Every entry of a bucket: a directory before what is in it, else sorted by name bytes.
    pub fn entries(&self, bucket: &BucketId, visit: &mut dyn FnMut(&TreePath, &Entry) -> ControlFlow<()>) -> Result<()> { todo!() }
    /// The open buckets, sorted by name, pending ones included.
    pub fn buckets(&self) -> Result<Vec<Bucket>> { todo!() }
    pub fn bucket(&self, id: &BucketId) -> Result<Option<Bucket>> { todo!() }
    pub fn bucket_named(&self, name: &str) -> Result<Option<Bucket>> { todo!() }
    /// Coins an address can spend.
    pub fn balance(&self, address: &crate::AddressHash) -> Result<u64> { todo!() }

    /// The signed checkpoint of the log at the tip: a C2SP signed note.
    pub fn checkpoint(&self) -> String { todo!() }
    /// That entry `index` is in the log of `size` entries.
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<InclusionProof> { todo!() }
    /// That the log of `old` entries is a prefix of the one of `new`.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<ConsistencyProof> { todo!() }
    /// Checks everything from genesis, on a snapshot.
    pub fn fsck(&self, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Report> { todo!() }
}
