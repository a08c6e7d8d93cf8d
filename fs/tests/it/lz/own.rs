//! What only an archive has: content that comes behind its writer, and things that it cannot hold.

use super::any::me;
use super::driver::{Driver, Lost};
use crate::archive::{noise, put};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;
use wizefs_fs::lz::{Archive, Edits};
use wizefs_fs::vfs::{CopyRange, Fh, SetAttr, SetTime};
use wizefs_fs::{AnyBucket, BucketOptions, Durability, FsError, LzBucket, MemorySink};

/// Bytes of a file whose content comes behind, which takes a while.
const BIG: usize = 48 << 20;

/// As many bytes, which can be packed.
fn content(seed: u32) -> Vec<u8> {
    (0..BIG as u32 / 4).flat_map(|i| ((i / 5) ^ seed).to_le_bytes()).collect()
}

/// A bucket whose file `big` is in the archive alone.
fn with_big() -> Driver {
    let driver = Driver::new();
    driver.write("big", &content(1)).unwrap();
    driver.reopen()
}

/// Its content is coming, and its first byte is written.
fn begin(driver: &Driver, flags: i32) -> Fh {
    let fh = driver.open_file("big", flags).unwrap();
    driver.write_fh(fh, 0, b"X");
    fh
}

fn read_fh(driver: &Driver, fh: Fh, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    let read = driver.vfs.read(fh, 0, &mut bytes).map_err(|e| e.errno())?;
    bytes.truncate(read);
    Ok(bytes)
}

pub(super) fn read(driver: &Driver, path: &str) -> Result<Vec<u8>, Errno> {
    let fh = driver.open_file(path, libc::O_RDONLY)?;
    let bytes = read_fh(driver, fh, 2 * BIG);
    driver.close(fh);
    bytes
}

#[test]
fn a_big_file_emptied_while_its_content_comes_has_what_was_written_then() {
    let driver = with_big();
    let fh = begin(&driver, libc::O_WRONLY);
    driver.close(fh);
    driver.write("big", &content(2)).unwrap();
    driver.assert_told_is_there();
    let driver = driver.reopen();
    assert!(read(&driver, "big").unwrap() == content(2));
    driver.assert_told_is_there();
}

#[test]
fn a_time_set_while_the_content_comes_stays() {
    let driver = with_big();
    let fh = begin(&driver, libc::O_WRONLY);
    driver.close(fh);
    let time = 978_307_200_000_000_000;
    driver.set("big", SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() }).unwrap();
    driver.sync();
    assert_eq!(driver.lookup("big").unwrap().stat.mtime_ns, time);
    let driver = driver.reopen();
    assert_eq!(driver.lookup("big").unwrap().stat.mtime_ns, time);
}

#[test]
fn what_is_copied_from_a_file_whose_content_comes_is_its_content() {
    let driver = with_big();
    let from = begin(&driver, libc::O_RDWR);
    let to = driver.create("copy").unwrap();
    let at = BIG - 1000;
    let copied = driver.vfs.copy_file_range(CopyRange { from: (from, at as u64), to: (to, 0), len: 1000 }).unwrap();
    driver.close(from);
    driver.close(to);
    assert_eq!(copied, 1000);
    assert_eq!(read(&driver, "copy").unwrap(), &content(1)[at..]);
    driver.assert_told_is_there();
}

#[test]
fn a_file_without_a_name_that_is_known_keeps_its_content() {
    let driver = Driver::new();
    driver.write("f", b"content").unwrap();
    driver.write("g", b"another").unwrap();
    let driver = driver.reopen();
    let ino = driver.lookup("f").unwrap().ino;
    driver.unlink("f").unwrap();
    driver.sync();
    let again = |flags: i32| driver.vfs.open(ino, flags, me()).map(|opened| opened.fh);
    let fh = again(libc::O_RDONLY).unwrap();
    assert_eq!(read_fh(&driver, fh, 100).unwrap(), b"content");
    driver.close(fh);
    let fh = again(libc::O_RDWR).unwrap();
    driver.write_fh(fh, 0, b"C");
    assert_eq!(read_fh(&driver, fh, 100).unwrap(), b"Content");
    driver.close(fh);
    driver.vfs.forget(ino, 1);
    driver.assert_told_is_there();
    assert_eq!(read(&driver.reopen(), "g").unwrap(), b"another");
}

#[test]
fn names_that_look_like_those_of_the_node_are_the_users() {
    let driver = Driver::new();
    let names: Vec<String> = (0..60).map(|i| format!(".wizefs-moving-{i}")).collect();
    for name in names.iter().map(String::as_str).chain([".wizefs-put-mine", ".wizefs-put-0123456789abcdeF", "a", "b"]) {
        driver.write(name, name.as_bytes()).unwrap();
    }
    driver.assert_told_is_there();
    let driver = driver.reopen();
    driver.rename("a", "b", RenameFlags::EXCHANGE).unwrap();
    driver.assert_told_is_there();
    let driver = driver.reopen();
    assert_eq!(read(&driver, "a").unwrap(), b"b");
    assert_eq!(read(&driver, ".wizefs-put-mine").unwrap(), b".wizefs-put-mine");
}

#[test]
fn what_is_too_deep_is_refused_and_the_archive_goes_on() {
    let driver = Driver::new();
    let deep = |levels: usize| vec!["d"; levels].join("/");
    (1..255).for_each(|levels| driver.mkdir(&deep(levels)).unwrap());
    let bottom = deep(254);
    driver.write(&format!("{bottom}/f"), b"1").unwrap();
    driver.mkdir(&format!("{bottom}/e")).unwrap();
    let below = format!("{bottom}/e/x");
    assert_eq!(driver.mkdir(&below), Err(Errno::NAMETOOLONG));
    assert_eq!(driver.write(&below, b"1"), Err(Errno::NAMETOOLONG));
    assert_eq!(driver.symlink(&below, "t"), Err(Errno::NAMETOOLONG));
    assert_eq!(driver.put(&below, b"1"), Err(Errno::NAMETOOLONG));
    driver.mkdir("t").unwrap();
    driver.mkdir("t/t").unwrap();
    assert_eq!(driver.mv("d", "t/d"), Err(Errno::NAMETOOLONG));
    assert_eq!(driver.rename("t", "d/d", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(driver.rename("d/d", "t", RenameFlags::EXCHANGE), Ok(()));
    driver.assert_told_is_there();
    let driver = driver.reopen();
    assert_eq!(driver.mv("d", "t/d"), Err(Errno::NAMETOOLONG), "where nobody has looked");
    driver.assert_told_is_there();
}

#[test]
fn a_stage_with_longer_paths_than_the_kernel_takes_is_taken_up() {
    let driver = Driver::new();
    let name = "n".repeat(250);
    let path = |levels: usize| vec![name.as_str(); levels].join("/");
    (1..=20).for_each(|levels| driver.mkdir(&path(levels)).unwrap());
    driver.sync();
    let driver = driver.crash("boot", Lost::default());
    assert!(driver.lookup(&path(20)).is_ok());
    driver.assert_told_is_there();
}

#[test]
fn what_is_in_a_folder_that_nobody_looked_into_stays_known_over_many_sessions() {
    let mut driver = Driver::new();
    driver.mkdir("a").unwrap();
    driver.mkdir("a/d").unwrap();
    driver.write("a/d/f", b"1").unwrap();
    for _ in 0..3 {
        driver = driver.reopen();
        driver.lookup("a").unwrap();
    }
    driver.append("a/d/f", b"2").unwrap();
    assert_eq!(driver.told().last().unwrap(), "put a/d/f");
    driver.mv("a/d", "z").unwrap();
    assert_eq!(driver.told().last().unwrap(), "rename a/d z");
    driver.assert_told_is_there();
}

#[test]
fn a_file_of_the_user_that_is_named_like_one_of_ours_stays() {
    let driver = Driver::new();
    let name = ".wizefs-put-0123456789abcdef";
    driver.write(name, b"mine").unwrap();
    let driver = driver.reopen();
    assert_eq!(read(&driver, name).unwrap(), b"mine");
    driver.unlink(name).unwrap();
    let driver = driver.reopen();
    assert_eq!(read(&driver, name), Err(Errno::NOENT));
    driver.assert_told_is_there();
}

/// An archive that is changed where it lies, with a few files behind a large one.
fn large(place: &Path) {
    Archive::create(place).unwrap();
    let large = put("large", &noise(1, 9 << 20));
    Archive::open(place).unwrap().commit(&Edits(vec![large, put("a", b"a"), put("b", b"b")])).unwrap();
}

#[test]
fn what_moved_over_another_stays_where_the_disk_does_not_take_a_note() {
    let driver = Driver::on(large);
    driver.mv("a", "b").unwrap();
    // The last thing that a commit in place writes.
    let in_the_way = driver.backing("../left.new");
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(driver.bucket.sync().is_err());
    driver.write("c", b"c").unwrap();
    std::fs::remove_dir(&in_the_way).unwrap();
    driver.sync();
    assert_eq!((read(&driver, "b").unwrap(), read(&driver, "a")), (b"a".to_vec(), Err(Errno::NOENT)));
    let driver = driver.reopen();
    assert_eq!((read(&driver, "b").unwrap(), read(&driver, "c").unwrap()), (b"a".to_vec(), b"c".to_vec()));
}

#[test]
fn an_archive_is_one_buckets_alone_by_whichever_name() {
    let driver = Driver::on(large);
    let folder = tempfile::tempdir().unwrap();
    let is_free = |name: &str| {
        let options = BucketOptions {
            backing: folder.path().join(name),
            state: folder.path().join(format!("state-{name}")),
            adopted: true,
            exclusive: false,
            read_only: false,
            durability: Durability::Relaxed,
        };
        match LzBucket::open(options, Arc::new(MemorySink::default())) {
            Ok((bucket, _)) => bucket.close().is_ok(),
            Err(error) => !matches!(error, FsError::Busy(_)),
        }
    };
    let link = |name: &str| std::fs::hard_link(driver.archive(), folder.path().join(name)).unwrap();
    link("before");
    assert!(!is_free("before"));
    let AnyBucket::Lz(bucket) = &driver.bucket else { panic!("a bucket of another kind") };
    bucket.compact().unwrap();
    link("after");
    assert!(is_free("before") && !is_free("after"), "it is another file now");
}
