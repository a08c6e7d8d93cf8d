//! What the inodes in use take: descriptors and memory, given back when there are many.

use super::{InodeTable, Slots};
use crate::error::FsResult;
use crate::inode::Node;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Descriptors kept open for inodes before idle ones are closed, where the limit of the process allows so many.
const DESCRIPTORS_MAX: usize = 16_384;

/// So few are never closed: looking for them at every step would cost more.
const DESCRIPTORS_MIN: usize = 16;

/// Inodes forgotten at which memory is given back.
const GIVEN_BACK_MIN: usize = 65_536;

/// Half of what the process may have open: the rest is for the files of programs.
pub(super) fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(DESCRIPTORS_MAX, |limit| DESCRIPTORS_MAX.min(usize::try_from(limit / 2).unwrap_or(DESCRIPTORS_MAX)))
}

impl InodeTable {
    pub(super) fn keep_room(&self) {
        if self.descriptors.load(Ordering::Relaxed) >= self.close_at.load(Ordering::Relaxed) {
            self.close_idle();
        }
    }

    /// Close the descriptors of idle nodes; they are opened again by name when they are needed.
    pub(super) fn close_idle(&self) {
        let nodes = self.live_nodes();
        for node in nodes.iter().filter(|node| node.is_idle()) {
            node.close_if_unused();
        }
        drop(nodes);
        self.rest();
        // What is in use stays open: look again when as many more are.
        let open = self.descriptors.load(Ordering::Relaxed);
        let most = self.most.load(Ordering::Relaxed);
        self.close_at.store(most.max(open + most / 2), Ordering::Relaxed);
    }

    /// `open` something. When the process may not open more, once again with fewer descriptors in use.
    ///
    /// # Errors
    /// What `open` answers.
    pub fn relieved<T>(&self, mut open: impl FnMut() -> FsResult<T>) -> FsResult<T> {
        match open() {
            Err(error) if error.is_exhausted() => {
                self.relieve();
                open()
            }
            opened => opened,
        }
    }

    /// Close every descriptor that can be had again by name, also of files that wait to be hashed, for hashing needs some.
    pub fn relieve(&self) {
        // The limit is nearer than was thought: others have files open too.
        let most = (self.descriptors.load(Ordering::Relaxed) / 2).max(DESCRIPTORS_MIN);
        self.most.fetch_min(most, Ordering::Relaxed);
        self.close_at.fetch_min(most, Ordering::Relaxed);
        let nodes = self.live_nodes();
        for node in nodes.iter().filter(|node| node.can_be_opened_again()) {
            node.close_if_unused();
        }
        drop(nodes);
        self.rest();
    }

    pub(super) fn live_nodes(&self) -> Vec<Arc<Node>> {
        self.slots.read().live.values().filter_map(|slot| slot.node.upgrade()).collect()
    }

    /// Keep files that the kernel alone refers to in a few bytes.
    fn rest(&self) {
        let mut slots = self.slots.write();
        let devices = self.devices.read();
        let Slots { live, resting } = &mut *slots;
        live.retain(|_, slot| {
            let alone = slot.held.as_ref().filter(|node| Arc::strong_count(node) == 1);
            !alone.is_some_and(|node| resting.take_over(node, slot.lookups, devices.numbers()))
        });
        live.shrink_to(DESCRIPTORS_MAX);
    }

    /// Give memory back when much was forgotten: the map would keep it otherwise.
    pub fn give_back(&self) {
        if self.forgotten.load(Ordering::Relaxed) < GIVEN_BACK_MIN {
            return;
        }
        self.forgotten.store(0, Ordering::Relaxed);
        let mut slots = self.slots.write();
        let live = slots.live.len();
        slots.live.shrink_to(live * 2);
    }
}
