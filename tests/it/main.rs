//! The real program against real roots, mounts and ports. Each test has a root of its own and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod broken_disk;
mod bucket;
mod coins;
mod command_line;
mod corrupt;
mod disk;
mod faults;
mod fold;
mod forget;
mod kills;
mod listing;
mod load;
mod locks;
mod mount;
mod opens;
mod passthrough;
mod programs;
mod proofs;
mod readme;
mod rest;
mod root;
mod soak;
mod structure;
mod suites;
mod transcript;
mod traps;
mod tree;
mod unanswered;
mod users;
mod zip;
