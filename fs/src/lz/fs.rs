//! An archive as a file system: the loopback file system on the stage, with directories filled before they are looked into,
//! and hollow files read from the archive or filled before they are written.

mod opening;

use super::limits::Reach;
use super::patch::BIG;
use super::stage::Stage;
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::loopback::LoopbackFs;
use crate::stat::Kind;
use crate::stream::now_us;
use crate::vfs::{Attr, Caller, CopyRange, Dirent, Fh, Ino, Opened, ReadFs, SetAttr, SetTime, StatFs, Vfs};
use opening::{Asking, Handle, OURS};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FileType, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Bytes copied at once from one file to another.
const COPY_BYTES: u64 = 1024 * 1024;

/// An archive that programs read and write as a folder.
#[derive(Debug)]
pub struct LzFs {
    inner: Arc<LoopbackFs>,
    stage: Arc<Stage>,
    next: AtomicU64,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    /// Handles of the stage that the kernel asks us about because others of the same file were open so.
    kept_asking: Mutex<HashMap<u64, Asking>>,
}

impl LzFs {
    pub(super) fn new(inner: Arc<LoopbackFs>, stage: Arc<Stage>) -> Self {
        let (next, handles, kept_asking) = (AtomicU64::new(1), Mutex::default(), Mutex::default());
        Self { inner, stage, next, handles, kept_asking }
    }

    fn node(&self, ino: Ino) -> FsResult<Arc<Node>> {
        self.stage.recorder()?.inodes.get(ino)
    }

    /// Fill the directory `ino` if that has not been done.
    fn look_into(&self, ino: Ino) -> FsResult<()> {
        self.stage.look_into(&self.node(ino)?)
    }

    /// The same for the directory that may be at `name`: it must not be taken for an empty one.
    fn look_into_name(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        let parent = self.node(parent)?;
        self.stage.look_into(&parent)?;
        self.stage.expect_shown(&parent, name)?;
        match self.stage.recorder()?.inodes.open_name(&parent, name) {
            Ok((node, _)) => {
                self.stage.look_into(&node)?;
                self.stage.expect_empty(&node)
            }
            Err(error) if error.errno() == Errno::NOENT => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Before something is changed at `name` in the directory `parent`, which is that.
    fn enter(&self, parent: Ino, name: &OsStr) -> FsResult<Arc<Node>> {
        self.stage.admit()?;
        let parent = self.node(parent)?;
        self.stage.look_into(&parent)?;
        self.stage.keep_filled(&parent)?;
        self.stage.expect_shown(&parent, name)?;
        Ok(parent)
    }

    /// Before `node` itself is changed.
    fn keep_way_to(&self, node: &Node) -> FsResult<()> {
        node.names().iter().try_for_each(|name| self.stage.keep_filled(&name.parent))
    }

    /// Before something is made there.
    fn enter_new(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        Reach::of_dir(&self.enter(parent, name)?).with(name).check()
    }

    /// That the archive can hold what is at `from` at `to` too.
    fn may_move(&self, from: (Ino, &OsStr), to: (Ino, &OsStr)) -> FsResult<()> {
        let (source, target) = (self.node(from.0)?, self.node(to.0)?);
        let reaches = (Reach::of_dir(&source).with(from.1), Reach::of_dir(&target).with(to.1));
        self.stage.may_move((&source, from.1), reaches.0, reaches.1)
    }

    /// A handle of ours cannot do what writing needs.
    fn writable(&self, fh: Fh) -> FsResult<()> {
        if fh.0 & OURS != 0 {
            return Err(Errno::BADF.into());
        }
        self.stage.admit()
    }

    fn shown(&self, mut attr: Attr) -> FsResult<Attr> {
        if attr.stat.kind == Kind::File {
            let node = self.node(attr.ino)?;
            attr.stat = self.stage.shown(node.id, attr.stat);
        }
        Ok(attr)
    }
}

/// Read until `buf` is full or the end.
fn read_all(buf: &mut [u8], mut read: impl FnMut(&mut [u8], u64) -> FsResult<usize>) -> FsResult<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read(&mut buf[done..], done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

impl ReadFs for LzFs {
    fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        self.look_into(parent)?;
        let found = self.inner.lookup(parent, name);
        self.shown(match found {
            Err(error) if error.errno() == Errno::NOENT => {
                self.stage.expect_shown(&*self.node(parent)?, name)?;
                return Err(error);
            }
            found => found?,
        })
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        self.inner.forget(ino, lookups);
        self.stage.forgotten(ino);
    }

    fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        self.shown(self.inner.getattr(ino)?)
    }

    fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        self.inner.readlink(ino)
    }

    fn open(&self, ino: Ino, flags: i32, who: Caller) -> FsResult<Opened> {
        let node = self.node(ino)?;
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let truncates = flags & libc::O_TRUNC != 0;
        if !writable
            && !truncates
            && let Some(opened) = self.open_hollow(&node)?
        {
            return Ok(opened);
        }
        if writable || truncates {
            self.stage.admit()?;
            self.keep_way_to(&node)?;
        }
        // What is written through here is on the disk when a write returns: all of the content must be, before.
        let is_synced = flags & libc::O_DSYNC != 0;
        if writable
            && !truncates
            && !is_synced
            && let Some(hollow) = self.stage.hollow(&node)
            && node.stat()?.size >= BIG
        {
            return self.open_behind(&node, &hollow, flags, who);
        }
        let opened = if truncates {
            self.stage.emptied(&node, || self.inner.open(ino, flags, who))?
        } else {
            self.stage.fill(&node)?;
            if writable {
                self.stage.is_rewritten(node.id);
            }
            self.inner.open(ino, flags, who)?
        };
        Ok(self.one_way(node.id, opened))
    }

    fn read(&self, fh: Fh, offset: u64, buf: &mut [u8]) -> FsResult<usize> {
        let Some(handle) = self.ours(fh)? else {
            return match self.filling(fh) {
                Some(filling) => {
                    read_all(buf, |rest, done| match filling.read(&self.stage.archive, offset + done, rest)? {
                        Some(read) => Ok(read),
                        None => self.inner.read(fh, offset + done, rest),
                    })
                }
                None => self.inner.read(fh, offset, buf),
            };
        };
        let is_full = handle.hollow.is_full.read();
        if *is_full {
            drop(is_full);
            let file = handle.file()?;
            return read_all(buf, |rest, done| Ok(file.read_at(rest, offset + done)?));
        }
        let filling = handle.hollow.filling.lock().clone();
        match filling {
            Some(filling) => read_all(buf, |rest, done| {
                let read = filling.read(&self.stage.archive, offset + done, rest)?;
                // Locked, it cannot have come to its end.
                Ok(read.unwrap_or(0))
            }),
            None => read_all(buf, |rest, done| self.stage.archive.read(handle.pin.id(), offset + done, rest)),
        }
    }

    fn flush(&self, fh: Fh) -> FsResult<()> {
        if fh.0 & OURS == 0 { self.inner.flush(fh) } else { Ok(()) }
    }

    fn release(&self, fh: Fh) {
        let id = match self.handles.lock().remove(&fh.0) {
            Some(handle) => Some(handle.node.id),
            None => {
                self.inner.release(fh);
                self.kept_asking.lock().remove(&fh.0).map(|asking| asking.id)
            }
        };
        if let Some(id) = id {
            self.asks_no_more(id);
        }
    }

    fn lseek(&self, fh: Fh, offset: i64, whence: i32) -> FsResult<i64> {
        let Some(handle) = self.ours(fh)? else {
            self.wait_for_content(fh)?;
            return self.inner.lseek(fh, offset, whence);
        };
        let size = i64::try_from(handle.node.stat()?.size).unwrap_or(i64::MAX);
        if !(0..size).contains(&offset) {
            return Err(Errno::NXIO.into());
        }
        // A member is one piece of data, with a hole at its end as every file has.
        match whence {
            libc::SEEK_DATA => Ok(offset),
            libc::SEEK_HOLE => Ok(size),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn opendir(&self, ino: Ino) -> FsResult<Fh> {
        self.look_into(ino)?;
        self.inner.opendir(ino)
    }

    fn readdir(&self, fh: Fh, from: u64, visit: &mut dyn FnMut(Dirent<'_>) -> ControlFlow<()>) -> FsResult<()> {
        self.inner.readdir(fh, from, visit)
    }

    fn releasedir(&self, fh: Fh) {
        self.inner.releasedir(fh);
    }

    fn statfs(&self, ino: Ino) -> FsResult<StatFs> {
        self.inner.statfs(ino)
    }

    fn getxattr(&self, ino: Ino, _name: &OsStr) -> FsResult<Vec<u8>> {
        self.node(ino)?;
        Err(Errno::NODATA.into())
    }

    fn listxattr(&self, ino: Ino) -> FsResult<Vec<u8>> {
        self.node(ino)?;
        Ok(Vec::new())
    }
}

impl Vfs for LzFs {
    fn create(&self, parent: Ino, name: &OsStr, mode: u32, flags: i32, who: Caller) -> FsResult<(Attr, Opened)> {
        self.enter_new(parent, name)?;
        // One that is there is opened as every file is.
        let made = self.inner.create(parent, name, mode, flags | libc::O_EXCL, who);
        match made {
            Err(error) if error.errno() == Errno::EXIST && flags & libc::O_EXCL == 0 => {
                let attr = self.lookup(parent, name)?;
                let opened = self.open(attr.ino, flags & !libc::O_CREAT, who);
                let opened = opened.inspect_err(|_| self.forget(attr.ino, 1))?;
                Ok((self.getattr(attr.ino)?, opened))
            }
            made => made,
        }
    }

    fn mknod(&self, parent: Ino, name: &OsStr, mode: u32, rdev: u64, who: Caller) -> FsResult<Attr> {
        self.enter_new(parent, name)?;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile | FileType::Unknown => self.inner.mknod(parent, name, mode, rdev, who),
            _ => Err(FsError::os("an archive holds files, directories and symbolic links", Errno::PERM)),
        }
    }

    fn mkdir(&self, parent: Ino, name: &OsStr, mode: u32, who: Caller) -> FsResult<Attr> {
        self.enter_new(parent, name)?;
        self.inner.mkdir(parent, name, mode, who)
    }

    fn symlink(&self, parent: Ino, name: &OsStr, target: &[u8], who: Caller) -> FsResult<Attr> {
        self.enter_new(parent, name)?;
        self.inner.symlink(parent, name, target, who)
    }

    fn link(&self, _ino: Ino, _parent: Ino, _name: &OsStr, _who: Caller) -> FsResult<Attr> {
        Err(FsError::os("an archive has no hard links", Errno::PERM))
    }

    fn unlink(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.enter(parent, name)?;
        self.inner.unlink(parent, name, who)
    }

    fn rmdir(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.stage.admit()?;
        self.look_into_name(parent, name)?;
        self.stage.keep_filled(&self.node(parent)?)?;
        let _moving = self.stage.moving.read();
        self.inner.rmdir(parent, name, who)?;
        self.stage.touch_name(&self.node(parent)?, name);
        Ok(())
    }

    fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr), flags: RenameFlags, who: Caller) -> FsResult<()> {
        // It leaves a device behind, which an archive cannot hold: the answer of who has no such rename.
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL.into());
        }
        self.enter(from.0, from.1)?;
        self.look_into_name(to.0, to.1)?;
        self.stage.keep_filled(&self.node(to.0)?)?;
        self.may_move(from, to)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            self.may_move(to, from)?;
        }
        let _moving = self.stage.moving.read();
        self.inner.rename(from, to, flags, who)?;
        // Also of what the ledger does not know, and is not told of.
        self.stage.touch_name(&self.node(from.0)?, from.1);
        self.stage.touch_name(&self.node(to.0)?, to.1);
        Ok(())
    }

    fn setattr(&self, ino: Ino, fh: Option<Fh>, set: SetAttr, who: Caller) -> FsResult<Attr> {
        self.stage.admit()?;
        let node = self.node(ino)?;
        self.keep_way_to(&node)?;
        let fh = fh.filter(|fh| fh.0 & OURS == 0);
        let set_all = || self.inner.setattr(ino, fh, set, who);
        let attr = match set.size {
            Some(0) => self.stage.emptied(&node, set_all)?,
            Some(_) => {
                self.stage.fill(&node)?;
                self.stage.is_rewritten(node.id);
                set_all()?
            }
            None => {
                match set.mtime {
                    Some(SetTime::At(mtime_ns)) => self.stage.date(&node, mtime_ns),
                    Some(SetTime::Now) => self.stage.date(&node, now_us() as i64 * 1000),
                    None => {}
                }
                set_all()?
            }
        };
        if set.size.is_none() {
            self.stage.touch(&node);
        }
        self.shown(attr)
    }

    fn write(&self, fh: Fh, offset: u64, data: &[u8], drop_set_id: bool) -> FsResult<usize> {
        self.writable(fh)?;
        let write = || self.inner.write(fh, offset, data, drop_set_id);
        match self.filling(fh) {
            Some(filling) => filling.write(offset, data.len(), write),
            None => write(),
        }
    }

    fn fsync(&self, fh: Fh, data_only: bool) -> FsResult<()> {
        match self.ours(fh)? {
            None => {
                self.wait_for_content(fh)?;
                // That a file was emptied is told by an attribute, not by its size.
                let is_empty = data_only && self.inner.lseek(fh, 0, libc::SEEK_DATA).is_err();
                self.inner.fsync(fh, data_only && !is_empty)
            }
            Some(handle) => Ok(handle.file()?.sync_all()?),
        }
    }

    fn fsyncdir(&self, fh: Fh) -> FsResult<()> {
        self.inner.fsyncdir(fh)
    }

    fn fallocate(&self, fh: Fh, mode: FallocateFlags, offset: u64, len: u64) -> FsResult<()> {
        self.writable(fh)?;
        self.becomes_another(fh)?;
        self.inner.fallocate(fh, mode, offset, len)
    }

    fn copy_file_range(&self, range: CopyRange) -> FsResult<usize> {
        self.writable(range.to.0)?;
        self.becomes_another(range.to.0)?;
        if range.from.0.0 & OURS == 0 {
            self.wait_for_content(range.from.0)?;
            return self.inner.copy_file_range(range);
        }
        let mut buffer = vec![0; range.len.min(COPY_BYTES) as usize];
        let read = self.read(range.from.0, range.from.1, &mut buffer)?;
        if read == 0 {
            return Ok(0);
        }
        self.inner.write(range.to.0, range.to.1, &buffer[..read], true)
    }

    fn setxattr(&self, ino: Ino, _name: &OsStr, _value: &[u8], _flags: XattrFlags) -> FsResult<()> {
        self.node(ino)?;
        Err(FsError::os("an archive has no extended attributes", Errno::OPNOTSUPP))
    }

    fn removexattr(&self, ino: Ino, _name: &OsStr) -> FsResult<()> {
        self.node(ino)?;
        Err(Errno::NODATA.into())
    }
}
