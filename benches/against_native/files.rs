//! Work of one program on large and small files.

use crate::Result;
use crate::work::Job;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Small files stand in directories of this many.
const FILES_PER_DIRECTORY: u64 = 1_000;

fn large(job: &Job<'_>) -> PathBuf {
    job.dir.join("large")
}

pub(crate) fn write_blocks(job: &Job<'_>) -> Result<u64> {
    let content: Vec<u8> = (0..MIB).map(|i| (i * 31 % 251) as u8).collect();
    let mut file = File::create(large(job))?;
    for _ in 0..job.load.large_mib {
        file.write_all(&content)?;
    }
    file.sync_all()?;
    Ok(job.load.large_mib as u64)
}

/// A large file, wholly in the kernel's cache.
pub(crate) fn make_large(job: &Job<'_>) -> Result<()> {
    write_blocks(job)?;
    read_blocks(job).map(drop)
}

pub(crate) fn read_blocks(job: &Job<'_>) -> Result<u64> {
    let mut buffer = vec![0; MIB];
    let mut file = File::open(large(job))?;
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => total += n,
        }
    }
    if total != job.load.large_mib * MIB {
        return Err(format!("read {total} bytes of {} MiB", job.load.large_mib).into());
    }
    Ok(job.load.large_mib as u64)
}

/// Offsets of blocks all over the large file, the same in every place (xorshift).
fn places(job: &Job<'_>) -> impl Iterator<Item = u64> + use<> {
    let blocks = (job.load.large_mib * MIB / BLOCK) as u64;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..job.load.random).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % blocks * BLOCK as u64
    })
}

pub(crate) fn read_random(job: &Job<'_>) -> Result<u64> {
    let file = File::open(large(job))?;
    let mut buffer = [0; BLOCK];
    for offset in places(job) {
        file.read_exact_at(&mut buffer, offset)?;
    }
    Ok(job.load.random)
}

pub(crate) fn write_random(job: &Job<'_>) -> Result<u64> {
    let file = OpenOptions::new().write(true).open(large(job))?;
    let mut buffer = [0xa5; BLOCK];
    for offset in places(job) {
        buffer[..8].copy_from_slice(&offset.to_le_bytes());
        file.write_all_at(&buffer, offset)?;
    }
    Ok(job.load.random)
}

fn small(dir: &Path, number: u64) -> PathBuf {
    dir.join((number / FILES_PER_DIRECTORY).to_string()).join(number.to_string())
}

pub(crate) fn make_small(job: &Job<'_>) -> Result<()> {
    create_small(job).map(drop)
}

/// Create, write and close small files, every one with a content of its own, one after the other.
pub(crate) fn create_small(job: &Job<'_>) -> Result<u64> {
    create_small_files(job.dir, job.load.small_files)
}

pub(crate) fn create_small_files(dir: &Path, files: u64) -> Result<u64> {
    let mut content = [0x5a; BLOCK];
    for number in 0..files {
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir(dir.join((number / FILES_PER_DIRECTORY).to_string()))?;
        }
        content[..8].copy_from_slice(&number.to_le_bytes());
        File::create_new(small(dir, number))?.write_all(&content)?;
    }
    Ok(files)
}

pub(crate) fn read_small(job: &Job<'_>) -> Result<u64> {
    let mut content = [0; BLOCK];
    for number in 0..job.load.small_files {
        File::open(small(job.dir, number))?.read_exact(&mut content)?;
        if content[..8] != number.to_le_bytes() {
            return Err(format!("file {number} has another content").into());
        }
    }
    Ok(job.load.small_files)
}

pub(crate) fn unlink_small(job: &Job<'_>) -> Result<u64> {
    for number in 0..job.load.small_files {
        fs::remove_file(small(job.dir, number))?;
    }
    Ok(job.load.small_files)
}
