//! Programs that run must not be emptied under them. The kernel sees to that when a file is opened for writing. Who opens it for
//! reading and empties it is left to us: with `FUSE_ATOMIC_O_TRUNC` the kernel asks for the emptying before it looks.

use crate::vfs::Ino;
use fuser::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;

/// The kernel opens a file with this to run it: `__FMODE_EXEC` of `include/linux/fs.h`.
const FMODE_EXEC: i32 = 0x20;

/// Of the files that run, how often, below zero; of those that are being emptied, above.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashMap<Ino, i32>>);

impl Running {
    /// Before `ino` is opened with these `O_*` flags.
    ///
    /// # Errors
    /// `ETXTBSY` where it would be emptied while it runs, or run while it is emptied.
    pub(super) fn claim(&self, ino: Ino, flags: i32) -> Result<Claim<'_>, Errno> {
        let empties = flags & libc::O_ACCMODE == libc::O_RDONLY && flags & libc::O_TRUNC != 0;
        let step = if empties { 1 } else { -runs(flags) };
        if step != 0 {
            let mut counts = self.0.lock();
            let count = counts.entry(ino).or_default();
            if *count * step < 0 {
                return Err(Errno::ETXTBSY);
            }
            *count += step;
        }
        Ok(Claim { running: self, ino, step })
    }

    /// A handle of `ino` that was opened with these flags is no more.
    pub(super) fn released(&self, ino: Ino, flags: i32) {
        self.undo(ino, -runs(flags));
    }

    fn undo(&self, ino: Ino, step: i32) {
        if step == 0 {
            return;
        }
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(&ino) {
            *count -= step;
            if *count == 0 {
                counts.remove(&ino);
            }
        }
    }
}

/// 1 for a file that is opened to run it, else 0.
fn runs(flags: i32) -> i32 {
    i32::from(flags & FMODE_EXEC != 0)
}

/// What an open means to others that open the same file. It ends with this, unless it lasts as long as the handle.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    running: &'a Running,
    ino: Ino,
    step: i32,
}

impl Claim<'_> {
    /// The file is open: one that runs does so until the handle is released.
    pub(super) fn opened(mut self) {
        if self.step < 0 {
            self.step = 0;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.running.undo(self.ino, self.step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: i32 = libc::O_RDONLY | FMODE_EXEC;
    const EMPTY: i32 = libc::O_RDONLY | libc::O_TRUNC;

    /// Whether, with `first` open, `second` may be opened.
    #[track_caller]
    fn check(first: i32, second: i32, expect: bool) {
        let running = Running::default();
        let open = running.claim(Ino(2), first).unwrap();
        assert_eq!(running.claim(Ino(2), second).is_ok(), expect);
        assert!(running.claim(Ino(3), second).is_ok(), "another file");
        drop(open);
        assert!(running.claim(Ino(2), second).is_ok(), "after it");
        assert!(running.0.lock().is_empty());
    }

    #[test]
    fn nothing_is_emptied_while_it_runs() {
        check(RUN, EMPTY, false);
        check(EMPTY, RUN, false);
        check(RUN, RUN, true);
        check(EMPTY, EMPTY, true);
        check(libc::O_RDONLY, EMPTY, true);
        // The kernel has looked by itself.
        check(RUN, libc::O_WRONLY | libc::O_TRUNC, true);
    }

    #[test]
    fn it_runs_until_it_is_released() {
        let running = Running::default();
        for _ in 0..2 {
            running.claim(Ino(2), RUN).unwrap().opened();
        }
        running.claim(Ino(2), libc::O_RDONLY).unwrap().opened();
        running.released(Ino(2), libc::O_RDONLY);
        running.released(Ino(2), RUN);
        assert!(running.claim(Ino(2), EMPTY).is_err());
        running.released(Ino(2), RUN);
        running.claim(Ino(2), EMPTY).unwrap().opened();
        assert!(running.claim(Ino(2), RUN).is_ok());
        assert!(running.0.lock().is_empty());
    }
}
