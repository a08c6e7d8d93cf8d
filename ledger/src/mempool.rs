//! Transactions accepted but not yet sealed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::codec::Label;
use crate::hash::{BucketId, TxId};
use crate::state::{Effect, Overlay};
use crate::transaction::{BucketKind, Cause, FileOp, Transaction};

/// Something to be stated: a transaction without what only the ledger knows (chain, author, sequence number, `prior`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// When it happened, microseconds since 1970 UTC.
    pub time_us: u64,
    /// What.
    pub statement: Statement,
}

/// What a [`Draft`] states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// A new bucket; its id is the txid that submit returns.
    CreateBucket {
        /// Name.
        name: Label,
        /// Kind of file system.
        kind: BucketKind,
    },
    /// A bucket's end.
    DeleteBucket {
        /// The bucket.
        bucket: BucketId,
    },
    /// A change in a bucket.
    File {
        /// The bucket.
        bucket: BucketId,
        /// Its own number of the change.
        change: u64,
        /// How it came about.
        cause: Cause,
        /// What happened.
        op: FileOp,
    },
}

/// Which transactions are pending: numbers `first..next`. A number names one pending transaction until it is sealed or
/// truncated; a `next` is a cut to seal at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Number of the oldest.
    pub first: u64,
    /// Number the next one will get.
    pub next: u64,
}

impl Pending {
    /// How many.
    pub fn count(&self) -> u64 {
        self.next - self.first
    }
}

/// A pending transaction.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) txid: TxId,
    /// Canonical bytes.
    pub(crate) bytes: Vec<u8>,
    /// What it does to the state, as applied after all before it.
    pub(crate) effects: Vec<Effect>,
    /// Bucket and number of the change it states, if it is one.
    pub(crate) change: Option<(BucketId, u64)>,
}

impl Waiting {
    pub(crate) fn new(txid: TxId, transaction: &Transaction, bytes: Vec<u8>, effects: Vec<Effect>) -> Waiting {
        let change = transaction.file().map(|file| (file.bucket, file.change));
        Waiting { txid, bytes, effects, change }
    }

    /// Decoded again: held only as bytes, to keep the mempool small.
    pub(crate) fn transaction(&self) -> Transaction {
        Transaction::from_bytes(&self.bytes).expect("invariant: checked when it was accepted")
    }
}

/// The pending transactions in order, and what they do to the state together.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    first: u64,
    queue: VecDeque<Arc<Waiting>>,
    /// Their effects, merged; rows leave with the seal of the last transaction that wrote them.
    pub(crate) overlay: Overlay,
    /// Where each is: number by txid.
    numbers: HashMap<TxId, u64>,
}

impl Mempool {
    /// An empty one whose first transaction will have number `first`.
    pub(crate) fn new(first: u64) -> Mempool {
        Mempool { first, ..Mempool::default() }
    }

    pub(crate) fn span(&self) -> Pending {
        Pending { first: self.first, next: self.first + self.queue.len() as u64 }
    }

    /// Takes the next transaction.
    pub(crate) fn push(&mut self, waiting: Waiting) {
        let number = self.span().next;
        for (row, value) in &waiting.effects {
            self.overlay.insert(row.clone(), (value.clone(), number));
        }
        self.numbers.insert(waiting.txid, number);
        self.queue.push_back(Arc::new(waiting));
    }

    /// The transactions with numbers `from..to`, as far as they are there, with their numbers.
    pub(crate) fn range(&self, from: u64, to: u64) -> Vec<(u64, Arc<Waiting>)> {
        let span = self.span();
        let (from, to) = (from.max(span.first), to.min(span.next));
        let skipped = (from - span.first) as usize;
        let wanted = to.saturating_sub(from) as usize;
        (from..).zip(self.queue.iter().skip(skipped).take(wanted).cloned()).collect()
    }

    pub(crate) fn get(&self, txid: &TxId) -> Option<Arc<Waiting>> {
        let number = self.numbers.get(txid)?;
        self.queue.get((number - self.first) as usize).cloned()
    }

    /// Drops those sealed: all below `cut`.
    pub(crate) fn sealed(&mut self, cut: u64) {
        while self.first < cut
            && let Some(waiting) = self.queue.pop_front()
        {
            self.numbers.remove(&waiting.txid);
            self.first += 1;
        }
        self.overlay.retain(|_, (_, number)| *number >= cut);
    }

    /// The last change of each bucket below `cut`.
    pub(crate) fn changes(&self, cut: u64) -> Vec<(BucketId, u64)> {
        let below = cut.saturating_sub(self.first) as usize;
        let mut last = BTreeMap::new();
        for (bucket, change) in self.queue.iter().take(below).filter_map(|waiting| waiting.change) {
            last.insert(bucket, change);
        }
        last.into_iter().collect()
    }
}
