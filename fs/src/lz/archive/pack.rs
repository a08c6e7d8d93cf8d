//! Content on its way into the archive: hashed, and deflated in pieces that know nothing of each other, so that both cores
//! work and a reader can begin at every piece.

use super::format::{DEFLATE, STORED, Steps};
use crate::error::{FsError, FsResult};
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Content of a piece.
pub(super) const PIECE_BYTES: usize = 128 * 1024;
/// Members that are larger are packed in pieces.
pub(super) const WHOLE_MAX: u64 = 256 * 1024;
/// Pieces worked on at once.
const BATCH_PIECES: usize = 32;
/// Most places named in the directory of one member: 4 bytes each.
const STEPS_MAX: u64 = 4000;
/// Deflate must save this part of the content, or it is stored: 1/32.
const SAVING: u64 = 32;

/// Fills a buffer with the content at a place.
type ReadAt<'a> = Box<dyn Fn(u64, &mut [u8]) -> FsResult<()> + Sync + 'a>;

/// Where content comes from.
pub(super) enum Input<'a> {
    File(File),
    Bytes(&'a [u8]),
    /// A member with parts replaced: reads any part.
    Parts(ReadAt<'a>),
}

impl Input<'_> {
    /// Fill `out` with the content at `at`.
    ///
    /// # Errors
    /// `ESTALE` when the file is shorter than it was.
    pub(super) fn fill(&self, at: u64, out: &mut [u8]) -> FsResult<()> {
        match self {
            Self::File(file) => file.read_exact_at(out, at).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => FsError::os("the source became shorter", Errno::STALE),
                _ => error.into(),
            }),
            Self::Bytes(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let part = bytes.get(from..).and_then(|rest| rest.get(..out.len()));
                out.copy_from_slice(part.ok_or(Errno::INVAL)?);
                Ok(())
            }
            Self::Parts(read) => read(at, out),
        }
    }
}

/// What is known of content once it is packed.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub(super) method: u16,
    pub(super) crc: u32,
    pub(super) blake3: [u8; 32],
    pub(super) packed: u64,
    pub(super) steps: Option<Steps>,
}

/// The most bytes that `size` bytes of content become.
pub(super) fn bound(size: u64) -> u64 {
    size + size / 1000 + 1024
}

fn failed(problem: impl std::fmt::Display) -> FsError {
    FsError::os(format!("deflate: {problem}"), Errno::IO)
}

/// One piece; `last` ends the stream, another is brought to a byte and forgets what was before.
///
/// # Errors
/// The engine's.
pub(super) fn deflate(content: &[u8], last: bool) -> FsResult<Vec<u8>> {
    let mut engine = Compress::new(Compression::new(6), false);
    let mut out = Vec::with_capacity(usize::try_from(bound(content.len() as u64)).unwrap_or(usize::MAX));
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Full };
    loop {
        let read = usize::try_from(engine.total_in()).unwrap_or(usize::MAX);
        let room = out.capacity() - out.len();
        let status = engine.compress_vec(&content[read..], &mut out, flush).map_err(failed)?;
        let all_read = engine.total_in() == content.len() as u64;
        let done = if last { status == Status::StreamEnd } else { all_read && out.len() < out.capacity() };
        if done {
            return Ok(out);
        }
        if out.len() == out.capacity() || room == 0 {
            out.reserve(out.capacity().max(1024));
        }
    }
}

/// Content as it is.
pub(super) fn stored(content: &[u8]) -> Packed {
    Packed {
        method: STORED,
        crc: crc32fast::hash(content),
        blake3: blake3::hash(content).into(),
        packed: content.len() as u64,
        steps: None,
    }
}

/// Pack content that fits into memory.
///
/// # Errors
/// The engine's.
pub(super) fn whole(content: &[u8]) -> FsResult<(Packed, Option<Vec<u8>>)> {
    let size = content.len() as u64;
    let mut packed = stored(content);
    let bytes = if content.is_empty() { Vec::new() } else { deflate(content, true)? };
    if content.is_empty() || !pays(size, bytes.len() as u64) {
        return Ok((packed, None));
    }
    packed.method = DEFLATE;
    packed.packed = bytes.len() as u64;
    Ok((packed, Some(bytes)))
}

fn pays(size: u64, packed: u64) -> bool {
    packed <= size - size / SAVING && packed < size
}

/// Pack `size` bytes of any amount, handing what comes out to `take` in order.
///
/// # Errors
/// What reading, packing and `take` answer.
pub(super) fn stream(input: &Input<'_>, size: u64, take: &mut dyn FnMut(&[u8]) -> FsResult<()>) -> FsResult<Packed> {
    let log2 = steps_log2(size);
    let mut state = Streaming {
        crc: Hasher::new(),
        blake3: blake3::Hasher::new(),
        written: 0,
        steps: Steps { log2, offsets: Vec::new() },
    };
    let mut deflated = None;
    let mut at = 0;
    let mut batch = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(BATCH_PIECES * PIECE_BYTES)];
    while at < size {
        let count = usize::try_from(size - at).unwrap_or(usize::MAX).min(batch.len());
        let content = &mut batch[..count];
        input.fill(at, content)?;
        state.crc.update(content);
        state.blake3.update(content);
        let last = at + count as u64 == size;
        // A member whose size fits 32 bits while what deflate might make of it does not is stored: its header is as long
        // as was reckoned with.
        let may_deflate = size >= u64::from(u32::MAX) || bound(size) < u64::from(u32::MAX);
        let pieces = if may_deflate && deflated.unwrap_or(true) { Some(deflate_all(content, last)?) } else { None };
        if deflated.is_none() {
            let made = pieces.iter().flatten().map(|piece| piece.len() as u64).sum();
            deflated = Some(pieces.is_some() && pays(count as u64, made));
        }
        match pieces.filter(|_| deflated == Some(true)) {
            Some(pieces) => state.take_pieces(at, &pieces, take)?,
            None => {
                take(content)?;
                state.written += count as u64;
            }
        }
        at += count as u64;
    }
    let deflated = deflated == Some(true);
    Ok(Packed {
        method: if deflated { DEFLATE } else { STORED },
        crc: state.crc.finalize(),
        blake3: state.blake3.finalize().into(),
        packed: state.written,
        steps: deflated.then_some(state.steps),
    })
}

/// Content between two places that the directory names.
fn steps_log2(size: u64) -> u8 {
    let mut log2 = PIECE_BYTES.trailing_zeros() as u8;
    while size >> log2 > STEPS_MAX {
        log2 += 1;
    }
    log2
}

struct Streaming {
    crc: Hasher,
    blake3: blake3::Hasher,
    written: u64,
    steps: Steps,
}

impl Streaming {
    fn take_pieces(
        &mut self,
        mut at: u64,
        pieces: &[Vec<u8>],
        take: &mut dyn FnMut(&[u8]) -> FsResult<()>,
    ) -> FsResult<()> {
        for piece in pieces {
            if at > 0 && at.is_multiple_of(1 << self.steps.log2) {
                self.steps.offsets.push(self.written);
            }
            take(piece)?;
            self.written += piece.len() as u64;
            at += PIECE_BYTES as u64;
        }
        Ok(())
    }
}

/// All pieces of a batch, on all cores.
fn deflate_all(content: &[u8], last: bool) -> FsResult<Vec<Vec<u8>>> {
    let pieces: Vec<&[u8]> = content.chunks(PIECE_BYTES).collect();
    let is_last = |number: usize| last && number + 1 == pieces.len();
    on_all_cores(pieces.len(), &|number| deflate(pieces[number], is_last(number)))
}

/// `work` for each number below `count`, on all cores; results in order.
///
/// # Errors
/// The first that `work` answers.
pub(super) fn on_all_cores<T: Send>(count: usize, work: &(dyn Fn(usize) -> FsResult<T> + Sync)) -> FsResult<Vec<T>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count).min(8);
    if threads <= 1 {
        return (0..count).map(work).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let part = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number >= count {
                return done;
            }
            done.push((number, work(number)));
        }
    };
    let mut results: Vec<(usize, FsResult<T>)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(part)).collect();
        let mut results = part();
        for other in others {
            match other.join() {
                Ok(done) => results.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn inflated(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::DeflateDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    fn text(len: usize) -> Vec<u8> {
        (0_u64..).flat_map(|i| format!("{} ", i * i).into_bytes()).take(len).collect()
    }

    #[test]
    fn pieces_are_one_stream_and_each_can_be_begun_at() {
        for len in [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5_000_000] {
            let content = text(len);
            let mut out = Vec::new();
            let take = &mut |bytes: &[u8]| {
                out.extend_from_slice(bytes);
                Ok(())
            };
            let packed = stream(&Input::Bytes(&content), len as u64, take).unwrap();
            assert_eq!((packed.packed, packed.crc), (out.len() as u64, crc32fast::hash(&content)), "{len}");
            assert_eq!(packed.blake3, *blake3::hash(&content).as_bytes());
            if packed.method == STORED {
                assert_eq!(out, content);
                continue;
            }
            assert_eq!(inflated(&out), content);
            let steps = packed.steps.unwrap();
            assert_eq!(steps.offsets.len(), (len - 1) >> steps.log2);
            for (number, &offset) in steps.offsets.iter().enumerate() {
                let from = (number + 1) << steps.log2;
                assert_eq!(inflated(&out[offset as usize..]), content[from..]);
            }
        }
    }

    #[test]
    fn what_deflate_does_not_make_smaller_is_stored() {
        let mut noise = vec![0; 3_000_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(whole(&noise[..50_000]).unwrap().0.method, STORED);
        let mut out = Vec::new();
        let take = &mut |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        let packed = stream(&Input::Bytes(&noise), 3_000_000, take).unwrap();
        assert_eq!((packed.method, packed.steps), (STORED, None));
        assert_eq!(out, noise);
        assert_eq!(whole(b"").unwrap().0.packed, 0);
        let zeros = vec![0; 100_000];
        let (packed, bytes) = whole(&zeros).unwrap();
        assert_eq!(packed.method, DEFLATE);
        assert_eq!(inflated(&bytes.unwrap()), zeros);
    }
}
