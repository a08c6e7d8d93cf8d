//! Parts of a file against its BLAKE3: bao slices, with groups of 16 KiB (crate bao-tree).
//!
//! A slice is the file's size (u64, little-endian) and then, from the top of the tree, the pairs of inner hashes and the
//! groups of content that the range needs.

use bao_tree::io::BaoContentItem;
use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use std::fs::File;
use std::io::{self, Read};

/// Groups of 2^4 chunks of 1 KiB.
const GROUP: BlockSize = BlockSize::from_chunk_log(4);
/// Bytes of a chunk.
const CHUNK: u64 = 1024;
/// Most bytes of content in a slice: it is made and read in memory.
pub const MOST: u64 = 64 << 20;

fn chunks(first: u64, last: u64) -> ChunkRanges {
    ChunkRanges::from(ChunkNum(first / CHUNK)..ChunkNum(last / CHUNK + 1))
}

/// The slice of bytes `first..=last` of `file`, which has `size` bytes and the BLAKE3 `root`. Reads the whole file.
///
/// # Errors
/// The file cannot be read, or is not what it should be.
pub fn encode(file: &File, root: &[u8; 32], size: u64, first: u64, last: u64) -> io::Result<Vec<u8>> {
    let tree = BaoTree::new(size, GROUP);
    let mut outboard = PreOrderMemOutboard { root: (*root).into(), tree, data: vec![0; tree.outboard_size() as usize] };
    let found = bao_tree::io::sync::outboard(io::BufReader::with_capacity(1 << 20, file), tree, &mut outboard)?;
    if found.as_bytes() != root {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the content changed while it was read"));
    }
    let mut slice = size.to_le_bytes().to_vec();
    encode_ranges_validated(Content(file), &outboard, &chunks(first, last), &mut slice).map_err(io::Error::from)?;
    Ok(slice)
}

/// The bytes `first..=last` that a slice proves of the file with this BLAKE3 and size; none when it proves nothing of it.
pub fn decode(slice: &[u8], root: &[u8; 32], size: u64, first: u64, last: u64) -> Option<Vec<u8>> {
    let (stated, encoded) = slice.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*stated) != size || first > last || last >= size || last - first >= MOST {
        return None;
    }
    let ranges = chunks(first, last);
    let mut content = Vec::new();
    let mut encoded = encoded;
    for item in DecodeResponseIter::new((*root).into(), BaoTree::new(size, GROUP), &mut encoded, &ranges) {
        if let BaoContentItem::Leaf(leaf) = item.ok()? {
            let end = leaf.offset + leaf.data.len() as u64;
            let (from, to) = (leaf.offset.max(first), end.min(last + 1));
            if from < to {
                content.extend_from_slice(&leaf.data[(from - leaf.offset) as usize..(to - leaf.offset) as usize]);
            }
        }
    }
    let whole = content.len() as u64 == last - first + 1 && encoded.read(&mut [0]).is_ok_and(|more| more == 0);
    whole.then_some(content)
}

/// A file read by position.
struct Content<'a>(&'a File);

impl positioned_io::ReadAt for Content<'_> {
    fn read_at(&self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self.0, buf, pos)
    }
}

/// Bytes and texts that chance makes, for tests: `WIZEFS_TEST_CASES` says how many, `WIZEFS_TEST_SEED` repeats them.
#[cfg(test)]
pub(crate) mod fuzzed {
    /// Chance that its seed repeats (SplitMix64).
    pub(crate) struct Random(u64);

    /// One for each case.
    pub(crate) fn cases(usual: u64) -> impl Iterator<Item = Random> {
        let parameter = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let seed = parameter("WIZEFS_TEST_SEED").unwrap_or_else(|| std::process::id().into());
        println!("WIZEFS_TEST_SEED={seed}");
        let count = parameter("WIZEFS_TEST_CASES").unwrap_or(usual);
        (0..count).map(move |case| Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(case << 20)))
    }

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        /// Less than `end`.
        pub(crate) fn below(&mut self, end: usize) -> usize {
            (self.next() % end as u64) as usize
        }

        /// Bytes changed, put in and cut out at a few places.
        pub(crate) fn edited(&mut self, good: &[u8]) -> Vec<u8> {
            let mut bytes = good.to_vec();
            for _ in 0..=self.below(4) {
                let at = self.below(bytes.len() + 1);
                let end = (at + self.below(9)).min(bytes.len());
                match self.below(5) {
                    0 | 1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                    2 => drop(bytes.drain(at..end)),
                    3 => drop(bytes.splice(at..at, self.next().to_le_bytes())),
                    4 => bytes.truncate(at),
                    _ => bytes[at..end].fill(0xff),
                }
            }
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(size: u64, first: u64, last: u64) {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let root = *blake3::hash(&bytes).as_bytes();
        let slice = encode(&file, &root, size, first, last).unwrap();
        let expect = &bytes[first as usize..=last as usize];
        assert_eq!(decode(&slice, &root, size, first, last).as_deref(), Some(expect), "{size} {first}-{last}");
        for at in (0..slice.len()).step_by(97) {
            let mut altered = slice.clone();
            altered[at] ^= 1;
            assert_eq!(decode(&altered, &root, size, first, last), None, "byte {at}");
        }
        assert_eq!(decode(&slice[..slice.len() - 1], &root, size, first, last), None);
        assert_eq!(decode(&[&slice[..], &[0]].concat(), &root, size, first, last), None);
        assert_eq!(decode(&slice, &root, size + 1, first, last), None);
        assert_eq!(decode(&slice, &root, size, first, size), None);
    }

    #[test]
    fn edited_slices_are_refused() {
        let bytes: Vec<u8> = (0..200_000u64).map(|at| (at * 31 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let root = *blake3::hash(&bytes).as_bytes();
        let (size, first, last) = (bytes.len() as u64, 70_000, 70_500);
        let good = encode(&file, &root, size, first, last).unwrap();
        for mut random in fuzzed::cases(20_000) {
            let mut altered = random.edited(&good);
            let range =
                [(first, last), (0, 0), (size - 1, size - 1), (first, u64::MAX), (last, first)][random.below(5)];
            for size in [size, random.next(), u64::MAX, 1 << 40, 0] {
                // What states another size is refused before it is read.
                if let Some(stated) = altered.first_chunk_mut::<8>().filter(|_| range.0 % 2 == 0) {
                    *stated = size.to_le_bytes();
                }
                if let Some(proven) = decode(&altered, &root, size, range.0, range.1) {
                    // What is proven is what is there, whatever else the slice says.
                    assert_eq!(proven, bytes[range.0 as usize..=range.1 as usize]);
                }
            }
        }
    }

    #[test]
    fn slices_prove_their_range_and_nothing_else() {
        check(1, 0, 0);
        check(5, 1, 3);
        check(16_384, 0, 16_383);
        check(100_000, 50_000, 50_001);
        check(3_000_000, 16_384, 40_000);
        check(3_000_000, 2_999_999, 2_999_999);
    }
}
