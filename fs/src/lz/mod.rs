//! The third kind: a zip archive that is written, LZFS (Loopback Zipped).
//!
//! The archive is a checkpoint: at every moment, also after a kill or a power cut, a whole zip that every program opens.
//! [`archive`] is what reads and rewrites it, without knowing of mounts.

pub mod archive;

pub use archive::{
    Archive, Committed, Edit, Edits, MemberId, MemberInfo, NewMember, Pin, Policy, Problem, Source, Strategy,
};
