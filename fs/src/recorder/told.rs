//! What the table has at a path, whether or not anything is there: the names in it hang on the inodes that were reported, which
//! may be others by now.

use super::{Namespace, Recorder};
use crate::change::{Hashes, Row};
use crate::error::FsResult;
use crate::inode::Node;
use crate::intent::At;
use crate::path::BucketPath;
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

impl Recorder {
    /// Where the table has `path`, and what; none when it has nothing there.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn told_at(&self, path: &BucketPath) -> FsResult<Option<(At, NameRow)>> {
        let (mut dir, mut told) = (Id::ROOT, None);
        for name in path.components() {
            let Some(row) = self.name_row(dir, name)? else { return Ok(None) };
            let at = (dir.0, name.as_bytes().to_vec());
            dir = Id(row.id);
            told = Some((at, row));
        }
        Ok(told)
    }

    /// The reported names of a directory, in byte order, as they will be once everything is delivered. The caller holds the
    /// namespace lock.
    ///
    /// # Errors
    /// What the sink answers.
    fn names_told(&self, dir: Id) -> FsResult<Vec<(Vec<u8>, NameRow)>> {
        let prefix = table::name_prefix(dir);
        let rows = self.stream.rows(&prefix)?.into_iter();
        rows.map(|(key, row)| Ok((key[prefix.len()..].to_vec(), table::decode(&row)?))).collect()
    }

    /// Rows that take the reported name at `at` away, and with a directory all that is reported in it.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn untold(&self, _names: &Namespace<'_>, at: At, row: &NameRow, rows: &mut Vec<Row>) -> FsResult<()> {
        let mut gone = vec![(at, row.clone())];
        while let Some((at, row)) = gone.pop() {
            rows.push(table::delete(table::name_key(Id(at.0), OsStr::from_bytes(&at.1))));
            if row.kind == Kind::Directory {
                let below = self.names_told(Id(row.id))?.into_iter();
                gone.extend(below.map(|(name, below)| ((row.id, name), below)));
                rows.push(table::delete(table::inode_key(Id(row.id))));
            } else if let Some(mut inode) = self.inode_row(Id(row.id))? {
                inode.links.retain(|link| *link != at);
                let key = table::inode_key(Id(row.id));
                rows.push(if inode.links.is_empty() { table::delete(key) } else { table::set(key, &inode)? });
            }
        }
        Ok(())
    }

    /// Take what is at `path` for what the table has there, though its inodes may be others: a tree that was restored from a copy
    /// has new ones. Directories and symbolic links are known by their name, a file by what was found in it: its attributes
    /// before it was hashed, and its hashes.
    ///
    /// # Errors
    /// What the sink or the backing answers.
    pub fn recognize(
        &self,
        _names: &Namespace<'_>,
        path: &BucketPath,
        content: Option<(&Stat, &Hashes)>,
    ) -> FsResult<()> {
        let mut dir = self.inodes.root().clone();
        for name in path.components() {
            let (node, stat) = self.inodes.open_name(&dir, name)?;
            let Some(row) = self.name_row(dir.id, name)?.filter(|row| row.kind == node.kind) else { return Ok(()) };
            match node.kind {
                Kind::File => return self.recognize_file((&dir, name), &row, (&node, &stat), content),
                _ if row.id == node.id.0 => {}
                _ => self.succeed((&dir, name), &row, (&node, &stat))?,
            }
            dir = node;
        }
        Ok(())
    }

    /// `node` is what was reported at this name under another inode: a symbolic link, or a directory with all that is in it.
    /// The caller holds the namespace lock.
    ///
    /// # Errors
    /// What the sink answers.
    pub(super) fn succeed(
        &self,
        (dir, name): (&Node, &OsStr),
        told: &NameRow,
        (node, stat): (&Arc<Node>, &Stat),
    ) -> FsResult<()> {
        let was = self.inode_row(Id(told.id))?;
        let mut rows = Vec::new();
        if node.kind == Kind::Directory {
            rows.push(table::delete(table::inode_key(Id(told.id))));
            for (child, row) in self.names_told(Id(told.id))? {
                self.rehomed((Id(told.id), node.id), &child, &row, &mut rows)?;
            }
            rows.extend(self.dir_rows(node, dir, name, stat)?);
        } else {
            self.left_behind(dir, name, told, &mut rows)?;
            rows.extend(self.rows_of(node.id, dir, name, stat, Settled::Symlink)?);
        }
        // As it was reported: what differs from that is still to be told.
        if let (Some(was), Some(mut now)) = (was, self.inode_of(node.id, &rows)?) {
            now.mode = was.mode;
            rows.push(table::set(table::inode_key(node.id), &now)?);
        }
        self.stream.note(rows);
        Ok(())
    }

    fn inode_of(&self, id: Id, rows: &[Row]) -> FsResult<Option<InodeRow>> {
        let key = table::inode_key(id);
        let row = rows.iter().rev().find(|row| row.key == key).and_then(|row| row.value.as_deref());
        Ok(row.map(table::decode).transpose()?)
    }

    /// Rows of a name that was reported in the directory `was` and is one of the directory `now`.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn rehomed(&self, (was, now): (Id, Id), name: &[u8], row: &NameRow, rows: &mut Vec<Row>) -> FsResult<()> {
        rows.push(table::delete(table::name_key(was, OsStr::from_bytes(name))));
        rows.push(table::set(table::name_key(now, OsStr::from_bytes(name)), row)?);
        if let Some(mut inode) = self.inode_row(Id(row.id))? {
            for link in inode.links.iter_mut().filter(|(dir, link)| *dir == was.0 && link == name) {
                link.0 = now.0;
            }
            rows.push(table::set(table::inode_key(Id(row.id)), &inode)?);
        }
        Ok(())
    }

    /// Rows of the inode that had this name when it was reported, and has it no more.
    fn left_behind(&self, dir: &Node, name: &OsStr, told: &NameRow, rows: &mut Vec<Row>) -> FsResult<Option<InodeRow>> {
        let Some(was) = self.inode_row(Id(told.id))? else { return Ok(None) };
        let mut left = was.clone();
        left.links.retain(|(at, link)| (*at, link.as_slice()) != (dir.id.0, name.as_bytes()));
        let key = table::inode_key(Id(told.id));
        rows.push(if left.links.is_empty() { table::delete(key) } else { table::set(key, &left)? });
        Ok(Some(was))
    }

    fn recognize_file(
        &self,
        (dir, name): (&Arc<Node>, &OsStr),
        told: &NameRow,
        (node, stat): (&Arc<Node>, &Stat),
        content: Option<(&Stat, &Hashes)>,
    ) -> FsResult<()> {
        let Some((hashed, found)) = content else { return Ok(()) };
        let same = |a: &Stat, b: &Stat| (a.dev, a.ino, a.size, a.ctime_ns) == (b.dev, b.ino, b.size, b.ctime_ns);
        let writing = node.writing.lock();
        if writing.dirty.is_some() || !same(hashed, stat) {
            return Ok(());
        }
        let mut rows = Vec::new();
        let Some(was) = self.left_behind(dir, name, told, &mut rows)? else { return Ok(()) };
        let content = matches!(&was.content, Settled::Hashed { hashes, .. } if hashes == found);
        if !content || (was.size, was.mode) != (stat.size, stat.mode) {
            return Ok(());
        }
        let at = (dir.id.0, name.as_bytes().to_vec());
        // It may have other names that were recognized before.
        let mut links = match self.inode_row(node.id)? {
            Some(row) if row.matches(stat) || told.id == node.id.0 => row.links,
            _ => Vec::new(),
        };
        if !links.contains(&at) {
            links.push(at);
        }
        if told.id != node.id.0 {
            self.outboards.moved(told.id, node.id.0);
        }
        let row = InodeRow { ctime_ns: stat.ctime_ns, links, intent: self.intents.next() - 1, ..was };
        rows.push(table::set(table::inode_key(node.id), &row)?);
        let name_row = NameRow { id: node.id.0, kind: node.kind };
        rows.push(table::set(table::name_key(dir.id, name), &name_row)?);
        self.stream.note(rows);
        Ok(())
    }
}
