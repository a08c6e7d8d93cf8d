//! What the chain says is true now: entries, buckets, unspent outputs, author sequences.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::codec::Label;
use crate::hash::{BucketId, Hash, TxId};
use crate::transaction::{BucketKind, Cause, Content, Evidence};
use crate::wallet::PublicKey;

/// Names a directory for as long as it exists, however it is renamed. A bucket's root directory has the bucket's id;
/// any other SHA-256("wizefs dir v1\0" || txid || depth as u32 little-endian) of the transaction that made or implied it.
pub type DirectoryId = Hash;

/// What is recorded at a path.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// Format version.
    pub version: EntryVersion,
    /// The transaction that last set or moved this very entry; the next one's `prior`.
    pub txid: TxId,
    /// What it is.
    pub node: EntryNode,
}

/// Format version of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
pub enum EntryVersion {
    /// The only version so far.
    V1 = 1,
}

/// The kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum EntryNode {
    /// A file or symlink.
    Leaf(Leaf) = 0,
    /// A directory.
    Directory {
        /// Its lasting name.
        id: DirectoryId,
        /// Permission bits; none while only implied by what is in it.
        mode: Option<u32>,
    } = 1,
}

/// A file's or symlink's recorded state.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Leaf {
    /// The put or accept that recorded this content, when later ones only moved the entry; none when it is
    /// [`Entry::txid`].
    pub put: Option<TxId>,
    /// How that change came about; [`Cause::Foreign`] is not vouched for until accepted.
    pub cause: Cause,
    /// Content.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Owner when settled.
    pub uid: u32,
    /// Group when settled.
    pub gid: u32,
    /// Modification time when settled, nanoseconds since 1970 UTC.
    pub mtime_ns: i64,
    /// How it was known to be complete.
    pub evidence: Evidence,
}

impl Entry {
    /// The transaction that recorded the content (a directory: that last set or moved it).
    pub fn content_txid(&self) -> TxId {
        match &self.node {
            EntryNode::Leaf(Leaf { put: Some(put), .. }) => *put,
            _ => self.txid,
        }
    }

    /// The file or symlink, unless this is a directory.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.node {
            EntryNode::Leaf(leaf) => Some(leaf),
            EntryNode::Directory { .. } => None,
        }
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.leaf().is_none()
    }
}

/// What is recorded of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BucketRecord {
    /// Format version, as an entry's.
    pub version: EntryVersion,
    /// Name, unique among the open ones.
    pub name: Label,
    /// Kind of file system.
    pub kind: BucketKind,
    /// Who created it; only they may state changes in it.
    pub owner: PublicKey,
    /// Permission bits of the root directory, once stated.
    pub mode: Option<u32>,
    /// Whether it is deleted.
    pub closed: bool,
}

/// A bucket as a query returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket.
    pub id: BucketId,
    /// What is recorded of it.
    pub record: BucketRecord,
    /// What is in it.
    pub counts: Counts,
}

/// How much is recorded in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Counts {
    /// Files and symlinks.
    pub files: u64,
    /// Directories, the root not among them.
    pub directories: u64,
    /// Bytes in files.
    pub bytes: u64,
}
