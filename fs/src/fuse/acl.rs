//! POSIX access control lists. The backing keeps them, the kernel checks them; what FUSE leaves to the daemon is here.

use crate::error::FsResult;
use crate::vfs::{Attr, Caller, Ino, SetAttr, Vfs};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::ffi::OsStr;

/// The list of a file, as an extended attribute.
const ACCESS: &str = "system.posix_acl_access";
/// The list a directory gives to what is made in it.
const DEFAULT: &str = "system.posix_acl_default";

/// The directory that was last seen to have no default list: many files are made in one directory after the other.
#[derive(Debug, Default)]
pub(super) struct Plain(Mutex<Option<Ino>>);

impl Plain {
    /// Lists may have changed, or a directory gone whose number another one gets.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }
}

/// Permission bits with which something is made in `parent`. The caller's mask counts unless a default list takes its place;
/// the backing applies that one. `plain` is for a backing in which nobody else sets lists.
pub(super) fn masked(vfs: &dyn Vfs, plain: Option<&Plain>, parent: Ino, mode: u32, umask: u32) -> u32 {
    if mode & umask == 0 {
        return mode;
    }
    if plain.is_some_and(|plain| *plain.0.lock() == Some(parent)) {
        return mode & !umask;
    }
    if vfs.getxattr(parent, OsStr::new(DEFAULT)).is_ok() {
        return mode;
    }
    if let Some(plain) = plain {
        *plain.0.lock() = Some(parent);
    }
    mode & !umask
}

/// An answer about the attribute `name`. On a backing without lists no file has one: the kernel would refuse every access to
/// a file whose list cannot be read.
pub(super) fn answer(name: &OsStr, value: FsResult<Vec<u8>>) -> FsResult<Vec<u8>> {
    match value {
        Err(error) if error.errno() == Errno::OPNOTSUPP && (name == ACCESS || name == DEFAULT) => {
            Err(Errno::NODATA.into())
        }
        value => value,
    }
}

/// After `who` has set the attribute `name`: a new list costs the set-group-id bit of a file whose group `who` is not in.
/// The kernel would say so in a form of the request that fuser 0.18.0 cannot read.
pub(super) fn was_set(vfs: &dyn Vfs, ino: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
    if name != ACCESS || who.uid == 0 {
        return Ok(());
    }
    let Attr { stat, .. } = vfs.getattr(ino)?;
    if stat.mode & libc::S_ISGID == 0 || is_member(who, stat.gid) {
        return Ok(());
    }
    let set = SetAttr { mode: Some(stat.mode & !libc::S_ISGID), ..SetAttr::default() };
    vfs.setattr(ino, None, set, who).map(drop)
}

fn is_member(who: Caller, gid: u32) -> bool {
    if who.gid == gid {
        return true;
    }
    // A process that cannot be seen from here has no further groups.
    let status = std::fs::read_to_string(format!("/proc/{}/status", who.pid)).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|group| group.parse() == Ok(gid))
}
