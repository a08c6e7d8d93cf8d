//! What an intent says, and how the file of a bucket holds intents.
//!
//! One append-only file for each bucket. A record is `length u32 LE, first 4 bytes of BLAKE3 of the body, body` (borsh of
//! [`Record`]); a torn tail ends the file.

use crate::error::FsResult;
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeMap;

pub(super) const MAGIC: &[u8; 8] = b"wizint\0\x01";
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A directory (its identity) and a name in it.
pub type At = (u64, Vec<u8>);

/// What may happen.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Intent {
    /// The content or attributes of an existing file may change.
    Write {
        /// Identity of the inode.
        inode: u64,
        /// A name of it.
        at: At,
        /// Size and change time at the last report; none for a file never reported.
        sealed: Option<(u64, i64)>,
        /// The file was not as it had been left.
        foreign: bool,
    },
    /// Something may be made here: file, directory, symbolic link, special file.
    Create {
        /// Where.
        at: At,
    },
    /// The name may go.
    Remove {
        /// Where.
        at: At,
        /// Identity of the inode.
        inode: u64,
    },
    /// The name may move, or change places with the other.
    Rename {
        /// Old name.
        from: At,
        /// New name.
        to: At,
        /// Identity of the inode that moves.
        inode: u64,
    },
    /// The inode may get another name.
    Link {
        /// New name.
        at: At,
        /// Identity of the inode.
        inode: u64,
    },
    /// A temporary file of `put`; not the user's, removed when found after a crash.
    Stage {
        /// Where.
        at: At,
    },
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Record {
    /// An intent.
    Noted {
        /// Its number; numbers only grow.
        id: u64,
        /// When, in microseconds since 1970.
        time_us: u64,
        /// User.
        uid: u32,
        /// Process.
        pid: u32,
        /// What may happen.
        intent: Intent,
    },
    /// These have ended.
    Ended {
        /// Numbers.
        ids: Vec<u64>,
    },
}

pub(super) fn encode(record: &Record) -> FsResult<Vec<u8>> {
    let body = borsh::to_vec(record)?;
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&blake3::hash(&body).as_bytes()[..4]);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The live records, encoded, by number, and the highest number there was; `None` when the bytes are something else.
pub(super) fn parse(bytes: &[u8]) -> Option<(BTreeMap<u64, Vec<u8>>, u64)> {
    let (mut live, mut highest) = (BTreeMap::new(), 0);
    if bytes.len() < MAGIC.len() {
        return MAGIC.starts_with(bytes).then_some((live, highest));
    }
    let mut rest = bytes.strip_prefix(MAGIC)?;
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let (length, sum) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        if length > RECORD_BYTES_MAX || length > tail.len() {
            break;
        }
        let (body, next) = tail.split_at(length);
        if blake3::hash(body).as_bytes()[..4] != *sum {
            break;
        }
        match Record::try_from_slice(body) {
            Ok(Record::Noted { id, .. }) => {
                highest = highest.max(id);
                live.insert(id, rest[..8 + length].to_vec());
            }
            Ok(Record::Ended { ids }) => {
                for id in ids {
                    live.remove(&id);
                }
            }
            Err(_) => break,
        }
        rest = next;
    }
    Some((live, highest))
}
