//! LoopbackFS: a directory as a bucket. Every operation goes by inode and directory descriptor, never by a path string.

mod attributes;
mod create;
mod data;
mod names;
mod rename;

use crate::bucket::Durability;
use crate::error::{FsError, FsResult};
use crate::handle::{DirHandle, FileHandle, HandleTable, open_backing};
use crate::inode::Node;
use crate::lease::{reopen, through_procfs};
use crate::listing;
use crate::recorder::Recorder;
use crate::stat::{Kind, Stat};
use crate::vfs::{Attr, Backing, Caller, CopyRange, Dirent, Fh, Ino, Opened, ReadFs, SetAttr, StatFs};
use rustix::fs::{FallocateFlags, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A directory served as a bucket, with what is done in it recorded.
#[derive(Debug)]
pub struct LoopbackFs {
    recorder: Arc<Recorder>,
    files: HandleTable<FileHandle>,
    dirs: HandleTable<DirHandle>,
}

impl LoopbackFs {
    /// Serve the directory `recorder` has as its root inode.
    pub fn new(recorder: Arc<Recorder>) -> Self {
        let (files, dirs) = (HandleTable::default(), HandleTable::default());
        Self { recorder, files, dirs }
    }

    /// From now on offer the kernel to read and write files itself, or do not. For before a mount is served: all open handles of
    /// a file must go one way.
    pub fn pass_through(&self, through: bool) {
        self.recorder.through.store(through, Ordering::Release);
    }

    fn passes_through(&self) -> bool {
        self.recorder.through.load(Ordering::Acquire)
    }

    fn node(&self, ino: Ino) -> FsResult<Arc<Node>> {
        self.recorder.inodes.get(ino)
    }

    fn attr(node: &Node, stat: Stat) -> Attr {
        Attr { ino: node.ino, stat, generation: node.generation() }
    }

    /// The node at `name`, with a lookup given to the kernel.
    fn entry(&self, parent: &Arc<Node>, name: &OsStr) -> FsResult<Attr> {
        let (node, stat) = self.recorder.inodes.open_name(parent, name)?;
        self.recorder.inodes.hold(&node);
        Ok(Self::attr(&node, stat))
    }

    fn open_file(&self, node: &Arc<Node>, flags: i32, who: Caller) -> FsResult<Opened> {
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let truncates = flags & libc::O_TRUNC != 0;
        let writes = writable || truncates;
        if writes {
            let stat = if self.passes_through() { Some(node.stat()?) } else { None };
            // The kernel does not look at that when it opens the file itself.
            if stat.is_some_and(|stat| !stat.fixed.allows(flags)) {
                return Err(Errno::PERM.into());
            }
            self.recorder.begin_write(node, truncates, who)?;
            node.writing.lock().moves_unseen |=
                stat.is_some_and(|stat| stat.mode & (libc::S_ISUID | libc::S_ISGID) != 0);
        }
        let opened = self.open_or_offer(node, flags, truncates && who.uid != 0);
        if writes && (!writable || opened.is_err()) {
            self.recorder.end_write(node, false);
        }
        opened
    }

    /// Open the backing file, unless the kernel is to do that and nothing is to be done before.
    fn open_or_offer(&self, node: &Arc<Node>, flags: i32, drops_set_id: bool) -> FsResult<Opened> {
        let through = self.passes_through();
        if through && flags & libc::O_TRUNC == 0 {
            return self.opened(node, None, flags);
        }
        let file = open_backing(node, flags)?;
        if drops_set_id {
            drop_set_id(&file)?;
        }
        self.opened(node, (!through).then_some(file), flags)
    }

    fn opened(&self, node: &Arc<Node>, file: Option<std::fs::File>, flags: i32) -> FsResult<Opened> {
        let through = self.passes_through();
        if through && flags & libc::O_ACCMODE == libc::O_RDWR {
            node.writing.lock().moves_unseen = true;
        }
        let backing = if through { Some(Backing { fd: node.fd()?, generation: node.generation() }) } else { None };
        let file = file.map_or_else(OnceLock::new, OnceLock::from);
        let handle = FileHandle { node: node.clone(), file, flags, flushed: AtomicBool::new(false) };
        Ok(Opened { fh: self.files.insert(handle), backing })
    }
}

impl ReadFs for LoopbackFs {
    fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        self.entry(&self.node(parent)?, name)
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        self.recorder.inodes.forget(ino, lookups);
    }

    fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        let node = self.node(ino)?;
        let stat = node.stat()?;
        Ok(Self::attr(&node, stat))
    }

    fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let fd = self.node(ino)?.fd()?;
        Ok(rustix::fs::readlinkat(&*fd, "", Vec::new())?.into_bytes())
    }

    fn open(&self, ino: Ino, flags: i32, who: Caller) -> FsResult<Opened> {
        self.open_file(&self.node(ino)?, flags, who)
    }

    fn read(&self, fh: Fh, offset: u64, buf: &mut [u8]) -> FsResult<usize> {
        let handle = self.files.get(fh)?;
        let file = handle.file()?;
        let mut done = 0;
        while done < buf.len() {
            match file.read_at(&mut buf[done..], offset + done as u64)? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }

    fn flush(&self, fh: Fh) -> FsResult<()> {
        self.flushed(&*self.files.get(fh)?)
    }

    fn release(&self, fh: Fh) {
        if let Some(handle) = self.files.remove(fh) {
            self.released(handle);
        }
    }

    fn lseek(&self, fh: Fh, offset: i64, whence: i32) -> FsResult<i64> {
        let handle = self.files.get(fh)?;
        let file = handle.file()?;
        // SAFETY: plain lseek on an open descriptor; reads and writes here are positioned and do not use its offset.
        let at = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
        if at < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(at)
    }

    fn opendir(&self, ino: Ino) -> FsResult<Fh> {
        let node = self.node(ino)?;
        Ok(self.dirs.insert(DirHandle { node, entries: parking_lot::Mutex::new(None) }))
    }

    fn readdir(&self, fh: Fh, from: u64, visit: &mut dyn FnMut(Dirent<'_>) -> ControlFlow<()>) -> FsResult<()> {
        let handle = self.dirs.get(fh)?;
        let mut entries = handle.entries.lock();
        // From the start again after a rewind: a new look at the directory.
        if from == 0 {
            *entries = None;
        }
        let listed = match &mut *entries {
            Some(listed) => listed,
            none => none.insert(listing::entries(handle.node.open(OFlags::RDONLY | OFlags::DIRECTORY)?)?),
        };
        let start = usize::try_from(from).map_err(|_| Errno::INVAL)?;
        for (at, entry) in listed.iter().enumerate().skip(start) {
            let dirent = Dirent { ino: entry.ino, next: at as u64 + 1, kind: entry.kind, name: &entry.name };
            if visit(dirent).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn releasedir(&self, fh: Fh) {
        self.dirs.remove(fh);
    }

    fn statfs(&self, ino: Ino) -> FsResult<StatFs> {
        let fd = self.node(ino)?.fd()?;
        Ok(rustix::fs::fstatvfs(&*fd)?)
    }

    fn getxattr(&self, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>> {
        through_procfs(self.node(ino)?.fd()?, |path| grow(|buf| rustix::fs::getxattr(path, name, buf)))
    }

    fn listxattr(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let node = self.node(ino)?;
        if node.kind == Kind::Symlink {
            return Ok(Vec::new());
        }
        through_procfs(node.fd()?, |path| grow(|buf| rustix::fs::listxattr(path, buf)))
    }
}

/// Call `read` with ever larger buffers until the answer fits.
fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> FsResult<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer = vec![0; buffer.len() * 4],
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl LoopbackFs {
    fn dir_fd(&self, fh: Fh) -> FsResult<Arc<OwnedFd>> {
        self.dirs.get(fh)?.node.fd()
    }

    fn released(&self, handle: Arc<FileHandle>) {
        let Ok(handle) = Arc::try_unwrap(handle) else {
            tracing::error!("a file was released while in use");
            return;
        };
        let (writable, flushed) = (handle.writable(), handle.flushed.load(Ordering::Acquire));
        // The backing descriptor first: it would refuse the lease.
        drop(handle.file);
        if writable {
            self.recorder.end_write(&handle.node, flushed);
        }
    }
}

/// Take the set-user-id bit away, and the set-group-id bit of a file its group may execute: what the kernel does to a file
/// that is written by somebody without the privilege to keep them. The node has that privilege.
fn drop_set_id(file: &std::fs::File) -> FsResult<()> {
    let mode = Stat::of_fd(file)?.mode;
    let mut kept = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        kept &= !libc::S_ISGID;
    }
    if kept != mode {
        rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(kept))?;
    }
    Ok(())
}

/// An operation on something that is not there any more for this bucket.
fn not_supported(what: &str) -> FsError {
    FsError::os(what, Errno::OPNOTSUPP)
}

impl crate::vfs::Vfs for LoopbackFs {
    fn create(&self, parent: Ino, name: &OsStr, mode: u32, flags: i32, who: Caller) -> FsResult<(Attr, Opened)> {
        self.create_file(parent, name, mode, flags, who)
    }

    fn mknod(&self, parent: Ino, name: &OsStr, mode: u32, rdev: u64, who: Caller) -> FsResult<Attr> {
        self.make_node(parent, name, mode, rdev, who)
    }

    fn mkdir(&self, parent: Ino, name: &OsStr, mode: u32, who: Caller) -> FsResult<Attr> {
        self.make_dir(parent, name, mode, who)
    }

    fn symlink(&self, parent: Ino, name: &OsStr, target: &[u8], who: Caller) -> FsResult<Attr> {
        self.make_symlink(parent, name, target, who)
    }

    fn link(&self, ino: Ino, parent: Ino, name: &OsStr, who: Caller) -> FsResult<Attr> {
        self.make_link(ino, parent, name, who)
    }

    fn unlink(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.remove_name(parent, name, who)
    }

    fn rmdir(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.remove_dir(parent, name, who)
    }

    fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr), flags: RenameFlags, who: Caller) -> FsResult<()> {
        self.rename_name(from, to, flags, who)
    }

    fn setattr(&self, ino: Ino, fh: Option<Fh>, set: SetAttr, who: Caller) -> FsResult<Attr> {
        self.set_attributes(ino, fh, set, who)
    }

    fn write(&self, fh: Fh, offset: u64, data: &[u8], drop_set_id: bool) -> FsResult<usize> {
        self.write_at(fh, offset, data, drop_set_id)
    }

    fn fsync(&self, fh: Fh, data_only: bool) -> FsResult<()> {
        self.sync_file(fh, data_only)
    }

    fn fsyncdir(&self, fh: Fh) -> FsResult<()> {
        let dir = reopen(self.dir_fd(fh)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
        dir.sync_all()?;
        self.recorder.intents.sync()?;
        if self.recorder.durability == Durability::Strict {
            // Every change of names has its number when the operation returns.
            self.recorder.stream.wait(self.recorder.stream.last())?;
        }
        Ok(())
    }

    fn fallocate(&self, fh: Fh, mode: FallocateFlags, offset: u64, len: u64) -> FsResult<()> {
        self.allocate(fh, mode, offset, len)
    }

    fn copy_file_range(&self, range: CopyRange) -> FsResult<usize> {
        self.copy(range)
    }

    fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: XattrFlags) -> FsResult<()> {
        self.set_xattr(ino, name, value, flags)
    }

    fn removexattr(&self, ino: Ino, name: &OsStr) -> FsResult<()> {
        self.remove_xattr(ino, name)
    }
}
