//! An archive that can be changed, and is a whole zip all the while.
//!
//! A change is a list of edits ([`Edits`]) that becomes true at one instant: [`Archive::commit`]. Until then, and for as
//! long as it takes, everybody who opens the archive sees what was there before. Reading goes on during a commit.

use crate::error::{FsError, FsResult};
use crate::path::BucketPath;
use crate::stat::Kind;
use rustix::io::Errno;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What names one content of a member for as long as it is in the archive, over commits, renames and restarts. A content
/// that is put has a new one, also under the same name.
///
/// Of a member that another program wrote and that lies where it did: the offset of its local header. Of every other it
/// is in the archive, in the extra field 0x7A57.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// What the central directory says of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Names its content.
    pub id: MemberId,
    /// Where it is shown; of directories without the `/` at the end.
    pub path: BucketPath,
    /// File, directory or symbolic link.
    pub kind: Kind,
    /// Bytes of content; of a symbolic link those of its target.
    pub size: u64,
    /// Bytes in the archive.
    pub packed: u64,
    /// CRC-32 of the content.
    pub crc: u32,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Of the content, when the archive has it (extra field 0x7A57).
    pub blake3: Option<[u8; 32]>,
}

/// Where the content of a new member comes from. It is read in [`Archive::commit`] and must not change before that
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
        /// Holds the new bytes at their places.
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
    /// What the content must hash to, when it is known. A commit fails when it does not. Without it the hash is computed,
    /// and stored either way (not for [`Source::Patched`], whose unchanged parts are not read).
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

/// How a commit was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing was to be done.
    Nothing,
    /// A whole new file in place of the old one.
    Rewrite,
    /// A copy that shares its blocks with the old file, changed and put in its place.
    Reflink,
    /// The new directory was appended to the file.
    Extend,
    /// The new directory was written before the old one, which was cut off.
    Shrink,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Bytes written, of content, headers, directory and commit record; bytes zeroed by making holes do not count.
    pub bytes_written: u64,
    /// How.
    pub strategy: Strategy,
    /// Bytes of the file now.
    pub length: u64,
    /// Bytes within it that belong to nothing.
    pub dead: u64,
    /// The new content of each [`Edit::Put`] and [`Edit::Symlink`] and [`Edit::Directory`], in their order; `None` of one
    /// that a later edit of the list took away.
    pub ids: Vec<Option<MemberId>>,
}

/// Something that [`Archive::check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The member, where it is one's.
    pub path: Option<BucketPath>,
    /// In a sentence.
    pub what: String,
}

/// An archive, open for reading and for changes. One process has it open at a time: whoever opens it holds the lock of
/// its bucket. Notes on an unfinished commit are kept in the folder `NAME.lzfs` beside it (`commit`, `rewrite`), which is
/// made when needed.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
}

impl Archive {
    /// Make an archive without members, durably. It belongs to whoever makes it, mode 0666 without the umask.
    ///
    /// # Errors
    /// `EEXIST` when something is there.
    pub fn create(path: &Path) -> FsResult<()> {
        Err(FsError::os(path.display().to_string(), Errno::OPNOTSUPP))
    }

    /// Open an archive and, when a commit was interrupted, bring it to an end: what is there afterwards is wholly the old
    /// or the new.
    ///
    /// # Errors
    /// [`FsError::Archive`] when it is none, or one that cannot be changed without loss.
    pub fn open(path: &Path) -> FsResult<Self> {
        Ok(Self { path: path.to_owned() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Show every member, in the order of the central directory, until `visit` breaks.
    ///
    /// # Errors
    /// What reading the directory answers.
    pub fn members(&self, visit: &mut dyn FnMut(MemberInfo) -> std::ops::ControlFlow<()>) -> FsResult<()> {
        let _ = visit;
        Ok(())
    }

    /// What is known of one member, also of one that is only [pinned](Self::pin).
    pub fn member(&self, id: MemberId) -> Option<MemberInfo> {
        let _ = id;
        None
    }

    /// Content from `offset` on; answers how many bytes, 0 at the end. Big members are not unpacked from their beginning
    /// each time, memory is bounded. May be called by several threads, also during a commit.
    ///
    /// # Errors
    /// `ENOENT` for an unknown member; `EIO` for damaged content.
    pub fn read(&self, id: MemberId, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        let _ = (offset, out);
        Err(FsError::os(format!("member {}", id.0), Errno::NOENT))
    }

    /// All content in order to `take`, with the checks at its end.
    ///
    /// # Errors
    /// As [`Archive::read`]; what `take` answers.
    pub fn read_whole(&self, id: MemberId, take: &mut dyn FnMut(&[u8]) -> FsResult<()>) -> FsResult<()> {
        let _ = take;
        Err(FsError::os(format!("member {}", id.0), Errno::NOENT))
    }

    /// Keep a content readable while the [`Pin`] lives, whatever is committed: of an open file that is removed or
    /// replaced. Its bytes are zeroed when the last pin is gone, in the next commit.
    ///
    /// # Errors
    /// `ENOENT` for an unknown member.
    pub fn pin(&self, id: MemberId) -> FsResult<Pin> {
        Err(FsError::os(format!("member {}", id.0), Errno::NOENT))
    }

    /// Make `edits` true, durably: when this returns, they are in the archive. After an error nothing has changed.
    ///
    /// One commit at a time: others wait. Members that stay are readable meanwhile.
    ///
    /// # Errors
    /// `ENOSPC` and whatever else writing answers; `EINVAL` when an edit makes no sense, as a rename below itself; what
    /// reading the sources answers; [`FsError::Archive`] when the file was changed by somebody else.
    pub fn commit(&self, edits: &Edits) -> FsResult<Committed> {
        let _ = edits;
        Err(FsError::os(self.path.display().to_string(), Errno::OPNOTSUPP))
    }

    /// Rewrite the archive without holes, members in the order of the directory.
    ///
    /// # Errors
    /// As [`Archive::commit`].
    pub fn compact(&self) -> FsResult<Committed> {
        Err(FsError::os(self.path.display().to_string(), Errno::OPNOTSUPP))
    }

    /// Everything that is wrong with the archive: its form, and content that is not what its checksum or hash says.
    ///
    /// # Errors
    /// What reading the file answers.
    pub fn check(&self) -> FsResult<Vec<Problem>> {
        Ok(Vec::new())
    }
}

/// Keeps a content readable: see [`Archive::pin`].
#[derive(Debug)]
pub struct Pin {
    id: MemberId,
}

impl Pin {
    /// Of what.
    pub fn id(&self) -> MemberId {
        self.id
    }
}
