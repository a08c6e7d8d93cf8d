//! Open files of an archive: those that are read from it, and those of the stage whose content may still be coming.

use super::super::archive::Pin;
use super::super::patch::Filling;
use super::super::stage::HollowFile;
use super::LzFs;
use crate::error::{FsError, FsResult};
use crate::inode::Node;
use crate::stat::Id;
use crate::vfs::{Caller, Fh, Opened, ReadFs};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// Set in the numbers of handles that are read from the archive, to tell them from those of the stage.
pub(super) const OURS: u64 = 1 << 63;

/// A file that was hollow when it was opened, for reading.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) node: Arc<Node>,
    pub(super) hollow: Arc<HollowFile>,
    pub(super) pin: Pin,
    /// The file of the stage, once it has its content.
    file: OnceLock<File>,
}

/// A handle of the stage that the kernel asks us about.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) id: Id,
    /// The content of its file is on its way, or was: what is written is noted.
    filling: Option<Arc<Filling>>,
}

impl LzFs {
    pub(super) fn ours(&self, fh: Fh) -> FsResult<Option<Arc<Handle>>> {
        if fh.0 & OURS == 0 {
            return Ok(None);
        }
        let handle = self.handles.lock().get(&fh.0).cloned();
        handle.map(Some).ok_or_else(|| FsError::os("unknown handle", Errno::BADF))
    }

    /// A handle for reading a hollow file; none when it is not hollow.
    pub(super) fn open_hollow(&self, node: &Arc<Node>) -> FsResult<Option<Opened>> {
        let hollow = {
            let mut inodes = self.stage.inodes.lock();
            let Some(hollow) = inodes.hollow.get(&node.id).cloned() else { return Ok(None) };
            // Counted while it is hollow for sure: whoever fills it finds this handle.
            *inodes.asking.entry(node.id).or_default() += 1;
            hollow
        };
        let pin = self.stage.archive.pin(hollow.member).inspect_err(|_| self.asks_no_more(node.id))?;
        let fh = OURS | self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().insert(fh, Arc::new(Handle { node: node.clone(), hollow, pin, file: OnceLock::new() }));
        Ok(Some(Opened { fh: Fh(fh), backing: None }))
    }

    pub(super) fn asks_no_more(&self, id: Id) {
        let mut inodes = self.stage.inodes.lock();
        if let Some(count) = inodes.asking.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                inodes.asking.remove(&id);
            }
        }
    }

    /// All open handles of a file go one way: this one asks too when others do.
    pub(super) fn one_way(&self, id: Id, mut opened: Opened) -> Opened {
        if opened.backing.is_some()
            && let Some(count) = self.stage.inodes.lock().asking.get_mut(&id)
        {
            *count += 1;
            opened.backing = None;
            self.kept_asking.lock().insert(opened.fh.0, Asking { id, filling: None });
        }
        opened
    }

    /// Open a big hollow file for writing: its content comes behind.
    pub(super) fn open_behind(
        &self,
        node: &Arc<Node>,
        hollow: &Arc<HollowFile>,
        flags: i32,
        who: Caller,
    ) -> FsResult<Opened> {
        let opened = self.stage.fill_behind(node, hollow, || {
            let mut opened = self.inner.open(node.ino, flags, who)?;
            *self.stage.inodes.lock().asking.entry(node.id).or_default() += 1;
            opened.backing = None;
            Ok(opened)
        });
        let (opened, filling) = opened?;
        if matches!(filling, Ok(None)) {
            // Its content has come meanwhile, and what is written through here is not noted.
            self.stage.is_rewritten(node.id);
        }
        let is_begun = filling.as_ref().map(|_| ()).map_err(FsError::errno);
        self.kept_asking.lock().insert(opened.fh.0, Asking { id: node.id, filling: filling.ok().flatten() });
        if let Err(errno) = is_begun {
            self.release(opened.fh);
            return Err(FsError::os("content of a file of the archive", errno));
        }
        Ok(opened)
    }

    /// What is written through `fh` is noted there.
    pub(super) fn filling(&self, fh: Fh) -> Option<Arc<Filling>> {
        self.kept_asking.lock().get(&fh.0)?.filling.clone()
    }

    /// Before something that needs all of the content.
    pub(super) fn wait_for_content(&self, fh: Fh) -> FsResult<()> {
        self.filling(fh).map_or(Ok(()), |filling| filling.wait())
    }

    /// Before a change by other ways than writing.
    pub(super) fn becomes_another(&self, fh: Fh) -> FsResult<()> {
        self.wait_for_content(fh)?;
        let asking = self.kept_asking.lock().get(&fh.0).map(|asking| asking.id);
        if let Some(id) = asking {
            self.stage.is_rewritten(id);
        }
        Ok(())
    }
}

impl Handle {
    pub(super) fn file(&self) -> FsResult<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = self.node.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        Ok(self.file.get_or_init(|| opened))
    }
}
