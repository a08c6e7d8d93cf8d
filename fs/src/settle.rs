//! Settling: once nobody can write a file any more, hash it and report the change.
//!
//! A worker takes a read lease on the backing file (it is refused while any writer or writable mapping exists, ours or
//! foreign), hashes under it, and reports under the namespace lock. A writer that comes back raises the node's flag and
//! the worker gives way within one chunk.

use crate::change::{Content, Evidence, Hashes, Op};
use crate::error::FsResult;
use crate::inode::{Dirty, Name, Node, Writing};
use crate::lease::{Asked, ReadLease};
use crate::path::BucketPath;
use crate::recorder::{Namespace, Recorder, at_of};
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Files waiting at which programs that write more of them wait too.
const WAITING_MAX: usize = 32_768;
/// A refused lease is asked for again after this, and after ever longer up to the second value.
const REFUSED_FIRST: Duration = Duration::from_millis(20);
const REFUSED_LAST: Duration = Duration::from_secs(5);
/// A file rests this long after its last writer before it is hashed: a program that writes a temporary file and renames it is
/// done by then, and what it did is one put of the final name.
const REST: Duration = Duration::from_millis(100);
/// While programs are at it, hashing waits until nothing was closed for this long,
const CALM: Duration = Duration::from_millis(20);
/// unless a file has waited for this long,
const LATE: Duration = Duration::from_secs(1);
/// or so many do.
const BACKLOG_MAX: usize = 16_384;
/// A file that changes all the time is hashed by itself at most every this many times its hash time,
const REHASH_FACTOR: u32 = 10;
/// and at least this often.
const REHASH_MAX: Duration = Duration::from_secs(60);

/// Nodes waiting to be settled.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<QueueState>,
    work: Condvar,
    /// A job ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    ready: VecDeque<Arc<Node>>,
    later: BTreeMap<(Instant, u64), Arc<Node>>,
    /// When something was last put there.
    last_push: Option<Instant>,
    /// Inodes in either, so that each waits once.
    waiting: HashSet<u64>,
    jobs_ended: u64,
    stopping: bool,
}

impl Queue {
    /// Settle `node` when a worker is free; `now` ignores the pause of a file that changes all the time.
    pub fn push(&self, node: &Arc<Node>, now: bool) {
        if now {
            self.push_ready(node);
        } else {
            self.push_locked(node, &node.writing.lock());
        }
    }

    /// As [`Queue::push`] at leisure, for a caller that holds the lock of the node's `writing`.
    pub fn push_locked(&self, node: &Arc<Node>, writing: &Writing) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.last_push = Some(now);
        state.push_later(node, writing.due(now), &self.work);
    }

    fn push_ready(&self, node: &Arc<Node>) {
        let mut state = self.state.lock();
        if !state.waiting.insert(node.id.0) {
            let later = state.later.len();
            state.later.retain(|_, waiting| waiting.id != node.id);
            if state.later.len() == later {
                return;
            }
        }
        state.ready.push_back(node.clone());
        self.work.notify_one();
    }

    fn push_later(&self, node: &Arc<Node>, pause: Duration) {
        let mut state = self.state.lock();
        state.push_later(node, Instant::now() + pause, &self.work);
    }

    /// The next node, or `None` when stopping.
    fn pop(&self) -> Option<Arc<Node>> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            if let Some(node) = state.ready.pop_front() {
                state.waiting.remove(&node.id.0);
                return Some(node);
            }
            let now = Instant::now();
            match state.next_turn(now) {
                Some(turn) if turn <= now => {
                    let due = state.later.first_entry().filter(|first| first.key().0 <= now);
                    let Some(node) = due.map(|first| first.remove()) else { continue };
                    state.ready.push_back(node);
                }
                Some(turn) => {
                    self.work.wait_until(&mut state, turn);
                }
                None => self.work.wait(&mut state),
            }
        }
    }

    fn job_ended(&self) {
        self.state.lock().jobs_ended += 1;
        self.ended.notify_all();
    }

    /// Jobs ended so far; pass to [`Queue::wait_for_job`].
    pub fn jobs_ended(&self) -> u64 {
        self.state.lock().jobs_ended
    }

    /// Wait until a job has ended since `seen`, or `pause` is over.
    pub fn wait_for_job(&self, seen: u64, pause: Duration) {
        let mut state = self.state.lock();
        if state.jobs_ended == seen {
            self.ended.wait_for(&mut state, pause);
        }
    }

    /// Wait while too many files wait, before another one is written.
    pub fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while state.waiting.len() >= WAITING_MAX && !state.stopping {
            self.ended.wait(&mut state);
        }
    }

    /// Let the workers end.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_all();
        self.ended.notify_all();
    }
}

impl QueueState {
    fn push_later(&mut self, node: &Arc<Node>, due: Instant, work: &Condvar) {
        if !self.waiting.insert(node.id.0) {
            return;
        }
        // A worker that already waits for an earlier one need not be woken for this.
        let first = self.later.first_key_value().is_none_or(|((earliest, _), _)| due < *earliest);
        self.later.insert((due, node.id.0), node.clone());
        if first {
            work.notify_one();
        }
    }

    /// When the first of those that rest may be hashed.
    fn next_turn(&self, now: Instant) -> Option<Instant> {
        let ((due, _), _) = self.later.first_key_value()?;
        let calm = self.last_push.map_or(now, |last| last + CALM);
        if self.later.len() >= BACKLOG_MAX {
            return Some(*due);
        }
        Some((*due).max(calm.min(*due + LATE)))
    }
}

impl Writing {
    /// When the content is worth hashing.
    fn due(&self, now: Instant) -> Instant {
        let rested = now + REST;
        self.last_hash.map_or(rested, |(ended, took)| rested.max(ended + (took * REHASH_FACTOR).min(REHASH_MAX)))
    }
}

/// How a try to settle ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Reported by the put with this number, or nothing to report.
    Done(Option<u64>),
    /// A writer is there or came back; its end starts the next try.
    Writers,
    /// A writer not known here holds the file.
    Refused,
    /// The file changed meanwhile; try again.
    Changed,
}

/// What a hash established.
struct Established {
    stat: Stat,
    hashes: Hashes,
    evidence: Evidence,
    began: Instant,
}

impl Recorder {
    /// Work on the queue until it stops. Runs below the priority of the programs it serves.
    pub fn work(&self) {
        crate::stream::yield_to_programs();
        let mut pauses: BTreeMap<u64, Duration> = BTreeMap::new();
        while let Some(node) = self.queue.pop() {
            let outcome = self.settle(&node, false).unwrap_or_else(|error| {
                tracing::warn!(ino = node.ino.0, %error, "not settled, tried again");
                if error.is_exhausted() {
                    self.inodes.relieve();
                }
                Outcome::Refused
            });
            match outcome {
                Outcome::Done(_) | Outcome::Writers => {
                    pauses.remove(&node.id.0);
                }
                Outcome::Changed => self.queue.push_later(&node, Duration::from_millis(1)),
                Outcome::Refused => {
                    let pause = pauses.entry(node.id.0).or_insert(REFUSED_FIRST);
                    self.queue.push_later(&node, *pause);
                    *pause = (*pause * 2).min(REFUSED_LAST);
                }
            }
            self.queue.job_ended();
        }
    }

    /// Try to settle `node`. `in_close` is a `close(2)` that waits: the closing handle is still open for writing here, so two
    /// equal `statx` must do instead of a lease.
    ///
    /// # Errors
    /// Reading the backing or the table; the content stays unreported and covered by its intents.
    pub fn settle(&self, node: &Arc<Node>, in_close: bool) -> FsResult<Outcome> {
        let flag = Arc::new(AtomicBool::new(false));
        {
            let mut writing = node.writing.lock();
            if writing.dirty.is_none() {
                return Ok(Outcome::Done(None));
            }
            let busy = if in_close { writing.writers > writing.flushed } else { writing.writers > 0 };
            if busy || writing.hashing.is_some() {
                return Ok(Outcome::Writers);
            }
            writing.hashing = Some(flag.clone());
        }
        let outcome = self.settle_claimed(node, &flag, in_close);
        let mut writing = node.writing.lock();
        writing.hashing = None;
        writing.refused = matches!(outcome, Ok(Outcome::Refused) | Err(_));
        let told = matches!(outcome, Ok(Outcome::Done(_))) && std::mem::take(&mut writing.mappable);
        drop(writing);
        if told {
            self.attributes_changed(node);
        }
        node.hashed.notify_all();
        outcome
    }

    fn settle_claimed(&self, node: &Arc<Node>, flag: &AtomicBool, in_close: bool) -> FsResult<Outcome> {
        let began = Instant::now();
        // Opened for reading: the kernel takes read leases on nothing else.
        let file = node.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let asked = if in_close || !self.leases_sound { Asked::Unsupported } else { ReadLease::ask(&file)? };
        let lease = match asked {
            Asked::Granted(lease) => Some(lease),
            Asked::Writers => return Ok(Outcome::Refused),
            Asked::Unsupported => None,
        };
        let undisturbed = || !flag.load(Ordering::Acquire) && lease.as_ref().is_none_or(ReadLease::is_held);
        let Some((stat, hashes)) = self.hash(node, &file, &mut || undisturbed())? else {
            return Ok(self.disturbed(flag));
        };
        let evidence = if lease.is_some() { Evidence::Lease } else { Evidence::Stat };
        let established = Established { stat, hashes, evidence, began };
        self.report(node, established, &undisturbed, flag)
    }

    fn disturbed(&self, flag: &AtomicBool) -> Outcome {
        if flag.load(Ordering::Acquire) { Outcome::Writers } else { Outcome::Changed }
    }

    /// Hash a file that must not change meanwhile; `None` when told to stop or when it became shorter. That nothing else
    /// changed is looked at when it is reported.
    fn hash(&self, node: &Node, file: &File, keep_going: &mut dyn FnMut() -> bool) -> FsResult<Option<(Stat, Hashes)>> {
        let before = Stat::of_fd(file)?;
        let hashes = self.outboards.hash(node.id.0, file, before.size, keep_going)?;
        Ok(hashes.map(|hashes| (before, hashes)))
    }

    /// Report what was established under every name of the inode, if it still holds.
    fn report(
        &self,
        node: &Arc<Node>,
        found: Established,
        undisturbed: &dyn Fn() -> bool,
        flag: &AtomicBool,
    ) -> FsResult<Outcome> {
        let names = self.lock_names();
        let mut writing = node.writing.lock();
        // Looked at under the lock that a change of attributes takes while the content is not reported.
        let stat = node.stat()?;
        if !undisturbed() {
            return Ok(self.disturbed(flag));
        }
        let times = |stat: &Stat| (stat.size, stat.ctime_ns, stat.mtime_ns);
        if times(&stat) != times(&found.stat) {
            return Ok(Outcome::Changed);
        }
        let Some(dirty) = &writing.dirty else {
            return Ok(Outcome::Done(None));
        };
        let content = Settled::Hashed { hashes: found.hashes, lease: found.evidence == Evidence::Lease };
        let number = self.report_content(&names, node, dirty, &stat, content, found.evidence)?;
        writing.dirty = None;
        writing.reports += 1;
        writing.last_hash = Some((Instant::now(), found.began.elapsed()));
        self.mark_clean(node);
        Ok(Outcome::Done(number))
    }

    /// Emit a put for each name of the inode, unless the content was reported before and nothing was written since.
    fn report_content(
        &self,
        names: &Namespace<'_>,
        node: &Arc<Node>,
        dirty: &Dirty,
        stat: &Stat,
        content: Settled,
        evidence: Evidence,
    ) -> FsResult<Option<u64>> {
        let row = self.inode_row(node.id)?;
        let links = self.current_links(node, row.as_ref())?;
        let intents = dirty.intents.clone();
        if links.is_empty() {
            self.note(Vec::new(), intents);
            return Ok(None);
        }
        let new = InodeRow {
            ctime_ns: stat.ctime_ns,
            size: stat.size,
            mode: stat.mode,
            content,
            links: links.iter().map(|(name, _)| at_of(name)).collect(),
            intent: intents.iter().copied().max().unwrap_or(0),
        };
        let inode_row = table::set(table::inode_key(node.id), &new)?;
        let written = !dirty.times_set && stat.mtime_ns != dirty.mtime_before_ns;
        if !written && row.as_ref().is_some_and(|old| old.says_the_same(&new)) {
            self.note(vec![inode_row], intents);
            return Ok(None);
        }
        let mut rows = vec![inode_row];
        let mut ops = Vec::with_capacity(links.len());
        for (name, path) in links {
            self.imply_dirs(&name.parent, &mut rows)?;
            let name_row = NameRow { id: node.id.0, kind: Kind::File };
            rows.push(table::set(table::name_key(name.parent.id, &name.name), &name_row)?);
            let put = table::put(path, content_of(&new), stat, evidence);
            ops.push(if dirty.accepted { Op::Accept(put) } else { Op::Put(put) });
        }
        Ok(Some(self.emit_all(names, dirty.cause, ops, rows, intents)))
    }

    /// The names the backing has for `node` now, of those known here and in the table, with their paths.
    ///
    /// # Errors
    /// What the sink or the backing answers.
    pub fn current_links(&self, node: &Arc<Node>, row: Option<&InodeRow>) -> FsResult<Vec<(Name, BucketPath)>> {
        let mut links = Vec::new();
        for name in node.names() {
            if name.holds(node)? {
                let path = self.path(&name.parent, &name.name)?;
                links.push((name, path));
            } else {
                node.drop_name(name.parent.ino, &name.name);
            }
        }
        for (dir, name) in row.map_or(&[][..], |row| &row.links) {
            let known = links.iter().any(|(link, _)| link.parent.id.0 == *dir && link.name.as_bytes() == name);
            if known {
                continue;
            }
            if let Some(parent) = self.dir_by_rows(Id(*dir))? {
                let name = Name { parent, name: std::ffi::OsStr::from_bytes(name).to_owned() };
                if name.holds(node)? {
                    let path = self.path(&name.parent, &name.name)?;
                    links.push((name, path));
                }
            }
        }
        Ok(links)
    }

    /// The directory with this number, found through the table when it is not in use; `None` when it is not there.
    ///
    /// # Errors
    /// What the sink or the backing answers.
    pub fn dir_by_rows(&self, id: Id) -> FsResult<Option<Arc<Node>>> {
        if id == Id::ROOT {
            return Ok(Some(self.inodes.root().clone()));
        }
        let Some(bytes) = self.stream.row(&table::inode_key(id))? else {
            return Ok(None);
        };
        let row: InodeRow = table::decode(&bytes)?;
        let Some((parent, name)) = row.links.first() else {
            return Ok(None);
        };
        let Some(parent) = self.dir_by_rows(Id(*parent))? else {
            return Ok(None);
        };
        match self.inodes.open_name(&parent, std::ffi::OsStr::from_bytes(name)) {
            Ok((node, _)) => Ok((node.id == id).then_some(node)),
            Err(error) if error.errno() == rustix::io::Errno::NOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Report a file that stays open for writing by its size; the hash follows when the writers are gone.
    ///
    /// # Errors
    /// As [`Recorder::settle`].
    pub fn report_open(&self, node: &Arc<Node>) -> FsResult<()> {
        let names = self.lock_names();
        let mut writing = node.writing.lock();
        let Some(dirty) = &mut writing.dirty else {
            return Ok(());
        };
        dirty.since = Instant::now();
        let first = !std::mem::replace(&mut dirty.reported_open, true);
        let stat = node.stat()?;
        let row = self.inode_row(node.id)?;
        let same = row.is_some_and(|row| row.content == Settled::Open && row.size == stat.size);
        if same && !first {
            return Ok(());
        }
        let as_reported = Dirty {
            intents: Vec::new(),
            cause: dirty.cause,
            mtime_before_ns: i64::MIN,
            times_set: false,
            since: dirty.since,
            reported_open: true,
            accepted: false,
        };
        self.report_content(&names, node, &as_reported, &stat, Settled::Open, Evidence::OpenWriters).map(drop)
    }
}

impl InodeRow {
    fn says_the_same(&self, new: &Self) -> bool {
        let content = match (&self.content, &new.content) {
            (Settled::Hashed { hashes: old, .. }, Settled::Hashed { hashes: new, .. }) => old == new,
            (old, new) => old == new,
        };
        let (mut before, mut after) = (self.links.clone(), new.links.clone());
        before.sort();
        after.sort();
        content && before == after && (self.size, self.mode) == (new.size, new.mode)
    }
}

fn content_of(row: &InodeRow) -> Content {
    let hashes = match &row.content {
        Settled::Hashed { hashes, .. } => Some(*hashes),
        Settled::Open | Settled::Directory | Settled::Symlink => None,
    };
    Content::File { size: row.size, hashes }
}
