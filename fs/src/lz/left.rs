//! The note on the archive as it was left, in the folder of the stage: whether somebody else has written it since.
//!
//! A line for each state that the archive may be in, length, modification time and inode of its file: as it is, and before it is
//! replaced as it will be. While it is changed where it lies, the note on the commit tells what is ours.

use super::archive::Stamp;
use crate::error::{FsError, FsResult};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

const NAME: &str = "left";
const FRESH: &str = "left.new";

fn cannot(folder: &Path, error: std::io::Error) -> FsError {
    FsError::os(format!("note in {}", folder.display()), error)
}

/// Note that the archive is in one of these states, or was before a crash; on the disk when this returns.
///
/// # Errors
/// What writing answers.
pub(super) fn note(folder: &Path, stamps: &[Stamp]) -> FsResult<()> {
    let text: String = stamps.iter().map(|stamp| format!("{stamp}\n")).collect();
    let fresh = folder.join(FRESH);
    let written = || {
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, folder.join(NAME))
    };
    written().map_err(|e| cannot(folder, e))
}

/// Whether the archive is in a state that was noted. Without a note it is not: others may have written it.
///
/// # Errors
/// What reading answers.
pub(super) fn is_ours(folder: &Path, stamp: Stamp) -> FsResult<bool> {
    match std::fs::read_to_string(folder.join(NAME)) {
        Ok(text) => Ok(text.lines().any(|line| line == stamp.to_string())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(cannot(folder, e)),
    }
}

/// Take the note away.
///
/// # Errors
/// What removing answers.
pub(super) fn remove(folder: &Path) -> FsResult<()> {
    for name in [FRESH, NAME] {
        match std::fs::remove_file(folder.join(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(cannot(folder, e)),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_somebody_wrote_is_not_as_it_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            Stamp::at(&path).unwrap()
        };
        let is_ours = |stamp| is_ours(dir.path(), stamp).unwrap();
        let (before, after) = (file("a.zip", "one"), file("rewrite", "four"));
        assert!(!is_ours(before), "nothing is noted");
        note(dir.path(), &[before]).unwrap();
        assert!(is_ours(before) && !is_ours(after));
        note(dir.path(), &[before, after]).unwrap();
        assert!(is_ours(before) && is_ours(after));
        assert!(!is_ours(file("a.zip", "three")));
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert!(!is_ours(after));
    }
}
