//! Making files, directories, symbolic links and special files.

use super::LoopbackFs;
use super::names::{Place, at, open_place};
use crate::bucket::NODE;
use crate::change::{Cause, Content, Evidence, Op};
use crate::content::Aside;
use crate::error::{FsError, FsResult};
use crate::handle::passed;
use crate::hashing::Hashed;
use crate::inode::{Node, Received};
use crate::intent::Intent;
use crate::lease::reopen;
use crate::stat::Stat;
use crate::table::{self, Settled};
use crate::vfs::{Attr, Caller, Ino, Opened};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A new file: its node, a descriptor if one is needed, its attributes.
type Made = (Arc<Node>, Option<File>, Stat);

impl LoopbackFs {
    pub(super) fn create_file(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        flags: i32,
        who: Caller,
    ) -> FsResult<(Attr, Opened)> {
        self.recorder.stream.admit(false)?;
        self.recorder.queue.wait_for_room();
        let place = self.place(parent, name)?;
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let made = self.make_file(&place, mode, flags, writable, who);
        let (node, file, stat) = match made {
            Err(error) if error.errno() == Errno::EXIST && flags & libc::O_EXCL == 0 => {
                let (node, _) = self.recorder.inodes.open_name(&place.dir, name)?;
                let opened = self.open_file(&node, flags, who)?;
                let stat = node.stat()?;
                self.recorder.inodes.hold(&node);
                return Ok((Self::attr(&node, stat), opened));
            }
            made => made?,
        };
        let opened = self.opened(&node, file, flags);
        if !writable {
            self.recorder.queue.push(&node, false);
        } else if opened.is_err() {
            self.recorder.end_write(&node, false);
        }
        let opened = opened?;
        self.recorder.inodes.hold(&node);
        Ok((Self::attr(&node, stat), opened))
    }

    /// Make a new regular file and leave it dirty, with a writer if it is `writable`: a barrier must not settle it before its
    /// program has it. Its own descriptor is given where the kernel will not open it itself.
    fn make_file(&self, place: &Place<'_>, mode: u32, flags: i32, writable: bool, who: Caller) -> FsResult<Made> {
        let flags = passed(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let making = self.recorder.making();
        let (id, (file, stat, path)) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            let inodes = &self.recorder.inodes;
            let open = || Ok(File::from(rustix::fs::openat(&*place.fd, place.name, flags, mode)?));
            let file = inodes.relieved(open)?;
            let finished = || -> FsResult<_> {
                give_to(place, who, mode)?;
                Ok((inodes.stat_of(&file)?, inodes.relieved(|| reopen(&file, OFlags::PATH))?))
            };
            let (stat, path) = finished().inspect_err(|_| take_back(place, AtFlags::empty()))?;
            Ok((file, stat, path))
        })?;
        let node = self.recorder.inodes.adopt(&place.dir, place.name, &stat, Some(path.into()));
        let before = Stat { mtime_ns: i64::MIN, ..stat };
        let mut writing = node.writing.lock();
        self.recorder.mark_dirty(&node, &mut writing, vec![id], Cause::Mount, &before);
        writing.writers += u32::from(writable);
        drop((writing, making));
        let file = (!self.passes_through()).then_some(file);
        Ok((node, file, stat))
    }

    /// Put the finished file `temporary` in `dir`, whose content was received and hashed, in the place of `name`; `intents` end
    /// with it. Returns the number of the change, so that whoever takes the name next finds it told; none when it waits for
    /// somebody who writes the file already.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn replace(
        &self,
        dir: &Arc<Node>,
        temporary: &OsStr,
        name: &OsStr,
        mut intents: Vec<u64>,
        hashed: Hashed<Aside>,
    ) -> FsResult<(Arc<Node>, Option<u64>)> {
        let fd = dir.fd()?;
        let from = Place { dir: dir.clone(), fd: fd.clone(), name: temporary };
        let to = Place { dir: dir.clone(), fd, name };
        let names = self.recorder.lock_names();
        let (node, stat) = self.recorder.inodes.open_name(dir, temporary)?;
        let target = open_place(&self.recorder.inodes, &to)?;
        let intent = Intent::Rename { from: from.at(), to: to.at(), inode: node.id.0 };
        let (id, ()) =
            self.with_intent(intent, NODE, || Ok(rustix::fs::renameat(&*from.fd, temporary, &*to.fd, name)?))?;
        node.drop_name(dir.ino, temporary);
        node.add_name(dir, name);
        if let Some((target, before)) = &target {
            target.drop_name(dir.ino, name);
            let rows = self.unlinked(target, &mut target.writing.lock(), &to, before)?;
            self.recorder.stream.note(rows.into_iter().collect());
            // It may have other names, which the kernel knows with one link more.
            self.recorder.attributes_changed(target);
        }
        let before = Stat { mtime_ns: i64::MIN, ..stat };
        intents.push(id);
        let hashes = hashed.hashes;
        self.recorder.outboards.keep(node.id.0, hashed);
        let mut writing = node.writing.lock();
        // A program may have found it by its temporary name.
        let untouched = writing.is_untouched();
        self.recorder.mark_dirty(&node, &mut writing, intents, Cause::Put, &before);
        // The rename has changed the time.
        let Some(stat) = node.stat().ok().filter(|_| untouched) else { return Ok((node.clone(), None)) };
        let received = Received { size: stat.size, ctime_ns: stat.ctime_ns, hashes };
        if let Some(dirty) = &mut writing.dirty {
            dirty.received = Some(received);
        }
        let number = self.recorder.report_received(&names, &node, &mut writing, received).unwrap_or_else(|error| {
            // It has its name; whoever waits for it hears what is wrong.
            tracing::debug!(%error, "a put is left to be settled");
            None
        });
        drop(writing);
        Ok((node, number))
    }

    /// Make the directory `name` that a put below it implies; the table learns of it with that put, which ends the intent.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn make_parent(&self, dir: &Arc<Node>, name: &OsStr) -> FsResult<(u64, Arc<Node>)> {
        let intent = Intent::Create { at: at(dir, name) };
        let (id, ()) =
            self.with_intent(intent, NODE, || Ok(rustix::fs::mkdirat(&*dir.fd()?, name, Mode::from_raw_mode(0o755))?))?;
        Ok((id, self.recorder.inodes.open_name(dir, name)?.0))
    }

    pub(super) fn make_node(&self, parent: Ino, name: &OsStr, mode: u32, rdev: u64, who: Caller) -> FsResult<Attr> {
        self.recorder.stream.admit(false)?;
        let place = self.place(parent, name)?;
        let kind = FileType::from_raw_mode(mode);
        if matches!(kind, FileType::RegularFile | FileType::Unknown) {
            let (node, file, stat) = self.make_file(&place, mode, libc::O_RDONLY, false, who)?;
            drop(file);
            self.recorder.inodes.hold(&node);
            self.recorder.queue.push(&node, false);
            return Ok(Self::attr(&node, stat));
        }
        let bits = Mode::from_raw_mode(mode & 0o7777);
        let (id, attr) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            rustix::fs::mknodat(&*place.fd, name, kind, bits, rdev)?;
            self.made(&place, who, bits, AtFlags::empty())
        })?;
        // Special files work and are not recorded.
        self.recorder.intents.end_now(&[id]);
        Ok(attr)
    }

    pub(super) fn make_dir(&self, parent: Ino, name: &OsStr, mode: u32, who: Caller) -> FsResult<Attr> {
        self.recorder.stream.admit(false)?;
        let place = self.place(parent, name)?;
        let bits = Mode::from_raw_mode(mode & 0o7777);
        let names = self.recorder.lock_names();
        let path = self.recorder.path(&place.dir, name)?;
        let (id, attr) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            rustix::fs::mkdirat(&*place.fd, name, bits)?;
            self.made(&place, who, bits, AtFlags::REMOVEDIR)
        })?;
        let node = self.node(attr.ino)?;
        let mut rows = Vec::new();
        self.recorder.imply_dirs(&place.dir, &mut rows)?;
        self.recorder.follows(&place.dir, name, &node, &attr.stat)?;
        rows.extend(self.recorder.dir_rows(&node, &place.dir, name, &attr.stat)?);
        node.recorded.store(true, std::sync::atomic::Ordering::Release);
        let op = Op::Mkdir { path, mode: attr.stat.mode };
        self.recorder.emit(&names, Cause::Mount, op, rows, vec![id]);
        Ok(attr)
    }

    pub(super) fn make_symlink(&self, parent: Ino, name: &OsStr, target: &[u8], who: Caller) -> FsResult<Attr> {
        self.recorder.stream.admit(false)?;
        let place = self.place(parent, name)?;
        let names = self.recorder.lock_names();
        let path = self.recorder.path(&place.dir, name)?;
        let (id, attr) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            rustix::fs::symlinkat(OsStr::from_bytes(target), &*place.fd, name)?;
            self.made(&place, who, Mode::empty(), AtFlags::empty())
        })?;
        let mut rows = self.recorder.rows_of(
            self.recorder.inodes.id_of(&attr.stat),
            &place.dir,
            name,
            &attr.stat,
            Settled::Symlink,
        )?;
        self.recorder.imply_dirs(&place.dir, &mut rows)?;
        let content = Content::Symlink { target: target.to_vec() };
        let put = table::put(path, content, &attr.stat, Evidence::Lease);
        self.recorder.emit(&names, Cause::Mount, Op::Put(put), rows, vec![id]);
        Ok(attr)
    }

    /// Give what was just made at `place` to the caller, and its number to the kernel; it is taken back when that fails.
    fn made(&self, place: &Place<'_>, who: Caller, mode: Mode, removed_by: AtFlags) -> FsResult<Attr> {
        let given = give_to(place, who, mode).and_then(|()| self.entry(&place.dir, place.name));
        given.inspect_err(|_| take_back(place, removed_by))
    }
}

/// Give what was just made at `place` to the caller. A new owner costs the set-id bits, so they are set again.
fn give_to(place: &Place<'_>, who: Caller, mode: Mode) -> FsResult<()> {
    let (euid, egid) = (rustix::process::geteuid(), rustix::process::getegid());
    if (who.uid, who.gid) == (euid.as_raw(), egid.as_raw()) {
        return Ok(());
    }
    let stat = place.stat()?;
    let inherits_group = Stat::of_fd(&*place.fd)?.mode & libc::S_ISGID != 0;
    let uid = (stat.uid != who.uid).then(|| rustix::process::Uid::from_raw(who.uid));
    let gid = (stat.gid != who.gid && !inherits_group).then(|| rustix::process::Gid::from_raw(who.gid));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    rustix::fs::chownat(&*place.fd, place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if mode.intersects(Mode::SUID | Mode::SGID) {
        // As it was made: a default list may have taken bits from `mode`.
        rustix::fs::chmodat(&*place.fd, place.name, Mode::from_raw_mode(stat.mode), AtFlags::empty())?;
    }
    Ok(())
}

/// Undo a creation whose second half failed.
fn take_back(place: &Place<'_>, flags: AtFlags) {
    if let Err(errno) = rustix::fs::unlinkat(&*place.fd, place.name, flags) {
        tracing::warn!(name = ?place.name, error = %FsError::from(errno), "half made file left");
    }
}
