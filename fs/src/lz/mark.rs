//! What the stage notes at its files and directories, so that a crash leaves no doubt what they stand for: extended attributes
//! that programs in the mount do not see.

use crate::error::{FsError, FsResult};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;

/// What the names of all notes begin with.
pub(crate) const PREFIX: &str = "user.wizefs.";
/// Of a file whose content is in the archive alone: [`Hollow`].
const HOLLOW: &str = "user.wizefs.hollow";
/// Of a directory that stands for one of the archive: [`Listed`].
const LISTED: &str = "user.wizefs.listed";

/// Of a directory: [`Apart`].
const APART: &str = "user.wizefs.apart";
/// Of nothing: whether notes can be written.
const TRIED: &str = "user.wizefs.tried";
/// Most bytes of a note.
const NOTE_MAX: usize = 64 * 1024;

/// A file whose content is in the archive alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hollow {
    /// The member.
    pub(super) member: u64,
    /// CRC-32 of its content: another program may have put something else in its place.
    pub(super) crc: u32,
    /// The inode that the table knew it by before, 0 for none.
    pub(super) was: u64,
}

/// A directory of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// A member below it, and how many levels up from there the directory is: where to find what is in it.
    pub(super) anchor: (u64, u32),
    /// The inode that the table knew it by before, 0 for none.
    pub(super) was: u64,
    /// What is in it is in the stage too.
    pub(super) whole: bool,
}

/// Members of a directory that nothing in the stage stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Apart(pub(super) Vec<u64>);

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let mut found = [0; N];
    let (words, rest) = bytes.as_chunks::<8>();
    if words.len() != N || !rest.is_empty() {
        return None;
    }
    for (number, word) in found.iter_mut().zip(words) {
        *number = u64::from_le_bytes(*word);
    }
    Some(found)
}

fn bytes(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn read(fd: impl AsFd, name: &str) -> FsResult<Option<Vec<u8>>> {
    let mut value = vec![0_u8; if name == APART { NOTE_MAX } else { 64 }];
    match rustix::fs::fgetxattr(fd, name, &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(FsError::os("read what the stage notes", errno)),
    }
}

fn write(fd: impl AsFd, name: &str, value: &[u64]) -> FsResult<()> {
    let written = rustix::fs::fsetxattr(fd, name, &bytes(value), XattrFlags::empty());
    written.map_err(|errno| match errno {
        Errno::OPNOTSUPP => {
            FsError::os("the disk of the archive has no extended attributes, which its stage needs", errno)
        }
        errno => FsError::os("note in the stage", errno),
    })
}

/// That notes can be written at `fd`.
///
/// # Errors
/// `EOPNOTSUPP` where the disk has no extended attributes.
pub(super) fn expect_kept(fd: impl AsFd) -> FsResult<()> {
    write(&fd, TRIED, &[])?;
    rustix::fs::fremovexattr(fd, TRIED).map_err(|errno| FsError::os("note in the stage", errno))
}

impl Hollow {
    /// What is noted at an open file.
    pub(super) fn of(fd: impl AsFd) -> FsResult<Option<Self>> {
        let value = read(fd, HOLLOW)?;
        Ok(value.and_then(|value| numbers(&value)).map(|[member, crc, was]| Self { member, crc: crc as u32, was }))
    }

    /// Note it at an open file.
    pub(super) fn set(self, fd: impl AsFd) -> FsResult<()> {
        write(fd, HOLLOW, &[self.member, u64::from(self.crc), self.was])
    }

    /// Take the note away: the file has its content now.
    pub(super) fn clear(fd: impl AsFd) -> FsResult<()> {
        match rustix::fs::fremovexattr(fd, HOLLOW) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(errno) => Err(FsError::os("note in the stage", errno)),
        }
    }

    /// As [`Hollow::clear`], also on the disk when this returns: a file that keeps its length may be written over and synced
    /// with `fdatasync`, by which ext4 does not write attributes. A power cut would bring the note back then, and with it the
    /// content that the archive has.
    pub(super) fn clear_durably(file: &File) -> FsResult<()> {
        Self::clear(file)?;
        Ok(file.sync_all()?)
    }
}

impl Listed {
    /// What is noted at an open directory.
    pub(super) fn of(fd: impl AsFd) -> FsResult<Option<Self>> {
        let value = read(fd, LISTED)?;
        Ok(value.and_then(|value| numbers(&value)).map(|[member, up, was, whole]| Self {
            anchor: (member, u32::try_from(up).unwrap_or(u32::MAX)),
            was,
            whole: whole != 0,
        }))
    }

    /// Note it at an open directory.
    pub(super) fn set(self, fd: impl AsFd) -> FsResult<()> {
        write(fd, LISTED, &[self.anchor.0, u64::from(self.anchor.1), self.was, u64::from(self.whole)])
    }
}

impl Apart {
    /// What is noted at an open directory.
    pub(super) fn of(fd: impl AsFd) -> FsResult<Self> {
        let value = read(fd, APART)?.unwrap_or_default();
        Ok(Self(value.as_chunks::<8>().0.iter().map(|id| u64::from_le_bytes(*id)).collect()))
    }

    /// Note it at an open directory.
    pub(super) fn set(&self, fd: impl AsFd) -> FsResult<()> {
        write(fd, APART, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        assert_eq!(Hollow::of(&file).unwrap(), None);
        let hollow = Hollow { member: u64::MAX, crc: u32::MAX, was: 3 };
        hollow.set(&file).unwrap();
        assert_eq!(Hollow::of(&file).unwrap(), Some(hollow));
        Hollow::clear(&file).unwrap();
        Hollow::clear(&file).unwrap();
        assert_eq!(Hollow::of(&file).unwrap(), None);
        let dir = File::open(dir.path()).unwrap();
        let listed = Listed { anchor: (5, 2), was: 9, whole: true };
        listed.set(&dir).unwrap();
        assert_eq!(Listed::of(&dir).unwrap(), Some(listed));
        assert_eq!(Apart::of(&dir).unwrap(), Apart(vec![]));
        let apart = Apart((1..100).collect());
        apart.set(&dir).unwrap();
        assert_eq!(Apart::of(&dir).unwrap(), apart);
    }
}
