//! Rename, replace and exchange.

use super::LoopbackFs;
use super::names::{Place, open_place};
use crate::bucket::NODE;
use crate::change::{Cause, Content, Evidence, Op, Row};
use crate::error::FsResult;
use crate::inode::{Node, Writing};
use crate::intent::{At, Intent};
use crate::path::{BucketPath, PathError};
use crate::recorder::Namespace;
use crate::stat::{Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use crate::vfs::{Caller, Ino};
use rustix::fs::RenameFlags;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An inode that takes part in a rename: itself, its attributes before, its write side, locked.
struct Side<'a> {
    node: &'a Arc<Node>,
    before: Stat,
    writing: &'a mut Writing,
}

/// A rename that the backing has done.
struct Renamed<'a> {
    names: &'a Namespace<'a>,
    from: Place<'a>,
    to: Place<'a>,
    /// None of one that is too deep to be recorded.
    paths: (Option<BucketPath>, Option<BucketPath>),
    id: u64,
}

impl LoopbackFs {
    pub(super) fn rename_name(
        &self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        flags: RenameFlags,
        who: Caller,
    ) -> FsResult<()> {
        self.recorder.stream.admit(false)?;
        let (from, to) = (self.place(from.0, from.1)?, self.place(to.0, to.1)?);
        let names = self.recorder.lock_names();
        let (node, before) = self.recorder.inodes.open_name(&from.dir, from.name)?;
        let target = open_place(&self.recorder.inodes, &to)?;
        let paths = (self.recorder.path_told(&from.dir, from.name)?, self.recorder.path_told(&to.dir, to.name)?);
        let exchanges = flags.contains(RenameFlags::EXCHANGE);
        // What is in a directory cannot be told of there, and of an exchange no half.
        if (paths.1.is_none() && (node.kind == Kind::Directory || exchanges)) || (paths.0.is_none() && exchanges) {
            return Err(PathError::PathTooLong.into());
        }
        let same = target.as_ref().is_some_and(|(target, _)| Arc::ptr_eq(target, &node));
        // Held until the table follows: a writer that begins in between would see change times ahead of it.
        let mut writing = node.writing.lock();
        let mut target_writing = match &target {
            Some((target, _)) if !same => Some(target.writing.lock()),
            _ => None,
        };
        let intent = Intent::Rename { from: from.at(), to: to.at(), inode: node.id.0 };
        let (id, ()) = self.with_intent(intent, who, || {
            Ok(rustix::fs::renameat_with(&*from.fd, from.name, &*to.fd, to.name, flags)?)
        })?;
        if same {
            // Two names of one file: the kernel leaves both.
            self.recorder.intents.end_now(&[id]);
            return Ok(());
        }
        if let (Some(from), Some(to)) = &paths {
            self.recorder.inodes.moved(from, to, exchanges);
        }
        let done = Renamed { names: &names, from, to, paths, id };
        let moved = Side { node: &node, before, writing: &mut writing };
        let target = match (&target, &mut target_writing) {
            (Some((node, before)), Some(writing)) => Some(Side { node, before: *before, writing }),
            _ => None,
        };
        match target {
            Some(target) if exchanges => self.exchanged(&done, moved, target),
            target => self.renamed(&done, moved, target),
        }
    }

    fn renamed(&self, done: &Renamed<'_>, moved: Side<'_>, target: Option<Side<'_>>) -> FsResult<()> {
        let Renamed { from, to, .. } = done;
        let source_row = self.recorder.name_row(from.dir.id, from.name)?;
        moved.node.drop_name(from.dir.ino, from.name);
        moved.node.add_name(&to.dir, to.name);
        let mut rows = Vec::new();
        if let Some(target) = target {
            target.node.drop_name(to.dir.ino, to.name);
            if target.node.kind == Kind::Directory {
                rows.push(table::delete(table::inode_key(target.node.id)));
            } else {
                rows.extend(self.unlinked(target.node, target.writing, to, &target.before)?);
            }
        }
        let is_known = source_row.as_ref().is_some_and(|row| row.id == moved.node.id.0);
        let (true, (Some(from_path), Some(to_path))) = (is_known, done.paths.clone()) else {
            return self.renamed_unreported(done, moved, source_row, rows);
        };
        rows.push(table::delete(table::name_key(from.dir.id, from.name)));
        rows.extend(self.moved_rows(&moved, from, to)?);
        self.recorder.imply_dirs(&to.dir, &mut rows)?;
        // Content not reported yet is claimed by the name it has now: the intent lives as long as that.
        let ends = match &mut moved.writing.dirty {
            Some(dirty) => {
                dirty.intents.push(done.id);
                vec![]
            }
            None => vec![done.id],
        };
        let op = Op::Rename { from: from_path, to: to_path };
        self.recorder.emit(done.names, Cause::Mount, op, rows, ends);
        Ok(())
    }

    /// A rename of something the ledger does not know, or will not know because it goes too deep: its own put replaces what was
    /// at the new name. At the old name the ledger may still have it, or what it had replaced (`source`), and now nothing
    /// follows it there.
    fn renamed_unreported(
        &self,
        done: &Renamed<'_>,
        mut moved: Side<'_>,
        source: Option<NameRow>,
        mut rows: Vec<Row>,
    ) -> FsResult<()> {
        let Renamed { from, to, .. } = done;
        let (from_path, to_path) = done.paths.clone();
        let target_row = self.recorder.name_row(to.dir.id, to.name)?;
        let mut ops = Vec::new();
        if let Some(row) = source {
            rows.push(table::delete(table::name_key(from.dir.id, from.name)));
            ops.extend(from_path.map(|path| Op::gone(row.kind == Kind::Directory, path)));
            if row.id == moved.node.id.0 {
                rows.extend(self.moved_row(&moved, from, to)?);
                // A directory is told of with what is put below it next.
                moved.node.recorded.store(false, Ordering::Release);
            }
        }
        let put = match to_path.clone() {
            Some(path) => self.unreported(&mut moved, to, path, vec![done.id], &mut rows)?,
            None => None,
        };
        let cause = if put.is_some() { Cause::Foreign } else { Cause::Mount };
        ops.extend(put);
        // A file's own report ends its intents.
        let ends = if moved.node.kind == Kind::File && to_path.is_some() { vec![] } else { vec![done.id] };
        // A directory made behind the mount, or a special file: not recorded, but it may have taken a recorded name.
        if (to_path.is_none() || !matches!(moved.node.kind, Kind::File | Kind::Symlink))
            && let Some(row) = target_row
        {
            rows.push(table::delete(table::name_key(to.dir.id, to.name)));
            ops.extend(to_path.map(|path| Op::gone(row.kind == Kind::Directory, path)));
        }
        if ops.is_empty() {
            self.recorder.note(rows, ends);
        } else {
            self.recorder.emit_all(done.names, cause, ops, rows, ends);
        }
        Ok(())
    }

    /// Something the ledger does not know has come to `to`: a file's content is looked at, a symbolic link is put.
    fn unreported(
        &self,
        moved: &mut Side<'_>,
        to: &Place<'_>,
        path: BucketPath,
        intents: Vec<u64>,
        rows: &mut Vec<Row>,
    ) -> FsResult<Option<Op>> {
        let node = moved.node;
        if node.kind == Kind::Symlink {
            let stat = to.stat()?;
            rows.extend(self.recorder.rows_of(node.id, &to.dir, to.name, &stat, Settled::Symlink)?);
            self.recorder.imply_dirs(&to.dir, rows)?;
            let content = Content::Symlink { target: self.target(node)? };
            return Ok(Some(Op::Put(table::put(path, content, &stat, Evidence::Lease))));
        }
        if node.kind == Kind::File {
            let clean = moved.writing.dirty.is_none();
            let cause = if clean { Cause::Foreign } else { Cause::Mount };
            self.recorder.mark_dirty(node, moved.writing, intents, cause, &moved.before);
            if clean {
                self.recorder.queue.push_locked(node, moved.writing);
            }
        }
        Ok(None)
    }

    /// Rows that follow a reported name from one place to another.
    fn moved_rows(&self, moved: &Side<'_>, from: &Place<'_>, to: &Place<'_>) -> FsResult<Vec<Row>> {
        let node = moved.node;
        let name_row = NameRow { id: node.id.0, kind: node.kind };
        let mut rows = vec![table::set(table::name_key(to.dir.id, to.name), &name_row)?];
        rows.extend(self.moved_row(moved, from, to)?);
        Ok(rows)
    }

    fn moved_row(&self, moved: &Side<'_>, from: &Place<'_>, to: &Place<'_>) -> FsResult<Option<Row>> {
        let Some(mut row) = self.recorder.inode_row(moved.node.id)? else { return Ok(None) };
        row.moved(&moved.before, &to.stat()?, &from.at(), to.at());
        Ok(Some(table::set(table::inode_key(moved.node.id), &row)?))
    }

    fn exchanged(&self, done: &Renamed<'_>, mut a: Side<'_>, mut b: Side<'_>) -> FsResult<()> {
        let Renamed { from, to, .. } = done;
        let a_known = self.recorder.name_row(from.dir.id, from.name)?.is_some();
        let b_known = self.recorder.name_row(to.dir.id, to.name)?.is_some();
        a.node.drop_name(from.dir.ino, from.name);
        b.node.drop_name(to.dir.ino, to.name);
        a.node.add_name(&to.dir, to.name);
        b.node.add_name(&from.dir, from.name);
        let mut rows = Vec::new();
        let (Some(a_path), Some(b_path)) = done.paths.clone() else {
            return Err(PathError::PathTooLong.into());
        };
        let mut ops = Vec::new();
        // Of what the ledger knows nothing, it is told anew; the other one moves.
        match (a_known, b_known) {
            (true, true) => {
                rows.extend(self.moved_rows(&a, from, to)?);
                rows.extend(self.moved_rows(&b, to, from)?);
                ops.push(Op::Exchange { a: a_path, b: b_path });
            }
            (true, false) => {
                rows.push(table::delete(table::name_key(from.dir.id, from.name)));
                rows.extend(self.moved_rows(&a, from, to)?);
                ops.push(Op::Rename { from: a_path.clone(), to: b_path });
                ops.extend(self.unreported(&mut b, from, a_path, vec![], &mut rows)?);
            }
            (false, true) => {
                rows.push(table::delete(table::name_key(to.dir.id, to.name)));
                rows.extend(self.moved_rows(&b, to, from)?);
                ops.push(Op::Rename { from: b_path.clone(), to: a_path });
                ops.extend(self.unreported(&mut a, to, b_path, vec![], &mut rows)?);
            }
            (false, false) => {
                ops.extend(self.unreported(&mut a, to, b_path, vec![], &mut rows)?);
                ops.extend(self.unreported(&mut b, from, a_path, vec![], &mut rows)?);
            }
        }
        let ends = if a.writing.dirty.is_none() && b.writing.dirty.is_none() { vec![done.id] } else { vec![] };
        if ops.is_empty() {
            self.recorder.note(rows, ends);
        } else {
            self.recorder.emit_all(done.names, Cause::Mount, ops, rows, ends);
        }
        // Content not reported yet is claimed by the name it has now: the intent lives as long as that. Each side has one of its
        // own, because the other may be reported, or removed, before it.
        match (&mut a.writing.dirty, &mut b.writing.dirty) {
            (None, None) => {}
            (Some(dirty), None) | (None, Some(dirty)) => dirty.intents.push(done.id),
            (Some(dirty), Some(other)) => {
                dirty.intents.push(done.id);
                let second = Intent::Link { at: from.at(), inode: b.node.id.0 };
                other.intents.push(self.recorder.intents.note(second, NODE.uid, NODE.pid)?);
            }
        }
        Ok(())
    }
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
