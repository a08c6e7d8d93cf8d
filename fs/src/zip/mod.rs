//! The second kind: a zip archive, read where it lies.
//!
//! The central directory becomes an index in memory (`index`); content is unpacked when it is read and kept in bounded
//! memory (`contents`). Nothing is ever written, and no name leads outside (`name`).

mod bucket;
pub(crate) mod build;
pub(crate) mod contents;
pub(crate) mod crypt;
pub(crate) mod decoder;
pub(crate) mod entry;
pub(crate) mod index;
mod inflate;
pub(crate) mod member;
pub(crate) mod name;
mod seen;
mod sozip;
mod windows;

pub use bucket::{ArchiveCheck, Unread, ZipBucket, ZipOptions};

use crate::error::{FsError, FsResult};
use crate::handle::HandleTable;
use crate::stat::{Fixed, Stat};
use crate::vfs::{Attr, Caller, Dirent, Fh, Ino, Opened, ReadFs, StatFs};
use contents::{Contents, Unreadable};
use crypt::Locked;
use index::{Index, Marks, Row, RowKind};
use member::Member;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest target of a symbolic link, as Linux has it.
const TARGET_MAX: u64 = 4095;
/// Positions of `.` and `..` in a listing.
const DOTS: u64 = 2;

/// The members of a zip archive as a file system.
pub struct ZipFs {
    file: Arc<File>,
    /// Of the archive when it was opened: its members have the owner and device of the file they are in.
    archive: Stat,
    index: Index,
    contents: Contents,
    handles: HandleTable<Member>,
    dirs: HandleTable<u32>,
}

impl std::fmt::Debug for ZipFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZipFs").field("members", &self.index.rows.len()).finish_non_exhaustive()
    }
}

impl ZipFs {
    /// Read the index of `file`. With a `passphrase` encrypted members can be read.
    ///
    /// # Errors
    /// [`FsError::Archive`] when it is no archive.
    pub fn open(file: File, passphrase: Option<Vec<u8>>) -> FsResult<Self> {
        Self::open_with(file, passphrase, None)
    }

    /// As [`ZipFs::open`]; a nameless file in the directory `scratch` may keep what makes large members quick to read in the
    /// middle.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(file: File, passphrase: Option<Vec<u8>>, scratch: Option<PathBuf>) -> FsResult<Self> {
        let archive = Stat::of_fd(&file)?;
        let index = build::index(&file)?;
        tracing::debug!(members = index.rows.len(), bytes = index.memory(), hidden = index.hidden, "archive indexed");
        Ok(Self {
            file: Arc::new(file),
            archive,
            index,
            contents: Contents::new(passphrase, scratch),
            handles: HandleTable::default(),
            dirs: HandleTable::default(),
        })
    }

    /// Bytes of memory that the index holds.
    pub fn index_bytes(&self) -> usize {
        self.index.memory()
    }

    /// That the passphrase opens the encrypted members, as far as the first of them tells.
    ///
    /// # Errors
    /// [`FsError::Passphrase`] when it is missing or another one.
    pub fn check_passphrase(&self) -> FsResult<()> {
        let encrypted = self.index.rows.iter().position(|row| row.marks.has(Marks::ENCRYPTED));
        let Some(number) = encrypted.and_then(|number| u32::try_from(number).ok()) else { return Ok(()) };
        // One that cannot be read for another reason says nothing of the passphrase.
        let Ok(member) = self.member(number) else { return Ok(()) };
        match member.input(self.contents.passphrase()) {
            Ok(_) | Err(Locked::Read(_)) => Ok(()),
            Err(locked) => Err(self.unreadable(number, locked.into())),
        }
    }

    fn row(&self, ino: Ino) -> FsResult<(u32, &Row)> {
        let number = ino.0.checked_sub(Ino::ROOT.0).and_then(|number| u32::try_from(number).ok());
        let found = number.and_then(|number| Some((number, self.index.row(number)?)));
        found.ok_or_else(|| Errno::NOENT.into())
    }

    fn directory(&self, ino: Ino) -> FsResult<(u32, &Row)> {
        let (number, row) = self.row(ino)?;
        if row.kind != RowKind::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok((number, row))
    }

    fn stat(&self, number: u32, row: &Row) -> Stat {
        let dir = row.kind == RowKind::Directory;
        // A directory that no member made is as old as the archive.
        let mtime_ns = if dir && row.mtime_ns == 0 { self.archive.mtime_ns } else { row.mtime_ns };
        let mode = if row.kind == RowKind::Symlink { 0o777 } else { u32::from(row.mode) };
        Stat {
            dev: self.archive.dev,
            ino: ino_of(number).0,
            kind: row.kind.into(),
            mode,
            nlink: if dir { 2 } else { 1 },
            uid: self.archive.uid,
            gid: self.archive.gid,
            rdev: 0,
            size: row.size,
            blocks: if dir { 0 } else { row.packed.div_ceil(512) },
            blksize: contents::SMALL_BYTES as u32,
            atime_ns: mtime_ns,
            mtime_ns,
            ctime_ns: mtime_ns,
            btime_ns: 0,
            fixed: Fixed::No,
        }
    }

    fn attr(&self, number: u32, row: &Row) -> Attr {
        Attr { ino: ino_of(number), stat: self.stat(number, row), generation: 0 }
    }

    /// Whether somebody wrote the archive since it was opened.
    fn is_changed(&self) -> FsResult<bool> {
        Ok(!self.is_as_opened(&Stat::of_fd(&*self.file)?))
    }

    /// Whether a file is the archive, as it was when it was opened.
    fn is_as_opened(&self, found: &Stat) -> bool {
        let of = |stat: &Stat| (stat.dev, stat.ino, stat.size, stat.mtime_ns);
        of(found) == of(&self.archive)
    }

    /// Before something is read where it was.
    fn expect_as_opened(&self) -> FsResult<()> {
        if self.is_changed()? {
            return Err(FsError::os("the archive was changed while it is open", Errno::IO));
        }
        Ok(())
    }

    fn member(&self, number: u32) -> FsResult<Member> {
        self.expect_as_opened()?;
        member::locate(&self.file, &self.index, number)
    }

    fn unreadable(&self, number: u32, problem: Unreadable) -> FsError {
        let path = String::from_utf8_lossy(&self.index.path(number)).into_owned();
        match problem {
            Unreadable::Locked(Locked::Read(error)) | Unreadable::Damaged(error) => {
                tracing::warn!(member = %path, %error, "a member cannot be read");
                FsError::os(format!("{path}: {error}"), Errno::IO)
            }
            Unreadable::Locked(locked) => FsError::Passphrase(format!("{path}: {locked}")),
        }
    }

    fn read_member(&self, member: &Member, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        let left = member.size.saturating_sub(offset);
        let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        let read = self.contents.read(member, offset, &mut out[..count]);
        read.map_err(|problem| self.unreadable(member.key as u32, problem))?;
        Ok(count)
    }

    fn target(&self, number: u32) -> FsResult<Vec<u8>> {
        let member = self.member(number)?;
        if member.size > TARGET_MAX {
            return Err(FsError::os("target of a symbolic link", Errno::NAMETOOLONG));
        }
        let mut target = vec![0; member.size as usize];
        self.read_member(&member, 0, &mut target)?;
        if target.is_empty() || target.contains(&0) {
            return Err(FsError::os("target of a symbolic link", Errno::IO));
        }
        Ok(target)
    }
}

fn ino_of(number: u32) -> Ino {
    Ino(u64::from(number) + Ino::ROOT.0)
}

impl ReadFs for ZipFs {
    fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        let (number, dir) = self.directory(parent)?;
        let found = match name.as_bytes() {
            b"." => Some(number),
            b".." => Some(dir.parent),
            name => self.index.find(dir, name),
        };
        let number = found.ok_or(Errno::NOENT)?;
        let row = self.index.row(number).ok_or(Errno::NOENT)?;
        Ok(self.attr(number, row))
    }

    fn forget(&self, _ino: Ino, _lookups: u64) {}

    fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        let (number, row) = self.row(ino)?;
        Ok(self.attr(number, row))
    }

    fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let (number, row) = self.row(ino)?;
        if row.kind != RowKind::Symlink {
            return Err(Errno::INVAL.into());
        }
        self.target(number)
    }

    fn open(&self, ino: Ino, flags: i32, _who: Caller) -> FsResult<Opened> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(FsError::os("an archive", Errno::ROFS));
        }
        let (number, row) = self.row(ino)?;
        if row.kind == RowKind::Directory {
            return Err(Errno::ISDIR.into());
        }
        let member = self.member(number)?;
        // Whether the passphrase fits is said now and not at the first read.
        member.input(self.contents.passphrase()).map_err(|locked| self.unreadable(number, locked.into()))?;
        Ok(Opened { fh: self.handles.insert(member), backing: None })
    }

    fn read(&self, fh: Fh, offset: u64, buf: &mut [u8]) -> FsResult<usize> {
        let member = self.handles.get(fh)?;
        self.expect_as_opened()?;
        self.read_member(&member, offset, buf)
    }

    fn flush(&self, _fh: Fh) -> FsResult<()> {
        Ok(())
    }

    fn release(&self, fh: Fh) {
        self.handles.remove(fh);
    }

    fn lseek(&self, fh: Fh, offset: i64, whence: i32) -> FsResult<i64> {
        let size = i64::try_from(self.handles.get(fh)?.size).unwrap_or(i64::MAX);
        if !(0..size).contains(&offset) {
            return Err(Errno::NXIO.into());
        }
        // A member is one piece of data, with a hole at its end as every file has.
        match whence {
            libc::SEEK_DATA => Ok(offset),
            libc::SEEK_HOLE => Ok(size),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn opendir(&self, ino: Ino) -> FsResult<Fh> {
        Ok(self.dirs.insert(self.directory(ino)?.0))
    }

    fn readdir(&self, fh: Fh, from: u64, visit: &mut dyn FnMut(Dirent<'_>) -> ControlFlow<()>) -> FsResult<()> {
        let number = *self.dirs.get(fh)?;
        let dir = self.index.row(number).ok_or(Errno::NOENT)?;
        let dots = [(".", number), ("..", dir.parent)];
        for (position, (name, number)) in dots.into_iter().enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX))
        {
            let next = position as u64 + 1;
            let name = OsStr::new(name);
            if visit(Dirent { ino: ino_of(number).0, next, kind: Some(crate::stat::Kind::Directory), name }).is_break()
            {
                return Ok(());
            }
        }
        let skip = usize::try_from(from.saturating_sub(DOTS)).unwrap_or(usize::MAX);
        let children = &self.index.order[self.index.children(dir)];
        for (position, &child) in children.iter().enumerate().skip(skip) {
            let Some(row) = self.index.row(child) else { continue };
            let name = OsStr::from_bytes(self.index.name(row));
            let next = position as u64 + DOTS + 1;
            if visit(Dirent { ino: ino_of(child).0, next, kind: Some(row.kind.into()), name }).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn releasedir(&self, fh: Fh) {
        self.dirs.remove(fh);
    }

    fn statfs(&self, _ino: Ino) -> FsResult<StatFs> {
        let mut space = rustix::fs::fstatvfs(&*self.file)?;
        // A full file system of the size of all content: nothing can be added.
        let blocks = self.index.bytes.div_ceil(space.f_frsize.max(1));
        (space.f_blocks, space.f_bfree, space.f_bavail) = (blocks, 0, 0);
        (space.f_files, space.f_ffree, space.f_favail) = (self.index.rows.len() as u64, 0, 0);
        space.f_namemax = crate::path::NAME_MAX_BYTES as u64;
        Ok(space)
    }

    fn getxattr(&self, ino: Ino, _name: &OsStr) -> FsResult<Vec<u8>> {
        self.row(ino)?;
        Err(Errno::NODATA.into())
    }

    fn listxattr(&self, ino: Ino) -> FsResult<Vec<u8>> {
        self.row(ino)?;
        Ok(Vec::new())
    }
}
