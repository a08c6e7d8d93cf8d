//! The kernel side: the only room that names fuser.

mod adapter;
mod holders;
mod mount;

pub use holders::Holder;
pub use mount::{Mount, MountOptions, UnmountError, clear_stale_mount};
