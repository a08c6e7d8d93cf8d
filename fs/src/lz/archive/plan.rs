//! What a list of edits comes to: which members leave, which get other headers, which are new.

use super::table::Table;
use super::{Edit, Edits, MemberId, NewMember};
use crate::error::{FsError, FsResult};
use crate::stat::Kind;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Deeper paths are not shown by the reader.
pub(in super::super) const DEPTH_MAX: usize = 255;
/// A member up to this size is written anew when its time changes, so that its local header has the time too.
const TOUCH_MAX: u64 = 64 * 1024;

/// What is at a path after the edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// An entry of the table.
    Old(u32),
    /// A new member.
    New(usize),
}

/// A new member.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fresh<'a> {
    File(&'a NewMember),
    Directory,
    Symlink(&'a [u8]),
}

/// A new member and its place among the edits that make members.
#[derive(Debug)]
pub(super) struct Made<'a> {
    pub(super) path: Vec<u8>,
    pub(super) content: Fresh<'a>,
    pub(super) mode: u32,
    pub(super) mtime_ns: i64,
    pub(super) number: usize,
}

impl Made<'_> {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.content, Fresh::Directory)
    }
}

/// A member that stays and gets another path, mode or time.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) old: u32,
    /// None where it stays.
    pub(super) path: Option<Vec<u8>>,
    pub(super) attributes: Option<(u32, i64)>,
    /// Its local header is written anew at another place.
    pub(super) moves: bool,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// Entries whose bytes where they are belong to nothing afterwards.
    pub(super) leaving: BTreeSet<u32>,
    /// Entries that get another record where they are, and those that get another place.
    pub(super) changed: Vec<Changed>,
    pub(super) made: Vec<Made<'a>>,
    /// How many edits make members.
    pub(super) makers: usize,
    /// Directories that were to be made and are there, by the number of the edit.
    pub(super) stays: Vec<(usize, MemberId)>,
}

impl Plan<'_> {
    /// Whether the member at `path` is a new one, or another one than before.
    pub(super) fn places(&self, path: &[u8]) -> bool {
        let moved = self.changed.iter().filter(|changed| changed.moves).filter_map(|changed| changed.path.as_deref());
        moved.chain(self.made.iter().map(|made| &made.path[..])).any(|new| new == path)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leaving.is_empty() && self.changed.is_empty() && self.made.is_empty()
    }
}

struct Resolver<'a> {
    table: &'a Table,
    /// Paths that are not as the table has them.
    overlay: BTreeMap<Vec<u8>, Option<Slot>>,
    attributes: HashMap<u32, (u32, i64)>,
    made: Vec<Made<'a>>,
    makers: usize,
    stays: Vec<(usize, MemberId)>,
}

/// What `edits` come to.
///
/// # Errors
/// `EINVAL`, `ENOTDIR`, `EEXIST`, `ENAMETOOLONG`: an edit makes no sense.
pub(super) fn plan<'a>(edits: &'a Edits, table: &'a Table) -> FsResult<Plan<'a>> {
    let mut resolver = Resolver {
        table,
        overlay: BTreeMap::new(),
        attributes: HashMap::new(),
        made: Vec::new(),
        makers: 0,
        stays: Vec::new(),
    };
    for edit in &edits.0 {
        resolver.edit(edit)?;
    }
    resolver.check()?;
    Ok(resolver.finish())
}

fn refused(path: &[u8], errno: Errno) -> FsError {
    FsError::os(String::from_utf8_lossy(path).into_owned(), errno)
}

impl<'a> Resolver<'a> {
    fn at(&self, path: &[u8]) -> Option<Slot> {
        match self.overlay.get(path) {
            Some(slot) => *slot,
            None => self.table.find(path).map(Slot::Old),
        }
    }

    fn edit(&mut self, edit: &'a Edit) -> FsResult<()> {
        match edit {
            Edit::Put(new) => self.make(&new.path, Fresh::File(new), libc::S_IFREG | new.mode & 0o7777, new.mtime_ns),
            Edit::Directory { path, mode, mtime_ns } => match self.at(path.as_bytes()) {
                Some(Slot::Old(old)) if self.is_directory(Slot::Old(old)) => {
                    self.attributes.insert(old, (*mode & 0o7777, *mtime_ns));
                    self.stays.push((self.makers, self.table.entries[old as usize].id));
                    self.makers += 1;
                    Ok(())
                }
                _ => self.make(path, Fresh::Directory, libc::S_IFDIR | mode & 0o7777, *mtime_ns),
            },
            Edit::Symlink { path, target, mtime_ns } => {
                self.make(path, Fresh::Symlink(target), libc::S_IFLNK | 0o777, *mtime_ns)
            }
            Edit::Remove(path) => {
                if self.at(path.as_bytes()).is_some() {
                    self.overlay.insert(path.as_bytes().to_vec(), None);
                }
                Ok(())
            }
            Edit::Rename { from, to } => self.rename(from.as_bytes(), to.as_bytes()),
            Edit::Attributes { path, mode, mtime_ns } => {
                match self.at(path.as_bytes()).ok_or_else(|| refused(path.as_bytes(), Errno::NOENT))? {
                    Slot::Old(old) => {
                        self.attributes.insert(old, (*mode & 0o7777, *mtime_ns));
                    }
                    Slot::New(number) => {
                        let made = &mut self.made[number];
                        (made.mode, made.mtime_ns) = (made.mode & libc::S_IFMT | mode & 0o7777, *mtime_ns);
                    }
                }
                Ok(())
            }
        }
    }

    fn make(&mut self, path: &crate::path::BucketPath, content: Fresh<'a>, mode: u32, mtime_ns: i64) -> FsResult<()> {
        let path = path.as_bytes().to_vec();
        if path.is_empty() {
            return Err(refused(b"the root", Errno::INVAL));
        }
        self.overlay.insert(path.clone(), Some(Slot::New(self.made.len())));
        self.made.push(Made { path, content, mode, mtime_ns, number: self.makers });
        self.makers += 1;
        Ok(())
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> FsResult<()> {
        let mut prefix = from.to_vec();
        prefix.push(b'/');
        if from.is_empty() || to.is_empty() || to.starts_with(&prefix) {
            return Err(refused(to, Errno::INVAL));
        }
        if from == to {
            return Ok(());
        }
        let mut moving: Vec<(Vec<u8>, Slot)> = Vec::new();
        moving.extend(self.at(from).map(|slot| (from.to_vec(), slot)));
        let old = self.table.below(&prefix).iter().map(|&number| (self.table.path(number), Slot::Old(number)));
        moving.extend(old.filter(|(path, _)| !self.overlay.contains_key(*path)).map(|(p, s)| (p.to_vec(), s)));
        let overlaid = self.overlay.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        moving.extend(overlaid.filter_map(|(path, slot)| Some((path.clone(), (*slot)?))));
        if !moving.is_empty() && self.at(to).is_some() {
            self.overlay.insert(to.to_vec(), None);
        }
        for (path, _) in &moving {
            self.overlay.insert(path.clone(), None);
        }
        for (path, slot) in moving {
            let new = [to, &path[from.len()..]].concat();
            self.overlay.insert(new, Some(slot));
        }
        Ok(())
    }

    fn is_directory(&self, slot: Slot) -> bool {
        match slot {
            Slot::Old(number) => self.table.entries[number as usize].kind == Some(Kind::Directory),
            Slot::New(number) => self.made[number].is_directory(),
        }
    }

    /// Whether anything is below `path`.
    fn has_below(&self, path: &[u8]) -> bool {
        let prefix = [path, b"/"].concat();
        let old = self.table.below(&prefix).iter().map(|&number| self.table.path(number));
        let mut overlaid = self.overlay.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        overlaid.any(|(_, slot)| slot.is_some()) || old.into_iter().any(|path| !self.overlay.contains_key(path))
    }

    /// That files are where no directory is needed, and names can be stored.
    fn check(&self) -> FsResult<()> {
        let mut last: &[u8] = b"";
        for (path, slot) in &self.overlay {
            let Some(slot) = slot else { continue };
            if path.iter().filter(|&&b| b == b'/').count() >= DEPTH_MAX {
                return Err(refused(path, Errno::NAMETOOLONG));
            }
            if !self.is_directory(*slot) && self.has_below(path) {
                return Err(refused(path, Errno::EXIST));
            }
            let dir = path.iter().rposition(|&b| b == b'/').map_or(&[][..], |cut| &path[..cut]);
            if std::mem::replace(&mut last, dir) == dir {
                continue;
            }
            let ends = (1..=dir.len()).filter(|&end| end == dir.len() || dir[end] == b'/');
            for end in ends {
                if self.at(&dir[..end]).is_some_and(|slot| !self.is_directory(slot)) {
                    return Err(refused(&dir[..end], Errno::NOTDIR));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Plan<'a> {
        let mut plan = Plan { makers: self.makers, stays: self.stays, ..Plan::default() };
        let mut paths: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut attributes = self.attributes;
        for (path, slot) in self.overlay {
            let before = self.table.find(&path);
            if let Some(old) = before.filter(|&old| slot != Some(Slot::Old(old))) {
                plan.leaving.insert(old);
            }
            match slot {
                Some(Slot::Old(old)) if before != Some(old) => {
                    let attributes = attributes.remove(&old);
                    plan.changed.push(Changed { old, path: Some(path), attributes, moves: true });
                }
                Some(Slot::New(number)) => {
                    paths.insert(number, path);
                }
                _ => {}
            }
        }
        for (old, (mode, mtime_ns)) in attributes {
            let entry = &self.table.entries[old as usize];
            let unchanged = u32::from(entry.mode) == mode && entry.mtime_ns == mtime_ns;
            if plan.leaving.contains(&old) || unchanged {
                continue;
            }
            // What the file begins with stays there, and directories often are that.
            let may_move = entry.kind != Some(Kind::Directory) && entry.place > 0 && entry.packed <= TOUCH_MAX;
            let moves = entry.mtime_ns != mtime_ns && may_move;
            plan.changed.push(Changed { old, path: None, attributes: Some((mode, mtime_ns)), moves });
            if moves {
                plan.leaving.insert(old);
            }
        }
        plan.changed.sort_by_key(|changed| changed.old);
        for (slot, made) in self.made.into_iter().enumerate() {
            if let Some(path) = paths.remove(&slot) {
                plan.made.push(Made { path, ..made });
            }
        }
        plan
    }
}
