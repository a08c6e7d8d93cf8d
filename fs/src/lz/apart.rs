//! Members that nothing in the stage can stand for: a symbolic link without a target, a file longer than those of the disk.
//! They stay in the archive alone, and their names answer `EIO`.

use super::archive::MemberInfo;
use super::mark::Apart;
use super::stage::Stage;
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::stat::{Id, Kind};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Names of such members in a directory, each with its id.
pub(super) type Names = HashMap<Box<[u8]>, u64>;

impl Stage {
    /// Leave the member `info`, which `error` keeps from being at `name` in the directory `dir`, in the archive alone.
    ///
    /// # Errors
    /// The error, when it is not the member's.
    pub(super) fn leave_apart(
        &self,
        (fd, dir): (&OwnedFd, Id),
        name: &OsStr,
        info: &MemberInfo,
        error: FsError,
    ) -> FsResult<()> {
        let is_its = matches!(error.errno(), Errno::IO | Errno::NAMETOOLONG | Errno::FBIG | Errno::INVAL);
        if info.kind == Kind::Directory || !is_its {
            return Err(error);
        }
        tracing::warn!(path = %info.path, %error, "a member stays in the archive alone");
        match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut inodes = self.inodes.lock();
        let names = inodes.apart.entry(dir).or_default();
        names.insert(name.as_bytes().into(), info.id.0);
        Apart(names.values().copied().collect()).set(fd)
    }

    /// Whether the member at `name` in the directory `dir` is in the archive alone.
    pub(super) fn is_apart(&self, dir: Id, name: &[u8]) -> bool {
        self.inodes.lock().apart.get(&dir).is_some_and(|names| names.contains_key(name))
    }

    /// These members of the directory `dir` were left apart by an earlier session.
    pub(super) fn set_apart(&self, dir: Id, names: Names) {
        if !names.is_empty() {
            self.inodes.lock().apart.insert(dir, names);
        }
    }

    /// Before something is done at `name` in `dir`.
    ///
    /// # Errors
    /// `EIO` when the member there is in the archive alone.
    pub(super) fn expect_shown(&self, dir: &Node, name: &OsStr) -> FsResult<()> {
        if self.is_apart(dir.id, name.as_bytes()) {
            return Err(FsError::os("a member that cannot be shown", Errno::IO));
        }
        Ok(())
    }

    /// Before `dir` goes, which looks empty.
    ///
    /// # Errors
    /// `ENOTEMPTY` when it has members that are in the archive alone.
    pub(super) fn expect_empty(&self, dir: &Node) -> FsResult<()> {
        if self.inodes.lock().apart.contains_key(&dir.id) {
            return Err(FsError::os("a directory with members that cannot be shown", Errno::NOTEMPTY));
        }
        Ok(())
    }
}
