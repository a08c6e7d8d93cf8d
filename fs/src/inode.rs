//! The inodes in use: those the kernel has looked up and those with unfinished changes.

mod devices;
mod resting;
mod table;

pub use table::InodeTable;

use crate::error::{FsError, FsResult};
use crate::lease::reopen;
use crate::stat::{Id, Kind, Stat};
use crate::vfs::Ino;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One inode of the backing.
#[derive(Debug)]
pub struct Node {
    /// Its number towards the kernel.
    pub ino: Ino,
    /// Its identity in the table and in intents.
    pub id: Id,
    /// Device and number in the backing.
    pub backing: (u64, u64),
    /// Birth time, nanoseconds since 1970.
    pub btime_ns: i64,
    /// What it is.
    pub kind: Kind,
    /// `O_PATH` descriptor; closed when idle and opened again through a name.
    fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Known names. Hints: a name is checked against the backing before it is believed.
    names: Mutex<Vec<Name>>,
    /// Whether and how the content may be changing.
    pub writing: Mutex<Writing>,
    /// Signalled when hashing of this inode ends.
    pub hashed: Condvar,
    /// A directory known to be in the settled table, so that files put below it need not look.
    pub recorded: AtomicBool,
    /// Counts the descriptors of all nodes.
    descriptors: Arc<AtomicUsize>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.fd.get_mut().is_some() {
            self.descriptors.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A directory and a name in it.
#[derive(Debug, Clone)]
pub struct Name {
    /// The directory.
    pub parent: Arc<Node>,
    /// The name.
    pub name: OsString,
}

/// The write side of a regular file.
#[derive(Debug, Default)]
pub struct Writing {
    /// Handles open for writing.
    pub writers: u32,
    /// Of these, the ones flushed since their last write: closed by the program, release on its way.
    pub flushed: u32,
    /// Set while content may differ from what was last reported.
    pub dirty: Option<Box<Dirty>>,
    /// Set while a worker hashes; raising it makes the worker give way.
    pub hashing: Option<Arc<AtomicBool>>,
    /// The last lease was refused: somebody not known here writes.
    pub refused: bool,
    /// Opened since the last report so that attributes may move and the kernel does not notice: times of what is mapped, set-id
    /// bits of what is written past the node.
    pub moves_unseen: bool,
    /// Times the content was reported; lets a barrier see that its turn has come.
    pub reports: u64,
    /// When the last hash ended and how long it took: a file that changes all the time is not hashed all the time.
    pub last_hash: Option<(Instant, Duration)>,
}

impl Writing {
    /// Nobody has opened it for writing through here.
    pub fn is_untouched(&self) -> bool {
        self.is_at_rest() && self.reports == 0
    }

    /// Nothing is known of it that a file just opened would not have.
    fn is_at_rest(&self) -> bool {
        self.writers == 0 && self.dirty.is_none() && self.hashing.is_none() && !self.refused && !self.moves_unseen
    }
}

/// What is known about unreported content.
#[derive(Debug)]
pub struct Dirty {
    /// Intents that end when this is reported.
    pub intents: Vec<u64>,
    /// Cause of the next put.
    pub cause: crate::change::Cause,
    /// Modification time when this began; a change of it means that something was written.
    pub mtime_before_ns: i64,
    /// A program set the times itself, so they say nothing about writes.
    pub times_set: bool,
    /// When this began, or when writers were last reported.
    pub since: Instant,
    /// Reported as open for writing since then.
    pub reported_open: bool,
    /// The owner takes the content as the own one: the report is an `accept`.
    pub accepted: bool,
    /// It was hashed when it was received.
    pub received: Option<Received>,
}

/// Content that was hashed when it was received. It holds as long as nobody writes, and these are as they were.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Bytes.
    pub size: u64,
    /// Change time, nanoseconds since 1970, once it was in its place.
    pub ctime_ns: i64,
    /// Its hashes.
    pub hashes: crate::change::Hashes,
}

impl Node {
    /// The write side, with no hash under way: one that is gives way.
    pub fn lock_unhashed(&self) -> MutexGuard<'_, Writing> {
        let mut writing = self.writing.lock();
        while let Some(flag) = &writing.hashing {
            flag.store(true, Ordering::Release);
            self.hashed.wait(&mut writing);
        }
        writing
    }

    fn new(ino: Ino, stat: &Stat, fd: Option<OwnedFd>, descriptors: &Arc<AtomicUsize>) -> Self {
        descriptors.fetch_add(usize::from(fd.is_some()), Ordering::Relaxed);
        Self::with((ino, stat.kind), (stat.dev, stat.ino), stat.btime_ns, (fd, Vec::new()), descriptors)
    }

    fn with(
        (ino, kind): (Ino, Kind),
        backing: (u64, u64),
        btime_ns: i64,
        (fd, names): (Option<OwnedFd>, Vec<Name>),
        descriptors: &Arc<AtomicUsize>,
    ) -> Self {
        Self {
            descriptors: descriptors.clone(),
            ino,
            id: if ino == Ino::ROOT { Id::ROOT } else { Id::of(ino.0, btime_ns) },
            backing,
            btime_ns,
            kind,
            fd: Mutex::new(fd.map(Arc::new)),
            names: Mutex::new(names),
            writing: Mutex::new(Writing::default()),
            hashed: Condvar::new(),
            recorded: AtomicBool::new(false),
        }
    }

    /// Whether `stat` is of this inode, not of another one that has its number now.
    pub fn is(&self, stat: &Stat) -> bool {
        (stat.dev, stat.ino, stat.btime_ns) == (self.backing.0, self.backing.1, self.btime_ns)
    }

    /// The generation number that goes with the inode number.
    pub fn generation(&self) -> u64 {
        self.btime_ns.unsigned_abs()
    }

    /// The `O_PATH` descriptor.
    ///
    /// # Errors
    /// `ESTALE` when there is none and the file is no longer at any known name.
    pub fn fd(&self) -> FsResult<Arc<OwnedFd>> {
        if let Some(fd) = &*self.fd.lock() {
            return Ok(fd.clone());
        }
        let fd = self.open_by_name(OFlags::PATH)?;
        Ok(self.keep(fd))
    }

    /// Whether its descriptor is open.
    pub fn is_open(&self) -> bool {
        self.fd.lock().is_some()
    }

    /// Open the backing file with `flags`.
    ///
    /// # Errors
    /// What the kernel answers; `ESTALE` as [`Node::fd`].
    pub fn open(&self, flags: OFlags) -> FsResult<File> {
        let held = self.fd.lock().clone();
        match held {
            Some(fd) => reopen(fd, flags),
            None => Ok(self.open_by_name(flags)?.into()),
        }
    }

    fn open_by_name(&self, flags: OFlags) -> FsResult<OwnedFd> {
        for name in self.names() {
            let parent = name.parent.fd()?;
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&*parent, &name.name, flags, Mode::empty()) {
                Ok(fd) => {
                    let stat = Stat::of_fd(&fd)?;
                    if self.is(&stat) {
                        return Ok(fd);
                    }
                }
                Err(Errno::NOENT | Errno::LOOP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(FsError::os("file changed behind the mount", Errno::STALE))
    }

    /// Keep `fd` if there is none; the one that is kept.
    fn keep(&self, fd: OwnedFd) -> Arc<OwnedFd> {
        let mut held = self.fd.lock();
        if held.is_none() {
            self.descriptors.fetch_add(1, Ordering::Relaxed);
        }
        held.get_or_insert_with(|| Arc::new(fd)).clone()
    }

    /// Attributes now.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn stat(&self) -> FsResult<Stat> {
        Stat::of_fd(self.fd()?)
    }

    /// Attributes now, if it has any name left. FUSE and network file systems forget what is removed, also for who has a descriptor
    /// of it that is not open to read or write.
    ///
    /// # Errors
    /// What the kernel answers otherwise.
    pub fn stat_named(&self) -> FsResult<Option<Stat>> {
        match self.stat() {
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::STALE) => self.stat_by_name(),
            stat => Ok(Some(stat?).filter(|stat| stat.nlink > 0)),
        }
    }

    /// As [`Node::stat_named`], by a name of it that is left: they may hold each name for a file of its own.
    fn stat_by_name(&self) -> FsResult<Option<Stat>> {
        let fd = match self.open_by_name(OFlags::PATH) {
            Err(error) if error.errno() == Errno::STALE => return Ok(None),
            fd => fd?,
        };
        let stat = Stat::of_fd(&fd)?;
        match &mut *self.fd.lock() {
            Some(held) => *held = Arc::new(fd),
            None => drop(fd),
        }
        Ok(Some(stat))
    }

    /// Whether `stat`, of a file with the number of this one, is of this one. Where files have no birth, a number may be used again
    /// while the one that had it is still in use here.
    fn is_still(&self, stat: &Stat) -> bool {
        let removed =
            || stat.btime_ns == 0 && stat.nlink > 0 && self.is_open() && matches!(self.stat_named(), Ok(None));
        self.btime_ns == stat.btime_ns && !removed()
    }

    /// The known names.
    pub fn names(&self) -> Vec<Name> {
        self.names.lock().clone()
    }

    /// Learn a name.
    pub fn add_name(&self, parent: &Arc<Node>, name: &OsStr) {
        let mut names = self.names.lock();
        if !names.iter().any(|known| known.is(parent.ino, name)) {
            // A directory has one name only; an older one is out of date.
            if self.kind == Kind::Directory {
                names.clear();
            }
            names.push(Name { parent: parent.clone(), name: name.to_owned() });
        }
    }

    /// Whether this name is known.
    fn has_name(&self, parent: Ino, name: &OsStr) -> bool {
        self.names.lock().iter().any(|known| known.is(parent, name))
    }

    /// Whether the directory `other` of the same tree is this one, or is below it now.
    fn is_or_holds(&self, other: &Arc<Self>) -> FsResult<bool> {
        let mut at = other.clone();
        while at.ino != self.ino {
            let Some(name) = at.names().into_iter().next() else { break };
            if !name.holds(&at)? {
                break;
            }
            at = name.parent;
        }
        Ok(at.ino == self.ino || self.ino == Ino::ROOT)
    }

    /// Unlearn a name.
    pub fn drop_name(&self, parent: Ino, name: &OsStr) {
        self.names.lock().retain(|known| !known.is(parent, name));
    }

    fn is_idle(&self) -> bool {
        self.writing.lock().dirty.is_none() && self.can_be_opened_again()
    }

    /// Nobody writes it, and it has a name.
    fn can_be_opened_again(&self) -> bool {
        self.writing.lock().writers == 0 && !self.names.lock().is_empty()
    }

    fn close_if_unused(&self) {
        let mut fd = self.fd.lock();
        if fd.as_ref().is_some_and(|held| Arc::strong_count(held) == 1) {
            *fd = None;
            self.descriptors.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Name {
    fn is(&self, parent: Ino, name: &OsStr) -> bool {
        self.parent.ino == parent && self.name == name
    }

    /// Whether the backing has `node` under this name now.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn holds(&self, node: &Node) -> FsResult<bool> {
        let found = Stat::of_name_opt(self.parent.fd()?, &self.name)?;
        Ok(found.is_some_and(|stat| node.is(&stat)))
    }
}
