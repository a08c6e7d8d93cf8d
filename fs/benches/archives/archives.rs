//! The archives that are measured.

use crate::Result;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Members of one directory.
const PER_DIRECTORY: u32 = 1000;

/// An archive of `count` small stored members, a thousand in each directory.
pub(crate) fn many(place: &Path, count: u32) -> Result<()> {
    let mut file = BufWriter::new(File::create(place)?);
    let mut directory = Vec::new();
    let mut at = 0_u32;
    for number in 0..count {
        let name = format!("directory-{:04}/member-{number:07}.txt", number / PER_DIRECTORY);
        let content = name.as_bytes();
        let mut head = Vec::new();
        for field in [20_u16, 0, 0, 0, 0x5A21] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        let size = content.len() as u32;
        for field in [crc32fast::hash(content), size, size] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        head.extend_from_slice(&(name.len() as u16).to_le_bytes());
        head.extend_from_slice(&[0, 0]);
        for part in [b"PK\x03\x04", &head[..], name.as_bytes(), content] {
            file.write_all(part)?;
        }
        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend_from_slice(&head);
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(0o100_644_u32 << 16).to_le_bytes());
        directory.extend_from_slice(&at.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        at += 30 + 2 * size;
    }
    file.write_all(&directory)?;
    // The record and locator of zip64, for more members than the old record can count.
    let (total, bytes) = (u64::from(count), directory.len() as u64);
    let end = u64::from(at) + bytes;
    let zip64: [&[u8]; 8] = [
        b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\x03\x2d\0\0\0\0\0\0\0\0\0",
        &total.to_le_bytes(),
        &total.to_le_bytes(),
        &bytes.to_le_bytes(),
        &u64::from(at).to_le_bytes(),
        b"PK\x06\x07\0\0\0\0",
        &end.to_le_bytes(),
        &[1, 0, 0, 0],
    ];
    for part in zip64 {
        file.write_all(part)?;
    }
    file.write_all(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0")?;
    Ok(file.flush()?)
}

/// An archive of one member of `mib` MiB of numbers in words, made by Info-ZIP.
pub(crate) fn one(dir: &Path, method: &str, mib: u64) -> Result<PathBuf> {
    let member = dir.join("member");
    let mut file = BufWriter::new(File::create(&member)?);
    let mut state = 1_u64;
    let mut left = usize::try_from(mib << 20)?;
    while left > 0 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let line = format!("{} is {:x} of it\n", state >> 44, state >> 50);
        let part = line.len().min(left);
        file.write_all(&line.as_bytes()[..part])?;
        left -= part;
    }
    file.flush()?;
    let archive = dir.join(format!("{method}.zip"));
    let level = if method == "stored" { "-0" } else { "-6" };
    let packed = Command::new("zip").args(["-q", "-j", level]).arg(&archive).arg(&member).status()?;
    assert!(packed.success(), "zip failed");
    std::fs::remove_file(&member)?;
    Ok(archive)
}
