//! What answers to the kernel have in common: from a result of the [`Vfs`] to a reply of fuser.

use super::acl;
use super::convert::{NOTHING, code, file_attr, file_type};
use super::listings::Listings;
use super::passthrough::{Backings, Way};
use super::running::Running;
use crate::error::FsResult;
use crate::vfs::{Attr, Dirent, Fh, Ino, Opened, Trust, Vfs};
use fuser::{
    BackingId, Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyXattr,
};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A [`Vfs`] as fuser wants it.
pub(super) struct Adapter {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) trust: Trust,
    /// The kernel checks permissions.
    pub(super) checked: bool,
    pub(super) backings: Backings,
    pub(super) listings: Listings,
    pub(super) running: Running,
    pub(super) plain: acl::Plain,
}

impl Adapter {
    pub(super) fn entry(&self, result: FsResult<Attr>, reply: ReplyEntry) {
        match result {
            Ok(attr) => {
                let generation = Generation(attr.generation);
                reply.entry(&self.trust.ttl, &file_attr(&attr), generation);
            }
            Err(error) => reply.error(code(&error)),
        }
    }

    /// How a handle that is about to be opened is served; `None` when the vfs offers no backing file.
    pub(super) fn way(
        &self,
        ino: Ino,
        opened: &Opened,
        register: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
    ) -> Result<Option<Arc<Way>>, Errno> {
        let Some(backing) = &opened.backing else { return Ok(None) };
        match self.backings.opened(ino, opened.fh, backing, register) {
            Ok(way) => Ok(Some(way)),
            Err(error) => {
                self.vfs.release(opened.fh);
                Err(Errno::from(error))
            }
        }
    }

    /// The entries of a directory behind `offset`, opened as `fh` or by the kernel itself.
    pub(super) fn entries(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        visit: &mut dyn FnMut(Dirent<'_>) -> ControlFlow<()>,
    ) -> FsResult<()> {
        if !self.trust.exclusive {
            return self.vfs.readdir(fh, offset, visit);
        }
        let (listing, start) = self.listings.behind(&*self.vfs, ino, offset)?;
        for entry in &listing[start..] {
            if visit(Dirent { ino: entry.ino, next: entry.position, kind: entry.kind, name: &entry.name }).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Permission bits with which `req` makes something in `parent`.
    pub(super) fn masked(&self, parent: INodeNo, mode: u32, umask: u32) -> u32 {
        acl::masked(&*self.vfs, self.trust.exclusive.then_some(&self.plain), Ino(parent.0), mode, umask)
    }

    pub(super) fn attr(&self, result: FsResult<Attr>, reply: ReplyAttr) {
        match result {
            Ok(attr) => reply.attr(&self.trust.ttl, &file_attr(&attr)),
            Err(error) => reply.error(code(&error)),
        }
    }
}

/// Whether to go on after an entry of a listing: not when that found no room.
pub(super) fn shown(full: bool) -> ControlFlow<()> {
    if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Show a name whose attributes cannot be had; whoever asks for them is told why. The kernel shows the name and takes no file with
/// so many bytes, which it gives back at once by a number that none has.
pub(super) fn add_unknown(reply: &mut ReplyDirectoryPlus, entry: &Dirent<'_>) -> bool {
    let number = INodeNo(entry.ino | 1 << 63);
    let kind = entry.kind.map_or(FileType::RegularFile, file_type);
    let unknown = FileAttr { ino: number, kind, size: u64::MAX, ..NOTHING };
    reply.add(number, entry.next, entry.name, &Duration::ZERO, &unknown, Generation(0))
}

pub(super) fn empty(result: FsResult<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(code(&error)),
    }
}

pub(super) fn xattr(result: FsResult<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(code(&error)),
    }
}
