//! The differences between the backing tree and the settled table, by `stat` alone.

use super::claims::Claims;
use crate::error::FsResult;
use crate::inode::Node;
use crate::intent::At;
use crate::listing;
use crate::recorder::Recorder;
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, NameRow, Settled};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A name that is there and not in the table, or there for another inode.
pub(super) struct Appeared {
    pub(super) dir: Arc<Node>,
    pub(super) name: OsString,
    pub(super) node: Arc<Node>,
    pub(super) stat: Stat,
    /// The row the name has for another inode.
    pub(super) replaced: Option<NameRow>,
}

impl Appeared {
    pub(super) fn at(&self) -> At {
        (self.dir.id.0, self.name.as_bytes().to_vec())
    }

    /// A name of its own at the top, for the time in which it has no other on the ledger.
    pub(super) fn aside(&self) -> At {
        (Id::ROOT.0, format!(".wizefs-moving-{:x}", self.node.id.0).into_bytes())
    }
}

/// A name that is in the table and not there.
pub(super) struct Gone {
    pub(super) at: At,
    pub(super) row: NameRow,
    /// Change time of the directory it was in, 0 when that is gone too.
    pub(super) dir_ctime_ns: i64,
    /// Its directory is gone, which takes it along.
    pub(super) with_parent: bool,
    /// wizefs answers for that; established by the replay.
    pub(super) ours: bool,
}

/// A directory and a name in it.
pub(super) type Place = (Arc<Node>, OsString);

/// Differences, parents before what is in them.
#[derive(Default)]
pub(super) struct Differences {
    /// Every directory there is.
    pub(super) dirs: HashMap<Id, Arc<Node>>,
    pub(super) appeared: Vec<Appeared>,
    pub(super) gone: Vec<Gone>,
    /// Reported files that are not as they were left, or may not be, and directories with other permission bits.
    pub(super) changed: Vec<(Arc<Node>, Stat, Place)>,
}

impl Differences {
    /// Compare the whole tree.
    pub(super) fn find(recorder: &Arc<Recorder>, claims: &Claims<'_>) -> FsResult<Self> {
        let mut differences = Self::default();
        let mut dirs = vec![recorder.inodes.root().clone()];
        let (mut lost_dirs, mut lost) = (Vec::new(), HashSet::new());
        while let Some(dir) = dirs.pop() {
            differences.dirs.insert(dir.id, dir.clone());
            differences.compare((recorder, claims), &dir, &mut dirs, &mut lost_dirs)?;
        }
        while let Some(dir) = lost_dirs.pop() {
            // A directory that only moved is compared where it is now.
            if differences.dirs.contains_key(&dir) || !lost.insert(dir) {
                continue;
            }
            for (name, row) in table::names_in(recorder.stream.sink(), dir)? {
                if row.kind == Kind::Directory {
                    lost_dirs.push(Id(row.id));
                }
                let at = (dir.0, name);
                differences.gone.push(Gone { at, row, dir_ctime_ns: 0, with_parent: true, ours: false });
            }
        }
        Ok(differences)
    }

    fn compare(
        &mut self,
        (recorder, claims): (&Arc<Recorder>, &Claims<'_>),
        dir: &Arc<Node>,
        dirs: &mut Vec<Arc<Node>>,
        lost_dirs: &mut Vec<Id>,
    ) -> FsResult<()> {
        if recorder.is_unread(dir.id) {
            return Ok(());
        }
        // What hangs on a directory that is itself not reported is not on the ledger either.
        let reported = dir.id == Id::ROOT || recorder.inode_row(dir.id)?.is_some();
        let rows = if reported { table::names_in(recorder.stream.sink(), dir.id)? } else { Vec::new() };
        let mut rows: BTreeMap<Vec<u8>, NameRow> = rows.into_iter().collect();
        let names = match listing::names_in(dir) {
            // What was in it is not gone.
            Err(error) if dir.id != Id::ROOT && error.is_of_one() => {
                tracing::warn!(ino = dir.ino.0, %error, "a folder cannot be looked at");
                return Ok(());
            }
            names => names?,
        };
        for name in names {
            self.there((recorder, claims), (dir, name), &mut rows, (&mut *dirs, &mut *lost_dirs))?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        let dir_ctime_ns = dir.stat()?.ctime_ns;
        for (name, row) in rows {
            if row.kind == Kind::Directory {
                lost_dirs.push(Id(row.id));
            }
            let at = (dir.id.0, name);
            self.gone.push(Gone { at, row, dir_ctime_ns, with_parent: false, ours: false });
        }
        Ok(())
    }

    /// Compare a name that is there with its row, which is taken out of `rows`.
    fn there(
        &mut self,
        (recorder, claims): (&Arc<Recorder>, &Claims<'_>),
        (dir, name): (&Arc<Node>, OsString),
        rows: &mut BTreeMap<Vec<u8>, NameRow>,
        (dirs, lost_dirs): (&mut Vec<Arc<Node>>, &mut Vec<Id>),
    ) -> FsResult<()> {
        let (node, stat) = match recorder.inodes.open_name(dir, &name) {
            Ok(found) => found,
            Err(error) if error.errno() == Errno::NOENT => return Ok(()),
            // A directory above, mounted here, or a mount whose program is gone: what that hides is not gone.
            Err(error) if error.is_of_one() => {
                tracing::warn!(name = %name.display(), %error, "cannot be looked at");
                rows.remove(name.as_bytes());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !node.kind.is_recorded() {
            return Ok(());
        }
        let row = rows.remove(name.as_bytes());
        if node.kind == Kind::Directory {
            dirs.push(node.clone());
        }
        let inode = recorder.inode_row(node.id)?;
        match (row, inode) {
            (Some(row), Some(inode)) if row.id == node.id.0 => {
                let differs = match node.kind {
                    // Of one reported while it was open, the content is not known yet.
                    Kind::File => {
                        let is_as_left = inode.matches(&stat) && !claims.may_be_written(node.id.0, inode.intent);
                        !is_as_left || inode.content == Settled::Open
                    }
                    Kind::Directory => inode.mode != stat.mode,
                    _ => false,
                };
                if differs {
                    self.changed.push((node, stat, (dir.clone(), name)));
                }
            }
            (row, _) => {
                let replaced = row.filter(|row| row.id != node.id.0);
                if let Some(row) = replaced.as_ref().filter(|row| row.kind == Kind::Directory) {
                    lost_dirs.push(Id(row.id));
                }
                self.appeared.push(Appeared { dir: dir.clone(), name, node, stat, replaced });
            }
        }
        Ok(())
    }
}
