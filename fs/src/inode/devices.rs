//! The devices below a backing: other file systems may be mounted in an adopted directory, and subvolumes be in it.
//!
//! The index of a device is part of the numbers, and so of the identities, of all inodes on it. What the system calls a device may
//! change with every mount, so it is known by the path at which it was first met, and that is kept from session to session.

use crate::error::{FsError, FsResult};
use crate::lease::reopen;
use crate::stat::{Kind, Stat, know_births};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"wizdev\0\x01";
/// The number of a device that is not there now.
const ABSENT: u64 = u64::MAX;

/// Devices by their index; the first is that of the top.
#[derive(Debug)]
pub(super) struct Devices {
    numbers: Vec<u64>,
    /// Where each was first met, from the top; empty where that is not known yet.
    paths: Vec<Vec<u8>>,
    /// Where the paths are kept.
    file: Option<PathBuf>,
}

impl Devices {
    /// Only that of the top, and nothing is kept.
    pub(super) fn new(top: u64) -> Self {
        Self { numbers: vec![top], paths: vec![Vec::new()], file: None }
    }

    /// Those that `file` keeps, which are looked for below `top`; from now on it keeps what is met.
    ///
    /// # Errors
    /// [`FsError::State`] for a file that is not of this kind; what reading answers.
    pub(super) fn keep(&mut self, file: PathBuf, top: &OwnedFd) -> FsResult<()> {
        for path in read(&file)? {
            let found = open(top, &path).and_then(|fd| {
                know_births(&fd)?;
                Ok(Stat::of_fd(&fd)?.dev)
            });
            let number = found.ok().filter(|dev| !self.numbers.contains(dev));
            self.numbers.push(number.unwrap_or(ABSENT));
            self.paths.push(path);
        }
        self.file = Some(file);
        Ok(())
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// A descriptor to sync each by, except that of the top; the number of one that is not found where it was met.
    pub(super) fn descriptors(&self, top: &OwnedFd) -> Vec<Result<File, u64>> {
        let below = self.numbers.iter().zip(&self.paths).skip(1).filter(|(number, _)| **number != ABSENT);
        below.map(|(number, path)| readable(top, path, *number).map_err(|_| *number)).collect()
    }

    /// The index of a device, if it was met at a path.
    pub(super) fn known(&self, dev: u64) -> Option<usize> {
        let index = self.numbers.iter().position(|known| *known == dev)?;
        (index == 0 || !self.paths[index].is_empty()).then_some(index)
    }

    /// The index of a device, also of one that is met here for the first time, at `path` if that is known.
    pub(super) fn index(&mut self, dev: u64, path: Option<&[u8]>) -> usize {
        let path = path.unwrap_or_default();
        let known = self.numbers.iter().position(|known| *known == dev);
        let absent = || (1..self.paths.len()).find(|&i| self.numbers[i] == ABSENT && self.paths[i] == path);
        let index = match known.or_else(|| if path.is_empty() { None } else { absent() }) {
            Some(index) => index,
            None => {
                self.numbers.push(dev);
                self.paths.push(Vec::new());
                self.numbers.len() - 1
            }
        };
        self.numbers[index] = dev;
        if index > 0 && self.paths[index].is_empty() && !path.is_empty() {
            path.clone_into(&mut self.paths[index]);
            self.write();
        }
        index
    }

    /// At once what was at the first path of each pair is at the second.
    pub(super) fn moved(&mut self, moves: &[(&[u8], &[u8])]) {
        let moved = |path: &[u8]| {
            moves.iter().find_map(|(from, to)| {
                let rest = path.strip_prefix(*from).filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
                rest.map(|rest| [to, rest].concat())
            })
        };
        let mut any = false;
        for path in self.paths[1..].iter_mut().filter(|path| !path.is_empty()) {
            if let Some(now) = moved(path) {
                *path = now;
                any = true;
            }
        }
        if any {
            self.write();
        }
    }

    fn write(&self) {
        let Some(file) = &self.file else { return };
        let write = || -> FsResult<()> {
            let fresh = file.with_extension("new");
            let mut new = File::create(&fresh)?;
            new.write_all(MAGIC)?;
            new.write_all(&borsh::to_vec(&self.paths[1..].to_vec())?)?;
            new.sync_all()?;
            Ok(std::fs::rename(&fresh, file)?)
        };
        if let Err(error) = write() {
            tracing::warn!(file = %file.display(), %error, "a device may be taken for another in the next session");
        }
    }
}

fn read(file: &Path) -> FsResult<Vec<Vec<u8>>> {
    let bytes = match std::fs::read(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.map_err(|e| FsError::os(file.display().to_string(), e))?,
    };
    let paths = bytes.strip_prefix(MAGIC).and_then(|body| borsh::from_slice(body).ok());
    paths.ok_or_else(|| FsError::State { path: file.to_owned(), problem: "not a list of devices".into() })
}

fn open(top: &OwnedFd, path: &[u8]) -> FsResult<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = top.try_clone()?;
    for name in path.split(|byte| *byte == b'/') {
        at = rustix::fs::openat(&at, OsStr::from_bytes(name), flags, Mode::empty())?;
    }
    if path.is_empty() { Err(Errno::NOENT.into()) } else { Ok(at) }
}

fn readable(top: &OwnedFd, path: &[u8], number: u64) -> FsResult<File> {
    let fd = open(top, path)?;
    let stat = Stat::of_fd(&fd)?;
    // To open something else than these may wait, or do something.
    if stat.dev != number || !matches!(stat.kind, Kind::File | Kind::Directory) {
        return Err(Errno::NXIO.into());
    }
    reopen(fd, OFlags::RDONLY | OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_keeps_its_index_in_whatever_order_they_are_met() {
        let dir = tempfile::tempdir().unwrap();
        let top: OwnedFd = File::open(dir.path()).unwrap().into();
        let kept = || {
            let mut devices = Devices::new(7);
            devices.keep(dir.path().join("devices"), &top).unwrap();
            devices
        };
        let mut devices = kept();
        // Met without a path first, as by whoever opens a file by its path.
        assert_eq!(devices.index(20, None), 1);
        assert_eq!((devices.index(10, Some(b"a")), devices.index(20, Some(b"d/b"))), (2, 1));
        assert_eq!((devices.index(7, Some(b"c")), devices.known(10)), (0, Some(2)));
        let mut devices = kept();
        assert_eq!((devices.index(110, Some(b"a")), devices.index(130, Some(b"new"))), (2, 3));
        assert_eq!(devices.index(120, Some(b"d/b")), 1);
        devices.moved(&[(b"d", b"a"), (b"a", b"d")]);
        devices.moved(&[(b"n", b"other")]);
        let mut devices = kept();
        assert_eq!((devices.index(230, Some(b"new")), devices.index(220, Some(b"a/b"))), (3, 1));
        assert_eq!(devices.index(210, Some(b"d")), 2);
        std::fs::write(dir.path().join("devices"), b"something else").unwrap();
        assert!(matches!(Devices::new(7).keep(dir.path().join("devices"), &top), Err(FsError::State { .. })));
    }

    #[test]
    fn a_device_is_opened_where_it_was_met_if_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/there")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        let top: OwnedFd = File::open(dir.path()).unwrap().into();
        let number = Stat::of_fd(&top).unwrap().dev;
        let check = |number: u64, path: Option<&[u8]>, expect: bool| {
            let mut devices = Devices::new(7);
            devices.index(number, path);
            let found: Vec<bool> = devices.descriptors(&top).iter().map(Result::is_ok).collect();
            assert_eq!(found, [expect], "{path:?}");
        };
        check(number, Some(b"d/there"), true);
        check(number, Some(b"d/elsewhere"), false);
        check(number + 1, Some(b"d/there"), false);
        check(number, Some(b"pipe"), false);
        check(number, None, false);
    }
}
