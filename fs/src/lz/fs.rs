//! An archive as a file system: the loopback file system on the stage, with directories filled before they are looked into,
//! and hollow files read from the archive or filled before they are written.

use super::archive::Pin;
use super::patch::{BIG, Filling};
use super::stage::{HollowFile, Stage};
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::loopback::LoopbackFs;
use crate::stat::{Id, Kind};
use crate::vfs::{Attr, Caller, CopyRange, Dirent, Fh, Ino, Opened, ReadFs, SetAttr, StatFs, Vfs};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Set in the numbers of handles that are read from the archive, to tell them from those of the stage.
const OURS: u64 = 1 << 63;
/// Bytes copied at once from one file to another.
const COPY_BYTES: u64 = 1024 * 1024;

/// A file that was hollow when it was opened, for reading.
#[derive(Debug)]
struct Handle {
    node: Arc<Node>,
    hollow: Arc<HollowFile>,
    pin: Pin,
    /// The file of the stage, once it has its content.
    file: OnceLock<File>,
}

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

/// A handle of the stage that the kernel asks us about.
#[derive(Debug, Clone)]
struct Asking {
    id: Id,
    /// The content of its file is on its way, or was: what is written is noted.
    filling: Option<Arc<Filling>>,
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
        match self.stage.recorder()?.inodes.open_name(&parent, name) {
            Ok((node, _)) => self.stage.look_into(&node),
            Err(error) if error.errno() == Errno::NOENT => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Before something is made or changed in the directory `parent`.
    fn enter(&self, parent: Ino) -> FsResult<()> {
        self.stage.admit()?;
        self.look_into(parent)
    }

    fn ours(&self, fh: Fh) -> FsResult<Option<Arc<Handle>>> {
        if fh.0 & OURS == 0 {
            return Ok(None);
        }
        let handle = self.handles.lock().get(&fh.0).cloned();
        handle.map(Some).ok_or_else(|| FsError::os("unknown handle", Errno::BADF))
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

    /// A handle for reading a hollow file; none when it is not hollow.
    fn open_hollow(&self, node: &Arc<Node>) -> FsResult<Option<Opened>> {
        let hollow = {
            let mut inodes = self.stage.inodes.lock();
            let Some(hollow) = inodes.hollow.get(&node.id).cloned() else { return Ok(None) };
            // Counted while it is hollow for sure: whoever fills it finds this handle.
            *inodes.asking.entry(node.id).or_default() += 1;
            hollow
        };
        let pin = self.stage.archive.pin(hollow.member).inspect_err(|_| self.asks_no_more(node.id))?;
        let fh = OURS | self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().insert(fh, Arc::new(Handle { node: node.clone(), hollow, pin, file: OnceLock::new() }));
        Ok(Some(Opened { fh: Fh(fh), backing: None }))
    }

    fn asks_no_more(&self, id: Id) {
        let mut inodes = self.stage.inodes.lock();
        if let Some(count) = inodes.asking.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                inodes.asking.remove(&id);
            }
        }
    }

    /// All open handles of a file go one way: this one asks too when others do.
    fn one_way(&self, id: Id, mut opened: Opened) -> Opened {
        if opened.backing.is_some()
            && let Some(count) = self.stage.inodes.lock().asking.get_mut(&id)
        {
            *count += 1;
            opened.backing = None;
            self.kept_asking.lock().insert(opened.fh.0, Asking { id, filling: None });
        }
        opened
    }

    /// Open a big hollow file for writing: its content comes behind.
    fn open_behind(&self, node: &Arc<Node>, hollow: &Arc<HollowFile>, flags: i32, who: Caller) -> FsResult<Opened> {
        let opened = self.stage.fill_behind(node, hollow, || {
            let mut opened = self.inner.open(node.ino, flags, who)?;
            *self.stage.inodes.lock().asking.entry(node.id).or_default() += 1;
            opened.backing = None;
            Ok(opened)
        });
        let (opened, filling) = opened?;
        let is_begun = filling.as_ref().map(|_| ()).map_err(FsError::errno);
        self.kept_asking.lock().insert(opened.fh.0, Asking { id: node.id, filling: filling.ok().flatten() });
        if let Err(errno) = is_begun {
            self.release(opened.fh);
            return Err(FsError::os("content of a file of the archive", errno));
        }
        Ok(opened)
    }

    /// What is written through `fh` is noted there.
    fn filling(&self, fh: Fh) -> Option<Arc<Filling>> {
        self.kept_asking.lock().get(&fh.0)?.filling.clone()
    }

    /// Before something that needs all of the content.
    fn wait_for_content(&self, fh: Fh) -> FsResult<()> {
        self.filling(fh).map_or(Ok(()), |filling| filling.wait())
    }

    /// Before a change by other ways than writing.
    fn becomes_another(&self, fh: Fh) -> FsResult<()> {
        self.wait_for_content(fh)?;
        let asking = self.kept_asking.lock().get(&fh.0).map(|asking| asking.id);
        if let Some(id) = asking {
            self.is_rewritten(id);
        }
        Ok(())
    }

    /// The file is not a member with some parts replaced any more, as far as is known.
    fn is_rewritten(&self, id: Id) {
        self.stage.inodes.lock().patched.remove(&id);
    }
}

impl Handle {
    fn file(&self) -> FsResult<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = self.node.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        Ok(self.file.get_or_init(|| opened))
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
        self.shown(self.inner.lookup(parent, name)?)
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        self.inner.forget(ino, lookups);
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
            self.is_rewritten(node.id);
        }
        if writable
            && !truncates
            && let Some(hollow) = self.stage.hollow(&node)
            && node.stat()?.size >= BIG
        {
            return self.open_behind(&node, &hollow, flags, who);
        }
        let opened = if truncates {
            self.stage.emptied(&node, || self.inner.open(ino, flags, who))?
        } else {
            self.stage.fill(&node)?;
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
        self.enter(parent)?;
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
        self.enter(parent)?;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile | FileType::Unknown => self.inner.mknod(parent, name, mode, rdev, who),
            _ => Err(FsError::os("an archive holds files, directories and symbolic links", Errno::PERM)),
        }
    }

    fn mkdir(&self, parent: Ino, name: &OsStr, mode: u32, who: Caller) -> FsResult<Attr> {
        self.enter(parent)?;
        self.inner.mkdir(parent, name, mode, who)
    }

    fn symlink(&self, parent: Ino, name: &OsStr, target: &[u8], who: Caller) -> FsResult<Attr> {
        self.enter(parent)?;
        self.inner.symlink(parent, name, target, who)
    }

    fn link(&self, _ino: Ino, _parent: Ino, _name: &OsStr, _who: Caller) -> FsResult<Attr> {
        Err(FsError::os("an archive has no hard links", Errno::PERM))
    }

    fn unlink(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.enter(parent)?;
        self.inner.unlink(parent, name, who)
    }

    fn rmdir(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.stage.admit()?;
        self.look_into_name(parent, name)?;
        let _moving = self.stage.moving.read();
        self.inner.rmdir(parent, name, who)?;
        self.stage.touch_name(&self.node(parent)?, name);
        Ok(())
    }

    fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr), flags: RenameFlags, who: Caller) -> FsResult<()> {
        self.enter(from.0)?;
        self.look_into_name(to.0, to.1)?;
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
        let fh = fh.filter(|fh| fh.0 & OURS == 0);
        let set_all = || self.inner.setattr(ino, fh, set, who);
        if set.size.is_some() {
            self.stage.fill_under_way(&node)?;
            self.is_rewritten(node.id);
        }
        let attr = match set.size {
            Some(0) => self.stage.emptied(&node, set_all)?,
            Some(_) => {
                self.stage.fill(&node)?;
                set_all()?
            }
            None => set_all()?,
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
                self.inner.fsync(fh, data_only)
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
