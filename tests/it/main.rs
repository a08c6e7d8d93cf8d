//! The real program against real roots, mounts and ports. Each test has a root of its own and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod bucket;
mod command_line;
mod corrupt;
mod disk;
mod faults;
mod fold;
mod kills;
mod load;
mod mount;
mod programs;
mod proofs;
mod readme;
mod rest;
mod root;
mod structure;
mod transcript;
mod tree;
