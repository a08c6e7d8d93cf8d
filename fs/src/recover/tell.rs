//! Telling of one difference: the change, and the rows that follow from it.

use super::replay::Replay;
use super::tree::{Appeared, Gone};
use crate::bucket::NODE;
use crate::change::{Cause, Content, Evidence, Op, Row};
use crate::error::FsResult;
use crate::inode::Node;
use crate::intent::{At, Intent};
use crate::path::{BucketPath, if_short};
use crate::recorder::at_of;
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

impl Replay<'_> {
    /// Tell of a move; `occupant` is the inode that takes the old name in exchange.
    pub(super) fn moved(&mut self, new: &Appeared, from: &At, occupant: Option<&Node>) -> FsResult<()> {
        let Some(from_path) = self.path_by_rows(from)? else {
            return self.appeared(new);
        };
        let to = new.at();
        let to_path = self.place(new)?;
        let node = &new.node;
        let to_key = table::name_key(Id(to.0), OsStr::from_bytes(&to.1));
        let from_key = table::name_key(Id(from.0), OsStr::from_bytes(&from.1));
        let mut rows = vec![table::set(to_key, &NameRow { id: node.id.0, kind: node.kind })?];
        rows.extend(self.relinked(node, from, &to)?);
        let op = match occupant {
            Some(other) => {
                rows.push(table::set(from_key, &NameRow { id: other.id.0, kind: other.kind })?);
                rows.extend(self.relinked(other, &to, from)?);
                Op::Exchange { a: from_path, b: to_path }
            }
            None => {
                rows.extend(self.displaced(&to, node)?);
                rows.push(table::delete(from_key));
                Op::Rename { from: from_path, to: to_path }
            }
        };
        self.imply_dirs(new, &mut rows)?;
        self.emit(op, rows);
        self.arrived(new)
    }

    /// What moved is told of: now what it holds.
    pub(super) fn arrived(&mut self, new: &Appeared) -> FsResult<()> {
        let (node, stat) = (&new.node, &new.stat);
        match node.kind {
            Kind::File => self.look_at(node, Cause::Recovered, stat)?,
            Kind::Directory => self.new_mode(node, self.place(new)?, stat)?,
            _ => {}
        }
        Ok(())
    }

    /// Tell of the permission bits of a reported directory if they are new.
    pub(super) fn new_mode(&mut self, node: &Node, path: BucketPath, stat: &Stat) -> FsResult<()> {
        if let Some(mut row) = self.recorder.inode_row(node.id)?
            && row.mode != stat.mode
        {
            row.mode = stat.mode;
            let rows = vec![table::set(table::inode_key(node.id), &row)?];
            self.emit(Op::Mkdir { path, mode: stat.mode }, rows);
        }
        Ok(())
    }

    /// What a rename took the name of: a directory has no row any more, a file or symbolic link has its other names.
    fn displaced(&self, to: &At, node: &Node) -> FsResult<Option<Row>> {
        let row = self.recorder.name_row(Id(to.0), OsStr::from_bytes(&to.1))?;
        let Some(other) = row.filter(|row| row.id != node.id.0) else { return Ok(None) };
        let key = table::inode_key(Id(other.id));
        let Some(mut row) = self.recorder.inode_row(Id(other.id))? else { return Ok(None) };
        row.links.retain(|link| link != to);
        let gone = other.kind == Kind::Directory || row.links.is_empty();
        Ok(Some(if gone { table::delete(key) } else { table::set(key, &row)? }))
    }

    pub(super) fn relinked(&self, node: &Node, from: &At, to: &At) -> FsResult<Option<Row>> {
        let Some(mut row) = self.recorder.inode_row(node.id)? else {
            return Ok(None);
        };
        row.links.retain(|link| link != from && link != to);
        row.links.push(to.clone());
        Ok(Some(table::set(table::inode_key(node.id), &row)?))
    }

    pub(super) fn appeared(&mut self, new: &Appeared) -> FsResult<()> {
        let path = self.place(new)?;
        let (node, stat) = (&new.node, &new.stat);
        match node.kind {
            Kind::File => self.requeue(node, Cause::Recovered, stat)?,
            Kind::Directory => {
                let mut rows = self.recorder.dir_rows(node, &new.dir, &new.name, stat)?;
                self.imply_dirs(new, &mut rows)?;
                self.emit(Op::Mkdir { path, mode: stat.mode }, rows);
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&*node.fd()?, "", Vec::new())?.into_bytes();
                let mut rows = self.recorder.rows_of(node.id, &new.dir, &new.name, stat, Settled::Symlink)?;
                self.imply_dirs(new, &mut rows)?;
                let put = table::put(path, Content::Symlink { target }, stat, Evidence::Lease);
                self.emit(Op::Put(put), rows);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn gone(&mut self, lost: Gone) -> FsResult<()> {
        let key = table::name_key(Id(lost.at.0), OsStr::from_bytes(&lost.at.1));
        let Some(path) = self.path_by_rows(&lost.at)? else {
            // Its directory went with what took its place.
            self.recorder.stream.note(vec![table::delete(key)]);
            return Ok(());
        };
        if !lost.ours {
            self.recovery.foreign += 1;
            return Ok(());
        }
        let mut rows = vec![table::delete(key)];
        if let Some(bytes) = self.recorder.stream.row(&table::inode_key(Id(lost.row.id)))? {
            let mut row: InodeRow = table::decode(&bytes)?;
            row.links.retain(|link| *link != lost.at);
            let key = table::inode_key(Id(lost.row.id));
            rows.push(if row.links.is_empty() { table::delete(key) } else { table::set(key, &row)? });
        }
        let op = Op::gone(lost.row.kind == Kind::Directory, path);
        self.emit(op, rows);
        Ok(())
    }

    /// Have the content of `node` looked at. That may take longer than the names that were found with it, whose intents end
    /// with this recovery, so it has one of its own.
    pub(super) fn requeue(&mut self, node: &Arc<Node>, cause: Cause, stat: &Stat) -> FsResult<()> {
        self.recovery.recovered += 1;
        self.look_at(node, cause, stat)
    }

    pub(super) fn look_at(&self, node: &Arc<Node>, cause: Cause, stat: &Stat) -> FsResult<()> {
        let row = self.recorder.inode_row(node.id)?;
        let id = self.recorder.note_write(node, row.as_ref().map(InodeRow::left), cause == Cause::Foreign, NODE)?;
        let mut ids = vec![id];
        for name in node.names().iter().skip(1) {
            let intent = Intent::Link { at: at_of(name), inode: node.id.0 };
            ids.push(self.recorder.intents.note(intent, NODE.uid, NODE.pid)?);
        }
        self.recorder.mark_dirty(node, &mut node.writing.lock(), ids, cause, stat);
        self.recorder.queue.push(node, true);
        Ok(())
    }

    pub(super) fn emit(&mut self, op: Op, rows: Vec<Row>) {
        self.recorder.emit(self.names, Cause::Recovered, op, rows, Vec::new());
        self.recovery.recovered += 1;
    }

    /// The path of `new` in its directory where the ledger has that now.
    fn place(&self, new: &Appeared) -> FsResult<BucketPath> {
        match self.dir_by_rows(new.dir.id.0)? {
            Some(dir) => Ok(dir.join(&new.name)?),
            None => self.recorder.path(&new.dir, &new.name),
        }
    }

    /// Rows of the directories that `new` implies, when its own is not on the ledger.
    fn imply_dirs(&self, new: &Appeared, rows: &mut Vec<Row>) -> FsResult<()> {
        match self.dir_by_rows(new.dir.id.0)? {
            Some(_) => Ok(()),
            None => self.recorder.imply_dirs(&new.dir, rows),
        }
    }

    /// The path a reported name has on the ledger now; `None` when it is not reported, or has come too deep to be told of.
    pub(super) fn path_by_rows(&self, at: &At) -> FsResult<Option<BucketPath>> {
        let name = OsStr::from_bytes(&at.1);
        if self.recorder.name_row(Id(at.0), name)?.is_none() {
            return Ok(None);
        }
        let Some(dir) = self.dir_by_rows(at.0)? else { return Ok(None) };
        if_short(dir.join(name))
    }

    /// The path a reported directory has on the ledger now.
    fn dir_by_rows(&self, mut dir: u64) -> FsResult<Option<BucketPath>> {
        let mut names = Vec::new();
        while dir != Id::ROOT.0 {
            let Some((parent, name)) = self.parent_of(dir)? else {
                return Ok(None);
            };
            names.push(name);
            dir = parent;
        }
        names.reverse();
        if_short(BucketPath::new(names.join(&b'/')))
    }
}
