//! Buckets below the kernel: operations through `Vfs`, what they report, and what is recovered after a crash.

mod crash;
mod driver;
mod fold;
mod model;
mod names;
mod promises;
