//! The note beside the archive that a commit in place is under way: what recovery needs to make it wholly old or wholly
//! new.

use super::disk::{Disk, Output};
use crate::error::{FsError, FsResult};
use borsh::{BorshDeserialize, BorshSerialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const NAME: &str = "commit";
const FRESH: &str = "commit.new";
const MAGIC: &[u8; 8] = b"wzcommit";

/// A commit; borsh, behind a magic and the BLAKE3 of what follows.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Record {
    pub(super) old: Side,
    /// None until the new directory is known.
    pub(super) new: Option<Side>,
}

/// The archive before or after.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Side {
    /// Where what tells it begins, and where the file ends: its directory, with what was written before that in one piece.
    pub(super) end: (u64, u64),
    /// BLAKE3 of what is between.
    pub(super) hash: [u8; 32],
    /// Bytes that belong to nothing when this side holds, and are not all zeros: begin and end.
    pub(super) dead: Vec<(u64, u64)>,
}

fn invalid(path: &Path, problem: &str) -> FsError {
    FsError::State { path: path.to_owned(), problem: problem.into() }
}

impl Side {
    /// Whether `file` is in this state.
    fn holds(&self, file: &File) -> FsResult<bool> {
        let (from, to) = self.end;
        if file.metadata()?.len() < to {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1024 * 1024];
        let mut at = from;
        while at < to {
            let count = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..count], at)?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        Ok(*hasher.finalize().as_bytes() == self.hash)
    }
}

impl Record {
    /// Write it durably, before the archive is touched.
    ///
    /// # Errors
    /// What writing answers.
    pub(super) fn write(&self, disk: &Disk, folder: &Path) -> FsResult<()> {
        if !folder.is_dir() {
            super::folder::make(folder)?;
            if let Some(parent) = folder.parent() {
                disk.sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            }
        }
        let body = borsh::to_vec(self)?;
        let bytes = [MAGIC, blake3::hash(&body).as_bytes().as_slice(), &body].concat();
        let fresh = folder.join(FRESH);
        let output = disk.create(&fresh, 0o600, true)?;
        disk.write(&output, 0, &bytes)?;
        disk.sync(&output)?;
        disk.rename(&fresh, &folder.join(NAME))?;
        disk.sync_folder(folder)
    }

    fn read(path: &Path) -> FsResult<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FsError::os(path.display().to_string(), error)),
        };
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| invalid(path, "not a commit record"))?;
        let (hash, body) = rest.split_at_checked(32).ok_or_else(|| invalid(path, "a commit record cut short"))?;
        if blake3::hash(body).as_bytes() != hash {
            return Err(invalid(path, "a damaged commit record"));
        }
        borsh::from_slice(body).map(Some).map_err(|_| invalid(path, "a commit record of another version"))
    }

    /// The archive is what it is to be.
    ///
    /// # Errors
    /// What removing answers.
    pub(super) fn remove(disk: &Disk, folder: &Path) -> FsResult<()> {
        disk.remove(&folder.join(NAME))
    }
}

/// Bring an interrupted commit of the archive `output` to an end; bytes in `keep` stay. True when there was one: its record
/// stays, for the caller to remove. A record that speaks of another file is dropped.
///
/// # Errors
/// The record is damaged; what reading and writing answer.
pub(super) fn recover(disk: &Disk, output: &Output, folder: &Path, keep: &[(u64, u64)]) -> FsResult<bool> {
    disk.remove(&folder.join(FRESH))?;
    let Some(record) = Record::read(&folder.join(NAME))? else { return Ok(false) };
    let length = output.file.metadata()?.len();
    let is_new = match &record.new {
        // A new directory below the old one counts from when the old one is cut off.
        Some(new) => length == new.end.1 && new.holds(&output.file)?,
        None => false,
    };
    let side = match &record.new {
        Some(new) if is_new => Some(new),
        _ if record.old.holds(&output.file)? => Some(&record.old),
        _ => None,
    };
    let Some(side) = side else {
        tracing::warn!(archive = %output.path.display(), "the archive was replaced since its last commit was interrupted");
        Record::remove(disk, folder)?;
        return Ok(false);
    };
    if length > side.end.1 {
        disk.truncate(output, side.end.1)?;
        disk.sync(output)?;
    }
    for &(from, to) in side.dead.iter().filter(|extent| !keep.contains(extent)) {
        let to = to.min(side.end.1);
        disk.zero(output, from, to.saturating_sub(from))?;
    }
    disk.sync(output)?;
    tracing::info!(archive = %output.path.display(), new = is_new, "an interrupted commit was brought to an end");
    Ok(true)
}
