//! Open files and directories.

use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::listing::Listed;
use crate::vfs::Fh;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An open regular file.
#[derive(Debug)]
pub struct FileHandle {
    /// The inode.
    pub node: Arc<Node>,
    /// The backing file, opened as the program opened it.
    pub file: File,
    /// Opened for writing.
    pub writable: bool,
    /// Flushed since its last write.
    pub flushed: AtomicBool,
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
