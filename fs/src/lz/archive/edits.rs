//! What a commit is told to do.

use super::MemberId;
use crate::path::BucketPath;
use std::ops::Range;
use std::path::PathBuf;

/// Where the content of a new member comes from. It is read in [`Archive::commit`](super::Archive::commit) and must not change before that
/// returns: a file that has another size at the end than at the beginning fails the commit.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file; holes are read as zeros.
    File(PathBuf),
    /// The bytes themselves.
    Bytes(Vec<u8>),
    /// The content of a member of the archive with some parts replaced. Only the pieces that `dirty` touches are packed
    /// anew when the member was packed by this program.
    Patched {
        /// The member before.
        base: MemberId,
        /// Holds the new bytes at their places; all of the new content where its hash is given.
        file: PathBuf,
        /// Bytes of the new content that are read from `file`, ascending, not touching. What is beyond the end of the old
        /// content and not in here is zeros.
        dirty: Vec<Range<u64>>,
        /// Bytes of the new content.
        size: u64,
    },
}

/// A file to be put into the archive.
#[derive(Debug, Clone)]
pub struct NewMember {
    /// Where; what is there is replaced.
    pub path: BucketPath,
    /// Its content.
    pub source: Source,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// What the content must hash to, when it is known. A commit fails when it does not; of [`Source::Patched`] it must be
    /// that of `file`, and what is put together must have the checksum of that, so that unchanged parts need not be
    /// unpacked. Without it the hash is computed. It is stored either way.
    pub blake3: Option<[u8; 32]>,
}

/// One change. In a list each sees what those before it did.
#[derive(Debug, Clone)]
pub enum Edit {
    /// A file, new or replaced. Directories above it need no members of their own.
    Put(NewMember),
    /// A directory with a member of its own, new, or with another mode and time.
    Directory {
        /// Where.
        path: BucketPath,
        /// Permission bits.
        mode: u32,
        /// Last modification, nanoseconds since 1970.
        mtime_ns: i64,
    },
    /// A symbolic link, new or replaced.
    Symlink {
        /// Where.
        path: BucketPath,
        /// What it points to.
        target: Vec<u8>,
        /// Last modification, nanoseconds since 1970.
        mtime_ns: i64,
    },
    /// Take out the member with this path, if there is one, and nothing below it. A directory that has no member of its
    /// own is gone with the last member below it.
    Remove(BucketPath),
    /// Everything at and below `from` to `to`; a member that is at `to` is replaced, members below `to` are not.
    Rename {
        /// A member, a directory with or without a member of its own, or both.
        from: BucketPath,
        /// Its new path, not below `from`.
        to: BucketPath,
    },
    /// Mode and time of the member with this path.
    Attributes {
        /// Which.
        path: BucketPath,
        /// Permission bits.
        mode: u32,
        /// Last modification, nanoseconds since 1970.
        mtime_ns: i64,
    },
}

/// Edits in order, to become true together.
#[derive(Debug, Clone, Default)]
pub struct Edits(pub Vec<Edit>);
