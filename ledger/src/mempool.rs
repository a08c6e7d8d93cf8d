//! Transactions accepted but not yet sealed.

use crate::codec::Label;
use crate::hash::BucketId;
use crate::transaction::{BucketKind, Cause, FileOp};

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
