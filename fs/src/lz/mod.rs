//! The third kind: a zip archive that is written, LZFS (Loopback Zipped).
//!
//! The archive is a checkpoint: at every moment, also after a kill or a power cut, a whole zip that every program opens.
//! [`archive`] is what reads and rewrites it, without knowing of mounts. Programs work in a directory tree beside it, the
//! stage, which an ordinary bucket serves and records; what they did there goes into the archive in the background.

mod access;
mod apart;
pub mod archive;
mod bucket;
mod commit;
mod draft;
mod fill;
mod fresh;
mod fs;
mod import;
mod left;
mod limits;
pub(crate) mod mark;
mod patch;
mod plan;
mod repair;
mod reserve;
mod stage;
mod touched;
mod view;

pub use archive::{
    Archive, Committed, Edit, Edits, MemberId, MemberInfo, NewMember, Pin, Policy, Problem, Source, Strategy,
};
pub use bucket::LzBucket;
pub use fs::LzFs;
pub use stage::{expect_stage, has_stage};
