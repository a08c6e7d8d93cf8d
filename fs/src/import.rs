//! Adopting a directory that is there already: every file found is recorded where it is. What is recorded and unchanged is passed
//! over, so an import that was stopped goes on where it was.

use crate::bucket::{Bucket, NODE};
use crate::change::{Cause, Content, Evidence, Op};
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::listing;
use crate::path::BucketPath;
use crate::recorder::Recorder;
use crate::settle::Outcome;
use crate::stat::{Kind, Stat};
use crate::table::{self, NameRow, Settled};
use crate::vfs::Ino;
use crate::zip::Unread;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// How far an import has come, and what it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// Files and symbolic links recorded.
    pub files: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Files that were recorded before.
    pub known: u64,
    /// Files left out because another program has them open for writing.
    pub busy: u64,
    /// Sockets, pipes and devices, which are not recorded.
    pub special: u64,
}

/// Asked after each file whether to go on.
pub type Watch<'a> = &'a mut dyn FnMut(&ImportProgress) -> ControlFlow<()>;

impl Bucket {
    /// Record every file of the backing that is not recorded as it is; what is not recorded because it cannot be looked at is named.
    /// Returns when the ledger has them pending.
    ///
    /// # Errors
    /// [`FsError::Interrupted`] when `watch` breaks (what was recorded stays so); reading the backing.
    pub fn import(&self, watch: Watch<'_>) -> FsResult<(ImportProgress, Vec<Unread>)> {
        let recorder = self.recorder();
        let mut import = Import { recorder, progress: ImportProgress::default(), unread: Vec::new(), watch };
        let mut dirs = vec![recorder.inodes.root().clone()];
        while let Some(dir) = dirs.pop() {
            let names = match listing::names_in(&dir) {
                Err(error) if dir.ino != Ino::ROOT && error.is_of_one() => {
                    import.unread(recorder.dir_path(&dir)?, &error);
                    continue;
                }
                names => names?,
            };
            for name in names {
                import.entry(&dir, &name, &mut dirs)?;
            }
        }
        let Import { progress, unread, .. } = import;
        recorder.stream.drain()?;
        Ok((progress, unread))
    }
}

struct Import<'a> {
    recorder: &'a Arc<Recorder>,
    progress: ImportProgress,
    unread: Vec<Unread>,
    watch: Watch<'a>,
}

impl Import<'_> {
    fn entry(&mut self, dir: &Arc<Node>, name: &OsStr, dirs: &mut Vec<Arc<Node>>) -> FsResult<()> {
        self.recorder.stream.admit(false)?;
        let (node, stat) = match self.recorder.inodes.open_name(dir, name) {
            Ok(found) => found,
            Err(error) if error.errno() == Errno::NOENT => return Ok(()),
            Err(error) if error.errno() == Errno::LOOP => {
                let problem = "a folder that it is in is mounted here".to_owned();
                self.unread.push(Unread { path: self.recorder.path(dir, name)?, problem });
                return Ok(());
            }
            Err(error) if error.is_of_one() => {
                self.unread(self.recorder.path(dir, name)?, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let row = self.recorder.name_row(dir.id, name)?;
        let named = row.is_some_and(|row| row.id == node.id.0);
        match node.kind {
            Kind::Directory => {
                if !named {
                    self.directory(dir, name, &node, &stat)?;
                }
                dirs.push(node);
                return Ok(());
            }
            Kind::File => self.file(dir, name, &node, &stat, named)?,
            Kind::Symlink if named => self.progress.known += 1,
            Kind::Symlink => self.symlink(dir, name, &node, &stat)?,
            _ => self.progress.special += 1,
        }
        match (self.watch)(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                self.recorder.stream.drain()?;
                Err(FsError::Interrupted)
            }
        }
    }

    fn directory(&self, dir: &Arc<Node>, name: &OsStr, node: &Arc<Node>, stat: &Stat) -> FsResult<()> {
        let names = self.recorder.lock_names();
        let path = self.recorder.path(dir, name)?;
        let rows = self.recorder.dir_rows(node, dir, name, stat)?;
        let op = Op::Mkdir { path, mode: stat.mode };
        self.recorder.emit(&names, Cause::Import, op, rows, Vec::new());
        Ok(())
    }

    fn symlink(&mut self, dir: &Arc<Node>, name: &OsStr, node: &Arc<Node>, stat: &Stat) -> FsResult<()> {
        let names = self.recorder.lock_names();
        let path = self.recorder.path(dir, name)?;
        let target = rustix::fs::readlinkat(&*node.fd()?, "", Vec::new())?.into_bytes();
        let rows = self.recorder.rows_of(node.id, dir, name, stat, Settled::Symlink)?;
        let put = table::put(path, Content::Symlink { target }, stat, Evidence::Lease);
        self.recorder.emit(&names, Cause::Import, Op::Put(put), rows, Vec::new());
        self.progress.files += 1;
        Ok(())
    }

    fn file(&mut self, dir: &Arc<Node>, name: &OsStr, node: &Arc<Node>, stat: &Stat, named: bool) -> FsResult<()> {
        let row = self.recorder.inode_row(node.id)?;
        let unchanged = row.filter(|row| row.matches(stat));
        if let Some(mut row) = unchanged {
            if named {
                self.progress.known += 1;
                return Ok(());
            }
            // Another name of a file recorded already: its content is known.
            let names = self.recorder.lock_names();
            let path = self.recorder.path(dir, name)?;
            if let Some(put) = row.put_again(path, stat) {
                row.links.push((dir.id.0, name.as_bytes().to_vec()));
                let name_row = NameRow { id: node.id.0, kind: node.kind };
                let rows = vec![
                    table::set(table::inode_key(node.id), &row)?,
                    table::set(table::name_key(dir.id, name), &name_row)?,
                ];
                self.recorder.emit(&names, Cause::Import, Op::Put(put), rows, Vec::new());
                self.progress.files += 1;
                return Ok(());
            }
        }
        match self.content(node, stat) {
            Err(error) if error.is_of_one() => {
                // Nobody waits for it to be hashed, unless somebody writes it.
                self.recorder.drop_content(node, &mut node.writing.lock());
                self.unread(self.recorder.path(dir, name)?, &error);
                Ok(())
            }
            done => done,
        }
    }

    fn unread(&mut self, path: BucketPath, error: &FsError) {
        self.unread.push(Unread { path, problem: error.errno().to_string() });
    }

    fn content(&mut self, node: &Arc<Node>, stat: &Stat) -> FsResult<()> {
        self.recorder.mark_dirty(node, &mut node.writing.lock(), Vec::new(), Cause::Import, stat);
        loop {
            match self.recorder.settle(node, false)? {
                Outcome::Done(_) => {
                    self.progress.files += 1;
                    self.progress.bytes += stat.size;
                    return Ok(());
                }
                Outcome::Changed => {}
                // It stays dirty: the workers record it when its writer is gone, or the next session does.
                Outcome::Writers | Outcome::Refused => {
                    let id = self.recorder.note_write(node, None, false, NODE)?;
                    self.recorder.mark_dirty(node, &mut node.writing.lock(), vec![id], Cause::Import, stat);
                    self.recorder.queue.push(node, false);
                    self.progress.busy += 1;
                    return Ok(());
                }
            }
        }
    }
}
