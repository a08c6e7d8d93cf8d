//! The real program against real roots, mounts and ports. Each test has a root of its own and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod broken_disk;
mod bucket;
mod coins;
mod command_line;
mod corrupt;
mod curl;
mod disk;
mod downloads;
mod events;
mod faults;
mod fold;
mod forget;
mod grpc;
mod hostile;
mod kills;
mod listing;
mod load;
mod locks;
mod mount;
mod openapi;
mod opens;
mod operations;
mod packaging;
mod passthrough;
mod postman;
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
mod uploads;
mod users;
mod webdav;
mod zip;
