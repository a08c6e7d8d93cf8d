//! Files of a bucket by path, mounted or not: remove, look, compare.

use super::{Bucket, RELEASE_WAIT, Stored, is_held};
use crate::change::{Cause, Hashes};
use crate::content;
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::lease::reopen;
use crate::listing;
use crate::path::BucketPath;
use crate::settle::Outcome;
use crate::stat::{Kind, Stat};
use crate::stream::now_us;
use crate::table::{self, InodeRow, Settled};
use crate::verified::Verified;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The path.
    pub path: BucketPath,
    /// What it is.
    pub kind: FoundKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// The kinds of files as far as recording tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundKind {
    /// Regular file.
    File,
    /// Symbolic link.
    Symlink,
    /// Directory.
    Directory,
    /// Pipe, socket or device: works, is not recorded.
    Special,
    /// There, and cannot be looked at: a mount whose program is gone.
    Unreadable,
}

impl Found {
    fn unreadable(path: BucketPath) -> Self {
        Self { path, kind: FoundKind::Unreadable, size: 0, mode: 0, mtime_ns: 0, target: None }
    }
}

/// A file compared with what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentCheck {
    /// Bytes found.
    pub size: u64,
    /// Content found.
    pub hashes: Hashes,
    /// Byte ranges that differ, first and last inclusive; none when the content is as expected.
    pub ranges: Vec<(u64, u64)>,
}

/// Change times within this many nanoseconds may be told apart no more.
const TICK_NS: i64 = 20_000_000;

impl Bucket {
    pub(super) fn admit_change(&self, frees: bool) -> FsResult<()> {
        if self.read_only {
            return Err(FsError::os("mounted read-only", Errno::ROFS));
        }
        self.recorder.stream.admit(frees)
    }

    pub(super) fn tell_kernel(&self, dir: &Node, name: &OsStr) {
        if let Some(kernel) = self.recorder.kernel() {
            kernel.name_changed(dir.ino, name);
        }
    }

    /// Settle `node` here and now, and wait until the ledger has it.
    pub(super) fn settled(&self, node: &Arc<Node>) -> FsResult<Stored> {
        let busy = || FsError::Busy("the file is open for writing by another program".into());
        let release_by = Instant::now() + RELEASE_WAIT;
        let number = loop {
            let seen = self.recorder.queue.jobs_ended();
            match self.recorder.settle(node, false)? {
                Outcome::Done(Some(number)) => break number,
                // A worker was faster; its number is not above the last one.
                Outcome::Done(None) => break self.recorder.stream.last(),
                Outcome::Writers | Outcome::Changed => {
                    if is_held(&node.writing.lock(), || self.is_kernel_busy(), release_by) {
                        return Err(busy());
                    }
                    self.recorder.queue.wait_for_job(seen, Duration::from_millis(5));
                }
                Outcome::Refused => return Err(busy()),
            }
        };
        self.recorder.stream.wait(number)?;
        let row = self.recorder.inode_row(node.id)?;
        match row.map(|row| (row.size, row.content)) {
            Some((size, Settled::Hashed { hashes, .. })) => Ok(Stored { number, size, hashes }),
            _ => Err(FsError::Busy("the file was changed meanwhile".into())),
        }
    }

    /// Record the content of the file at `path` here and now, if it is not recorded yet and nobody writes it.
    ///
    /// # Errors
    /// `ENOENT`; busy when somebody writes it; the problem that keeps the ledger from taking it.
    pub fn settle(&self, path: &BucketPath) -> FsResult<Stored> {
        let (node, _) = self.find(path)?;
        self.settled(&node)
    }

    /// Remove the file or symbolic link at `path`; returns the number of the change when the ledger has it pending.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub fn remove(&self, path: &BucketPath) -> FsResult<u64> {
        self.admit_change(true)?;
        let (dir, name) = path.split_last().ok_or(Errno::ISDIR)?;
        let (dir, _) = self.find(&dir)?;
        let number = self.fs.remove_in(&dir, name, Cause::Put)?;
        self.tell_kernel(&dir, name);
        self.recorder.stream.wait(number)?;
        Ok(number)
    }

    pub(super) fn find(&self, path: &BucketPath) -> FsResult<(Arc<Node>, Stat)> {
        let mut node = self.recorder.inodes.root().clone();
        let mut stat = node.stat()?;
        for name in path.components() {
            let found = self.recorder.inodes.open_name(&node, name);
            (node, stat) = found.map_err(|e| FsError::os(path.to_string(), e.errno()))?;
        }
        Ok((node, stat))
    }

    /// The directory at `path`, without a node, to find names in; that of the top cannot be listed.
    fn dir_at(&self, path: &BucketPath) -> FsResult<Arc<OwnedFd>> {
        self.dirs_to(path, &mut |_| Ok(()))
    }

    /// As [`Bucket::dir_at`]; `visit` is shown each directory on the way from the top, the last one too.
    fn dirs_to(&self, path: &BucketPath, visit: &mut dyn FnMut(&OwnedFd) -> FsResult<()>) -> FsResult<Arc<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = self.recorder.inodes.root().fd()?;
        visit(&at)?;
        for name in path.components() {
            let found = rustix::fs::openat(&*at, name, flags, Mode::empty());
            at = Arc::new(found.map_err(|errno| FsError::os(path.to_string(), errno))?);
            visit(&at)?;
        }
        Ok(at)
    }

    /// What is in the directory at `path`, sorted by name bytes.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn list(&self, path: &BucketPath) -> FsResult<Vec<Found>> {
        let mut above = Vec::new();
        let dir = self.dirs_to(path, &mut |dir| {
            let stat = Stat::of_fd(dir)?;
            above.push((stat.dev, stat.ino));
            Ok(())
        })?;
        let dir = reopen(&*dir, OFlags::RDONLY)?.into();
        let names = listing::names(&dir)?;
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let stat = match Stat::of_name_opt(&dir, &name) {
                Err(error) if error.is_of_one() => {
                    found.push(Found::unreadable(path.join(&name)?));
                    continue;
                }
                stat => stat?,
            };
            let Some(stat) = stat else { continue };
            let mut one = found_at(&dir, path.join(&name)?, &name, &stat)?;
            // A directory above, mounted here, is not entered.
            if one.kind == FoundKind::Directory && above.contains(&(stat.dev, stat.ino)) {
                one.kind = FoundKind::Special;
            }
            found.push(one);
        }
        Ok(found)
    }

    /// What is at `path`; none when there is nothing.
    ///
    /// # Errors
    /// What the kernel answers otherwise.
    pub fn inspect(&self, path: &BucketPath) -> FsResult<Option<Found>> {
        let Some((parent, name)) = path.split_last() else {
            let root = self.dir_at(path)?;
            let stat = Stat::of_fd(&*root)?;
            return Ok(Some(found_at(&root, path.clone(), OsStr::new("."), &stat)?));
        };
        let dir = match self.dir_at(&parent) {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            dir => dir?,
        };
        match Stat::of_name_opt(&*dir, name) {
            Err(error) if error.is_of_one() => Ok(Some(Found::unreadable(path.clone()))),
            stat => stat?.map(|stat| found_at(&dir, path.clone(), name, &stat)).transpose(),
        }
    }

    /// The backing file at `path`, for reading.
    ///
    /// # Errors
    /// `ENOENT`; `ELOOP` for a symbolic link.
    pub fn open_file(&self, path: &BucketPath) -> FsResult<File> {
        let (parent, name) = path.split_last().ok_or(Errno::ISDIR)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*self.dir_at(&parent)?, name, flags, Mode::empty());
        Ok(file.map_err(|errno| FsError::os(path.to_string(), errno))?.into())
    }

    /// The file at `path`, for reading, if it is a regular one of at most `most` bytes of which everything is recorded. Waits for
    /// nobody: what somebody is just looking after counts as not recorded.
    ///
    /// # Errors
    /// As [`Bucket::open_file`].
    pub fn open_settled(&self, path: &BucketPath, most: u64) -> FsResult<Option<File>> {
        let file = self.open_file(path)?;
        let stat = Stat::of_fd(&file)?;
        if stat.kind != Kind::File || stat.size > most {
            return Ok(None);
        }
        let inodes = &self.recorder.inodes;
        let node = inodes.find(inodes.ino_of(&stat));
        let settled = node.is_none_or(|node| node.writing.try_lock().is_some_and(|writing| writing.dirty.is_none()));
        Ok((settled && !self.is_undelivered(path)).then_some(file))
    }

    /// The file at `path` as content of this size and BLAKE3, compared while it is read.
    ///
    /// # Errors
    /// `ENOENT`; `ELOOP` for a symbolic link; damage that is seen at once; what reading answers.
    pub fn open_verified(&self, path: &BucketPath, size: u64, expected: &[u8; 32]) -> FsResult<Verified> {
        Verified::open(self.open_file(path)?, size, *expected, |file| {
            let id = self.recorder.inodes.id_of(&Stat::of_fd(file)?);
            self.recorder.outboards.inner_hashes(id.0, file, size, expected)
        })
    }

    /// Read the whole file at `path` and compare it with the content of this BLAKE3.
    ///
    /// # Errors
    /// What opening and reading answer; busy when it kept changing.
    pub fn check_content(&self, path: &BucketPath, expected: &[u8; 32]) -> FsResult<ContentCheck> {
        /// A file that somebody writes is read again, but not for ever.
        const TRIES: usize = 3;
        let file = self.open_file(path)?;
        for _ in 0..TRIES {
            let began_ns = i64::try_from(now_us()).unwrap_or(i64::MAX).saturating_mul(1000);
            let stat = Stat::of_fd(&file)?;
            let Some(hashed) = content::hash(&file, stat.size, &mut || true, std::io::sink())? else {
                continue;
            };
            let hashes = hashed.hashes;
            let ranges = if hashes.blake3 == *expected {
                // What changes within the same tick of the clock looks unchanged.
                if began_ns.saturating_sub(stat.ctime_ns) > TICK_NS {
                    self.recognized(path, &stat, &hashes);
                }
                Vec::new()
            } else {
                let id = self.recorder.inodes.id_of(&stat);
                self.recorder.outboards.damaged_ranges(id.0, &file, expected)?
            };
            return Ok(ContentCheck { size: stat.size, hashes, ranges });
        }
        Err(FsError::Busy(format!("{path} changes while it is read")))
    }

    /// The file at `path` has the content that is recorded there: what programs do to it from here on is theirs, also when it was
    /// restored from a copy meanwhile.
    fn recognized(&self, path: &BucketPath, stat: &Stat, hashes: &Hashes) {
        let known = self.recorder.inode_row(self.recorder.inodes.id_of(stat));
        let is_known = |row: InodeRow| row.matches(stat) && row.links.len() >= stat.nlink as usize;
        if self.read_only || known.is_ok_and(|row| row.is_some_and(is_known)) {
            return;
        }
        let names = self.recorder.lock_names();
        if let Err(error) = self.recorder.recognize(&names, path, Some((stat, hashes))) {
            tracing::debug!(%path, %error, "not recognized");
        }
    }

    /// What is at `path` is the directory or symbolic link that is recorded there, though it may be another inode now.
    ///
    /// # Errors
    /// What the sink or the backing answers.
    pub fn recognize(&self, path: &BucketPath) -> FsResult<()> {
        if self.read_only {
            return Ok(());
        }
        self.recorder.recognize(&self.recorder.lock_names(), path, None)
    }

    /// Whether the content at `path` is not reported yet.
    pub fn is_pending(&self, path: &BucketPath) -> bool {
        self.find(path).is_ok_and(|(node, _)| node.writing.lock().dirty.is_some())
    }

    /// Whether something that is established of `path` is still on its way to the ledger, which tells what was before.
    pub fn is_undelivered(&self, path: &BucketPath) -> bool {
        if self.recorder.stream.is_drained() {
            return false;
        }
        let (mut at, mut keys) = (self.recorder.inodes.root().clone(), Vec::new());
        for name in path.components() {
            keys.push(table::name_key(at.id, name));
            match self.recorder.inodes.open_name(&at, name) {
                Ok((node, _)) => at = node,
                Err(_) => break,
            }
        }
        keys.push(table::inode_key(at.id));
        self.recorder.stream.is_unwritten(&keys)
    }
}

fn found_at(dir: &OwnedFd, path: BucketPath, name: &OsStr, stat: &Stat) -> FsResult<Found> {
    let kind = match stat.kind {
        Kind::File => FoundKind::File,
        Kind::Symlink => FoundKind::Symlink,
        Kind::Directory => FoundKind::Directory,
        _ => FoundKind::Special,
    };
    let target = match kind {
        FoundKind::Symlink => Some(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()),
        _ => None,
    };
    Ok(Found { path, kind, size: stat.size, mode: stat.mode, mtime_ns: stat.mtime_ns, target })
}
