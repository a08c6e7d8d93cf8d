//! The note on the archive as it was left, in the folder of the stage: whether somebody else has written it since.
//!
//! Nothing but a mark while we write it ourselves; else length, modification time and inode of the file.

use crate::error::{FsError, FsResult};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const NAME: &str = "left";

fn cannot(folder: &Path, error: std::io::Error) -> FsError {
    FsError::os(format!("note in {}", folder.display()), error)
}

fn of(archive: &Path) -> FsResult<Vec<u8>> {
    let found = std::fs::metadata(archive).map_err(|e| FsError::os(archive.display().to_string(), e))?;
    let (seconds, nanos) = (found.mtime(), found.mtime_nsec());
    Ok(format!("{} {seconds}.{nanos} {}\n", found.len(), found.ino()).into_bytes())
}

/// Note that the archive is as it is now, or (none) that we are about to write it, which is on the disk when this returns.
///
/// # Errors
/// What writing answers.
pub(super) fn note(folder: &Path, archive: Option<&Path>) -> FsResult<()> {
    let text = archive.map_or_else(|| Ok(b"writing\n".to_vec()), of)?;
    let written = || {
        let mut file = File::create(folder.join(NAME))?;
        file.write_all(&text)?;
        if archive.is_none() { file.sync_all() } else { Ok(()) }
    };
    written().map_err(|e| cannot(folder, e))
}

/// Whether the archive is as it was left, or as a commit of ours made it that was interrupted.
///
/// # Errors
/// What reading answers.
pub(super) fn is_ours(folder: &Path, archive: &Path) -> FsResult<bool> {
    match std::fs::read(folder.join(NAME)) {
        // A power cut may leave the note empty: that is half a note of ours.
        Ok(text) => Ok(text == b"writing\n" || text.is_empty() || text == of(archive)?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(cannot(folder, e)),
    }
}

/// Take the note away.
///
/// # Errors
/// What removing answers.
pub(super) fn remove(folder: &Path) -> FsResult<()> {
    match std::fs::remove_file(folder.join(NAME)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(cannot(folder, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_somebody_wrote_is_not_as_it_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.zip");
        std::fs::write(&archive, "one").unwrap();
        assert!(is_ours(dir.path(), &archive).unwrap());
        note(dir.path(), Some(&archive)).unwrap();
        assert!(is_ours(dir.path(), &archive).unwrap());
        std::fs::write(&archive, "three").unwrap();
        assert!(!is_ours(dir.path(), &archive).unwrap());
        note(dir.path(), None).unwrap();
        assert!(is_ours(dir.path(), &archive).unwrap());
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
    }
}
