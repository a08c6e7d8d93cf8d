//! Attributes: permission bits are recorded; owners and times are carried by a put and cause none.

use super::LoopbackFs;
use crate::bucket::NODE;
use crate::change::{Cause, Op};
use crate::error::FsResult;
use crate::inode::Node;
use crate::intent::Intent;
use crate::lease::through_procfs;
use crate::recorder::at_of;
use crate::stat::{Kind, Stat};
use crate::table::{self, InodeRow};
use crate::vfs::{Attr, Caller, Fh, Ino, SetAttr, SetTime};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

impl LoopbackFs {
    pub(super) fn set_attributes(&self, ino: Ino, fh: Option<Fh>, set: SetAttr, who: Caller) -> FsResult<Attr> {
        let node = self.node(ino)?;
        if let Some(size) = set.size {
            self.truncate(&node, fh, size, who)?;
        }
        let others = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        if others || set.atime.is_some() || set.mtime.is_some() {
            self.change_attributes(&node, who, || apply(&node, &set))?;
        }
        if set.mtime.is_some()
            && let Some(dirty) = &mut node.writing.lock().dirty
        {
            dirty.times_set = true;
        }
        let stat = node.stat()?;
        Ok(Self::attr(&node, stat))
    }

    fn truncate(&self, node: &Arc<Node>, fh: Option<Fh>, size: u64, who: Caller) -> FsResult<()> {
        let handle = fh.and_then(|fh| self.files.get(fh).ok()).filter(|h| h.writable());
        self.recorder.begin_write(node, size == 0, who)?;
        let cut = |file: &std::fs::File| -> FsResult<()> {
            if who.uid != 0 {
                super::drop_set_id(file)?;
            }
            Ok(file.set_len(size)?)
        };
        let done = match handle {
            Some(handle) => handle.file().and_then(cut),
            None => node.open(OFlags::WRONLY | OFlags::NONBLOCK).and_then(|file| cut(&file)),
        };
        self.recorder.end_write(node, false);
        done
    }

    /// Do `act`, which moves the change time of `node` and perhaps its permission bits. The table follows for a file that was
    /// as it had been left; new permission bits of such a file are a put that repeats its content.
    fn change_attributes(&self, node: &Arc<Node>, who: Caller, act: impl FnOnce() -> FsResult<()>) -> FsResult<()> {
        if !node.kind.is_recorded() {
            return act();
        }
        // Its coming put carries the attributes; the lock keeps that from being reported in between.
        let writing = node.writing.lock();
        if writing.dirty.is_some() {
            return act();
        }
        drop(writing);
        self.recorder.stream.admit(false)?;
        let names = self.recorder.lock_names();
        // Held to the end: a writer that begins in between would see the change time ahead of the table.
        let mut writing = node.writing.lock();
        if writing.dirty.is_some() {
            return act();
        }
        let before = node.stat()?;
        let row = self.recorder.inode_row(node.id)?;
        let intent = Intent::Write {
            inode: node.id.0,
            at: node.names().first().map_or((0, Vec::new()), at_of),
            sealed: row.as_ref().map(|row| (row.size, row.ctime_ns)),
            foreign: !row.as_ref().is_some_and(|row| row.matches(&before)),
        };
        let id = self.recorder.intents.note(intent, who.uid, who.pid)?;
        act().inspect_err(|_| self.recorder.intents.end_now(&[id]))?;
        let after = node.stat()?;
        let known = row.filter(|row| node.kind == Kind::Directory || row.matches(&before));
        let Some(mut row) = known else {
            // Not as it was left: the put that tells of new permission bits is a foreign one.
            if node.kind == Kind::File && after.mode != before.mode {
                self.recorder.mark_dirty(node, &mut writing, vec![id], Cause::Foreign, &before);
                drop(writing);
                self.recorder.queue.push(node, false);
            } else {
                self.recorder.intents.end_now(&[id]);
            }
            return Ok(());
        };
        (row.ctime_ns, row.mode) = (after.ctime_ns, after.mode);
        let inode_row = table::set(table::inode_key(node.id), &row)?;
        let ops = if after.mode == before.mode { Vec::new() } else { self.mode_ops(node, &row, &after)? };
        if ops.is_empty() {
            self.recorder.note(vec![inode_row], vec![id]);
        } else {
            self.recorder.emit_all(&names, Cause::Mount, ops, vec![inode_row], vec![id]);
        }
        Ok(())
    }

    fn mode_ops(&self, node: &Arc<Node>, row: &InodeRow, after: &Stat) -> FsResult<Vec<Op>> {
        let mut ops = Vec::new();
        for (_, path) in self.recorder.current_links(node, Some(row))? {
            let op = match node.kind {
                Kind::Directory => Some(Op::Mkdir { path, mode: after.mode }),
                _ => row.put_again(path, after).map(Op::Put),
            };
            ops.extend(op);
        }
        Ok(ops)
    }

    pub(super) fn set_xattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: XattrFlags) -> FsResult<()> {
        let node = self.node(ino)?;
        let set = |path: &Path| rustix::fs::setxattr(path, name, value, flags);
        self.change_attributes(&node, NODE, || Ok(through_procfs(node.fd()?, set)?))
    }

    pub(super) fn remove_xattr(&self, ino: Ino, name: &OsStr) -> FsResult<()> {
        let node = self.node(ino)?;
        let remove = |path: &Path| rustix::fs::removexattr(path, name);
        self.change_attributes(&node, NODE, || Ok(through_procfs(node.fd()?, remove)?))
    }
}

/// Set everything but the size. Owner before mode: a new owner costs the set-id bits.
fn apply(node: &Node, set: &SetAttr) -> FsResult<()> {
    let fd = node.fd()?;
    if set.uid.is_some() || set.gid.is_some() {
        let uid = set.uid.map(rustix::process::Uid::from_raw);
        let gid = set.gid.map(rustix::process::Gid::from_raw);
        rustix::fs::chownat(&*fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    if let Some(mode) = set.mode {
        if node.kind == Kind::Symlink {
            return Err(super::not_supported("permission bits of a symbolic link"));
        }
        through_procfs(&*fd, |path| rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777)))?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let times = Timestamps { last_access: timespec(set.atime), last_modification: timespec(set.mtime) };
        set_times(node, &fd, &times)?;
    }
    Ok(())
}

fn set_times(node: &Node, fd: &std::os::fd::OwnedFd, times: &Timestamps) -> FsResult<()> {
    if node.kind != Kind::Symlink {
        return Ok(through_procfs(fd, |path| rustix::fs::utimensat(CWD, path, times, AtFlags::empty()))?);
    }
    // procfs would follow the link; a name in its directory does not.
    for name in node.names() {
        if name.holds(node)? {
            let dir = name.parent.fd()?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            return Ok(rustix::fs::utimensat(&*dir, &name.name, times, flags)?);
        }
    }
    Err(rustix::io::Errno::STALE.into())
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(nanos)) => {
            Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) }
        }
    }
}
