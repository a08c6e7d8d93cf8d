//! Contents: which files go into the archive, and from where.

use super::{Dir, Number, Plan};
use crate::error::FsResult;
use crate::lz::archive::{Edit, NewMember, Source};
use crate::path::BucketPath;
use crate::stat::{Id, Kind, Stat};
use crate::table::Settled;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes put in one commit, if there is more than one file.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Temporary files of `put` are not the user's.
const TEMPORARY: &[u8] = b".wizefs-put-";

/// Which contents go into the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::lz) enum Puts {
    /// None: it is to become smaller.
    Nothing,
    /// Those that the ledger was told of.
    Recorded,
    /// Also what nobody reported, as it is: nobody works in the stage any more.
    Everything,
}

impl Plan<'_> {
    pub(super) fn file(&mut self, dir: &Dir, name: &OsStr, stat: &Stat) -> FsResult<()> {
        let id = self.recorder.inodes.id_of(stat);
        if !self.seen.insert(id) {
            return Ok(());
        }
        let is_hollow = self.stage.inodes.lock().hollow.contains_key(&id);
        let tied = self.tied(id);
        let path = dir.path.join(name)?;
        if is_hollow {
            return match tied {
                Some(mine) => self.keep(mine, dir, name, stat),
                // Another program has taken it out of the archive.
                None => Ok(()),
            };
        }
        let recorded = self.settled(id, stat)?;
        if recorded.is_none() && is_temporary(name) {
            return Ok(());
        }
        let Some((blake3, size)) = recorded else {
            if self.puts == Puts::Everything {
                return self.put(dir, name, stat, None);
            }
            return self.wait(dir, name, path, tied);
        };
        let has_it = |plan: &Self, number: Number| {
            plan.info(number)
                .is_some_and(|info| info.kind == Kind::File && info.size == size && info.blake3 == Some(blake3))
        };
        if let Some(mine) = tied.filter(|&mine| has_it(self, mine)) {
            return self.keep(mine, dir, name, stat);
        }
        let there = self.view.child(dir.number, name.as_bytes());
        let ours = |plan: &Self, number: Number| plan.view.inode(number).is_none_or(|inode| inode == id);
        if let Some(there) = there.filter(|&there| ours(self, there) && has_it(self, there)) {
            self.tie(there, id);
            return self.keep(there, dir, name, stat);
        }
        if self.puts == Puts::Nothing {
            return self.wait(dir, name, path, tied);
        }
        self.put(dir, name, stat, Some(blake3))
    }

    /// Until its content goes in, the archive has the file at `path` as it was, where it is.
    fn wait(&mut self, dir: &Dir, name: &OsStr, path: BucketPath, tied: Option<Number>) -> FsResult<()> {
        self.draft.waiting.insert(path, false);
        let before = tied.filter(|&mine| self.view.member(mine).is_some());
        match before {
            Some(mine) if self.view.child(dir.number, name.as_bytes()) != Some(mine) => self.rename(mine, dir, name),
            _ => Ok(()),
        }
    }

    fn put(&mut self, dir: &Dir, name: &OsStr, stat: &Stat, blake3: Option<[u8; 32]>) -> FsResult<()> {
        let id = self.recorder.inodes.id_of(stat);
        let path = dir.path.join(name)?;
        let is_much = self.draft.bytes > 0 && self.draft.bytes + stat.size > BYTES_MAX;
        if is_much || self.draft.files.len() >= self.files_max {
            self.draft.left.insert(path, false);
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&dir.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            // One that its own owner may not read, who is no root: it stays in the stage alone.
            Err(Errno::ACCESS) => return self.wait(dir, name, path, self.tied(id)),
            Err(errno) => return Err(errno.into()),
        };
        let at = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let there = self.view.child(dir.number, name.as_bytes());
        let replaced = there.filter(|&there| {
            self.view.kind(there) == Kind::File && self.view.inode(there).is_none_or(|inode| inode == id)
        });
        let number = match replaced {
            Some(number) => number,
            None => {
                self.free(dir, name)?;
                self.insert(dir.number, name, Kind::File)
            }
        };
        // An older content of the same file, under another name: gone with this.
        if let Some(old) = self.tied(id).filter(|&old| old != number) {
            self.is_missing(old);
        }
        self.tie(number, id);
        let source = self.patched(id, number, stat.size, &at).unwrap_or(Source::File(at));
        let (mode, mtime_ns) = (stat.mode, stat.mtime_ns);
        self.add(number, Edit::Put(NewMember { path, source, mode, mtime_ns, blake3 }));
        self.draft.files.push(file);
        self.draft.bytes += stat.size;
        Ok(())
    }

    /// A file that is a big member with a few parts replaced, as that.
    fn patched(&self, id: Id, number: Number, size: u64, file: &Path) -> Option<Source> {
        let filling = self.stage.inodes.lock().patched.get(&id).cloned()?;
        let base = filling.member();
        let dirty = filling.written();
        let bytes: u64 = dirty.iter().map(|range| range.end - range.start).sum();
        let is_it = self.view.member(number) == Some(base) && bytes <= size / 2;
        is_it.then(|| Source::Patched { base, file: file.to_owned(), dirty, size })
    }

    /// The content of a file as it was reported, if it is that.
    fn settled(&self, id: Id, stat: &Stat) -> FsResult<Option<([u8; 32], u64)>> {
        let Some(row) = self.recorder.inode_row(id)? else { return Ok(None) };
        let in_use = self.recorder.inodes.find(self.recorder.inodes.ino_of(stat));
        let is_dirty = in_use.is_some_and(|node| node.id == id && node.writing.lock().dirty.is_some());
        match row.content {
            Settled::Hashed { hashes, .. } if row.matches(stat) && !is_dirty => Ok(Some((hashes.blake3, row.size))),
            _ => Ok(None),
        }
    }
}

/// Whether a name is like that of a file that `put` is receiving, which nobody reports.
fn is_temporary(name: &OsStr) -> bool {
    let random = name.as_bytes().strip_prefix(TEMPORARY);
    random.is_some_and(|random| random.len() == 16 && random.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}
