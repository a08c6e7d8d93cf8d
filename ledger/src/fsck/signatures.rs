//! Signatures checked on threads of their own, while the replay goes on.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use parking_lot::Mutex;

use crate::transaction::Transaction;

/// Transactions handed over at once.
const CHUNK: usize = 256;
/// Chunks in flight: what memory holds of a chain being checked.
const IN_FLIGHT: usize = 16;

/// A transaction whose signature is to be checked.
pub(super) struct Signed {
    pub(super) block: u64,
    pub(super) index: u64,
    pub(super) transaction: Transaction,
    pub(super) bytes: Vec<u8>,
}

/// Where a signature does not hold: block, log index.
pub(super) type Place = (u64, u64);

/// The threads.
pub(super) struct Signatures<'s> {
    chunk: Vec<Signed>,
    queue: Option<SyncSender<Vec<Signed>>>,
    workers: Vec<ScopedJoinHandle<'s, Vec<Place>>>,
}

/// What the threads take from.
type Queue = Mutex<Receiver<Vec<Signed>>>;

/// A queue of chunks, to be shared with [`Signatures::start`].
pub(super) fn queue() -> (SyncSender<Vec<Signed>>, Queue) {
    let (sender, receiver) = sync_channel(IN_FLIGHT);
    (sender, Mutex::new(receiver))
}

impl<'s> Signatures<'s> {
    /// Starts a thread per processor.
    pub(super) fn start<'e>(
        scope: &'s Scope<'s, 'e>,
        sender: SyncSender<Vec<Signed>>,
        queue: &'e Queue,
    ) -> Signatures<'s> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let work = move || {
            let mut bad = Vec::new();
            loop {
                let next = queue.lock().recv();
                let Ok(chunk) = next else { return bad };
                let fails = |signed: &&Signed| !signed.transaction.signature_holds(&signed.bytes);
                bad.extend(chunk.iter().filter(fails).map(|signed| (signed.block, signed.index)));
            }
        };
        let workers = (0..threads).map(|_| scope.spawn(work)).collect();
        Signatures { chunk: Vec::with_capacity(CHUNK), queue: Some(sender), workers }
    }

    /// Hands one over.
    pub(super) fn check(&mut self, signed: Signed) {
        self.chunk.push(signed);
        if self.chunk.len() >= CHUNK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(queue) = &self.queue {
            let chunk = std::mem::take(&mut self.chunk);
            // Fails only when every worker panicked; joining them tells.
            queue.send(chunk).unwrap_or_default();
        }
    }

    /// Waits for the rest; the bad ones.
    pub(super) fn finish(mut self) -> Vec<Place> {
        self.flush();
        self.queue = None;
        let join = |worker: ScopedJoinHandle<'s, Vec<Place>>| match worker.join() {
            Ok(bad) => bad,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        self.workers.into_iter().flat_map(join).collect()
    }
}
