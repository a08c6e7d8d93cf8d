//! Directories of the stage of which the disk may not know yet that they are filled.

use super::stage::Stage;
use crate::error::FsResult;
use crate::inode::Node;
use crate::vfs::Ino;
use rustix::fs::OFlags;
use std::sync::Arc;

impl Stage {
    /// Before something in the directory `dir` is changed: that it is filled is on the disk, and so are those above. A disk that
    /// writes what is asked for and nothing else (btrfs) would have what a program made there and synced, in a directory that
    /// looks as if nobody but us had made anything.
    ///
    /// # Errors
    /// What syncing answers.
    pub(super) fn keep_filled(&self, dir: &Arc<Node>) -> FsResult<()> {
        let mut fresh = Vec::new();
        let mut at = Arc::clone(dir);
        loop {
            if self.inodes.lock().fresh.contains(&at.id) {
                fresh.push(Arc::clone(&at));
            }
            match at.names().into_iter().next() {
                Some(name) if at.ino != Ino::ROOT => at = name.parent,
                _ => break,
            }
        }
        for dir in fresh.into_iter().rev() {
            dir.open(OFlags::RDONLY | OFlags::DIRECTORY)?.sync_all()?;
            self.inodes.lock().fresh.remove(&dir.id);
        }
        Ok(())
    }
}
