//! The stage: a directory tree beside the archive in which programs work, as in a loopback bucket.
//!
//! What of the archive nobody has looked at is not in it. A directory is filled, when it is first looked into, with what stands
//! for its members: files of their size without content ("hollow"), which are read from the archive, and get their content
//! when they are first written. The tree is the truth while it exists; the archive follows, and when it has everything the
//! tree goes.

use super::apart;
use super::archive::{Archive, Edits, Keeper, MemberId, Pin, Policy, Stamp};
use super::archive::{folder, lock};
use super::left;
use super::mark;
use super::patch::{self, Filling};
use super::reserve::Reserve;
use super::touched::Touched;
use super::view::{Number, View};
use crate::case::expect_in;
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::recorder::Recorder;
use crate::stat::{Id, Kind, Stat};
use crate::vfs::Ino;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The tree in the folder of the stage.
const TREE: &str = "tree";

/// A file whose content is in the archive alone. Locked for writing while that changes.
#[derive(Debug)]
pub(super) struct HollowFile {
    /// What the kernel calls it.
    pub(super) ino: Ino,
    /// The content.
    pub(super) member: MemberId,
    /// Set when it has no name any more, and its content has left the archive.
    pub(super) pin: Mutex<Option<Pin>>,
    /// It has its content now: what is in the archive is out of date.
    pub(super) is_full: RwLock<bool>,
    /// Its content is on its way into the stage.
    pub(super) filling: Mutex<Option<Arc<Filling>>>,
}

/// What the inodes of the stage are.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    /// Files without content.
    pub(super) hollow: HashMap<Id, Arc<HollowFile>>,
    /// Directories that are not filled, and the inode that the table knows them by.
    pub(super) unread: HashMap<Id, (Number, Id)>,
    /// Directories of which only the memory may know that they are filled.
    pub(super) fresh: HashSet<Id>,
    /// The nodes of the view that files and directories stand for.
    pub(super) nodes: HashMap<Id, Number>,
    /// Files that are a member with some parts replaced.
    pub(super) patched: HashMap<Id, Arc<Filling>>,
    /// Files without content and without a name that the kernel knows.
    pub(super) unnamed: HashMap<Ino, Id>,
    /// Members of directories that nothing stands for.
    pub(super) apart: HashMap<Id, apart::Names>,
    /// Handles of a file that the kernel asks us about, while it could do without: all handles must go one way.
    pub(super) asking: HashMap<Id, usize>,
}

/// An archive and the stage beside it.
pub(super) struct Stage {
    /// For when its disk is full.
    pub(super) reserve: Reserve,
    /// The archive.
    pub(super) archive: Archive,
    /// What is in it.
    pub(super) view: Mutex<View>,
    /// What may have to be done to it.
    pub(super) touched: Arc<Touched>,
    pub(super) inodes: Mutex<Inodes>,
    /// Directories that are not filled: almost always none is asked for.
    unread: AtomicUsize,
    /// One directory is filled at a time.
    pub(super) filling: Mutex<()>,
    /// Held while something is moved that the ledger may not know, until that is noted.
    pub(super) moving: RwLock<()>,
    /// One commit at a time.
    pub(super) committing: Mutex<()>,
    pub(super) recorder: OnceLock<Arc<Recorder>>,
    /// What the stage has come to grief at; nothing can be changed any more.
    trouble: RwLock<Option<String>>,
    /// The owner of what is in the archive: that of the archive.
    pub(super) owner: (u32, u32),
    folder: PathBuf,
    /// What the archive was when we last wrote it, or may have been: also where the disk did not take the note.
    known: Arc<Mutex<Vec<Stamp>>>,
    /// Locked while the stage is in use.
    _lock: File,
    /// It was there already: its session did not end in order.
    pub(super) is_left: bool,
    /// Another program has written the archive since that session.
    pub(super) is_theirs: bool,
    closed: AtomicBool,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Whether there is a stage beside an archive: a session that did not end in order left something in it, or one goes on.
pub fn has_stage(archive: &Path) -> bool {
    folder::beside(archive).join(TREE).symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// That the archive at `path` can be written and can have a stage, before a bucket is made of it. On a disk that cannot be
/// written it needs none.
///
/// # Errors
/// What opening the archive and making a folder beside it answers, `EOPNOTSUPP` where that cannot hold what is noted there or does
/// not tell names apart,
/// [`FsError::State`] when others may have put something into it.
pub fn expect_stage(path: &Path) -> FsResult<()> {
    let folder = folder::beside(path);
    let is_there = folder.symlink_metadata().is_ok();
    let opened = File::options().read(true).write(true).open(path).map_err(|e| cannot("write", path, e));
    let tried = opened.and_then(|_| {
        let made = folder::make(&folder)?;
        mark::expect_kept(&made)?;
        expect_in(&made)
    });
    if !is_there {
        let _never_made = std::fs::remove_dir(&folder);
    }
    match tried {
        Err(error) if error.errno() == Errno::ROFS => Ok(()),
        tried => tried,
    }
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> FsError {
    FsError::os(format!("{what} {}", path.display()), error)
}

impl Stage {
    /// Open the archive at `path` and the stage beside it, which is made when it is not there.
    ///
    /// # Errors
    /// [`FsError::Busy`] when another process uses it; [`FsError::Archive`]; [`FsError::State`] when others may have put
    /// something into its folder; `ENOSPC` on a full disk, where nothing was left; what making the folders answers.
    pub(super) fn open(path: &Path) -> FsResult<Self> {
        let found = std::fs::metadata(path).map_err(|e| cannot("open", path, e))?;
        let owner = (found.uid(), found.gid());
        let folder = folder::beside(path);
        let lock = folder::make(&folder)?;
        lock::take(&lock, path)?;
        let known: Arc<Mutex<Vec<Stamp>>> = Arc::default();
        let keeper: Keeper = {
            let (folder, known) = (folder.clone(), Arc::clone(&known));
            Arc::new(move |stamps| {
                *known.lock() = stamps.to_vec();
                left::note(&folder, stamps)
            })
        };
        let opened = Archive::open_kept(path, Policy::default(), None, Some(keeper));
        let opened = opened.and_then(|archive| Ok((View::of(&archive)?, archive)));
        let leave_nothing = || {
            if let Err(error) = std::fs::remove_dir(&folder) {
                tracing::debug!(%error, "a folder beside the archive stays");
            }
        };
        // Nothing of ours stays beside what is no archive of ours, nor where there is no room for more.
        let (view, archive) = opened.inspect_err(|_| leave_nothing())?;
        let tree = folder.join(TREE);
        let is_left = has_stage(path);
        let is_theirs = is_left && !left::is_ours(&folder, archive.stamp()?)?;
        let reserve = Reserve::of(&folder, archive.len());
        match reserve.keep() {
            // What is left there counts, with space or without.
            Err(errno) if !is_left => {
                leave_nothing();
                return Err(FsError::os(format!("space beside {}", path.display()), errno));
            }
            _ => {}
        }
        if !is_left {
            make_tree(&tree, owner).inspect_err(|_| {
                reserve.give_up();
                leave_nothing();
            })?;
        }
        Ok(Self {
            reserve,
            archive,
            view: Mutex::new(view),
            touched: Arc::default(),
            inodes: Mutex::default(),
            unread: AtomicUsize::new(0),
            filling: Mutex::new(()),
            moving: RwLock::new(()),
            committing: Mutex::new(()),
            recorder: OnceLock::new(),
            trouble: RwLock::new(None),
            owner,
            folder,
            known,
            _lock: lock,
            is_theirs,
            is_left,
            closed: AtomicBool::new(false),
        })
    }

    /// Whether nobody else has written the archive.
    ///
    /// # Errors
    /// What reading the note answers.
    pub(super) fn is_as_left(&self) -> FsResult<bool> {
        let stamp = Stamp::at(self.archive.path())?;
        Ok(self.known.lock().contains(&stamp) || left::is_ours(&self.folder, stamp)?)
    }

    /// The archive is as we left it.
    ///
    /// # Errors
    /// What writing the note answers.
    pub(super) fn note_left(&self) -> FsResult<()> {
        left::note(&self.folder, &[self.archive.stamp()?])
    }

    /// The note of what was written in a file.
    pub(super) fn note_of(&self, inode: u64) -> PathBuf {
        patch::note_of(&self.folder, inode)
    }

    /// The tree, the backing of the bucket.
    pub(super) fn tree(&self) -> PathBuf {
        self.folder.join(TREE)
    }

    /// Take the stage away: the archive has everything.
    ///
    /// # Errors
    /// What removing answers; what is left is looked at when the bucket is opened again.
    pub(super) fn remove(&self) -> FsResult<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // Renamed first: half a tree must not be taken for what programs left.
        let (tree, done) = (self.tree(), self.folder.join("done"));
        match remove_tree(&done) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot("remove", &done, e)),
            _ => {}
        }
        let unnamed = std::mem::take(&mut self.inodes.lock().unnamed);
        if !unnamed.is_empty() {
            self.inodes.lock().hollow.retain(|_, hollow| !unnamed.contains_key(&hollow.ino));
            // Their contents go now.
            self.archive.commit(&Edits::default())?;
        }
        left::remove(&self.folder)?;
        self.reserve.give_up();
        for entry in std::fs::read_dir(&self.folder).map_err(|e| cannot("read", &self.folder, e))?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(patch::NOTES) {
                patch::remove(&entry.path());
            }
        }
        std::fs::rename(&tree, &done).map_err(|e| cannot("remove", &tree, e))?;
        remove_tree(&done).map_err(|e| cannot("remove", &done, e))?;
        match std::fs::remove_dir(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(cannot("remove", &self.folder, e)),
            _ => Ok(()),
        }
    }

    /// What operations share to be recorded.
    ///
    /// # Errors
    /// The bucket is not open yet.
    pub(super) fn recorder(&self) -> FsResult<&Arc<Recorder>> {
        self.recorder.get().ok_or_else(|| FsError::Busy("the bucket is being opened".into()))
    }

    /// Why nothing can be changed, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.read().clone()
    }

    /// From now on nothing can be changed.
    pub(super) fn give_up(&self, why: String) {
        let mut trouble = self.trouble.write();
        if trouble.is_none() {
            tracing::error!(archive = %self.archive.path().display(), %why, "the archive takes no changes any more");
            *trouble = Some(why);
        }
    }

    /// Before a change.
    ///
    /// # Errors
    /// `EROFS` when nothing can be changed.
    pub(super) fn admit(&self) -> FsResult<()> {
        match &*self.trouble.read() {
            Some(why) => Err(FsError::os(why.clone(), Errno::ROFS)),
            None => Ok(()),
        }
    }

    /// The file of a node whose content is in the archive alone.
    pub(super) fn hollow(&self, node: &Node) -> Option<Arc<HollowFile>> {
        if node.kind != Kind::File {
            return None;
        }
        self.inodes.lock().hollow.get(&node.id).cloned()
    }

    /// Whether the directory `id` is not filled.
    pub(super) fn is_unread(&self, id: Id) -> bool {
        self.unread.load(Ordering::Acquire) > 0 && self.inodes.lock().unread.contains_key(&id)
    }

    /// The directory `id` stands for the node `number` and is not filled; the table knows it as `was`.
    pub(super) fn set_unread(&self, id: Id, number: Number, was: Id) {
        let mut inodes = self.inodes.lock();
        inodes.unread.insert(id, (number, was));
        self.unread.store(inodes.unread.len(), Ordering::Release);
    }

    /// The directory `id` is filled.
    pub(super) fn set_read(&self, id: Id) {
        let mut inodes = self.inodes.lock();
        inodes.unread.remove(&id);
        inodes.fresh.insert(id);
        self.unread.store(inodes.unread.len(), Ordering::Release);
    }

    /// The file `id` has no content of its own.
    pub(super) fn set_hollow(&self, (id, ino): (Id, Ino), member: MemberId) {
        let (pin, is_full, filling) = (Mutex::new(None), RwLock::new(false), Mutex::new(None));
        let hollow = HollowFile { ino, member, pin, is_full, filling };
        self.inodes.lock().hollow.insert(id, Arc::new(hollow));
    }

    /// Keep the content of the file `id`, whose name goes, if it is in the archive alone and the kernel knows the file: a program
    /// may have it open.
    pub(super) fn pin_in_use(&self, id: Id) -> Option<Pin> {
        let hollow = self.inodes.lock().hollow.get(&id).cloned()?;
        let node = self.recorder().ok()?.inodes.find(hollow.ino)?;
        if node.id == id { self.archive.pin(hollow.member).ok() } else { None }
    }

    /// The kernel may know the file `ino` no more.
    pub(super) fn forgotten(&self, ino: Ino) {
        let mut inodes = self.inodes.lock();
        if let Some(&id) = inodes.unnamed.get(&ino)
            && self.recorder().is_ok_and(|recorder| recorder.inodes.find(ino).is_none_or(|node| node.id != id))
        {
            inodes.unnamed.remove(&ino);
            inodes.hollow.remove(&id);
        }
    }

    /// The file `id` is not a member with some parts replaced any more, as far as is known: before it is written so that nobody
    /// notes where.
    pub(super) fn is_rewritten(&self, id: Id) {
        self.inodes.lock().patched.remove(&id);
    }

    /// The top of the tree.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn open_tree(&self) -> FsResult<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = self.tree();
        rustix::fs::open(&tree, flags, Mode::empty()).map_err(|e| FsError::os(tree.display().to_string(), e))
    }

    /// Times or owner of `node` are not what they were, which nothing reports.
    pub(super) fn touch(&self, node: &Arc<Node>) {
        let Ok(recorder) = self.recorder() else { return };
        for name in node.names() {
            if let Ok(path) = recorder.path(&name.parent, &name.name) {
                self.touched.note(path, false, 0);
            }
        }
    }

    /// What is at `name` in `dir` is not what it was, with all below it.
    pub(super) fn touch_name(&self, dir: &Arc<Node>, name: &OsStr) {
        if let Ok(path) = self.recorder().and_then(|recorder| recorder.path(dir, name)) {
            self.touched.note(path, true, 0);
        }
    }

    /// As the kernel shows it to programs: a hollow file has the blocks that its content would have.
    pub(super) fn shown(&self, id: Id, mut stat: Stat) -> Stat {
        if stat.kind == Kind::File
            && stat.blocks < stat.size.div_ceil(512)
            && self.inodes.lock().hollow.contains_key(&id)
        {
            stat.blocks = stat.size.div_ceil(512);
        }
        stat
    }
}

/// An empty tree that belongs to `owner`.
fn make_tree(tree: &Path, owner: (u32, u32)) -> FsResult<()> {
    std::fs::create_dir(tree).map_err(|e| cannot("make", tree, e))?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(tree, mode).map_err(|e| cannot("make", tree, e))?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(tree, Some(owner.0), Some(owner.1)).map_err(|e| cannot("make", tree, e))?;
    }
    Ok(())
}

/// Remove a folder with all in it, also directories that their owner may not write, who is no root.
fn remove_tree(at: &Path) -> std::io::Result<()> {
    fn let_in(dir: &Path) -> std::io::Result<()> {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                let_in(&entry.path())?;
            }
        }
        Ok(())
    }
    match std::fs::remove_dir_all(at) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let_in(at)?;
            std::fs::remove_dir_all(at)
        }
        removed => removed,
    }
}
