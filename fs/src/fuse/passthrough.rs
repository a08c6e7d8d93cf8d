//! Passthrough: the kernel reads and writes backing files itself and asks the daemon only about opening and closing them.

use crate::error::FsResult;
use crate::lease::reopen;
use crate::privilege::without_fsetid;
use crate::vfs::{Backing, Fh, Ino};
use fuser::BackingId;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Files the kernel knows at which those that are not open are given up.
const KNOWN_MAX: usize = 1024;

/// How the handles of one file are served. All that are open at a time go the same way: the kernel answers EIO otherwise.
#[derive(Debug)]
pub(super) enum Way {
    /// The kernel uses the backing file that it knows by this id.
    Through(BackingId),
    /// The kernel asks for every read and write: this file cannot be passed through.
    Asking,
}

/// The files that the kernel knows, open or not: to register one again costs a system call.
#[derive(Debug, Default)]
pub(super) struct Backings {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Ino, Known>,
    open: HashMap<Fh, Arc<Way>>,
}

#[derive(Debug)]
struct Known {
    /// A new file may have the number of an old one that is still open.
    generation: u64,
    way: Arc<Way>,
}

impl Backings {
    /// The way of `fh`, a handle that is about to be opened on `backing`; `register` makes the kernel know the file.
    ///
    /// # Errors
    /// The kernel has no room for another file.
    pub(super) fn opened(
        &self,
        ino: Ino,
        fh: Fh,
        backing: &Backing,
        register: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
    ) -> io::Result<Arc<Way>> {
        let mut state = self.state.lock();
        let known = state.known.get(&ino).filter(|known| known.generation == backing.generation);
        let way = match known {
            Some(known) => known.way.clone(),
            None => {
                let way = Arc::new(Way::of(without_fsetid(|| register(&backing.fd)))?);
                state.make_room();
                state.known.insert(ino, Known { generation: backing.generation, way: way.clone() });
                way
            }
        };
        state.open.insert(fh, way.clone());
        Ok(way)
    }

    /// `fh` is closed.
    pub(super) fn closed(&self, fh: Fh) {
        let way = self.state.lock().open.remove(&fh);
        // Given back to the kernel outside the lock, if it was the last.
        drop(way);
    }

    /// The kernel forgets an inode: what is kept for its next open would keep a removed file on the disk.
    pub(super) fn forgotten(&self, ino: Ino) {
        let mut state = self.state.lock();
        if state.known.get(&ino).is_some_and(Known::is_idle) {
            state.known.remove(&ino);
        }
    }
}

impl State {
    fn make_room(&mut self) {
        if self.known.len() >= KNOWN_MAX {
            self.known.retain(|_, known| !known.is_idle());
        }
    }
}

impl Known {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.way) == 1
    }
}

impl Way {
    fn of(registered: io::Result<BackingId>) -> io::Result<Self> {
        match registered {
            Ok(id) => Ok(Self::Through(id)),
            Err(error) if refuses_always(&error) => Ok(Self::Asking),
            Err(error) => Err(error),
        }
    }
}

/// A file that lies too deep (a file system stacked on another), or is none the kernel can read for us.
fn refuses_always(error: &io::Error) -> bool {
    let always = [Errno::LOOP, Errno::OPNOTSUPP, Errno::INVAL, Errno::PERM, Errno::NOTTY, Errno::BADF];
    Errno::from_io_error(error).is_some_and(|errno| always.contains(&errno))
}

/// Whether the kernel passes files of the backing `dir` through on the session behind `device`: tried once for each mount,
/// before it is served, with a nameless file.
///
/// # Errors
/// The nameless file could not be made for another reason than that the file system has none.
pub(super) fn is_possible(device: impl AsFd, dir: &OwnedFd) -> FsResult<bool> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::ROFS | Errno::ACCESS) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    let path = reopen(&file, OFlags::PATH)?;
    match BackingId::create_raw(&device, &path) {
        Ok(id) => {
            close_raw(&device, id)?;
            Ok(true)
        }
        Err(error) => {
            tracing::info!(%error, "no passthrough: reads and writes go through the node");
            Ok(false)
        }
    }
}

/// Give back an id that no handle uses.
fn close_raw(device: impl AsFd, id: u32) -> FsResult<()> {
    /// `FUSE_DEV_IOC_BACKING_CLOSE` of `linux/fuse.h`.
    const CLOSE: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<u32>(229, 2);
    // SAFETY: the request takes a pointer to a u32 and keeps nothing of it.
    unsafe { Ok(rustix::ioctl::ioctl(device, rustix::ioctl::Setter::<CLOSE, u32>::new(id))?) }
}
