//! A file system that can only be read, as one whose every change is refused.

use crate::error::FsResult;
use crate::vfs::{Attr, Caller, CopyRange, Dirent, Fh, Ino, Opened, ReadFs, SetAttr, StatFs, Vfs};
use rustix::fs::{FallocateFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::sync::Arc;

/// `EROFS` for whatever would change it.
#[derive(Debug)]
pub struct ReadOnly<T>(pub Arc<T>);

fn refused<T>() -> FsResult<T> {
    Err(Errno::ROFS.into())
}

impl<T: ReadFs> ReadFs for ReadOnly<T> {
    fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        self.0.lookup(parent, name)
    }
    fn forget(&self, ino: Ino, lookups: u64) {
        self.0.forget(ino, lookups);
    }
    fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        self.0.getattr(ino)
    }
    fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        self.0.readlink(ino)
    }
    fn open(&self, ino: Ino, flags: i32, who: Caller) -> FsResult<Opened> {
        self.0.open(ino, flags, who)
    }
    fn read(&self, fh: Fh, offset: u64, buf: &mut [u8]) -> FsResult<usize> {
        self.0.read(fh, offset, buf)
    }
    fn flush(&self, fh: Fh) -> FsResult<()> {
        self.0.flush(fh)
    }
    fn release(&self, fh: Fh) {
        self.0.release(fh);
    }
    fn lseek(&self, fh: Fh, offset: i64, whence: i32) -> FsResult<i64> {
        self.0.lseek(fh, offset, whence)
    }
    fn opendir(&self, ino: Ino) -> FsResult<Fh> {
        self.0.opendir(ino)
    }
    fn readdir(&self, fh: Fh, from: u64, visit: &mut dyn FnMut(Dirent<'_>) -> ControlFlow<()>) -> FsResult<()> {
        self.0.readdir(fh, from, visit)
    }
    fn releasedir(&self, fh: Fh) {
        self.0.releasedir(fh);
    }
    fn statfs(&self, ino: Ino) -> FsResult<StatFs> {
        self.0.statfs(ino)
    }
    fn getxattr(&self, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>> {
        self.0.getxattr(ino, name)
    }
    fn listxattr(&self, ino: Ino) -> FsResult<Vec<u8>> {
        self.0.listxattr(ino)
    }
}

impl<T: ReadFs> Vfs for ReadOnly<T> {
    fn create(&self, _: Ino, _: &OsStr, _: u32, _: i32, _: Caller) -> FsResult<(Attr, Opened)> {
        refused()
    }
    fn mknod(&self, _: Ino, _: &OsStr, _: u32, _: u64, _: Caller) -> FsResult<Attr> {
        refused()
    }
    fn mkdir(&self, _: Ino, _: &OsStr, _: u32, _: Caller) -> FsResult<Attr> {
        refused()
    }
    fn symlink(&self, _: Ino, _: &OsStr, _: &[u8], _: Caller) -> FsResult<Attr> {
        refused()
    }
    fn link(&self, _: Ino, _: Ino, _: &OsStr, _: Caller) -> FsResult<Attr> {
        refused()
    }
    fn unlink(&self, _: Ino, _: &OsStr, _: Caller) -> FsResult<()> {
        refused()
    }
    fn rmdir(&self, _: Ino, _: &OsStr, _: Caller) -> FsResult<()> {
        refused()
    }
    fn rename(&self, _: (Ino, &OsStr), _: (Ino, &OsStr), _: RenameFlags, _: Caller) -> FsResult<()> {
        refused()
    }
    fn setattr(&self, _: Ino, _: Option<Fh>, _: SetAttr, _: Caller) -> FsResult<Attr> {
        refused()
    }
    fn write(&self, _: Fh, _: u64, _: &[u8], _: bool) -> FsResult<usize> {
        refused()
    }
    fn fsync(&self, _: Fh, _: bool) -> FsResult<()> {
        Ok(())
    }
    fn fsyncdir(&self, _: Fh) -> FsResult<()> {
        Ok(())
    }
    fn fallocate(&self, _: Fh, _: FallocateFlags, _: u64, _: u64) -> FsResult<()> {
        refused()
    }
    fn copy_file_range(&self, _: CopyRange) -> FsResult<usize> {
        refused()
    }
    fn setxattr(&self, _: Ino, _: &OsStr, _: &[u8], _: XattrFlags) -> FsResult<()> {
        refused()
    }
    fn removexattr(&self, _: Ino, _: &OsStr) -> FsResult<()> {
        refused()
    }
}
