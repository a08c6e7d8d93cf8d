//! Whether a disk tells names apart that differ in case alone. On one that does not, a file has as many names as there are ways to
//! write its own, and none of them is the one that is recorded.

use crate::error::{FsError, FsResult};
use crate::stat::Stat;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::Path;

/// That the folder at `path` can be adopted: its disk tells names apart.
///
/// # Errors
/// `EOPNOTSUPP` when it does not; what the kernel answers.
pub fn expect_names_told_apart(path: &Path) -> FsResult<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty());
    expect_in(dir.map_err(|e| FsError::os(path.display().to_string(), e))?)
}

/// As [`expect_names_told_apart`], in an open folder, which has a file of ours in it for the moment and its times as before. Of one
/// that cannot be written nobody can tell.
///
/// # Errors
/// As there.
pub(crate) fn expect_in(dir: impl AsFd) -> FsResult<()> {
    let before = Stat::of_fd(&dir)?;
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!(".wizefs-case-{:016x}", u64::from_le_bytes(random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat(&dir, &*name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => drop(file),
        Err(Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::NOSPC | Errno::DQUOT) => return Ok(()),
        Err(errno) => return Err(FsError::os("probe of the backing", errno)),
    }
    let other = rustix::fs::statat(&dir, name.to_uppercase(), AtFlags::SYMLINK_NOFOLLOW);
    rustix::fs::unlinkat(&dir, &*name, AtFlags::empty())?;
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec {
        tv_sec: before.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: before.mtime_ns.rem_euclid(1_000_000_000),
    };
    if let Err(errno) = rustix::fs::futimens(&dir, &Timestamps { last_access, last_modification }) {
        tracing::debug!(%errno, "a folder that was probed has another time");
    }
    match other {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(FsError::os("probe of the backing", errno)),
        Ok(_) => Err(FsError::os("its disk does not tell names apart that differ in case alone", Errno::OPNOTSUPP)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_probed_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let modified = || std::fs::metadata(dir.path()).unwrap().modified().unwrap();
        let before = modified();
        expect_names_told_apart(dir.path()).unwrap();
        assert_eq!(modified(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
