//! A big member of which parts are replaced: pieces that nothing touched keep their packed bytes.

use super::format::{DEFLATE, Steps};
use super::pack::{self, Input, PIECE_BYTES, Packed};
use super::{Archive, MemberId};
use crate::error::FsResult;
use crate::zip::member::Member;
use crc32fast::Hasher;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes copied at once.
const COPY_BYTES: u64 = 1024 * 1024;
/// Most places that a member keeps when it grows.
const STEPS_MAX: u64 = 12_000;

/// What becomes of a member.
pub(super) struct Patch<'a> {
    archive: &'a Archive,
    base: MemberId,
    old: std::sync::Arc<Member>,
    steps: std::sync::Arc<Steps>,
    dirty: &'a [Range<u64>],
    /// Bytes of the new content.
    size: u64,
}

/// What came out so far.
struct Out<'a> {
    take: &'a mut dyn FnMut(&[u8]) -> FsResult<()>,
    written: u64,
    /// Of the old content with parts replaced.
    crc: u32,
    /// Of what is beyond the end of the old content.
    beyond: Hasher,
    offsets: Vec<u64>,
}

/// The checksum of `crc`'s content followed by as many zero bits as `len` bytes have, without what begins and ends one.
fn shifted(crc: u32, len: u64) -> u32 {
    let mut hasher = Hasher::new_with_initial(crc);
    hasher.combine(&Hasher::new_with_initial_len(0, len));
    hasher.finalize()
}

impl<'a> Patch<'a> {
    /// `None` when the member must be packed as a whole: it was not packed in pieces, becomes shorter, or most of it
    /// changes.
    ///
    /// # Errors
    /// What locating the member answers.
    pub(super) fn of(
        archive: &'a Archive,
        base: MemberId,
        dirty: &'a [Range<u64>],
        size: u64,
    ) -> FsResult<Option<Self>> {
        let old = archive.member_of(base)?;
        let Some(steps) = old.steps.clone() else { return Ok(None) };
        let is_whole = old.method == DEFLATE && old.size > 0 && old.crc.is_some();
        let count = old.size.saturating_sub(1) >> steps.log2;
        let changes: u64 = dirty.iter().map(|range| range.end - range.start).sum();
        let fits = is_whole
            && steps.offsets.len() as u64 == count
            && size >= old.size
            && size >> steps.log2 <= STEPS_MAX
            && 1_u64 << steps.log2 >= PIECE_BYTES as u64
            && changes + (size - old.size) < size / 2;
        Ok(fits.then(|| Self { archive, base, old, steps, dirty, size }))
    }

    /// Hand the packed bytes of the new content to `take`; that they have this hash is for the caller to check.
    ///
    /// # Errors
    /// What reading, packing and `take` answer.
    pub(super) fn pack(
        &self,
        input: &Input<'_>,
        blake3: [u8; 32],
        take: &mut dyn FnMut(&[u8]) -> FsResult<()>,
    ) -> FsResult<Packed> {
        let crc = self.old.crc.unwrap_or(0);
        let mut out = Out { take, written: 0, crc, beyond: Hasher::new(), offsets: Vec::new() };
        let step = 1_u64 << self.steps.log2;
        let last_old = (self.old.size - 1) >> self.steps.log2;
        for number in 0..self.size.div_ceil(step) {
            if number > 0 {
                out.offsets.push(out.written);
            }
            let range = number * step..((number + 1) * step).min(self.size);
            let first = self.dirty.partition_point(|dirty| dirty.end <= range.start);
            let is_dirty = self.dirty.get(first).is_some_and(|dirty| dirty.start < range.end);
            // The last one of the old pieces ends the stream.
            if number < last_old && !is_dirty {
                self.copy(number, &mut out)?;
            } else {
                self.renew(range, input, &mut out)?;
            }
        }
        let mut whole = Hasher::new_with_initial(out.crc);
        whole.combine(&out.beyond);
        let steps = Some(Steps { log2: self.steps.log2, offsets: out.offsets });
        Ok(Packed { method: DEFLATE, crc: whole.finalize(), blake3, packed: out.written, steps })
    }

    fn copy(&self, number: u64, out: &mut Out<'_>) -> FsResult<()> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let offset = |number: usize| number.checked_sub(1).map_or(0, |at| self.steps.offsets[at]);
        let begin = self.old.extent().0;
        let (mut at, end) = (begin + offset(number), begin + offset(number + 1));
        let mut buffer = vec![0; COPY_BYTES.min(end.saturating_sub(at)) as usize];
        while at < end {
            let count = (end - at).min(COPY_BYTES) as usize;
            self.old.file().read_exact_at(&mut buffer[..count], at)?;
            (out.take)(&buffer[..count])?;
            out.written += count as u64;
            at += count as u64;
        }
        Ok(())
    }

    /// Deflate the new content of `range`, and reckon with the old one.
    fn renew(&self, range: Range<u64>, input: &Input<'_>, out: &mut Out<'_>) -> FsResult<()> {
        let mut at = range.start;
        let mut content = vec![0; PIECE_BYTES];
        let mut before = vec![0; PIECE_BYTES];
        while at < range.end {
            let end = (at + PIECE_BYTES as u64).min(range.end);
            let content = &mut content[..(end - at) as usize];
            input.fill(at, content)?;
            let within = (self.old.size.clamp(at, end) - at) as usize;
            if within > 0 {
                self.old_content(at, &mut before[..within])?;
                let differs = crc32fast::hash(&before[..within]) ^ crc32fast::hash(&content[..within]);
                out.crc ^= shifted(differs, self.old.size - at - within as u64);
            }
            out.beyond.update(&content[within..]);
            let piece = pack::deflate(content, end == self.size)?;
            (out.take)(&piece)?;
            out.written += piece.len() as u64;
            at = end;
        }
        Ok(())
    }

    fn old_content(&self, at: u64, out: &mut [u8]) -> FsResult<()> {
        let mut filled = 0;
        while filled < out.len() {
            match self.archive.read(self.base, at + filled as u64, &mut out[filled..])? {
                0 => return Err(rustix::io::Errno::IO.into()),
                read => filled += read,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_follows_from_what_differs() {
        let old: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        let mut new = old.clone();
        new[3_000..3_500].fill(7);
        let differs = crc32fast::hash(&old[2_900..3_600]) ^ crc32fast::hash(&new[2_900..3_600]);
        assert_eq!(crc32fast::hash(&old) ^ shifted(differs, 10_000 - 3_600), crc32fast::hash(&new));
    }
}
