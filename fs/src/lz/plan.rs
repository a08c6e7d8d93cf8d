//! What is to be done to the archive so that it is what the stage is: established at the paths that were touched.
//!
//! The caller holds the namespace lock and everything reported so far is noted as touched. So whatever was moved is found
//! where it is now, and what is not found is gone.

mod files;

pub(super) use files::Puts;

use super::access::{Entered, open_dir};
use super::archive::{Edit, MemberInfo};
use super::draft::{Draft, Step};
use super::stage::Stage;
use super::touched::Paths;
use super::view::{Number, TOP, View};
use crate::error::FsResult;
use crate::listing;
use crate::path::BucketPath;
use crate::recorder::Recorder;
use crate::stat::{Id, Kind, Stat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Files put in one commit: they are open until it is made.
const FILES_MAX: usize = 4096;
/// Permission bits of a directory that its members imply.
const IMPLIED_MODE: u32 = 0o755;

/// The node of a directory, and a name in it.
type Place = (Number, Box<[u8]>);

/// A draft being made.
pub(super) struct Plan<'a> {
    stage: &'a Stage,
    recorder: &'a Arc<Recorder>,
    view: &'a mut View,
    puts: Puts,
    draft: Draft,
    files_max: usize,
    /// Nodes that go if they are still at this place at the end: not there any more, or put aside.
    gone: Vec<(Number, Place)>,
    /// Node of every stage directory that is in its place.
    placed: HashMap<Id, Number>,
    /// Directories whose own member is seen to.
    told: HashSet<Number>,
    /// Files seen to.
    seen: HashSet<Id>,
}

/// A directory of the stage.
struct Dir {
    fd: Entered,
    number: Number,
    path: BucketPath,
}

impl<'a> Plan<'a> {
    pub(super) fn new(stage: &'a Stage, recorder: &'a Arc<Recorder>, view: &'a mut View, puts: Puts) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        Self {
            stage,
            recorder,
            view,
            puts,
            draft: Draft::default(),
            files_max: FILES_MAX.min(usize::try_from(limit / 4).unwrap_or(FILES_MAX)),
            gone: Vec::new(),
            placed: HashMap::new(),
            told: HashSet::new(),
            seen: HashSet::new(),
        }
    }

    /// Look at `paths`.
    ///
    /// # Errors
    /// What reading the stage answers; the view is what it was then.
    pub(super) fn make(mut self, paths: &Paths) -> FsResult<Draft> {
        match self.look_at(paths).and_then(|()| self.clean_up()) {
            Ok(()) => Ok(self.draft),
            Err(error) => {
                self.draft.undo(self.view, self.stage);
                Err(error)
            }
        }
    }

    fn look_at(&mut self, paths: &Paths) -> FsResult<()> {
        let mut last: Option<Dir> = None;
        for (path, deep) in paths {
            let Some((parent, name)) = path.split_last() else {
                let top = self.top()?;
                self.directory(&top, *deep)?;
                continue;
            };
            if last.as_ref().is_none_or(|dir| dir.path != parent) {
                last = self.reach(&parent)?;
            }
            if let Some(dir) = &last {
                self.entry(dir, name, *deep)?;
            } else if let Some(number) = self.view.at(path)
                && self.is_gone(&parent)?
            {
                self.is_missing(number);
            }
        }
        Ok(())
    }

    fn top(&self) -> FsResult<Dir> {
        Ok(Dir { fd: Entered::of(self.stage.open_tree()?)?, number: TOP, path: BucketPath::ROOT })
    }

    /// The directory at `path`, with its node brought to its place; none when there is none, or nobody looked into it.
    fn reach(&mut self, path: &BucketPath) -> FsResult<Option<Dir>> {
        let mut dir = self.top()?;
        for name in path.components() {
            let Some(stat) = Stat::of_name_opt(&dir.fd, name)? else { return Ok(None) };
            if stat.kind != Kind::Directory {
                return Ok(None);
            }
            dir = self.sub(&dir, name, &stat)?;
        }
        let id = self.recorder.inodes.id_of(&Stat::of_fd(&dir.fd)?);
        Ok((!self.stage.is_unread(id)).then_some(dir))
    }

    /// Whether there is no directory at `path` in the stage, where somebody has looked.
    fn is_gone(&self, path: &BucketPath) -> FsResult<bool> {
        let mut dir = self.top()?.fd;
        for name in path.components() {
            if self.stage.is_unread(self.recorder.inodes.id_of(&Stat::of_fd(&dir)?)) {
                return Ok(false);
            }
            match Stat::of_name_opt(&dir, name)? {
                Some(stat) if stat.kind == Kind::Directory => dir = open_dir(&dir, name)?,
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    fn sub(&mut self, dir: &Dir, name: &OsStr, stat: &Stat) -> FsResult<Dir> {
        let number = self.place_directory(dir, name, stat)?;
        Ok(Dir { fd: open_dir(&dir.fd, name)?, number, path: dir.path.join(name)? })
    }

    /// What is at `name` in `dir`, and below it when `deep`.
    fn entry(&mut self, dir: &Dir, name: &OsStr, deep: bool) -> FsResult<()> {
        let before = (self.draft.edits.0.len(), self.gone.len());
        match Stat::of_name_opt(&dir.fd, name)? {
            None => {
                if let Some(number) = self.view.child(dir.number, name.as_bytes()) {
                    self.is_missing(number);
                }
            }
            Some(stat) => match stat.kind {
                Kind::Directory => {
                    let fresh = self.view.child(dir.number, name.as_bytes()).is_none();
                    let sub = self.sub(dir, name, &stat)?;
                    if self.view.member(sub.number).is_some() || stat.mode != IMPLIED_MODE {
                        self.explicit(&sub)?;
                    }
                    self.directory(&sub, deep || fresh)?;
                }
                Kind::File => self.file(dir, name, &stat)?,
                Kind::Symlink => self.symlink(dir, name, &stat)?,
                // Nothing that an archive could hold; the mount makes none.
                _ => {}
            },
        }
        if before != (self.draft.edits.0.len(), self.gone.len()) {
            self.explicit(dir)?;
        }
        Ok(())
    }

    /// What is in a directory, when `deep`.
    fn directory(&mut self, dir: &Dir, deep: bool) -> FsResult<()> {
        let id = self.recorder.inodes.id_of(&Stat::of_fd(&dir.fd)?);
        if !deep || self.stage.is_unread(id) {
            return Ok(());
        }
        let names = listing::names(dir.fd.try_clone()?)?;
        for name in &names {
            self.entry(dir, name, true)?;
        }
        for number in self.view.children(dir.number).to_vec() {
            if names.binary_search_by(|name| name.as_bytes().cmp(self.view.name(number))).is_err() {
                self.is_missing(number);
            }
        }
        Ok(())
    }

    fn is_missing(&mut self, number: Number) {
        let Some(parent) = self.view.parent(number) else { return };
        // Only where somebody has looked can something be missing: everything else is in the archive alone.
        let is_read = self
            .view
            .inode(parent)
            .is_some_and(|dir| !self.stage.is_unread(dir) && !self.stage.is_apart(dir, self.view.name(number)));
        if is_read {
            self.gone.push((number, (parent, self.view.name(number).into())));
        }
    }

    /// The node that `id` is tied to, if it is in the archive.
    fn tied(&self, id: Id) -> Option<Number> {
        let number = self.stage.inodes.lock().nodes.get(&id).copied()?;
        (self.view.inode(number) == Some(id)).then_some(number)
    }

    fn tie(&mut self, number: Number, id: Id) {
        let before = self.view.inode(number);
        if before != Some(id) {
            self.draft.steps.push(Step::Inode(number, before));
            self.view.set_inode(number, Some(id));
            self.stage.inodes.lock().nodes.insert(id, number);
        }
    }

    fn info(&self, number: Number) -> Option<MemberInfo> {
        self.view.member(number).and_then(|member| self.stage.archive.member(member))
    }

    /// Bring the node of a stage directory to its place, or make one; its number.
    fn place_directory(&mut self, dir: &Dir, name: &OsStr, stat: &Stat) -> FsResult<Number> {
        let id = self.recorder.inodes.id_of(stat);
        if let Some(&number) = self.placed.get(&id) {
            return Ok(number);
        }
        let there = self.view.child(dir.number, name.as_bytes());
        let number = match (self.tied(id), there) {
            (Some(mine), Some(there)) if mine == there => mine,
            (Some(mine), _) => {
                self.rename(mine, dir, name)?;
                mine
            }
            // Of the session before, or of an import: nobody else is tied to it.
            (None, Some(there)) if self.view.kind(there) == Kind::Directory && self.view.inode(there).is_none() => {
                there
            }
            (None, _) => {
                self.free(dir, name)?;
                let number = self.insert(dir.number, name, Kind::Directory);
                let path = dir.path.join(name)?;
                self.add(number, Edit::Directory { path, mode: stat.mode, mtime_ns: stat.mtime_ns });
                self.told.insert(number);
                number
            }
        };
        self.tie(number, id);
        self.placed.insert(id, number);
        Ok(number)
    }

    /// A directory that only its members imply gets a member once something in it changes: it stays when they go.
    fn explicit(&mut self, dir: &Dir) -> FsResult<()> {
        if dir.number == TOP || !self.told.insert(dir.number) {
            return Ok(());
        }
        let stat = dir.fd.stat()?;
        if self.view.member(dir.number).is_some() {
            return self.attributes(dir.number, &dir.path, &stat);
        }
        let (path, mode, mtime_ns) = (dir.path.clone(), stat.mode, stat.mtime_ns);
        self.add(dir.number, Edit::Directory { path, mode, mtime_ns });
        Ok(())
    }

    /// An edit that gives a node another content.
    fn add(&mut self, number: Number, edit: Edit) {
        self.draft.edits.0.push(edit);
        self.draft.made.push(number);
    }

    fn symlink(&mut self, dir: &Dir, name: &OsStr, stat: &Stat) -> FsResult<()> {
        let id = self.recorder.inodes.id_of(stat);
        if let Some(mine) = self.tied(id) {
            return self.keep(mine, dir, name, stat);
        }
        let target = rustix::fs::readlinkat(&dir.fd, name, Vec::new())?.into_bytes();
        if let Some(there) = self.view.child(dir.number, name.as_bytes())
            && self.view.kind(there) == Kind::Symlink
            && self.view.inode(there).is_none()
            && self.info(there).is_some_and(|info| self.stage.target(&info).is_ok_and(|other| other == target))
        {
            self.tie(there, id);
            return self.keep(there, dir, name, stat);
        }
        self.free(dir, name)?;
        let number = self.insert(dir.number, name, Kind::Symlink);
        self.tie(number, id);
        self.add(number, Edit::Symlink { path: dir.path.join(name)?, target, mtime_ns: stat.mtime_ns });
        Ok(())
    }

    /// A content that the archive has: under this name, with these attributes.
    fn keep(&mut self, number: Number, dir: &Dir, name: &OsStr, stat: &Stat) -> FsResult<()> {
        if self.view.child(dir.number, name.as_bytes()) != Some(number) {
            self.rename(number, dir, name)?;
        }
        self.attributes(number, &dir.path.join(name)?, stat)
    }

    fn attributes(&mut self, number: Number, path: &BucketPath, stat: &Stat) -> FsResult<()> {
        let Some(info) = self.info(number) else { return Ok(()) };
        let mode = if info.kind == Kind::Symlink { info.mode } else { stat.mode };
        if (info.mode, info.mtime_ns) != (mode, stat.mtime_ns) {
            self.draft.edits.0.push(Edit::Attributes { path: path.clone(), mode, mtime_ns: stat.mtime_ns });
        }
        Ok(())
    }

    fn insert(&mut self, dir: Number, name: &OsStr, kind: Kind) -> Number {
        let number = self.view.insert(dir, name.as_bytes(), kind, None);
        self.draft.steps.push(Step::Inserted(number));
        number
    }

    fn rename(&mut self, number: Number, dir: &Dir, name: &OsStr) -> FsResult<()> {
        self.free(dir, name)?;
        // Looked up now: who made way may have taken it along.
        let from = self.view.path(number)?;
        self.take_out(number);
        self.view.put_in(number, dir.number, name.as_bytes());
        self.draft.edits.0.push(Edit::Rename { from, to: dir.path.join(name)? });
        Ok(())
    }

    fn take_out(&mut self, number: Number) {
        if let Some((dir, name)) = self.view.take_out(number) {
            self.draft.steps.push(Step::TakenOut(number, dir, name));
        }
    }

    /// Make the place free: who is there goes aside until its own place is found, or the end.
    fn free(&mut self, dir: &Dir, name: &OsStr) -> FsResult<()> {
        let Some(there) = self.view.child(dir.number, name.as_bytes()) else { return Ok(()) };
        let to = self.free_name(there);
        let from = self.view.path(there)?;
        self.take_out(there);
        self.view.put_in(there, TOP, to.as_bytes());
        self.draft.edits.0.push(Edit::Rename { from, to: BucketPath::new(to.into_bytes())? });
        self.is_missing(there);
        Ok(())
    }

    /// A name at the top that nothing in the archive has.
    fn free_name(&self, number: Number) -> String {
        let mut name = format!(".wizefs-moving-{number}");
        while self.view.child(TOP, name.as_bytes()).is_some() {
            name.push('~');
        }
        name
    }

    /// What is still where it is missing, and what is still aside, goes.
    fn clean_up(&mut self) -> FsResult<()> {
        let gone = std::mem::take(&mut self.gone);
        for (number, (parent, name)) in gone {
            let is_there = self.view.parent(number) == Some(parent) && *self.view.name(number) == *name;
            if !is_there || !self.view.is_in(number) {
                continue;
            }
            for below in self.view.below(number).into_iter().rev() {
                let id = self.view.inode(below);
                self.draft.pins.extend(id.and_then(|id| Some((id, self.stage.pin_in_use(id)?))));
                if self.view.member(below).is_some() {
                    self.draft.edits.0.push(Edit::Remove(self.view.path(below)?));
                }
            }
            self.take_out(number);
        }
        Ok(())
    }
}
