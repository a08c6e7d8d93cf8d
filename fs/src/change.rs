//! What a bucket reports: one [`Change`] for each committed put, remove, rename and so on, in one numbered stream.

use crate::path::BucketPath;
use std::ops::ControlFlow;

/// One committed change. Numbers of a bucket start at 1 and have no gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Position in the bucket's stream.
    pub number: u64,
    /// When the change was established, in microseconds since 1970.
    pub time_us: u64,
    /// What led to it.
    pub cause: Cause,
    /// What changed.
    pub op: Op,
}

/// Why a change is reported; says who may be held to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A program did it through the mount.
    Mount,
    /// `put` or `remove` of the command line or a service.
    Put,
    /// Found when an existing directory was adopted.
    Import,
    /// Done through the mount before a crash, established afterwards.
    Recovered,
    /// The content holds bytes that did not come through wizefs.
    Foreign,
}

/// How the content of a file was established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Under a kernel read lease: nobody had the file open for writing or mapped writable.
    Lease,
    /// Two equal `statx` around the read; a writable mapping could have gone unseen.
    Stat,
    /// The file is still open for writing: size only, no hashes.
    OpenWriters,
}

/// Both content hashes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct Hashes {
    /// BLAKE3 of the content.
    pub blake3: [u8; 32],
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// `None` while writers are open.
        hashes: Option<Hashes>,
    },
    /// A symbolic link.
    Symlink {
        /// The target's bytes, as stored.
        target: Vec<u8>,
    },
}

/// The new state of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Where.
    pub path: BucketPath,
    /// What it holds.
    pub content: Content,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner; carried, not a cause.
    pub uid: u32,
    /// Group; carried, not a cause.
    pub gid: u32,
    /// Modification time in nanoseconds since 1970; carried, not a cause.
    pub mtime_ns: i64,
    /// How the content was established.
    pub evidence: Evidence,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A file or symbolic link has this content now. Missing parents are implied.
    Put(Put),
    /// The name is gone. Valid for a name that was never put.
    Remove {
        /// The name that went.
        path: BucketPath,
    },
    /// A file or directory, with all below it, has a new name; what was there is replaced.
    Rename {
        /// The old name.
        from: BucketPath,
        /// The new name.
        to: BucketPath,
    },
    /// Two names changed places.
    Exchange {
        /// One name.
        a: BucketPath,
        /// The other.
        b: BucketPath,
    },
    /// A directory exists with these permission bits; on an existing one they are new.
    Mkdir {
        /// Where.
        path: BucketPath,
        /// Permission bits, `0o7777`.
        mode: u32,
    },
    /// The directory is gone.
    Rmdir {
        /// Where.
        path: BucketPath,
    },
    /// The owner signs a foreign state as the own one.
    Accept(Put),
}

impl Op {
    /// Nothing is at `path` any more, where there was a directory or something else.
    pub(crate) fn gone(was_directory: bool, path: BucketPath) -> Self {
        if was_directory { Self::Rmdir { path } } else { Self::Remove { path } }
    }

    /// The paths this touches.
    pub fn paths(&self) -> impl Iterator<Item = &BucketPath> {
        let (first, second) = match self {
            Op::Put(put) | Op::Accept(put) => (&put.path, None),
            Op::Remove { path } | Op::Mkdir { path, .. } | Op::Rmdir { path } => (path, None),
            Op::Rename { from, to } => (from, Some(to)),
            Op::Exchange { a, b } => (a, Some(b)),
        };
        std::iter::once(first).chain(second)
    }
}

/// A private row of the file system's table, kept by the sink beside the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Key, unique within the bucket.
    pub key: Vec<u8>,
    /// New value; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// Why a sink did not take changes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// No space: nothing was taken; offer the same again when there is room.
    #[error("no space left for the ledger: {0}")]
    NoSpace(String),
    /// The sink cannot be written any more.
    #[error("the ledger cannot be written: {0}")]
    Broken(String),
}

/// Called with the key and value of a row; breaks to stop.
pub type RowVisitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Where changes go. The notary is one; tests keep them in memory.
///
/// A sink holds the bucket's private rows too and commits both in one batch, so that the table is the fold of the changes
/// taken at any moment, also after a crash.
pub trait ChangeSink: Send + Sync {
    /// The number of the last change taken, 0 for none.
    ///
    /// # Errors
    /// [`SinkError::Broken`] when the store cannot be read.
    fn last_number(&self) -> Result<u64, SinkError>;

    /// Whether new work may begin; what is already done is submitted all the same.
    ///
    /// # Errors
    /// Why it may not.
    fn admits(&self) -> Result<(), SinkError>;

    /// Take `changes`, whose numbers follow [`ChangeSink::last_number`], and `rows`, all or none. Blocks while the sink
    /// is full.
    ///
    /// # Errors
    /// [`SinkError`]; nothing was taken then.
    fn submit(&self, changes: &[Change], rows: &[Row]) -> Result<(), SinkError>;

    /// The row under `key`.
    ///
    /// # Errors
    /// [`SinkError::Broken`] when the store cannot be read.
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SinkError>;

    /// Visit the rows whose keys start with `prefix`, in key order, until `visit` breaks.
    ///
    /// # Errors
    /// [`SinkError::Broken`] when the store cannot be read.
    fn rows(&self, prefix: &[u8], visit: RowVisitor<'_>) -> Result<(), SinkError>;

    /// Visit the paths touched by changes taken but not yet in a sealed block: after a power cut their data may be gone.
    ///
    /// # Errors
    /// [`SinkError::Broken`] when the store cannot be read.
    fn unsealed(&self, visit: &mut dyn FnMut(&BucketPath)) -> Result<(), SinkError>;
}
