//! A disk that did not take what it was given.
//!
//! The kernel tells of a failed write once, to each who asks, and forgets what it could not write. So a bucket that hears of
//! one reads again, from the disk, what it has reported and the ledger has not sealed yet: a hash of what was only ever in
//! memory must not stay the last word. What is not reported yet is not hashed from memory either.

use super::{Bucket, NODE};
use crate::change::Cause;
use crate::error::FsResult;
use crate::inode::Node;
use crate::stat::Kind;
use crate::table::InodeRow;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Bucket {
    /// Look again at every file with a change that is not sealed, or not reported. One that is not what was reported is reported
    /// anew, as foreign: no program wrote that.
    pub(super) fn doubt_unsealed(&self) {
        // First, so that what is reported meanwhile was read after this, or is in the list.
        for node in self.recorder.dirty_nodes() {
            if let Err(error) = self.doubt(&node)
                && error.errno() != Errno::NOENT
            {
                tracing::error!(ino = node.ino.0, %error, "what the disk may have lost is not looked at");
            }
        }
        let mut paths = BTreeSet::new();
        let visited = self.recorder.stream.unsealed(&mut |path| {
            paths.insert(path.clone());
        });
        if let Err(error) = visited {
            tracing::error!(%error, "what the disk may have lost cannot be listed");
        }
        for path in &paths {
            match self.find(path).and_then(|(node, _)| self.doubt(&node)) {
                Err(error) if error.errno() != Errno::NOENT => {
                    tracing::error!(%path, %error, "what the disk may have lost is not looked at");
                }
                _ => {}
            }
        }
    }

    fn doubt(&self, node: &Arc<Node>) -> FsResult<()> {
        if node.kind != Kind::File {
            return Ok(());
        }
        // What is in memory says nothing of the disk.
        let file = node.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let mut writing = node.lock_unhashed();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        if let Some(dirty) = &mut writing.dirty {
            dirty.received = None;
        } else {
            let row = self.recorder.inode_row(node.id)?;
            let id = self.recorder.note_write(node, row.as_ref().map(InodeRow::left), true, NODE)?;
            self.recorder.mark_dirty(node, &mut writing, vec![id], Cause::Foreign, &node.stat()?);
        }
        drop(writing);
        self.recorder.queue.push(node, true);
        Ok(())
    }
}
