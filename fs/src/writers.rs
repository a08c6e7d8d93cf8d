//! Hearing of the end of writers that send no release: mappings whose descriptor is closed, and programs that work in the
//! backing. The kernel tells of both with `IN_CLOSE_WRITE` at the last close or `munmap` (`inotify(7)`).

use crate::error::FsResult;
use crate::inode::Node;
use crate::lease::through_procfs;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Bytes of events read at once; an event without a name has 16.
const EVENTS_BYTES: usize = 4096;

/// Files whose writers are waited for.
#[derive(Debug)]
pub struct Writers {
    /// `None` where the user may have no more of them: then files are looked at again by the clock alone.
    events: Option<OwnedFd>,
    /// Readable once nobody is to wait any more.
    stop: OwnedFd,
    /// By watch. Weak: a file nobody needs any more takes its watch along.
    watched: Mutex<HashMap<i32, Weak<Node>>>,
}

/// What a wait brought.
#[derive(Debug)]
pub enum Heard {
    /// Writers of these files are gone.
    Closed(Vec<Arc<Node>>),
    /// The time is over.
    Nothing,
    /// Nobody is to wait any more.
    Stop,
}

impl Writers {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// No descriptor for the end of the wait.
    pub fn new() -> FsResult<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .inspect_err(|errno| tracing::debug!(%errno, "writers not known here are looked for by the clock"));
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self { events: events.ok(), stop, watched: Mutex::new(HashMap::new()) })
    }

    /// Tell when the next writer of `node` is gone. Whoever wants to know it of one that is there now asks afterwards whether it is
    /// still there.
    pub fn watch(&self, node: &Arc<Node>) {
        let Some(events) = &self.events else { return };
        let mut watched = self.watched.lock();
        let added = node.fd().and_then(|fd| {
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::ONESHOT;
            Ok(through_procfs(fd, |path| inotify::add_watch(events, path, flags))?)
        });
        match added {
            Ok(watch) => drop(watched.insert(watch, Arc::downgrade(node))),
            Err(error) => tracing::debug!(ino = node.ino.0, %error, "looked at again by the clock"),
        }
    }

    /// Wait until writers are gone, or until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Heard {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else { return Heard::Nothing };
        let mut waits = vec![PollFd::new(&self.stop, PollFlags::IN)];
        waits.extend(self.events.as_ref().map(|events| PollFd::new(events, PollFlags::IN)));
        match poll(&mut waits, Some(&timeout)) {
            Ok(_) if !waits[0].revents().is_empty() => Heard::Stop,
            Ok(1..) => Heard::Closed(self.read()),
            Ok(0) | Err(Errno::INTR) => Heard::Nothing,
            Err(errno) => {
                tracing::error!(%errno, "writers are not waited for");
                std::thread::park_timeout(left.min(Duration::from_secs(1)));
                Heard::Nothing
            }
        }
    }

    fn read(&self) -> Vec<Arc<Node>> {
        let (mut closed, mut ended) = (Vec::new(), Vec::new());
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        if let Some(events) = &self.events {
            let mut reader = Reader::new(events, &mut buffer);
            while let Ok(event) = reader.next() {
                let to = if event.events().contains(ReadFlags::IGNORED) { &mut ended } else { &mut closed };
                to.push(event.wd());
            }
        }
        let mut watched = self.watched.lock();
        let nodes = closed.iter().filter_map(|watch| watched.get(watch)?.upgrade()).collect();
        // A watch ends with what it told, or with its file.
        ended.iter().for_each(|watch| drop(watched.remove(watch)));
        nodes
    }

    /// Whoever waits shall end.
    pub fn stop(&self) {
        if let Err(errno) = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!(%errno, "a waiting thread is not told to end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::InodeTable;
    use std::ffi::OsStr;
    use std::fs::File;

    #[test]
    fn the_end_of_a_writer_is_heard_of_once_and_that_of_a_reader_never() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"content").unwrap();
        let inodes = InodeTable::new(File::open(dir.path()).unwrap().into()).unwrap();
        let (node, _) = inodes.open_name(inodes.root(), OsStr::new("f")).unwrap();
        let writers = Writers::new().unwrap();
        let open = || File::options().write(true).open(&path).unwrap();
        let writer = open();
        writers.watch(&node);
        drop(File::open(&path).unwrap());
        assert!(matches!(writers.wait(Instant::now()), Heard::Nothing));
        drop(writer);
        let Heard::Closed(nodes) = writers.wait(Instant::now() + Duration::from_secs(20)) else {
            panic!("the writer's end is not heard of");
        };
        assert!(nodes.iter().all(|closed| Arc::ptr_eq(closed, &node)) && nodes.len() == 1);
        drop(open());
        assert!(matches!(writers.wait(Instant::now()), Heard::Nothing), "it was asked for one");
        assert!(writers.watched.lock().is_empty());
        writers.stop();
        assert!(matches!(writers.wait(Instant::now() + Duration::from_secs(20)), Heard::Stop));
    }
}
