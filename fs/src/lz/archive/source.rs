//! Where the content of new members is read from.

use super::pack::{self, Input, Packed};
use super::patch::Patch;
use super::{Archive, CHUNK_BYTES, MemberId, NewMember, Source};
use crate::error::{FsError, FsResult};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much `source` holds.
pub(super) fn size(source: &Source) -> FsResult<u64> {
    match source {
        Source::Bytes(bytes) => Ok(bytes.len() as u64),
        Source::Patched { size, .. } => Ok(*size),
        Source::File(path) => {
            let found = std::fs::metadata(path).map_err(|e| FsError::os(path.display().to_string(), e))?;
            Ok(found.len())
        }
    }
}

/// The content of a source.
pub(super) fn input<'a>(archive: &'a Archive, source: &'a Source) -> FsResult<Input<'a>> {
    match source {
        Source::File(path) => {
            let file = File::open(path).map_err(|e| FsError::os(path.display().to_string(), e))?;
            Ok(Input::File(file))
        }
        Source::Bytes(bytes) => Ok(Input::Bytes(bytes)),
        Source::Patched { base, file, dirty, size: _ } => {
            let patch = File::open(file).map_err(|e| FsError::os(file.display().to_string(), e))?;
            let before = archive.member(*base).ok_or(Errno::NOENT)?.size;
            Ok(Input::Parts(Box::new(move |at, out| patched(archive, *base, before, &patch, dirty, at, out))))
        }
    }
}

/// Pack `size` bytes of the source of `new` in pieces, handing what comes out to `take`.
///
/// # Errors
/// What reading, packing and `take` answer.
pub(super) fn pack(
    archive: &Archive,
    new: &NewMember,
    size: u64,
    take: &mut dyn FnMut(&[u8]) -> FsResult<()>,
) -> FsResult<Packed> {
    let input = input(archive, &new.source)?;
    // Without a hash all content must be read anyhow.
    if let (Source::Patched { base, file, dirty, .. }, Some(blake3)) = (&new.source, new.blake3)
        && let Some(patch) = Patch::of(archive, *base, dirty, size)?
    {
        let packed = patch.pack(&input, blake3, take)?;
        // The hash is that of the file, which what was put together must be.
        if packed.crc != checksum(file)? {
            return Err(FsError::os("a file that is not the member with those parts replaced", Errno::STALE));
        }
        return Ok(packed);
    }
    pack::stream(&input, size, take)
}

/// CRC-32 of a file.
fn checksum(path: &Path) -> FsResult<u32> {
    let mut file = File::open(path).map_err(|e| FsError::os(path.display().to_string(), e))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut crc = crc32fast::Hasher::new();
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc.finalize()),
            count => crc.update(&buffer[..count]),
        }
    }
}

/// A part of a member with parts replaced.
fn patched(
    archive: &Archive,
    base: MemberId,
    before: u64,
    patch: &File,
    dirty: &[std::ops::Range<u64>],
    at: u64,
    out: &mut [u8],
) -> FsResult<()> {
    let end = at + out.len() as u64;
    let mut here = at;
    let mut next = dirty.partition_point(|range| range.end <= at);
    while here < end {
        let range = dirty.get(next).filter(|range| range.start < end);
        let until = range.map_or(end, |range| if here < range.start { range.start } else { range.end.min(end) });
        let part = &mut out[(here - at) as usize..(until - at) as usize];
        if range.is_some_and(|range| range.start <= here) {
            patch.read_exact_at(part, here)?;
            next += 1;
        } else {
            let mut filled = 0;
            part.fill(0);
            while filled < part.len() && here + (filled as u64) < before {
                match archive.read(base, here + filled as u64, &mut part[filled..])? {
                    0 => break,
                    read => filled += read,
                }
            }
        }
        here = until;
    }
    Ok(())
}
