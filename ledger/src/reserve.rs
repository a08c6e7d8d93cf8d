//! Disk kept back, so that a full disk still takes what frees it: settling files and recording removes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Bytes kept back.
pub(crate) const RESERVE: u64 = 64 << 20;
/// Free bytes below which the reserve is released.
pub(crate) const LOW: u64 = 16 << 20;
/// Free bytes below which nothing is written any more: what the store's own background writes may need.
pub(crate) const FLOOR: u64 = 8 << 20;
/// Free bytes from which the reserve is made again: well above `RESERVE + LOW`, or it would come and go.
pub(crate) const PLENTY: u64 = RESERVE + 3 * LOW;

/// Bytes an unprivileged writer may still use on the disk of `path`; `None` when the system does not say.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    let stat = statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The reserve file of one ledger.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    /// Given to a disk that refused a write, until it can be made again.
    is_given: AtomicBool,
}

impl Reserve {
    /// The reserve in the ledger directory `dir`, made or not.
    pub(crate) fn new(dir: &Path) -> Reserve {
        Reserve { path: dir.join("reserve"), is_given: AtomicBool::new(false) }
    }

    /// Whether it is there and whole.
    pub(crate) fn is_held(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| meta.len() == RESERVE)
    }

    /// Whether its disk is large enough to keep that much back.
    pub(crate) fn fits(&self) -> bool {
        let size = self.path.parent().and_then(|dir| statvfs(dir).ok());
        size.is_some_and(|stat| stat.f_blocks.saturating_mul(stat.f_frsize) >= 4 * RESERVE)
    }

    /// Makes it when there is plenty of space with `free` bytes left; says whether it is there.
    pub(crate) fn hold(&self, free: u64) -> bool {
        self.is_held() || (free >= PLENTY && self.make().is_ok())
    }

    /// Gives its blocks back when the disk is low, with `free` bytes left; says whether it did.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn ease(&self, free: u64) -> io::Result<bool> {
        if free >= LOW || !self.is_held() {
            return Ok(false);
        }
        tracing::warn!(free, "disk nearly full: releasing the ledger's reserve");
        self.release().map(|()| true)
    }

    /// Gives its blocks to a disk that has refused a write, whatever it says of its free space: a quota counts otherwise.
    pub(crate) fn give(&self) {
        if !self.is_held() {
            return;
        }
        tracing::warn!("the disk takes no more: releasing the ledger's reserve");
        match self.release() {
            Ok(()) => self.is_given.store(true, Ordering::Release),
            Err(error) => tracing::warn!(%error, "cannot release the ledger's reserve"),
        }
    }

    /// Whether a disk that refused a write has it still.
    pub(crate) fn is_given(&self) -> bool {
        self.is_given.load(Ordering::Acquire)
    }

    /// Gives its blocks back to the disk.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn release(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Real blocks, not a hole; a half-made one is removed. Where a quota counts, free space says nothing of what may be had: that
    /// there is plenty beside it is tried.
    fn make(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        let made = fallocate(&file, FallocateFlags::empty(), 0, PLENTY).map_err(io::Error::from);
        if let Err(error) = made.and_then(|()| file.set_len(RESERVE)) {
            self.release()?;
            return Err(error);
        }
        self.is_given.store(false, Ordering::Release);
        Ok(())
    }
}
