//! No request of the kernel without an answer: a handler that panics has its program told EIO, and what has not been answered
//! for long can be asked for. A program whose request is never answered cannot even be killed.

use crate::meter;
use crate::vfs::Ino;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use parking_lot::Mutex;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A request that is being answered.
#[derive(Debug, Clone, Copy)]
pub struct Unanswered {
    /// The operation, as FUSE names it.
    pub operation: &'static str,
    /// The inode it is about.
    pub ino: Ino,
    /// The process that waits; 0 for the kernel itself.
    pub pid: u32,
    /// When it came.
    pub since: Instant,
}

/// How many requests there were of each kind, by FUSE's name.
pub type Requests = BTreeMap<&'static str, u64>;

/// What one thread is at, and what it has done.
#[derive(Debug, Default)]
struct Thread {
    now: Option<Unanswered>,
    /// Few kinds are ever asked for, the same ones again and again: searched from the front.
    done: Vec<(&'static str, u64)>,
}

type Slot = Arc<Mutex<Thread>>;

impl Thread {
    fn count(&mut self, operation: &'static str) {
        match self.done.iter_mut().find(|(known, _)| *known == operation) {
            Some((_, count)) => *count += 1,
            None => self.done.push((operation, 1)),
        }
    }
}

thread_local! {
    /// A thread answers one mount.
    static SLOT: OnceCell<Slot> = const { OnceCell::new() };
}

/// Sees what the threads of a mount are at.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Vec<Slot>>>);

impl Watch {
    /// The request that has been unanswered for the longest time, if that is at least `patience`.
    pub(super) fn oldest(&self, patience: Duration) -> Option<Unanswered> {
        let slots = self.0.lock();
        let at_work = slots.iter().filter_map(|slot| slot.lock().now);
        at_work.min_by_key(|request| request.since).filter(|request| request.since.elapsed() >= patience)
    }

    /// What the kernel has asked for since the mount was made.
    pub(super) fn requests(&self) -> Requests {
        let mut requests = Requests::new();
        for slot in self.0.lock().iter() {
            for (operation, count) in &slot.lock().done {
                *requests.entry(operation).or_default() += count;
            }
        }
        requests
    }

    fn slot(&self) -> Slot {
        let made = || {
            let slot = Slot::default();
            self.0.lock().push(slot.clone());
            slot
        };
        SLOT.with(|slot| slot.get_or_init(made).clone())
    }

    /// Do `act`, which answers a request, and be seen doing it.
    fn during(&self, operation: &'static str, ino: INodeNo, req: &Request, act: impl FnOnce()) {
        let slot = self.slot();
        let since = Instant::now();
        {
            let mut thread = slot.lock();
            thread.now = Some(Unanswered { operation, ino: Ino(ino.0), pid: req.pid(), since });
            thread.count(operation);
        }
        // Unwinding drops the reply, which is then EIO; the thread lives on to answer the next.
        let ended = catch_unwind(AssertUnwindSafe(act));
        slot.lock().now = None;
        meter::answered(operation, since.elapsed());
        if ended.is_err() {
            tracing::error!(operation, ino = ino.0, pid = req.pid(), "a request ended in a panic, its program got EIO");
        }
    }
}

/// A file system whose requests are watched.
pub(super) struct Watched<T> {
    pub(super) inner: T,
    pub(super) watch: Watch,
}

/// Pass the requests on, watched.
macro_rules! watched {
    ($($operation:ident($($arg:ident: $type:ty),*);)*) => {
        $(fn $operation(&self, req: &Request, ino: INodeNo, $($arg: $type),*) {
            self.watch.during(stringify!($operation), ino, req, || self.inner.$operation(req, ino, $($arg),*));
        })*
    };
}

impl<T: Filesystem> Filesystem for Watched<T> {
    fn init(&mut self, req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.inner.init(req, config)
    }

    fn destroy(&mut self) {
        self.inner.destroy();
    }

    // Nobody waits for an answer to this.
    fn forget(&self, req: &Request, ino: INodeNo, lookups: u64) {
        self.watch.slot().lock().count("forget");
        self.inner.forget(req, ino, lookups);
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
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        crtime: Option<SystemTime>,
        chgtime: Option<SystemTime>,
        bkuptime: Option<SystemTime>,
        flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.watch.during("setattr", ino, req, || {
            self.inner.setattr(
                req, ino, mode, uid, gid, size, atime, mtime, ctime, fh, crtime, chgtime, bkuptime, flags, reply,
            );
        });
    }

    watched! {
        lookup(name: &OsStr, reply: ReplyEntry);
        getattr(fh: Option<FileHandle>, reply: ReplyAttr);
        readlink(reply: ReplyData);
        mknod(name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry);
        mkdir(name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
        unlink(name: &OsStr, reply: ReplyEmpty);
        rmdir(name: &OsStr, reply: ReplyEmpty);
        symlink(link_name: &OsStr, target: &Path, reply: ReplyEntry);
        rename(name: &OsStr, newparent: INodeNo, newname: &OsStr, flags: RenameFlags, reply: ReplyEmpty);
        link(newparent: INodeNo, newname: &OsStr, reply: ReplyEntry);
        open(flags: OpenFlags, reply: ReplyOpen);
        read(fh: FileHandle, offset: u64, size: u32, flags: OpenFlags, owner: Option<LockOwner>, reply: ReplyData);
        write(
            fh: FileHandle, offset: u64, data: &[u8], write_flags: WriteFlags, flags: OpenFlags,
            owner: Option<LockOwner>, reply: ReplyWrite
        );
        flush(fh: FileHandle, owner: LockOwner, reply: ReplyEmpty);
        release(fh: FileHandle, flags: OpenFlags, owner: Option<LockOwner>, flush: bool, reply: ReplyEmpty);
        fsync(fh: FileHandle, datasync: bool, reply: ReplyEmpty);
        opendir(flags: OpenFlags, reply: ReplyOpen);
        readdir(fh: FileHandle, offset: u64, reply: ReplyDirectory);
        readdirplus(fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus);
        releasedir(fh: FileHandle, flags: OpenFlags, reply: ReplyEmpty);
        fsyncdir(fh: FileHandle, datasync: bool, reply: ReplyEmpty);
        statfs(reply: ReplyStatfs);
        setxattr(name: &OsStr, value: &[u8], flags: i32, position: u32, reply: ReplyEmpty);
        getxattr(name: &OsStr, size: u32, reply: ReplyXattr);
        listxattr(size: u32, reply: ReplyXattr);
        removexattr(name: &OsStr, reply: ReplyEmpty);
        access(mask: AccessFlags, reply: ReplyEmpty);
        create(name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate);
        fallocate(fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty);
        ioctl(fh: FileHandle, flags: IoctlFlags, cmd: u32, in_data: &[u8], out_size: u32, reply: ReplyIoctl);
        lseek(fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek);
        copy_file_range(
            fh_in: FileHandle, offset_in: u64, ino_out: INodeNo, fh_out: FileHandle, offset_out: u64, len: u64,
            flags: CopyFileRangeFlags, reply: ReplyWrite
        );
    }
}
