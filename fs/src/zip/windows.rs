//! The content before noted places, 32 KiB each: in a file without a name, so that memory does not bound how many places a
//! large member has; packed in memory where there can be no such file, or must not be.

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How far deflate refers back.
pub(crate) const REACH_BYTES: usize = 32 * 1024;
/// Most bytes in memory.
const MEMORY_BYTES: usize = 40 * 1024 * 1024;
/// Most bytes in the file ...
const FILE_BYTES: u64 = 512 * 1024 * 1024;
/// ... and at most this part of what the disk has free.
const FREE_PART: u64 = 16;

/// Where windows are kept.
#[derive(Debug, Clone)]
pub(crate) struct Windows(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes of windows and places in memory.
    held: AtomicUsize,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
enum Slots {
    /// Not needed so far; the directory for the file.
    Untouched(PathBuf),
    Open {
        file: Arc<File>,
        free: Vec<u32>,
        /// The first that was never used.
        next: u32,
        most: u32,
    },
    /// Everything is kept in memory.
    Nowhere,
}

/// Content before a place.
#[derive(Debug)]
pub(crate) struct Window {
    windows: Windows,
    kept: Kept,
    /// Bytes of memory, of its place too.
    held: usize,
}

#[derive(Debug)]
enum Kept {
    Packed(Vec<u8>),
    Slot { number: u32, length: usize, file: Arc<File> },
}

impl Windows {
    /// Kept in memory, or once they are `in_dir` in a file there.
    pub(crate) fn new(in_dir: Option<PathBuf>) -> Self {
        let slots = in_dir.map_or(Slots::Nowhere, Slots::Untouched);
        Self(Arc::new(Shared { held: AtomicUsize::new(0), slots: Mutex::new(slots) }))
    }

    /// Keep `bytes`, at most [`REACH_BYTES`], of a place that itself holds `beside` bytes of memory.
    pub(crate) fn keep(&self, bytes: &[u8], beside: usize) -> io::Result<Window> {
        let slot = self.slot(bytes).unwrap_or_else(|error| {
            tracing::debug!(%error, "places of large members are kept in memory");
            *self.0.slots.lock() = Slots::Nowhere;
            None
        });
        let kept = match slot {
            Some(slot) => slot,
            None => {
                let mut packed = zstd::bulk::compress(bytes, 1)?;
                packed.shrink_to_fit();
                Kept::Packed(packed)
            }
        };
        let held = beside
            + match &kept {
                Kept::Packed(packed) => packed.capacity(),
                Kept::Slot { .. } => 0,
            };
        self.0.held.fetch_add(held, Ordering::Relaxed);
        Ok(Window { windows: self.clone(), kept, held })
    }

    fn slot(&self, bytes: &[u8]) -> io::Result<Option<Kept>> {
        let mut slots = self.0.slots.lock();
        if let Slots::Untouched(dir) = &*slots {
            let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?);
            let disk = rustix::fs::fstatvfs(&file)?;
            let bytes = FILE_BYTES.min(disk.f_bavail.saturating_mul(disk.f_frsize) / FREE_PART);
            let most = u32::try_from(bytes / REACH_BYTES as u64).unwrap_or(u32::MAX);
            *slots = Slots::Open { file: Arc::new(file), free: Vec::new(), next: 0, most };
        }
        let Slots::Open { file, free, next, most } = &mut *slots else { return Ok(None) };
        let Some(number) = free.pop().or_else(|| (*next < *most).then_some(*next)) else { return Ok(None) };
        *next = (*next).max(number + 1);
        let file = Arc::clone(file);
        drop(slots);
        file.write_all_at(bytes, u64::from(number) * REACH_BYTES as u64)?;
        Ok(Some(Kept::Slot { number, length: bytes.len(), file }))
    }

    /// Whether some should be given up.
    pub(crate) fn are_too_many(&self) -> bool {
        self.0.held.load(Ordering::Relaxed) > MEMORY_BYTES
    }
}

impl Window {
    /// The content.
    ///
    /// # Errors
    /// What reading the file answers.
    pub(crate) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        match &self.kept {
            Kept::Packed(packed) => zstd::bulk::decompress_to_buffer(packed, out),
            Kept::Slot { number, length, file } => {
                file.read_exact_at(&mut out[..*length], u64::from(*number) * REACH_BYTES as u64)?;
                Ok(*length)
            }
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.windows.0.held.fetch_sub(self.held, Ordering::Relaxed);
        if let (Kept::Slot { number, .. }, Slots::Open { free, .. }) = (&self.kept, &mut *self.windows.0.slots.lock()) {
            free.push(*number);
        }
    }
}
