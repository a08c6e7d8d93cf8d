//! Directories and names of a bucket by path, mounted or not: made, removed, moved. For services that offer what a mount
//! does; recorded as what happens in a mount is.

use super::{Bucket, NODE};
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::path::BucketPath;
use crate::vfs::{ReadFs, Vfs};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::sync::Arc;

impl Bucket {
    /// Make the directory `path`, whose parent is there.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOTDIR`; the problem that keeps the ledger from taking it.
    pub fn make_dir(&self, path: &BucketPath, mode: u32) -> FsResult<()> {
        let (dir, name) = self.place_for(path)?;
        let made = self.fs.mkdir(dir.ino, name, mode, NODE).map_err(|e| told(path, e))?;
        // The attributes are held for a kernel, and there is none here.
        self.fs.forget(made.ino, 1);
        self.tell_kernel(&dir, name);
        self.recorder.stream.drain()
    }

    /// Remove the empty directory at `path`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`; the problem that keeps the ledger from taking it.
    pub fn remove_dir(&self, path: &BucketPath) -> FsResult<()> {
        let (dir, name) = self.place_for(path)?;
        self.fs.rmdir(dir.ino, name, NODE).map_err(|e| told(path, e))?;
        self.tell_kernel(&dir, name);
        self.recorder.stream.drain()
    }

    /// Move what is at `from` to `to`, replacing what may be replaced there.
    ///
    /// # Errors
    /// As rename(2); the problem that keeps the ledger from taking it.
    pub fn rename(&self, from: &BucketPath, to: &BucketPath) -> FsResult<()> {
        let (old, new) = (self.place_for(from)?, self.place_for(to)?);
        let moved = self.fs.rename((old.0.ino, old.1), (new.0.ino, new.1), RenameFlags::empty(), NODE);
        moved.map_err(|e| told(from, e))?;
        self.tell_kernel(&old.0, old.1);
        self.tell_kernel(&new.0, new.1);
        self.recorder.stream.drain()
    }

    /// The directory that holds the last name of `path`.
    fn place_for<'a>(&self, path: &'a BucketPath) -> FsResult<(Arc<Node>, &'a OsStr)> {
        self.admit_change(false)?;
        let (dir, name) = path.split_last().ok_or(Errno::BUSY)?;
        Ok((self.find(&dir)?.0, name))
    }
}

fn told(path: &BucketPath, error: FsError) -> FsError {
    match error {
        FsError::Os { errno, .. } => FsError::os(path.to_string(), errno),
        other => other,
    }
}
