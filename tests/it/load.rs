//! Programs at work in a mount: several threads that create, overwrite, rename, remove and link, live through the death of the
//! node, and remember what they were promised.

use rustix::fs::{CWD, RenameFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::root::PATIENCE;

/// What statfs says of a FUSE mount.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// Random numbers that a seed repeats (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let (byte, len) = (self.next() as u8, self.below(most) as usize);
        (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect()
    }
}

/// Writers in a mount.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Operations that may be done.
    budget: u64,
    end: bool,
    /// Writers in the middle of an operation.
    busy: usize,
    /// A writer found nobody serving the mount.
    dead: bool,
    /// Operations that succeeded.
    done: u64,
    /// Files that were written and closed well, and are never touched again: path and content.
    kept: Vec<(PathBuf, Vec<u8>)>,
    /// Files that were removed well, and never made again.
    gone: Vec<PathBuf>,
}

impl Load {
    /// Writers that wait to be told to run.
    pub(crate) fn start(mountpoint: &Path, writers: u64, seed: u64) -> Load {
        let shared = Arc::<Shared>::default();
        let threads = (0..writers).map(|id| {
            let mut writer = Writer {
                id,
                mountpoint: mountpoint.to_owned(),
                shared: Arc::clone(&shared),
                random: Random::new(seed ^ (id + 1)),
                serial: 0,
                held: None,
            };
            std::thread::spawn(move || writer.run())
        });
        let threads = threads.collect();
        Load { shared, threads }
    }

    /// Let the writers do so many operations and leave them running; returns how many have succeeded in all.
    pub(crate) fn run_for(&self, operations: u64) -> u64 {
        let mut state = self.shared.lock();
        let goal = state.done + operations;
        (state.budget, state.dead) = (u64::MAX, false);
        self.shared.changed.notify_all();
        while state.done < goal {
            let (next, timeout) = self.shared.changed.wait_timeout(state, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "nobody gets on: {} of {goal}", next.done);
            state = next;
        }
        state.done
    }

    /// Wait until no writer is at work.
    pub(crate) fn pause(&self) {
        let mut state = self.shared.lock();
        state.budget = 0;
        while state.busy > 0 {
            let (next, timeout) = self.shared.changed.wait_timeout(state, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "{} writers hang", next.busy);
            state = next;
        }
    }

    /// Pause for good: no writer has anything open in the mount afterwards.
    pub(crate) fn end(&self) -> &Load {
        self.pause();
        self.shared.lock().end = true;
        self.shared.changed.notify_all();
        let ended = || self.threads.iter().all(JoinHandle::is_finished);
        let start = std::time::Instant::now();
        while !ended() {
            assert!(start.elapsed() < PATIENCE, "a writer does not end");
            std::thread::yield_now();
        }
        self
    }

    /// Files that succeeded and are not there as written, and removed ones that are back.
    pub(crate) fn broken_promises(&self, backing: &Path) -> Vec<String> {
        let state = self.shared.lock();
        let lost =
            state.kept.iter().filter(|(path, content)| fs::read(backing.join(path)).ok().as_ref() != Some(content));
        let back = state.gone.iter().filter(|path| backing.join(path).symlink_metadata().is_ok());
        let lost = lost.map(|(path, content)| format!("{} is not the {} bytes", path.display(), content.len()));
        lost.chain(back.map(|path| format!("{} is back", path.display()))).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        (state.end, state.budget) = (true, 0);
        drop(state);
        self.shared.changed.notify_all();
        // Not joined: a writer may hang in a mount that the root's drop takes away later.
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

struct Writer {
    id: u64,
    mountpoint: PathBuf,
    shared: Arc<Shared>,
    random: Random,
    serial: u64,
    /// A file that stays open over several operations.
    held: Option<File>,
}

impl Writer {
    fn run(&mut self) {
        let mut mount = None;
        while self.may_go_on(&mut mount) {
            if mount.is_none() {
                self.held = None;
                mount = self.enter();
            }
            let result = match &mount {
                None => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
                Some(folder) => {
                    // By descriptor: never by a path that means the bare folder while nothing is mounted there.
                    let top = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
                    self.work(&top)
                }
            };
            let died = result
                .as_ref()
                .is_err_and(|e| matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO)));
            if died {
                mount = None;
            }
            let mut state = self.shared.lock();
            state.busy -= 1;
            state.done += u64::from(result.is_ok());
            state.dead |= died;
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// Wait for work. False at the end. Somebody who waits has nothing open.
    fn may_go_on(&mut self, mount: &mut Option<File>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        while state.budget == 0 && !state.end {
            self.held = None;
            *mount = None;
            state = shared.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if state.end {
            return false;
        }
        state.budget -= 1;
        state.busy += 1;
        true
    }

    /// The top of the mount, when something is mounted.
    fn enter(&self) -> Option<File> {
        let folder = File::open(&self.mountpoint).ok()?;
        let kind = rustix::fs::fstatfs(&folder).ok()?.f_type;
        (kind as i64 == FUSE_MAGIC).then_some(folder)
    }

    /// One operation; most fail now and then because something is not there, which is fine.
    fn work(&mut self, top: &Path) -> io::Result<()> {
        let name = |writer: &mut Writer| {
            let folder = ["", "a/", "a/b/", "c/"][writer.random.below(4) as usize];
            top.join(format!("w{}/{folder}{}", writer.id, writer.random.below(12)))
        };
        let folder = |writer: &mut Writer| {
            top.join(format!("w{}/{}", writer.id, ["a", "a/b", "c", "d"][writer.random.below(4) as usize]))
        };
        let (one, two) = (name(self), name(self));
        let (left, right) = (folder(self), folder(self));
        match self.random.below(22) {
            0..=3 => fs::write(one, self.random.bytes(20_000)),
            4 => self.overwrite(&one, false),
            5 => self.overwrite(&one, true),
            6 => self.save(top, &one),
            7 | 8 => fs::rename(one, two),
            9 | 10 => fs::remove_file(one),
            11 | 12 => fs::create_dir_all(left),
            13 => fs::rename(left, right),
            14 => fs::remove_dir_all(left),
            15 => symlink("a/target", one),
            16 => fs::hard_link(one, two),
            17 => fs::set_permissions(one, fs::Permissions::from_mode(0o600 | self.random.below(0o100) as u32)),
            18 => Ok(rustix::fs::renameat_with(CWD, left, CWD, two, RenameFlags::EXCHANGE)?),
            19 => self.hold(&one),
            20 => self.keep(top),
            _ => self.give_up(top),
        }
    }

    fn overwrite(&mut self, path: &Path, append: bool) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).append(append).open(path)?;
        if !append {
            file.seek(SeekFrom::Start(self.random.below(5_000)))?;
        }
        file.write_all(&self.random.bytes(3_000))
    }

    /// As editors do.
    fn save(&mut self, top: &Path, path: &Path) -> io::Result<()> {
        let temporary = top.join(format!("w{}/.save", self.id));
        let mut file = File::create(&temporary)?;
        file.write_all(&self.random.bytes(10_000))?;
        if self.random.below(8) == 0 {
            file.sync_all()?;
        }
        drop(file);
        fs::rename(temporary, path)
    }

    /// Write a little to a file that stays open, and let another go.
    fn hold(&mut self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(&self.random.bytes(500))?;
        if let Some(mut before) = self.held.replace(file) {
            before.write_all(&self.random.bytes(500))?;
        }
        Ok(())
    }

    fn fresh(&mut self, top: &Path, kind: &str) -> io::Result<(PathBuf, PathBuf)> {
        self.serial += 1;
        let path = PathBuf::from(format!("{kind}/{}-{}", self.id, self.serial));
        fs::create_dir_all(top.join(kind))?;
        Ok((top.join(&path), path))
    }

    /// A file that nobody touches again.
    fn keep(&mut self, top: &Path) -> io::Result<()> {
        let (full, path) = self.fresh(top, "kept")?;
        let content = self.random.bytes(8_000);
        fs::write(full, &content)?;
        self.shared.lock().kept.push((path, content));
        Ok(())
    }

    /// A file that comes and goes.
    fn give_up(&mut self, top: &Path) -> io::Result<()> {
        let (full, path) = self.fresh(top, "gone")?;
        fs::write(&full, self.random.bytes(2_000))?;
        fs::remove_file(full)?;
        self.shared.lock().gone.push(path);
        Ok(())
    }
}
