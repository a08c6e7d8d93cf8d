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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noted(id: u64, intent: Intent) -> Record {
        Record::Noted { id, time_us: 5, uid: 1000, pid: 77, intent }
    }

    /// One of each kind, and where each record begins.
    fn sound() -> (Vec<u8>, Vec<usize>) {
        let at = |name: &str| (1, name.as_bytes().to_vec());
        let records = [
            noted(1, Intent::Write { inode: 9, at: at("a"), sealed: Some((5, -1)), foreign: true }),
            noted(2, Intent::Create { at: at("b") }),
            noted(3, Intent::Remove { at: at("c"), inode: 8 }),
            Record::Ended { ids: vec![2, 1] },
            noted(4, Intent::Rename { from: at("d"), to: at("e"), inode: 7 }),
            noted(5, Intent::Link { at: at("f"), inode: 6 }),
            noted(6, Intent::Stage { at: at("g") }),
            Record::Ended { ids: vec![4] },
        ];
        let (mut bytes, mut starts) = (MAGIC.to_vec(), Vec::new());
        for record in records {
            starts.push(bytes.len());
            bytes.extend(encode(&record).unwrap());
        }
        (bytes, starts)
    }

    /// Makes length and sum of the record at `start` right again: what was edited is then read, not only refused.
    fn mend(bytes: &mut [u8], start: usize) {
        let Some((head, body)) = bytes.get_mut(start..).and_then(|rest| rest.split_first_chunk_mut::<8>()) else {
            return;
        };
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if let Some(body) = body.get(..length) {
            head[4..].copy_from_slice(&blake3::hash(body).as_bytes()[..4]);
        }
    }

    #[test]
    fn what_has_ended_is_gone_and_a_torn_tail_is_the_end() {
        let (bytes, starts) = sound();
        let (live, highest) = parse(&bytes).unwrap();
        assert_eq!((live.keys().copied().collect::<Vec<_>>(), highest), (vec![3, 5, 6], 6));
        for length in MAGIC.len()..bytes.len() {
            let whole = starts.iter().skip(1).filter(|start| **start <= length).count();
            let (live, _) = parse(&bytes[..length]).unwrap();
            let expected = [0, 1, 2, 3, 1, 2, 3, 4][whole];
            assert_eq!(live.len(), expected, "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn edited_intents_are_read_or_refused(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8),
            cut in prop::option::of(any::<prop::sample::Index>()),
            repair: bool,
        ) {
            let (mut bytes, starts) = sound();
            for (at, value, flips) in edits {
                let at = at.index(bytes.len());
                bytes[at] = if flips { bytes[at] ^ (1 << (value % 8)) } else { value };
            }
            if repair {
                starts.iter().for_each(|start| mend(&mut bytes, *start));
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Some((live, highest)) = parse(&bytes) {
                prop_assert!(live.keys().all(|id| *id <= highest));
            }
            // As a node that starts does: it goes on with a number that was not used.
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("intents");
            std::fs::write(&path, &bytes).unwrap();
            if let Ok((intents, found)) = crate::intent::Intents::open(&path, 1) {
                let next = intents.note(Intent::Create { at: (1, b"new".to_vec()) }, 0, 0).unwrap();
                prop_assert!(found.iter().all(|found| found.id != next));
                drop(intents);
                let (_, again) = crate::intent::Intents::open(&path, 1).unwrap();
                prop_assert_eq!(again.len(), found.len() + 1);
            }
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let guided = [&MAGIC[..], &bytes].concat();
            for bytes in [&bytes, &guided] {
                if let Some((live, highest)) = parse(bytes) {
                    prop_assert!(live.keys().all(|id| *id <= highest));
                }
            }
        }
    }
}
