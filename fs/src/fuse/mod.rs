//! The kernel side: the only room that names fuser.

mod acl;
mod adapter;
mod control;
mod convert;
mod holders;
mod listings;
mod mount;
mod passthrough;
mod replies;
mod running;
mod watch;

pub use holders::Holder;
pub use mount::{Mount, MountOptions, UnmountError, clear_stale_mount};
pub use watch::{Requests, Unanswered};
