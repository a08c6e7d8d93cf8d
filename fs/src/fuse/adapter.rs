//! Translation between FUSE requests and [`Vfs`] calls. No decisions about files are made here.

use super::acl;
use super::convert::{NOTHING, caller, code, dir_flags, file_attr, file_type, open_flags, set_time, through_flags};
use super::passthrough::Way;
use super::replies::{Adapter, add_unknown, empty, shown, xattr};
use crate::stat::Kind;
use crate::vfs::{self, Attr, CopyRange, Fh, Ino, SetAttr};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, XattrFlags};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

/// Features asked of the kernel where it has them. Only what fuser 0.18.0 honours is in this list.
const WANTED: [InitFlags; 10] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
    // Without it each write asks for an extended attribute first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PASSTHROUGH,
    InitFlags::FUSE_DONT_MASK,
];

/// Largest write the kernel may send, bytes; it clamps this to its own limit.
const WRITE_BYTES_MAX: u32 = 1024 * 1024;

thread_local! {
    /// Reused by the reads of a worker thread.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Lists are for checks: with this the kernel checks, whatever the mount says.
        let lists = self.checked.then_some(InitFlags::FUSE_POSIX_ACL);
        for flag in WANTED.into_iter().chain(lists) {
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::debug!(?missing, "kernel without a feature");
            }
        }
        if let Err(limit) = config.set_max_write(WRITE_BYTES_MAX) {
            tracing::debug!(limit, "smaller writes");
        }
        // Files of this file system lie on the backing's, which must not be stacked on another itself.
        if let Err(limit) = config.set_max_stack_depth(1) {
            tracing::debug!(limit, "no passthrough");
        }
        if let Err(limit) = config.set_max_background(64) {
            tracing::debug!(limit, "fewer background requests");
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.vfs.lookup(Ino(parent.0), name) {
            // Number 0 lets the kernel remember that nothing is there.
            Err(error) if error.errno() == rustix::io::Errno::NOENT && self.trust.exclusive => {
                reply.entry(&self.trust.ttl, &NOTHING, Generation(0));
            }
            found => self.entry(found, reply),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.backings.forgotten(Ino(ino.0));
        self.listings.forgotten(Ino(ino.0));
        self.vfs.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(self.vfs.getattr(Ino(ino.0)), reply);
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = match (set_time(atime), set_time(mtime)) {
            (Ok(atime), Ok(mtime)) => (atime, mtime),
            (Err(error), _) | (_, Err(error)) => return reply.error(error),
        };
        let set = SetAttr { mode, uid, gid, size, atime, mtime };
        let fh = fh.map(|fh| Fh(fh.0));
        self.attr(self.vfs.setattr(Ino(ino.0), fh, set, caller(req)), reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.vfs.readlink(Ino(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(code(&error)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let mode = self.masked(parent, mode, umask);
        let made = self.vfs.mknod(Ino(parent.0), name, mode, u64::from(rdev), caller(req));
        self.entry(made, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mode = self.masked(parent, mode, umask);
        self.entry(self.vfs.mkdir(Ino(parent.0), name, mode, caller(req)), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.vfs.unlink(Ino(parent.0), name, caller(req)), reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.plain.forget();
        empty(self.vfs.rmdir(Ino(parent.0), name, caller(req)), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        self.entry(self.vfs.symlink(Ino(parent.0), link_name, target, caller(req)), reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.plain.forget();
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let (from, to) = ((Ino(parent.0), name), (Ino(newparent.0), newname));
        empty(self.vfs.rename(from, to, flags, caller(req)), reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.entry(self.vfs.link(Ino(ino.0), Ino(newparent.0), newname, caller(req)), reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let claim = match self.running.claim(Ino(ino.0), flags.0) {
            Ok(claim) => claim,
            Err(error) => return reply.error(error),
        };
        let opened = match self.vfs.open(Ino(ino.0), flags.0, caller(req)) {
            Ok(opened) => opened,
            Err(error) => return reply.error(code(&error)),
        };
        let (fh, answer) = (FileHandle(opened.fh.0), open_flags(&self.trust, flags.0));
        let way = self.way(Ino(ino.0), &opened, |fd| reply.open_backing(fd));
        if way.is_ok() {
            claim.opened();
        }
        match way.as_ref().map(Option::as_deref) {
            Ok(Some(Way::Through(id))) => reply.opened_passthrough(fh, through_flags(&self.trust, flags.0), id),
            Ok(Some(Way::Asking) | None) => reply.opened(fh, answer),
            Err(error) => reply.error(*error),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.vfs.read(Fh(fh.0), offset, &mut buffer[..size]) {
                Ok(read) => reply.data(&buffer[..read]),
                Err(error) => reply.error(code(&error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let drop_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.vfs.write(Fh(fh.0), offset, data, drop_set_id) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(code(&error)),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        empty(self.vfs.flush(Fh(fh.0)), reply);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.running.released(Ino(ino.0), flags.0);
        self.backings.closed(Fh(fh.0));
        self.vfs.release(Fh(fh.0));
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        empty(self.vfs.fsync(Fh(fh.0), datasync), reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.trust.exclusive {
            // From now on the kernel opens directories itself, and keeps what it has read of them.
            return reply.error(Errno::ENOSYS);
        }
        match self.vfs.opendir(Ino(ino.0)) {
            Ok(fh) => reply.opened(FileHandle(fh.0), dir_flags(&self.trust)),
            Err(error) => reply.error(code(&error)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.entries(Ino(ino.0), Fh(fh.0), offset, &mut |entry| {
            let kind = entry.kind.map_or(FileType::RegularFile, file_type);
            shown(reply.add(INodeNo(entry.ino), entry.next, kind, entry.name))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(&error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let read = self.entries(Ino(ino.0), Fh(fh.0), offset, &mut |entry| {
            let looked_up = entry.name != "." && entry.name != "..";
            let attr = if looked_up { self.vfs.lookup(Ino(ino.0), entry.name) } else { self.vfs.getattr(Ino(ino.0)) };
            let attr = match attr {
                Ok(attr) => attr,
                // Gone since the listing was made: nothing to show.
                Err(error) if error.errno() == rustix::io::Errno::NOENT => return ControlFlow::Continue(()),
                Err(_) => return shown(add_unknown(&mut reply, &entry)),
            };
            let (file, generation) = (file_attr(&attr), Generation(attr.generation));
            let number = INodeNo(if looked_up { attr.ino.0 } else { entry.ino });
            let full = reply.add(number, entry.next, entry.name, &self.trust.ttl, &file, generation);
            if full && looked_up {
                self.vfs.forget(attr.ino, 1);
            }
            shown(full)
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(&error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.vfs.releasedir(Fh(fh.0));
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        if !self.trust.exclusive {
            return empty(self.vfs.fsyncdir(Fh(fh.0)), reply);
        }
        let synced = self.vfs.opendir(Ino(ino.0)).and_then(|fh| {
            let synced = self.vfs.fsyncdir(fh);
            self.vfs.releasedir(fh);
            synced
        });
        empty(synced, reply);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.vfs.statfs(Ino(ino.0)) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(code(&error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.plain.forget();
        let flags = XattrFlags::from_bits_retain(flags as u32);
        let set = self.vfs.setxattr(Ino(ino.0), name, value, flags);
        empty(set.and_then(|()| acl::was_set(&*self.vfs, Ino(ino.0), name, caller(req))), reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(acl::answer(name, self.vfs.getxattr(Ino(ino.0), name)), size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(self.vfs.listxattr(Ino(ino.0)), size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.plain.forget();
        empty(self.vfs.removexattr(Ino(ino.0), name), reply);
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // Asked where the kernel checks nothing itself: of root, who may do all but run what is no program.
        let allowed = self.vfs.getattr(Ino(ino.0)).and_then(|Attr { stat, .. }| {
            let runs = stat.kind != Kind::File || stat.mode & 0o111 != 0;
            if mask.contains(AccessFlags::X_OK) && !runs { Err(rustix::io::Errno::ACCESS.into()) } else { Ok(()) }
        });
        empty(allowed, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = self.masked(parent, mode, umask);
        let (attr, opened) = match self.vfs.create(Ino(parent.0), name, mode, flags, caller(req)) {
            Ok(made) => made,
            Err(error) => return reply.error(code(&error)),
        };
        let (fh, answer) = (FileHandle(opened.fh.0), open_flags(&self.trust, flags));
        let (ttl, file, generation) = (&self.trust.ttl, file_attr(&attr), Generation(attr.generation));
        let way = self.way(attr.ino, &opened, |fd| reply.open_backing(fd));
        match way.as_ref().map(Option::as_deref) {
            Ok(Some(Way::Through(id))) => {
                let answer = through_flags(&self.trust, flags);
                reply.created_passthrough(ttl, &file, generation, fh, answer, id);
            }
            Ok(Some(Way::Asking) | None) => reply.created(ttl, &file, generation, fh, answer),
            Err(error) => {
                // The kernel holds no lookup of what it was not told of.
                self.vfs.forget(attr.ino, 1);
                reply.error(*error);
            }
        }
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        empty(self.vfs.fallocate(Fh(fh.0), mode, offset, length), reply);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // Said here because programs ask every file whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.vfs.lseek(Fh(fh.0), offset, whence) {
            Ok(at) => reply.offset(at),
            Err(error) => reply.error(code(&error)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let range = CopyRange { from: (vfs::Fh(fh_in.0), offset_in), to: (vfs::Fh(fh_out.0), offset_out), len };
        match self.vfs.copy_file_range(range) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(code(&error)),
        }
    }
}
