//! What a bucket kind must do for the kernel. Names are the FUSE operations; semantics are in docs/SEMANTICS.md.
//!
//! No method has a default body: a kind that forgets one does not compile, instead of answering "success" for it.

use crate::error::FsResult;
use crate::stat::Stat;
use rustix::fs::{FallocateFlags, RenameFlags, XattrFlags};
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// An inode number as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of a mount.
    pub const ROOT: Self = Self(1);
}

/// An open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User of new files.
    pub uid: u32,
    /// Group of new files.
    pub gid: u32,
    /// Process, for the intent; 0 for the node itself.
    pub pid: u32,
}

/// Attributes of an inode.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// What the backing says of it.
    pub stat: Stat,
    /// Tells two files apart that had the same number one after the other.
    pub generation: u64,
}

/// A directory entry.
#[derive(Debug, Clone, Copy)]
pub struct Dirent<'a> {
    /// Inode number, for `d_ino`.
    pub ino: u64,
    /// Where a later `readdir` goes on after this entry.
    pub next: u64,
    /// File type as in `d_type`, `None` when unknown.
    pub kind: Option<crate::stat::Kind>,
    /// Name.
    pub name: &'a OsStr,
}

/// An opened file.
#[derive(Debug)]
pub struct Opened {
    /// Its handle.
    pub fh: Fh,
    /// Where the kernel may read and write the backing file without asking (passthrough).
    pub backing: Option<Backing>,
}

/// A backing file for the kernel.
#[derive(Debug)]
pub struct Backing {
    /// `O_PATH` descriptor.
    pub fd: Arc<OwnedFd>,
    /// As [`Attr::generation`].
    pub generation: u64,
}

/// What the kernel may keep and need not ask again.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// How long attributes and names.
    pub ttl: Duration,
    /// Also absent names and listings: nobody else works in the backing.
    pub exclusive: bool,
    /// Nothing is done at a `close`, so it need not be told of one.
    pub close_is_silent: bool,
    /// Also contents, from one open to the next: they never change.
    pub immutable: bool,
}

/// The kernel's side of a mount: what it keeps, and must be told of when it changed by other ways than the mount.
pub trait Kernel: std::fmt::Debug + Send + Sync {
    /// What is at `name` in `dir` is not what it was.
    fn name_changed(&self, dir: Ino, name: &OsStr);
    /// The attributes of `ino` are not what they were.
    fn attributes_changed(&self, ino: Ino);
    /// Whether a `close` may be on its way that a program has returned from: requests are waiting.
    fn is_busy(&self) -> bool;
}

/// New attributes; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
}

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum SetTime {
    /// The moment of the call.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// Space of the backing, as `statvfs` gives it.
pub type StatFs = rustix::fs::StatVfs;

/// Both ends of a `copy_file_range`.
#[derive(Debug, Clone, Copy)]
pub struct CopyRange {
    /// Source and offset in bytes.
    pub from: (Fh, u64),
    /// Destination and offset in bytes.
    pub to: (Fh, u64),
    /// Bytes to copy at most.
    pub len: u64,
}

/// What every bucket kind can do.
pub trait ReadFs: Send + Sync {
    /// Find `name`; the kernel holds one more lookup of the result.
    fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr>;
    /// The kernel gives `lookups` back.
    fn forget(&self, ino: Ino, lookups: u64);
    /// Attributes.
    fn getattr(&self, ino: Ino) -> FsResult<Attr>;
    /// Target of a symbolic link.
    fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>>;
    /// Open with the caller's `O_*` flags; writable where the kind allows it.
    fn open(&self, ino: Ino, flags: i32, who: Caller) -> FsResult<Opened>;
    /// Read at `offset`; fewer bytes than asked only at the end of the file.
    fn read(&self, fh: Fh, offset: u64, buf: &mut [u8]) -> FsResult<usize>;
    /// A `close` of one descriptor; its error reaches the program.
    fn flush(&self, fh: Fh) -> FsResult<()>;
    /// The last `close`; asynchronous to the program.
    fn release(&self, fh: Fh);
    /// Next data or hole.
    fn lseek(&self, fh: Fh, offset: i64, whence: i32) -> FsResult<i64>;
    /// Open a directory.
    fn opendir(&self, ino: Ino) -> FsResult<Fh>;
    /// Visit entries from position `from` on until `visit` breaks.
    fn readdir(&self, fh: Fh, from: u64, visit: &mut dyn FnMut(Dirent<'_>) -> ControlFlow<()>) -> FsResult<()>;
    /// Close a directory.
    fn releasedir(&self, fh: Fh);
    /// Space.
    fn statfs(&self, ino: Ino) -> FsResult<StatFs>;
    /// Value of an extended attribute.
    fn getxattr(&self, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>>;
    /// Names of the extended attributes, each ended by NUL.
    fn listxattr(&self, ino: Ino) -> FsResult<Vec<u8>>;
}

/// What a writable bucket adds.
pub trait Vfs: ReadFs {
    /// Create and open a file; opens an existing one unless `O_EXCL`.
    fn create(&self, parent: Ino, name: &OsStr, mode: u32, flags: i32, who: Caller) -> FsResult<(Attr, Opened)>;
    /// Make a regular or special file.
    fn mknod(&self, parent: Ino, name: &OsStr, mode: u32, rdev: u64, who: Caller) -> FsResult<Attr>;
    /// Make a directory.
    fn mkdir(&self, parent: Ino, name: &OsStr, mode: u32, who: Caller) -> FsResult<Attr>;
    /// Make a symbolic link.
    fn symlink(&self, parent: Ino, name: &OsStr, target: &[u8], who: Caller) -> FsResult<Attr>;
    /// Give an inode one more name.
    fn link(&self, ino: Ino, parent: Ino, name: &OsStr, who: Caller) -> FsResult<Attr>;
    /// Remove a name of anything but a directory.
    fn unlink(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()>;
    /// Remove an empty directory.
    fn rmdir(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()>;
    /// Move a name, replacing what is at the new one.
    fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr), flags: RenameFlags, who: Caller) -> FsResult<()>;
    /// Set attributes.
    fn setattr(&self, ino: Ino, fh: Option<Fh>, set: SetAttr, who: Caller) -> FsResult<Attr>;
    /// Write at `offset` (at the end for `O_APPEND`); `drop_set_id` takes the set-user-id and set-group-id bits away
    /// first, as the kernel asks for writers without the privilege to keep them.
    fn write(&self, fh: Fh, offset: u64, data: &[u8], drop_set_id: bool) -> FsResult<usize>;
    /// Content to the disk, and what the durability of the mount adds.
    fn fsync(&self, fh: Fh, data_only: bool) -> FsResult<()>;
    /// A directory's names to the disk.
    fn fsyncdir(&self, fh: Fh) -> FsResult<()>;
    /// Reserve, punch, zero, collapse.
    fn fallocate(&self, fh: Fh, mode: FallocateFlags, offset: u64, len: u64) -> FsResult<()>;
    /// Copy inside the backing.
    fn copy_file_range(&self, range: CopyRange) -> FsResult<usize>;
    /// Set an extended attribute.
    fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: XattrFlags) -> FsResult<()>;
    /// Remove an extended attribute.
    fn removexattr(&self, ino: Ino, name: &OsStr) -> FsResult<()>;
}
