//! What a power cut leaves of a stage, on a disk that writes nothing but what it is asked for.

use super::any::me;
use crate::archive::reflink::Disk;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use wizefs_fs::lz::{Archive, Edit, Edits, NewMember, Source};
use wizefs_fs::vfs::{Fh, Ino, ReadFs, Vfs};
use wizefs_fs::{BucketOptions, BucketPath, Durability, FsError, LzBucket, MemorySink};

/// The bucket of the archive `a.zip` on a disk, for a node on another one.
fn open(disk: &Disk, state: &Path) -> Arc<LzBucket> {
    let (backing, state, durability) = (disk.at().join("a.zip"), state.to_owned(), Durability::Relaxed);
    let options = BucketOptions { backing, state, adopted: true, exclusive: false, read_only: false, durability };
    LzBucket::open(options, Arc::<MemorySink>::default()).unwrap().0
}

fn lookup(bucket: &LzBucket, path: &str) -> Result<Ino, FsError> {
    path.split('/').try_fold(Ino::ROOT, |dir, name| Ok(bucket.vfs().lookup(dir, OsStr::new(name))?.ino))
}

fn open_file(bucket: &LzBucket, path: &str, flags: i32) -> Fh {
    bucket.vfs().open(lookup(bucket, path).unwrap(), flags, me()).unwrap().fh
}

fn create(bucket: &LzBucket, dir: &str, name: &str) -> Fh {
    let dir = lookup(bucket, dir).unwrap();
    bucket.vfs().create(dir, OsStr::new(name), 0o644, libc::O_RDWR, me()).unwrap().1.fh
}

fn write(bucket: &LzBucket, fh: Fh, at: u64, text: &[u8]) {
    assert_eq!(bucket.vfs().write(fh, at, text, false).unwrap(), text.len());
}

fn content(bucket: &LzBucket, path: &str) -> Option<Vec<u8>> {
    let ino = lookup(bucket, path).ok()?;
    let mut bytes = vec![0; bucket.vfs().getattr(ino).unwrap().stat.size as usize];
    let fh = open_file(bucket, path, libc::O_RDONLY);
    assert_eq!(bucket.vfs().read(fh, 0, &mut bytes).unwrap(), bytes.len());
    Some(bytes)
}

/// An archive with these members, of so many bytes each, in which `act` is done before the power is cut: what is found then.
fn cut(disk: &Disk, members: &[(&str, usize)], act: impl Fn(&LzBucket), look: impl Fn(&LzBucket)) {
    let place = disk.at().join("a.zip");
    Archive::create(&place).unwrap();
    let put = |&(at, bytes): &(&str, usize)| {
        let (path, source) = (BucketPath::new(at).unwrap(), Source::Bytes(vec![1; bytes]));
        Edit::Put(NewMember { path, source, mode: 0o644, mtime_ns: 0, blake3: None })
    };
    Archive::open(&place).unwrap().commit(&Edits(members.iter().map(put).collect())).unwrap();
    let states = tempfile::tempdir().unwrap();
    let bucket = open(disk, &states.path().join("before"));
    lookup(&bucket, members[0].0.split('/').next().unwrap()).unwrap();
    rustix::fs::syncfs(std::fs::File::open(&place).unwrap()).unwrap();
    act(&bucket);
    let left = disk.after_power_cut().unwrap();

    let again = open(&left, &states.path().join("after"));
    look(&again);
    for bucket in [&again, &bucket] {
        bucket.abandon();
        assert!(bucket.close().is_err());
    }
    drop((bucket, again));
    std::fs::remove_dir_all(disk.at().join("a.zip.lzfs")).unwrap();
    std::fs::remove_file(place).unwrap();
}

/// How a program asks for what it writes to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Asks {
    Fsync,
    Fdatasync,
    AtOpen,
}

/// A member of so many bytes is written over in part, and synced.
fn check_written_over(disk: &Disk, bytes: usize, asks: Asks) {
    let write_over = |bucket: &LzBucket| {
        let fh = open_file(bucket, "f", libc::O_RDWR | if asks == Asks::AtOpen { libc::O_DSYNC } else { 0 });
        write(bucket, fh, 5000, b"new");
        if asks != Asks::AtOpen {
            bucket.vfs().fsync(fh, asks == Asks::Fdatasync).unwrap();
        }
    };
    cut(disk, &[("f", bytes)], write_over, |bucket| {
        assert_eq!(content(bucket, "f").unwrap()[4999..5004], *b"\x01new\x01", "{bytes} bytes, {asks:?}");
    });
}

/// In a folder that was looked into for it, `act` is done; these files are there then, with the bytes 1 but for what was written.
fn check_folder(disk: &Disk, what: &str, act: impl Fn(&LzBucket), expect: &[(&str, &[u8])]) {
    let members = [("d/a", 5000), ("d/b", 5000), ("d/sub/c", 5000)];
    let look_into = |bucket: &LzBucket| {
        lookup(bucket, "d/a").unwrap();
        act(bucket);
    };
    cut(disk, &members, look_into, |bucket| {
        for (path, text) in expect {
            assert_eq!(content(bucket, path).as_deref(), Some(*text), "{what}: {path}");
        }
        for (path, bytes) in members.iter().filter(|(path, _)| expect.iter().all(|(other, _)| other != path)) {
            assert!(content(bucket, path) == Some(vec![1; *bytes]), "{what}: {path}");
        }
    });
}

/// A disk, or why there is none.
fn with_disk(kind: &str, options: &str, check: impl FnOnce(&Disk)) {
    match Disk::new(kind, options) {
        Ok(disk) => check(&disk),
        Err(why) => eprintln!("SKIPPED, no disk with {kind} (this mounts one, as root, with mkfs.{kind}): {why}"),
    }
}

#[test]
fn what_is_written_over_and_synced_survives_a_power_cut() {
    with_disk("ext4", "loop,commit=300", |disk| {
        for bytes in [100_000, 40 << 20] {
            for asks in [Asks::Fsync, Asks::Fdatasync, Asks::AtOpen] {
                check_written_over(disk, bytes, asks);
            }
        }
    });
}

#[test]
fn a_folder_in_which_something_is_synced_survives_a_power_cut() {
    let sync = |bucket: &LzBucket, fh: Fh| bucket.vfs().fsync(fh, false).unwrap();
    let sync_folder = |bucket: &LzBucket| {
        let fh = bucket.vfs().opendir(lookup(bucket, "d").unwrap()).unwrap();
        bucket.vfs().fsyncdir(fh).unwrap();
    };
    let make = |bucket: &LzBucket, dir: &str| {
        let fh = create(bucket, dir, "new");
        write(bucket, fh, 0, b"new");
        sync(bucket, fh);
    };
    for (kind, options) in [("btrfs", "loop,commit=300"), ("ext4", "loop,commit=300"), ("xfs", "loop")] {
        with_disk(kind, options, |disk| {
            check_folder(disk, "nothing", |bucket| sync_folder(bucket), &[]);
            check_folder(disk, "a new file", |bucket| make(bucket, "d"), &[("d/new", b"new")]);
            check_folder(disk, "one below", |bucket| make(bucket, "d/sub"), &[("d/sub/new", b"new")]);
            let both = |bucket: &LzBucket| {
                make(bucket, "d");
                sync_folder(bucket);
            };
            check_folder(disk, "both", both, &[("d/new", b"new")]);
            let empty = |bucket: &LzBucket| {
                let fh = open_file(bucket, "d/a", libc::O_WRONLY | libc::O_TRUNC);
                bucket.vfs().fsync(fh, true).unwrap();
            };
            check_folder(disk, "emptied", empty, &[("d/a", b"")]);
            let replace = |bucket: &LzBucket| {
                let fh = open_file(bucket, "d/b", libc::O_WRONLY | libc::O_TRUNC);
                write(bucket, fh, 0, b"other");
                sync(bucket, fh);
            };
            check_folder(disk, "written", replace, &[("d/b", b"other")]);
            let mut over = vec![1; 5000];
            over[10..13].copy_from_slice(b"new");
            let write_over = |bucket: &LzBucket| {
                let fh = open_file(bucket, "d/b", libc::O_RDWR);
                write(bucket, fh, 10, b"new");
                sync(bucket, fh);
            };
            check_folder(disk, "written over", write_over, &[("d/b", &over)]);
            let path = BucketPath::new("d/sub/more/put").unwrap();
            let put = |bucket: &LzBucket| assert_eq!(bucket.put(&path, None, &mut &b"put"[..]).unwrap().size, 3);
            // Whether it is there then is for the node to see to, which syncs the disk before it says so.
            check_folder(disk, "put", put, &[]);
        });
    }
}
