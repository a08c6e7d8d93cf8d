//! What the mounts of this process do, counted: plain atomics that whoever serves metrics reads when asked.
//!
//! Times of reads and writes that the kernel does itself (passthrough) are not here: nobody but the kernel sees them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of a histogram's buckets, microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 14] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 10_000_000, 60_000_000];

/// Durations, sorted into [`BOUNDS_US`].
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// A histogram as it was at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Durations in each bucket alone, not in those below as well.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All durations together, microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// With nothing in it.
    pub const fn new() -> Histogram {
        Histogram { counts: [const { AtomicU64::new(0) }; BOUNDS_US.len() + 1], sum_us: AtomicU64::new(0) }
    }

    /// Add a duration.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What is in it now.
    pub fn read(&self) -> Reading {
        let counts = std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed));
        Reading { counts, sum_us: self.sum_us.load(Ordering::Relaxed) }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram::new()
    }
}

/// The operations that are counted, as FUSE names them.
pub const OPERATIONS: [&str; 33] = [
    "access",
    "copy_file_range",
    "create",
    "fallocate",
    "flush",
    "fsync",
    "fsyncdir",
    "getattr",
    "getxattr",
    "ioctl",
    "link",
    "listxattr",
    "lookup",
    "lseek",
    "mkdir",
    "mknod",
    "open",
    "opendir",
    "read",
    "readdir",
    "readdirplus",
    "readlink",
    "release",
    "releasedir",
    "removexattr",
    "rename",
    "rmdir",
    "setattr",
    "setxattr",
    "statfs",
    "symlink",
    "unlink",
    "write",
];

/// How long the answers to the kernel took, in the order of [`OPERATIONS`].
static ANSWERS: [Histogram; OPERATIONS.len()] = [const { Histogram::new() }; OPERATIONS.len()];

/// From the moment a file may be hashed until its change is reported.
pub static SETTLE_LAG: Histogram = Histogram::new();

/// An operation of the kernel was answered.
pub fn answered(operation: &str, took: Duration) {
    if let Ok(at) = OPERATIONS.binary_search(&operation) {
        ANSWERS[at].observe(took);
    }
}

/// How long the answers to each operation took, all mounts of this process together.
pub fn answers() -> impl Iterator<Item = (&'static str, Reading)> {
    OPERATIONS.iter().zip(&ANSWERS).map(|(name, answers)| (*name, answers.read()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_it_fits() {
        fn check(us: u64, bucket: usize) {
            let histogram = Histogram::new();
            histogram.observe(Duration::from_micros(us));
            let Reading { counts, sum_us } = histogram.read();
            assert_eq!((counts.iter().sum::<u64>(), counts[bucket], sum_us), (1, 1, us), "{us}");
        }
        check(0, 0);
        check(10, 0);
        check(11, 1);
        check(60_000_000, 13);
        check(60_000_001, 14);
    }

    #[test]
    fn operations_are_found_by_name() {
        assert!(OPERATIONS.is_sorted());
        let count = || answers().map(|(_, reading)| reading.counts.iter().sum::<u64>()).sum::<u64>();
        let before = count();
        for operation in OPERATIONS {
            answered(operation, Duration::from_micros(1));
        }
        assert!(count() >= before + OPERATIONS.len() as u64);
    }
}
