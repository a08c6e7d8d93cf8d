//! SOZip: an index that some archives keep behind a member, of places where nothing refers back.
//!
//! Source: SOZip specification 0.5.0: a stored member `.NAME.sozip.idx`, directly behind the member and not in the central
//! directory: version, bytes to skip, bytes of content between two places, bytes of an offset (all u32), bytes of content and
//! packed bytes (u64), then an offset (u64) for each place but the first.

use super::decoder::{Place, method};
use super::member::Member;
use std::io;
use std::os::unix::fs::FileExt;

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const OFFSET_BYTES: u32 = 8;
const LOCAL_HEADER_BYTES: usize = 30;
/// Content between two places, of which more are passed over.
const SPACING_MIN: u64 = 1024 * 1024;
/// Most places held of a member: those of a larger one are further apart.
const PLACES_MAX: u64 = 1 << 14;
/// Most offsets read: 1 TiB in pieces of 32 KiB.
const OFFSETS_MAX: u64 = 1 << 25;

/// The places an index behind `member` names; none without one, or when it is not sound.
pub(crate) fn places(member: &Member) -> Option<Vec<Place>> {
    if member.method != method::DEFLATE {
        return None;
    }
    match read(member) {
        Ok(places) => places,
        Err(error) => {
            tracing::debug!(%error, "no index behind the member");
            None
        }
    }
}

fn read(member: &Member) -> io::Result<Option<Vec<Place>>> {
    let (begin, end) = member.extent();
    let file = member.file();
    let mut local = [0; LOCAL_HEADER_BYTES];
    file.read_exact_at(&mut local, end)?;
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([local[at], local[at + 1]]));
    if local[..4] != *b"PK\x03\x04" || u16_at(8) != usize::from(method::STORED) {
        return Ok(None);
    }
    let (name_len, extra_len) = (u16_at(26), u16_at(28));
    let mut name = vec![0; name_len];
    file.read_exact_at(&mut name, end + LOCAL_HEADER_BYTES as u64)?;
    if !name.ends_with(b".sozip.idx") {
        return Ok(None);
    }
    let at = end + (LOCAL_HEADER_BYTES + name_len + extra_len) as u64;
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, at)?;
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let (skip, chunk) = (u64::from(u32_at(4)), u64::from(u32_at(8)));
    let sound = u32_at(0) == VERSION
        && chunk > 0
        && u32_at(12) == OFFSET_BYTES
        && u64_at(16) == member.size
        && u64_at(24) == end - begin;
    let count = member.size.saturating_sub(1).checked_div(chunk).unwrap_or(0);
    if !sound || count > OFFSETS_MAX {
        return Ok(None);
    }
    let step = step(count, chunk);
    let mut places = Vec::new();
    let mut before = 0;
    for number in (step..=count).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        let mut offset = [0; 8];
        file.read_exact_at(&mut offset, at + HEADER_BYTES as u64 + skip + (number - 1) * u64::from(OFFSET_BYTES))?;
        let offset = u64::from_le_bytes(offset);
        let Some(input) = member.input_at(offset).filter(|_| offset > before) else { return Ok(None) };
        before = offset;
        places.push(Place::named(number * chunk, input));
    }
    Ok(Some(places))
}

/// Of so many offsets, each this many bytes of content behind the one before, every how many is held.
fn step(count: u64, chunk: u64) -> u64 {
    SPACING_MIN.div_ceil(chunk).max(count.div_ceil(PLACES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_mebibyte_apart_and_not_too_many() {
        let check = |count, chunk, expect| assert_eq!(step(count, chunk), expect, "{count} of {chunk}");
        check(100, 32 << 10, 32);
        check(100, 3 << 20, 1);
        check(0, 1, SPACING_MIN);
        check(OFFSETS_MAX, 32 << 10, OFFSETS_MAX / PLACES_MAX);
        check(OFFSETS_MAX, 1 << 40, OFFSETS_MAX / PLACES_MAX);
    }
}
