//! Buckets as file systems.
//!
//! A bucket is a backing (a directory, or a zip archive) served as an ordinary folder through FUSE. What programs do in
//! it becomes a gapless stream of numbered [`change::Change`]s, handed to a [`change::ChangeSink`]. This crate knows no
//! ledger, no async runtime and no network.
//!
//! Read in this order: [`vfs`] (what a file system must do), [`loopback`] (the first one), [`zip`] (the second), [`change`] (what is
//! reported), [`intent`] and [`settle`] (how nothing is missed), [`bucket`] (the whole, with a name), [`fuse`] (the kernel).

pub mod any;
pub mod bucket;
mod case;
pub mod change;
pub mod content;
pub mod error;
pub mod fuse;
pub mod handle;
pub mod hashing;
pub mod import;
pub mod inode;
pub mod intent;
pub mod lease;
pub mod listing;
pub mod loopback;
pub mod lz;
pub mod memory;
pub mod meter;
pub mod path;
mod privilege;
pub mod read_only;
pub mod recorder;
pub mod recover;
pub mod settle;
pub mod stat;
pub mod stream;
pub mod table;
pub mod verified;
pub mod vfs;
pub mod writers;
pub mod zip;

pub use any::AnyBucket;
pub use bucket::{Bucket, BucketOptions, ContentCheck, Durability, Found, FoundKind, Stored, SyncReport};
pub use case::expect_names_told_apart;
pub use change::{Cause, Change, ChangeSink, Content, Evidence, Hashes, Op, Put, Row, RowVisitor, SinkError};
pub use error::FsError;
pub use fuse::{Holder, Mount, MountOptions, Requests, Unanswered, UnmountError, clear_stale_mount};
pub use import::ImportProgress;
pub use lz::{LzBucket, LzFs};
pub use memory::MemorySink;
pub use path::{BucketPath, PathError};
pub use recover::Recovery;
pub use verified::{PIECE_BYTES, Piece, Pieces, Verified};
pub use zip::{ArchiveCheck, Unread, ZipBucket, ZipFs, ZipOptions};
