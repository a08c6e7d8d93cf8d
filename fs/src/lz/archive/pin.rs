//! Contents that stay readable when they have left the archive.

use super::MemberId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// How often each content is pinned.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<HashMap<MemberId, usize>>);

impl Pins {
    pub(super) fn is_held(&self, id: MemberId) -> bool {
        self.0.lock().contains_key(&id)
    }

    pub(super) fn hold(self: &Arc<Self>, id: MemberId) -> Pin {
        *self.0.lock().entry(id).or_default() += 1;
        Pin { id, pins: Arc::clone(self) }
    }
}

/// Keeps a content readable: see [`Archive::pin`](super::Archive::pin).
#[derive(Debug)]
pub struct Pin {
    id: MemberId,
    pins: Arc<Pins>,
}

impl Pin {
    /// Of what.
    pub fn id(&self) -> MemberId {
        self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(count) = pins.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.id);
            }
        }
    }
}
