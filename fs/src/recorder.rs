//! What the operations of a bucket share to be recorded: the namespace lock, intents, the stream and the table.
//!
//! Lock order: namespace, then [`Node::writing`], then the stream or the intents. Nobody waits for a hash to end while
//! holding the namespace lock, because the worker needs it to report.

mod told;

use crate::bucket::Durability;
use crate::change::{Cause, Op, Row};
use crate::content::Outboards;
use crate::error::{FsError, FsResult};
use crate::inode::{Dirty, InodeTable, Name, Node, Writing};
use crate::intent::{At, Intent, Intents};
use crate::path::{BucketPath, PathError, if_short};
use crate::settle::Queue;
use crate::stat::{Id, Kind, Stat};
use crate::stream::Stream;
use crate::table::{self, InodeRow, NameRow, Settled};
use crate::vfs::{Caller, Ino, Kernel};
use crate::writers::Writers;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Shared by the operations and the settle workers of one bucket.
#[derive(Debug)]
pub struct Recorder {
    /// The inodes in use.
    pub inodes: InodeTable,
    /// Numbered changes.
    pub stream: Arc<Stream>,
    /// Intents on disk.
    pub intents: Arc<Intents>,
    /// Inner hashes.
    pub outboards: Outboards,
    /// Content waiting to be settled.
    pub queue: Queue,
    /// Writers that send no release.
    pub writers: Writers,
    /// What `close` and `fsync` wait for.
    pub durability: Durability,
    /// Whether a lease on this backing proves that nobody writes.
    pub leases_sound: bool,
    /// The kernel reads and writes files itself: a writer is seen when it opens and when it is released.
    pub(crate) through: AtomicBool,
    /// What stands behind files and directories that do not hold all of their own.
    pub(crate) behind: OnceLock<Behind>,
    /// The kernel's side, while mounted.
    pub(crate) kernel: RwLock<Option<Arc<dyn Kernel>>>,
    namespace: Mutex<()>,
    /// Held, by many at once, from the moment a new file is in the backing until it is known as one that is not reported.
    making: RwLock<()>,
    /// Every node with unreported content; keeps them and their parents alive.
    dirty: Mutex<HashMap<Id, Arc<Node>>>,
}

/// What a backing gives to be asked.
type Answer<Question, Reply> = Box<dyn Fn(Question) -> Reply + Send + Sync>;
/// As [`Answer`], of something that is lent.
type AnswerOf<Question, Reply> = Box<dyn Fn(&Question) -> Reply + Send + Sync>;

/// What a backing is asked that is itself made of something else, piece by piece.
pub(crate) struct Behind {
    /// Whether a directory does not have its names yet.
    pub(crate) is_unread: Answer<Id, bool>,
    /// Give a file its content if it does not have it yet.
    pub(crate) complete: AnswerOf<Arc<Node>, FsResult<()>>,
    /// These were reported, under the namespace lock.
    pub(crate) reported: AnswerOf<[Op], ()>,
}

impl std::fmt::Debug for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behind").finish_non_exhaustive()
    }
}

/// Proof that the caller holds the namespace lock: names do not move and numbers are given in order.
#[derive(Debug)]
pub struct Namespace<'a>(#[expect(dead_code, reason = "held for its drop")] MutexGuard<'a, ()>);

/// What a recorder is made of.
#[derive(Debug)]
pub struct Parts {
    /// The inodes, with the root opened.
    pub inodes: InodeTable,
    /// The stream, started.
    pub stream: Arc<Stream>,
    /// The intents, opened.
    pub intents: Intents,
    /// The inner hashes.
    pub outboards: Outboards,
    /// To hear of writers that send no release.
    pub writers: Writers,
    /// What `close` and `fsync` wait for.
    pub durability: Durability,
    /// Whether leases can be believed.
    pub leases_sound: bool,
}

impl Recorder {
    /// A recorder of these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            inodes: parts.inodes,
            stream: parts.stream,
            intents: Arc::new(parts.intents),
            outboards: parts.outboards,
            queue: Queue::default(),
            writers: parts.writers,
            durability: parts.durability,
            leases_sound: parts.leases_sound,
            through: AtomicBool::new(false),
            behind: OnceLock::new(),
            kernel: RwLock::new(None),
            namespace: Mutex::new(()),
            making: RwLock::default(),
            dirty: Mutex::new(HashMap::new()),
        }
    }

    /// The kernel's side, while the bucket is mounted.
    pub(crate) fn kernel(&self) -> Option<Arc<dyn Kernel>> {
        self.kernel.read().clone()
    }

    /// Whether the names in the directory are still elsewhere: none of them is missing.
    pub(crate) fn is_unread(&self, dir: Id) -> bool {
        self.behind.get().is_some_and(|behind| (behind.is_unread)(dir))
    }

    /// Tell the kernel that the attributes of `node` changed by other ways than the mount.
    pub(crate) fn attributes_changed(&self, node: &Node) {
        if let Some(kernel) = self.kernel() {
            kernel.attributes_changed(node.ino);
        }
    }

    /// Take the namespace lock.
    pub fn lock_names(&self) -> Namespace<'_> {
        Namespace(self.namespace.lock())
    }

    /// A new file is being made: see [`Recorder::wait_for_files`].
    pub fn making(&self) -> RwLockReadGuard<'_, ()> {
        self.making.read()
    }

    /// Wait until each new file that is in the backing now is known as one that is not reported.
    pub fn wait_for_files(&self) {
        drop(self.making.write());
    }

    /// The last report of an inode.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn inode_row(&self, id: Id) -> FsResult<Option<InodeRow>> {
        let Some(bytes) = self.stream.row(&table::inode_key(id))? else {
            return Ok(None);
        };
        Ok(Some(table::decode(&bytes)?))
    }

    /// The last report of a name.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn name_row(&self, dir: Id, name: &OsStr) -> FsResult<Option<NameRow>> {
        let bytes = self.stream.row(&table::name_key(dir, name))?;
        Ok(bytes.map(|bytes| table::decode(&bytes)).transpose()?)
    }

    /// The path of a directory now.
    ///
    /// # Errors
    /// `ESTALE` when it was moved or removed behind the mount.
    pub fn dir_path(&self, dir: &Arc<Node>) -> FsResult<BucketPath> {
        let mut names: Vec<Name> = Vec::new();
        let mut at = dir.clone();
        while at.ino != Ino::ROOT {
            let name = current_name(&at)?;
            at = name.parent.clone();
            names.push(name);
        }
        let joined = names.iter().rev().map(|name| name.name.as_bytes()).collect::<Vec<_>>().join(&b'/');
        Ok(BucketPath::new(joined)?)
    }

    /// The path of `name` in `dir` now.
    ///
    /// # Errors
    /// As [`Recorder::dir_path`], and for a path too long to be recorded.
    pub fn path(&self, dir: &Arc<Node>, name: &OsStr) -> FsResult<BucketPath> {
        Ok(self.dir_path(dir)?.join(name)?)
    }

    /// As [`Recorder::path`]; `None` for a path too long to be recorded.
    ///
    /// # Errors
    /// As [`Recorder::dir_path`].
    pub fn path_told(&self, dir: &Arc<Node>, name: &OsStr) -> FsResult<Option<BucketPath>> {
        match self.dir_path(dir) {
            Err(FsError::Path(PathError::PathTooLong)) => Ok(None),
            dir => if_short(dir?.join(name)),
        }
    }

    /// Rows for the directories from `dir` up that the table does not have yet: a put below implies them.
    ///
    /// # Errors
    /// What the sink or the backing answers.
    pub fn imply_dirs(&self, dir: &Arc<Node>, rows: &mut Vec<Row>) -> FsResult<()> {
        let (mut at, mut dirs) = (dir.clone(), Vec::new());
        while at.ino != Ino::ROOT && !at.recorded.load(Ordering::Acquire) {
            let name = current_name(&at)?;
            let parent = name.parent.clone();
            dirs.push((at, name));
            at = parent;
        }
        for (at, name) in dirs.into_iter().rev() {
            match self.name_row(name.parent.id, &name.name)? {
                Some(row) if row.id == at.id.0 => {}
                Some(row) if row.kind == Kind::Directory => {
                    self.succeed((&name.parent, &name.name), &row, (&at, &at.stat()?))?;
                }
                _ => rows.extend(self.dir_rows(&at, &name.parent, &name.name, &at.stat()?)?),
            }
            at.recorded.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// A directory is made at a name. If another one was reported there, and went behind the bucket, what was reported in it is
    /// missing in this one.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn follows(&self, parent: &Node, name: &OsStr, node: &Arc<Node>, stat: &Stat) -> FsResult<()> {
        match self.name_row(parent.id, name)? {
            Some(row) if row.kind == Kind::Directory && row.id != node.id.0 => {
                self.succeed((parent, name), &row, (node, stat))
            }
            _ => Ok(()),
        }
    }

    /// Rows of a directory under this name.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn dir_rows(&self, node: &Node, parent: &Node, name: &OsStr, stat: &Stat) -> FsResult<Vec<Row>> {
        self.rows_of(node.id, parent, name, stat, Settled::Directory)
    }

    /// Rows of a directory or symbolic link that gets this name; a symbolic link keeps its other ones.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn rows_of(&self, id: Id, parent: &Node, name: &OsStr, stat: &Stat, content: Settled) -> FsResult<Vec<Row>> {
        let at = (parent.id.0, name.as_bytes().to_vec());
        let others = if content == Settled::Symlink { self.inode_row(id)? } else { None };
        let mut links = others.map_or_else(Vec::new, |row| row.links);
        links.retain(|link| *link != at);
        links.push(at);
        let row = InodeRow {
            ctime_ns: stat.ctime_ns,
            size: stat.size,
            mode: stat.mode,
            content,
            links,
            intent: self.intents.next() - 1,
        };
        let name_row = NameRow { id: id.0, kind: stat.kind };
        Ok(vec![table::set(table::inode_key(id), &row)?, table::set(table::name_key(parent.id, name), &name_row)?])
    }

    /// A writer of `node` begins: waits out a hash in progress, and on the first one notes the intent and whether the file is
    /// as it was left. `truncates` says that the old content goes at once, so nothing of it can reach the disk unnoticed.
    ///
    /// # Errors
    /// The intent could not be noted or the table not read; no writer was counted then.
    pub fn begin_write(&self, node: &Arc<Node>, truncates: bool, who: Caller) -> FsResult<()> {
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::ISDIR.into()),
            _ => return Err(Errno::INVAL.into()),
        }
        self.stream.admit(false)?;
        self.queue.wait_for_room();
        let mut writing = node.lock_unhashed();
        if let Some(dirty) = &mut writing.dirty {
            dirty.received = None;
        } else {
            let stat = node.stat()?;
            let row = self.inode_row(node.id)?;
            let foreign = !row.as_ref().is_some_and(|row| row.matches(&stat));
            let id = self.note_write(node, row.as_ref().map(InodeRow::left), foreign, who)?;
            // An overwrite in place could reach the disk before the change time does.
            if row.is_some() && !truncates {
                self.intents.sync()?;
            }
            let cause = if foreign { Cause::Foreign } else { Cause::Mount };
            writing.dirty = Some(Box::new(Dirty::new(vec![id], cause, &stat)));
            self.dirty.lock().insert(node.id, node.clone());
        }
        writing.writers += 1;
        Ok(())
    }

    /// Note that the content or attributes of `node`, left with this size and change time, may change, or have changed and are
    /// not reported yet.
    ///
    /// # Errors
    /// The intent could not be written.
    pub fn note_write(&self, node: &Node, sealed: Option<(u64, i64)>, foreign: bool, who: Caller) -> FsResult<u64> {
        let at = node.names().first().map_or((0, Vec::new()), at_of);
        let intent = Intent::Write { inode: node.id.0, at, sealed, foreign };
        self.intents.note(intent, who.uid, who.pid)
    }

    /// A writer of `node` ends; the last one hands it to the workers.
    pub fn end_write(&self, node: &Arc<Node>, flushed: bool) {
        let mut writing = node.writing.lock();
        writing.writers -= 1;
        writing.flushed -= u32::from(flushed);
        let last = writing.writers == 0;
        drop(writing);
        if last {
            self.queue.push(node, false);
        }
    }

    /// A file that was just created, or whose content must be looked at for another reason than a writer here.
    pub fn mark_dirty(&self, node: &Arc<Node>, writing: &mut Writing, intents: Vec<u64>, cause: Cause, stat: &Stat) {
        match &mut writing.dirty {
            Some(dirty) => {
                dirty.intents.extend(intents);
                dirty.received = None;
            }
            None => writing.dirty = Some(Box::new(Dirty::new(intents, cause, stat))),
        }
        self.dirty.lock().insert(node.id, node.clone());
    }

    /// `node` has no name any more: unless somebody goes on writing it, there is nothing left to report, and a hash under way
    /// is for nothing.
    pub fn drop_content(&self, node: &Node, writing: &mut Writing) {
        if writing.writers > 0 {
            return;
        }
        if let Some(dirty) = writing.dirty.take() {
            self.note(Vec::new(), dirty.intents);
            self.mark_clean(node);
        }
        if let Some(flag) = &writing.hashing {
            flag.store(true, Ordering::Release);
        }
    }

    /// The content of `node` is reported, or gone. Called with its `writing` locked.
    pub fn mark_clean(&self, node: &Node) {
        self.dirty.lock().remove(&node.id);
    }

    /// Every node with unreported content.
    pub fn dirty_nodes(&self) -> Vec<Arc<Node>> {
        self.dirty.lock().values().cloned().collect()
    }

    /// How many nodes have unreported content.
    pub fn dirty_count(&self) -> usize {
        self.dirty.lock().len()
    }

    /// Rows that follow from no change. The intents end when the rows, and the changes before them, have reached the ledger: what
    /// somebody else changes later must not be taken for what they speak of.
    pub fn note(&self, rows: Vec<Row>, intents: Vec<u64>) {
        if intents.is_empty() {
            return self.stream.note(rows);
        }
        let all = self.intents.clone();
        self.stream.note_then(rows, move |before| all.end_after(before, intents));
    }

    /// End the intents that wait for nothing any more: a block may have been sealed while nobody here was told of it.
    ///
    /// # Errors
    /// What the sink answers.
    pub fn end_sealed(&self) -> FsResult<()> {
        let delivered = self.stream.delivered();
        let mut waits = false;
        self.stream.sink().unsealed(&mut |_| waits = true)?;
        if !waits {
            self.intents.retire(delivered);
        }
        Ok(())
    }

    /// Report `op` under the namespace lock; the intents end when it is sealed.
    pub fn emit(&self, names: &Namespace<'_>, cause: Cause, op: Op, rows: Vec<Row>, intents: Vec<u64>) -> u64 {
        self.emit_all(names, cause, vec![op], rows, intents)
    }

    /// Report `ops` as one: all reach the ledger, or none.
    pub fn emit_all(
        &self,
        _names: &Namespace<'_>,
        cause: Cause,
        ops: Vec<Op>,
        rows: Vec<Row>,
        intents: Vec<u64>,
    ) -> u64 {
        if let Some(behind) = self.behind.get() {
            (behind.reported)(&ops);
        }
        let number = self.stream.emit(cause, ops, rows);
        self.intents.end_after(number, intents);
        number
    }
}

impl Dirty {
    pub(crate) fn new(intents: Vec<u64>, cause: Cause, stat: &Stat) -> Self {
        Self {
            intents,
            cause,
            mtime_before_ns: stat.mtime_ns,
            times_set: false,
            since: Instant::now(),
            reported_open: false,
            accepted: false,
            received: None,
        }
    }
}

/// The name under which the backing has a directory now.
fn current_name(dir: &Arc<Node>) -> FsResult<Name> {
    debug_assert_eq!(dir.kind, Kind::Directory);
    for name in dir.names() {
        if name.holds(dir)? {
            return Ok(name);
        }
    }
    Err(FsError::os("directory moved behind the mount", Errno::STALE))
}

/// A name as intents and rows have it.
pub fn at_of(name: &Name) -> At {
    (name.parent.id.0, name.name.as_bytes().to_vec())
}
