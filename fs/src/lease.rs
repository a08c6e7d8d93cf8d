//! Kernel read leases: the one exact way to know that nobody can write a file (research: `fcntl(2)`, `F_SETLEASE`).

use crate::error::{FsError, FsResult};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Do something at the path that procfs has for the file of `fd`, also for a nameless one. The path names whatever has the number
/// of the descriptor: so it is open, and the caller's, until `act` has ended.
pub fn through_procfs<T>(fd: impl AsFd, act: impl FnOnce(&Path) -> T) -> T {
    act(Path::new(&format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())))
}

/// Open the file behind `fd` (which may be `O_PATH`) again with `flags`.
///
/// # Errors
/// What the kernel answers.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> FsResult<File> {
    let open = |path: &Path| rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
    Ok(through_procfs(fd, open)?.into())
}

/// Keep a broken lease from ending the process: the kernel's default notice is a fatal SIGIO.
pub fn ignore_lease_signal() {
    // SAFETY: installing SIG_IGN has no handler that could run.
    unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
    }
}

/// What asking for a lease gave.
#[derive(Debug)]
pub enum Asked<'a> {
    /// Nobody has the file open for writing or mapped writable; a writer now waits until this is dropped.
    Granted(ReadLease<'a>),
    /// A writer exists.
    Writers,
    /// This backing has no leases.
    Unsupported,
}

/// A held lease on a file opened read-only. Dropping it lets writers in.
#[derive(Debug)]
pub struct ReadLease<'a> {
    file: &'a File,
}

impl<'a> ReadLease<'a> {
    /// Ask for a read lease; does not wait.
    ///
    /// # Errors
    /// What the kernel answers, apart from "a writer exists" and "not supported".
    pub fn ask(file: &'a File) -> FsResult<Asked<'a>> {
        match set_lease(file, libc::F_RDLCK) {
            Ok(()) => Ok(Asked::Granted(Self { file })),
            Err(Errno::AGAIN) => Ok(Asked::Writers),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM | Errno::NOSYS) => Ok(Asked::Unsupported),
            Err(errno) => Err(FsError::os("read lease", errno)),
        }
    }

    /// Whether nobody has asked to write since it was granted.
    pub fn is_held(&self) -> bool {
        // SAFETY: plain fcntl on an open descriptor.
        let lease = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        lease == libc::F_RDLCK
    }
}

impl Drop for ReadLease<'_> {
    fn drop(&mut self) {
        if let Err(errno) = set_lease(self.file, libc::F_UNLCK) {
            tracing::debug!(%errno, "read lease was gone before it was given back");
        }
    }
}

fn set_lease(file: &File, kind: i32) -> Result<(), Errno> {
    // SAFETY: plain fcntl on an open descriptor.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    if done == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}

/// Whether leases on this backing can be believed: a writable mapping whose descriptor is closed must refuse one
/// (overlayfs grants it). Makes and removes a nameless file in `dir`.
///
/// # Errors
/// What the kernel answers when the probe file cannot be made.
pub fn leases_are_sound(dir: impl AsFd) -> FsResult<bool> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => File::from(fd),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::ROFS) => return Ok(false),
        Err(errno) => return Err(FsError::os("probe of the backing", errno)),
    };
    file.set_len(4096)?;
    let reader = reopen(&file, OFlags::RDONLY)?;
    let map = Mapping::new(&file)?;
    drop(file);
    let while_mapped = matches!(ReadLease::ask(&reader)?, Asked::Granted(_));
    drop(map);
    let afterwards = matches!(ReadLease::ask(&reader)?, Asked::Granted(_));
    Ok(!while_mapped && afterwards)
}

/// One shared writable page, unmapped on drop.
struct Mapping(*mut std::ffi::c_void);

impl Mapping {
    fn new(file: &File) -> FsResult<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        // SAFETY: a fresh mapping at an address the kernel picks; it is never read or written through.
        let page =
            unsafe { mmap(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0) }?;
        Ok(Self(page))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `new` and nothing refers to it.
        if let Err(errno) = unsafe { rustix::mm::munmap(self.0, 4096) } {
            tracing::warn!(%errno, "probe page stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_or_mapping_refuses_the_lease_and_its_end_grants_it() {
        ignore_lease_signal();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"content").unwrap();
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(matches!(ReadLease::ask(&reader).unwrap(), Asked::Writers));
        drop(writer);
        let Asked::Granted(lease) = ReadLease::ask(&reader).unwrap() else {
            panic!("no writer is left");
        };
        assert!(lease.is_held());
        let refused = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        assert!(!lease.is_held(), "a writer's wish must be visible");
    }

    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_file_is_opened_again_by_its_last_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"content").unwrap();
        let last = std::sync::Arc::new(File::open(&path).unwrap());
        let again = reopen(last, OFlags::RDONLY).unwrap();
        assert_eq!(std::io::read_to_string(again).unwrap(), "content");
    }

    #[test]
    fn the_probe_believes_this_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        assert!(leases_are_sound(&fd).unwrap());
    }
}
