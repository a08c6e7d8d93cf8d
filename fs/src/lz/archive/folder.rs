//! The folder beside an archive: its stage, and notes on it. What is in it is believed, so nobody else may write there.

use crate::error::{FsError, FsResult};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Write bits of the group and of others.
const OF_OTHERS: u32 = 0o022;

/// The folder of the archive at `path`.
pub(in super::super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lzfs");
    PathBuf::from(name)
}

/// Open it, if it is there; from then on nobody else may look into it either.
///
/// # Errors
/// [`FsError::State`] when somebody else may have put something there: in a directory that others may write, they may have
/// made it before us. What opening it answers.
pub(in super::super) fn open(folder: &Path) -> FsResult<Option<File>> {
    let cannot = |problem: &str| FsError::State { path: folder.to_owned(), problem: problem.into() };
    let failed = |errno| FsError::os(folder.display().to_string(), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(folder, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(cannot("not a folder, and its name is that of the archive's own"));
        }
        Err(errno) => return Err(failed(errno)),
    };
    let found = opened.metadata()?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(cannot("belongs to another user, who may have put anything there: it is not used"));
    }
    if found.mode() & OF_OTHERS != 0 {
        return Err(cannot("other users may have put anything there: it is not used"));
    }
    // Whoever may not read the archive must not read its stage.
    if found.mode() & 0o7777 != 0o700 {
        opened.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(Some(opened))
}

/// As [`open`]; made when it is not there.
///
/// # Errors
/// As there; what making it answers.
pub(in super::super) fn make(folder: &Path) -> FsResult<File> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(FsError::os(format!("make {}", folder.display()), e));
        }
        _ => {}
    }
    open(folder)?.ok_or_else(|| FsError::os(folder.display().to_string(), Errno::NOENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Whether a folder is used that `prepare` has made; what is there stays as it is when not.
    #[track_caller]
    fn check(prepare: impl Fn(&Path), expect: bool) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a.zip.lzfs");
        prepare(&folder);
        let before = folder.symlink_metadata().ok();
        match make(&folder) {
            Ok(_) => assert_eq!((expect, folder.symlink_metadata().unwrap().mode() & 0o7777), (true, 0o700)),
            Err(error) => {
                assert!(!expect && matches!(error, FsError::State { .. }), "{error}");
                assert_eq!(before.unwrap().mode(), folder.symlink_metadata().unwrap().mode());
            }
        }
    }

    fn of_mode(mode: u32) -> impl Fn(&Path) {
        move |folder| {
            std::fs::create_dir(folder).unwrap();
            std::fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn a_folder_in_which_others_may_have_put_something_is_not_used() {
        check(|_| {}, true);
        check(of_mode(0o755), true);
        check(of_mode(0o775), false);
        check(of_mode(0o1777), false);
        check(|folder| symlink("/tmp", folder).unwrap(), false);
        check(|folder| symlink("nowhere", folder).unwrap(), false);
        check(|folder| std::fs::write(folder, "").unwrap(), false);
        if rustix::process::geteuid().is_root() {
            check(
                |folder| {
                    of_mode(0o755)(folder);
                    std::os::unix::fs::chown(folder, Some(65534), Some(65534)).unwrap();
                },
                false,
            );
        }
    }
}
