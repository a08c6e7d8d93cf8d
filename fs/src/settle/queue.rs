//! Nodes that wait to be settled: when it is the turn of each, and when programs must wait because there are too many.

use crate::inode::{Node, Writing};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files waiting at which programs that write more of them wait too.
const WAITING_MAX: usize = 32_768;
/// The same in bytes: what waits shall still be in the kernel's cache when its turn comes.
const WAITING_BYTES_MAX: u64 = 1 << 30;
/// What one file counts for at most: alone it holds nobody up.
const FILE_BYTES_MAX: u64 = WAITING_BYTES_MAX / 4;
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
    /// A job ended, or there is room again.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    ready: VecDeque<Arc<Node>>,
    later: BTreeMap<(Instant, u64), Arc<Node>>,
    /// When something was last put there.
    last_push: Option<Instant>,
    /// Inodes in either, so that each waits once.
    waiting: HashMap<u64, Waiting>,
    /// Bytes that are about to be hashed.
    bytes: u64,
    jobs_ended: u64,
    stopping: bool,
}

#[derive(Debug)]
struct Waiting {
    bytes: u64,
    since: Instant,
    /// Until when one in `later` rests; none in `ready`.
    due: Option<Instant>,
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
        let due = writing.due(now);
        // One that is not hashed soon holds nobody up.
        let bytes = if due > now + REST { 0 } else { node.stat().map_or(0, |stat| stat.size.min(FILE_BYTES_MAX)) };
        let mut state = self.state.lock();
        state.last_push = Some(now);
        state.push_later(node, due, bytes, &self.work);
    }

    fn push_ready(&self, node: &Arc<Node>) {
        let mut state = self.state.lock();
        let due = state.waiting.get_mut(&node.id.0).map(|waiting| waiting.due.take());
        match due {
            Some(None) => return,
            Some(Some(due)) => drop(state.later.remove(&(due, node.id.0))),
            None => drop(state.waiting.insert(node.id.0, Waiting { bytes: 0, since: Instant::now(), due: None })),
        }
        state.ready.push_back(node.clone());
        self.work.notify_one();
    }

    pub(super) fn push_later(&self, node: &Arc<Node>, pause: Duration) {
        let mut state = self.state.lock();
        state.push_later(node, Instant::now() + pause, 0, &self.work);
    }

    /// The next node and since when it waits, or `None` when stopping.
    pub(super) fn pop(&self) -> Option<(Arc<Node>, Instant)> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            let now = Instant::now();
            if let Some(node) = state.ready.pop_front() {
                let was_full = state.is_full();
                let waited = state.waiting.remove(&node.id.0);
                state.bytes -= waited.as_ref().map_or(0, |waiting| waiting.bytes);
                if was_full && !state.is_full() {
                    // Not when the job ends: that of a large file takes long.
                    self.ended.notify_all();
                }
                return Some((node, waited.map_or(now, |waiting| waiting.since)));
            }
            match state.next_turn(now) {
                Some(turn) if turn <= now => {
                    state.take_rested(now);
                    if state.ready.len() > 1 {
                        self.work.notify_all();
                    }
                }
                Some(turn) => {
                    self.work.wait_until(&mut state, turn);
                }
                None => self.work.wait(&mut state),
            }
        }
    }

    pub(super) fn job_ended(&self) {
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

    /// Wait while too much waits, before another file is written.
    pub fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while state.is_full() && !state.stopping {
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
    fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX || self.bytes >= WAITING_BYTES_MAX
    }

    fn push_later(&mut self, node: &Arc<Node>, due: Instant, bytes: u64, work: &Condvar) {
        if self.waiting.contains_key(&node.id.0) {
            return;
        }
        self.waiting.insert(node.id.0, Waiting { bytes, since: Instant::now(), due: Some(due) });
        self.bytes += bytes;
        // A worker that already waits for an earlier one need not be woken for this.
        let first = self.later.first_key_value().is_none_or(|((earliest, _), _)| due < *earliest);
        self.later.insert((due, node.id.0), node.clone());
        if first {
            work.notify_one();
        }
    }

    /// It is the turn of all that have rested: while programs are at it they take turns together, as a worker that wakes for each of
    /// many small files costs more than their hashes.
    fn take_rested(&mut self, now: Instant) {
        let resting = self.later.split_off(&(now, u64::MAX));
        for ((_, id), node) in std::mem::replace(&mut self.later, resting) {
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.due = None;
            }
            self.ready.push_back(node);
        }
    }

    /// When the first of those that rest may be hashed.
    fn next_turn(&self, now: Instant) -> Option<Instant> {
        let ((due, _), _) = self.later.first_key_value()?;
        let calm = self.last_push.map_or(now, |last| last + CALM);
        if self.later.len() >= BACKLOG_MAX || self.bytes >= WAITING_BYTES_MAX / 2 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::InodeTable;
    use std::ffi::OsStr;
    use std::fs::File;
    use std::sync::mpsc;

    /// A queue in which `count` files of `size` bytes, all of them holes, wait.
    fn waiting(count: usize, size: u64) -> Queue {
        let dir = tempfile::tempdir().unwrap();
        let inodes = InodeTable::new(File::open(dir.path()).unwrap().into()).unwrap();
        let queue = Queue::default();
        for name in (0..count).map(|i| i.to_string()) {
            File::create(dir.path().join(&name)).unwrap().set_len(size).unwrap();
            queue.push(&inodes.open_name(inodes.root(), OsStr::new(&name)).unwrap().0, false);
        }
        queue
    }

    fn check(count: usize, size: u64, full: bool) {
        assert_eq!(waiting(count, size).state.lock().is_full(), full, "{count} files of {size} bytes");
    }

    #[test]
    fn many_bytes_in_several_files_fill_the_room_and_one_file_never_does() {
        check(1, 1 << 40, false);
        check(3, 1 << 40, false);
        check(4, 1 << 40, true);
        check(5, WAITING_BYTES_MAX / 5, false);
        check(5, WAITING_BYTES_MAX / 5 + 1, true);
    }

    #[test]
    fn all_that_have_rested_take_their_turn_with_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let inodes = InodeTable::new(File::open(dir.path()).unwrap().into()).unwrap();
        let node = |name: &str| {
            File::create(dir.path().join(name)).unwrap();
            inodes.open_name(inodes.root(), OsStr::new(name)).unwrap().0
        };
        let (first, second, third) = (node("first"), node("second"), node("third"));
        let queue = Queue::default();
        queue.push_later(&first, Duration::ZERO);
        queue.push_later(&second, Duration::ZERO);
        queue.push_later(&third, Duration::from_secs(3_600));
        assert_eq!(queue.pop().unwrap().0.id, first.id);
        let state = queue.state.lock();
        assert_eq!(state.ready.iter().map(|node| node.id).collect::<Vec<_>>(), [second.id]);
        assert_eq!(state.later.values().map(|node| node.id).collect::<Vec<_>>(), [third.id]);
    }

    #[test]
    fn there_is_room_as_soon_as_a_file_has_its_turn() {
        let queue = waiting(4, 1 << 40);
        std::thread::scope(|scope| {
            let (waits, waited) = mpsc::channel();
            let queue = &queue;
            scope.spawn(move || {
                waits.send(()).unwrap();
                queue.wait_for_room();
                waits.send(()).unwrap();
            });
            waited.recv().unwrap();
            // Its job does not end here.
            let _job = queue.pop().unwrap();
            let room = waited.recv_timeout(Duration::from_secs(20));
            queue.stop();
            assert!(room.is_ok(), "whoever waits is told of the room");
        });
    }
}
