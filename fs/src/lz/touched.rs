//! Which paths the archive may be behind at: noted with the changes that are reported.

use crate::change::Op;
use crate::path::BucketPath;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The archive is brought up to date when nothing has been changed for this long,
const IDLE: Duration = Duration::from_secs(2);
/// and in any case this long after the first change,
const LATEST: Duration = Duration::from_secs(30);
/// or when so many bytes wait.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Paths, parents before what is in them; true where all below counts too.
pub(super) type Paths = BTreeMap<BucketPath, bool>;

/// Paths to look at.
#[derive(Debug, Default)]
pub(super) struct Touched {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paths: Paths,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    /// The last try failed: not again before this.
    not_before: Option<Instant>,
    ending: bool,
}

impl State {
    fn due(&self) -> Option<Instant> {
        let (first, last) = (self.first?, self.last?);
        let due = if self.bytes >= BYTES_MAX { first } else { (last + IDLE).min(first + LATEST) };
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }
}

impl Touched {
    /// `path` is not what it was, with all below it when it is `deep`; `bytes` of content are new.
    pub(super) fn note(&self, path: BucketPath, deep: bool, bytes: u64) {
        let mut state = self.state.lock();
        let now = Instant::now();
        *state.paths.entry(path).or_default() |= deep;
        state.bytes += bytes;
        state.first.get_or_insert(now);
        state.last = Some(now);
        self.changed.notify_all();
    }

    /// What is to be looked at; nothing is left.
    pub(super) fn take(&self) -> Paths {
        let mut state = self.state.lock();
        (state.bytes, state.first, state.last, state.not_before) = (0, None, None, None);
        std::mem::take(&mut state.paths)
    }

    /// These are still to be looked at. Not at once: when something else is changed, or somebody asks; after a failure,
    /// when some time has passed.
    pub(super) fn give_back(&self, paths: Paths, failed: bool) {
        let mut state = self.state.lock();
        for (path, deep) in paths {
            *state.paths.entry(path).or_default() |= deep;
        }
        if failed {
            let now = Instant::now();
            state.first.get_or_insert(now);
            state.last.get_or_insert(now);
            state.not_before = Some(now + LATEST);
        }
    }

    /// Whether nothing is to be looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().paths.is_empty()
    }

    /// Whether `path` is to be looked at.
    pub(super) fn contains(&self, path: &BucketPath) -> bool {
        self.state.lock().paths.contains_key(path)
    }

    /// Wait until it is time to bring the archive up to date; false at the end.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.ending {
                return false;
            }
            match state.due() {
                Some(due) if due <= Instant::now() => return true,
                Some(due) => {
                    self.changed.wait_until(&mut state, due);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Let whoever waits go.
    pub(super) fn end(&self) {
        self.state.lock().ending = true;
        self.changed.notify_all();
    }

    /// `op` was reported.
    pub(super) fn reported(&self, op: &Op) {
        let deep = matches!(op, Op::Rename { .. } | Op::Exchange { .. });
        let bytes = match op {
            Op::Put(put) | Op::Accept(put) => match put.content {
                crate::change::Content::File { size, .. } => size,
                crate::change::Content::Symlink { .. } => 0,
            },
            _ => 0,
        };
        for path in op.paths() {
            self.note(path.clone(), deep, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_waits_for_the_next_change() {
        let touched = Touched::default();
        let path = |text: &str| BucketPath::new(text).unwrap();
        touched.note(path("a"), false, 1);
        touched.note(path("a"), true, 1);
        assert!(touched.state.lock().due().is_some());
        let taken = touched.take();
        assert_eq!(taken.into_iter().collect::<Vec<_>>(), [(path("a"), true)]);
        touched.give_back(Paths::from([(path("b"), false)]), false);
        assert!(touched.state.lock().due().is_none() && !touched.is_empty());
        touched.note(path("c"), false, BYTES_MAX);
        assert!(touched.state.lock().due().is_some_and(|due| due <= Instant::now()), "much waits");
        assert_eq!(touched.take().len(), 2);
        touched.end();
        assert!(!touched.wait());
    }
}
