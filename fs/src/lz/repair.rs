//! What a stage that is still there stands for: read from its notes when the bucket is opened.

use super::archive::{MemberId, MemberInfo};
use super::fill::{clear, is_as_recorded};
use super::mark::{Hollow, Listed};
use super::patch;
use super::plan::open_dir;
use super::stage::Stage;
use super::view::{Number, TOP};
use crate::change::Row;
use crate::error::FsResult;
use crate::listing;
use crate::path::BucketPath;
use crate::recorder::Recorder;
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, NameRow};
use rustix::fs::{AtFlags, Mode, OFlags};
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
            left: vec![PathBuf::from(".")],
        };
        while let Some(path) = repair.left.pop() {
            let fd = open_dir(&top, path.as_os_str())?;
            repair.directory(&fd, &path)?;
        }
        repair.move_rows()?;
        self.note_left()
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
    /// The directory of the archive that an anchor leads to.
    fn anchored(&self, (member, up): (u64, u32)) -> Option<Number> {
        let view = self.stage.view.lock();
        let member = *self.by_member.get(&MemberId(member))?;
        (0..up).try_fold(member, |at, _| view.parent(at)).filter(|&at| up > 0 && view.kind(at) == Kind::Directory)
    }

    fn directory(&mut self, fd: &OwnedFd, path: &Path) -> FsResult<()> {
        let id = self.recorder.inodes.id_of(&Stat::of_fd(fd)?);
        let listed = Listed::of(fd)?;
        let number = if id == Id::ROOT { Some(TOP) } else { listed.and_then(|listed| self.anchored(listed.anchor)) };
        if let Some(number) = number {
            self.stage.tie(number, id);
        }
        if let Some(listed) = listed.filter(|listed| !listed.whole) {
            // Nobody but us has made anything there.
            clear(fd)?;
            match number {
                Some(number) => self.stage.set_unread(id, number, Id(listed.was)),
                None => {
                    tracing::warn!(archive = %self.stage.archive.path().display(), "a directory is gone from the archive")
                }
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
            _ => Ok(()),
        }
    }

    fn files(&mut self, fd: &OwnedFd, path: &Path) -> FsResult<()> {
        for name in listing::names(fd.try_clone()?)? {
            let stat = Stat::of_name(fd, &name)?;
            match stat.kind {
                Kind::Directory => {
                    self.sub(fd, &name, &stat)?;
                    self.left.push(path.join(&name));
                }
                Kind::File => self.file(fd, &name, &stat, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sub(&mut self, dir: &OwnedFd, name: &OsStr, stat: &Stat) -> FsResult<()> {
        let fd = open_dir(dir, name)?;
        let id = self.recorder.inodes.id_of(stat);
        if let Some(listed) = Listed::of(&fd)? {
            self.successors.insert(listed.was, Successor { id, ctime_ns: stat.ctime_ns, member: None });
        }
        Ok(())
    }

    fn file(&mut self, dir: &OwnedFd, name: &OsStr, stat: &Stat, path: &Path) -> FsResult<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let Some(hollow) = Hollow::of(&fd)? else { return Ok(()) };
        let mut stat = *stat;
        let writable = || -> FsResult<OwnedFd> {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
        };
        let info = self.stage.archive.member(MemberId(hollow.member)).filter(|info| info.crc == hollow.crc);
        let info = match info {
            Some(info) => {
                let (file, note) = (File::from(writable()?), self.stage.note_of(stat.ino));
                // Its content was on its way, and programs had written.
                if patch::finish(&self.stage.archive, info.id, &file, &note)? {
                    Hollow::clear(&file)?;
                    patch::remove(&note);
                    return Ok(());
                }
                // Its content was taken away, and the note had not followed.
                if stat.size == 0 && info.size > 0 {
                    return Hollow::clear(&fd);
                }
                // Written in another boot and never synced.
                if stat.size != info.size {
                    stat = self.stage.stand_for(&file.into(), &info, hollow.was)?;
                }
                info
            }
            // Another program rewrote the archive: what it has under this name is what is here.
            None => match self.theirs(path, name)? {
                Some(info) => {
                    stat = self.stage.stand_for(&writable()?, &info, hollow.was)?;
                    info
                }
                None => return Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?),
            },
        };
        let id = self.recorder.inodes.id_of(&stat);
        if let Some(&number) = self.by_member.get(&info.id) {
            self.stage.tie(number, id);
        }
        self.stage.set_hollow(id, info.id);
        self.successors.insert(hollow.was, Successor { id, ctime_ns: stat.ctime_ns, member: Some(info.id) });
        Ok(())
    }

    /// The file that the archive has at a path of the stage.
    fn theirs(&self, dir: &Path, name: &OsStr) -> FsResult<Option<MemberInfo>> {
        let dir = dir.strip_prefix(".").unwrap_or(dir);
        let path = BucketPath::new(dir.join(name).as_os_str().as_bytes())?;
        let number = self.stage.view.lock().at(&path);
        let member = number.and_then(|number| self.stage.view.lock().member(number));
        let info = member.and_then(|member| self.stage.archive.member(member));
        Ok(info.filter(|info| info.kind == Kind::File))
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
