//! How deep and how long the paths of an archive may be: what it cannot hold must not get into the stage.

use super::access::{Entered, open_dir};
use super::archive::DEPTH_MAX;
use super::stage::Stage;
use super::view::{Number, View};
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::listing;
use crate::path::{BucketPath, PATH_MAX_BYTES};
use crate::stat::{Kind, Stat};
use crate::vfs::Ino;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// How deep and how long a path is, or the deepest and the longest of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    levels: usize,
    bytes: usize,
}

impl Reach {
    /// Of a path.
    pub(super) fn of(path: &BucketPath) -> Self {
        Self { levels: path.components().count(), bytes: path.as_bytes().len() }
    }

    /// Of a directory, by the names it is known by.
    pub(super) fn of_dir(dir: &Arc<Node>) -> Self {
        let (mut reach, mut at) = (Self::default(), Arc::clone(dir));
        while at.ino != Ino::ROOT {
            let Some(name) = at.names().into_iter().next() else { break };
            reach = Self::of_name(name.name.as_bytes()).then(reach);
            at = name.parent;
        }
        reach
    }

    fn of_name(name: &[u8]) -> Self {
        Self { levels: 1, bytes: name.len() }
    }

    /// Of `name` in a directory of this one.
    pub(super) fn with(self, name: &OsStr) -> Self {
        self.then(Self::of_name(name.as_bytes()))
    }

    /// Of what is that far below a directory of this one.
    fn then(self, below: Self) -> Self {
        let slash = usize::from(self.levels > 0 && below.levels > 0);
        Self { levels: self.levels + below.levels, bytes: self.bytes + slash + below.bytes }
    }

    fn max(self, other: Self) -> Self {
        Self { levels: self.levels.max(other.levels), bytes: self.bytes.max(other.bytes) }
    }

    /// That an archive can hold it.
    ///
    /// # Errors
    /// `ENAMETOOLONG`.
    pub(super) fn check(self) -> FsResult<()> {
        if self.levels > DEPTH_MAX || self.bytes > PATH_MAX_BYTES {
            return Err(FsError::os("a path deeper or longer than an archive holds", Errno::NAMETOOLONG));
        }
        Ok(())
    }
}

/// How far what is in a directory of the archive is below it.
fn below(view: &View, dir: Number) -> Reach {
    let children = view.children(dir).iter();
    let reaches = children.map(|&child| Reach::of_name(view.name(child)).then(below(view, child)));
    reaches.fold(Reach::default(), Reach::max)
}

impl Stage {
    /// That the archive can hold what is at `name` in `dir`, a path of `from`, where the path is one of `to`.
    ///
    /// # Errors
    /// `ENAMETOOLONG`; what reading the stage answers.
    pub(super) fn may_move(&self, (dir, name): (&Arc<Node>, &OsStr), from: Reach, to: Reach) -> FsResult<()> {
        to.check()?;
        if from.max(to) == from {
            return Ok(());
        }
        match self.recorder()?.inodes.open_name(dir, name) {
            Ok((node, _)) if node.kind == Kind::Directory => {
                let fd = Entered::of(node.open(OFlags::RDONLY | OFlags::DIRECTORY)?.into())?;
                to.then(self.below(&fd)?).check()
            }
            _ => Ok(()),
        }
    }

    /// How far what is in a directory is below it.
    fn below(&self, dir: &OwnedFd) -> FsResult<Reach> {
        let id = self.recorder()?.inodes.id_of(&Stat::of_fd(dir)?);
        let unread = self.inodes.lock().unread.get(&id).copied();
        if let Some((number, _)) = unread {
            return Ok(below(&self.view.lock(), number));
        }
        let mut most = Reach::default();
        for name in listing::names(dir.try_clone()?)? {
            let mut reach = Reach::default().with(&name);
            if Stat::of_name(dir, &name)?.kind == Kind::Directory {
                let sub = open_dir(dir, &name)?;
                reach = reach.then(self.below(&sub)?);
            }
            most = most.max(reach);
        }
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reach_is_that_of_the_path() {
        let path = |text: &str| Reach::of(&BucketPath::new(text).unwrap());
        assert_eq!(path("").with(OsStr::new("a")), path("a"));
        assert_eq!(path("a/bc").with(OsStr::new("d")), path("a/bc/d"));
        assert_eq!(path("a/bc").then(path("d/e")), path("a/bc/d/e"));
        assert_eq!(path("a").then(path("")), path("a"));
        assert_eq!(path("a/b/c").max(path("long/er")), Reach { levels: 3, bytes: 7 });
        assert!(path(&["d"; DEPTH_MAX].join("/")).check().is_ok());
        assert!(path(&["d"; DEPTH_MAX + 1].join("/")).check().is_err());
    }
}
