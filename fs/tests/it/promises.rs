//! What `close`, `fsync` and the barrier promise.

use super::driver::{Driver, me};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use wizefs_fs::vfs::Ino;
use wizefs_fs::{BucketPath, Durability, Evidence, Op, SinkError};

#[test]
fn an_open_file_is_recorded_by_size_and_named_by_the_barrier() {
    let driver = Driver::new();
    let fh = driver.create("a").unwrap();
    driver.write_fh(fh, 0, b"12345");
    let report = driver.bucket.sync().unwrap();
    assert_eq!(report.open_writers, [BucketPath::new("a").unwrap()]);
    assert_eq!(driver.told()[0], "open a");
    driver.close(fh);
    driver.assert_told_is_there();
    assert_eq!(driver.told().last().unwrap(), "put a");
}

#[test]
fn close_waits_for_the_transaction_under_durability_close() {
    let driver = Driver::with(Durability::Close);
    driver.write("a", b"1").unwrap();
    assert_eq!(driver.sink.changes().len(), 1, "recorded when close returns");
    let fh = driver.create("b").unwrap();
    driver.write_fh(fh, 0, b"2");
    driver.fsync(fh);
    assert_eq!(driver.sink.changes().len(), 1, "fsync promises no transaction here");
    driver.close(fh);
    assert_eq!(driver.sink.changes().len(), 2);
}

#[test]
fn fsync_waits_too_under_durability_strict() {
    let driver = Driver::with(Durability::Strict);
    let fh = driver.create("b").unwrap();
    driver.write_fh(fh, 0, b"2");
    driver.fsync(fh);
    let changes = driver.sink.changes();
    let Op::Put(put) = &changes[0].op else { panic!("{changes:?}") };
    assert_eq!(put.evidence, Evidence::OpenWriters);
    driver.close(fh);
    driver.assert_told_is_there();
}

#[test]
fn every_fsync_of_an_overwrite_is_a_transaction_under_durability_strict() {
    let driver = Driver::with(Durability::Strict);
    let fh = driver.create("b").unwrap();
    let changed = || std::fs::metadata(driver.backing("b")).unwrap().ctime_nsec();
    for i in 1..4 {
        // The clock of the disk may tick slowly.
        let before = changed();
        while changed() == before {
            driver.write_fh(fh, 0, b"2");
        }
        driver.fsync(fh);
        assert_eq!(driver.sink.changes().len(), i);
    }
    driver.fsync(fh);
    assert_eq!(driver.sink.changes().len(), 3, "nothing was written");
    driver.close(fh);
    driver.assert_told_is_there();
}

#[test]
fn an_fsync_of_a_directory_waits_for_its_names_under_durability_strict() {
    let driver = Driver::with(Durability::Strict);
    driver.write("a", b"1").unwrap();
    driver.mv("a", "b").unwrap();
    let top = driver.vfs.opendir(Ino::ROOT).unwrap();
    driver.vfs.fsyncdir(top).unwrap();
    assert_eq!(driver.sink.changes().len(), 2);
    driver.unlink("b").unwrap();
    driver.vfs.fsyncdir(top).unwrap();
    assert_eq!(driver.sink.changes().len(), 3);
    driver.vfs.releasedir(top);
}

#[test]
fn who_makes_or_empties_a_file_without_writing_it_has_the_promises_too() {
    for durability in [Durability::Close, Durability::Strict] {
        let driver = Driver::with(durability);
        let flags = libc::O_RDONLY | libc::O_CREAT;
        let (_, made) = driver.vfs.create(Ino::ROOT, "a".as_ref(), 0o644, flags, me()).unwrap();
        driver.close(made.fh);
        assert_eq!(driver.sink.changes().len(), 1, "made: {durability:?}");
        driver.write("a", b"1").unwrap();
        let fh = driver.open_file("a", libc::O_RDONLY | libc::O_TRUNC).unwrap();
        driver.close(fh);
        assert_eq!(driver.sink.changes().len(), 3, "emptied: {durability:?}");
        let fh = driver.open_file("a", libc::O_RDONLY).unwrap();
        driver.truncate("a", 10).unwrap();
        driver.fsync(fh);
        let told = if durability == Durability::Strict { 4 } else { 3 };
        assert!(driver.sink.changes().len() >= told, "synced by who reads: {durability:?}");
        driver.close(fh);
        driver.assert_told_is_there();
    }
}

#[test]
fn a_barrier_does_not_settle_what_is_just_being_created() {
    let driver = Driver::new();
    driver.pass_through();
    let (bucket, ended) = (&driver.bucket, AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                bucket.sync().unwrap();
            }
        });
        for i in 0..2_000 {
            driver.write(&format!("{i}"), b"content").unwrap();
        }
        ended.store(true, Ordering::Relaxed);
    });
    driver.assert_told_is_there();
}

#[test]
fn a_duplicate_that_writes_after_close_is_recorded() {
    let driver = Driver::with(Durability::Close);
    let fh = driver.create("a").unwrap();
    driver.write_fh(fh, 0, b"1");
    driver.vfs_flush(fh);
    driver.write_fh(fh, 1, b"2");
    driver.close(fh);
    driver.assert_told_is_there();
    assert_eq!(driver.told(), ["put a", "put a"]);
}

#[test]
fn a_full_ledger_refuses_new_work_lets_removes_through_and_loses_nothing() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.sync();
    let fh = driver.create("b").unwrap();
    driver.write_fh(fh, 0, b"2");
    driver.sink.set_problem(Some(SinkError::NoSpace("full".into())));
    driver.close(fh);
    assert_eq!(driver.write("c", b"3"), Err(rustix::io::Errno::NOSPC));
    assert_eq!(driver.unlink("a"), Ok(()));
    driver.sink.set_problem(None);
    driver.assert_told_is_there();
    driver.write("c", b"3").unwrap();
    driver.assert_told_is_there();
}

#[test]
fn a_broken_ledger_makes_the_bucket_read_only() {
    let driver = Driver::new();
    driver.write("a", b"1").unwrap();
    driver.sync();
    driver.sink.set_problem(Some(SinkError::Broken("damaged".into())));
    assert_eq!(driver.append("a", b"3"), Err(rustix::io::Errno::ROFS));
    assert!(driver.open_file("a", libc::O_RDONLY).is_ok());
}
