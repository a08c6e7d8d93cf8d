//! Who changes an archive has it alone, under whichever of its names: a hard link of it has a folder of its own.

use crate::error::{FsError, FsResult};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Lock `file`, which is that of the archive at `path` or its folder, until it is closed.
///
/// # Errors
/// [`FsError::Busy`] when another program, or another bucket of this one, has it; what locking answers.
pub(in super::super) fn take(file: &File, path: &Path) -> FsResult<()> {
    soon(file).map_err(|errno| match errno {
        Errno::WOULDBLOCK => FsError::Busy(format!("{} is in use by another node or bucket", path.display())),
        errno => FsError::os(format!("lock {}", path.display()), errno),
    })
}

/// A program that this process starts has our descriptors until it runs, for a moment: that is waited for.
fn soon(file: &File) -> Result<(), Errno> {
    const MOMENT: Duration = Duration::from_millis(5);
    const MOMENTS: usize = 200;
    for _ in 1..MOMENTS {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(MOMENT),
            locked => return locked,
        }
    }
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}
