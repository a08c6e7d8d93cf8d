//! The sealer: turns pending transactions into blocks, each only after the data behind it is durable.
//!
//! Order: cut the mempool, persist the buckets with changes below the cut, seal, retire their intents. A block
//! comes every 500 ms while there is work and at 4,096 transactions; when sealing is slow the pause grows, to 5 s at most.

use super::{Node, trouble};
use crate::error::{Error, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::io::ErrorKind;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wizefs_fs::{Change, ChangeSink, Row, RowVisitor, SinkError};
use wizefs_ledger::BucketId;

/// Pause between blocks while there is work.
const INTERVAL: Duration = Duration::from_millis(500);
/// The longest pause under load.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// So many pending transactions are a block at once.
const BLOCK_FULL: u64 = 4096;
/// A block has no more transactions than this, so that sealing needs little memory.
const BLOCK_MOST: u64 = 2 * BLOCK_FULL;
/// The pause is this many times what the last block took, so that sealing stays a small part of the work.
const PAUSE_FACTOR: u32 = 4;
/// Politeness of the sealer's thread towards the programs in the mounts.
const NICENESS: i32 = 5;

/// Seals in the background and on demand.
pub(super) struct Sealer {
    node: Weak<Node>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// One block at a time; holds how long the last one took.
    sealing: Mutex<Duration>,
}

#[derive(Default)]
pub(super) struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
    /// Counts blocks, for those who follow the log.
    blocks: Mutex<u64>,
    sealed: Condvar,
}

#[derive(Default)]
struct Wanted {
    work: bool,
    full: bool,
    end: bool,
}

impl Sealer {
    pub(super) fn new(node: Weak<Node>) -> Sealer {
        Sealer { node, shared: Arc::default(), thread: Mutex::default(), sealing: Mutex::default() }
    }

    /// Start the thread.
    pub(super) fn start(&self) -> Result<()> {
        let (node, shared) = (Weak::clone(&self.node), Arc::clone(&self.shared));
        // A mempool that a crash left is work from the start.
        shared.wanted.lock().work = true;
        let thread = std::thread::Builder::new().name("sealer".to_owned()).spawn(move || run(&node, &shared));
        *self.thread.lock() = Some(thread.map_err(|e| Error::io(Kind::Failed, "cannot start the sealer", &e))?);
        Ok(())
    }

    /// End the thread; nothing is sealed any more.
    pub(super) fn end(&self) {
        self.shared.wanted.lock().end = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // The last reference to the node may be the sealer's own.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("the sealer panicked");
            }
        }
    }

    /// What a bucket reports its changes to: the notary, and the sealer hears of it.
    pub(super) fn sink(&self, node: &Node, notary: Arc<dyn ChangeSink>) -> Arc<dyn ChangeSink> {
        Arc::new(Noticed { notary, ledger: Arc::clone(&node.ledger), shared: Arc::clone(&self.shared) })
    }

    /// There is work that did not come through a bucket.
    pub(super) fn notice(&self) {
        self.shared.notice(false);
    }

    /// Seal what is pending now.
    pub(super) fn seal(&self, node: &Node) -> Result<()> {
        let mut took = self.sealing.lock();
        let start = Instant::now();
        let end = node.ledger.pending().next;
        for (id, _) in node.ledger.pending_changes(end) {
            persist(node, &id)?;
        }
        loop {
            let first = node.ledger.pending().first;
            if first >= end {
                break;
            }
            self.seal_block(node, end.min(first + BLOCK_MOST))?;
        }
        *took = start.elapsed();
        Ok(())
    }

    /// Seal the pending transactions below `cut`, whose data is durable.
    fn seal_block(&self, node: &Node, cut: u64) -> Result<()> {
        let changes = node.ledger.pending_changes(cut);
        let Some(block) = node.ledger.seal(cut).map_err(trouble::ledger)? else { return Ok(()) };
        for (id, last) in &changes {
            if let Some(bucket) = node.open_bucket(id)
                && let Some(fs) = bucket.fs_at_once()
            {
                fs.retire(*last);
            }
        }
        tracing::debug!(height = block.header.height, count = block.header.count, "sealed");
        self.announce(node);
        Ok(())
    }

    /// Tell those who follow the log and the events that there is a new block.
    pub(super) fn announce(&self, node: &Node) {
        *self.shared.blocks.lock() += 1;
        self.shared.sealed.notify_all();
        node.events.ring();
    }

    /// Wait for a block after `seen`, at most `timeout`; returns the count of blocks.
    pub(super) fn wait_for_block(&self, seen: u64, timeout: Duration) -> u64 {
        let mut blocks = self.shared.blocks.lock();
        if *blocks == seen {
            self.shared.sealed.wait_for(&mut blocks, timeout);
        }
        *blocks
    }
}

/// Make the data and names of a bucket durable. One that is being opened (its recovery reports changes already, and may wait
/// for us to make room) is not asked but reached through its folder. Where that is gone, its disk unplugged for one, there is
/// nothing to sync, and nothing that could: it keeps nobody else's changes from being sealed.
fn persist(node: &Node, id: &BucketId) -> Result<()> {
    if let Some(bucket) = node.open_bucket(id)
        && let Some(fs) = bucket.fs_at_once()
    {
        return fs.persist().map_err(trouble::fs);
    }
    let Some(backing) = node.backing_of(id)? else { return Ok(()) };
    let synced = File::open(&backing).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
    if let Err(e) = &synced
        && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
    {
        tracing::warn!(backing = %backing.display(), "sealed without it: what a bucket was made from is gone");
        return Ok(());
    }
    synced.map_err(|e| Error::io(Kind::Failed, format!("cannot sync {}", backing.display()), &e))
}

/// The thread: wait for work, let it gather, seal.
fn run(node: &Weak<Node>, shared: &Shared) {
    if let Err(e) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(error = %e, "the sealer runs at normal priority");
    }
    let mut pause = INTERVAL;
    let mut rest = Duration::ZERO;
    while gather(shared, pause, rest) {
        let Some(node) = node.upgrade() else { return };
        match node.sealer.seal(&node) {
            Ok(()) => {
                let took = *node.sealer.sealing.lock();
                pause = (took * PAUSE_FACTOR).clamp(INTERVAL, INTERVAL_MAX);
                rest = took.min(INTERVAL_MAX);
            }
            Err(e) => {
                tracing::error!("cannot seal a block: {e}");
                pause = INTERVAL_MAX;
                rest = INTERVAL_MAX;
                shared.wanted.lock().work = true;
            }
        }
    }
}

/// Wait until there is work, then for `pause` or until a block is full, but never less than `rest`. False at the end.
fn gather(shared: &Shared, pause: Duration, rest: Duration) -> bool {
    let mut wanted = shared.wanted.lock();
    while !wanted.work && !wanted.end {
        shared.changed.wait(&mut wanted);
    }
    let start = Instant::now();
    while !wanted.end {
        let patience = if wanted.full { rest } else { pause };
        let left = patience.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        shared.changed.wait_for(&mut wanted, left);
    }
    wanted.work = false;
    wanted.full = false;
    !wanted.end
}

impl Shared {
    fn notice(&self, full: bool) {
        let mut wanted = self.wanted.lock();
        if !wanted.work || (full && !wanted.full) {
            wanted.work = true;
            wanted.full |= full;
            self.changed.notify_all();
        }
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A sink whose submits wake the sealer.
struct Noticed {
    notary: Arc<dyn ChangeSink>,
    ledger: Arc<wizefs_ledger::Ledger>,
    shared: Arc<Shared>,
}

impl ChangeSink for Noticed {
    fn last_number(&self) -> Result<u64, SinkError> {
        self.notary.last_number()
    }

    fn admits(&self) -> Result<(), SinkError> {
        self.notary.admits()
    }

    fn submit(&self, changes: &[Change], rows: &[Row]) -> Result<(), SinkError> {
        // Noticed before as well: a submit that waits for room needs the sealer to make some.
        self.shared.notice(self.ledger.pending().count() >= BLOCK_FULL);
        self.notary.submit(changes, rows)?;
        self.shared.notice(self.ledger.pending().count() >= BLOCK_FULL);
        Ok(())
    }

    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SinkError> {
        self.notary.row(key)
    }

    fn rows(&self, prefix: &[u8], visit: RowVisitor<'_>) -> Result<(), SinkError> {
        self.notary.rows(prefix, visit)
    }

    fn unsealed(&self, visit: &mut dyn FnMut(&wizefs_fs::BucketPath)) -> Result<(), SinkError> {
        self.notary.unsealed(visit)
    }
}
