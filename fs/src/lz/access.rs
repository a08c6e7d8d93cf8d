//! Directories and files of the stage that their own owner may not enter, read or write, who is no root: they are opened up
//! for the moment.

use crate::error::FsResult;
use crate::stat::Stat;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A directory that can be read and entered, and gets its mode back in the end.
#[derive(Debug)]
pub(super) struct Entered {
    fd: OwnedFd,
    /// Its mode, where it had to be opened up.
    was: Option<u32>,
}

impl Entered {
    /// The directory `fd`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn of(fd: OwnedFd) -> FsResult<Self> {
        let mode = Stat::of_fd(&fd)?.mode;
        let is_closed = is_closed(mode, 0o700);
        if is_closed {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode) | Mode::RWXU)?;
        }
        Ok(Self { fd, was: is_closed.then_some(mode) })
    }

    /// As the directory is when nobody is in it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn stat(&self) -> FsResult<Stat> {
        let stat = Stat::of_fd(&self.fd)?;
        Ok(Stat { mode: self.was.unwrap_or(stat.mode), ..stat })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(mode) = self.was
            && let Err(error) = rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode))
        {
            tracing::warn!(%error, "a directory of a stage keeps the mode it was given for the moment");
        }
    }
}

impl Deref for Entered {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.fd
    }
}

impl AsFd for Entered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The directory `name` in `dir`.
///
/// # Errors
/// What the kernel answers.
pub(super) fn open_dir(dir: &OwnedFd, name: &OsStr) -> FsResult<Entered> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY;
    match open(dir, name, how) {
        Err(error) if error.errno() == Errno::ACCESS => {
            let mode = Stat::of_name(dir, name)?.mode;
            set_mode(dir, name, mode | 0o700)?;
            let fd = open(dir, name, how).inspect_err(|_| drop(set_mode(dir, name, mode)))?;
            Ok(Entered { fd, was: Some(mode) })
        }
        opened => Entered::of(opened?),
    }
}

/// Do `act` with the file `name` in `dir`, of this mode, to read what is noted at it.
///
/// # Errors
/// What the kernel answers, and what `act` does.
pub(super) fn reading<T>(
    (dir, name, mode): (&OwnedFd, &OsStr, u32),
    act: impl FnOnce(&OwnedFd) -> FsResult<T>,
) -> FsResult<T> {
    let is_closed = is_closed(mode, 0o400);
    if is_closed {
        set_mode(dir, name, mode | 0o400)?;
    }
    let done = open(dir, name, OFlags::RDONLY).and_then(|fd| act(&fd));
    if is_closed {
        set_mode(dir, name, mode)?;
    }
    done
}

/// The file `name` in `dir`, of this mode, opened to be changed with what is noted at it; where it had to be opened up, its mode
/// is to be set again.
///
/// # Errors
/// What the kernel answers.
pub(super) fn to_change((dir, name, mode): (&OwnedFd, &OsStr, u32)) -> FsResult<(OwnedFd, bool)> {
    let is_closed = is_closed(mode, 0o600);
    if is_closed {
        set_mode(dir, name, mode | 0o600)?;
    }
    Ok((open(dir, name, OFlags::WRONLY)?, is_closed))
}

/// Whether who owns a file of this mode lacks some of `bits`, and these keep it away.
fn is_closed(mode: u32, bits: u32) -> bool {
    mode & bits != bits && !rustix::process::geteuid().is_root()
}

fn set_mode(dir: &OwnedFd, name: &OsStr, mode: u32) -> FsResult<()> {
    Ok(rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

fn open(dir: &OwnedFd, name: &OsStr, how: OFlags) -> FsResult<OwnedFd> {
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}
