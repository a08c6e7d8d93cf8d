//! Parts of files of many sizes, whole and damaged.

use super::*;
use crate::content::Outboards;

struct Kept {
    dir: tempfile::TempDir,
    boards: Outboards,
    bytes: Vec<u8>,
    root: [u8; 32],
}

impl Kept {
    fn new(size: usize) -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        let boards = Outboards::new(dir.path().join("outboards")).unwrap();
        let root = boards.hash(7, &Kept::file_in(&dir), size as u64, &mut || true).unwrap().unwrap().blake3;
        assert_eq!(blake3::hash(&bytes), root);
        Kept { dir, boards, bytes, root }
    }

    fn file_in(dir: &tempfile::TempDir) -> File {
        File::open(dir.path().join("f")).unwrap()
    }

    fn open(&self) -> FsResult<Verified> {
        let size = self.bytes.len() as u64;
        Verified::open(Kept::file_in(&self.dir), size, self.root, |file| {
            self.boards.inner_hashes(7, file, size, &self.root)
        })
    }

    /// Everything that comes before the end or a failure; the same, whether the disk may be waited for or not.
    fn part(&self, first: u64, last: u64) -> (Vec<u8>, bool) {
        let got = self.part_by(first, last, Pieces::next_piece);
        let at_once = self.part_by(first, last, |pieces| match pieces.next_piece_at_once() {
            Err(error) if error.errno() == Errno::AGAIN => pieces.next_piece(),
            piece => piece,
        });
        assert!(got == at_once, "{first}-{last}");
        got
    }

    fn part_by(&self, first: u64, last: u64, next: impl Fn(&mut Pieces) -> FsResult<Option<Piece>>) -> (Vec<u8>, bool) {
        let mut pieces = self.open().unwrap().pieces(first, last);
        let mut bytes = Vec::new();
        loop {
            match next(&mut pieces) {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => return (bytes, true),
                Err(FsError::Damaged(_)) => {
                    assert!(next(&mut pieces).unwrap().is_none(), "nothing follows a failure");
                    return (bytes, false);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

const SIZES: [usize; 9] = [1, 16_384, 131_072, 131_073, 147_457, 262_144, 1_000_000, 2_097_152, 3_000_001];

#[test]
fn every_part_of_every_size_is_given_as_it_was_recorded() {
    for size in SIZES {
        let kept = Kept::new(size);
        assert!(kept.open().unwrap().check().is_ok());
        let size = size as u64;
        let places = [0, 1, 16_383, 16_384, 131_071, 131_072, 131_073, size / 2, size - 1];
        for first in places.into_iter().filter(|first| *first < size) {
            for last in places.into_iter().filter(|last| first <= *last && *last < size) {
                let (bytes, whole) = kept.part(first, last);
                assert!(whole && bytes == kept.bytes[first as usize..=last as usize], "{size} {first}-{last}");
            }
        }
        let mut read = Vec::new();
        kept.open().unwrap().reader().read_to_end(&mut read).unwrap();
        assert!(read == kept.bytes);
    }
    assert!(Kept::new(0).open().unwrap().all().next_piece().unwrap().is_none());
}

#[test]
fn no_wrong_byte_is_given() {
    for size in SIZES.into_iter().filter(|size| *size > PIECE_BYTES as usize) {
        let kept = Kept::new(size);
        for at in [0, size / 3, size - 1] {
            let mut wrong = kept.bytes.clone();
            wrong[at] ^= 1;
            std::fs::write(kept.dir.path().join("f"), &wrong).unwrap();
            let (bytes, whole) = kept.part(0, size as u64 - 1);
            assert!(!whole && bytes.len() <= at && kept.bytes.starts_with(&bytes), "{size} at {at}");
            let elsewhere = if at < size / 2 { size as u64 - 1 } else { 0 };
            assert!(kept.part(elsewhere, elsewhere).1, "what is not damaged can be had");
        }
        for length in [size - 1, size + 1] {
            let mut wrong = kept.bytes.clone();
            wrong.resize(length, 0);
            std::fs::write(kept.dir.path().join("f"), &wrong).unwrap();
            assert!(matches!(kept.open(), Err(FsError::Damaged(_))));
        }
    }
    for size in [0, 100] {
        let kept = Kept::new(size);
        for wrong in [vec![0; 100], kept.bytes[..size.saturating_sub(1)].to_vec(), [&kept.bytes[..], b"x"].concat()] {
            let is_wrong = wrong != kept.bytes;
            std::fs::write(kept.dir.path().join("f"), &wrong).unwrap();
            assert_eq!(matches!(kept.open(), Err(FsError::Damaged(_))), is_wrong, "{} for {size}", wrong.len());
        }
    }
}

#[test]
fn lost_or_damaged_inner_hashes_are_made_anew_from_good_content_only() {
    let kept = Kept::new(1_000_000);
    let board = kept.dir.path().join("outboards/0000000000000007");
    std::fs::remove_file(&board).unwrap();
    assert!(kept.open().unwrap().check().is_ok());
    let mut bytes = std::fs::read(&board).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&board, &bytes).unwrap();
    assert!(matches!(kept.open().unwrap().check(), Err(FsError::Damaged(_))));
    assert!(kept.open().unwrap().check().is_ok(), "made anew");
    std::fs::remove_file(&board).unwrap();
    std::fs::write(kept.dir.path().join("f"), vec![1; 1_000_000]).unwrap();
    assert!(matches!(kept.open(), Err(FsError::Damaged(_))));
    assert!(!board.exists());
    assert_eq!(std::fs::read_dir(kept.dir.path().join("outboards/new")).unwrap().count(), 0);
}
