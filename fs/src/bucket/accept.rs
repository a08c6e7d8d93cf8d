//! The owner signs what is at a path as the own, whatever it was before: content, a directory, a symbolic link, or that nothing
//! is there any more.

use super::Bucket;
use crate::change::{Cause, Content, Evidence, Op};
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::path::BucketPath;
use crate::stat::{Kind, Stat};
use crate::table::{self, Settled};
use rustix::io::Errno;
use std::sync::Arc;

impl Bucket {
    /// Record what is at `path` now as the owner's own: a file's content, a directory itself, a symbolic link. Where nothing is that
    /// could be recorded, it is recorded that what the ledger has there is gone, with all that was in it. Returns the number of the
    /// change.
    ///
    /// # Errors
    /// `ENOENT` when the ledger has nothing there either; busy when somebody writes it; `EINVAL` for the top.
    pub fn accept(&self, path: &BucketPath) -> FsResult<u64> {
        self.admit_change(false)?;
        if path.is_root() {
            return Err(FsError::os("the top of a bucket", Errno::INVAL));
        }
        let found = match self.find(path) {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => None,
            found => Some(found?),
        };
        match found {
            Some((node, stat)) if node.kind == Kind::File => self.accept_content(&node, &stat),
            _ => {
                let number = self.accept_name(path)?;
                self.recorder.stream.wait(number)?;
                Ok(number)
            }
        }
    }

    fn accept_content(&self, node: &Arc<Node>, stat: &Stat) -> FsResult<u64> {
        let before = Stat { mtime_ns: i64::MIN, ..*stat };
        let mut writing = node.writing.lock();
        let cause = writing.dirty.as_ref().map_or(Cause::Foreign, |dirty| dirty.cause);
        self.recorder.mark_dirty(node, &mut writing, Vec::new(), Cause::Put, &before);
        if let Some(dirty) = &mut writing.dirty {
            (dirty.accepted, dirty.cause) = (true, Cause::Put);
        }
        drop(writing);
        let accepted = self.settled(node).inspect_err(|_| {
            // What is written later was not there to be accepted.
            if let Some(dirty) = &mut node.writing.lock().dirty {
                (dirty.accepted, dirty.cause) = (false, cause);
            }
        });
        Ok(accepted?.number)
    }

    /// Accept a directory, a symbolic link, or that nothing is there.
    fn accept_name(&self, path: &BucketPath) -> FsResult<u64> {
        let names = self.recorder.lock_names();
        let (dir, name) = path.split_last().ok_or(Errno::INVAL)?;
        // Looked at again, now that names do not move.
        let there = match self.find(path) {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => None,
            found => Some(found?).filter(|(node, _)| matches!(node.kind, Kind::Directory | Kind::Symlink)),
        };
        let Some((node, stat)) = there else {
            let told = self.recorder.told_at(path)?;
            let (at, row) = told.ok_or_else(|| FsError::os(path.to_string(), Errno::NOENT))?;
            let mut rows = Vec::new();
            self.recorder.untold(&names, at, &row, &mut rows)?;
            let op = Op::gone(row.kind == Kind::Directory, path.clone());
            return Ok(self.recorder.emit(&names, Cause::Put, op, rows, Vec::new()));
        };
        self.recorder.recognize(&names, if node.kind == Kind::Directory { path } else { &dir }, None)?;
        let (parent, _) = self.find(&dir)?;
        let mut rows = Vec::new();
        if let Some(row) = self.recorder.name_row(parent.id, name)?.filter(|row| row.id != node.id.0) {
            self.recorder.untold(&names, (parent.id.0, name.as_encoded_bytes().to_vec()), &row, &mut rows)?;
        }
        self.recorder.imply_dirs(&parent, &mut rows)?;
        let op = if node.kind == Kind::Directory {
            rows.extend(self.recorder.dir_rows(&node, &parent, name, &stat)?);
            Op::Mkdir { path: path.clone(), mode: stat.mode }
        } else {
            rows.extend(self.recorder.rows_of(node.id, &parent, name, &stat, Settled::Symlink)?);
            let target = rustix::fs::readlinkat(&*node.fd()?, "", Vec::new())?.into_bytes();
            Op::Accept(table::put(path.clone(), Content::Symlink { target }, &stat, Evidence::Lease))
        };
        Ok(self.recorder.emit(&names, Cause::Put, op, rows, Vec::new()))
    }
}
