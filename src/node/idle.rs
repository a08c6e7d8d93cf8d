//! Buckets that nobody uses. An adopted folder is the user's, who may want to take its disk away: it is let go then.

use super::{Node, OpenBucket, trouble};
use crate::name::BucketName;
use crate::rest::wire::MountState;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wizefs_fs::AnyBucket;

/// An adopted folder is let go when it was not used for so many looks at the mounts: to open it again for each of the requests
/// of one client would cost more than it holds.
const LOOKS: u32 = 5;

impl OpenBucket {
    /// Somebody uses it.
    pub(super) fn is_used(&self) {
        self.unused.store(0, Ordering::Relaxed);
    }
}

impl Node {
    /// Let go of folders that were adopted and have not been used for a while. For a caller that holds the lifecycle lock.
    pub(super) fn let_unused_go(&self) {
        let unused = |bucket: &Arc<OpenBucket>| bucket.unused.fetch_add(1, Ordering::Relaxed) % LOOKS == LOOKS - 1;
        let names: Vec<_> = self.open_buckets().iter().filter(|one| unused(one)).map(|one| one.name.clone()).collect();
        names.iter().for_each(|name| self.let_go(name));
    }

    /// Close a bucket that adopted a folder, unless it is mounted, in use, or has something that is not recorded: it is opened
    /// again at the next need. For a caller that holds the lifecycle lock.
    pub(super) fn let_go(&self, name: &BucketName) {
        if self.mount_state(name).0 != MountState::Unmounted || self.refuse_while_detached(name).is_err() {
            return;
        }
        // Until it is closed: it would be opened a second time meanwhile.
        let _opened_by_nobody = self.opening.lock();
        let Some(bucket) = self.take_unused(name) else { return };
        // Its intents end with it: what they speak of is final before.
        if let Err(error) = bucket.fs().and_then(|fs| fs.persist().map_err(trouble::fs)).and_then(|()| self.seal()) {
            tracing::debug!(bucket = %name, %error, "stays open");
            self.open.lock().insert(name.clone(), bucket);
            return;
        }
        let closed = bucket.fs.read().close();
        bucket.closed.store(true, Ordering::Release);
        match closed {
            Ok(()) => tracing::debug!(bucket = %name, "let go"),
            // Left for the next opening, as by a crash.
            Err(error) => tracing::warn!(bucket = %name, %error, "closed, with something not recorded"),
        }
    }

    fn take_unused(&self, name: &BucketName) -> Option<Arc<OpenBucket>> {
        let mut open = self.open.lock();
        let bucket = open.get(name).filter(|bucket| bucket.adopted)?;
        // Whoever uses it has it from here.
        let is_free = Arc::strong_count(bucket) == 1;
        // An archive stays: it may have to follow yet, and tells what became of it.
        let is_at_rest = match bucket.fs_at_once().as_deref() {
            Some(AnyBucket::Loopback(bucket)) => bucket.unsettled() == 0,
            _ => false,
        };
        if is_free && is_at_rest {
            return open.remove(name);
        }
        // The next look tries again.
        bucket.unused.store(LOOKS - 1, Ordering::Relaxed);
        None
    }
}
