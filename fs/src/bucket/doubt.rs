//! A disk that did not take what it was given.
//!
//! The kernel tells of a failed write once, to each who asks, and forgets what it could not write. So a bucket that hears of
//! one reads again, from the disk, what it has reported and the ledger has not sealed yet: a hash of what was only ever in
//! memory must not stay the last word.

use super::{Bucket, NODE};
use crate::change::Cause;
use crate::error::FsResult;
use crate::path::BucketPath;
use crate::stat::Kind;
use crate::table::InodeRow;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;

impl Bucket {
    /// Look again at every file with a change that is not sealed. One that is not what was reported is reported anew, as foreign:
    /// no program wrote that.
    pub(super) fn doubt_unsealed(&self) {
        let mut paths = BTreeSet::new();
        let visited = self.recorder.stream.sink().unsealed(&mut |path| {
            paths.insert(path.clone());
        });
        if let Err(error) = visited {
            tracing::error!(%error, "what the disk may have lost cannot be listed");
        }
        for path in &paths {
            match self.doubt(path) {
                Err(error) if error.errno() != Errno::NOENT => {
                    tracing::error!(%path, %error, "what the disk may have lost is not looked at");
                }
                _ => {}
            }
        }
    }

    fn doubt(&self, path: &BucketPath) -> FsResult<()> {
        let (node, stat) = self.find(path)?;
        if node.kind != Kind::File {
            return Ok(());
        }
        // What is in memory says nothing of the disk.
        let file = node.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        let mut writing = node.writing.lock();
        if writing.dirty.is_none() {
            let row = self.recorder.inode_row(node.id)?;
            let id = self.recorder.note_write(&node, row.as_ref().map(InodeRow::left), true, NODE)?;
            self.recorder.mark_dirty(&node, &mut writing, vec![id], Cause::Foreign, &stat);
        }
        drop(writing);
        self.recorder.queue.push(&node, true);
        Ok(())
    }
}
