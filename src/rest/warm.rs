//! Files that were served moments ago. What is read for one of them again is in the kernel's cache: the thread that serves
//! connections may ask for it itself, where it would otherwise wake another one, which takes longer than reading.

use crate::name::BucketName;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use wizefs_fs::BucketPath;

/// So long a file counts as read moments ago, in seconds.
const SECONDS: u32 = 10;
/// Files remembered. Two that share a place take turns, and one of them is served more slowly.
const PLACES: usize = 4_096;

static SERVED: Served = Served([const { AtomicU64::new(0) }; PLACES]);

/// For each place the upper half of a file's hash, and the second it was served in.
struct Served([AtomicU64; PLACES]);

/// A file, and now.
pub(super) struct Visit {
    hash: u64,
    second: u32,
}

impl Visit {
    pub(super) fn of(name: &BucketName, path: &BucketPath) -> Visit {
        // Random, so that nobody can choose names that share a place.
        static START: LazyLock<(RandomState, Instant)> = LazyLock::new(|| (RandomState::new(), Instant::now()));
        let hash = START.0.hash_one((name.as_str(), path.as_bytes()));
        // Never nothing: that is what an empty place has.
        Visit { hash, second: (START.1.elapsed().as_secs() as u32).saturating_add(SECONDS + 1) }
    }

    /// Note it; whether there was one of the same file moments ago.
    pub(super) fn note(&self) -> bool {
        self.note_in(&SERVED)
    }

    fn note_in(&self, served: &Served) -> bool {
        let tag = self.hash >> 32 << 32;
        let before = served.0[self.hash as usize % PLACES].swap(tag | u64::from(self.second), Ordering::Relaxed);
        before >> 32 << 32 == tag && self.second.saturating_sub(before as u32) <= SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_file_moments_later_is_another_visit() {
        fn check(visits: &[(u64, u32)], expect: bool) {
            let served = Served([const { AtomicU64::new(0) }; PLACES]);
            let last = visits.iter().map(|&(hash, second)| Visit { hash, second }.note_in(&served)).last();
            assert_eq!(last, Some(expect), "{visits:?}");
        }
        let one = 7 << 32 | 5;
        check(&[(one, 20)], false);
        check(&[(5, SECONDS + 1)], false);
        check(&[(one, 20), (one, 20 + SECONDS)], true);
        check(&[(one, 20), (one, 21 + SECONDS)], false);
        let same_place = 8 << 32 | 5;
        check(&[(one, 20), (same_place, 20)], false);
        check(&[(one, 20), (same_place, 20), (one, 20)], false);
    }
}
