//! Buckets below the kernel: operations through `Vfs`, what they report, and what is recovered after a crash.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod archive;
mod crash;
mod driver;
mod fold;
mod hostile;
mod lz;
mod model;
mod names;
mod promises;
mod zip;

/// Random sequences of operations in a run; `PROPTEST_CASES` asks for others.
const MODEL_CASES: u32 = 60;
