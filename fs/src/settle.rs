//! Settling: once nobody can write a file any more, hash it and report the change.
//!
//! A worker takes a read lease on the backing file (it is refused while any writer or writable mapping exists, ours or
//! foreign), hashes under it, and reports under the namespace lock. A writer that comes back raises the node's flag and
//! the worker gives way within one chunk.

mod queue;

pub use queue::Queue;

use crate::bucket::NODE;
use crate::change::{Cause, Content, Evidence, Hashes, Op};
use crate::content;
use crate::error::FsResult;
use crate::inode::{Dirty, Name, Node, Received, Writing};
use crate::lease::{Asked, ReadLease};
use crate::meter;
use crate::path::BucketPath;
use crate::recorder::{Namespace, Recorder, at_of};
use crate::stat::{Id, Kind, Stat};
use crate::table::{self, InodeRow, NameRow, Settled};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A refused lease is asked for again when a writer is gone, and in any case after this, then after ever longer up to the second
/// value.
const REFUSED_FIRST: Duration = Duration::from_millis(20);
const REFUSED_LAST: Duration = Duration::from_secs(5);

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
    /// The intent of what is written after it, unseen.
    next: Option<u64>,
}

impl Recorder {
    /// Work on the queue until it stops. Runs below the priority of the programs it serves.
    pub fn work(&self) {
        crate::stream::yield_to_programs();
        let mut pauses: BTreeMap<u64, Duration> = BTreeMap::new();
        while let Some((node, since)) = self.queue.pop() {
            let outcome = self.settle(&node, false).unwrap_or_else(|error| {
                tracing::warn!(ino = node.ino.0, %error, "not settled, tried again");
                if error.is_exhausted() {
                    self.inodes.relieve();
                }
                Outcome::Refused
            });
            if let Outcome::Done(Some(_)) = outcome {
                meter::SETTLE_LAG.observe(since.elapsed());
            }
            match outcome {
                Outcome::Done(_) | Outcome::Writers => {
                    pauses.remove(&node.id.0);
                }
                Outcome::Changed => self.queue.push_later(&node, Duration::from_millis(1)),
                Outcome::Refused => {
                    self.writers.watch(&node);
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
        let told = matches!(outcome, Ok(Outcome::Done(_))) && std::mem::take(&mut writing.moves_unseen);
        drop(writing);
        if told {
            self.attributes_changed(node);
        }
        node.hashed.notify_all();
        outcome
    }

    fn settle_claimed(&self, node: &Arc<Node>, flag: &AtomicBool, in_close: bool) -> FsResult<Outcome> {
        if node.stat_named()?.is_none() {
            self.drop_content(node, &mut node.writing.lock());
            return Ok(Outcome::Done(None));
        }
        if let Some(behind) = self.behind.get() {
            (behind.complete)(node)?;
        }
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
        let evidence = evidence(lease.as_ref());
        let next = if in_close && self.through.load(Ordering::Acquire) {
            let next = self.note_write(node, Some((stat.size, stat.ctime_ns)), false, NODE)?;
            // As when a writer begins: an overwrite could reach the disk before the change time does.
            self.intents.sync().inspect_err(|_| self.intents.end_now(&[next]))?;
            Some(next)
        } else {
            None
        };
        let mut found = Established { stat, hashes, evidence, began, next };
        let outcome = self.report(node, &mut found, &undisturbed, flag);
        // Left when nothing was reported that it could follow.
        self.intents.end_now(found.next.as_slice());
        outcome
    }

    fn disturbed(&self, flag: &AtomicBool) -> Outcome {
        if flag.load(Ordering::Acquire) { Outcome::Writers } else { Outcome::Changed }
    }

    /// Hash a file that must not change meanwhile, unless that was done when it was received; `None` when told to stop or when
    /// it became shorter. That nothing else changed is looked at when it is reported.
    fn hash(&self, node: &Node, file: &File, keep_going: &mut dyn FnMut() -> bool) -> FsResult<Option<(Stat, Hashes)>> {
        let before = Stat::of_fd(file)?;
        let received = node.writing.lock().dirty.as_ref().and_then(|dirty| dirty.received);
        if let Some(received) = received.filter(|it| (it.size, it.ctime_ns) == (before.size, before.ctime_ns)) {
            return Ok(Some((before, received.hashes)));
        }
        let hashes = self.outboards.hash(node.id.0, file, before.size, keep_going)?;
        Ok(hashes.map(|hashes| (before, hashes)))
    }

    /// Report what was established under every name of the inode, if it still holds.
    fn report(
        &self,
        node: &Arc<Node>,
        found: &mut Established,
        undisturbed: &dyn Fn() -> bool,
        flag: &AtomicBool,
    ) -> FsResult<Outcome> {
        let names = self.lock_names();
        self.report_locked(&names, node, &mut node.writing.lock(), found, (undisturbed, flag))
    }

    /// Report a file whose content was just received, under the lock under which it came to its name. Nothing is reported of one
    /// that somebody writes already, or has written.
    ///
    /// # Errors
    /// As [`Recorder::settle`].
    pub fn report_received(
        &self,
        names: &Namespace<'_>,
        node: &Arc<Node>,
        writing: &mut Writing,
        received: Received,
    ) -> FsResult<Option<u64>> {
        let began = Instant::now();
        let file = node.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let asked = if self.leases_sound { ReadLease::ask(&file)? } else { Asked::Unsupported };
        let lease = match asked {
            Asked::Granted(lease) => Some(lease),
            Asked::Writers => return Ok(None),
            Asked::Unsupported => None,
        };
        let stat = Stat::of_fd(&file)?;
        if (stat.size, stat.ctime_ns) != (received.size, received.ctime_ns) {
            return Ok(None);
        }
        let evidence = evidence(lease.as_ref());
        let mut found = Established { stat, hashes: received.hashes, evidence, began, next: None };
        let undisturbed = || lease.as_ref().is_none_or(ReadLease::is_held);
        match self.report_locked(names, node, writing, &mut found, (&undisturbed, &AtomicBool::new(false)))? {
            Outcome::Done(number) => Ok(number),
            Outcome::Writers | Outcome::Refused | Outcome::Changed => Ok(None),
        }
    }

    fn report_locked(
        &self,
        names: &Namespace<'_>,
        node: &Arc<Node>,
        writing: &mut Writing,
        found: &mut Established,
        (undisturbed, flag): (&dyn Fn() -> bool, &AtomicBool),
    ) -> FsResult<Outcome> {
        // Looked at under the lock that a change of attributes takes while the content is not reported.
        let Some(stat) = node.stat_named()? else {
            // Removed while it was hashed, which kept its inner hashes.
            self.outboards.forget(node.id.0, found.stat.size);
            self.drop_content(node, writing);
            return Ok(Outcome::Done(None));
        };
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
        let number = self.report_content(names, node, dirty, &stat, content, found.evidence)?;
        // Whoever has the descriptor too may be writing already.
        writing.dirty = found.next.take().map(|id| Box::new(Dirty::new(vec![id], Cause::Mount, &stat)));
        writing.reports += 1;
        writing.last_hash = Some((Instant::now(), found.began.elapsed()));
        if writing.dirty.is_none() {
            self.mark_clean(node);
        }
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
            self.outboards.forget(node.id.0, stat.size);
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
        if let Some(old) = row.as_ref().filter(|old| !content::has_inner_hashes(new.size) && old.size != new.size) {
            self.outboards.forget(node.id.0, old.size);
        }
        let inode_row = table::set(table::inode_key(node.id), &new)?;
        let written = !dirty.times_set && stat.mtime_ns != dirty.mtime_before_ns;
        let same = !written && row.as_ref().is_some_and(|old| old.says_the_same(&new));
        if same && self.are_reported(node, &links)? {
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

    /// Whether the table has all these names for `node`: an inode's row may still speak of a name that became another's.
    fn are_reported(&self, node: &Node, links: &[(Name, BucketPath)]) -> FsResult<bool> {
        for (name, _) in links {
            let row = self.name_row(name.parent.id, &name.name)?;
            if row.is_none_or(|row| row.id != node.id.0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The names the backing has for `node` now, of those known here and in the table, with their paths.
    ///
    /// # Errors
    /// What the sink or the backing answers.
    pub fn current_links(&self, node: &Arc<Node>, row: Option<&InodeRow>) -> FsResult<Vec<(Name, BucketPath)>> {
        let mut links = Vec::new();
        for name in node.names() {
            if !name.holds(node)? {
                node.drop_name(name.parent.ino, &name.name);
            } else if let Some(path) = self.path_of(&name)? {
                links.push((name, path));
            }
        }
        for (dir, name) in row.map_or(&[][..], |row| &row.links) {
            let known = links.iter().any(|(link, _)| link.parent.id.0 == *dir && link.name.as_bytes() == name);
            if known {
                continue;
            }
            if let Some(parent) = self.dir_by_rows(Id(*dir))? {
                let name = Name { parent, name: std::ffi::OsStr::from_bytes(name).to_owned() };
                if name.holds(node)?
                    && let Some(path) = self.path_of(&name)?
                {
                    links.push((name, path));
                }
            }
        }
        Ok(links)
    }

    /// The path of a name; `None` when its directory was moved behind the mount, or is too deep to be recorded: such a file is
    /// foreign, and must not keep the others from being told of.
    fn path_of(&self, name: &Name) -> FsResult<Option<BucketPath>> {
        let told = match self.path_told(&name.parent, &name.name) {
            Err(error) if error.errno() == Errno::STALE => None,
            told => told?,
        };
        if told.is_none() {
            tracing::warn!(name = %name.name.display(), "not recorded: moved behind the mount, or too deep");
        }
        Ok(told)
    }

    /// The directory with this number, found through the table when it is not in use; `None` when it is not there.
    ///
    /// # Errors
    /// What the sink or the backing answers.
    pub fn dir_by_rows(&self, id: Id) -> FsResult<Option<Arc<Node>>> {
        // Up to the top by what is reported, then down by these names: it may be thousands of folders deep.
        let (mut at, mut names) = (id, Vec::new());
        while at != Id::ROOT {
            let row = self.inode_row(at)?;
            let Some((parent, name)) = row.and_then(|row| row.links.into_iter().next()) else { return Ok(None) };
            names.push((at, name));
            at = Id(parent);
        }
        let mut dir = self.inodes.root().clone();
        for (id, name) in names.into_iter().rev() {
            match self.inodes.open_name(&dir, std::ffi::OsStr::from_bytes(&name)) {
                Ok((node, _)) if node.id == id => dir = node,
                Ok(_) => return Ok(None),
                Err(error) if error.errno() == Errno::NOENT => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(dir))
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
        // Nothing to tell of one that was removed.
        let Some(stat) = node.stat_named()? else { return Ok(()) };
        let row = self.inode_row(node.id)?;
        // An overwrite moves the change time alone.
        let same = row.is_some_and(|row| row.content == Settled::Open && row.matches(&stat));
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
            received: None,
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

fn evidence(lease: Option<&ReadLease<'_>>) -> Evidence {
    if lease.is_some() { Evidence::Lease } else { Evidence::Stat }
}

fn content_of(row: &InodeRow) -> Content {
    let hashes = match &row.content {
        Settled::Hashed { hashes, .. } => Some(*hashes),
        Settled::Open | Settled::Directory | Settled::Symlink => None,
    };
    Content::File { size: row.size, hashes }
}
