//! Open files and directories.

use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::lease::reopen;
use crate::listing::Listed;
use crate::vfs::Fh;
use parking_lot::{Mutex, RwLock};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// An open regular file.
#[derive(Debug)]
pub struct FileHandle {
    /// The inode.
    pub node: Arc<Node>,
    /// The backing file; opened when it is needed, which is seldom when the kernel reads and writes itself.
    pub(crate) file: OnceLock<File>,
    /// The program's `O_*` flags.
    pub flags: i32,
    /// Flushed since its last write, as far as we see writes.
    pub flushed: AtomicBool,
}

impl FileHandle {
    /// Whether it was opened for writing.
    pub fn writable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// Whether a `close` of it has something to tell.
    pub fn changes(&self) -> bool {
        changes(self.flags)
    }

    /// The backing file, opened as the program opened its own.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn file(&self) -> FsResult<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = open_backing(&self.node, self.flags & !libc::O_TRUNC)?;
        Ok(self.file.get_or_init(|| opened))
    }
}

/// Flags of a program's `open` that make sense on the backing. `O_CREAT` and friends are ours; `O_DIRECT` would put the
/// backing's alignment on buffers that are ours too. Where an append goes the kernel has found out before it asks: with
/// `O_APPEND` the backing would append pages of a mapping too.
const PASSED_FLAGS: i32 = libc::O_ACCMODE | libc::O_TRUNC | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;

/// Whether an `open` with these flags may change the file, or makes it.
pub(crate) fn changes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0
}

/// Those of a program's `flags` that the backing is opened with.
pub(crate) fn passed(flags: i32) -> OFlags {
    OFlags::from_bits_retain((flags & PASSED_FLAGS) as u32)
}

/// Open the backing file of `node` as a program did.
///
/// # Errors
/// What the kernel answers.
pub(crate) fn open_backing(node: &Node, flags: i32) -> FsResult<File> {
    let (appends, flags) = (flags & libc::O_APPEND != 0, passed(flags) | OFlags::NOCTTY);
    match reopen(node.fd()?, flags) {
        // One that can only be appended to (`chattr +a`) is not opened otherwise.
        Err(error) if appends && error.errno() == Errno::PERM => reopen(node.fd()?, flags | OFlags::APPEND),
        opened => opened,
    }
}

/// An open directory: its entries as they were when reading began, so that positions stay true.
#[derive(Debug)]
pub struct DirHandle {
    /// The directory.
    pub node: Arc<Node>,
    /// Read at the first `readdir` and again after a rewind.
    pub entries: Mutex<Option<Vec<Listed>>>,
}

/// Handle number to open file or directory.
#[derive(Debug)]
pub struct HandleTable<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for HandleTable<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::new(HashMap::new()) }
    }
}

impl<T> HandleTable<T> {
    /// Give `handle` a number.
    pub fn insert(&self, handle: T) -> Fh {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, Arc::new(handle));
        Fh(number)
    }

    /// What has this number.
    ///
    /// # Errors
    /// `EBADF` for a number that is not open.
    pub fn get(&self, fh: Fh) -> FsResult<Arc<T>> {
        let open = self.open.read();
        open.get(&fh.0).cloned().ok_or_else(|| FsError::os("unknown handle", Errno::BADF))
    }

    /// Close a number.
    pub fn remove(&self, fh: Fh) -> Option<Arc<T>> {
        self.open.write().remove(&fh.0)
    }
}
