//! Reading the names in a directory of the backing.

use crate::error::FsResult;
use crate::inode::Node;
use crate::stat::Kind;
use rustix::fs::{Dir, FileType, OFlags};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// A name in a directory.
#[derive(Debug)]
pub struct Listed {
    /// Inode number in the backing.
    pub ino: u64,
    /// Type, when the backing tells.
    pub kind: Option<Kind>,
    /// Name.
    pub name: OsString,
}

/// Everything in the open directory `dir`, `.` and `..` too, in the order the backing has it.
///
/// # Errors
/// What the kernel answers.
pub fn entries(dir: impl AsFd) -> FsResult<Vec<Listed>> {
    let mut listed = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        listed.push(Listed {
            ino: entry.ino(),
            kind: kind_of(entry.file_type()),
            name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
        });
    }
    Ok(listed)
}

/// The names in the open directory `dir`, sorted by their bytes, without `.` and `..`.
///
/// # Errors
/// What the kernel answers.
pub fn names(dir: impl AsFd) -> FsResult<Vec<OsString>> {
    let all = entries(dir)?.into_iter().map(|entry| entry.name);
    let mut names: Vec<_> = all.filter(|name| name != "." && name != "..").collect();
    names.sort_unstable();
    Ok(names)
}

/// As [`names`], of a directory in use.
///
/// # Errors
/// What the kernel answers.
pub fn names_in(dir: &Node) -> FsResult<Vec<OsString>> {
    names(dir.open(OFlags::RDONLY | OFlags::DIRECTORY)?)
}

fn kind_of(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}
