//! The ledger: one chain, its mempool and its store.
//!
//! Three locks, taken in this order: `writer` (who accepts), `sealer` (who seals), `live` (what readers see, held for
//! moments only). A row is read from the mempool's overlay first and then from the store; seal writes the store first and
//! clears the overlay after, so a reader never misses a change.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use crate::block::{Block, EMISSION, Genesis, GenesisVersion, MAX_STAMP_BITS, REWARD};
use crate::checkpoint::{Checkpoint, LogKey, Vkey, origin};
use crate::codec::{TreePath, decode_versioned, encode};
use crate::hash::{BucketId, Hash, TxId};
use crate::keyfile::random;
use crate::log::Edge;
use crate::mempool::{Mempool, Pending, Waiting};
use crate::reserve::{FLOOR, LOW, PLENTY, Reserve};
use crate::state::apply::{ApplyError, apply};
use crate::state::{Layered, Sealed, View, map};
use crate::store::rocks::RocksStore;
use crate::store::{Column, Direction, Store, StoreError, Visitor, scan_prefix};
use crate::transaction::Transaction;
use crate::wallet::{KeyError, Wallet};

mod coins;
mod forget;
pub(crate) mod history;
pub(crate) mod index;
mod open;
mod prove;
mod query;
mod seal;
mod submit;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tip;

pub use forget::Forgotten;
pub(crate) use open::{FIRST_PENDING, GENESIS, LATEST_CHECKPOINT, TIP, verifier};
pub use prove::Bundle;
pub use query::Named;
pub(crate) use seal::{coinbase, write_state};

/// Pending transactions after which submit waits, unless told otherwise.
pub const MEMPOOL_LIMIT: u64 = 8_192;

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
    /// No randomness for a new one.
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
    /// A transfer spends what another one, accepted first, has spent: draft it again.
    #[error("refused: {0}")]
    Spent(String),
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

/// With plenty of space and the reserve beside it, the disk is not asked again for this long: every change of a mount asks, and no
/// disk writes away that much meanwhile.
const PLENTY_LASTS_MS: u64 = 50;

/// Result of a ledger operation.
pub type Result<T> = std::result::Result<T, LedgerError>;

/// One chain with its mempool. Every method may be called from any thread.
pub struct Ledger {
    store: Arc<dyn Store>,
    /// Where files beside the store are; none for a store in memory.
    dir: Option<PathBuf>,
    reserve: Option<Reserve>,
    wallet: Wallet,
    log_key: LogKey,
    genesis: Genesis,
    chain: Hash,
    mempool_limit: u64,
    writer: Mutex<()>,
    sealer: Mutex<()>,
    live: Mutex<Live>,
    /// Signalled when pending transactions come.
    arrived: Condvar,
    /// See [`Ledger::revision`].
    revision: AtomicU64,
    /// Signalled when pending transactions go.
    room: Condvar,
    /// A write failed for want of space; the store must be recovered and `live` read again before the next.
    stalled: AtomicBool,
    /// When there was plenty of space last, in milliseconds since `began`; 0 when there was not.
    plenty_at: AtomicU64,
    began: Instant,
}

/// What changes as the chain grows.
struct Live {
    tip: Block,
    checkpoint: String,
    edge: Edge,
    mempool: Mempool,
    /// Damage met in service; it stays until the ledger is opened again.
    poisoned: Option<String>,
    /// What a check found; one that finds nothing takes it back.
    found: Option<String>,
}

impl Live {
    /// Why nothing is written.
    fn trouble(&self) -> Option<&String> {
        self.poisoned.as_ref().or(self.found.as_ref())
    }
}

impl Ledger {
    /// What the chain started from.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The chain's name.
    pub fn chain_id(&self) -> Hash {
        self.chain
    }

    /// C2SP verifier key of the log key.
    pub fn vkey(&self) -> String {
        verifier(&self.genesis).to_string()
    }

    /// Why nothing is written any more, when so.
    pub fn poisoned(&self) -> Option<String> {
        self.live.lock().trouble().cloned()
    }

    /// How much disk is left. Makes the reserve again when there is plenty.
    pub fn space(&self) -> Space {
        if self.stalled.load(Ordering::Acquire) {
            return Space::Full;
        }
        let now = self.began.elapsed().as_millis() as u64 + 1;
        let plenty_at = self.plenty_at.load(Ordering::Acquire);
        if plenty_at > 0 && now.saturating_sub(plenty_at) < PLENTY_LASTS_MS {
            return Space::Ample;
        }
        let (Some(free), Some(reserve)) = (self.store.free_space(), &self.reserve) else { return Space::Ample };
        let is_held = reserve.hold(free);
        self.plenty_at.store(if is_held && free >= PLENTY { now } else { 0 }, Ordering::Release);
        match free {
            _ if is_held => Space::Ample,
            ..FLOOR => Space::Full,
            _ if reserve.is_given() => Space::Reserve,
            // A disk too small for the reserve, or unable to set blocks aside, is judged by what is free alone.
            PLENTY.. => Space::Ample,
            LOW.. if !reserve.fits() => Space::Ample,
            _ => Space::Reserve,
        }
    }

    /// Before a write: releases the reserve when space is low, and refuses when that is not enough. RocksDB's own
    /// background writes must not meet a full disk.
    fn make_room(&self) -> Result<()> {
        let (Some(free), Some(reserve)) = (self.store.free_space(), &self.reserve) else { return Ok(()) };
        let eased = reserve.ease(free).map_err(|error| LedgerError::Store(StoreError::Io(error.to_string())))?;
        if free < FLOOR && !eased { Err(LedgerError::Full) } else { Ok(()) }
    }

    /// Gives the reserve to a disk that is nearly full, for who has to write beside the ledger before anything can be removed.
    ///
    /// # Errors
    /// The reserve cannot be removed.
    pub fn ease(&self) -> Result<()> {
        match self.make_room() {
            Err(LedgerError::Full) => Ok(()),
            done => done,
        }
    }

    /// Refuses to write on a damaged ledger.
    fn check_health(&self) -> Result<()> {
        match self.live.lock().trouble() {
            Some(reason) => Err(LedgerError::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    /// What a failed write means from now on: a full disk stalls until there is space, anything else poisons.
    fn failed(&self, error: StoreError) -> LedgerError {
        if error == StoreError::Full {
            if let Some(reserve) = &self.reserve {
                reserve.give();
            }
            self.plenty_at.store(0, Ordering::Release);
            self.stalled.store(true, Ordering::Release);
            return LedgerError::Full;
        }
        self.poison(error.to_string());
        LedgerError::Poisoned(error.to_string())
    }

    fn poison(&self, reason: String) {
        tracing::error!(reason, "the ledger takes no more writes");
        self.live.lock().poisoned.get_or_insert(reason);
        self.room.notify_all();
        self.arrived.notify_all();
    }

    /// Takes no more writes because of what a check found, or takes them again when it found nothing.
    fn judge(&self, found: Option<String>) {
        if let Some(reason) = &found {
            tracing::error!(reason, "the ledger takes no more writes");
        }
        self.live.lock().found = found;
        self.room.notify_all();
        self.arrived.notify_all();
    }

    /// Classifies a failed read: damage found while serving poisons, for the next write would build on it.
    fn unread(&self, error: StoreError) -> LedgerError {
        if let StoreError::Corrupt(reason) = &error {
            self.poison(reason.clone());
        }
        LedgerError::Store(error)
    }

    /// After a full disk: recovers the store and reads again what it holds. Whether the failed write took place is
    /// only known from there.
    fn revive(&self) -> Result<()> {
        if !self.stalled.load(Ordering::Acquire) {
            return Ok(());
        }
        let _writer = self.writer.lock();
        let _sealer = self.sealer.lock();
        if self.stalled.load(Ordering::Acquire) {
            self.make_room()?;
            let again = self.store.recover().and_then(|()| open::load(&*self.store, &self.genesis));
            match again {
                Err(StoreError::Full) => return Err(LedgerError::Full),
                Err(error) => return Err(self.failed(error)),
                Ok(again) => {
                    let mut live = self.live.lock();
                    let lost = tip::lost(&live.tip, &again.tip);
                    let poisoned = again.poisoned.or(lost).or(live.poisoned.take());
                    if let Some(reason) = &poisoned {
                        tracing::error!(reason, "the ledger takes no more writes");
                    }
                    let found = live.found.take();
                    *live = Live { poisoned, found, ..again };
                    self.revised();
                }
            }
            self.stalled.store(false, Ordering::Release);
            self.room.notify_all();
        }
        Ok(())
    }
}

/// The state with pending transactions in it.
struct Current<'a>(&'a Ledger);

impl View for Current<'_> {
    fn get(&self, row: &[u8]) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        if let Some((value, _)) = self.0.live.lock().mempool.overlay.get(row) {
            return Ok(value.clone());
        }
        self.0.store.get(Column::State, row)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visitor<'_>) -> std::result::Result<(), StoreError> {
        // A copy of the part concerned: a visitor may take as long as it likes, and may come back here.
        let over = {
            let live = self.0.live.lock();
            let part = live.mempool.overlay.range(from.to_vec()..).take_while(|(row, _)| row.starts_with(prefix));
            part.map(|(row, value)| (row.clone(), value.clone())).collect()
        };
        Layered { over: &over, base: &Sealed(&*self.0.store) }.scan(prefix, from, visit)
    }
}

/// Microseconds since 1970 UTC.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_micros() as u64
}
