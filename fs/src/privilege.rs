//! Privileges of the node that programs in a mount do not have.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Do `act` without the privilege to keep set-user-id and set-group-id bits of a file that is changed (`CAP_FSETID`), so that
/// the backing takes them away as it would have from the program. For this thread, and for the kernel's later writes to files
/// that are registered meanwhile.
pub(crate) fn without_fsetid<T>(act: impl FnOnce() -> T) -> T {
    let Ok(held) = capabilities(None) else { return act() };
    if !held.effective.contains(CapabilitySet::FSETID) {
        return act();
    }
    let mut less = held;
    less.effective -= CapabilitySet::FSETID;
    if let Err(errno) = set_capabilities(None, less) {
        tracing::warn!(%errno, "set-id bits of written files may stay");
        return act();
    }
    let done = act();
    if let Err(errno) = set_capabilities(None, held) {
        tracing::warn!(%errno, "set-id bits of new files may be lost");
    }
    done
}
