//! Filling: a directory of the stage with what stands for its members, a hollow file with its content.
//!
//! What the bucket's table knows of a member, it knows by the inode that stood for it in an earlier stage. The rows are moved to the
//! new inode; nothing is reported, because nothing changed.

use super::archive::{MemberId, MemberInfo};
use super::mark::{Hollow, Listed};
use super::patch::Filling;
use super::stage::{HollowFile, Stage};
use super::view::Number;
use crate::bucket::NODE;
use crate::change::Row;
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::intent::Intent;
use crate::lease::through_procfs;
use crate::listing;
use crate::recorder::{Recorder, at_of};
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use parking_lot::RwLockWriteGuard;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Longest target of a symbolic link, as Linux has it.
const TARGET_MAX: u64 = 4095;
/// Rows handed over at once.
const ROWS_MAX: usize = 4096;

/// A change time that no file has: the content is not what the table says, whatever else is equal.
const NEVER: i64 = i64::MIN;

/// A child of a directory that is being filled.
struct Child {
    number: Number,
    name: Box<[u8]>,
    kind: Kind,
    info: Option<MemberInfo>,
    anchor: Option<(MemberId, u32)>,
}

impl Stage {
    /// Fill the directory `dir` if that has not been done.
    ///
    /// # Errors
    /// What making files in the stage answers, and what reading the archive does.
    pub(super) fn look_into(&self, dir: &Arc<Node>) -> FsResult<()> {
        if dir.kind != Kind::Directory || !self.is_unread(dir.id) {
            return Ok(());
        }
        let _one_at_a_time = self.filling.lock();
        let Some((number, was)) = self.inodes.lock().unread.get(&dir.id).copied() else { return Ok(()) };
        let fd: OwnedFd = dir.open(OFlags::RDONLY | OFlags::DIRECTORY)?.into();
        let before = Stat::of_fd(&fd)?;
        // One that its own owner may not write, who is no root, is opened for the moment.
        let is_closed = before.mode & 0o300 != 0o300;
        if is_closed {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(before.mode) | Mode::RWXU)?;
        }
        let filled = match self.fill_directory(&fd, dir.id, (number, was)) {
            Err(error) if error.is_full() && self.reserve.give_up() => self.fill_directory(&fd, dir.id, (number, was)),
            done => done,
        };
        if is_closed {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(before.mode))?;
        }
        filled?;
        set_mtime(&fd, before.mtime_ns)?;
        self.set_read(dir.id);
        Ok(())
    }

    fn fill_directory(&self, fd: &OwnedFd, dir: Id, (number, was): (Number, Id)) -> FsResult<()> {
        // What a try that failed has left.
        clear(fd)?;
        let mut rows = Vec::new();
        for child in self.children(number) {
            self.make(self.recorder()?, fd, (dir, was), &child, &mut rows)?;
            if rows.len() >= ROWS_MAX {
                self.recorder()?.stream.note(std::mem::take(&mut rows));
            }
        }
        self.keep_missing((dir, was), Some(fd), &mut rows)?;
        let stream = &self.recorder()?.stream;
        stream.note(rows);
        // Moved before anything else happens to them. A full disk must not keep from reading: then it is done once more
        // after a crash.
        if let Err(error) = stream.drain() {
            tracing::debug!(%error, "rows of a directory are on their way");
        }
        let listed = Listed::of(fd)?;
        Listed { anchor: listed.map_or((0, 0), |l| l.anchor), was: was.0, whole: true }.set(fd)
    }

    /// What the table knows in the directory and the archive does not have any more is missing there by its present inode.
    fn keep_missing(&self, (dir, was): (Id, Id), fd: Option<&OwnedFd>, rows: &mut Vec<Row>) -> FsResult<()> {
        if was == dir {
            return Ok(());
        }
        let recorder = self.recorder()?;
        for (name, row) in table::names_in(recorder.stream.sink(), was)? {
            let there = fd.map_or(Ok(None), |fd| Stat::of_name_opt(fd, OsStr::from_bytes(&name)))?;
            if there.is_none() {
                recorder.rehomed((was, dir), &name, &row, rows)?;
            }
        }
        Ok(())
    }

    fn children(&self, number: Number) -> Vec<Child> {
        let view = self.view.lock();
        let child = |&number: &Number| Child {
            number,
            name: view.name(number).into(),
            kind: view.kind(number),
            info: view.member(number).and_then(|member| self.archive.member(member)),
            anchor: if view.kind(number) == Kind::Directory { view.anchor(number) } else { None },
        };
        view.children(number).iter().map(child).collect()
    }

    /// Make what stands for a member, and have the rows follow. The directory is known by two inodes: its own, and the one the table knows it by.
    fn make(
        &self,
        recorder: &Recorder,
        fd: &OwnedFd,
        (dir, was): (Id, Id),
        child: &Child,
        rows: &mut Vec<Row>,
    ) -> FsResult<()> {
        let name = OsStr::from_bytes(&child.name);
        let known = match recorder.name_row(was, name)? {
            Some(row) => Some(row),
            None => recorder.name_row(dir, name)?,
        };
        let known = known.filter(|row| row.kind == child.kind);
        let known_as = known.as_ref().map_or(0, |row| row.id);
        let made = match child.kind {
            Kind::Directory => self.make_directory(fd, name, child, known_as),
            Kind::Symlink => self.make_symlink(fd, name, child),
            _ => self.make_hollow(fd, name, child, known_as),
        };
        let stat = match (made, &child.info) {
            (Err(error), Some(info)) => return self.leave_apart((fd, dir), name, info, error),
            (made, _) => made?,
        };
        let id = recorder.inodes.id_of(&stat);
        self.view.lock().set_inode(child.number, Some(id));
        self.inodes.lock().nodes.insert(id, child.number);
        match (child.kind, &child.info) {
            (Kind::Directory, _) if child.anchor.is_some() => self.set_unread(id, child.number, Id(known_as)),
            (Kind::File, Some(info)) => self.set_hollow((id, recorder.inodes.ino_of(&stat)), info.id),
            _ => {}
        }
        let Some(known) = known else { return Ok(()) };
        if child.kind == Kind::Directory && child.anchor.is_none() {
            self.keep_missing((id, Id(known.id)), None, rows)?;
        }
        if let Some(mut row) = recorder.inode_row(Id(known.id))? {
            row.ctime_ns = if is_as_recorded(&row, child.info.as_ref()) { stat.ctime_ns } else { NEVER };
            row.links = vec![(dir.0, child.name.to_vec())];
            rows.push(table::set(table::inode_key(id), &row)?);
            rows.push(table::delete(table::inode_key(Id(known.id))));
            recorder.outboards.moved(known.id, id.0);
        }
        if was != dir {
            rows.push(table::delete(table::name_key(was, name)));
        }
        rows.push(table::set(table::name_key(dir, name), &NameRow { id: id.0, kind: child.kind })?);
        Ok(())
    }

    /// Make what stands for members of `number` that the stage does not have, in the directory `fd` that has been filled.
    ///
    /// # Errors
    /// As [`Stage::look_into`].
    pub(super) fn add_theirs(&self, recorder: &Recorder, fd: &OwnedFd, dir: Id, number: Number) -> FsResult<()> {
        let mut rows = Vec::new();
        for child in self.children(number) {
            if Stat::of_name_opt(fd, OsStr::from_bytes(&child.name))?.is_none() {
                self.make(recorder, fd, (dir, dir), &child, &mut rows)?;
            }
        }
        recorder.stream.note(rows);
        Ok(())
    }

    /// Let the hollow file `fd` stand for `info` from now on.
    pub(super) fn stand_for(&self, fd: &OwnedFd, info: &MemberInfo, was: u64) -> FsResult<Stat> {
        Hollow { member: info.id.0, crc: info.crc, was }.set(fd)?;
        rustix::fs::ftruncate(fd, info.size)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(info.mode & 0o7777))?;
        set_mtime(fd, info.mtime_ns)?;
        Stat::of_fd(fd)
    }

    fn make_directory(&self, dir: &OwnedFd, name: &OsStr, child: &Child, known_as: u64) -> FsResult<Stat> {
        rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let anchor = child.anchor.map_or((0, 0), |(member, up)| (member.0, up));
        Listed { anchor, was: known_as, whole: child.anchor.is_none() }.set(&fd)?;
        self.own(&fd)?;
        let mode = child.info.as_ref().map_or(0o755, |info| info.mode);
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
        if let Some(info) = &child.info {
            set_mtime(&fd, info.mtime_ns)?;
        }
        Stat::of_fd(&fd)
    }

    fn make_symlink(&self, dir: &OwnedFd, name: &OsStr, child: &Child) -> FsResult<Stat> {
        let info = child.info.as_ref().ok_or(Errno::IO)?;
        let target = self.target(info)?;
        rustix::fs::symlinkat(OsStr::from_bytes(&target), dir, name)?;
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        rustix::fs::utimensat(dir, name, &times(info.mtime_ns), AtFlags::SYMLINK_NOFOLLOW)?;
        Stat::of_name(dir, name)
    }

    /// The target of a symbolic link in the archive.
    pub(super) fn target(&self, info: &MemberInfo) -> FsResult<Vec<u8>> {
        if info.size > TARGET_MAX {
            return Err(FsError::os("target of a symbolic link", Errno::NAMETOOLONG));
        }
        let mut target = Vec::new();
        self.archive.read_whole(info.id, &mut |bytes| {
            target.extend_from_slice(bytes);
            Ok(())
        })?;
        if target.is_empty() || target.contains(&0) {
            return Err(FsError::os("target of a symbolic link", Errno::IO));
        }
        Ok(target)
    }

    fn make_hollow(&self, dir: &OwnedFd, name: &OsStr, child: &Child, known_as: u64) -> FsResult<Stat> {
        let info = child.info.as_ref().ok_or(Errno::IO)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        // The note before the size: a file of some size without content must not be taken for zeros.
        Hollow { member: info.id.0, crc: info.crc, was: known_as }.set(&fd)?;
        rustix::fs::ftruncate(&fd, info.size)?;
        self.own(&fd)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(info.mode & 0o7777))?;
        set_mtime(&fd, info.mtime_ns)?;
        Stat::of_fd(&fd)
    }

    fn own(&self, fd: &OwnedFd) -> FsResult<()> {
        let stat = Stat::of_fd(fd)?;
        if (stat.uid, stat.gid) != self.owner && rustix::process::geteuid().is_root() {
            rustix::fs::fchown(fd, Some(Uid::from_raw(self.owner.0)), Some(Gid::from_raw(self.owner.1)))?;
        }
        Ok(())
    }

    /// Give the file `node` its content, before it is changed in part.
    ///
    /// # Errors
    /// `ENOSPC`, and what reading the member answers; the file stays as it was then.
    pub(super) fn fill(&self, node: &Arc<Node>) -> FsResult<()> {
        let Some(hollow) = self.hollow(node) else { return Ok(()) };
        self.fill_locked(node, &hollow, hollow.at_rest()?)
    }

    /// As [`Stage::fill`], before `node` is hashed: who opens it may wait for the hash to give way, so nobody is waited for here.
    ///
    /// # Errors
    /// As there; [`FsError::Busy`] when somebody is at it.
    pub(super) fn fill_to_hash(&self, node: &Arc<Node>) -> FsResult<()> {
        let Some(hollow) = self.hollow(node) else { return Ok(()) };
        let busy = || FsError::Busy("the file is being opened".into());
        let filling = hollow.filling.try_lock().ok_or_else(busy)?.clone();
        if let Some(filling) = filling {
            return filling.wait();
        }
        let is_full = hollow.is_full.try_write().ok_or_else(busy)?;
        if hollow.filling.try_lock().is_none_or(|filling| filling.is_some()) {
            return Err(busy());
        }
        self.fill_locked(node, &hollow, is_full)
    }

    fn fill_locked(
        &self,
        node: &Arc<Node>,
        hollow: &HollowFile,
        mut is_full: RwLockWriteGuard<'_, bool>,
    ) -> FsResult<()> {
        if *is_full {
            return Ok(());
        }
        let recorder = self.recorder()?;
        // Held to the end: nobody must see the change time ahead of the table.
        let _writing = node.writing.lock();
        let before = node.stat()?;
        let row = recorder.inode_row(node.id)?;
        let foreign = !row.as_ref().is_some_and(|row| row.matches(&before));
        let at = node.names().first().map_or((0, Vec::new()), at_of);
        let sealed = row.as_ref().map(|row| (row.size, row.ctime_ns));
        let intent = Intent::Write { inode: node.id.0, at, sealed, foreign };
        let id = recorder.intents.note(intent, NODE.uid, NODE.pid)?;
        let filled = self.copy_out(node, hollow).and_then(|()| node.stat());
        let after = filled.inspect_err(|_| recorder.intents.end_now(&[id]))?;
        *is_full = true;
        self.inodes.lock().hollow.remove(&node.id);
        follow(recorder, node.id, row, (&before, &after), id)
    }

    /// Let the content of a big file come behind `open`, which opens it for writing; what it opened is told to write through
    /// what this returns beside it. None when the file is not hollow any more.
    ///
    /// # Errors
    /// What `open` answers; beside what it opened, `ENOSPC` and what else keeps the content from coming.
    pub(super) fn fill_behind<T>(
        self: &Arc<Self>,
        node: &Arc<Node>,
        hollow: &Arc<HollowFile>,
        open: impl FnOnce() -> FsResult<T>,
    ) -> FsResult<(T, FsResult<Option<Arc<Filling>>>)> {
        let under_way = hollow.filling.lock().clone();
        if let Some(filling) = under_way {
            // With nothing locked: to open waits for a hash that may wait for the content, which needs both locks to end.
            return Ok((open()?, Ok(Some(filling))));
        }
        let is_full = hollow.is_full.write();
        let mut slot = hollow.filling.lock();
        if slot.is_some() {
            drop((slot, is_full));
            return self.fill_behind(node, hollow, open);
        }
        let before = node.stat()?;
        // Before anything is done to it: it must be as it was left.
        let opened = open()?;
        if *is_full {
            return Ok((opened, Ok(None)));
        }
        let begun = self.begin_to_fill(node, hollow, &before);
        *slot = begun.as_ref().ok().cloned();
        Ok((opened, begun.map(Some)))
    }

    fn begin_to_fill(
        self: &Arc<Self>,
        node: &Arc<Node>,
        hollow: &Arc<HollowFile>,
        before: &Stat,
    ) -> FsResult<Arc<Filling>> {
        let file = node.open(OFlags::RDWR | OFlags::NONBLOCK)?;
        let filling = Arc::new(Filling::begin(hollow.member, before.size, file, self.note_of(before.ino))?);
        let behind = (Arc::clone(self), Arc::clone(node), Arc::clone(hollow), Arc::clone(&filling));
        let mtime_ns = before.mtime_ns;
        std::thread::Builder::new().name("fill".into()).spawn(move || {
            let (stage, node, hollow, filling) = behind;
            stage.fill_now(&node, &hollow, &filling, mtime_ns);
        })?;
        Ok(filling)
    }

    /// A program is about to give `node` this modification time: content that is on its way does not change it.
    pub(super) fn date(&self, node: &Node, mtime_ns: i64) {
        if let Some(filling) = self.hollow(node).and_then(|hollow| hollow.filling.lock().clone()) {
            filling.date(mtime_ns);
        }
    }

    fn fill_now(&self, node: &Node, hollow: &HollowFile, filling: &Arc<Filling>, mtime_ns: i64) {
        let copied = filling.copy(&self.archive);
        let mut is_full = hollow.is_full.write();
        filling.end(copied, |file, written_ns| {
            set_mtime(file, written_ns.unwrap_or(mtime_ns))?;
            Hollow::clear_durably(file)?;
            *is_full = true;
            let mut inodes = self.inodes.lock();
            inodes.hollow.remove(&node.id);
            inodes.patched.insert(node.id, Arc::clone(filling));
            Ok(())
        });
        *hollow.filling.lock() = None;
    }

    fn copy_out(&self, node: &Node, hollow: &HollowFile) -> FsResult<()> {
        let file = node.open(OFlags::WRONLY | OFlags::NONBLOCK)?;
        let stat = Stat::of_fd(&file)?;
        let mut at = 0;
        self.archive.read_whole(hollow.member, &mut |bytes| {
            file.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
            Ok(())
        })?;
        if at != stat.size {
            return Err(FsError::os("content of another size than the archive says", Errno::IO));
        }
        set_mtime(&file, stat.mtime_ns)?;
        // Before the note goes: without it the content counts.
        file.sync_data()?;
        Hollow::clear_durably(&file)
    }

    /// Do `act`, which takes the content of `node` away, and remember that the archive's does not count any more.
    ///
    /// # Errors
    /// What `act` answers.
    pub(super) fn emptied<T>(&self, node: &Arc<Node>, act: impl FnOnce() -> FsResult<T>) -> FsResult<T> {
        let act = || {
            // Now, when nothing is on its way that would say the opposite.
            self.is_rewritten(node.id);
            act()
        };
        let Some(hollow) = self.hollow(node) else { return act() };
        let mut is_full = hollow.at_rest()?;
        if *is_full {
            return act();
        }
        let done = act()?;
        Hollow::clear(node.open(OFlags::RDONLY | OFlags::NONBLOCK)?)?;
        *is_full = true;
        self.inodes.lock().hollow.remove(&node.id);
        Ok(done)
    }
}

impl HollowFile {
    /// Lock it with no content on its way.
    ///
    /// # Errors
    /// Why the content that was on its way did not come.
    fn at_rest(&self) -> FsResult<RwLockWriteGuard<'_, bool>> {
        loop {
            let filling = self.filling.lock().clone();
            if let Some(filling) = filling {
                filling.wait()?;
            }
            let is_full = self.is_full.write();
            // It may have been set on its way before this was locked.
            if self.filling.lock().is_none() {
                return Ok(is_full);
            }
        }
    }
}

/// Have the row of an inode follow a change of its times that says nothing of its content.
fn follow(recorder: &Recorder, inode: Id, row: Option<InodeRow>, stats: (&Stat, &Stat), intent: u64) -> FsResult<()> {
    let (before, after) = stats;
    match row.filter(|row| row.matches(before)) {
        Some(mut row) => {
            row.ctime_ns = after.ctime_ns;
            recorder.note(vec![table::set(table::inode_key(inode), &row)?], vec![intent]);
        }
        None => recorder.intents.end_now(&[intent]),
    }
    Ok(())
}

/// Remove what is in a directory that is not filled: nobody but us has made anything there.
pub(super) fn clear(dir: &OwnedFd) -> FsResult<()> {
    for name in listing::names(dir.try_clone()?)? {
        let is_dir = Stat::of_name(dir, &name)?.kind == Kind::Directory;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(dir, &name, flags)?;
    }
    Ok(())
}

/// Whether a member is what was last reported, as far as the archive says without being unpacked.
pub(super) fn is_as_recorded(row: &InodeRow, info: Option<&MemberInfo>) -> bool {
    match (&row.content, info) {
        (Settled::Hashed { hashes, .. }, Some(info)) => {
            row.size == info.size && info.blake3.is_none_or(|blake3| blake3 == hashes.blake3)
        }
        (Settled::Open, _) => false,
        _ => true,
    }
}

fn times(mtime_ns: i64) -> Timestamps {
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let seconds = mtime_ns.div_euclid(1_000_000_000);
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: omitted, last_modification }
}

fn set_mtime(fd: impl std::os::fd::AsFd, mtime_ns: i64) -> FsResult<()> {
    let set = |at: &Path| rustix::fs::utimensat(rustix::fs::CWD, at, &times(mtime_ns), AtFlags::empty());
    Ok(through_procfs(fd, set)?)
}
