//! What a stage that is still there stands for: read from its notes when the bucket is opened.

use super::access::{self, Entered, open_dir};
use super::archive::{MemberId, MemberInfo};
use super::fill::{clear, is_as_recorded};
use super::mark::{Apart, Hollow, Listed};
use super::patch;
use super::stage::Stage;
use super::view::{Number, TOP};
use crate::change::Row;
use crate::error::FsResult;
use crate::listing;
use crate::path::BucketPath;
use crate::recorder::Recorder;
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, InodeRow, NameRow};
use rustix::fs::{AtFlags, Mode};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An inode that came in the place of another.
struct Successor {
    id: Id,
    ctime_ns: i64,
    member: Option<MemberId>,
}

/// What is found in a stage.
struct Repair<'a> {
    stage: &'a Stage,
    recorder: &'a Arc<Recorder>,
    by_member: HashMap<MemberId, Number>,
    /// By the inode that the table may still know.
    successors: HashMap<u64, Successor>,
    /// Directories that are filled: themselves, and the inode that the table may still know.
    filled: Vec<(Id, Id)>,
    /// Directories to be looked into, by their path in the tree.
    left: Vec<PathBuf>,
}

impl Stage {
    /// Learn what is in the stage: nothing yet, or what an earlier session left. Rows that did not follow do so now.
    ///
    /// # Errors
    /// What reading the stage answers.
    pub(super) fn learn(&self, recorder: &Arc<Recorder>) -> FsResult<()> {
        let top = self.open_tree()?;
        if !self.is_left || Listed::of(&top)?.is_none() {
            Listed { anchor: (0, 0), was: Id::ROOT.0, whole: false }.set(&top)?;
        }
        let by_member = {
            let view = self.view.lock();
            view.below(TOP).into_iter().filter_map(|number| Some((view.member(number)?, number))).collect()
        };
        let mut repair = Repair {
            stage: self,
            recorder,
            by_member,
            successors: HashMap::new(),
            filled: Vec::new(),
            left: vec![PathBuf::new()],
        };
        while let Some(path) = repair.left.pop() {
            // Name by name: a path may be longer than the kernel takes at once.
            let mut fd = Entered::of(top.try_clone()?)?;
            for name in &path {
                fd = open_dir(&fd, name)?;
            }
            repair.directory(&fd, &path)?;
        }
        repair.move_rows()?;
        // A full disk must not keep from taking up what was left on it.
        if self.is_left && !self.is_theirs { Ok(()) } else { self.note_left() }
    }

    /// The stage is about to go. A directory that nobody has looked into is left as the inode by which the table knows what is in
    /// it: the next stage would not find that otherwise.
    ///
    /// # Errors
    /// What the sink answers.
    pub(super) fn leave_unread(&self) -> FsResult<()> {
        let recorder = self.recorder()?;
        let _names = recorder.lock_names();
        let unread: Vec<_> = self.inodes.lock().unread.iter().map(|(id, (_, was))| (*id, *was)).collect();
        let mut rows = Vec::new();
        for (id, was) in unread.into_iter().filter(|(id, was)| was != id && was.0 != 0) {
            let Some(row) = recorder.inode_row(id)? else { continue };
            for (dir, name) in &row.links {
                let key = table::name_key(Id(*dir), OsStr::from_bytes(name));
                rows.push(table::set(key, &NameRow { id: was.0, kind: Kind::Directory })?);
            }
            rows.push(table::set(table::inode_key(was), &row)?);
            rows.push(table::delete(table::inode_key(id)));
        }
        recorder.stream.note(rows);
        Ok(())
    }

    fn tie(&self, number: Number, id: Id) {
        let mut view = self.view.lock();
        if view.inode(number).is_none() || number == TOP {
            view.set_inode(number, Some(id));
            self.inodes.lock().nodes.insert(id, number);
        }
    }
}

impl Repair<'_> {
    /// The node of the archive at a path of the stage.
    fn at(&self, path: &Path) -> Option<Number> {
        let path = BucketPath::new(path.as_os_str().as_bytes()).ok()?;
        self.stage.view.lock().at(&path)
    }

    /// The directory of the archive that the one at `path` stands for. In an archive that another program has written since,
    /// what its notes name may be something else by now.
    fn stands_for(&self, path: &Path, listed: Option<Listed>) -> Option<Number> {
        let is_theirs = self.stage.is_theirs;
        let known = listed.filter(|_| !is_theirs).and_then(|listed| self.anchored(listed.anchor));
        let by_path = || self.at(path).filter(|&at| self.stage.view.lock().kind(at) == Kind::Directory);
        known.or_else(|| if is_theirs || listed.is_some_and(|listed| !listed.whole) { by_path() } else { None })
    }

    /// The directory of the archive that an anchor leads to.
    fn anchored(&self, (member, up): (u64, u32)) -> Option<Number> {
        let view = self.stage.view.lock();
        let member = *self.by_member.get(&MemberId(member))?;
        (0..up).try_fold(member, |at, _| view.parent(at)).filter(|&at| up > 0 && view.kind(at) == Kind::Directory)
    }

    fn directory(&mut self, fd: &OwnedFd, path: &Path) -> FsResult<()> {
        let id = self.recorder.inodes.id_of(&Stat::of_fd(fd)?);
        let listed = Listed::of(fd)?;
        let number = if id == Id::ROOT { Some(TOP) } else { self.stands_for(path, listed) };
        if let Some(number) = number {
            self.stage.tie(number, id);
        }
        if let Some(listed) = listed.filter(|listed| !listed.whole) {
            // Nobody but us has made anything there.
            clear(fd)?;
            if let Some(number) = number {
                self.stage.set_unread(id, number, Id(listed.was));
            }
            return Ok(());
        }
        if let Some(listed) = listed {
            self.filled.push((id, Id(listed.was)));
        }
        self.files(fd, path)?;
        match number {
            // What another program added, nobody here has removed.
            Some(number) if self.stage.is_theirs => self.stage.add_theirs(self.recorder, fd, id, number),
            _ => {
                let members = Apart::of(fd)?.0.into_iter();
                let view = self.stage.view.lock();
                let named = members.filter_map(|id| Some((view.name(*self.by_member.get(&MemberId(id))?).into(), id)));
                self.stage.set_apart(id, named.collect());
                Ok(())
            }
        }
    }

    fn files(&mut self, fd: &OwnedFd, path: &Path) -> FsResult<()> {
        for name in listing::names(fd.try_clone()?)? {
            let stat = Stat::of_name(fd, &name)?;
            match stat.kind {
                Kind::Directory => self.sub(fd, &name, &stat, path.join(&name))?,
                Kind::File => self.file(fd, &name, &stat, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sub(&mut self, dir: &OwnedFd, name: &OsStr, stat: &Stat, path: PathBuf) -> FsResult<()> {
        let fd = open_dir(dir, name)?;
        let id = self.recorder.inodes.id_of(stat);
        let listed = Listed::of(&fd)?;
        if listed.is_some_and(|listed| !listed.whole) && self.stands_for(&path, listed).is_none() {
            tracing::warn!(archive = %self.stage.archive.path().display(), ?path, "a directory is gone from the archive");
            clear(&fd)?;
            return Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?);
        }
        self.left.push(path);
        if let Some(listed) = listed {
            self.successors.insert(listed.was, Successor { id, ctime_ns: stat.ctime_ns, member: None });
        }
        Ok(())
    }

    fn file(&mut self, dir: &OwnedFd, name: &OsStr, stat: &Stat, path: &Path) -> FsResult<()> {
        let Some(hollow) = self.hollow(dir, name, stat)? else { return Ok(()) };
        // Another program may have put something else in its place, or nothing.
        let Some(info) = self.member(hollow, &path.join(name)) else {
            return Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?);
        };
        let note = self.stage.note_of(stat.ino);
        let is_same = info.crc == hollow.crc;
        // Its content was on its way, and programs had written.
        if is_same && note.exists() && self.finish(dir, name, info.id, &note)? {
            return Ok(());
        }
        let mut stat = Stat::of_name(dir, name)?;
        // Another one; or written in another boot and never synced; or emptied, by who never heard that it was; or one of which
        // btrfs kept the name with the folder and not yet the size.
        if info.id.0 != hollow.member || !is_same || stat.size != info.size {
            patch::remove(&note);
            let (file, _) = access::to_change((dir, name, stat.mode))?;
            stat = self.stage.stand_for(&file, &info, hollow.was)?;
        }
        let id = self.recorder.inodes.id_of(&stat);
        if let Some(&number) = self.by_member.get(&info.id) {
            self.stage.tie(number, id);
        }
        self.stage.set_hollow((id, self.recorder.inodes.ino_of(&stat)), info.id);
        self.successors.insert(hollow.was, Successor { id, ctime_ns: stat.ctime_ns, member: Some(info.id) });
        Ok(())
    }

    /// What the file `name` in `dir` stands for, if it has no content of its own.
    fn hollow(&self, dir: &OwnedFd, name: &OsStr, stat: &Stat) -> FsResult<Option<Hollow>> {
        let hollow = access::reading((dir, name, stat.mode), |fd| Hollow::of(fd))?;
        let after = Stat::of_name(dir, name)?;
        // Nobody but us has changed it.
        if after.ctime_ns != stat.ctime_ns {
            let id = self.recorder.inodes.id_of(stat);
            if let Some(row) = self.recorder.inode_row(id)?.filter(|row| row.matches(stat)) {
                let row = InodeRow { ctime_ns: after.ctime_ns, ..row };
                self.recorder.stream.note(vec![table::set(table::inode_key(id), &row)?]);
            }
        }
        Ok(hollow)
    }

    /// Give a file the rest of its content, if it was on its way and programs had written; whether it was.
    fn finish(&self, dir: &OwnedFd, name: &OsStr, member: MemberId, note: &Path) -> FsResult<bool> {
        let mode = Stat::of_name(dir, name)?.mode;
        let (file, is_opened_up) = access::to_change((dir, name, mode))?;
        let file = File::from(file);
        let is_finished = patch::finish(&self.stage.archive, member, &file, note)?;
        if is_finished {
            Hollow::clear_durably(&file)?;
            patch::remove(note);
        }
        if is_opened_up {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        }
        Ok(is_finished)
    }

    /// What the archive has of the content that the file at `path` stood for, or else has at its path.
    fn member(&self, hollow: Hollow, path: &Path) -> Option<MemberInfo> {
        let id = MemberId(hollow.member);
        let known = self.stage.archive.member(id).filter(|info| info.crc == hollow.crc);
        // The place of a member in the file names another one when another program has written it.
        let known = known.filter(|_| !self.stage.is_theirs || id.is_drawn());
        let by_path = || {
            let number = self.at(path)?;
            let member = self.stage.view.lock().member(number)?;
            self.stage.archive.member(member)
        };
        known.or_else(by_path).filter(|info| info.kind == Kind::File)
    }

    /// Rows that a crash kept from following their inodes.
    fn move_rows(&self) -> FsResult<()> {
        let stream = &self.recorder.stream;
        for &(dir, was) in &self.filled {
            let mut rows = Vec::new();
            for (name, row) in table::names_in(stream.sink(), was)? {
                let successor = self.successors.get(&row.id);
                if was == dir && successor.is_none() {
                    continue;
                }
                self.move_row((dir, was), &name, &row, successor, &mut rows)?;
            }
            stream.note(rows);
        }
        stream.drain()
    }

    fn move_row(
        &self,
        (dir, was): (Id, Id),
        name: &[u8],
        row: &NameRow,
        successor: Option<&Successor>,
        rows: &mut Vec<Row>,
    ) -> FsResult<()> {
        let id = successor.map_or(Id(row.id), |successor| successor.id);
        if let Some(mut inode) = self.recorder.inode_row(Id(row.id))? {
            inode.links = vec![(dir.0, name.to_vec())];
            if let Some(successor) = successor {
                let info = successor.member.and_then(|member| self.stage.archive.member(member));
                if is_as_recorded(&inode, info.as_ref()) {
                    inode.ctime_ns = successor.ctime_ns;
                }
                rows.push(table::delete(table::inode_key(Id(row.id))));
            }
            rows.push(table::set(table::inode_key(id), &inode)?);
        }
        let name = OsStr::from_bytes(name);
        if was != dir {
            rows.push(table::delete(table::name_key(was, name)));
        }
        rows.push(table::set(table::name_key(dir, name), &NameRow { id: id.0, kind: row.kind })?);
        Ok(())
    }
}
