//! Turning differences into changes, in an order that is true at every step.
//!
//! Files that are gone come first; then new and moved names, parents before what is in them and no name before the one it
//! takes is free; directories that are gone come last, or before what takes their name. What moved in circles is told as exchanges.

use super::Recovery;
use super::claims::Claims;
use super::tree::{Appeared, Differences, Gone, Place};
use crate::bucket::NODE;
use crate::change::Cause;
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::intent::{At, Intent};
use crate::path::BucketPath;
use crate::recorder::{Namespace, Recorder};
use crate::stat::{Id, Kind, Stat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A name that is there now; `from` is the reported one it came from.
pub(super) struct Item {
    pub(super) new: Appeared,
    pub(super) from: Option<At>,
}

pub(super) struct Replay<'a> {
    pub(super) recorder: &'a Arc<Recorder>,
    pub(super) names: &'a Namespace<'a>,
    claims: &'a Claims<'a>,
    pub(super) recovery: &'a mut Recovery,
    /// Intents noted for what no intent had claimed.
    pub(super) answered: Vec<u64>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        recorder: &'a Arc<Recorder>,
        names: &'a Namespace<'a>,
        claims: &'a Claims<'a>,
        recovery: &'a mut Recovery,
    ) -> Self {
        Self { recorder, names, claims, recovery, answered: Vec::new() }
    }

    pub(super) fn run(&mut self, differences: Differences) -> FsResult<()> {
        let Differences { dirs, appeared, mut gone, changed } = differences;
        let (mut items, mut left) = (Vec::new(), HashSet::new());
        for new in appeared {
            let path = match self.recorder.path(&new.dir, &new.name) {
                // Too deep to be recorded.
                Err(FsError::Path(_)) => {
                    self.recovery.foreign += 1;
                    continue;
                }
                path => path?,
            };
            if self.claims.name(&new.at(), &path, new.stat.ctime_ns).is_none() {
                self.recovery.foreign += 1;
                continue;
            }
            self.answer_for(Intent::Create { at: new.at() })?;
            let from = self.moved_from(&new, &dirs, &mut gone, &left)?;
            left.extend(from.clone());
            items.push(Item { new, from });
        }
        self.claim_gone(&items, &mut gone)?;
        let (mut lost_dirs, lost_files): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|lost| lost.row.kind == Kind::Directory);
        for lost in lost_files {
            self.gone(lost)?;
        }
        self.replaced(&items, &mut lost_dirs)?;
        self.work_off(items, &mut lost_dirs)?;
        // Deepest first: a directory goes after what was in it.
        for lost in lost_dirs.into_iter().rev() {
            self.gone(lost)?;
        }
        for (node, stat, at) in changed {
            self.changed(&node, &stat, &at)?;
        }
        self.read_again()
    }

    /// A reported file or directory is not as it was left, or was reported while it was open.
    fn changed(&mut self, node: &Arc<Node>, stat: &Stat, at: &Place) -> FsResult<()> {
        let row = self.recorder.inode_row(node.id)?;
        // A directory above it was moved too deep.
        let Some(path) = self.recorder.path_told(&at.0, &at.1)? else {
            self.recovery.foreign += 1;
            return Ok(());
        };
        let as_left = row.as_ref().is_some_and(|row| row.matches(stat));
        let settled = row.map_or(0, |row| row.intent);
        let at = (at.0.id.0, at.1.as_bytes().to_vec());
        let claimed = self.claims.content(node.id.0, &at, settled, &path, stat.ctime_ns);
        match claimed.or(as_left.then_some(Cause::Recovered)) {
            Some(_) if node.kind == Kind::Directory => {
                let sealed = Some((stat.size, stat.ctime_ns));
                self.answer_for(Intent::Write { inode: node.id.0, at, sealed, foreign: false })?;
                self.new_mode(node, path, stat)
            }
            Some(cause) => self.requeue(node, cause, stat),
            None => {
                self.recovery.foreign += 1;
                Ok(())
            }
        }
    }

    /// A power cut may leave old content under the times of the new one. What was reported and not sealed is read from the disk
    /// again, whatever its times say.
    fn read_again(&mut self) -> FsResult<()> {
        for path in self.claims.unsealed() {
            if let Some((node, stat)) = self.find(path)?
                && node.kind == Kind::File
                && node.writing.lock().dirty.is_none()
            {
                self.look_at(&node, Cause::Recovered, &stat)?;
            }
        }
        Ok(())
    }

    fn find(&self, path: &BucketPath) -> FsResult<Option<(Arc<Node>, Stat)>> {
        let mut node = self.recorder.inodes.root().clone();
        let mut stat = node.stat()?;
        for name in path.components() {
            match self.recorder.inodes.open_name(&node, name) {
                Ok(found) => (node, stat) = found,
                Err(error) if error.is_of_one() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some((node, stat)))
    }

    /// Note what is told now and was not claimed by an intent but by its time, so that a second crash finds an intent.
    fn answer_for(&mut self, intent: Intent) -> FsResult<()> {
        if self.claims.go_by_time() {
            self.answered.push(self.recorder.intents.note(intent, NODE.uid, NODE.pid)?);
        }
        Ok(())
    }

    /// Which of what is gone wizefs answers for: a claimed name, and what was in a directory that went or was replaced so.
    fn claim_gone(&mut self, items: &[Item], gone: &mut [Gone]) -> FsResult<()> {
        let mut ours: HashSet<u64> =
            items.iter().filter_map(|item| item.new.replaced.as_ref()).map(|row| row.id).collect();
        // Parents come before what was in them.
        for lost in gone {
            let path = self.path_by_rows(&lost.at)?;
            let claimed = path.is_some_and(|path| self.claims.name(&lost.at, &path, lost.dir_ctime_ns).is_some());
            lost.ours = claimed || (lost.with_parent && ours.contains(&lost.at.0));
            if lost.ours {
                ours.insert(lost.row.id);
                self.answer_for(Intent::Remove { at: lost.at.clone(), inode: lost.row.id })?;
            }
        }
        Ok(())
    }

    /// Names that are now of another kind: what they were is gone, unless it moved.
    fn replaced(&mut self, items: &[Item], lost_dirs: &mut Vec<Gone>) -> FsResult<()> {
        for item in items {
            let Some(row) = item.new.replaced.as_ref().filter(|row| row.kind != item.new.node.kind) else {
                continue;
            };
            let at = item.new.at();
            if items.iter().any(|other| other.from.as_ref() == Some(&at)) {
                continue;
            }
            let lost = Gone { at, row: row.clone(), dir_ctime_ns: 0, with_parent: true, ours: true };
            if row.kind == Kind::Directory {
                lost_dirs.insert(0, lost);
            } else {
                self.gone(lost)?;
            }
        }
        Ok(())
    }

    /// The reported name `new` came from, if that name is gone or now another inode's, and no other name of the inode (a hard
    /// link) came from there: those in `left`.
    fn moved_from(
        &self,
        new: &Appeared,
        dirs: &HashMap<Id, Arc<Node>>,
        gone: &mut Vec<Gone>,
        left: &HashSet<At>,
    ) -> FsResult<Option<At>> {
        let Some(row) = self.recorder.inode_row(new.node.id)? else {
            return Ok(None);
        };
        let here = new.at();
        // A directory has one name: wherever that was lost, this is it.
        if new.node.kind == Kind::Directory
            && let Some(index) = gone.iter().position(|lost| lost.row.id == new.node.id.0)
        {
            return Ok(Some(gone.remove(index).at));
        }
        for link in row.links.iter().filter(|link| **link != here && !left.contains(*link)) {
            if let Some(index) = gone.iter().position(|lost| lost.at == *link) {
                gone.remove(index);
                return Ok(Some(link.clone()));
            }
            // Found in the tree by identity: it may have moved itself.
            let Some(dir) = dirs.get(&Id(link.0)) else {
                continue;
            };
            let there = Stat::of_name_opt(&*dir.fd()?, OsStr::from_bytes(&link.1))?;
            let still = there.is_some_and(|stat| new.node.is(&stat));
            let known = self.recorder.name_row(Id(link.0), OsStr::from_bytes(&link.1))?;
            if !still && known.is_some_and(|row| row.id == new.node.id.0) {
                return Ok(Some(link.clone()));
            }
        }
        Ok(None)
    }
}
