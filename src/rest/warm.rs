//! Files that were served moments ago, and what was said of them. What is read for one of them again is in the kernel's cache:
//! the thread that serves connections may ask for it itself, where it would otherwise wake another one, which takes longer than
//! reading.

use crate::name::BucketName;
use crate::node::Recorded;
use axum::http::HeaderMap;
use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use wizefs_fs::BucketPath;

/// So long a file counts as served moments ago.
const MOMENTS: Duration = Duration::from_secs(10);
/// Files remembered. Two that share a place take turns, and one of them is served more slowly.
const PLACES: usize = 4_096;

static SERVED: LazyLock<Served> = LazyLock::new(Served::new);

/// What was said of a file.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) recorded: Arc<Recorded>,
    /// The fields of a reply that come from it.
    pub(super) head: HeaderMap,
}

/// A file that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) bucket: BucketName,
    pub(super) path: BucketPath,
}

struct Visit<T> {
    asked: Asked,
    at: Instant,
    said: T,
}

struct Served<T = Arc<Said>> {
    // Random, so that nobody can choose names that share a place.
    hasher: RandomState,
    places: Box<[Mutex<Option<Visit<T>>>]>,
}

impl Asked {
    /// What was said of it moments ago; none if it was not served then.
    pub(super) fn before(&self) -> Option<Arc<Said>> {
        SERVED.before(self, Instant::now())
    }

    /// It is served now.
    pub(super) fn served(self, said: Arc<Said>) {
        SERVED.note(self, Instant::now(), said);
    }
}

impl<T: Clone> Served<T> {
    fn new() -> Served<T> {
        Served { hasher: RandomState::new(), places: (0..PLACES).map(|_| Mutex::default()).collect() }
    }

    fn place(&self, asked: &Asked) -> &Mutex<Option<Visit<T>>> {
        &self.places[self.hasher.hash_one(asked) as usize % PLACES]
    }

    fn before(&self, asked: &Asked, now: Instant) -> Option<T> {
        let place = self.place(asked).lock();
        let same = place.as_ref().filter(|visit| visit.asked == *asked);
        same.filter(|visit| now.saturating_duration_since(visit.at) <= MOMENTS).map(|visit| visit.said.clone())
    }

    fn note(&self, asked: Asked, at: Instant, said: T) {
        let place = self.place(&asked);
        *place.lock() = Some(Visit { asked, at, said });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_file_moments_later_is_remembered() {
        let asked = |bucket: &str, path: &str| Asked {
            bucket: bucket.to_owned().try_into().unwrap(),
            path: BucketPath::new(path).unwrap(),
        };
        let (served, start) = (Served::new(), Instant::now());
        served.note(asked("docs", "a"), start, 1);
        let check = |bucket: &str, path: &str, after: Duration, expect: Option<i32>| {
            assert_eq!(served.before(&asked(bucket, path), start + after), expect, "{bucket}/{path} after {after:?}");
        };
        check("docs", "a", Duration::ZERO, Some(1));
        check("docs", "a", MOMENTS, Some(1));
        check("docs", "a", MOMENTS + Duration::from_millis(1), None);
        check("docs", "b", Duration::ZERO, None);
        check("other", "a", Duration::ZERO, None);
        served.note(asked("docs", "a"), start + MOMENTS, 2);
        check("docs", "a", MOMENTS * 2, Some(2));
        // More files than places: each is remembered as itself or not at all.
        for number in 0..PLACES * 2 {
            served.note(asked("many", &number.to_string()), start, number as i32);
        }
        for number in 0..PLACES * 2 {
            let found = served.before(&asked("many", &number.to_string()), start);
            assert!(found.is_none_or(|found| found == number as i32), "{number}: {found:?}");
        }
    }
}
