//! What a power cut leaves of a stage, on a disk that writes nothing but what it is asked for.

use super::any::me;
use crate::archive::reflink::Disk;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use wizefs_fs::lz::{Archive, Edit, Edits, NewMember, Source};
use wizefs_fs::vfs::{Fh, Ino, ReadFs, Vfs};
use wizefs_fs::{BucketOptions, BucketPath, Durability, LzBucket, MemorySink};

/// The bucket of the archive `a.zip` on a disk, for a node on another one.
fn open(disk: &Disk, state: &Path) -> Arc<LzBucket> {
    let (backing, state, durability) = (disk.at().join("a.zip"), state.to_owned(), Durability::Relaxed);
    let options = BucketOptions { backing, state, adopted: true, exclusive: false, read_only: false, durability };
    LzBucket::open(options, Arc::<MemorySink>::default()).unwrap().0
}

fn open_file(bucket: &LzBucket, flags: i32) -> Fh {
    let file = bucket.vfs().lookup(Ino::ROOT, OsStr::new("f")).unwrap();
    bucket.vfs().open(file.ino, flags, me()).unwrap().fh
}

/// A member of so many bytes is written over in part, and synced.
fn check(disk: &Disk, bytes: usize, data_only: bool) {
    let (path, source) = (BucketPath::new("f").unwrap(), Source::Bytes(vec![1; bytes]));
    let place = disk.at().join("a.zip");
    Archive::create(&place).unwrap();
    let put = Edit::Put(NewMember { path, source, mode: 0o644, mtime_ns: 0, blake3: None });
    Archive::open(&place).unwrap().commit(&Edits(vec![put])).unwrap();
    let states = tempfile::tempdir().unwrap();
    let bucket = open(disk, &states.path().join("before"));
    let fh = open_file(&bucket, libc::O_RDWR);
    assert_eq!(bucket.vfs().write(fh, 5000, b"new", false).unwrap(), 3);
    bucket.vfs().fsync(fh, data_only).unwrap();
    let left = disk.after_power_cut().unwrap();

    let again = open(&left, &states.path().join("after"));
    let mut part = [0; 5];
    again.vfs().read(open_file(&again, libc::O_RDONLY), 4999, &mut part).unwrap();
    assert_eq!(&part, b"\x01new\x01", "{bytes} bytes, {data_only}");
    for bucket in [&again, &bucket] {
        bucket.abandon();
        assert!(bucket.close().is_err());
    }
    drop((bucket, again));
    std::fs::remove_dir_all(disk.at().join("a.zip.lzfs")).unwrap();
    std::fs::remove_file(place).unwrap();
}

#[test]
fn what_is_written_over_and_synced_survives_a_power_cut() {
    let disk = match Disk::new("ext4", "loop,commit=300") {
        Ok(disk) => disk,
        Err(why) => return eprintln!("SKIPPED, no disk with ext4 (this mounts one, as root): {why}"),
    };
    for bytes in [100_000, 5 << 20] {
        check(&disk, bytes, true);
        check(&disk, bytes, false);
    }
}
