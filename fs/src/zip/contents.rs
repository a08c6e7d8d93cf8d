//! Content on demand in bounded memory: blocks that were unpacked, decoders that stand in a member, and places in members
//! where a decoder can begin, noted while reading.

use super::crypt::Locked;
use super::decoder::{Decoder, Place, method};
use super::member::Member;
use super::seen::Seen;
use super::sozip;
use super::windows::Windows;
use lru::LruCache;
use parking_lot::Mutex;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Content unpacked and kept at once: who reads at random waits for what is before his place in its block, and behind it.
const BLOCK_BYTES: usize = 32 * 1024;
/// A member that is no larger is one block.
pub(crate) const SMALL_BYTES: usize = 128 * 1024;
/// Most bytes of unpacked blocks, each with what it takes to find it.
const CACHE_BYTES: usize = 40 * 1024 * 1024;
const BLOCK_BESIDE: usize = 128;
/// Content between two noted places at first; when there are too many, every second one of a member goes.
const SPACING_BYTES: u64 = 256 * 1024;
/// A block of deflate that is this many spacings long is noted within.
const LATE_SPACINGS: u64 = 4;
/// Members with decoders and places.
const MEMBERS_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("invariant: 32 is not 0");
/// Decoders that stand in one member, for programs that read it in several places.
const DECODERS_MAX: usize = 2;
/// Members in which decoders may stand that have much memory each.
const LARGE_MEMBERS: NonZeroUsize = NonZeroUsize::new(4).expect("invariant: 4 is not 0");
/// Blocks passed on the way to another one are kept if they are this near to it.
const KEPT_ON_THE_WAY: u64 = 128;

/// Why content cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Locked(#[from] Locked),
    #[error(transparent)]
    Damaged(#[from] io::Error),
}

type Block = Arc<Vec<u8>>;

struct Cache {
    blocks: LruCache<(u64, u64), Block>,
    bytes: usize,
}

/// What is known of members being read.
pub(crate) struct Contents {
    passphrase: Option<Vec<u8>>,
    cache: Mutex<Cache>,
    members: Mutex<LruCache<u64, Arc<Mutex<InUse>>>>,
    /// Those in which large decoders stand.
    large: Mutex<LruCache<u64, ()>>,
    windows: Windows,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

/// A decoder, and whether its CRC covers the content from the beginning.
struct Standing {
    decoder: Decoder,
    whole: bool,
}

/// A member being read.
struct InUse {
    /// Least recently used first.
    standing: Vec<Standing>,
    /// By place.
    places: Vec<Place>,
    spacing: u64,
    /// What is before the places of all members.
    windows: Windows,
    /// Whether the archive was asked for an index of its own.
    asked: bool,
    /// What was read of one that is not packed.
    seen: Seen,
}

impl Contents {
    /// Of the content that is before noted places, some is kept in a nameless file in `scratch`, but none that is opened with a
    /// passphrase.
    pub(crate) fn new(passphrase: Option<Vec<u8>>, scratch: Option<PathBuf>) -> Self {
        let windows = Windows::new(scratch.filter(|_| passphrase.is_none()));
        Self {
            passphrase,
            cache: Mutex::new(Cache { blocks: LruCache::unbounded(), bytes: 0 }),
            members: Mutex::new(LruCache::new(MEMBERS_MAX)),
            large: Mutex::new(LruCache::new(LARGE_MEMBERS)),
            windows,
        }
    }

    pub(crate) fn passphrase(&self) -> Option<&[u8]> {
        self.passphrase.as_deref()
    }

    /// A decoder at the beginning of `member`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn decoder(&self, member: &Member) -> Result<Decoder, Unreadable> {
        Ok(Decoder::start(member, member.input(self.passphrase())?)?)
    }

    /// Fill `out` with the content from `offset` on; the caller has checked that there is so much.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn read(&self, member: &Member, offset: u64, out: &mut [u8]) -> Result<(), Unreadable> {
        if let Some(section) = member.verbatim().filter(|_| !is_small(member)) {
            section.file.read_exact_at(out, section.at + offset)?;
            return Ok(self.in_use(member.key).lock().seen.read(member, offset, out)?);
        }
        let mut filled = 0;
        while filled < out.len() {
            let at = offset + filled as u64;
            let block_bytes = if is_small(member) { SMALL_BYTES } else { BLOCK_BYTES } as u64;
            let block = self.block(member, at / block_bytes)?;
            let from = (at % block_bytes) as usize;
            let count = block.len().saturating_sub(from).min(out.len() - filled);
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            out[filled..filled + count].copy_from_slice(&block[from..from + count]);
            filled += count;
        }
        Ok(())
    }

    /// Decoders and places of a content that is not where it was, or is gone.
    pub(crate) fn forget(&self, key: u64) {
        self.members.lock().pop(&key);
    }

    /// Decoders and places of all contents.
    pub(crate) fn forget_places(&self) {
        self.members.lock().clear();
    }

    fn cached(&self, key: (u64, u64)) -> Option<Block> {
        self.cache.lock().blocks.get(&key).cloned()
    }

    fn keep(&self, key: (u64, u64), block: &Block) {
        let mut cache = self.cache.lock();
        cache.bytes += held(block);
        if let Some((_, old)) = cache.blocks.push(key, block.clone()) {
            cache.bytes -= held(&old);
        }
        while cache.bytes > CACHE_BYTES
            && let Some((_, old)) = cache.blocks.pop_lru()
        {
            cache.bytes -= held(&old);
        }
    }

    /// A large decoder stands in the member `key`: those of the member that has waited longest go.
    fn keep_few_large(&self, key: u64) {
        let left = self.large.lock().push(key, ()).filter(|(other, ())| *other != key);
        let Some((other, ())) = left else { return };
        let other = self.members.lock().peek(&other).cloned();
        // One that is being read is counted again when its decoder stands; waiting for it might be for ever.
        if let Some(mut in_use) = other.as_ref().and_then(|in_use| in_use.try_lock()) {
            in_use.standing.clear();
        }
    }

    fn block(&self, member: &Member, number: u64) -> Result<Block, Unreadable> {
        let key = (member.key, number);
        if let Some(block) = self.cached(key) {
            return Ok(block);
        }
        if is_small(member) {
            let mut decoder = self.decoder(member)?;
            let mut content = vec![0; member.size as usize];
            let mut filled = 0;
            while filled < content.len() {
                filled += decoder.read(&mut content[filled..], false)?;
            }
            decoder.finish(member, true)?;
            let block = Arc::new(content);
            self.keep(key, &block);
            return Ok(block);
        }
        let in_use = self.in_use(member.key);
        let mut in_use = in_use.lock();
        // Another reader may have come by while this one waited.
        if let Some(block) = self.cached(key) {
            return Ok(block);
        }
        self.unpack(member, number, &mut in_use)
    }

    fn in_use(&self, key: u64) -> Arc<Mutex<InUse>> {
        let mut members = self.members.lock();
        let fresh = || {
            let windows = self.windows.clone();
            let (standing, places) = (Vec::new(), Vec::new());
            let (spacing, asked, seen) = (SPACING_BYTES, false, Seen::default());
            Arc::new(Mutex::new(InUse { standing, places, spacing, windows, asked, seen }))
        };
        members.get_or_insert(key, fresh).clone()
    }

    /// Unpack up to and with block `number`, from the nearest place before it.
    fn unpack(&self, member: &Member, number: u64, in_use: &mut InUse) -> Result<Block, Unreadable> {
        if number > 0 && !in_use.asked {
            in_use.asked = true;
            in_use.places = own_places(member).or_else(|| sozip::places(member)).unwrap_or_default();
        }
        let target = number * BLOCK_BYTES as u64;
        let mut standing = match in_use.nearest(target)? {
            Some(standing) => standing,
            None => Standing { decoder: self.decoder(member)?, whole: true },
        };
        loop {
            let (block, at) = standing.next_block(member, Some(in_use))?;
            let ended = standing.decoder.at == member.size;
            if ended {
                let Standing { decoder, whole } = standing;
                decoder.finish(member, whole)?;
                let block_number = at / BLOCK_BYTES as u64;
                self.keep((member.key, block_number), &block);
                return Ok(block);
            }
            let reached = at / BLOCK_BYTES as u64;
            let aligned = at.is_multiple_of(BLOCK_BYTES as u64);
            if aligned && reached + KEPT_ON_THE_WAY >= number {
                self.keep((member.key, reached), &block);
            }
            if aligned && reached == number {
                let large = standing.decoder.is_large();
                in_use.standing.push(standing);
                if in_use.standing.len() > DECODERS_MAX {
                    in_use.standing.remove(0);
                }
                if large {
                    self.keep_few_large(member.key);
                }
                return Ok(block);
            }
        }
    }
}

/// Bytes of memory that a kept block takes.
fn held(block: &Block) -> usize {
    block.capacity() + BLOCK_BESIDE
}

fn is_small(member: &Member) -> bool {
    member.size <= SMALL_BYTES as u64
}

/// The places that the archive itself has of `member`.
fn own_places(member: &Member) -> Option<Vec<Place>> {
    let steps = member.steps.as_ref().filter(|_| member.method == method::DEFLATE)?;
    let places = (1_u64..).zip(&steps.offsets);
    places.map(|(number, &offset)| Some(Place::named(number << steps.log2, member.input_at(offset)?))).collect()
}

impl Standing {
    /// Content up to the end of the block in which the decoder stands, and where that begins; notes places on the way.
    fn next_block(&mut self, member: &Member, mut notes: Option<&mut InUse>) -> io::Result<(Block, u64)> {
        let begin = self.decoder.at;
        let block_end = (begin / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64;
        let len = (block_end.min(member.size) - begin) as usize;
        let mut block = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let due = notes.as_deref_mut().filter(|_| self.whole).and_then(|notes| notes.note_if_due(&self.decoder));
            filled += self.decoder.read(&mut block[filled..], due.unwrap_or(false))?;
        }
        Ok((Arc::new(block), begin))
    }
}

impl InUse {
    /// The decoder that reaches `target` soonest, taken out or begun at a noted place; none to begin at the beginning.
    fn nearest(&mut self, target: u64) -> io::Result<Option<Standing>> {
        let standing = (0..self.standing.len()).filter(|&i| self.standing[i].decoder.at <= target);
        let best = standing.max_by_key(|&i| self.standing[i].decoder.at);
        let place = self.places.partition_point(|place| place.at <= target).checked_sub(1).map(|i| &self.places[i]);
        match (best, place) {
            (Some(i), place) if place.is_none_or(|place| place.at <= self.standing[i].decoder.at) => {
                Ok(Some(self.standing.remove(i)))
            }
            (_, Some(place)) => {
                let (decoder, whole) = Decoder::resume(place)?;
                Ok(Some(Standing { decoder, whole }))
            }
            (_, None) => Ok(None),
        }
    }

    /// Note the decoder's place when the last noted one is far enough behind. Says whether the decoder should stop at the
    /// next place that can be noted; none when there is nothing to note.
    fn note_if_due(&mut self, decoder: &Decoder) -> Option<bool> {
        let last = self.places.last().map_or(0, |place| place.at);
        let due = last + self.spacing;
        if decoder.at < due {
            return None;
        }
        let late = decoder.at >= last + self.spacing * LATE_SPACINGS;
        if !decoder.can_note(!late) {
            return Some(true);
        }
        let place = decoder.note(&self.windows)?;
        self.places.push(place);
        while self.windows.are_too_many() && self.places.len() > 1 {
            self.thin();
        }
        None
    }

    fn thin(&mut self) {
        let mut number = 0;
        self.places.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        self.spacing = self.spacing.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::{Claim, find};
    use super::*;
    use crate::error::FsResult;
    use std::io::Write;

    /// An archive's only member, with these flags, for everybody who names it `key`.
    fn member(method: u16, flags: u16, content: &[u8], packed: &[u8], key: u64) -> FsResult<Member> {
        let (crc, sizes) = (crc32fast::hash(content), [packed.len() as u32, content.len() as u32]);
        let mut file = tempfile::tempfile().unwrap();
        let fields: [u16; 5] = [20, flags, method, 0, 0x5A21];
        let head = [&b"PK\x03\x04"[..], &fields.map(u16::to_le_bytes).concat(), &crc.to_le_bytes()].concat();
        file.write_all(&[&head[..], &sizes.map(u32::to_le_bytes).concat()[..], &[0; 4], packed].concat()).unwrap();
        let (packed, size) = (packed.len() as u64, content.len() as u64);
        let claim = Claim { place: 0, packed, size, crc, method, encrypted: false, end_of_content: 30 + packed };
        find(&Arc::new(file), &claim, key).map(|(member, _)| member).map_err(|flaw| flaw.of(b"member"))
    }

    #[test]
    fn decoders_with_much_memory_stand_in_few_members() {
        let content: Vec<u8> = (0..200_000_u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&content, 1).unwrap();
        let contents = Contents::new(None, None);
        let members: Vec<Member> =
            (0..20).map(|key| member(method::ZSTD, 0, &content, &packed, key).unwrap()).collect();
        let mut part = [0; 1000];
        for (round, at) in [0, 300_000, 100_000].into_iter().enumerate() {
            for member in &members {
                contents.read(member, at, &mut part).unwrap();
                assert!(part == content[at as usize..at as usize + 1000], "{round}");
            }
        }
        let standing: usize = contents.members.lock().iter().map(|(_, in_use)| in_use.lock().standing.len()).sum();
        assert!(standing > 0 && standing <= LARGE_MEMBERS.get() * DECODERS_MAX, "{standing}");
    }

    #[test]
    fn a_block_of_a_byte_is_not_kept_for_a_byte() {
        let contents = Contents::new(None, None);
        let tiny = Arc::new(vec![0]);
        (0..400_000).for_each(|key| contents.keep((key, 0), &tiny));
        contents.keep((399_999, 0), &tiny);
        let cache = contents.cache.lock();
        assert!(cache.blocks.len() <= CACHE_BYTES / BLOCK_BESIDE && cache.bytes <= CACHE_BYTES, "{}", cache.bytes);
    }

    #[test]
    fn what_is_not_encrypted_is_not_strongly_encrypted() {
        let found = member(method::STORED, 1 << 6, b"plain", b"plain", 0).unwrap();
        let mut content = [0; 5];
        Contents::new(None, None).read(&found, 0, &mut content).unwrap();
        assert_eq!(&content, b"plain");
    }
}
