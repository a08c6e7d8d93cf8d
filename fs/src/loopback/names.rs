//! Operations on names: create, link, unlink, rename and directories. Each notes its intent, acts on the backing and numbers
//! its change under the namespace lock, so that ledger order is the order in which things happened.

use super::LoopbackFs;
use crate::bucket::NODE;
use crate::change::{Cause, Content, Evidence, Op, Row};
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::intent::{At, Intent};
use crate::recorder::Namespace;
use crate::stat::{Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use crate::vfs::{Attr, Caller, Ino, Opened};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

fn at(parent: &Node, name: &OsStr) -> At {
    (parent.ino.0, name.as_bytes().to_vec())
}

/// One end of an operation on names: a directory in use, its descriptor and a name in it.
struct Place<'a> {
    dir: Arc<Node>,
    fd: Arc<OwnedFd>,
    name: &'a OsStr,
}

impl Place<'_> {
    fn at(&self) -> At {
        at(&self.dir, self.name)
    }

    fn stat(&self) -> FsResult<Stat> {
        Stat::of_name(&*self.fd, self.name)
    }
}

impl LoopbackFs {
    fn place<'a>(&self, parent: Ino, name: &'a OsStr) -> FsResult<Place<'a>> {
        let dir = self.node(parent)?;
        let fd = dir.fd()?;
        Ok(Place { dir, fd, name })
    }

    /// Note `intent`, do `act`, and end the intent at once when that failed.
    fn with_intent<T>(&self, intent: Intent, who: Caller, act: impl FnOnce() -> FsResult<T>) -> FsResult<(u64, T)> {
        let id = self.recorder.intents.note(intent, who.uid, who.pid)?;
        match act() {
            Ok(done) => Ok((id, done)),
            Err(error) => {
                self.recorder.intents.end_now(&[id]);
                Err(error)
            }
        }
    }

    pub(super) fn create_file(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        flags: i32,
        who: Caller,
    ) -> FsResult<(Attr, Opened)> {
        self.recorder.stream.admit(false)?;
        let place = self.place(parent, name)?;
        let made = self.make_file(&place, mode, flags, who);
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
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        self.recorder.inodes.hold(&node);
        node.writing.lock().writers += u32::from(writable);
        if !writable {
            self.recorder.queue.push(&node, false);
        }
        Ok((Self::attr(&node, stat), self.opened(&node, file, writable)))
    }

    /// Make a new regular file and leave it dirty.
    fn make_file(&self, place: &Place<'_>, mode: u32, flags: i32, who: Caller) -> FsResult<(Arc<Node>, File, Stat)> {
        let flags = OFlags::from_bits_retain((flags & super::PASSED_FLAGS) as u32)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let (id, file) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            let file = File::from(rustix::fs::openat(&*place.fd, place.name, flags, mode)?);
            give_to(place, who, mode).inspect_err(|_| take_back(place, AtFlags::empty()))?;
            Ok(file)
        })?;
        let (node, stat) = self.recorder.inodes.open_name(&place.dir, place.name)?;
        self.recorder.mark_dirty(&node, vec![id], Cause::Mount, &Stat { mtime_ns: i64::MIN, ..stat });
        Ok((node, file, stat))
    }

    /// Put the finished file `temporary` in `dir` in the place of `name`, dirty with the cause of a put.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn replace(&self, dir: &Arc<Node>, temporary: &OsStr, name: &OsStr, stage: u64) -> FsResult<Arc<Node>> {
        let fd = dir.fd()?;
        let from = Place { dir: dir.clone(), fd: fd.clone(), name: temporary };
        let to = Place { dir: dir.clone(), fd, name };
        let _names = self.recorder.lock_names();
        let (node, stat) = self.recorder.inodes.open_name(dir, temporary)?;
        let target = match self.recorder.inodes.open_name(dir, name) {
            Ok(target) => Some(target),
            Err(error) if error.errno() == Errno::NOENT => None,
            Err(error) => return Err(error),
        };
        let intent = Intent::Rename { from: from.at(), to: to.at(), ino: node.ino.0 };
        let (id, ()) =
            self.with_intent(intent, NODE, || Ok(rustix::fs::renameat(&*from.fd, temporary, &*to.fd, name)?))?;
        node.drop_name(dir.ino, temporary);
        node.add_name(dir, name);
        if let Some((target, before)) = &target {
            target.drop_name(dir.ino, name);
            let rows = self.unlinked(target, &to, before)?;
            self.recorder.stream.note(rows.into_iter().collect());
        }
        let before = Stat { mtime_ns: i64::MIN, ..stat };
        self.recorder.mark_dirty(&node, vec![stage, id], Cause::Put, &before);
        Ok(node)
    }

    /// Make the directory `name` that a put below it implies; the table learns of it with that put.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn make_parent(&self, dir: &Arc<Node>, name: &OsStr) -> FsResult<Arc<Node>> {
        let intent = Intent::Create { at: at(dir, name) };
        let (id, ()) =
            self.with_intent(intent, NODE, || Ok(rustix::fs::mkdirat(&*dir.fd()?, name, Mode::from_raw_mode(0o755))?))?;
        self.recorder.intents.end_now(&[id]);
        Ok(self.recorder.inodes.open_name(dir, name)?.0)
    }

    /// Remove `name` in `dir` for another cause than a program in the mount.
    ///
    /// # Errors
    /// `EISDIR` for a directory; what the kernel answers.
    pub fn remove_in(&self, dir: &Arc<Node>, name: &OsStr, cause: Cause) -> FsResult<u64> {
        let place = Place { dir: dir.clone(), fd: dir.fd()?, name };
        if place.stat()?.kind == Kind::Directory {
            return Err(Errno::ISDIR.into());
        }
        self.remove_at(&place, cause, NODE)
    }

    pub(super) fn make_node(&self, parent: Ino, name: &OsStr, mode: u32, rdev: u64, who: Caller) -> FsResult<Attr> {
        self.recorder.stream.admit(false)?;
        let place = self.place(parent, name)?;
        let kind = FileType::from_raw_mode(mode);
        if matches!(kind, FileType::RegularFile | FileType::Unknown) {
            let (node, file, stat) = self.make_file(&place, mode, libc::O_RDONLY, who)?;
            drop(file);
            self.recorder.inodes.hold(&node);
            self.recorder.queue.push(&node, false);
            return Ok(Self::attr(&node, stat));
        }
        let bits = Mode::from_raw_mode(mode & 0o7777);
        let (id, ()) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            rustix::fs::mknodat(&*place.fd, name, kind, bits, rdev)?;
            give_to(&place, who, bits).inspect_err(|_| take_back(&place, AtFlags::empty()))
        })?;
        // Special files work and are not recorded.
        self.recorder.intents.end_now(&[id]);
        self.entry(&place.dir, name)
    }

    pub(super) fn make_dir(&self, parent: Ino, name: &OsStr, mode: u32, who: Caller) -> FsResult<Attr> {
        self.recorder.stream.admit(false)?;
        let place = self.place(parent, name)?;
        let bits = Mode::from_raw_mode(mode & 0o7777);
        let names = self.recorder.lock_names();
        let path = self.recorder.path(&place.dir, name)?;
        let (id, ()) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            rustix::fs::mkdirat(&*place.fd, name, bits)?;
            give_to(&place, who, bits).inspect_err(|_| take_back(&place, AtFlags::REMOVEDIR))
        })?;
        let attr = self.entry(&place.dir, name)?;
        let node = self.node(attr.ino)?;
        let mut rows = self.recorder.dir_rows(&node, &place.dir, name, &attr.stat)?;
        self.recorder.imply_dirs(&place.dir, &mut rows)?;
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
        let (id, ()) = self.with_intent(Intent::Create { at: place.at() }, who, || {
            rustix::fs::symlinkat(OsStr::from_bytes(target), &*place.fd, name)?;
            let given = give_to(&place, who, Mode::empty());
            given.inspect_err(|_| take_back(&place, AtFlags::empty()))
        })?;
        let attr = self.entry(&place.dir, name)?;
        let mut rows = self.recorder.rows_of(attr.ino, &place.dir, name, &attr.stat, Settled::Symlink)?;
        self.recorder.imply_dirs(&place.dir, &mut rows)?;
        let content = Content::Symlink { target: target.to_vec() };
        let put = table::put(path, content, &attr.stat, Evidence::Lease);
        self.recorder.emit(&names, Cause::Mount, Op::Put(put), rows, vec![id]);
        Ok(attr)
    }

    pub(super) fn make_link(&self, ino: Ino, parent: Ino, name: &OsStr, who: Caller) -> FsResult<Attr> {
        self.recorder.stream.admit(false)?;
        let node = self.node(ino)?;
        let place = self.place(parent, name)?;
        let names = self.recorder.lock_names();
        let path = self.recorder.path(&place.dir, name)?;
        let before = node.stat()?;
        let intent = Intent::Link { at: place.at(), ino: ino.0 };
        let (id, ()) = self.with_intent(intent, who, || {
            let from = crate::lease::proc_path(&*node.fd()?);
            let follow = AtFlags::SYMLINK_FOLLOW;
            Ok(rustix::fs::linkat(rustix::fs::CWD, from, &*place.fd, name, follow)?)
        })?;
        node.add_name(&place.dir, name);
        let after = node.stat()?;
        self.report_link(&names, &node, &place, path, (&before, &after), id)?;
        self.recorder.inodes.hold(&node);
        Ok(Self::attr(&node, after))
    }

    /// A new name of a clean file repeats what is known of it; of any other file it comes with its content.
    fn report_link(
        &self,
        names: &Namespace<'_>,
        node: &Arc<Node>,
        place: &Place<'_>,
        path: crate::path::BucketPath,
        (before, after): (&Stat, &Stat),
        id: u64,
    ) -> FsResult<()> {
        if !matches!(node.kind, Kind::File | Kind::Symlink) {
            self.recorder.intents.end_now(&[id]);
            return Ok(());
        }
        let row = self.recorder.inode_row(node.ino, node.btime_ns)?;
        let clean = node.writing.lock().dirty.is_none();
        let known = row.filter(|row| clean && row.matches(before));
        let put = known.as_ref().and_then(|row| match row.content {
            Settled::Symlink => {
                let target = self.target(node).ok()?;
                let content = Content::Symlink { target };
                Some(table::put(path.clone(), content, after, Evidence::Lease))
            }
            _ => row.put_again(path.clone(), after),
        });
        let (Some(mut row), Some(put)) = (known, put) else {
            let cause = if clean { Cause::Foreign } else { Cause::Mount };
            self.recorder.mark_dirty(node, vec![id], cause, after);
            self.recorder.queue.push(node, false);
            return Ok(());
        };
        row.ctime_ns = after.ctime_ns;
        row.links.push(place.at());
        let name_row = NameRow { ino: node.ino.0, kind: node.kind };
        let mut rows = vec![
            table::set(table::inode_key(node.ino), &row)?,
            table::set(table::name_key(place.dir.ino, place.name), &name_row)?,
        ];
        self.recorder.imply_dirs(&place.dir, &mut rows)?;
        self.recorder.emit(names, Cause::Mount, Op::Put(put), rows, vec![id]);
        Ok(())
    }

    fn target(&self, node: &Node) -> FsResult<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&*node.fd()?, "", Vec::new())?.into_bytes())
    }

    pub(super) fn remove_name(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.remove_at(&self.place(parent, name)?, Cause::Mount, who).map(drop)
    }

    fn remove_at(&self, place: &Place<'_>, cause: Cause, who: Caller) -> FsResult<u64> {
        let name = place.name;
        self.recorder.stream.admit(true)?;
        let names = self.recorder.lock_names();
        let path = self.recorder.path(&place.dir, name)?;
        // Opened before it goes: what is left under other names must be looked at afterwards.
        let (node, before) = self.recorder.inodes.open_name(&place.dir, name)?;
        let intent = Intent::Remove { at: place.at(), ino: node.ino.0 };
        let (id, ()) =
            self.with_intent(intent, who, || Ok(rustix::fs::unlinkat(&*place.fd, name, AtFlags::empty())?))?;
        node.drop_name(place.dir.ino, name);
        let mut rows = vec![table::delete(table::name_key(place.dir.ino, name))];
        rows.extend(self.unlinked(&node, place, &before)?);
        if node.kind.is_recorded() {
            return Ok(self.recorder.emit(&names, cause, Op::Remove { path }, rows, vec![id]));
        }
        self.recorder.stream.note(rows);
        self.recorder.intents.end_now(&[id]);
        Ok(self.recorder.stream.last())
    }

    /// What the table says of `node` after it lost the name at `place`. `before` is from before that.
    fn unlinked(&self, node: &Arc<Node>, place: &Place<'_>, before: &Stat) -> FsResult<Option<Row>> {
        let after = node.stat()?;
        if after.nlink == 0 {
            let mut writing = node.writing.lock();
            if writing.writers == 0
                && let Some(dirty) = writing.dirty.take()
            {
                self.recorder.intents.end_after(self.recorder.stream.last() + 1, dirty.intents);
                self.recorder.mark_clean(node);
            }
            self.recorder.outboards.remove(node.ino.0);
            return Ok(Some(table::delete(table::inode_key(node.ino))));
        }
        let Some(mut row) = self.recorder.inode_row(node.ino, node.btime_ns)? else {
            return Ok(None);
        };
        if row.matches(before) {
            row.ctime_ns = after.ctime_ns;
        }
        let gone = place.at();
        row.links.retain(|link| *link != gone);
        Ok(Some(table::set(table::inode_key(node.ino), &row)?))
    }

    pub(super) fn remove_dir(&self, parent: Ino, name: &OsStr, who: Caller) -> FsResult<()> {
        self.recorder.stream.admit(true)?;
        let place = self.place(parent, name)?;
        let names = self.recorder.lock_names();
        let path = self.recorder.path(&place.dir, name)?;
        let (node, _) = self.recorder.inodes.open_name(&place.dir, name)?;
        let known = self.recorder.name_row(place.dir.ino, name)?;
        let intent = Intent::Remove { at: place.at(), ino: node.ino.0 };
        let (id, ()) =
            self.with_intent(intent, who, || Ok(rustix::fs::unlinkat(&*place.fd, name, AtFlags::REMOVEDIR)?))?;
        node.drop_name(place.dir.ino, name);
        if known.is_none() {
            self.recorder.intents.end_now(&[id]);
            return Ok(());
        }
        let rows = vec![table::delete(table::name_key(place.dir.ino, name)), table::delete(table::inode_key(node.ino))];
        self.recorder.emit(&names, Cause::Mount, Op::Rmdir { path }, rows, vec![id]);
        Ok(())
    }

    pub(super) fn rename_name(
        &self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        flags: RenameFlags,
        who: Caller,
    ) -> FsResult<()> {
        self.recorder.stream.admit(false)?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(super::not_supported("rename with whiteout"));
        }
        let (from, to) = (self.place(from.0, from.1)?, self.place(to.0, to.1)?);
        let names = self.recorder.lock_names();
        let moved = self.recorder.inodes.open_name(&from.dir, from.name)?;
        let target = match self.recorder.inodes.open_name(&to.dir, to.name) {
            Ok(target) => Some(target),
            Err(error) if error.errno() == Errno::NOENT => None,
            Err(error) => return Err(error),
        };
        let paths = (self.recorder.path(&from.dir, from.name)?, self.recorder.path(&to.dir, to.name)?);
        let same = target.as_ref().is_some_and(|(t, _)| Arc::ptr_eq(t, &moved.0));
        let intent = Intent::Rename { from: from.at(), to: to.at(), ino: moved.0.ino.0 };
        let (id, ()) = self.with_intent(intent, who, || {
            let done = rustix::fs::renameat_with(&*from.fd, from.name, &*to.fd, to.name, flags);
            Ok(done?)
        })?;
        let rename = Rename { names: &names, from, to, paths, id };
        if same {
            // Two names of one file: the kernel leaves both.
            self.recorder.intents.end_now(&[id]);
            return Ok(());
        }
        match target {
            Some(target) if flags.contains(RenameFlags::EXCHANGE) => self.exchanged(&rename, moved, target),
            target => self.renamed(&rename, moved, target),
        }
    }

    fn renamed(
        &self,
        rename: &Rename<'_>,
        (node, before): (Arc<Node>, Stat),
        target: Option<(Arc<Node>, Stat)>,
    ) -> FsResult<()> {
        let Rename { from, to, .. } = rename;
        let source_row = self.recorder.name_row(from.dir.ino, from.name)?;
        let target_row = self.recorder.name_row(to.dir.ino, to.name)?;
        node.drop_name(from.dir.ino, from.name);
        node.add_name(&to.dir, to.name);
        let mut rows = Vec::new();
        if let Some((target, target_before)) = &target {
            target.drop_name(to.dir.ino, to.name);
            if target.kind == Kind::Directory {
                rows.push(table::delete(table::inode_key(target.ino)));
            } else {
                rows.extend(self.unlinked(target, to, target_before)?);
            }
        }
        if source_row.is_some_and(|row| row.ino == node.ino.0) {
            rows.push(table::delete(table::name_key(from.dir.ino, from.name)));
            rows.extend(self.moved_rows(&node, &before, from, to)?);
            self.recorder.imply_dirs(&to.dir, &mut rows)?;
            let (from, to) = rename.paths.clone();
            let op = Op::Rename { from, to };
            self.recorder.emit(rename.names, Cause::Mount, op, rows, vec![rename.id]);
            return Ok(());
        }
        self.renamed_unreported(rename, &node, &before, target_row.as_ref(), rows)
    }

    /// A rename of something the ledger does not know: its own put will replace what was at the new name.
    fn renamed_unreported(
        &self,
        rename: &Rename<'_>,
        node: &Arc<Node>,
        before: &Stat,
        target_row: Option<&NameRow>,
        mut rows: Vec<Row>,
    ) -> FsResult<()> {
        let path = rename.paths.1.clone();
        if node.kind == Kind::File {
            self.recorder.stream.note(rows);
            let clean = node.writing.lock().dirty.is_none();
            let cause = if clean { Cause::Foreign } else { Cause::Mount };
            self.recorder.mark_dirty(node, vec![rename.id], cause, before);
            if clean {
                self.recorder.queue.push(node, false);
            }
            return Ok(());
        }
        let Some(target_row) = target_row else {
            self.recorder.stream.note(rows);
            self.recorder.intents.end_now(&[rename.id]);
            return Ok(());
        };
        let key = table::name_key(rename.to.dir.ino, rename.to.name);
        rows.push(table::delete(key));
        let op = match target_row.kind {
            Kind::Directory => Op::Rmdir { path },
            _ => Op::Remove { path },
        };
        self.recorder.emit(rename.names, Cause::Mount, op, rows, vec![rename.id]);
        Ok(())
    }

    /// Rows that follow a reported name from one place to another.
    fn moved_rows(&self, node: &Arc<Node>, before: &Stat, from: &Place<'_>, to: &Place<'_>) -> FsResult<Vec<Row>> {
        let name_row = NameRow { ino: node.ino.0, kind: node.kind };
        let mut rows = vec![table::set(table::name_key(to.dir.ino, to.name), &name_row)?];
        if let Some(mut row) = self.recorder.inode_row(node.ino, node.btime_ns)? {
            row.moved(before, &to.stat()?, &from.at(), to.at());
            rows.push(table::set(table::inode_key(node.ino), &row)?);
        }
        Ok(rows)
    }

    fn exchanged(
        &self,
        rename: &Rename<'_>,
        (a, a_before): (Arc<Node>, Stat),
        (b, b_before): (Arc<Node>, Stat),
    ) -> FsResult<()> {
        let Rename { from, to, .. } = rename;
        let a_known = self.recorder.name_row(from.dir.ino, from.name)?.is_some();
        let b_known = self.recorder.name_row(to.dir.ino, to.name)?.is_some();
        a.drop_name(from.dir.ino, from.name);
        b.drop_name(to.dir.ino, to.name);
        a.add_name(&to.dir, to.name);
        b.add_name(&from.dir, from.name);
        let mut rows = Vec::new();
        if a_known && b_known {
            rows.extend(self.moved_rows(&a, &a_before, from, to)?);
            rows.extend(self.moved_rows(&b, &b_before, to, from)?);
            let (a, b) = rename.paths.clone();
            let op = Op::Exchange { a, b };
            self.recorder.emit(rename.names, Cause::Mount, op, rows, vec![rename.id]);
            return Ok(());
        }
        // Of two names the ledger knows one at most: that one moves, the other comes with its content.
        let paths = rename.paths.clone();
        let (op, unknown, before) = if a_known {
            rows.push(table::delete(table::name_key(from.dir.ino, from.name)));
            rows.extend(self.moved_rows(&a, &a_before, from, to)?);
            (Some(Op::Rename { from: paths.0, to: paths.1 }), vec![&b], b_before)
        } else if b_known {
            rows.push(table::delete(table::name_key(to.dir.ino, to.name)));
            rows.extend(self.moved_rows(&b, &b_before, to, from)?);
            (Some(Op::Rename { from: paths.1, to: paths.0 }), vec![&a], a_before)
        } else {
            (None, vec![&a, &b], a_before)
        };
        if let Some(op) = op {
            self.recorder.emit(rename.names, Cause::Mount, op, rows, vec![]);
        }
        for node in unknown {
            let clean = node.writing.lock().dirty.is_none();
            if node.kind == Kind::File {
                let cause = if clean { Cause::Foreign } else { Cause::Mount };
                self.recorder.mark_dirty(node, vec![], cause, &before);
                self.recorder.queue.push(node, false);
            }
        }
        self.recorder.intents.end_after(self.recorder.stream.last(), vec![rename.id]);
        Ok(())
    }
}

/// A rename that the backing has done.
struct Rename<'a> {
    names: &'a Namespace<'a>,
    from: Place<'a>,
    to: Place<'a>,
    paths: (crate::path::BucketPath, crate::path::BucketPath),
    id: u64,
}

impl InodeRow {
    /// Follow a rename, which moves the change time on most file systems.
    fn moved(&mut self, before: &Stat, after: &Stat, from: &At, to: At) {
        if self.matches(before) {
            self.ctime_ns = after.ctime_ns;
        }
        self.links.retain(|link| link != from && *link != to);
        self.links.push(to);
    }
}

/// Give what was just made at `place` to the caller. A new owner costs the set-id bits, so they are set again.
fn give_to(place: &Place<'_>, who: Caller, mode: Mode) -> FsResult<()> {
    let stat = place.stat()?;
    let inherits_group = Stat::of_fd(&*place.fd)?.mode & libc::S_ISGID != 0;
    let uid = (stat.uid != who.uid).then(|| rustix::process::Uid::from_raw(who.uid));
    let gid = (stat.gid != who.gid && !inherits_group).then(|| rustix::process::Gid::from_raw(who.gid));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    rustix::fs::chownat(&*place.fd, place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if mode.intersects(Mode::SUID | Mode::SGID) {
        rustix::fs::chmodat(&*place.fd, place.name, mode, AtFlags::empty())?;
    }
    Ok(())
}

/// Undo a creation whose second half failed.
fn take_back(place: &Place<'_>, flags: AtFlags) {
    if let Err(errno) = rustix::fs::unlinkat(&*place.fd, place.name, flags) {
        tracing::warn!(name = ?place.name, error = %FsError::from(errno), "half made file left");
    }
}
