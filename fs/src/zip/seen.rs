//! The checksum of a member whose bytes are its content: nothing has to be unpacked, and readers come in any order.

use super::member::Member;
use crc32fast::Hasher;
use std::collections::BTreeMap;
use std::io;

/// Most parts that are kept apart; more come from programs that read at random, and never all.
const PARTS_MAX: usize = 1024;

/// What was read of a member.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Parts that do not touch, by where they begin: where they end, and their checksum.
    parts: BTreeMap<u64, (u64, Hasher)>,
    /// Whether the checksum of all of it fits, once all was read.
    fits: Option<bool>,
}

impl Seen {
    /// `bytes` were read of `member`, from `offset` on.
    ///
    /// # Errors
    /// `InvalidData` when all of it has been read, and is not what was packed.
    pub(super) fn read(&mut self, member: &Member, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.fits.is_none() {
            self.note(offset, bytes);
            let whole = self.parts.get(&0).filter(|(end, _)| *end == member.size);
            self.fits = whole.map(|(_, crc)| member.crc.is_none_or(|expect| crc.clone().finalize() == expect));
        }
        match self.fits {
            Some(false) => Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not fit")),
            _ => Ok(()),
        }
    }

    /// Add what of `bytes` is new.
    fn note(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = offset;
        let end = offset + bytes.len() as u64;
        while at < end {
            let before = self.parts.range(..=at).next_back().map_or(0, |(_, (end, _))| *end);
            at = at.max(before);
            if at >= end {
                break;
            }
            let until = self.parts.range(at..end).next().map_or(end, |(&next, _)| next);
            let mut crc = Hasher::new();
            crc.update(&bytes[(at - offset) as usize..(until - offset) as usize]);
            self.add(at, until, crc);
            at = until;
        }
    }

    /// Add a part that no other one covers, together with those that it touches.
    fn add(&mut self, mut from: u64, mut end: u64, mut crc: Hasher) {
        if let Some((&before, (until, _))) = self.parts.range(..from).next_back()
            && *until == from
            && let Some((_, mut joined)) = self.parts.remove(&before)
        {
            joined.combine(&crc);
            (from, crc) = (before, joined);
        }
        if let Some((until, behind)) = self.parts.remove(&end) {
            crc.combine(&behind);
            end = until;
        }
        if self.parts.len() < PARTS_MAX || from == 0 {
            self.parts.insert(from, (end, crc));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_in_any_order_have_the_checksum_of_the_whole(reads in prop::collection::vec((0..300_usize, 1..80_usize), 0..40)) {
            let content: Vec<u8> = (0..300_u32).map(|i| (i * i % 251) as u8).collect();
            let mut seen = Seen::default();
            for (from, len) in reads.into_iter().chain((0..300).step_by(50).map(|from| (from, 50))) {
                let end = content.len().min(from + len);
                seen.note(from as u64, &content[from..end]);
                prop_assert!(seen.parts.iter().zip(seen.parts.iter().skip(1)).all(|(a, b)| a.1.0 < *b.0));
            }
            let (end, crc) = seen.parts.remove(&0).unwrap();
            prop_assert_eq!((end, crc.finalize()), (300, crc32fast::hash(&content)));
            prop_assert!(seen.parts.is_empty());
        }
    }
}
