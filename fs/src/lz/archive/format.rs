//! The bytes of headers and of the directory.
//!
//! Source: APPNOTE 4.3 and 4.5.3 (zip64), Info-ZIP's `extrafld.txt` for 0x5455 and 0x7875. The field 0x7A57 is ours
//! (docs/ARCHIVES.md), see `ours`.

use super::order::MIMETYPE;
pub(super) use super::ours::{Of, Ours};
pub(super) use crate::zip::member::Steps;
use rawzip::extra_fields::{ExtraFieldId, ExtraFields};

pub(super) const LOCAL_BYTES: usize = 30;
pub(super) const CENTRAL_BYTES: usize = 46;
/// Bytes of what follows the directory, without the comment: the records of zip64 and the old one.
pub(super) const END_MAX: usize = END64_BYTES + 22;
pub(super) const END64_BYTES: usize = 56 + 20;
const LOCAL_SIGNATURE: [u8; 4] = *b"PK\x03\x04";
const CENTRAL_SIGNATURE: [u8; 4] = *b"PK\x01\x02";
const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
const END64_SIGNATURE: [u8; 4] = *b"PK\x06\x06";
const LOCATOR64_SIGNATURE: [u8; 4] = *b"PK\x06\x07";

pub(super) const UTF_8: u16 = 1 << 11;
pub(super) const DESCRIPTOR: u16 = 1 << 3;
pub(super) const ENCRYPTED: u16 = 1;
/// Flags that only an encrypted member has: strong encryption, and headers that are masked.
const OF_ENCRYPTED: u16 = 1 << 6 | 1 << 13;
/// Bits 1 and 2, which tell how hard deflate tried: they stay as they are.
pub(super) const STORED: u16 = 0;
pub(super) const DEFLATE: u16 = 8;
/// Unix, version 6.3 of the specification.
const MADE_BY: u16 = 3 << 8 | 63;
const NEEDED: u16 = 20;
const NEEDED_64: u16 = 45;
const DOS_DIRECTORY: u32 = 0x10;

/// Most bytes of extra fields in a header.
pub(super) const EXTRA_MAX: usize = u16::MAX as usize;

/// Extra fields that are written anew and never copied.
fn is_rewritten(id: ExtraFieldId) -> bool {
    // An alignment of data (0xa11e, 0xD935) would not be true of another place.
    matches!(id.as_u16(), 0x0001 | 0x5455 | 0x7A57 | 0xa11e | 0xD935 | 0x7075)
}

/// Extra fields of other programs in which a member's times stand too: NTFS, and two older ones of Unix.
fn has_times(id: ExtraFieldId) -> bool {
    matches!(id.as_u16(), 0x000a | 0x000d | 0x5855)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn field(id: ExtraFieldId, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&id.as_u16().to_le_bytes());
    out.extend_from_slice(&(data.len() as u16).to_le_bytes());
    out.extend_from_slice(data);
}

/// The extra fields `fields` but for some.
fn without(fields: &[u8], goes: fn(ExtraFieldId) -> bool) -> Vec<u8> {
    let mut kept = Vec::new();
    for (id, data) in ExtraFields::new(fields).filter(|(id, _)| !goes(*id)) {
        field(id, data, &mut kept);
    }
    kept
}

/// What of `fields`, of others, fits behind `before` and before `after` into the extra fields of one header.
fn fitting(before: &[u8], fields: &[u8], after: &[u8]) -> Vec<u8> {
    let mut room = EXTRA_MAX.saturating_sub(before.len() + after.len());
    let mut kept = Vec::new();
    for (id, data) in ExtraFields::new(fields) {
        let len = 4 + data.len();
        if len <= room {
            room -= len;
            field(id, data, &mut kept);
        }
    }
    kept
}

/// A record of the central directory.
#[derive(Debug)]
pub(super) struct Central<'a> {
    pub(super) made_by: u16,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) time: u16,
    pub(super) date: u16,
    pub(super) crc: u32,
    pub(super) packed: u64,
    pub(super) size: u64,
    pub(super) internal: u16,
    pub(super) external: u32,
    pub(super) place: u64,
    pub(super) name: &'a [u8],
    pub(super) extra: &'a [u8],
    pub(super) comment: &'a [u8],
}

impl<'a> Central<'a> {
    /// The record at the beginning of `bytes`; `None` when they do not hold a whole one.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let fixed = bytes.get(..CENTRAL_BYTES)?;
        if fixed[..4] != CENTRAL_SIGNATURE {
            return None;
        }
        let lens = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
        let rest = &bytes[CENTRAL_BYTES..];
        let (name, rest) = rest.split_at_checked(lens[0])?;
        let (extra, rest) = rest.split_at_checked(lens[1])?;
        let (comment, _) = rest.split_at_checked(lens[2])?;
        let mut record = Self {
            made_by: u16_at(fixed, 4),
            flags: u16_at(fixed, 8),
            method: u16_at(fixed, 10),
            time: u16_at(fixed, 12),
            date: u16_at(fixed, 14),
            crc: u32_at(fixed, 16),
            packed: u64::from(u32_at(fixed, 20)),
            size: u64::from(u32_at(fixed, 24)),
            internal: u16_at(fixed, 36),
            external: u32_at(fixed, 38),
            place: u64::from(u32_at(fixed, 42)),
            name,
            extra,
            comment,
        };
        record.widen();
        Some(record)
    }

    /// Take from the zip64 field what does not fit into 32 bits.
    fn widen(&mut self) {
        let zip64 = ExtraFields::new(self.extra).find(|(id, _)| *id == ExtraFieldId::ZIP64);
        let Some((_, mut data)) = zip64 else { return };
        for value in [&mut self.size, &mut self.packed, &mut self.place] {
            if *value == u64::from(u32::MAX)
                && let Some((wide, rest)) = data.split_first_chunk::<8>()
            {
                *value = u64::from_le_bytes(*wide);
                data = rest;
            }
        }
    }
}

/// Everything that the headers of a member say.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) name: Vec<u8>,
    pub(super) flags: u16,
    pub(super) method: u16,
    /// Time and date as DOS has them.
    pub(super) dos: (u16, u16),
    /// Seconds since 1970, for the field 0x5455.
    pub(super) seconds: Option<i32>,
    pub(super) crc: u32,
    pub(super) packed: u64,
    pub(super) size: u64,
    pub(super) made_by: u16,
    pub(super) internal: u16,
    pub(super) external: u32,
    /// Fields of others, in the local header and in the directory.
    pub(super) extra: (Vec<u8>, Vec<u8>),
    pub(super) comment: Vec<u8>,
    pub(super) ours: Ours,
}

/// Seconds since 1970 of the last modification, in the field 0x5455.
pub(super) fn stamp(extra: &[u8]) -> Option<i32> {
    let (_, data) = ExtraFields::new(extra).find(|(id, _)| *id == ExtraFieldId::EXTENDED_TIMESTAMP)?;
    (data.len() >= 5 && data[0] & 1 != 0).then(|| u32_at(data, 1).cast_signed())
}

/// Time and date as DOS has them, in UTC, of nanoseconds since 1970.
pub(super) fn dos_time(mtime_ns: i64) -> (u16, u16) {
    let seconds = mtime_ns.div_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days, as in Howard Hinnant's "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    match year {
        ..1980 => (0, 1 << 5 | 1),
        1980..2108 => {
            let (hour, minute, second) = (of_day / 3600, of_day % 3600 / 60, of_day % 60);
            let time = (hour << 11) | (minute << 5) | (second / 2);
            (time as u16, (((year - 1980) << 9) | (month << 5) | day) as u16)
        }
        _ => (23 << 11 | 59 << 5 | 29, 127 << 9 | 12 << 5 | 31),
    }
}

/// Flags of a record without those that make no sense: the local header, which is written from them, is believed by readers.
fn sensible(flags: u16) -> u16 {
    if flags & ENCRYPTED == 0 { flags & !OF_ENCRYPTED } else { flags }
}

impl Head {
    /// Of a new member: `mode` with the bits of its kind, a name as it stands in the archive.
    pub(super) fn new(name: Vec<u8>, mode: u32, mtime_ns: i64, owner: (u32, u32), ours: Ours) -> Self {
        let directory = mode & libc::S_IFMT == libc::S_IFDIR;
        let mut unix = vec![1, 4];
        unix.extend_from_slice(&owner.0.to_le_bytes());
        unix.push(4);
        unix.extend_from_slice(&owner.1.to_le_bytes());
        let mut extra = Vec::new();
        field(ExtraFieldId::INFO_ZIP_UNIX_UID_GID, &unix, &mut extra);
        let mut head = Self {
            flags: if name.is_ascii() { 0 } else { UTF_8 },
            name,
            method: STORED,
            dos: (0, 0),
            seconds: None,
            crc: 0,
            packed: 0,
            size: 0,
            made_by: MADE_BY,
            internal: 0,
            external: mode << 16 | if directory { DOS_DIRECTORY } else { 0 },
            extra: (extra.clone(), extra),
            comment: Vec::new(),
            ours,
        };
        head.set_time(mtime_ns);
        head
    }

    /// Of a member that is there, from its record and the extra fields of its local header.
    pub(super) fn of(record: &Central<'_>, local_extra: &[u8], ours: Ours) -> Self {
        let others = |extra: &[u8]| without(extra, is_rewritten);
        Self {
            name: record.name.to_vec(),
            flags: sensible(record.flags) & !DESCRIPTOR,
            method: record.method,
            dos: (record.time, record.date),
            seconds: stamp(record.extra),
            crc: record.crc,
            packed: record.packed,
            size: record.size,
            made_by: record.made_by,
            internal: record.internal,
            external: record.external,
            extra: (others(local_extra), others(record.extra)),
            comment: record.comment.to_vec(),
            ours,
        }
    }

    pub(super) fn set_time(&mut self, mtime_ns: i64) {
        self.dos = dos_time(mtime_ns);
        self.seconds = i32::try_from(mtime_ns.div_euclid(1_000_000_000)).ok();
        self.ours.mtime_ns = Some(mtime_ns);
    }

    /// Without the fields in which others have written the times that the member had: many programs believe those first.
    pub(super) fn forget_times(&mut self) {
        for fields in [&mut self.extra.0, &mut self.extra.1] {
            *fields = without(fields, has_times);
        }
    }

    /// Permission bits; the member was made on Unix from now on.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.made_by = MADE_BY;
        self.external = mode << 16 | (self.external & DOS_DIRECTORY);
    }

    fn is_wide(&self) -> bool {
        self.size >= u64::from(u32::MAX) || self.packed >= u64::from(u32::MAX)
    }

    fn needed(&self, wide: bool) -> u16 {
        if wide { NEEDED_64 } else { NEEDED }
    }

    fn stamp(&self, out: &mut Vec<u8>) {
        if let Some(seconds) = self.seconds {
            let mut data = vec![1];
            data.extend_from_slice(&seconds.to_le_bytes());
            field(ExtraFieldId::EXTENDED_TIMESTAMP, &data, out);
        }
    }

    /// What both headers have from the flags to the sizes.
    fn middle(&self, out: &mut Vec<u8>) {
        for value in [self.flags, self.method, self.dos.0, self.dos.1] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        let narrow = |value: u64| if self.is_wide() { u32::MAX } else { value as u32 };
        for value in [self.crc, narrow(self.packed), narrow(self.size)] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn wide_sizes(&self) -> Vec<u8> {
        let sizes = [self.size, self.packed];
        if self.is_wide() { sizes.iter().flat_map(|size| size.to_le_bytes()).collect() } else { Vec::new() }
    }

    /// All extra fields; of those of others what there is room for.
    fn extra(&self, central: bool, wide: &[u8], others: &[u8]) -> Vec<u8> {
        let mut extra = Vec::new();
        if !wide.is_empty() {
            field(ExtraFieldId::ZIP64, wide, &mut extra);
        }
        self.stamp(&mut extra);
        let mut ours = Vec::new();
        self.ours.write(central, &mut ours);
        let others = fitting(&extra, others, &ours);
        [extra, others, ours].concat()
    }

    /// The local header.
    pub(super) fn local(&self) -> Vec<u8> {
        let wide = self.wide_sizes();
        // Programs that ask what kind of archive it is find its content at a fixed place.
        let is_bare = self.name == MIMETYPE && wide.is_empty();
        let extra = if is_bare { Vec::new() } else { self.extra(false, &wide, &self.extra.0) };
        let mut out = LOCAL_SIGNATURE.to_vec();
        out.extend_from_slice(&self.needed(!wide.is_empty()).to_le_bytes());
        self.middle(&mut out);
        out.extend_from_slice(&(self.name.len() as u16).to_le_bytes());
        out.extend_from_slice(&(extra.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.name);
        out.extend_from_slice(&extra);
        out
    }

    /// The record of the directory, of the member whose local header of `header` bytes is at `place`.
    pub(super) fn central(&mut self, place: u64, header: usize) -> Vec<u8> {
        self.ours.header = Some(header as u32);
        self.ours.of = Some(Of { crc: self.crc, packed: self.packed });
        let mut wide = self.wide_sizes();
        let far = place >= u64::from(u32::MAX);
        if far {
            wide.extend_from_slice(&place.to_le_bytes());
        }
        let extra = self.extra(true, &wide, &self.extra.1);
        let mut out = CENTRAL_SIGNATURE.to_vec();
        out.extend_from_slice(&self.made_by.to_le_bytes());
        out.extend_from_slice(&self.needed(!wide.is_empty()).to_le_bytes());
        self.middle(&mut out);
        for len in [self.name.len(), extra.len(), self.comment.len(), 0] {
            out.extend_from_slice(&(len as u16).to_le_bytes());
        }
        out.extend_from_slice(&self.internal.to_le_bytes());
        out.extend_from_slice(&self.external.to_le_bytes());
        out.extend_from_slice(&(if far { u32::MAX } else { place as u32 }).to_le_bytes());
        for part in [&self.name, &extra, &self.comment] {
            out.extend_from_slice(part);
        }
        out
    }
}

/// What follows the directory of `count` records and `len` bytes at `at`.
pub(super) fn end(count: u64, at: u64, len: u64, comment: &[u8]) -> Vec<u8> {
    let wide = count >= u64::from(u16::MAX) || at >= u64::from(u32::MAX) || len >= u64::from(u32::MAX);
    let mut out = Vec::new();
    if wide {
        out.extend_from_slice(&END64_SIGNATURE);
        out.extend_from_slice(&44_u64.to_le_bytes());
        out.extend_from_slice(&MADE_BY.to_le_bytes());
        out.extend_from_slice(&NEEDED_64.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        for value in [count, count, len, at] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&LOCATOR64_SIGNATURE);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(at + len).to_le_bytes());
        out.extend_from_slice(&1_u32.to_le_bytes());
    }
    out.extend_from_slice(&END_SIGNATURE);
    out.extend_from_slice(&[0; 4]);
    let narrow_count = u16::try_from(count).unwrap_or(u16::MAX);
    out.extend_from_slice(&narrow_count.to_le_bytes());
    out.extend_from_slice(&narrow_count.to_le_bytes());
    for value in [len, at] {
        out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }
    out.extend_from_slice(&(comment.len() as u16).to_le_bytes());
    out.extend_from_slice(comment);
    out
}

/// The extra fields of the local header at the beginning of `file[place..]` and its length.
///
/// # Errors
/// What reading answers; `InvalidData` when there is no local header.
pub(super) fn local_extra(file: &std::fs::File, place: u64) -> std::io::Result<(Vec<u8>, usize)> {
    use std::os::unix::fs::FileExt;
    let mut fixed = [0; LOCAL_BYTES];
    file.read_exact_at(&mut fixed, place)?;
    if fixed[..4] != LOCAL_SIGNATURE {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a member has no local header"));
    }
    let (name, extra) = (usize::from(u16_at(&fixed, 26)), usize::from(u16_at(&fixed, 28)));
    let mut bytes = vec![0; extra];
    file.read_exact_at(&mut bytes, place + (LOCAL_BYTES + name) as u64)?;
    Ok((bytes, LOCAL_BYTES + name + extra))
}

#[cfg(test)]
mod tests {
    use super::super::MemberId;
    use super::*;

    /// Bytes of the extra fields in the record of a member with a foreign field of `foreign` bytes and so many steps, as the
    /// record says and as there are, and whether steps are among them.
    #[track_caller]
    fn check(foreign: usize, steps: usize, expect: (bool, bool)) {
        let id = MemberId(7);
        let mut others = Vec::new();
        field(ExtraFieldId::new(0x4242), &vec![1; foreign], &mut others);
        let offsets = (1..=steps as u64).collect();
        let ours = Ours { id: Some(id), path: Some(vec![0xff; 16_000]), ..Ours::default() };
        let mut head = Head::new(b"name".to_vec(), libc::S_IFREG, 0, (0, 0), ours);
        head.ours.steps = (steps > 0).then_some(Steps { log2: 20, offsets });
        head.extra = (others.clone(), others);
        let bytes = [head.central(0, 30), b"PK".to_vec()].concat();
        let record = Central::read(&bytes).unwrap();
        assert_eq!(
            CENTRAL_BYTES + record.name.len() + record.extra.len() + 2,
            bytes.len(),
            "a length that is not true"
        );
        let found = Ours::read(record.extra);
        assert_eq!((found.id, stamp(record.extra)), (Some(id), Some(0)), "what is ours is there");
        let has_foreign = ExtraFields::new(record.extra).any(|(id, _)| id.as_u16() == 0x4242);
        assert_eq!((has_foreign, found.steps.is_some()), expect);
        let local = head.local();
        assert_eq!(LOCAL_BYTES + 4 + usize::from(u16_at(&local, 28)), local.len());
    }

    #[test]
    fn extra_fields_never_have_more_bytes_than_their_length_says() {
        check(100, 10, (true, true));
        check(49_000, 0, (true, false));
        check(65_494, 0, (false, false));
        check(40_000, 12_000, (false, true));
        check(100, 16_000, (true, false));
    }
}
