//! Archives that are written: what holds for a directory holds for them, but for hard links.

use crate::driver as any;

/// The same tests with an archive for a backing.
mod driver {
    pub(crate) use super::any::{Done, Lost, me, tamper};
    pub(crate) type Driver = super::any::Driven<true>;
}
mod others;
mod own;
mod power;

#[expect(clippy::duplicate_mod, reason = "the same tests of another kind")]
#[path = "crash.rs"]
mod crash;
#[expect(clippy::duplicate_mod, reason = "the same tests of another kind")]
#[path = "model.rs"]
mod model;
#[expect(clippy::duplicate_mod, reason = "the same tests of another kind")]
#[path = "names.rs"]
mod names;
#[expect(clippy::duplicate_mod, reason = "the same tests of another kind")]
#[path = "promises.rs"]
mod promises;
